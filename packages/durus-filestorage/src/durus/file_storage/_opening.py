"""From a path to an open Journal: making the file, judging it, recovering its end."""

from __future__ import annotations

from contextlib import suppress
from logging import WARNING

from durus.error import DurusError, StorageFormatError, StorageOpenError
from durus.file_storage._commit_record import Commit
from durus.file_storage._file import (
    File,
    create_file,
    create_temporary,
    exists,
    file_identity,
    lock_file,
    open_file,
    real_path,
    remove,
    rename_over,
    sync_directory,
    temporary_directory,
)
from durus.file_storage._format import (
    DamageError,
    Format,
    Layout,
    copy_range,
    crc_of_range,
)
from durus.file_storage._journal import INDEX_SUFFIX, NEW_SUFFIX, Journal
from durus.file_storage._packer import PACK_SUFFIX, PREPACK_SUFFIX
from durus.file_storage._recovery import corruption_error, judge_tail
from durus.file_storage._repair import REPAIR_SUFFIX, find_damage, repair_file
from durus.logger import log

__all__ = ["follow_writer", "has_magic", "open_journal", "open_temporary"]

TORN_SUFFIX = ".torn.new"

# What an interrupted pack, repair or writing of an index may have left. Only the one who has the
# lock makes these.
_LEFTOVERS = (
    PACK_SUFFIX,
    PREPACK_SUFFIX + NEW_SUFFIX,
    REPAIR_SUFFIX,
    TORN_SUFFIX,
    INDEX_SUFFIX + NEW_SUFFIX,
)

_OTHER_FORMATS = {
    b"SHELF-1\n": "a FileStorage database; open it with durus.file_storage.FileStorage",
    b"DFS20\0": "a FileStorage2 database; open it with durus.file_storage2.FileStorage2",
    b"SQLite format 3": "an SQLite database; open it with durus.sqlite_storage.SqliteStorage",
    b"FS2": "a ZODB FileStorage database, which Durus cannot read",
    b"FS3": "a ZODB FileStorage database, which Durus cannot read",
    b"\x1f\x8b": "a gzip file; unpack it first",
}


def open_journal(
    path: str,
    format: Format,
    *,
    readonly: bool = False,
    durable: bool = True,
    repair: bool = False,
) -> Journal:
    """Open a file, make it if it may be written and is not there, and find its committed state.

    Args:
        path: the file.
        format: what it is to be, and is made as.
        readonly: take no lock and change nothing.
        durable: sync each commit.
        repair: read everything, and if something is damaged, keep in its place what is not.

    Raises:
        StorageOpenError: or one of its kinds: the file cannot be opened, made or recovered.
        StorageFormatError: it is not of this format.
        CorruptionError: it is damaged.
    """
    if repair and readonly:
        raise StorageOpenError(f"tried to repair {path!r}, which was opened read-only", path)
    file = open_file(path, readonly=True) if readonly else lock_file(path, create=True)
    try:
        if not readonly:
            file = _prepare(file, format, repair=repair)
        return _read_journal(file, format, durable=durable)
    except OSError as error:
        file.close()
        if isinstance(error, DurusError):
            raise
        raise StorageOpenError(
            f"tried to open {path!r}, the system says: {error.strerror or error}", path
        ) from error
    except BaseException:
        file.close()
        raise


def open_temporary(format: Format) -> Journal:
    """Make an empty file that nobody else needs to see, to be removed when it is closed."""
    try:
        file = create_temporary(temporary_directory(), "durus-", ".durus")
        file.try_lock()
        file.write(0, format.empty_file)
    except OSError as error:
        raise StorageOpenError(f"tried to make a temporary file: {error}") from error
    layout = _layout(file, format)
    return Journal(file, file.path, format, layout, durable=False, keeps_index=False)


