"""An SqliteStorage that is opened as of a past commit: the state of then, as long as it is kept."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.backends import open_storage
from durus.connection import Connection
from durus.database import Database
from durus.error import (
    NotSupportedError,
    StorageError,
    StorageMissingError,
    StorageOpenError,
    StorageReadOnlyError,
)
from durus.serialize import ROOT_OID
from durus.sqlite_storage import SqliteStorage
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Open = Callable[..., SqliteStorage]

ONE, TWO = int8_to_str(1), int8_to_str(2)


def newest(storage: SqliteStorage) -> int:
    return list(storage.gen_commits())[-1][0]


def age(path: Path, hours: int) -> None:
    """Make all that was committed so far older."""
    db = sqlite3.connect(path)
    for table, column in (("durus_history", "until_us"), ("durus_commits", "time_us")):
        db.execute(f"UPDATE {table} SET {column} = {column} - {hours * 3_600_000_000}")
    db.commit()
    db.close()


def test_it_stays_beside_writers_and_packs(open_here: Open) -> None:
    """Whatever is committed or removed since, each opening gives what was stored then."""
    storage = open_here(history="1h")
    states: dict[int, dict[bytes, bytes]] = {}
    pasts: dict[int, SqliteStorage] = {}
    for refs in ([ONE, TWO], [ONE], []):
        records = [make_record(oid, payload=b"%d" % len(refs)) for oid in refs]
        commit(storage, make_record(ROOT_OID, refs), *records)
        serial = newest(storage)
        states[serial] = dict(storage.gen_oid_record())
        pasts[serial] = open_here(at=serial)
    storage.pack()
    assert set(dict(storage.gen_oid_record())) == {ROOT_OID}
    for serial, state in states.items():
        for past in (pasts[serial], open_here(at=serial), pasts[serial].new_session()):
            assert isinstance(past, SqliteStorage)
            assert past.sync() == []
            assert dict(past.gen_oid_record()) == state
            assert {oid: past.load(oid) for oid in state} == state
            assert newest(past) == past.describe().as_of == serial
            past.close()


def test_more_objects_than_are_listed_at_once(open_here: Open) -> None:
    """Those that are as they were and those that were overwritten come in one order."""
    storage = open_here(history="1h")
    commit(storage, *(make_record(int8_to_str(n)) for n in range(3500)))
    serial = newest(storage)
    commit(storage, *(make_record(int8_to_str(n), payload=b"new") for n in range(0, 3600, 3)))
    found = list(open_here(at=serial).gen_oid_record())
    assert found == [(int8_to_str(n), make_record(int8_to_str(n))) for n in range(3500)]


def test_a_connection_reads_and_does_not_write(path: Path) -> None:
    """Objects are those of then, in a Connection and in a Database; changes are refused."""
    with Connection(SqliteStorage(path, history="1h")) as connection:
        root = connection.get_root()
        for n in range(2):
            root["n"] = n
            connection.commit()
        storage = connection.get_storage()
        assert isinstance(storage, SqliteStorage)
        serial = newest(storage) - 1
        with Connection(f"sqlite:{path}?at={serial}") as past:
            root["n"] = 2
            connection.commit()
            past.abort()
            then = past.get_root()
            assert then["n"] == 0
            then["n"] = 1
            with pytest.raises(StorageReadOnlyError):
                past.commit()
    with Database(f"sqlite:{path}?at={serial}") as database, database.transaction() as then:
        assert then["n"] == 0


def test_what_is_not_kept_any_more_is_refused(path: Path, open_here: Open) -> None:
    """A state is given whole or not at all: from when it is too old, no load gives a part of it."""
    storage = open_here(history="3h")
    commit(storage, make_record(ROOT_OID), make_record(ONE))
    serial = newest(storage)
    commit(storage, make_record(ROOT_OID, payload=b"newer"))
    past, idle = open_here(at=serial), open_here(at=serial)
    assert past.load(ROOT_OID) == make_record(ROOT_OID)
    age(path, 4)
    assert past.load(ONE) == make_record(ONE)
    past.sync()
    for each in (past, idle):
        with pytest.raises(StorageError, match=f"as of commit {serial}, of which not all"):
            each.load(ONE)
        with pytest.raises(StorageError, match=f"as of commit {serial}, of which not all"):
            list(each.gen_oid_record())
    with pytest.raises(StorageOpenError, match=f"as of commit {serial}, found that"):
        open_here(at=serial)


def test_without_history_there_is_no_past(path: Path, open_here: Open) -> None:
    """The error says how to keep it; a file that is not there is not made."""
    with pytest.raises(StorageMissingError):
        open_here(at=1)
    assert not path.exists()
    storage = open_here()
    commit(storage, make_record(ROOT_OID))
    for at in (1, 2, "2026-11-28"):
        with pytest.raises(NotSupportedError, match='open it with history="7d"'):
            open_here(at=at)


def test_a_database_of_durus_43_has_no_past(path: Path) -> None:
    """It is left as it is: to open it so is no reason to upgrade it."""
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE objects (id INTEGER PRIMARY KEY, data BLOB, refs BLOB)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(NotSupportedError):
        SqliteStorage(path, at=1)
    assert path.read_bytes() == before


def test_what_does_not_go_together(path: Path, open_here: Open, tmp_path: Path) -> None:
    """History cannot be set in a past state, nor SQLite's backup made of one."""
    storage = open_here(history="1h")
    commit(storage, make_record(ROOT_OID))
    serial = newest(storage)
    with pytest.raises(StorageReadOnlyError):
        open_storage(path, history="1d", at=serial)
    with pytest.raises(NotSupportedError, match="the newest state alone"):
        open_here(at=serial).copy(tmp_path / "copy.sqlite")
    assert not (tmp_path / "copy.sqlite").exists()


def test_what_durus_43_overwrites_is_there(path: Path, open_here: Open) -> None:
    """Each row that it writes or deletes is a commit, and can be opened."""
    storage = open_here(history="1h")
    commit(storage, make_record(ROOT_OID), make_record(ONE))
    before = newest(storage)
    db = sqlite3.connect(path)
    db.execute("INSERT OR REPLACE INTO objects (id, data, refs) VALUES (0, x'00', x'')")
    db.execute("DELETE FROM objects WHERE id = 1")
    db.commit()
    db.close()
    found = [dict(open_here(at=serial).gen_oid_record()) for serial in range(before, before + 3)]
    theirs = ROOT_OID + b"\0\0\0\1\0"
    assert found == [
        {ROOT_OID: make_record(ROOT_OID), ONE: make_record(ONE)},
        {ROOT_OID: theirs, ONE: make_record(ONE)},
        {ROOT_OID: theirs},
    ]
