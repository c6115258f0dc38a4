"""What `gen_damage` tells of damaged SQLite databases, and nothing of whole ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from durus.error import CorruptionError, DurusError, StorageClosedError
from durus.serialize import check_proof
from durus.sqlite_storage import SqliteStorage
from durus.storage import Damage
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Open = Callable[..., SqliteStorage]


@pytest.fixture
def database(path: Path) -> Path:
    """A database of some commits that keeps history, with nothing left in its WAL file."""
    with SqliteStorage(path, history="7d") as storage:
        for number in range(4):
            refs = [int8_to_str(n) for n in range(1, 40)]
            commit(storage, make_record(int8_to_str(0), refs, b"root %d" % number))
            records = [make_record(oid, [], b"%d" % number * 100) for oid in refs]
            commit(storage, *records)
        storage.pack()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def _damage(path: Path) -> list[Damage]:
    with SqliteStorage(path, readonly=True) as storage:
        return list(storage.gen_damage())


def _sql(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(statement)


def test_a_whole_database_has_no_damage(database: Path) -> None:
    """Nothing is told of a database that is as it was written, history and a pack included."""
    assert _damage(database) == []


def test_a_database_of_durus_4_3_has_no_damage(path: Path) -> None:
    """Nor of one that has none of our tables."""
    _sql(path, "CREATE TABLE objects (id INTEGER PRIMARY KEY, data BLOB, refs BLOB)")
    record = make_record(int8_to_str(0))
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO objects VALUES (0, ?, ?)", (record[12:], b""))
    assert _damage(path) == []


@pytest.mark.parametrize(
    ("statement", "said", "oid_int"),
    [
        ("UPDATE objects SET data = 'text' WHERE id = 7", "no record", 7),
        ("UPDATE objects SET refs = x'0102' WHERE id = 8", "no record", 8),
        ("UPDATE objects SET serial = 9999 WHERE id = 9", "of commit 9999", 9),
        ("DELETE FROM durus_commits WHERE serial = 4", "commit 5 of durus_commits", None),
        ("UPDATE durus_commits SET total = 3 WHERE serial = 6", "commit 6", None),
        ("UPDATE durus_commits SET oids = x'' WHERE serial = 6", "commit 6", None),
        ("DELETE FROM durus_state", "0 rows in durus_state", None),
        ("UPDATE durus_state SET next_oid = -1", "1 rows in durus_state", None),
        ("UPDATE durus_history SET until = serial WHERE id = 3", "durus_history", 3),
    ],
)
def test_the_tables_of_ours(database: Path, statement: str, said: str, oid_int: int | None) -> None:
    """What no commit leaves in a table is told, with the object if there is one."""
    _sql(database, "DROP TRIGGER IF EXISTS durus_forget")
    _sql(database, statement)
    found = _damage(database)
    oid = None if oid_int is None else int8_to_str(oid_int)
    assert any(said in damage.text and damage.oid == oid for damage in found), found


def test_without_any_commit_it_is_not_opened(database: Path) -> None:
    """The newest commit is always kept: without it, what others changed could not be told."""
    _sql(database, "DELETE FROM durus_commits")
    with pytest.raises(CorruptionError, match="found none in durus_commits"):
        SqliteStorage(database, readonly=True)


def _flips(content: bytes, random: Random, count: int) -> Iterator[bytes]:
    for place in random.sample(range(len(content)), count):
        yield content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :]


def test_a_changed_byte_is_told_or_no_record_is_other(database: Path) -> None:
    """Wherever a byte is changed: it is refused or told, or every record is right or unproven."""

    def read() -> dict[bytes, bytes]:
        with SqliteStorage(database, readonly=True) as storage:
            for record in (records := dict(storage.gen_oid_record())).values():
                check_proof(record)
            return records

    right, content = read(), database.read_bytes()
    told = 0
    for changed in _flips(content, Random(6), 400):
        database.write_bytes(changed)
        try:
            if _damage(database):
                told += 1
                continue
            assert read() == right
        except DurusError:
            continue
    assert told > 5


def test_closed(open_here: Open) -> None:
    """After close it raises."""
    storage = open_here()
    storage.close()
    with pytest.raises(StorageClosedError):
        storage.gen_damage()
