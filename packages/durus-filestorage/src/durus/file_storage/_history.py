"""Past states of a journal: its commits, and what an oid had as of each of them.

A file grows only at its end. So as of a commit an object has the last of its entries that lie
before the end of that commit's transaction, or the one in the base. What Durus 4.3 wrote has no
commit record: it belongs to the next commit that has one, and the base to its own, if it has one.

The commits are found by walking backwards from the last one. They are in memory from then on, with
16 bytes each.

An object that was not stored again since is where the index says. Of the others, what came before
is found by reading the journal once, forwards from the base to the newest commit that was asked
for. That is checked as when a file is opened, and leaves in memory 16 bytes for each entry that
took the place of another one in the journal, and pages: of at most 64 MiB for the last entry of
each oid (the rest goes to a nameless file), and as much for what is read of the base's map.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from operator import itemgetter

from durus.error import NotSupportedError, StorageError
from durus.file_storage._file import temporary_directory
from durus.file_storage._format import DamageError, Tip
from durus.file_storage._index import Index
from durus.file_storage._journal import Journal
from durus.file_storage._marks import Marks

__all__ = ["History", "gen_commits_back"]


def gen_commits_back(journal: Journal, stop_offset: int = 0) -> Iterator[tuple[int, int, int]]:
    """Walk backwards over the commits that there are now.

    Args:
        journal: the journal.
        stop_offset: file offset of a commit record that ends the walk, and is left out.

    Yields:
        Serial, time in microseconds, and the file offset after the transaction; of a base the
        offset after its map.

    Raises:
        CorruptionError: the commit records do not lead to each other.
        OSError: the system refused.
    """
    offset, serial = journal.tip.commit_offset, journal.tip.serial
    # A base of serial 0 has no time either: before it there was no commit of ours.
    while offset != stop_offset and serial:
        commit = journal.format.read_commit(journal.file, offset)
        if commit is None or commit.serial != serial or not stop_offset <= commit.previous < offset:
            reason = f"no record of commit {serial}, which the next one says is there"
            raise journal.corruption(DamageError(offset, reason))
        end = journal.format.end_of(offset, commit)
        yield serial, commit.time_us, max(end, journal.layout.map_end)
        if not commit.previous:
            return
        offset, serial = commit.previous, serial - 1


class History:
    """The past of one journal, which may go on growing."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        # The commits, one after the other: where the transaction ends, and the time.
        self._ends = array("Q")
        self._times_us = array("Q")
        self._first_serial = 0
        self._last_offset = 0
        # What was read: oid to its last entry there, and entry to the one before of the same oid.
        self._read_tip = journal.layout.tip
        self._last_entries = Marks(temporary_directory())
        self._entries = array("Q")
        self._entries_before = array("Q")
        self._base = Index(journal.map)

    def gen_commits(self) -> Iterator[tuple[int, int]]:
        """Yield serial and time in microseconds of each commit that there is now.

        Raises:
            CorruptionError: the commit records do not lead to each other.
            StorageError: the system does not let us read.
        """
        try:
            return self.commits()
        except OSError as error:
            raise self._read_error("the commits of", error) from error

    def commits(self) -> Iterator[tuple[int, int]]:
        """Give what `gen_commits` yields, for one who tells of an OSError in his own words."""
        self._note_commits()
        return enumerate(self._times_us[:], self._first_serial)

    def find(self, oid_int: int, serial: int) -> int:
        """Give the file offset of the entry that an oid had as of a commit, 0 if it had none.

        Raises:
            StorageError: there is no such commit, or the system does not let us read.
            CorruptionError: the journal is damaged.
        """
        try:
            end = self.end_of(serial)
            offset = self._journal.find(oid_int)
            if offset < end:
                if not offset:
                    self._journal.check_missing(oid_int)
                return offset
            return self._find_before(oid_int, end)
        except DamageError as damage:
            raise self._journal.corruption(damage) from damage
        except OSError as error:
            raise self._read_error(f"commit {serial} of", error) from error

    def end_of(self, serial: int) -> int:
        """Give the file offset after the transaction of a commit; of a base's, after its entries.

        Raises:
            StorageError: there is no such commit.
            CorruptionError: the commit records do not lead to each other.
            OSError: the system does not let us read.
        """
        self._note_commits()
        if not 0 <= serial - self._first_serial < len(self._ends):
            raise StorageError(
                f"tried to read {self._journal.path!r} as of commit {serial}, which is none of"
                f" the {len(self._ends)} that it has since it was last packed"
            )
        return self._ends[serial - self._first_serial]

    def close(self) -> None:
        self._last_entries.close()

    def _read_error(self, what: str, error: OSError) -> StorageError:
        return StorageError(
            f"tried to read {what} {self._journal.path!r}, the system says:"
            f" {error.strerror or error}"
        )

    # The commits.

    def _note_commits(self) -> None:
        """Walk backwards from the last commit to what is known already, or to the first one."""
        journal = self._journal
        last_offset = journal.tip.commit_offset
        ends, times_us = array("Q"), array("Q")
        for _, time_us, end in gen_commits_back(journal, self._last_offset):
            ends.append(end)
            times_us.append(time_us)
        if not ends:
            return
        if not self._ends:
            self._first_serial = journal.tip.serial - len(ends) + 1
        self._ends.extend(reversed(ends))
        self._times_us.extend(reversed(times_us))
        self._last_offset = last_offset

    # What was stored again later.

    def _find_before(self, oid_int: int, end: int) -> int:
        """Give the file offset of the last entry of an oid before `end`, 0 if there is none."""
        self._read_to(end)
        offset = self._last_entries.find(oid_int)
        while offset >= end:
            place = bisect_left(self._entries, offset)
            is_there = place < len(self._entries) and self._entries[place] == offset
            offset = self._entries_before[place] if is_there else 0
        if not offset:
            offset = self._base.find(oid_int)
        if not offset:
            self._journal.map.check_missing(oid_int)
        return offset

    def _read_to(self, end: int) -> None:
        """Read the transactions up to `end` that were not read yet."""
        if self._read_tip.end >= end:
            return
        scanner = self._journal.format.scanner(self._journal.file, end)
        last_entries = self._last_entries
        while self._read_tip.end < end:
            tip, offsets = scanner.read(self._read_tip)
            for offset, oid_int in sorted(zip(offsets.values(), offsets, strict=True)):
                before = last_entries.find(oid_int)
                # Read a second time, after an error in the midst, it is there already.
                if 0 < before < offset:
                    self._entries.append(offset)
                    self._entries_before.append(before)
                last_entries.set(oid_int, offset)
            self._read_tip = tip

    # What a commit stored.

    def find_changes(self, serial: int) -> dict[int, int]:
        """Give the file offset of the entry of each oid that a commit stored, in their order.

        Raises:
            StorageError: there is no such commit, or the system does not let us read.
            NotSupportedError: it is that of the base, where a pack put it.
            CorruptionError: the journal is damaged there.
        """
        try:
            self._note_commits()
            place = serial - self._first_serial
            if not 0 <= place < len(self._ends):
                raise StorageError(
                    f"tried to tell what commit {serial} of {self._journal.path!r} stored, which is"
                    f" none of the {len(self._ends)} that it has since it was last packed"
                )
            return self._read_changes(place)
        except DamageError as damage:
            raise self._journal.corruption(damage) from damage
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise self._read_error(f"commit {serial} of", error) from error

    def _read_changes(self, place: int) -> dict[int, int]:
        start, end = self._journal.layout.map_end, self._ends[place]
        if place:
            start = max(start, self._ends[place - 1])
        elif end <= start or self._first_serial > 1:
            # A pack may have written the state as a transaction, where it could not make a map.
            raise NotSupportedError(
                f"{self._journal.path!r} was packed, or repaired, at commit {self._first_serial}:"
                " it has the state of then, and not what this commit stored"
            )
        scanner = self._journal.format.scanner(self._journal.file, end)
        found: dict[int, int] = {}
        tip = Tip(start)
        while tip.end < end:
            tip, offsets = scanner.read(tip, any_chain=True)
            found.update(offsets)
        return dict(sorted(found.items(), key=itemgetter(1)))
