"""Repair: a new file with all of a damaged one that still proves itself.

What is kept:

- base and map as they are, if both are whole; else each object of the base whose record is
  well-formed and, if it carries a proof, agrees with it, as one ordinary transaction;
- each transaction that is whole by itself, wherever it lies: after a damaged one the search goes on
  where that one ends, or where the commit records further on say that a transaction begins.

Commit records are sealed anew, as their offsets and serial numbers change. The damaged file is kept
beside the new one, which takes its place in one step when it is on the disk.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import suppress
from itertools import chain
from logging import WARNING
from struct import Struct

from durus.error import CorruptionError, CorruptRecordError, StorageOpenError
from durus.file_storage._commit_record import (
    BASE,
    BASE_ENTRY_BYTES,
    COMMIT_ENTRY_BYTES,
    SYNCED,
    Commit,
    pack_commit,
)
from durus.file_storage._file import (
    File,
    create_file,
    exists,
    file_identity,
    remove,
    rename_over,
    second_name,
    sync_directory,
)
from durus.file_storage._offset_map import OffsetMap
from durus.file_storage._recovery import (
    claimed_end,
    entries_end,
    is_whole_but_for_length,
    judge_tail,
)
from durus.file_storage._shelf import (
    CHUNK_BYTES,
    EMPTY_FILE,
    ENTRY,
    LENGTH,
    MAP_HEADER,
    DamageError,
    Layout,
    Scanner,
    Tip,
    copy_range,
    crc_of_range,
    gen_commits,
    gen_entries,
    read_commit,
    read_layout,
)
from durus.logger import log
from durus.serialize import check_proof

__all__ = ["REPAIR_SUFFIX", "find_damage", "repair_file"]

REPAIR_SUFFIX = ".repair"
DAMAGED_SUFFIX = ".damaged"

_ENTRY_START = Struct(">QQ")

# How the data of a record begins, in our form and in that of Durus 4.3.
_CLASS_MARK = re.compile(rb"\x80[\x02\x04]c")


def find_damage(file: File) -> str | None:
    """Read all of a file that begins with the magic; say what is damaged, or None.

    A torn tail is no damage.
    """
    limit = file.length()
    try:
        layout = read_layout(file, limit)
        check_base(file, layout)
        tip = layout.tip
    except DamageError as damage:
        return f"{damage.reason} at offset {damage.offset}"
    scanner = Scanner(file, limit)
    while tip.end < limit:
        try:
            tip, _ = scanner.read(tip)
        except DamageError as damage:
            try:
                judge_tail(file, tip, damage, limit)
            except CorruptionError:
                return f"{damage.reason} at offset {damage.offset}"
            return None
    return None


def repair_file(file: File, path: str) -> File:
    """Write what can be kept into a new file, put that in place, and give it, open and locked.

    Args:
        file: the damaged file, locked.
        path: its name, links followed.

    Raises:
        OSError: the system refused; the damaged file is where it was.
    """
    repair_path = path + REPAIR_SUFFIX
    remove(repair_path)
    new = create_file(repair_path)
    try:
        new.adopt_mode_and_owner(file)
        new.try_lock()
        losses = list(_Repair(file, new).gen_losses())
        new.sync_all()
        damaged_path = _keep_damaged(path)
        rename_over(repair_path, path)
    except BaseException:
        new.close()
        with suppress(OSError):
            remove(repair_path)
        raise
    try:
        sync_directory(path)
    except BaseException:
        new.close()
        raise
    log(
        WARNING,
        "%s was repaired; as it was, it is kept as %s. Lost: %s",
        file.path,
        damaged_path,
        "; ".join(losses) or "nothing",
    )
    new.path = file.path
    file.close()
    return new


def _keep_damaged(path: str) -> str:
    """Give the damaged file a second name, which stays when the first goes to the new file."""
    number = 1
    damaged_path = path + DAMAGED_SUFFIX
    while exists(damaged_path):
        if file_identity(damaged_path) == file_identity(path):
            # An interrupted repair came this far.
            return damaged_path
        number += 1
        damaged_path = f"{path}{DAMAGED_SUFFIX}-{number}"
    if not second_name(path, damaged_path):
        raise StorageOpenError(
            f"tried to keep {path!r} beside its repaired copy, found a file system without hard"
            f" links; copy it to {damaged_path!r} and repair the copy on another file system",
            path,
        )
    return damaged_path


def check_base(file: File, layout: Layout) -> None:
    """Refuse a base or a map that does not prove itself, or that do not agree."""
    commit = layout.base_commit
    if commit is not None and crc_of_range(file, 8, layout.base_end) != commit.crc:
        raise DamageError(8, "a base that its commit record's CRC does not cover")
    for _ in OffsetMap(file, layout).gen_check():
        pass


class _Repair:
    """Copies what is whole from one file to another."""

    def __init__(self, file: File, new: File) -> None:
        self._file = file
        self._new = new
        self._limit = file.length()
        self._tip = Tip(0)
        self._starts: list[int] | None = None

    def gen_losses(self) -> Iterator[str]:
        """Write the new file; yield what is not in it."""
        position = yield from self._gen_base()
        scanner = Scanner(self._file, self._limit)
        while position < self._limit:
            try:
                tip, _ = scanner.read(Tip(position), any_chain=True)
            except DamageError as damage:
                stop = self._keep_but_for_length(position)
                if not stop:
                    stop = self._next_whole(position) or self._limit
                    yield f"bytes {position} to {stop} (found {damage.reason})"
                position = stop
                continue
            self._keep(position, tip)
            position = tip.end

    # Transactions.

    def _keep(self, start: int, tip: Tip) -> None:
        """Copy a whole transaction, and empty ones before it."""
        new_start = self._tip.end
        if tip.unproven:
            end = new_start + tip.end - start
            copy_range(self._file, start, tip.end, self._new, new_start)
            self._tip = self._tip._replace(end=end, unproven=new_start)
            return
        copy_range(self._file, start, tip.commit_offset, self._new, new_start)
        self._seal(tip, new_start + tip.commit_offset - start)

    def _seal(self, tip: Tip, commit_offset: int) -> None:
        """Write the commit record of the transaction that `tip` comes after."""
        old = read_commit(self._file, tip.commit_offset)
        if old is None:
            raise DamageError(tip.commit_offset, "a commit record that was there before")
        serial = self._tip.serial + 1 if self._tip.commit_offset else old.serial
        commit = Commit(SYNCED, old.crc, old.time_us, serial, self._tip.commit_offset)
        self._new.write(commit_offset, pack_commit(commit))
        self._tip = Tip(commit_offset + COMMIT_ENTRY_BYTES, serial, commit_offset, old.time_us)

    def _keep_but_for_length(self, start: int) -> int:
        """Copy a transaction of which nothing but the length is damaged; give its end, else 0."""
        found = next(gen_commits(self._file, start, self._limit), None)
        if found is None or found[0] < start + 8 or found[1].format == BASE:
            return 0
        offset, commit = found
        if not is_whole_but_for_length(self._file, start, offset, commit):
            return 0
        new_start = self._tip.end
        end = offset + commit.entry_bytes
        self._new.write(new_start, LENGTH.pack(end - start - 8))
        copy_range(self._file, start + 8, offset, self._new, new_start + 8)
        tip = Tip(end, commit.serial, offset, commit.time_us)
        self._seal(tip, new_start + offset - start)
        return end

    def _next_whole(self, position: int) -> int:
        """Give the offset of the next whole transaction after `position`, 0 if there is none."""
        if self._starts is None:
            self._starts = sorted(set(self._gen_starts()))
        near = {
            claimed_end(self._file, position),
            entries_end(self._file, position + 8, self._limit),
        }
        far = self._starts[bisect_right(self._starts, position) :]
        scanner = Scanner(self._file, self._limit)
        for start in chain(sorted(near), far):
            if not position < start < self._limit:
                continue
            try:
                _, offsets = scanner.read(Tip(start), any_chain=True)
            except DamageError:
                continue
            if offsets:
                return start
        return 0

    def _gen_starts(self) -> Iterator[int]:
        """Yield where a transaction begins, according to the commit records."""
        for offset, commit in gen_commits(self._file, 0, self._limit):
            if commit.previous:
                yield commit.previous + COMMIT_ENTRY_BYTES
            if commit.format != BASE:
                yield offset + COMMIT_ENTRY_BYTES

    # The base.

    def _gen_base(self) -> Generator[str, None, int]:
        """Copy the base; give the file offset where the transactions begin."""
        try:
            layout = read_layout(self._file, self._limit)
            check_base(self._file, layout)
        except DamageError as damage:
            stop, start = self._find_base_end()
            yield f"of the base, what does not prove itself (found {damage.reason})"
            yield from self._gen_salvage(stop)
            return start
        copy_range(self._file, 0, layout.map_end, self._new, 0)
        self._tip = layout.tip
        return layout.map_end

    def _find_base_end(self) -> tuple[int, int]:
        """Give the file offsets where the base ends and where the transactions begin.

        The base's length says it; if that is damaged, its commit record, or its last entry.
        """
        ends = [16 + LENGTH.unpack(self._file.read(8, 8).ljust(8, b"\0"))[0]]
        for offset, commit in gen_commits(self._file, 0, self._limit):
            if commit.format == BASE:
                ends.append(offset + BASE_ENTRY_BYTES)
                break
        ends.append(entries_end(self._file, 16, self._limit))
        for end in ends:
            raw = self._file.read(end, MAP_HEADER.size) if end < self._limit else b""
            if len(raw) == MAP_HEADER.size:
                length, width, count = MAP_HEADER.unpack(raw)
                if 1 <= width <= 8 and length == 16 + width * count:
                    return end, min(end + 8 + length, self._limit)
        start = self._next_whole(8) or self._limit
        return start, start

    def _gen_salvage(self, stop: int) -> Iterator[str]:
        """Copy what is whole of the base's objects, as one transaction."""
        self._new.write(0, EMPTY_FILE)
        start = len(EMPTY_FILE)
        end = start + 8
        position = 16
        while position < stop:
            try:
                for offset, oid_int, record in gen_entries(self._file, position, stop):
                    position = offset + 16 + len(record)
                    try:
                        check_proof(record)
                    except CorruptRecordError:
                        yield f"object {oid_int} at offset {offset}"
                        continue
                    self._new.write(end, _ENTRY_START.pack(len(record) + 8, oid_int) + record)
                    end += len(record) + 16
                break
            except DamageError as damage:
                position = self._next_entry(damage.offset + 1, stop)
                yield f"bytes {damage.offset} to {position}"
        commit_offset = end
        self._tip = Tip(start)
        if commit_offset == start + 8:
            return
        end = commit_offset + COMMIT_ENTRY_BYTES
        self._new.write(start, LENGTH.pack(end - start - 8))
        crc = crc_of_range(self._new, start, commit_offset)
        self._new.write(commit_offset, pack_commit(Commit(SYNCED, crc, 0, 0, 0)))
        self._tip = Tip(end, 0, commit_offset)

    def _next_entry(self, start: int, stop: int) -> int:
        """Search for the next entry, by the beginning of its data; `stop` if there is none."""
        while start < stop:
            chunk = self._file.read(start, min(CHUNK_BYTES, stop - start))
            for found in _CLASS_MARK.finditer(chunk):
                offset = start + found.start() - ENTRY.size
                if offset >= start and self._is_entry(offset, stop):
                    return offset
            start += max(len(chunk) - 2 * ENTRY.size, 1)
        return stop

    def _is_entry(self, offset: int, stop: int) -> bool:
        header = self._file.read(offset, ENTRY.size)
        length, oid_int, record_oid_int, data_bytes = ENTRY.unpack(header)
        spare = length - data_bytes - 20
        is_record = oid_int == record_oid_int and spare >= 0 and not spare & 7
        return is_record and offset + 8 + length <= stop
