"""An open file: its committed state, and how it grows.

`FileStorage` is the storage contract on top of this. A Journal is replaced by another when the file
is: after a pack, or when a reader finds that somebody packed it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from logging import INFO, WARNING
from struct import Struct
from struct import error as struct_error
from threading import RLock

from durus.error import (
    CorruptionError,
    DurusKeyError,
    InvalidOidError,
    StorageMissingError,
    StorageWriteError,
)
from durus.file_storage._commit_record import SYNCED, UNSYNCED
from durus.file_storage._file import (
    File,
    create_file,
    open_file,
    remove,
    rename_over,
)
from durus.file_storage._format import DamageError, Format, Layout
from durus.file_storage._index import Index, IndexFile, write_index
from durus.logger import log

__all__ = ["FIRST_UNCOUNTED_OID_INT", "INDEX_SUFFIX", "NEW_SUFFIX", "Journal", "oid_after"]

INDEX_SUFFIX = ".index"
NEW_SUFFIX = ".new"

_OID = Struct(">Q")

# What one load reads: most records are shorter, and after a longer one it is more for a while. A
# walk through neighbouring entries, forward or backward, reads ahead.
_READ_BYTES = 512
_LONGEST_GUESS_BYTES = 8192
_READ_AHEAD_BYTES = 65536

# New oids are counted up from the highest stored oid below this. Whoever stores under higher ones
# of his own choice does not use up the oids that way.
FIRST_UNCOUNTED_OID_INT = 2**63

# An index is written when the tail beyond the last one has grown to this, or a quarter of it: so
# the work of all rewriting is in proportion to what was stored. At close a smaller tail is worth
# it.
_TAIL_AT_COMMIT = 100_000
_TAIL_AT_CLOSE = 1000


class Journal:
    """One open file and what is known about it.

    Attributes:
        file: the open file, locked if it is open for writing.
        path: its name, links followed: what other files are named after.
        format: how the file is laid out.
        layout: where base and map are.
        index: where each object's entry is.
        tip: the end of the committed state.
        next_oid_int: an oid that no object has, nor any above it.
        failure: why nothing more can be written, or None.
        durable: each commit is synced.
        keeps_index: there is to be an index file.
    """

    def __init__(
        self,
        file: File,
        path: str,
        format: Format,
        layout: Layout,
        *,
        durable: bool,
        keeps_index: bool = True,
    ) -> None:
        self.file = file
        self.path = path
        self.format = format
        self.layout = layout
        self.map = format.open_map(file, layout)
        self.index = Index(self.map)
        self.tip = layout.tip
        self.next_oid_int = 0
        self.failure: str | None = None
        self.durable = durable
        self.keeps_index = keeps_index
        # One thread may read while another commits; only one of them may make the index again.
        self._changing = RLock()
        self._packed_end = 0
        self._tail_limit = _TAIL_AT_COMMIT
        self._buffer = b""
        self._buffer_offset = 0
        self._guess = _READ_BYTES
        self._unpack_header = format.header.unpack_from
        self._header_bytes = format.header.size
        self._length_bytes = format.length_bytes
        self._record_shift = format.record_shift
        self._bare_bytes = format.bare_bytes

    # Reading.

    def load(self, oid: bytes) -> bytes:
        """Give the committed record of `oid`."""
        try:
            (oid_int,) = _OID.unpack(oid)
        except (struct_error, TypeError):
            raise InvalidOidError(oid) from None
        offset = self.index.tail.get(oid_int) or self.find(oid_int)
        if not offset:
            self.check_missing(oid_int)
            raise DurusKeyError(oid)
        return self.read_record(offset, oid_int)

    def read_record(self, offset: int, oid_int: int) -> bytes:
        """Read the record of the entry at `offset`, which must be one of this oid.

        Raises:
            CorruptionError: it is not.
        """
        start = offset - self._buffer_offset
        buffer = self._buffer
        if start < 0 or start + self._header_bytes > len(buffer):
            buffer = self._fill(offset, oid_int)
            start = offset - self._buffer_offset
        header = self._unpack_header(buffer, start)
        length = header[0]
        spare = length - header[-1] - self._bare_bytes
        if header[1] != oid_int or header[-2] != oid_int or spare < 0 or spare & 7:
            raise self.corruption(
                DamageError(offset, "something that is not this object's entry", oid_int)
            )
        stop = start + self._length_bytes + length
        if stop <= len(buffer):
            return buffer[start + self._record_shift : stop]
        return self._read_long(offset, length, oid_int)

    def find(self, oid_int: int) -> int:
        """Give the file offset of an oid's newest entry, 0 if there is none."""
        try:
            return self.index.find(oid_int)
        except DamageError as damage:
            self._replace_index(damage)
            return self.index.find(oid_int)

    def gen_oid_record(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every object's record in the order of the file.

        What is stored meanwhile comes at the end, if it did not come before.

        Raises:
            CorruptionError: something on the way is damaged, or at the end objects are missing.
        """
        tip = self.tip
        count = 0
        try:
            for offset, oid_int, record in self._gen_entries():
                if self.find(oid_int) == offset:
                    count += 1
                    yield record[:8], record
            # An oid that changed hides an entry: what it says now is that of another object.
            known = self.object_count() if self.tip is tip else None
            if known not in {None, count}:
                raise DamageError(self.layout.base_start, f"{count} objects where {known} are")
        except DamageError as damage:
            raise self.corruption(damage) from damage

    def _gen_entries(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield every entry of the file, those too that are added meanwhile."""
        format, layout = self.format, self.layout
        yield from format.gen_entries(self.file, layout.base_start, layout.base_end)
        position = layout.map_end
        while position < self.tip.end:
            stop = self.tip.end
            yield from format.gen_objects(self.file, position, stop)
            position = stop

    def _fill(self, offset: int, oid_int: int) -> bytes:
        """Read what is at `offset`, and more if it lies beside what was read before."""
        step = offset - self._buffer_offset
        guess = self._guess
        # A guess that was too long once costs every later load: let it shrink.
        self._guess = guess - (guess - _READ_BYTES >> 6)
        start, stop = offset, offset + guess
        if 0 < step <= len(self._buffer) + _READ_BYTES:
            stop = offset + _READ_AHEAD_BYTES
        elif 0 < -step <= guess:
            # Durus 4.3 writes the objects of one commit in the reverse order of their oids.
            start = max(0, stop - _READ_AHEAD_BYTES)
        self._buffer = b""
        buffer = self._read(start, min(stop, self.tip.end) - start, oid_int)
        if len(buffer) < offset - start + self._header_bytes:
            raise self.corruption(DamageError(offset, "the end of the file", oid_int))
        self._buffer = buffer
        self._buffer_offset = start
        return buffer

    def _read_long(self, offset: int, length: int, oid_int: int) -> bytes:
        """Read an entry that is longer than what was read at first."""
        start = offset + self._record_shift
        record_bytes = offset + self._length_bytes + length - start
        if start + record_bytes > self.tip.end:
            raise self.corruption(
                DamageError(offset, f"an entry of {length} bytes that ends after the file", oid_int)
            )
        self._guess = max(self._guess, min(length + 16, _LONGEST_GUESS_BYTES))
        record = self._read(start, record_bytes, oid_int)
        if len(record) != record_bytes:
            raise self.corruption(DamageError(offset, "the end of the file", oid_int))
        return record

    def _read(self, offset: int, length: int, oid_int: int) -> bytes:
        if length <= 0:
            return b""
        try:
            return self.file.read(offset, length)
        except OSError as error:
            reason = f"nothing readable: {error.strerror}"
            raise self.corruption(DamageError(offset, reason, oid_int)) from error

    def check_missing(self, oid_int: int) -> None:
        """Refuse to believe that an oid has no entry, if what says so is damaged."""
        if isinstance(self.index.source, IndexFile):
            return
        try:
            self.map.check_missing(oid_int)
        except DamageError as damage:
            raise self.corruption(damage) from damage

    def corruption(self, damage: DamageError) -> CorruptionError:
        """Make the error that tells of a damage."""
        oid_int = damage.oid_int
        what = "" if oid_int is None else f" object {oid_int} from"
        return CorruptionError(
            f"tried to read{what} {self.file.path!r} at offset {damage.offset}, found"
            f" {damage.reason}; restore a backup, or open it with repair=True to keep the rest",
            path=self.file.path,
            offset=damage.offset,
            oid=None if oid_int is None else _OID.pack(oid_int),
        )

    # Writing.

    def append(self, records: dict[int, bytes]) -> None:
        """Commit records, by oid, as one transaction.

        Raises:
            StorageWriteError: the system refused, and the state is as before.
        """
        with self._changing:
            commit_format = SYNCED if self.durable else UNSYNCED
            time_us = time.time_ns() // 1000
            transaction, offsets, tip = self.format.frame(records, self.tip, commit_format, time_us)
            self._write(transaction)
            # In this order: another thread that finds an entry must find it before the tip.
            self.tip = tip
            self.index.tail.update(offsets)
            self.next_oid_int = max(self.next_oid_int, oid_after(offsets))
            self.keep_index()

    def _write(self, transaction: bytearray) -> None:
        """Put a transaction at the end of the file, or leave the file as it was."""
        attempt = f"tried to commit {len(transaction)} bytes to {self.file.path!r}"
        is_done = False
        try:
            self.file.write(self.tip.end, transaction)
            if self.durable:
                self._sync(attempt)
            is_done = True
        except StorageWriteError:
            raise
        except OSError as error:
            raise StorageWriteError(
                f"{attempt}, the system says: {_reason(error)}; nothing of it is stored"
            ) from error
        finally:
            if not is_done:
                self._cut_back()

    def _sync(self, attempt: str) -> None:
        """Sync the file; if that fails, never write to it again.

        The system may have dropped what it could not write as if it had been written, so that a
        second sync would succeed and prove nothing.
        """
        try:
            self.file.sync()
        except OSError as error:
            self.failure = f"a sync failed: {_reason(error)}"
            raise StorageWriteError(
                f"{attempt}, the sync failed: {_reason(error)}; nothing of it is stored, nor"
                " anything more will be until the file is opened again"
            ) from error

    def _cut_back(self) -> None:
        """Remove what a failed commit left, lest it is found when the file is opened again."""
        try:
            self.file.truncate(self.tip.end)
        except OSError as error:
            self.failure = self.failure or f"what a failed write left is there: {_reason(error)}"

    def keep_index(self) -> None:
        """Write the index file, if the tail beyond the last one has become long."""
        if len(self.index.tail) > self._tail_limit and not self._packed_end:
            self.write_index()

    def write_index(self) -> None:
        """Write the index file. It is a cache: if that fails, say so in the log and go on."""
        if not self.keeps_index or self.failure:
            return
        new_path = self.path + INDEX_SUFFIX + NEW_SUFFIX
        self._tail_limit = 2 * len(self.index.tail) + _TAIL_AT_COMMIT
        try:
            if not self.durable:
                self._sync(f"tried to write the index of {self.path!r}")
            remove(new_path)
            index_file = self._write_index_file(new_path)
        except (OSError, DamageError) as error:
            log(WARNING, "no index is written for %s: %s", self.path, error)
            with suppress(OSError):
                remove(new_path)
            return
        if index_file is None:
            log(INFO, "no index is written for %s: its oids are too scattered", self.path)
            return
        self.take_index(index_file)

    def _write_index_file(self, new_path: str) -> IndexFile | None:
        file = create_file(new_path)
        try:
            file.adopt_mode_and_owner(self.file)
            index_file = write_index(file, self.index, self.tip, self.next_oid_int, self.file)
            if index_file is None:
                remove(new_path)
            else:
                rename_over(new_path, self.path + INDEX_SUFFIX)
        except BaseException:
            file.close()
            raise
        return index_file

    def take_index(self, index_file: IndexFile) -> None:
        """Use an index file that covers everything up to the tip."""
        self.index = Index(index_file)
        self._tail_limit = max(_TAIL_AT_COMMIT, index_file.covered.object_count // 4)

    def close(self) -> None:
        """Close the file; write the index first if enough has been stored since the last one."""
        index = self.index
        source = index.source
        indexed, worth = 0, len(index.tail)
        if isinstance(source, IndexFile):
            indexed = source.covered.object_count
        else:
            worth += self.map.opening_cost()
        if not self.file.readonly and worth >= max(_TAIL_AT_CLOSE, indexed // 64):
            self.write_index()
        self._buffer = b""
        self.file.close()

    # Packing.

    def begin_pack(self) -> None:
        """Set the present state aside for a pack; `find_packed` finds in it from now on."""
        self._packed_end = self.tip.end
        self.index.split()

    def end_pack(self) -> None:
        """Forget the state that was set aside."""
        self._packed_end = 0
        self.index.join()

    def find_packed(self, oid_int: int) -> int:
        """Give what `find` would have given when the running pack began."""
        try:
            return self.index.find_older(oid_int)
        except DamageError as damage:
            self._replace_index(damage)
            return self.index.find_older(oid_int)

    def successor(self, file: File, layout: Layout) -> Journal:
        """Make the journal of the file that a pack writes, and that is to take this one's place."""
        return Journal(
            file,
            self.path,
            self.format,
            layout,
            durable=self.durable,
            keeps_index=self.keeps_index,
        )

    def gen_oids(self) -> Iterator[int]:
        """Yield every oid that has an entry; some may come twice."""
        try:
            yield from self.index.gen_oids()
        except DamageError as damage:
            self._replace_index(damage)
            yield from self.index.gen_oids()

    def gen_packed_oids(self) -> Iterator[int]:
        """Yield every oid that had an entry when the running pack began; some may come twice."""
        try:
            yield from self.index.gen_older_oids()
        except DamageError as damage:
            self._replace_index(damage)
            yield from self.index.gen_older_oids()

    def object_count(self) -> int | None:
        """Give the number of objects, where it can be told without a walk."""
        try:
            return self._count_objects()
        except DamageError as damage:
            self._replace_index(damage)
            return self._count_objects()

    def _count_objects(self) -> int | None:
        source = self.index.source
        if isinstance(source, IndexFile):
            known: int | None = source.covered.object_count
        else:
            known = self.map.object_count()
        if known is None:
            return None
        newest = self.index.older | self.index.tail if self.index.older else self.index.tail
        return known + sum(not self.index.page(n >> 9)[n & 511] for n in newest)

    def highest_oid_int(self) -> int:
        """Give a number that no oid exceeds, and the highest oid if that is not counted."""
        index = self.index
        highest = max(
            self.next_oid_int - 1, max(index.tail, default=0), max(index.older, default=0)
        )
        if isinstance(index.source, IndexFile):
            return max(highest, index.source.highest_oid_int())
        return highest

    def object_count_at_most(self) -> int:
        """Give a number that the number of objects does not exceed."""
        index = self.index
        known = index.source.object_count_at_most() if index.source else 0
        return known + len(index.tail) + len(index.older)

    # Catching up with the file.

    def scan(self, limit: int, changed: set[int] | None = None) -> None:
        """Take in the whole transactions between the tip and `limit`.

        Args:
            limit: file offset.
            changed: takes the oids in them, if it is given.

        Raises:
            DamageError: what follows the tip then is not whole.
        """
        scanner = self.format.scanner(self.file, limit)
        while self.tip.end < limit:
            self.tip, offsets = scanner.read(self.tip)
            self.index.tail.update(offsets)
            self.next_oid_int = max(self.next_oid_int, oid_after(offsets))
            if changed is not None:
                changed.update(offsets)

    def go_back(self, end: int) -> None:
        """Take an earlier state for the committed one; for a journal that is open for reading.

        The index file is used if it goes no further. Else the transactions since the last pack are
        read again, up to there.

        Args:
            end: file offset after the last transaction that is wanted, or within the base.

        Raises:
            CorruptionError: what is read is damaged.
        """
        end = max(end, self.layout.tip.end)
        if self.tip.end == end:
            return
        source = self.index.source
        if isinstance(source, IndexFile) and source.covered.tip.end <= end:
            self.take_index(source)
            self.tip = source.covered.tip
        else:
            self.forget_index_file()
        self._buffer = b""
        try:
            self.scan(end)
        except DamageError as damage:
            raise self.corruption(damage) from damage

    def is_current(self) -> bool:
        """Tell whether the file still ends, or goes on, after what is known of it."""
        tip = self.tip
        if self.file.length() < tip.end:
            return False
        if not tip.commit_offset:
            return True
        commit = self.format.read_commit(self.file, tip.commit_offset)
        return commit is not None and (commit.serial, commit.time_us) == (tip.serial, tip.time_us)

    def use_index_file(self) -> bool:
        """Take the index file, if there is one and it is about this journal; tell whether so."""
        try:
            file = open_file(self.path + INDEX_SUFFIX, readonly=True)
            index_file = IndexFile.read(file, self.file, self.format)
        except StorageMissingError:
            return False
        except (OSError, DamageError) as error:
            reason = error.reason if isinstance(error, DamageError) else error
            log(INFO, "the index of %s is not used, found %s", self.path, reason)
            return False
        self.take_index(index_file)
        self.tip = index_file.covered.tip
        self.next_oid_int = max(self.next_oid_int, index_file.covered.next_oid_int)
        return True

    def use_map(self) -> None:
        """Begin with what the base's map says.

        Raises:
            CorruptionError: the map is damaged.
        """
        try:
            self.next_oid_int = self.map.next_oid_int()
        except DamageError as damage:
            raise self.corruption(damage) from damage

    def forget_index_file(self) -> None:
        """Find everything in the journal itself."""
        self.index = Index(self.map)
        self.tip = self.layout.tip

    def _replace_index(self, damage: DamageError) -> None:
        """Make the index again from the journal, when the file that serves as one is damaged."""
        if not isinstance(self.index.source, IndexFile):
            raise self.corruption(damage) from damage
        log(WARNING, "the index of %s is made again, found %s", self.path, damage.reason)
        with self._changing:
            tip = self.tip
            self.forget_index_file()
            try:
                if self._packed_end:
                    self.scan(self._packed_end)
                    self.index.split()
                self.scan(tip.end)
            except DamageError as new_damage:
                raise self.corruption(new_damage) from new_damage
            finally:
                self.tip = tip


def oid_after(oid_ints: Collection[int]) -> int:
    """Give the lowest oid above all of these, leaving out those that are not counted."""
    highest = max(oid_ints, default=-1)
    if highest >= FIRST_UNCOUNTED_OID_INT:
        highest = max((n for n in oid_ints if n < FIRST_UNCOUNTED_OID_INT), default=-1)
    return highest + 1


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
