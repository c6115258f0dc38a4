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

from collections.abc import Generator, Iterator
from contextlib import suppress
from logging import WARNING
from operator import itemgetter

from durus.error import CorruptionError, CorruptRecordError, StorageOpenError
from durus.file_storage._commit_record import SYNCED, Commit
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
from durus.file_storage._format import (
    DamageError,
    Format,
    Frame,
    Layout,
    Tip,
    copy_range,
    crc_of_range,
)
from durus.file_storage._recovery import judge_tail
from durus.file_storage._search import Search
from durus.logger import log
from durus.serialize import check_proof

__all__ = ["REPAIR_SUFFIX", "find_damage", "repair_file"]

REPAIR_SUFFIX = ".repair"
DAMAGED_SUFFIX = ".damaged"


def find_damage(file: File, format: Format) -> str | None:
    """Read all of a file that begins with the magic; say what is damaged, or None.

    A torn tail is no damage.
    """
    limit = file.length()
    try:
        layout = format.read_layout(file, limit)
        check_base(file, format, layout)
        tip = layout.tip
    except DamageError as damage:
        return f"{damage.reason} at offset {damage.offset}"
    scanner = format.scanner(file, limit)
    while tip.end < limit:
        try:
            tip, _ = scanner.read(tip)
        except DamageError as damage:
            try:
                judge_tail(file, format, tip, damage, limit)
            except CorruptionError:
                return f"{damage.reason} at offset {damage.offset}"
            return None
    return None


def repair_file(file: File, path: str, format: Format) -> File:
    """Write what can be kept into a new file, put that in place, and give it, open and locked.

    Args:
        file: the damaged file, locked.
        path: its name, links followed.
        format: its format.

    Raises:
        OSError: the system refused; the damaged file is where it was.
    """
    repair_path = path + REPAIR_SUFFIX
    remove(repair_path)
    new = create_file(repair_path)
    try:
        new.adopt_mode_and_owner(file)
        new.try_lock()
        losses = list(_Repair(file, new, format).gen_losses())
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


def check_base(file: File, format: Format, layout: Layout) -> None:
    """Refuse a base or a map that does not prove itself, or that do not agree."""
    commit = layout.base_commit
    if commit is not None and crc_of_range(file, *format.base_crc_range(layout)) != commit.crc:
        raise DamageError(8, "a base that its commit record's CRC does not cover")
    entries = format.gen_entries(file, layout.base_start, layout.base_end)
    for _ in format.open_map(file, layout).gen_check(entries):
        pass


class _Repair:
    """Copies what is whole from one file to another."""

    def __init__(self, file: File, new: File, format: Format) -> None:
        self._file = file
        self._new = new
        self._format = format
        self._limit = file.length()
        self._tip = Tip(0)
        self._search = Search(file, format, self._limit)
        # The transactions to keep: serial, and the file offsets of those that have none.
        self._found: list[tuple[int, int, int]] = []
        self._frames: dict[int, Frame] = {}

    def gen_losses(self) -> Iterator[str]:
        """Write the new file; yield what is not in it."""
        position = yield from self._gen_base()
        scanner = self._format.scanner(self._file, self._limit)
        while position < self._limit:
            try:
                tip, _ = scanner.read(Tip(position), any_chain=True)
            except DamageError as damage:
                stop = self._keep_but_for_length(position)
                if not stop:
                    stop = self._search.next_whole(position) or self._limit
                    yield f"bytes {position} to {stop} (found {damage.reason})"
                position = stop
                continue
            if tip.unproven:
                self._found.append(
                    (self._found[-1][0] if self._found else 0, scanner.start, tip.end)
                )
            else:
                self._note_frame(self._format.read_frame(self._file, scanner.start))
            position = tip.end
        self._copy_found()

    # Transactions.

    def _note_frame(self, frame: Frame) -> None:
        """Note a transaction to keep, unless it is in the base or was found before."""
        serial = frame.commit.serial
        if serial > self._tip.serial and serial not in self._frames:
            self._frames[serial] = frame
            self._found.append((serial, 0, 0))

    def _copy_found(self) -> None:
        """Copy what was found in the order of the commits.

        Where damage has repeated or moved transactions, an old one must not replace a newer. One of
        Durus 4.3 has no serial, and stays behind the one that it follows.
        """
        for serial, start, stop in sorted(self._found, key=itemgetter(0)):
            if stop:
                self._copy_unproven(start, stop)
            else:
                self._copy_frame(self._frames[serial])

    def _copy_unproven(self, start: int, stop: int) -> None:
        """Copy a transaction as it is."""
        new_start = self._tip.end
        copy_range(self._file, start, stop, self._new, new_start)
        self._tip = self._tip._replace(end=new_start + stop - start, unproven=new_start)

    def _copy_frame(self, frame: Frame) -> None:
        """Copy a transaction, and seal it anew."""
        start = self._tip.end
        first = start + self._format.before_entries
        last = first + frame.last - frame.first
        old = frame.commit
        copy_range(self._file, frame.first, frame.last, self._new, first)
        self._format.close_frame(self._new, start, last)
        serial = self._tip.serial + 1 if self._tip.commit_offset else old.serial
        commit = Commit(SYNCED, old.crc, old.time_us, serial, self._tip.commit_offset)
        self._tip = self._format.seal_frame(self._new, start, last, commit)

    def _keep_but_for_length(self, start: int) -> int:
        """Note a transaction of which nothing but the length is damaged; give its end, else 0."""
        found = next(self._format.gen_commits(self._file, start, self._limit), None)
        frame = found and self._format.is_whole_but_for_length(self._file, start, *found)
        if not frame:
            return 0
        self._note_frame(frame)
        return frame.end

    # The base.

    def _gen_base(self) -> Generator[str, None, int]:
        """Copy the base; give the file offset where the transactions begin."""
        try:
            layout = self._format.read_layout(self._file, self._limit)
            check_base(self._file, self._format, layout)
        except DamageError as damage:
            stop, start = self._find_base_end()
            yield f"of the base, what does not prove itself (found {damage.reason})"
            yield from self._gen_salvage(stop)
            return start
        copy_range(self._file, 0, layout.map_end, self._new, 0)
        self._tip = layout.tip
        return layout.map_end

    def _find_base_end(self) -> tuple[int, int]:
        """Give the file offsets where the base ends and where the transactions begin."""
        found = self._format.find_base_end(self._file, self._limit)
        if found is not None:
            return found
        start = self._search.next_whole(8) or self._limit
        return start, start

    def _gen_salvage(self, stop: int) -> Iterator[str]:
        """Copy what is whole of the base's objects, as one transaction."""
        format = self._format
        self._new.write(0, format.empty_file)
        start = len(format.empty_file)
        first = end = start + format.before_entries
        position = len(format.magic) + 8
        while position < stop:
            try:
                for offset, oid_int, record in format.gen_entries(self._file, position, stop):
                    position = offset + format.record_shift + len(record)
                    try:
                        check_proof(record)
                    except CorruptRecordError:
                        yield f"object {oid_int} at offset {offset}"
                        continue
                    entry = format.entry_start(oid_int, len(record)) + record
                    self._new.write(end, entry)
                    end += len(entry)
                break
            except DamageError as damage:
                position = self._search.next_entry(damage.offset + 1, stop)
                yield f"bytes {damage.offset} to {position}"
        self._tip = Tip(start)
        if end > first:
            crc = crc_of_range(self._new, *format.close_frame(self._new, start, end))
            self._tip = format.seal_frame(self._new, start, end, Commit(SYNCED, crc, 0, 0, 0))
