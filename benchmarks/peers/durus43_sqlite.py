"""Durus 4.3 on its SqliteStorage, which syncs each commit as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.peers._durus import DurusPeer, versions_of
from durus.sqlite_storage import SqliteStorage

if TYPE_CHECKING:
    from durus.storage import Storage

__all__ = ["PEER"]


class _Durus43Sqlite(DurusPeer):
    counts_syncs = False  # SQLite syncs in C

    def versions(self) -> dict[str, str]:
        return versions_of("Durus")

    def open_storage(self, folder: str, *, synced: bool) -> Storage:
        return SqliteStorage(f"{folder}/data.sqlite")


PEER = _Durus43Sqlite()
