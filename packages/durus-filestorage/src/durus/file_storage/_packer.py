"""Pack: copy what the root reaches into a new file, in small steps, while commits go on.

1. *Base.* The state of the moment when the pack began is copied breadth-first from the root. The
   new file is its own queue: a second pointer walks behind the copying and finds what refers to
   what is still to be copied. Marks (oid to new offset) say what has been.
2. *Map and index* are written from the marks.
3. *Tail.* What was committed since is copied, transaction by transaction, each sealed anew because
   its commit record holds offsets. A transaction may refer to what was garbage when the pack began:
   that goes into the transaction that needs it. Then the same again with what was committed
   meanwhile, until little is left.
4. *Change.* In one step: copy what is left, sync, keep the old file as `.prepack`, put the new one
   in its place, sync the directory.

What is written is synced meanwhile, in a thread: who packs may hold a lock that commits wait for.
Until the change nothing is at the path but the old file, and everything in the new one is synced
before it gets the name; so at each instant a crash leaves a file with all that was acknowledged.
Memory is taken for the pages of the marks, 64 MiB at most, and for what is committed meanwhile.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Generator, Iterator
from contextlib import suppress
from logging import WARNING
from struct import unpack
from time import monotonic

from durus.error import StorageWriteError
from durus.file_storage._commit_record import BASE, SYNCED, Commit
from durus.file_storage._file import (
    File,
    create_file,
    directory_of,
    file_identity,
    remove,
    rename_over,
    second_name,
    sync_directory,
)
from durus.file_storage._format import (
    CHUNK_BYTES,
    DamageError,
    Tip,
    copy_range,
    crc_of_range,
)
from durus.file_storage._index import Covered, IndexFile, IndexWriter, are_scattered
from durus.file_storage._journal import (
    FIRST_UNCOUNTED_OID_INT,
    INDEX_SUFFIX,
    NEW_SUFFIX,
    Journal,
    oid_after,
)
from durus.file_storage._marks import Marks
from durus.file_storage._syncing import BackgroundSync
from durus.file_storage._words import NO_PAGE, PAGE_WORDS
from durus.logger import log
from durus.persistent import split_proven
from durus.serialize import check_proof
from durus.storage import Removal
from durus.utils import str_to_int8

__all__ = ["PACK_SUFFIX", "PREPACK_SUFFIX", "Packer"]

PACK_SUFFIX = ".pack"
PREPACK_SUFFIX = ".prepack"

# A step ends after this time, with what it was doing.
_STEP_S = 0.0025

# Among what takes less than a microsecond, how often to look at the clock.
_CHECK_EVERY = 64

# How much is written before a sync of it begins, and how much may wait for one that is under way.
_SYNC_BYTES = 1 << 19
_UNSYNCED_BYTES = 1 << 22
_WRITE_BYTES = 1 << 18

# The last step copies at most about this much, unless commits come faster than they are copied.
_LAST_BYTES = 1 << 16

# Between the oids in use there may be so many that are not that the map would be mostly holes.
_FREE_MAP_BYTES = 64 << 20
_MAP_BYTES_AN_OBJECT = 64


class Packer:
    """One pack of one journal.

    Args:
        journal: what to pack; it goes on taking commits between steps.
        next_oid_int: the lowest oid that was never given out; it and those above stay new.
        keeps_prepack: keep the old file as `.prepack`.

    Attributes:
        count: how many objects have been kept so far.
        is_done: the new file is in place: use `new` in place of the old journal.
        new: the packed journal.
        removed: the oids that were not kept, and may be stored again by a later commit.
    """

    def __init__(self, journal: Journal, next_oid_int: int, *, keeps_prepack: bool) -> None:
        self.count = 0
        self.is_done = False
        self.new: Journal | None = None
        self.removed = array("Q")
        self._old = journal
        self._format = journal.format
        self._next_oid_int = next_oid_int
        self._keeps_prepack = keeps_prepack
        self._path = journal.path
        self._start_tip = journal.tip
        self._replayed_end = journal.tip.end
        self._marks = Marks(directory_of(self._path))
        self._is_scattered = self._has_scattered_oids()
        self._dangling: int | None = None
        self._deadline = 0.0
        # The new file: what is written to it, what is waiting to be, and where that goes.
        self._file: File | None = None
        self._waiting: list[bytes] = []
        self._end = 0
        self._flushed = 0
        self._synced = 0  # or being synced
        self._syncing = BackgroundSync()

    def gen_steps(self) -> Generator[int | Removal, None, None]:
        """Do it, one bounded step a `next()`; yield `count` after each, and once what it removes.

        Closed before the end, or failing, it leaves everything as it was.

        Raises:
            StorageWriteError: the system refused, or a commit between steps failed for good.
            CorruptionError: something that the root reaches is damaged.
        """
        self._old.begin_pack()
        try:
            for news in self._gen_work():
                yield self.count if news is None else news
                while not self._is_synced_enough():
                    yield self.count
                if self._old.failure:
                    raise StorageWriteError(
                        f"tried to pack {self._path!r}, which refuses changes since"
                        f" {self._old.failure}"
                    )
                self._deadline = monotonic() + _STEP_S
        except DamageError as damage:
            raise self._old.corruption(damage) from damage
        except StorageWriteError:
            raise
        except OSError as error:
            raise StorageWriteError(
                f"tried to pack {self._path!r}, the system says: {error.strerror or error};"
                " the file is as it was"
            ) from error
        finally:
            self._clean_up()

    def _gen_work(self) -> Iterator[Removal | None]:
        self._deadline = monotonic() + _STEP_S
        layout = self._old.layout
        if not self._old.map.proves_itself:
            # What a damaged map hides would be taken for absent, and be lost.
            entries = self._format.gen_entries(self._old.file, layout.base_start, layout.base_end)
            for _ in self._old.map.gen_check(entries):
                if self._is_late():
                    yield None
        file = self._make_file()
        start = self._flushed
        self._copy(0)
        yield from self._gen_closure(file, start)
        self._flush(file)
        if self._is_scattered:
            new, index_file = yield from self._gen_transaction_of_all(file)
        else:
            new, index_file = yield from self._gen_map(file)
        yield from self._gen_removed()
        yield from self._gen_rounds(file, new)
        yield Removal(self._is_left_behind)
        # All of it, now; then the last step has little to wait for.
        yield from self._gen_wait()
        self._syncing.begin(file)
        yield None
        yield from self._gen_wait()
        for _ in self._gen_replay(file, new, self._old.tip.end):
            pass
        self._flush(file)
        file.sync_all()
        # No step ends after this: the next commit must go to the new file.
        self._put_in_place(file, new, index_file)

    # The new file.

    def _make_file(self) -> File:
        path = self._path + PACK_SUFFIX
        remove(path)
        file = self._file = create_file(path)
        file.adopt_mode_and_owner(self._old.file)
        file.try_lock()
        # Objects begin where a base has them, or in a transaction after what an empty file has.
        if self._is_scattered:
            head = self._format.empty_file + bytes(self._format.before_entries)
        else:
            head = self._format.pack_head()
        file.write(0, head)
        self._end = self._flushed = self._synced = len(head)
        return file

    def _put(self, *parts: bytes) -> None:
        """Add to what waits to be written."""
        for part in parts:
            self._waiting.append(part)
            self._end += len(part)

    def _flush(self, file: File) -> None:
        """Write what waits, and begin to sync it if it has become much."""
        if not self._waiting:
            return
        file.write(self._flushed, b"".join(self._waiting))
        self._waiting.clear()
        self._flushed = self._end
        if self._flushed - self._synced >= _SYNC_BYTES and self._syncing.begin(file):
            self._synced = self._flushed

    def _flush_much(self, file: File) -> None:
        """Write what waits if it has become much."""
        if self._end - self._flushed >= _WRITE_BYTES:
            self._flush(file)

    def _is_synced_enough(self) -> bool:
        """Wait, for as long as a step may take, if the disk cannot follow; tell whether it has."""
        return self._flushed - self._synced <= _UNSYNCED_BYTES or self._syncing.wait(_STEP_S)

    def _gen_wait(self) -> Iterator[None]:
        """Wait for the sync that is under way."""
        while not self._syncing.wait(_STEP_S):
            yield None

    def _is_late(self) -> bool:
        return monotonic() > self._deadline

    # Copying what is reachable.

    def _copy(self, oid_int: int) -> None:
        """Copy an object as it was when the pack began, and mark it."""
        offset = self._old.find_packed(oid_int)
        if not offset:
            self._old.check_missing(oid_int)
            self._dangling = oid_int
            return
        record = self._old.read_record(offset, oid_int)
        if split_proven(record[:8], record) is None:
            check_proof(record, self._path)
        self._marks.set(oid_int, self._end)
        self._put(self._format.entry_start(oid_int, len(record)), record)
        self.count += 1

    def _gen_closure(self, file: File, start: int) -> Iterator[None]:
        """Copy all that the entries from `start` to the end of the new file refer to, and so on."""
        is_marked = self._marks.find
        unpack_header = self._format.header.unpack_from
        header_bytes = self._format.header.size
        length_bytes = self._format.length_bytes
        while start < self._end:
            if start >= self._flushed:
                self._flush(file)
            chunk = file.read(start, min(CHUNK_BYTES, self._flushed - start))
            position = 0
            while position + header_bytes <= len(chunk):
                header = unpack_header(chunk, position)
                refs_start = position + header_bytes + header[-1]
                end = position + length_bytes + header[0]
                if end <= len(chunk):
                    refs = chunk[refs_start:end]
                elif position:
                    break
                else:
                    refs = file.read(start + refs_start, end - refs_start)
                for ref in unpack(f">{len(refs) // 8}Q", refs):
                    if not is_marked(ref):
                        self._copy(ref)
                        self._flush_much(file)
                        if monotonic() > self._deadline:
                            yield
                position = end
            if not position:
                raise DamageError(start, "the end of the file that a pack is writing")
            start += position
            if monotonic() > self._deadline:
                yield

    def _gen_base_crc(self, file: File, start: int, stop: int) -> Generator[None, None, int]:
        """Give the CRC-32 of a part of the new file."""
        crc = 0
        while start < stop:
            middle = min(start + _WRITE_BYTES, stop)
            crc = crc_of_range(file, start, middle, crc)
            start = middle
            if self._is_late():
                yield
        return crc

    def _gen_seal(
        self, file: File, start: int, old: Tip | Commit, previous: int, crc: int | None
    ) -> Generator[None, None, Tip]:
        """End a transaction whose entries are written.

        Args:
            file: the new file.
            start: where the transaction begins.
            old: whose serial and time it takes over.
            previous: where the commit record before it is, or 0.
            crc: its CRC-32, if it is known.
        """
        last = self._end
        crc_start, crc_stop = self._format.close_frame(file, start, last)
        if crc is None:
            crc = yield from self._gen_base_crc(file, crc_start, crc_stop)
        commit = Commit(SYNCED, crc, old.time_us, old.serial, previous)
        tip = self._format.seal_frame(file, start, last, commit)
        self._end = self._flushed = tip.end
        return tip

    # Base, map and index.

    def _gen_map(self, file: File) -> Generator[None, None, tuple[Journal, IndexFile | None]]:
        """End the base, write the map, and open what is there so far."""
        last = self._end
        crc_start, crc_stop, map_start = self._format.close_base(file, last)
        crc = yield from self._gen_base_crc(file, crc_start, crc_stop)
        map_crc = 0
        self._flushed = self._end = map_start
        for piece in self._format.gen_map(map_start, self._next_oid_int, self._marks):
            map_crc = zlib.crc32(piece, map_crc)
            self._put(piece)
            self._flush_much(file)
            if self._is_late():
                yield
        self._flush(file)
        tip = self._start_tip
        base = Commit(BASE, crc, tip.time_us, tip.serial, 0, map_crc)
        self._format.seal_base(file, last, self._end, self._next_oid_int, base)
        layout = self._format.read_layout(file, self._end)
        new = self._old.successor(file, layout)
        new.next_oid_int = self._next_oid_int
        index_file = yield from self._gen_index(file, layout.tip)
        if index_file is not None:
            new.take_index(index_file)
        return new, index_file

    def _gen_transaction_of_all(
        self, file: File
    ) -> Generator[None, None, tuple[Journal, IndexFile | None]]:
        """Make what was copied a transaction, where a map would be mostly holes."""
        tip = yield from self._gen_seal(
            file, len(self._format.empty_file), self._start_tip, 0, None
        )
        new = self._old.successor(file, self._format.read_layout(file, self._end))
        new.tip = tip._replace(transactions=1)
        new.next_oid_int = self._next_oid_int
        index_file = yield from self._gen_index(file, new.tip)
        if index_file is not None:
            new.take_index(index_file)
            return new, index_file
        for number in self._marks.numbers():
            for i, offset in enumerate(self._marks.page(number) or ()):
                if offset:
                    new.index.tail[number * PAGE_WORDS + i] = offset
            if self._is_late():
                yield
        return new, None

    def _gen_index(self, file: File, tip: Tip) -> Generator[None, None, IndexFile | None]:
        """Write an index of the new file, which becomes its index when it is put in place."""
        numbers = self._marks.numbers()
        if not self._old.keeps_index or are_scattered(len(numbers), self.count):
            return None
        path = self._path + INDEX_SUFFIX + NEW_SUFFIX
        try:
            remove(path)
            index = create_file(path)
            index.adopt_mode_and_owner(file)
            writer = IndexWriter(index)
            for number in numbers:
                writer.add_words(number, self._marks.page(number) or NO_PAGE)
                if self._is_late():
                    yield
            return writer.finish(Covered(tip, self._next_oid_int, self.count), file)
        except OSError as error:
            log(WARNING, "no index is written for %s: %s", self._path, error)
            return None

    def _gen_removed(self) -> Iterator[None]:
        """Find what was there when the pack began and is not kept."""
        is_marked = self._marks.find
        for count, oid_int in enumerate(self._old.gen_packed_oids()):
            if not is_marked(oid_int):
                self.removed.append(oid_int)
            if not count % _CHECK_EVERY and self._is_late():
                yield

    def _is_left_behind(self, oid: bytes) -> bool:
        return not self._marks.find(str_to_int8(oid))

    # What is committed meanwhile.

    def _gen_rounds(self, file: File, new: Journal) -> Iterator[None]:
        """Copy what was committed meanwhile, until little is left or it does not become less."""
        left = self._old.tip.end - self._replayed_end
        before = left + 1
        while _LAST_BYTES < left < before:
            before = left
            yield from self._gen_replay(file, new, self._old.tip.end)
            left = self._old.tip.end - self._replayed_end

    def _gen_replay(self, file: File, new: Journal, stop: int) -> Iterator[None]:
        """Copy the transactions from where the last one that was copied ends."""
        while self._replayed_end < stop:
            yield from self._gen_replay_one(file, new)
            if self._is_late():
                yield

    def _gen_replay_one(self, file: File, new: Journal) -> Iterator[None]:
        source, format = self._old.file, self._format
        old = format.read_frame(source, self._replayed_end)
        start = self._end
        first = start + format.before_entries
        self._put(bytes(format.before_entries))
        offsets: dict[int, int] = {}
        for _, oid_int, record in format.gen_entries(source, old.first, old.last):
            if not self._marks.find(oid_int):
                self.count += 1
            offsets[oid_int] = self._end
            self._marks.set(oid_int, self._end)
            self._put(format.entry_start(oid_int, len(record)), record)
            self._flush_much(file)
            if self._is_late():
                yield
        copied_end = self._end
        self._flush(file)
        yield from self._gen_closure(file, first)
        self._flush(file)
        offsets.update(
            (oid_int, offset)
            for offset, oid_int, _ in format.gen_entries(file, copied_end, self._end)
        )
        # What was copied as it was has the CRC that it had.
        crc = old.commit.crc if self._end == copied_end else None
        tip = yield from self._gen_seal(file, start, old.commit, new.tip.commit_offset, crc)
        new.tip = tip._replace(transactions=new.tip.transactions + 1)
        new.index.tail.update(offsets)
        new.next_oid_int = max(new.next_oid_int, oid_after(offsets))
        self._replayed_end = old.end

    # The change.

    def _put_in_place(self, file: File, new: Journal, index_file: IndexFile | None) -> None:
        """Give the new file the name. From then on it is the database, whatever happens here."""
        if self._keeps_prepack:
            self._keep_old_file()
        self.new = new
        try:
            rename_over(file.path, self._path)
        finally:
            self.is_done = file_identity(self._path) == file.identity()
        file.path = self._old.file.path
        try:
            sync_directory(self._path)
        except OSError as error:
            new.failure = f"the directory could not be synced after a pack: {error}"
            log(WARNING, "%s: %s", self._path, new.failure)
        if index_file is not None:
            with suppress(OSError):
                rename_over(self._path + INDEX_SUFFIX + NEW_SUFFIX, self._path + INDEX_SUFFIX)

    def _keep_old_file(self) -> None:
        prepack_path = self._path + PREPACK_SUFFIX
        new_path = prepack_path + NEW_SUFFIX
        remove(new_path)
        if not second_name(self._path, new_path):
            # A file system without second names: the one case in which the last step is long.
            copy = create_file(new_path)
            copy.adopt_mode_and_owner(self._old.file)
            copy_range(self._old.file, 0, self._old.tip.end, copy, 0)
            copy.sync_all()
            copy.close()
        rename_over(new_path, prepack_path)

    def _clean_up(self) -> None:
        """Remove what is of no use any more; all of it, unless the new file is in place."""
        with suppress(Exception):
            self._syncing.wait()
        self._marks.close()
        self._old.end_pack()
        if self._dangling is not None:
            log(
                WARNING,
                "%s refers to objects that are not stored, such as %d",
                self._path,
                self._dangling,
            )
        if self.is_done:
            return
        if self._file is not None:
            self._file.close()
        suffixes = (PACK_SUFFIX, INDEX_SUFFIX + NEW_SUFFIX, PREPACK_SUFFIX + NEW_SUFFIX)
        for suffix in suffixes:
            with suppress(OSError):
                remove(self._path + suffix)

    # Judging what there is before it starts.

    def _has_scattered_oids(self) -> bool:
        if not self._format.map_has_holes:
            return False
        if self._old.highest_oid_int() >= FIRST_UNCOUNTED_OID_INT:
            return True
        map_bytes = self._format.map_bytes(self._old.tip.end, self._next_oid_int)
        stored = self._old.object_count_at_most()
        return map_bytes > _FREE_MAP_BYTES and map_bytes > _MAP_BYTES_AN_OBJECT * stored