def follow_writer(journal: Journal) -> tuple[Journal, set[int]]:
    """Bring a journal that is open for reading up to what its writer has committed.

    Returns:
        The journal, another one if the file was replaced, and the oids that changed or are gone:
        if that cannot be told, every oid.

    Raises:
        StorageError: as when it is opened; then `journal` is as it was.
    """
    identity = file_identity(journal.path)
    if identity is None:
        # Its name is gone. What is open stays.
        return journal, set()
    changed: set[int] = set()
    if identity == journal.file.identity() and _can_follow(journal, changed):
        return journal, changed
    new = open_journal(journal.file.path, journal.format, readonly=True, durable=journal.durable)
    return new, _changes_between(journal, new)


def _can_follow(journal: Journal, changed: set[int]) -> bool:
    """Take in what was appended, unless what was taken in before is not there any more."""
    if not journal.is_current():
        return False
    limit = journal.file.length()
    try:
        journal.scan(limit, changed)
    except DamageError as damage:
        stop = judge_tail(journal.file, journal.format, journal.tip, damage, limit)
        return stop == journal.tip.end
    return True


def _changes_between(old: Journal, new: Journal) -> set[int]:
    """Give the oids whose records differ between a journal and the one that took its place.

    A pack leaves a base that says up to which commit it goes. If the old journal has this commit,
    then what came after its tip has changed, and what is not there any more.
    """
    base = new.layout.base_commit
    if base is None or old.tip.unproven or not _has_commit(old, base):
        return {*old.gen_oids(), *new.gen_oids()}
    changed = {oid_int for oid_int in old.gen_oids() if not new.find(oid_int)}
    scanner = new.format.scanner(new.file, new.tip.end)
    tip = new.layout.tip
    while tip.end < new.tip.end:
        tip, offsets = scanner.read(tip)
        if tip.unproven or tip.serial > old.tip.serial:
            changed.update(offsets)
    return changed


def _has_commit(journal: Journal, sought: Commit) -> bool:
    """Walk backwards to a commit of the same serial, and tell whether it is of the same time."""
    offset = journal.tip.commit_offset
    while offset:
        commit = journal.format.read_commit(journal.file, offset)
        if commit is None:
            return False
        if commit.serial <= sought.serial:
            return (commit.serial, commit.time_us) == (sought.serial, sought.time_us)
        offset = commit.previous
    return False


def has_magic(path: str, format: Format) -> bool:
    """Tell whether the file begins as one of the format does; false if it cannot be read."""
    try:
        file = open_file(path, readonly=True)
        return file.read(0, len(format.magic)) == format.magic
    except OSError:
        return False


def _prepare(file: File, format: Format, *, repair: bool) -> File:
    """Get a file ready that was opened for writing; give it, or the one that took its place."""
    path = real_path(file.path)
    _remove_leftovers(path)
    _make_empty_file(file, path, format)
    if not repair:
        return file
    _check_magic(file, format)
    reason = find_damage(file, format)
    if reason is None:
        return file
    log(WARNING, "%s is being repaired: found %s", file.path, reason)
    with suppress(OSError):
        remove(path + INDEX_SUFFIX)
    return repair_file(file, path, format)


def _read_journal(file: File, format: Format, *, durable: bool) -> Journal:
    path = real_path(file.path)
    _check_magic(file, format)
    layout = _layout(file, format)
    limit = stop = file.length()
    reason = ""
    uses_index = True
    while True:
        journal = Journal(file, path, format, layout, durable=durable)
        if not uses_index:
            journal.use_map()
        else:
            if not journal.use_index_file():
                journal.use_map()
            limit = file.length()
            stop = limit
        indexed_end = journal.tip.end
        try:
            journal.scan(stop)
            break
        except DamageError as damage:
            stop = judge_tail(file, format, journal.tip, damage, limit)
            reason = damage.reason
        if stop == journal.tip.end:
            break
        # The tail begins before what looked whole.
        uses_index = False
    if file.readonly:
        return journal
    if stop < limit:
        _set_tail_aside(file, path, stop, limit, reason)
    if journal.tip.end > indexed_end:
        _write_again(journal, indexed_end)
    journal.keep_index()
    return journal


