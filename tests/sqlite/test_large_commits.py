"""Commits of many records at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.sqlite_storage import SqliteStorage, _rows
from durus.testing import commit, make_record
from durus.utils import int8_to_str as oid

Open = Callable[..., SqliteStorage]

MANY = _rows._ROWS_AT_ONCE


@pytest.mark.parametrize("count", [MANY - 1, MANY, MANY + 1, 3 * MANY + 7])
def test_a_large_commit_stores_what_small_ones_do(path: Path, open_here: Open, count: int) -> None:
    """However many rows go into a statement, each has its own data, references and serial."""
    storage = open_here()
    numbers = [*range(count - 2), 1 << 40, (1 << 64) - 1]  # the last is -1 in the table
    old = [make_record(oid(n), payload=b"old %d" % n) for n in numbers[::3]]
    for record in old:
        commit(storage, record)
    new = {
        oid(n): make_record(oid(n), [oid(n // 2), oid(7)][: n % 3], b"new" * (n % 50))
        for n in reversed(numbers)
    }
    commit(storage, *new.values())
    assert dict(open_here().gen_oid_record()) == new
    storage.close()
    db = sqlite3.connect(path)
    assert db.execute("SELECT DISTINCT serial FROM objects").fetchall() == [(len(old) + 2,)]
    [(total,)] = db.execute("SELECT total FROM durus_commits ORDER BY serial DESC LIMIT 1")
    assert total == len(old) + count
    db.close()


def test_a_large_commit_keeps_history(open_here: Open) -> None:
    """Each record that one statement of a large commit overwrites can be read as it was."""
    storage = open_here(history="7d")
    numbers = range(2 * MANY + 3)
    before = [make_record(oid(n), payload=b"old %d" % n) for n in numbers]
    commit(storage, *before)
    serial = max(serial for serial, _ in storage.gen_commits())
    commit(storage, *(make_record(oid(n), payload=b"new %d" % n) for n in numbers))
    assert [storage.load_as_of(oid(n), serial) for n in numbers] == before
