"""RelStorage on SQLite."""

from __future__ import annotations

from typing import Any

from relstorage.adapters.sqlite.adapter import Sqlite3Adapter
from relstorage.options import Options
from relstorage.storage import RelStorage

from benchmarks.peers._zodb import ZodbPeer, versions_of

__all__ = ["PEER"]


class _RelStorage(ZodbPeer):
    counts_syncs = False  # SQLite syncs in C

    def versions(self) -> dict[str, str]:
        return versions_of("RelStorage", "ZODB", "persistent")

    def open_storage(self, folder: str, *, synced: bool) -> Any:
        options = Options(keep_history=False)
        # Its default is NORMAL, which syncs no commit.
        pragmas = {"synchronous": "FULL" if synced else "OFF"}
        adapter = Sqlite3Adapter(f"{folder}/data", pragmas=pragmas, options=options)
        return RelStorage(adapter, options=options)


PEER = _RelStorage()
