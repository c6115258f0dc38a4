"""What is overwritten or removed is kept for as long as the user says."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.backends import open_storage
from durus.error import (
    BackendError,
    DurusKeyError,
    NotSupportedError,
    StorageError,
    StorageReadOnlyError,
)
from durus.serialize import ROOT_OID
from durus.sqlite_storage import SqliteStorage
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Open = Callable[..., SqliteStorage]

ONE = int8_to_str(1)


def rows_of(path: Path, sql: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    found = db.execute(sql).fetchall()
    db.close()
    return found


def test_history_is_off_at_first(path: Path, open_here: Open) -> None:
    """Unless it is asked for, nothing that is overwritten is kept; the error says how to ask."""
    storage = open_here()
    for n in range(3):
        commit(storage, make_record(ROOT_OID, payload=b"%d" % n))
    assert not storage.keeps_history
    assert rows_of(path, "SELECT * FROM durus_history") == []
    for read in (storage.gen_commits, lambda: storage.load_as_of(ROOT_OID, 1)):
        with pytest.raises(NotSupportedError, match='open it with history="7d"'):
            read()


def test_history_begins_when_it_is_asked_for(open_here: Open) -> None:
    """The state of then is the first that can be read; what a pack removes later is there too."""
    storage = open_here()
    commit(storage, make_record(ROOT_OID))
    commit(storage, make_record(ROOT_OID, [ONE]), make_record(ONE))
    open_here(history="7d").close()
    storage.sync()
    commit(storage, make_record(ROOT_OID))
    storage.pack()
    first, removing, *_, last = (serial for serial, _ in storage.gen_commits())
    assert storage.load_as_of(ROOT_OID, first) == make_record(ROOT_OID, [ONE])
    assert storage.load_as_of(ONE, first) == storage.load_as_of(ONE, removing) == make_record(ONE)
    with pytest.raises(DurusKeyError):
        storage.load_as_of(ONE, last)
    with pytest.raises(StorageError, match="as of commit"):
        storage.load_as_of(ROOT_OID, first - 1)


def test_what_durus_43_overwrites_is_kept_too(path: Path, open_here: Open) -> None:
    """Triggers keep the history of what is written and deleted as Durus 4.3 does it."""
    storage = open_here(history="1h")
    commit(storage, make_record(ROOT_OID), make_record(ONE))
    before = list(storage.gen_commits())[-1][0]
    db = sqlite3.connect(path)
    db.execute("INSERT OR REPLACE INTO objects (id, data, refs) VALUES (0, x'00', x'')")
    db.execute("DELETE FROM objects WHERE id = 1")
    db.commit()
    db.close()
    assert sorted(storage.sync() or ()) == [ROOT_OID, ONE]
    assert storage.load_as_of(ROOT_OID, before) == make_record(ROOT_OID)
    assert storage.load_as_of(ONE, before) == make_record(ONE)
    now = list(storage.gen_commits())[-1][0]
    assert storage.load_as_of(ROOT_OID, now)[12:] == b"\0"
    with pytest.raises(DurusKeyError):
        storage.load_as_of(ONE, now)


def test_history_is_forgotten_in_time(path: Path, open_here: Open) -> None:
    """What is older than the time that was chosen goes, with later commits."""
    storage = open_here(history="1h")
    for n in range(5):
        commit(storage, make_record(ROOT_OID, payload=b"%d" % n))
    assert len(rows_of(path, "SELECT * FROM durus_history")) == 4
    db = sqlite3.connect(path)
    db.execute("UPDATE durus_history SET until_us = until_us - 7200000000")
    db.execute("UPDATE durus_commits SET time_us = time_us - 7200000000")
    db.commit()
    db.close()
    storage.sync()
    assert len(list(storage.gen_commits())) == 1
    commit(storage, make_record(ROOT_OID, payload=b"last"))
    assert len(rows_of(path, "SELECT * FROM durus_history")) == 1


def test_history_belongs_to_the_database(path: Path, open_here: Open) -> None:
    """Whoever opens it keeps history, until somebody says otherwise; then it is gone."""
    open_here(history="2w").close()
    storage = open_here()
    assert storage.keeps_history
    for n in range(3):
        commit(storage, make_record(ROOT_OID, payload=b"%d" % n))
    assert len(rows_of(path, "SELECT * FROM durus_history")) == 2
    with open_storage(f"sqlite:{path}?history=0") as other:
        assert isinstance(other, SqliteStorage)
        assert not other.keeps_history
    commit(storage, make_record(ROOT_OID, payload=b"on"))
    assert rows_of(path, "SELECT * FROM durus_history") == []
    assert not storage.keeps_history


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "7 d", "7y", "1.5h", "٣d"])
def test_a_time_that_is_none_is_refused(path: Path, text: str) -> None:
    """What is no time says which are, and makes no file."""
    with pytest.raises(BackendError, match="takes a time such as 90m, 12h, 7d"):
        SqliteStorage(path, history=text)
    assert not path.exists()


def test_history_cannot_be_set_read_only(path: Path, open_here: Open) -> None:
    """To change what is kept is a write."""
    open_here()
    with pytest.raises(StorageReadOnlyError):
        SqliteStorage(path, readonly=True, history="7d")


def test_a_pack_stores_nothing(open_here: Open) -> None:
    """The commit of a pack has no changes; those before it have theirs, what it removed too."""
    storage = open_here(history="7d")
    commit(storage, make_record(ROOT_OID, [ONE]), make_record(ONE))
    commit(storage, make_record(ROOT_OID))
    storage.pack()
    *_, first, second, packed = (serial for serial, _ in storage.gen_commits())
    assert list(storage.gen_changes(packed)) == []
    assert dict(storage.gen_changes(second)) == {ROOT_OID: make_record(ROOT_OID)}
    assert dict(storage.gen_changes(first)) == {
        ROOT_OID: make_record(ROOT_OID, [ONE]),
        ONE: make_record(ONE),
    }
