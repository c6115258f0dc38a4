"""What a database was: its transactions, and the versions of one object, newest first.

Of any storage that keeps history. Nothing that a record names is imported or run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

from durus.error import DurusKeyError, NotSupportedError
from durus.serialize import extract_class_path
from durus.storage import Storage

__all__ = ["Change", "Transaction", "Version", "gen_transactions", "gen_versions"]


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction stored.

    Attributes:
        record_bytes: the length of the records together.
        classes: how many objects, by "module.Name" of their class.
    """

    record_bytes: int
    classes: Counter[str]


@dataclass(frozen=True, slots=True)
class Transaction:
    """A commit as of which the data can be read.

    Attributes:
        serial: its number.
        time: when it was committed, aware of its zone.
        change: what it stored; None where a pack has kept the state of then, but not that.
    """

    serial: int
    time: datetime
    change: Change | None


@dataclass(frozen=True, slots=True)
class Version:
    """A state of an object.

    Attributes:
        serial: the first commit as of which the object is so.
        time: when that was committed, aware of its zone.
        record: as it was stored; None if a pack removed the object.
        may_be_older: it is the first commit that is kept, which did not store the object, or of
            which that is not known any more.
    """

    serial: int
    time: datetime
    record: bytes | None
    may_be_older: bool


def gen_transactions(storage: Storage) -> Iterator[Transaction]:
    """Yield the transactions, newest first. Each reads the records that it stored.

    Raises:
        NotSupportedError: the storage keeps no history; that is told at once.
        CorruptionError: what tells of the past is damaged.
    """
    commits = list(storage.gen_commits())
    return (
        Transaction(serial, time, _change_of(storage, serial)) for serial, time in reversed(commits)
    )


def gen_versions(
    storage: Storage, oid: bytes, show: Callable[[int], None] = lambda _: None
) -> Iterator[Version]:
    """Yield the versions of an object, newest first. One that was stored again unchanged is one.

    Args:
        storage: where it is.
        oid: 8 bytes.
        show: is told how many commits were looked at.

    Raises:
        NotSupportedError: the storage keeps no history.
        DurusKeyError: the object is not stored as of any commit that is kept.
        CorruptionError: what tells of the past is damaged.
    """
    commits = list(storage.gen_commits())
    is_found = False
    record = _load_as_of(storage, oid, commits[-1][0]) if commits else None
    for place in reversed(range(len(commits))):
        show(len(commits) - place)
        serial, time = commits[place]
        before = _load_as_of(storage, oid, commits[place - 1][0]) if place else None
        if record != before:
            is_found = True
            is_oldest = not place and not _has_stored(storage, oid, serial)
            yield Version(serial, time, record, may_be_older=is_oldest)
        record = before
    if not is_found:
        raise DurusKeyError(oid)


def _change_of(storage: Storage, serial: int) -> Change | None:
    record_bytes, classes = 0, Counter[str]()
    try:
        for _, record in storage.gen_changes(serial):
            record_bytes += len(record)
            classes[extract_class_path(record)] += 1
    except NotSupportedError:
        return None
    return Change(record_bytes, classes)


def _load_as_of(storage: Storage, oid: bytes, serial: int) -> bytes | None:
    try:
        return storage.load_as_of(oid, serial)
    except DurusKeyError:
        return None


def _has_stored(storage: Storage, oid: bytes, serial: int) -> bool:
    try:
        return any(stored == oid for stored, _ in storage.gen_changes(serial))
    except NotSupportedError:
        return False
