"""Pieces of a file that grows only at its end: the bytes that have come since the piece before."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from durus.backends import open_storage
from durus.error import CorruptionError, StorageError
from durus.storage import Storage
from durus.tools._backup_folder import Break, Catalog, Piece, gen_data

__all__ = ["FileSource", "GrowingFile", "restore_file"]

Progress = Callable[[int], object]


@runtime_checkable
class GrowingFile(Protocol):
    """What a storage on a file that only grows offers beside the contract."""

    def gen_commit_ends(self) -> Iterator[tuple[int, datetime, int]]:
        """Yield serial, time and the file offset after each commit, the newest first."""

    def gen_bytes(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield what the file holds between two offsets."""


class FileSource:
    """The file that is backed up, as long as it was when this was made.

    Args:
        storage: the storage.
        growing: the same.
        progress: is told how many bytes were read.
    """

    method = "file"

    def __init__(self, storage: Storage, growing: GrowingFile, progress: Progress) -> None:
        length_bytes = storage.describe().size_bytes
        if length_bytes is None:
            raise StorageError(f"tried to back up {storage}, which does not tell its length")
        self._growing = growing
        self._progress = progress
        self._start = 0
        self._end = length_bytes
        self._digest = sha256()

    def follow(self, catalog: Catalog, chain: list[Piece]) -> Break | None:
        """Go on after the last piece of a chain; give why that is impossible, if it is."""
        last = chain[-1]
        if last.end > self._end:
            return self._why_replaced(last)
        damages: list[str] = []
        # The pieces are read beside the file, so that the progress tells of both.
        for chunk, _ in zip_longest(
            self._growing.gen_bytes(0, last.end), _gen_checked(catalog, chain, damages)
        ):
            if chunk is not None:
                self._take(chunk)
        is_same = self._digest.hexdigest() == last.state
        if is_same and not damages:
            return None
        self._start, self._digest = 0, sha256()
        return Break(damages[0]) if is_same else self._why_replaced(last)

    def gen_chunks(self) -> Iterator[bytes]:
        for chunk in self._growing.gen_bytes(self._start, self._end):
            self._take(chunk)
            yield chunk

    def facts(self, last: Piece | None) -> dict[str, Any] | None:
        """Give what the manifest says of the data, None if nothing has come."""
        start = 0 if last is None else last.end
        if last is not None and start == self._end:
            return None
        newest = oldest = None
        for serial, time, end in self._growing.gen_commit_ends():
            if end <= start:
                break
            oldest = serial, time
            newest = newest or oldest
        first, last_commit = oldest or (None, None), newest or (None, None)
        return {
            "start": start,
            "end": self._end,
            "state": self._digest.hexdigest(),
            "first_serial": first[0],
            "first_time": first[1],
            "last_serial": last_commit[0],
            "last_time": last_commit[1],
        }

    def _take(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self._start += len(chunk)
        self._progress(self._start)

    def _why_replaced(self, last: Piece) -> Break:
        """Say what became of the file that was backed up."""
        if last.last_serial is None:
            return Break("the file was replaced since, by a pack perhaps")
        oldest_serial = 0
        for serial, time, end in self._growing.gen_commit_ends():
            oldest_serial = serial
            if serial > last.last_serial:
                continue
            if (serial, time) != (last.last_serial, last.last_time):
                break
            if end == last.end:
                return Break(
                    "the file differs from that backup, although the commit is in the same place;"
                    " 'durus check' tells whether it is damaged"
                )
            return Break("the file was packed since")
        if oldest_serial > last.last_serial:
            return Break("the file was packed since")
        return Break(
            f"the last backup ends with commit {last.last_serial} of {last.last_time}, and the"
            " database has no such commit; it was restored, repaired or made anew",
            is_other=True,
        )


def _gen_checked(catalog: Catalog, chain: list[Piece], damages: list[str]) -> Iterator[bytes]:
    """Yield what pieces hold up to the first one that is not what was written; note that one."""
    try:
        for piece in chain:
            yield from gen_data(catalog, piece)
    except CorruptionError as error:
        damages.append(str(error))


def restore_file(
    catalog: Catalog,
    chain: list[Piece],
    path: str,
    is_wanted: Callable[[int, datetime], bool] | None,
    progress: Progress,
) -> tuple[int | None, datetime | None]:
    """Make a file of the pieces of a chain, and cut it after a commit.

    Args:
        catalog: where the pieces are.
        chain: a full piece, and those after it.
        path: the new file.
        is_wanted: told serial and time; the newest commit that it accepts is to be the last one.
            Without it, all that the pieces hold is restored.
        progress: is told how many bytes were written.

    Returns:
        Serial and time of the last commit, None where it has none.

    Raises:
        CorruptionError: a piece is not what was written, or what they make is no database.
        StorageError: no commit is accepted.
        OSError: the system refused.
    """
    digest = sha256()
    with open(path, "xb") as file:
        for piece in chain:
            if file.tell() != piece.start:
                raise CorruptionError(
                    f"piece {piece.name} does not begin where the one before ends"
                )
            for chunk in gen_data(catalog, piece):
                file.write(chunk)
                digest.update(chunk)
                progress(file.tell())
            if digest.hexdigest() != piece.state:
                raise CorruptionError(
                    f"piece {piece.name} and those before do not make the file that was backed up"
                )
    if is_wanted is None:
        return _last_commit(path)
    found = _find_commit(path, is_wanted)
    os.truncate(path, found[2])
    if _last_commit(path) != found[:2]:
        raise CorruptionError(f"the file that was restored does not end with commit {found[0]}")
    return found[:2]


def _find_commit(
    path: str, is_wanted: Callable[[int, datetime], bool]
) -> tuple[int, datetime, int]:
    with open_storage(Path(path), readonly=True) as storage:
        for serial, time, end in _growing(storage).gen_commit_ends():
            if is_wanted(serial, time):
                return serial, time, end
    raise StorageError("none of the commits that were backed up is the one that is asked for")


def _last_commit(path: str) -> tuple[int | None, datetime | None]:
    """Open the file, which reads and checks its transactions, and give serial and time."""
    with open_storage(Path(path), readonly=True) as storage:
        # What is not whole at the end of a file is left out when it is opened.
        if storage.describe().size_bytes != os.path.getsize(path):
            raise CorruptionError(
                "the file that was restored does not end with a whole transaction"
            )
        for serial, time, _ in _growing(storage).gen_commit_ends():
            return serial, time
    return None, None


def _growing(storage: Storage) -> GrowingFile:
    if not isinstance(storage, GrowingFile):
        raise StorageError(f"{storage} is opened by a class that cannot tell where commits end")
    return storage
