"""ZODB on its FileStorage: alone for threads, and behind a ZEO server for processes."""

from __future__ import annotations

import importlib
from typing import Any

from ZODB.FileStorage import FileStorage

from benchmarks.peers._zodb import ZodbClient, ZodbPeer, open_database, versions_of
from benchmarks.peers.adapter import Client

__all__ = ["PEER"]

CONFIGURATION = """
<zeo>
  address {address}
</zeo>
<filestorage 1>
  path {path}
</filestorage>
"""


class _Zodb(ZodbPeer):
    def versions(self) -> dict[str, str]:
        return versions_of("ZODB", "ZEO", "persistent")

    def open_storage(self, folder: str, *, synced: bool) -> Any:
        if not synced:
            # It has no setting for this; with None it leaves the syncs out, as without an fsync.
            importlib.import_module("ZODB.FileStorage.FileStorage").fsync = None  # type: ignore[attr-defined]
        return FileStorage(f"{folder}/data.fs")

    def serve(self, folder: str, address: str) -> None:
        from ZEO.runzeo import main  # noqa: PLC0415 - only the server needs it

        configuration = f"{folder}/zeo.conf"
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(CONFIGURATION.format(address=address, path=f"{folder}/data.fs"))
        main(["-C", configuration])

    def connect(self, address: str) -> Client:
        from ZEO.ClientStorage import ClientStorage  # noqa: PLC0415 - only the client needs it

        # server_sync: without it a transaction may begin on what the client happens to know, and
        # neither the others nor a reader of numbers would compare like with like.
        storage = ClientStorage(address, server_sync=True, wait_timeout=60)
        return ZodbClient(open_database(storage))


PEER = _Zodb()
