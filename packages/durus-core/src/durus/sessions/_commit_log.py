"""What was committed lately: which oids, in which order, and what their records were before.

A snapshot is a serial number: that of the last commit that it sees. The log answers two questions
about one: which oids have changed since, and what was the record of an oid then. It answers them
for as long as it keeps the commits, and the overwritten records, that came after the snapshot; both
are bounded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Mapping
from itertools import takewhile
from operator import attrgetter

__all__ = ["CommitLog", "LoggedCommit"]

Overwritten = Mapping[bytes, bytes | None]

_SERIAL_OF = attrgetter("serial")


class LoggedCommit:
    """One commit.

    Attributes:
        serial: its place in the order of all commits.
        oids: what it changed.
        overwritten: the records that it replaced, None for an oid that was new; of a pack those
            that snapshots may still reach. None in place of all of them where they are not known
            (any more).
        size_bytes: the length of these records.
        is_pack: it is a pack, and the oids are what that removed.
    """

    __slots__ = ("is_pack", "oids", "overwritten", "serial", "size_bytes")

    def __init__(
        self,
        serial: int,
        oids: Collection[bytes],
        overwritten: Overwritten | None,
        *,
        is_pack: bool = False,
    ) -> None:
        self.serial = serial
        self.oids = oids
        self.overwritten = overwritten
        self.size_bytes = sum(map(len, filter(None, (overwritten or {}).values())))
        self.is_pack = is_pack


class CommitLog:
    """The latest commits, the oldest first.

    Args:
        oid_limit: how many changed oids to keep, counting one again for each commit.
        byte_limit: how many bytes of overwritten records to keep.

    Attributes:
        start: the log knows all commits with higher serials than this.
    """

    def __init__(self, oid_limit: int, byte_limit: int) -> None:
        self.start = 0
        self._oid_limit = oid_limit
        self._byte_limit = byte_limit
        self._commits: deque[LoggedCommit] = deque()
        # What changed an oid: one commit, or several in their order.
        self._by_oid: dict[bytes, LoggedCommit | deque[LoggedCommit]] = {}
        # The serial of what changed an oid last; the latest at the end. Some clients never sync,
        # and each of their commits asks: it must not cost them a walk over the commits of others.
        self._last_changes: dict[bytes, int] = {}
        self._oid_count = 0
        self._pack_count = 0
        # Those whose overwritten records are here.
        self._with_records: deque[LoggedCommit] = deque()
        self._byte_count = 0

    def add(self, commit: LoggedCommit) -> None:
        """Add the newest commit, and forget what goes beyond the limits."""
        self._commits.append(commit)
        self._pack_count += commit.is_pack
        by_oid = self._by_oid
        again = by_oid.keys() & commit.oids
        for oid in again:
            earlier = by_oid[oid]
            if isinstance(earlier, LoggedCommit):
                earlier = by_oid[oid] = deque((earlier,))
            earlier.append(commit)
        first = commit.oids if not again else set(commit.oids) - again
        by_oid.update(dict.fromkeys(first, commit))
        last_changes = self._last_changes
        for oid in again:
            del last_changes[oid]
        last_changes.update(dict.fromkeys(commit.oids, commit.serial))
        self._oid_count += len(commit.oids)
        if commit.overwritten is not None:
            self._with_records.append(commit)
            self._byte_count += commit.size_bytes
        while self._oid_count > self._oid_limit:
            self._forget_oldest()
        while self._byte_count > self._byte_limit:
            self._forget_records(self._with_records.popleft())

    def forget_until(self, serial: int) -> None:
        """Forget the commits that every snapshot sees."""
        while self._commits and self._commits[0].serial <= serial:
            self._forget_oldest()

    def forget_all(self, serial: int) -> None:
        """Know nothing of what came up to a serial number, higher than all of the commits."""
        while self._commits:
            self._forget_oldest()
        self.start = serial

    def oids_since(self, serial: int) -> set[bytes] | None:
        """Give the oids that changed after a snapshot, or None if that is no longer known."""
        if serial < self.start:
            return None
        changes = reversed(self._last_changes.items())
        return {oid for oid, _ in takewhile(lambda change: change[1] > serial, changes)}

    def stored_since(self, serial: int) -> set[bytes]:
        """Give the oids that commits stored after a snapshot, as far as that is known."""
        return self._oids_since(serial, is_pack=False)

    def removed_since(self, serial: int) -> set[bytes]:
        """Give the oids that packs removed after a snapshot, as far as that is known."""
        return self._oids_since(serial, is_pack=True) if self._pack_count else set()

    def _oids_since(self, serial: int, *, is_pack: bool) -> set[bytes]:
        oids: set[bytes] = set()
        for commit in reversed(self._commits):
            if commit.serial <= serial:
                break
            if commit.is_pack == is_pack:
                oids.update(commit.oids)
        return oids

    def first_change(self, oid: bytes, serial: int) -> LoggedCommit | None:
        """Give the first commit after a snapshot that changed an oid: what it replaced is in it."""
        commits = self._by_oid.get(oid)
        if commits is None:
            return None
        if isinstance(commits, LoggedCommit):
            return commits if commits.serial > serial else None
        at = bisect_right(commits, serial, key=_SERIAL_OF)
        return commits[at] if at < len(commits) else None

    def get_overwritten(self) -> list[bytes]:
        """Give the records that were overwritten or removed, as far as they are here."""
        return [
            record
            for commit in self._with_records
            for record in (commit.overwritten or {}).values()
            if record is not None
        ]

    def _forget_oldest(self) -> None:
        commit = self._commits.popleft()
        self.start = commit.serial
        self._oid_count -= len(commit.oids)
        self._pack_count -= commit.is_pack
        for oid in commit.oids:
            commits = self._by_oid[oid]
            if not isinstance(commits, LoggedCommit):
                commits.popleft()
                if commits:
                    continue
            del self._by_oid[oid]
            del self._last_changes[oid]
        if commit.overwritten is not None:
            self._with_records.popleft()
            self._forget_records(commit)

    def _forget_records(self, commit: LoggedCommit) -> None:
        self._byte_count -= commit.size_bytes
        commit.overwritten = None