def _write_again(journal: Journal, indexed_end: int) -> None:
    """Put on the disk what its writer may not have come to syncing, for now it is seen.

    It is written once more: if the writer's sync failed, the system may hold it in memory as if it
    had been written, and another sync proves nothing.
    """
    file = journal.file
    start = _first_in_doubt(journal, indexed_end)
    copy_range(file, start, journal.tip.end, file, start)
    file.sync()


def _first_in_doubt(journal: Journal, indexed_end: int) -> int:
    """Give the file offset before which all was synced: of the last transaction that says so."""
    tip, format = journal.tip, journal.format
    if tip.unproven:
        return max(tip.unproven, indexed_end)
    offset = tip.commit_offset
    commit = format.read_commit(journal.file, offset)
    while commit is not None and not commit.follows_sync and commit.previous > indexed_end:
        offset = commit.previous
        commit = format.read_commit(journal.file, offset)
    if commit is None:
        return indexed_end
    return max(format.start_at_most(offset, commit), indexed_end)


def _layout(file: File, format: Format) -> Layout:
    length = file.length()
    try:
        return format.read_layout(file, length)
    except DamageError as damage:
        proof = "nothing is written there later"
        raise corruption_error(file, format, damage, proof, length) from damage


def _remove_leftovers(path: str) -> None:
    for suffix in _LEFTOVERS:
        with suppress(OSError):
            remove(path + suffix)


def _make_empty_file(file: File, path: str, format: Format) -> None:
    """Write what a new file holds, over nothing or over what an earlier attempt left of it.

    Over what looks right as well: if the sync of that failed, it is in memory alone, and another
    sync does not write it. The name is synced each time: whoever gave the file its name may not
    have come to it.
    """
    empty = format.empty_file
    if file.length() <= len(empty):
        head = file.read(0, len(empty))
        if empty.startswith(head.rstrip(b"\0")):
            file.write(0, empty)
        file.sync_all()
    sync_directory(path)


def _check_magic(file: File, format: Format) -> None:
    head = file.read(0, 16)
    if head.startswith(format.magic):
        return
    found = "an empty file" if not head else f"something that begins with {head[:8]!r}"
    for start, name in _OTHER_FORMATS.items():
        if head.startswith(start):
            found = name
    raise StorageFormatError(
        f"tried to open {file.path!r} as a {format.class_name} database, found {found}", file.path
    )


def _set_tail_aside(file: File, path: str, start: int, limit: int, reason: str) -> None:
    """Move what is not whole into a file of its own, and cut it off.

    The copy is on the disk before anything is cut. Interrupted, it is begun again.
    """
    aside_path = _free_aside_path(file, f"{path}.torn-{start}", start, limit)
    if not exists(aside_path):
        new_path = path + TORN_SUFFIX
        remove(new_path)
        aside = create_file(new_path)
        try:
            aside.adopt_mode_and_owner(file)
            copy_range(file, start, limit, aside, 0)
            aside.sync_all()
            rename_over(new_path, aside_path)
        finally:
            aside.close()
        sync_directory(path)
    file.truncate(start)
    file.sync_all()
    log(
        WARNING,
        "%s ended with %d bytes that are no whole transaction (found %s). They were never"
        " acknowledged; they are now in %s",
        file.path,
        limit - start,
        reason,
        aside_path,
    )


def _free_aside_path(file: File, path: str, start: int, limit: int) -> str:
    """Give the path where the tail is already, from an interrupted attempt, or one that is free."""
    number = 1
    candidate = path
    while exists(candidate) and not _holds(candidate, file, start, limit):
        number += 1
        candidate = f"{path}-{number}"
    return candidate


def _holds(path: str, file: File, start: int, limit: int) -> bool:
    try:
        aside = open_file(path, readonly=True)
        if aside.length() != limit - start:
            return False
        return crc_of_range(aside, 0, limit - start) == crc_of_range(file, start, limit)
    except (OSError, DamageError):
        return False
