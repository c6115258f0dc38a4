"""Durus 5 on its SqliteStorage."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from benchmarks.peers._durus import DurusPeer, versions_of
from durus.sqlite_storage import SqliteStorage

if TYPE_CHECKING:
    from durus.storage import Storage

__all__ = ["PEER"]


class _Durus5Sqlite(DurusPeer):
    counts_syncs = False  # SQLite syncs in C

    def versions(self) -> dict[str, str]:
        return versions_of("durus-sqlite") | {"SQLite": sqlite3.sqlite_version}

    def open_storage(self, folder: str, *, synced: bool) -> Storage:
        return SqliteStorage(f"{folder}/data.sqlite", durable=synced)


PEER = _Durus5Sqlite()
