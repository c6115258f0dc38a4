"""The module sqlite3, with a table like that of Durus and the same durability."""

from __future__ import annotations

import sqlite3

from benchmarks.peers.yardsticks._rows import RowPeer, Rows

__all__ = ["PEER"]


class _Table(Rows):
    def __init__(self, path: str, *, synced: bool) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._execute = self._database.execute
        self._execute("PRAGMA journal_mode = WAL")
        self._execute(f"PRAGMA synchronous = {'FULL' if synced else 'OFF'}")
        self._execute("CREATE TABLE IF NOT EXISTS objects (id INTEGER PRIMARY KEY, data BLOB)")
        self._in_transaction = False

    def put(self, number: int, content: bytes) -> None:
        if not self._in_transaction:
            self._execute("BEGIN IMMEDIATE")
            self._in_transaction = True
        self._execute("INSERT OR REPLACE INTO objects VALUES (?, ?)", (number, content))

    def get(self, number: int) -> bytes:
        row = self._execute("SELECT data FROM objects WHERE id = ?", (number,)).fetchone()
        content: bytes = row[0]
        return content

    def commit(self) -> None:
        self._execute("COMMIT")
        self._in_transaction = False


class _Sqlite3(RowPeer):
    counts_syncs = False  # SQLite syncs in C

    def versions(self) -> dict[str, str]:
        return {"SQLite": sqlite3.sqlite_version}

    def rows(self, folder: str, *, synced: bool) -> Rows:
        return _Table(f"{folder}/rows.sqlite", synced=synced)


PEER = _Sqlite3()
