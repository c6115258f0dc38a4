"""Backups of a database that is in use, in full and in increments, and what is restored from them.

A file of FileStorage or FileStorage2 grows only at its end. So what has come since the last piece
is the bytes after it, if those before are still the same; and a file can be restored as of every
commit in it. A pack makes another file, of which the next piece is a full one.

Of every other storage the records are kept, as one session sees them: in an increment those that
have changed since the piece before. It can be restored as it was at each backup. Where the storage
keeps history that reaches back to the piece before, the increment has each commit since, and it can
be restored as of every one.

How the pieces lie in their folder is drawn in `_backup_folder`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from durus.backends import storage_class
from durus.error import CorruptionError, StorageError, StorageOpenError, StorageWriteError
from durus.storage import Storage
from durus.tools._backup_folder import (
    Catalog,
    Piece,
    Problem,
    find_problems,
    locked,
    read_catalog,
    write_piece,
)
from durus.tools._commit_pieces import CommitSource, HistoryGap
from durus.tools._file_pieces import FileSource, GrowingFile, restore_file
from durus.tools._new_file import give_name, refuse_existing
from durus.tools._record_pieces import RecordSource, restore_records
from durus.tools._work_folder import work_folder

__all__ = [
    "Backup",
    "Catalog",
    "Piece",
    "Problem",
    "Restored",
    "back_up",
    "find_problems",
    "needed_pieces",
    "read_catalog",
    "restore",
]

Progress = Callable[[int], object]
_Source: TypeAlias = FileSource | RecordSource | CommitSource

# What opens the records of a storage of which that is known; of others FileStorage does.
_SCHEMES = {"SQLite": "sqlite", "DFS20": "file2"}


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup did.

    Attributes:
        piece: what was written, or the last piece if nothing has changed since.
        is_written: a piece was written.
        reason: why it is a full one, or has the difference in place of each commit, where the
            storage keeps history; "" for any other increment.
    """

    piece: Piece
    is_written: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored.

    Attributes:
        pieces: what it was made of.
        serial: the last commit in it; None where commits have no serials.
        time: when that was; of records whose commit is not known, when they were backed up.
        size_bytes: the length of the file.
    """

    pieces: list[Piece]
    serial: int | None
    time: datetime | None
    size_bytes: int


def back_up(
    storage: Storage,
    folder: str,
    name: str,
    *,
    full: bool = False,
    progress: Progress = lambda done: None,  # noqa: ARG005 - nobody watches
) -> Backup:
    """Back up the newest committed state into a folder, while others commit.

    Args:
        storage: a session that nobody else uses, for `sync` is called.
        folder: where the pieces are; made if it is not there.
        name: how the database is called, the same each time: its absolute path, or a URL.
        full: begin a new chain.
        progress: called now and then with how many bytes of the file, or records, were read.

    Raises:
        StorageOpenError: the folder holds backups of another database, or of another past of it.
        StorageLockedError: another backup is being written into the folder.
        StorageWriteError: the system refused. The earlier pieces are as they were.
        StorageError: what reading raises, or the storage gave up the state that was being read.
    """
    if storage.describe().as_of is not None:
        raise StorageError(
            f"tried to back up {name!r} as of an earlier commit; back up all of it, 'durus restore"
            " --at' gives every commit, or make a file of this one with 'durus copy'"
        )
    made = datetime.now(UTC)
    source = _source_of(storage, progress)
    with locked(folder):
        catalog = read_catalog(folder)
        chain, reason = _chain_to_continue(catalog, source.method)
        if full:
            chain, reason = [], "it was asked for"
        found = source.follow(catalog, chain) if chain else None
        _check_database(catalog, name, goes_on=bool(chain) and not found)
        if found:
            if found.is_other:
                raise StorageOpenError(
                    f"tried to continue the backups in {folder!r}: {found.reason}; begin a new"
                    " chain with --full",
                    folder,
                )
            chain, reason = [], found.reason
        last = chain[-1] if chain else None

        def manifest(source: _Source) -> dict[str, Any] | None:
            facts = source.facts(last)
            return facts and {
                "kind": "increment" if last else "full",
                "method": source.method,
                "format": storage.describe().format or "",
                "database": name,
                "made": made,
                "previous": last.manifest if last else "",
                **facts,
            }

        def write(source: _Source) -> Piece | None:
            return write_piece(catalog, source.gen_chunks(), lambda: manifest(source))

        if last and isinstance(source, RecordSource) and storage.keeps_history:
            try:
                piece = write(CommitSource(source, last))
            except HistoryGap as gap:
                piece, reason = write(source), f"not each commit: {gap}"
        else:
            piece = write(source)
    if piece is None:
        return Backup(chain[-1], is_written=False, reason="")
    return Backup(piece, is_written=True, reason=reason)


def restore(
    folder: str,
    target: str,
    at: int | datetime | None = None,
    *,
    progress: Progress = lambda done: None,  # noqa: ARG005 - nobody watches
) -> Restored:
    """Make a new file of what was backed up. It gets its name when it is whole and on the disk.

    Only this user may open it: who could open the database is not known. Until then it is in a
    folder beside it, whose name begins with that of the target and `.restoring-`. What a crash has
    left of a restore to the same path is removed.

    Args:
        folder: where the pieces are.
        target: the path of the new file.
        at: the serial of a commit, or a time: the last commit that was not later; of records whose
            commits are not known, the last backup that was not later. None is the last backup.
        progress: called now and then with how many bytes were read of the data of
            `needed_pieces`.

    Raises:
        StorageMissingError: there is no such folder.
        StorageOpenError: there is something at `target`.
        CorruptionError: a piece is damaged or missing; the message names it.
        StorageError: what is asked for was not backed up.
        StorageWriteError: the system refused; nothing is left of the file.
    """
    catalog = read_catalog(folder)
    chain = _chain_as_of(catalog, at)
    refuse_existing(target, "restore to")
    try:
        with work_folder(Path(target), "restoring") as made:
            path = str(made / Path(target).name)
            serial, time = _restore_to(catalog, chain, path, at, progress)
            size_bytes = os.path.getsize(path)
            # Who could read the database that was backed up is not known.
            os.chmod(path, 0o600)
            give_name(path, target, "restore to")
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageWriteError(
            f"tried to restore to {target!r}, the system says: {error.strerror or error}"
        ) from error
    return Restored(chain, serial, time, size_bytes)


# Which pieces.


def needed_pieces(folder: str, at: int | datetime | None = None) -> list[Piece]:
    """Give the pieces that `restore` reads for a moment, the first a full one.

    Raises:
        StorageMissingError, CorruptionError, StorageError: what `restore` raises of the same.
    """
    return _chain_as_of(read_catalog(folder), at)


def _chain_to_continue(catalog: Catalog, method: str) -> tuple[list[Piece], str]:
    """Give the last chain if another piece may follow it, or why not."""
    chains = catalog.chains()
    if not chains:
        problem = catalog.problem_within(0, catalog.last_number)
        return [], problem.text if problem else "it is the first in this folder"
    chain = chains[-1]
    problem = catalog.problem_within(chain[0].number, catalog.last_number)
    if problem:
        return [], problem.text
    if (chain[-1].method == "file") != (method == "file"):
        return [], "the storage is another one now"
    return chain, ""


def _chain_as_of(catalog: Catalog, at: int | datetime | None) -> list[Piece]:
    """Give a full piece and those after it that are needed, all of them good as far as that shows.

    Raises:
        CorruptionError: one is not.
        StorageError: nothing that was backed up fits.
    """
    chains = catalog.chains()
    if not chains:
        problem = catalog.problem_within(0, catalog.last_number)
        raise StorageError(
            f"tried to restore from {catalog.folder!r}: "
            + (problem.text if problem else "there is no backup in it")
        )
    if at is None:
        chain, last_number = chains[-1], catalog.last_number
    else:
        chain = _chain_with_serial(catalog, at) if isinstance(at, int) else _chain_at(catalog, at)
        last_number = chain[-1].number
    problem = catalog.problem_within(chain[0].number, last_number)
    if problem:
        raise CorruptionError(
            f"tried to restore from {catalog.folder!r}: {problem.text}; --at restores an earlier"
            " state, --list tells which pieces are good",
            path=catalog.folder,
        )
    return chain


def _chain_with_serial(catalog: Catalog, serial: int) -> list[Piece]:
    for chain in reversed(catalog.chains()):
        for position in range(len(chain), 0, -1):
            first, last = chain[position - 1].first_serial, chain[position - 1].last_serial
            if first is not None and last is not None and first <= serial <= last:
                return chain[:position]
    raise StorageError(
        f"tried to restore commit {serial} from {catalog.folder!r}, where no backup holds it;"
        " --list tells which do"
    )


def _chain_at(catalog: Catalog, moment: datetime) -> list[Piece]:
    """Give the pieces that tell what was stored at a moment.

    Raises:
        StorageError: that is not known.
    """
    chains = catalog.chains()
    newest = chains[-1][-1]
    if moment > newest.made:
        raise StorageError(
            f"tried to restore from {catalog.folder!r} as of {moment}, but the last backup there is"
            f" of {newest.made}; without --at that one is restored"
        )
    for position in range(len(chains) - 1, -1, -1):
        chain = chains[position]
        if (chain[0].first_time or chain[0].made) > moment:
            continue
        needed = _needed_at(chain, moment)
        if position + 1 < len(chains):
            _check_nothing_between(chain, chains[position + 1], moment)
        return needed
    raise StorageError(
        f"tried to restore from {catalog.folder!r} as of {moment}, which is before the first state"
        " that was backed up; --list tells of all"
    )


def _needed_at(chain: list[Piece], moment: datetime) -> list[Piece]:
    if chain[0].method != "file":
        known = [(piece.first_time or piece.made) <= moment for piece in chain]
        return chain[: len(chain) - known[::-1].index(True)]
    for position, piece in enumerate(chain[:-1], 1):
        # What was on its way when this piece was made has an earlier time, and is in the next one.
        first_time = chain[position].first_time
        if piece.made >= moment and (first_time is None or first_time > moment):
            return chain[:position]
    return chain


def _check_nothing_between(chain: list[Piece], following: list[Piece], moment: datetime) -> None:
    """Refuse a moment after the last backup of a file, if it had commits that no backup has."""
    last, first_serial = chain[-1], following[0].first_serial
    if last.method != "file" or moment <= last.made:
        return
    if last.last_serial is not None and first_serial is not None:
        if first_serial <= last.last_serial + 1:
            return
        text = f"commits {last.last_serial + 1} to {first_serial - 1}"
    else:
        text = "what was committed"
    raise StorageError(
        f"tried to restore as of {moment}, but {text} between piece {last.name} of {last.made} and"
        f" {following[0].name} never came into a backup; --at with the time of one of them restores"
        " that"
    )


# From where, and to where.


def _source_of(storage: Storage, progress: Progress) -> FileSource | RecordSource:
    """Move to the newest state, and give what tells it."""
    if isinstance(storage, GrowingFile):
        storage.sync()
        return FileSource(storage, storage, progress)
    return RecordSource(storage, progress)


def _check_database(catalog: Catalog, database: str, *, goes_on: bool) -> None:
    """Refuse a folder of another database.

    Args:
        catalog: the folder.
        database: its name.
        goes_on: what is in the folder is how this database begins.
    """
    last = next(reversed(catalog.pieces.values()), None)
    if last is None or last.database == database or (goes_on and last.method == "file"):
        return
    raise StorageOpenError(
        f"tried to back up {database!r} into {catalog.folder!r}, which holds backups of"
        f" {last.database!r}; choose another folder",
        catalog.folder,
    )


def _restore_to(
    catalog: Catalog,
    chain: list[Piece],
    path: str,
    at: int | datetime | None,
    progress: Progress,
) -> tuple[int | None, datetime | None]:
    last = chain[-1]
    if last.method == "file":
        return restore_file(catalog, chain, path, _test_for(at), progress)
    cls: Callable[[str], Storage] = storage_class(_SCHEMES.get(last.format, "file"))
    with cls(path) as storage:
        return restore_records(catalog, chain, storage, _test_for(at), progress)


def _test_for(at: int | datetime | None) -> Callable[[int, datetime], bool] | None:
    if at is None:
        return None
    if isinstance(at, int):
        return lambda serial, _time: serial == at
    return lambda _serial, time: time <= at
