"""A folder of backups: pieces, the manifest of each, and which of them belong together.

::

    000001-full.data         what was stored, or what has come since the piece before
    000001-full.json         its manifest: what it holds, its length, its SHA-256
    000002-increment.data
    000002-increment.json
    000003-full.data         a full piece begins a new chain
    ...

A piece is there when its manifest is. The manifest is written last, when the data is on the disk
and was read back, and gets its name in one step. So a crash leaves at most data without a manifest,
which nobody reads, and the next piece of that number takes its place. No piece is ever changed.
Only the user who made it may read it.

A manifest is JSON. It says its own SHA-256, and that of the manifest before it in the chain: none
can be changed, left out or put in from elsewhere without notice.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from durus.error import (
    CorruptionError,
    StorageError,
    StorageLockedError,
    StorageMissingError,
    StorageOpenError,
    StorageWriteError,
)
from durus.tools._new_file import sync_folder

__all__ = [
    "CHUNK_BYTES",
    "Break",
    "Catalog",
    "Piece",
    "Problem",
    "find_problems",
    "gen_data",
    "locked",
    "read_catalog",
    "write_piece",
]

CHUNK_BYTES = 1 << 20

# The number of the manifest's form.
_FORM = 1

_NAME = re.compile(r"(\d{6,})-(full|increment)\.(json|data)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a manifest says.

    Attributes:
        number: 1, 2, 3, ... in the folder.
        kind: "full" or "increment".
        method: "file" where the piece holds bytes of a file that only grows, "records" else.
        format: the format of the storage, such as "SHELF-1"; "" if it does not tell.
        database: the name of what was backed up, such as an absolute path or a URL.
        made: no earlier than the state that was backed up was committed, nor later than any commit
            that is not part of it.
        start: where the piece before ends; 0 in a full one.
        end: the length of the file in bytes; of records, how many there are.
        size_bytes: the length of the data.
        sha256: of the data.
        state: a proof of all that is restored from the chain up to here.
        first_serial: the oldest commit that can be restored from this piece and not from the one
            before; None where commits have no serials.
        first_time: when it was.
        last_serial: the newest one.
        last_time: when it was.
        previous: the SHA-256 of the manifest before; "" in a full piece.
        manifest: the SHA-256 of this manifest.
    """

    number: int
    kind: str
    method: str
    format: str
    database: str
    made: datetime
    start: int
    end: int
    size_bytes: int
    sha256: str
    state: str
    first_serial: int | None
    first_time: datetime | None
    last_serial: int | None
    last_time: datetime | None
    previous: str
    manifest: str = ""

    @property
    def name(self) -> str:
        """The name of its files, without their endings."""
        return f"{self.number:06}-{self.kind}"

    def as_json(self) -> dict[str, Any]:
        """Give the manifest as what JSON can say."""
        values = {"durus_backup": _FORM, **asdict(self)}
        return {
            key: value.isoformat() if isinstance(value, datetime) else value
            for key, value in values.items()
        }

    def proof(self) -> str:
        """Give the SHA-256 of all else that the manifest says."""
        values = self.as_json()
        del values["manifest"]
        return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


class Problem(NamedTuple):
    """What is wrong with a piece: its number, and what was found, naming it."""

    number: int
    text: str


class Break(NamedTuple):
    """Why a database does not go on where a chain ended.

    Attributes:
        reason: what was found.
        is_other: it is not what became of that state.
    """

    reason: str
    is_other: bool = False


@dataclass(frozen=True, slots=True)
class Catalog:
    """What a folder holds.

    Attributes:
        folder: its path.
        pieces: by number, ascending: those whose manifest proves itself.
        problems: the numbers that are missing between them, or whose manifest or data is not right
            as far as that shows without reading the data, ascending.
        last_number: the highest number in use.
    """

    folder: str
    pieces: dict[int, Piece]
    problems: list[Problem]
    last_number: int

    def chains(self) -> list[list[Piece]]:
        """Give the pieces that begin with a full one each, oldest first."""
        chains: list[list[Piece]] = []
        for piece in self.pieces.values():
            if piece.kind == "full":
                chains.append([piece])
            elif chains:
                chains[-1].append(piece)
        return chains

    def problem_within(self, first: int, last: int) -> Problem | None:
        """Give what is wrong with the first of these numbers that something is wrong with."""
        return next((found for found in self.problems if first <= found.number <= last), None)

    def path_of(self, piece: Piece) -> str:
        return os.path.join(self.folder, f"{piece.name}.data")


