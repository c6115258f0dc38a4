"""Increments of a storage that keeps history: each commit since the piece before.

The present is read in full all the same, and a piece of commits is written only if they lead from
the state of the piece before to the present, record for record. So whatever changed a record and is
no commit, such as somebody's SQL, is found; then the increment is the difference.

That the states between are right is seen where the history begins: each object that a commit
changed was, as of the commit of the piece before, what that piece has. The others did not change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from durus.error import DurusKeyError, StorageError
from durus.storage import check_record
from durus.tools._backup_folder import Piece
from durus.tools._record_pieces import (
    CommitEnd,
    Moment,
    RecordSource,
    State,
    find_record,
    hash_of,
    in_chunks,
    pack_entry,
)

__all__ = ["CommitSource", "HistoryGap"]


class HistoryGap(Exception):
    """The history does not lead from the piece before to the present; the text says why."""


class CommitSource:
    """The commits that are backed up.

    Args:
        records: of which session, and what it was in the piece before.
        last: the piece before.

    Raises:
        HistoryGap: the history does not reach back to that piece.
    """

    method = "commits"

    def __init__(self, records: RecordSource, last: Piece) -> None:
        self._records = records
        self._storage = records.storage
        self._before = _commit_of(last)
        self._commits = self._commits_since(self._before)
        self._state = State(last.end, last.state)
        # The objects that commits changed or packs removed: their hashes, None if they are gone.
        self._now: dict[bytes, bytes | None] = {}
        # What there is now, as far as the storage lists it: perhaps what the root reaches.
        self._present: set[bytes] = set()
        # What is not among it; and what packs removed of that, by the first serial without it.
        self._absent: set[bytes] = set()
        self._removals: defaultdict[int, list[bytes]] = defaultdict(list)
        self._is_changed = False

    def gen_chunks(self) -> Iterator[bytes]:
        """Yield the data of the piece.

        Raises:
            HistoryGap: nothing is to be made of what was yielded.
            StorageError: the session's state is not to be had any more.
        """
        with self._records.one_state():
            yield from in_chunks(self._gen_packed())

    def facts(self, last: Piece | None) -> dict[str, Any] | None:
        """Give what the manifest says of the data, None if nothing has changed."""
        if not self._is_changed:
            return None
        first, newest = self._commits[0], self._commits[-1]
        return {
            "start": 0,
            "end": self._state.count,
            "state": self._state.as_text(),
            "first_serial": first.serial,
            "first_time": first.time,
            "last_serial": newest.serial,
            "last_time": newest.time,
        }

    def _commits_since(self, before: Moment) -> list[Moment]:
        newest = self._records.commit
        if newest is None:
            raise HistoryGap("it is not known of which commit the state is")
        with _telling():
            commits = [Moment(*commit) for commit in self._storage.gen_commits()]
        if before not in commits:
            raise HistoryGap(
                f"the history does not reach back to commit {before.serial} of the backup before"
            )
        return [each for each in commits if before.serial < each.serial <= newest.serial]

    def _gen_packed(self) -> Iterator[bytes]:
        for oid, _, _ in self._records.gen_records():
            self._present.add(oid)
        for oid in self._records.before.keys() - self._present:
            if self._find_as_of(oid, self._before.serial) is None:
                self._note_forgotten(oid)
            else:
                self._check_before(oid)
                self._find_removal(oid, 0)
        has_packed = False
        serial_before = self._before.serial
        for place, (serial, time) in enumerate(self._commits):
            is_pack = True
            for oid, record in self._gen_changes(serial):
                is_pack = False
                if has_packed:
                    self._check_kept(oid, serial_before)
                yield self._store(oid, record, place)
            has_packed |= is_pack
            for oid in self._removals.pop(serial, ()):
                yield self._remove(oid)
            yield CommitEnd(serial, time, self._state.count, self._state.as_text()).pack()
            serial_before = serial
        self._check_present()

    def _store(self, oid: bytes, record: bytes, place: int) -> bytes:
        check_record(oid, record)
        if oid in self._now:
            if self._now[oid] is None:
                raise HistoryGap(f"object {int.from_bytes(oid)} was removed and stored again")
        else:
            self._check_before(oid)
            if oid not in self._records.before and oid not in self._present:
                self._find_removal(oid, place)
        old = self._hash_now(oid)
        if old is not None:
            self._state.remove(old)
        self._now[oid] = found = hash_of(record)
        self._state.add(found)
        self._is_changed = True
        return pack_entry(record)

    def _remove(self, oid: bytes) -> bytes:
        old = self._hash_now(oid)
        if old is None:
            raise HistoryGap(f"object {int.from_bytes(oid)} was removed before it was stored")
        self._state.remove(old)
        self._now[oid] = None
        self._is_changed = True
        return pack_entry(oid)

    def _hash_now(self, oid: bytes) -> bytes | None:
        """Give the hash of a record as of the commits that were taken so far."""
        return self._now[oid] if oid in self._now else self._records.before.get(oid)

    def _check_before(self, oid: bytes) -> None:
        """See that an object was what the piece before has, as of the commit of that."""
        record = self._find_as_of(oid, self._before.serial)
        if (None if record is None else hash_of(record)) != self._records.before.get(oid):
            raise HistoryGap(
                f"object {int.from_bytes(oid)} was not in commit {self._before.serial} what"
                " the backup before has"
            )

    def _note_forgotten(self, oid: bytes) -> None:
        """Take note that an object is gone from the past too, by a pack that forgot what was."""
        if not self._commits:
            raise HistoryGap(
                f"object {int.from_bytes(oid)} is gone, and nothing was committed since"
            )
        self._absent.add(oid)
        self._removals[self._commits[0].serial].append(oid)

    def _check_kept(self, oid: bytes, serial: int) -> None:
        """See that no pack removed what a commit stores again."""
        if self._hash_now(oid) is not None and self._find_as_of(oid, serial) is None:
            raise HistoryGap(f"object {int.from_bytes(oid)} was removed and stored again")

    def _check_present(self) -> None:
        """See that the commits lead to what is stored now."""
        present = self._records.state
        for oid in self._absent:
            found = self._hash_now(oid)
            if found is None:
                continue
            # It may be garbage, which a server does not list. It is stored, and so it is kept.
            record = self._find_now(oid)
            if record is not None:
                present.add(hash_of(record))
        if (self._state.count, self._state.as_text()) != (present.count, present.as_text()):
            raise HistoryGap("the commits do not lead to what is stored now")

    def _find_removal(self, oid: bytes, place: int) -> None:
        """Find as of which commit an object is gone that was there up to `place`, or before it.

        That no commit stores it after a pack has removed it is seen when it does.
        """
        self._absent.add(oid)
        commits = self._commits

        def is_gone(commit: Moment) -> bool:
            return self._find_as_of(oid, commit.serial) is None

        found = bisect_left(commits, True, lo=place, key=is_gone)
        if found < len(commits):
            self._removals[commits[found].serial].append(oid)

    def _gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        with _telling():
            yield from self._storage.gen_changes(serial)

    def _find_as_of(self, oid: bytes, serial: int) -> bytes | None:
        with _telling():
            return find_record(self._storage.load_as_of, oid, serial)

    def _find_now(self, oid: bytes) -> bytes | None:
        with _telling():
            return find_record(self._storage.load, oid)


def _commit_of(piece: Piece) -> Moment:
    if piece.last_serial is None or piece.last_time is None:
        raise HistoryGap(f"of which commit {piece.name} is, is not known")
    return Moment(piece.last_serial, piece.last_time)


@contextmanager
def _telling() -> Iterator[None]:
    """Read the history.

    Raises:
        HistoryGap: it is damaged, or was forgotten meanwhile.
    """
    try:
        yield
    except (StorageError, DurusKeyError) as error:
        raise HistoryGap(f"the history could not be read: {error}") from error