@contextmanager
def locked(folder: str) -> Iterator[None]:
    """Keep other backups out of a folder, which is made if it is not there.

    Raises:
        StorageLockedError: another backup is being written into it.
        StorageOpenError: it cannot be made or opened.
    """
    try:
        with suppress(FileExistsError):
            os.mkdir(folder)
            sync_folder(os.path.dirname(os.path.abspath(folder)))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        text = f"tried to back up into {folder!r}, the system says: {error.strerror or error}"
        raise StorageOpenError(text, folder) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageLockedError(
                f"tried to back up into {folder!r}, but another backup is being written there;"
                " try again when it is done",
                folder,
            ) from None
        yield
    finally:
        os.close(descriptor)


def read_catalog(folder: str) -> Catalog:
    """Read all manifests in a folder, and look whether their data is there.

    Raises:
        StorageMissingError: there is no such folder.
        StorageOpenError: it cannot be read.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        raise StorageMissingError(f"there is no folder {folder!r} with backups", folder) from None
    except OSError as error:
        raise _unreadable(folder, error) from error
    matches = sorted((int(match[1]), match[0]) for match in map(_NAME.fullmatch, names) if match)
    manifests = [(number, name) for number, name in matches if name.endswith(".json")]
    pieces: dict[int, Piece] = {}
    problems = []
    for number, name in manifests:
        path = os.path.join(folder, name)
        try:
            piece = _read_manifest(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        if piece is None or piece.number != number or f"{piece.name}.json" != name:
            problems.append(Problem(number, f"piece {name} is damaged: it does not prove itself"))
        elif number in pieces:
            problems.append(Problem(number, f"piece {name} is there twice"))
        else:
            pieces[number] = piece
            problems += _problems_of_data(folder, piece)
    seen = {number for number, _ in manifests}
    problems += [Problem(number, f"piece {number:06} is missing") for number in _gaps(seen, pieces)]
    problems += _problems_of_order(pieces)
    return Catalog(folder, pieces, sorted(problems), max(seen, default=0))


def write_piece(
    catalog: Catalog, chunks: Iterator[bytes], describe: Callable[[], dict[str, Any] | None]
) -> Piece | None:
    """Write a piece: data, then manifest. When it returns, both survive the loss of power.

    Args:
        catalog: what the folder holds; it is locked.
        chunks: the data.
        describe: gives what the manifest says but for number, size_bytes, sha256 and manifest, or
            None if nothing is worth a piece. It is called when all chunks were taken.

    Returns:
        The piece, or None if none was written.

    Raises:
        StorageWriteError: the system refused, or gives back other bytes than were written. The
            earlier pieces are as they were.
    """
    number = catalog.last_number + 1
    data_path = os.path.join(catalog.folder, f"{number:06}.data.new")
    manifest_path = os.path.join(catalog.folder, f"{number:06}.json.new")
    try:
        _remove_leftovers(catalog)
        size_bytes, digest = _write_data(data_path, chunks)
        facts = describe()
        if facts is None:
            return None
        _check_written(data_path, size_bytes, digest)
        piece = Piece(number=number, size_bytes=size_bytes, sha256=digest, **facts)
        piece = Piece(**_values_of(piece) | {"manifest": piece.proof()})
        os.replace(data_path, catalog.path_of(piece))
        sync_folder(catalog.folder)
        with open(manifest_path, "w", encoding="utf-8", opener=_open_private) as file:
            json.dump(piece.as_json(), file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        # From here on the piece is there. Whether that survives is known after the sync.
        os.replace(manifest_path, os.path.join(catalog.folder, f"{piece.name}.json"))
        sync_folder(catalog.folder)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageWriteError(
            f"tried to write a backup into {catalog.folder!r}, the system says:"
            f" {error.strerror or error}; the earlier pieces are as they were"
        ) from error
    finally:
        for path in (data_path, manifest_path):
            with suppress(OSError):
                os.remove(path)
    return piece


def gen_data(catalog: Catalog, piece: Piece) -> Iterator[bytes]:
    """Yield the data of a piece in chunks, and check at its end that it is what was written.

    Raises:
        CorruptionError: it is not, or is not there; the message names the piece.
        StorageError: the system does not let us read.
    """
    path = catalog.path_of(piece)
    digest = sha256()
    size_bytes = 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                size_bytes += len(chunk)
                yield chunk
    except FileNotFoundError:
        raise CorruptionError(_lost_text(piece), path=path) from None
    except OSError as error:
        raise StorageError(f"tried to read {path!r}, the system says: {error.strerror}") from error
    if size_bytes != piece.size_bytes:
        raise CorruptionError(_short_text(piece, size_bytes), path=path)
    if digest.hexdigest() != piece.sha256:
        raise CorruptionError(
            f"piece {piece.name}.data is damaged: its SHA-256 is not that of its manifest",
            path=path,
        )


def find_problems(
    catalog: Catalog,
    progress: Callable[[int], object] = lambda done: None,  # noqa: ARG005 - nobody watches
) -> list[Problem]:
    """Give all that is wrong with the pieces, ascending: their data is read.

    Args:
        catalog: what is in the folder.
        progress: called now and then with how many bytes of data were read.

    Raises:
        StorageError: the system does not let us read.
    """
    # What is missing or short is told in the same words as without reading.
    problems = set(catalog.problems)
    done_bytes = 0
    for piece in catalog.pieces.values():
        try:
            for chunk in gen_data(catalog, piece):
                done_bytes += len(chunk)
                progress(done_bytes)
        except CorruptionError as error:
            problems.add(Problem(piece.number, str(error)))
    return sorted(problems)


def _remove_leftovers(catalog: Catalog) -> None:
    """Remove the data that an interrupted backup left: it has the next number and no manifest."""
    for kind in ("full", "increment"):
        with suppress(FileNotFoundError):
            os.remove(os.path.join(catalog.folder, f"{catalog.last_number + 1:06}-{kind}.data"))


def _values_of(piece: Piece) -> dict[str, Any]:
    return {field.name: getattr(piece, field.name) for field in fields(piece)}


def _unreadable(path: str, error: OSError) -> StorageOpenError:
    text = f"tried to read the backups in {path!r}, the system says: {error.strerror or error}"
    return StorageOpenError(text, path)


def _read_manifest(path: str) -> Piece | None:
    """Give what a manifest says, None if it does not prove itself."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
        if values.pop("durus_backup") != _FORM:
            return None
        for key in ("made", "first_time", "last_time"):
            if values[key] is not None:
                values[key] = datetime.fromisoformat(values[key]).astimezone(UTC)
        piece = Piece(**values)
        return piece if piece.manifest == piece.proof() else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _problems_of_data(folder: str, piece: Piece) -> Iterator[Problem]:
    try:
        size_bytes = os.stat(os.path.join(folder, f"{piece.name}.data")).st_size
    except FileNotFoundError:
        yield Problem(piece.number, _lost_text(piece))
        return
    if size_bytes != piece.size_bytes:
        yield Problem(piece.number, _short_text(piece, size_bytes))


def _gaps(seen: set[int], pieces: dict[int, Piece]) -> Iterator[int]:
    """Yield the numbers that are missing; not of the oldest chains, which may be removed."""
    first = min(seen, default=0)
    if first in pieces and pieces[first].kind == "increment":
        yield first - 1
    yield from (number for number in range(first, max(seen, default=0)) if number not in seen)


def _problems_of_order(pieces: dict[int, Piece]) -> Iterator[Problem]:
    """Tell of each increment that does not continue the piece before it, where that is there."""
    for number, piece in pieces.items():
        before = pieces.get(number - 1)
        if piece.kind == "full" or before is None or piece.previous == before.manifest:
            continue
        yield Problem(number, f"piece {piece.name} does not continue {before.name}")


def _lost_text(piece: Piece) -> str:
    return f"piece {piece.name}.data is missing"


def _short_text(piece: Piece, size_bytes: int) -> str:
    return (
        f"piece {piece.name}.data is damaged: it has {size_bytes:,} bytes, its manifest says"
        f" {piece.size_bytes:,}"
    )


def _write_data(path: str, chunks: Iterator[bytes]) -> tuple[int, str]:
    digest = sha256()
    size_bytes = 0
    with open(path, "wb", opener=_open_private) as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size_bytes += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return size_bytes, digest.hexdigest()


def _open_private(path: str, flags: int) -> int:
    """Open a file that only this user may read, as the database may be one."""
    return os.open(path, flags, 0o600)


def _check_written(path: str, size_bytes: int, digest: str) -> None:
    """Read back what was written: from the disk, where the system can be told to forget it."""
    found = sha256()
    found_bytes = 0
    with open(path, "rb") as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
            found_bytes += len(chunk)
    if (found_bytes, found.hexdigest()) != (size_bytes, digest):
        raise StorageWriteError(
            f"wrote a backup to {path!r}, which reads back as something else: the disk or the"
            " memory of this machine is not to be trusted; nothing of the piece is left"
        )
