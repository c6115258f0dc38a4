"""Durus 4.3 on its FileStorage, which is given the sync at each commit that it lacks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.peers._durus import DurusPeer, file_of, versions_of
from durus.file_storage import FileStorage

if TYPE_CHECKING:
    from durus.storage import Storage

__all__ = ["PEER"]


class _SyncedFileStorage(FileStorage):
    """4.3's FileStorage flushes what it writes, and leaves it to the system when that is on disk.

    A second descriptor of the same file syncs the same data, and needs nothing of its internals.
    fdatasync is the cheaper of the two calls, to the advantage of this peer.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._descriptor = os.open(path, os.O_RDONLY)

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        super().end(handle_invalidations)
        os.fdatasync(self._descriptor)


class _Durus43(DurusPeer):
    def versions(self) -> dict[str, str]:
        return versions_of("Durus")

    def open_storage(self, folder: str, *, synced: bool) -> Storage:
        return (_SyncedFileStorage if synced else FileStorage)(file_of(folder))

    def serve(self, folder: str, address: str) -> None:
        from durus.storage_server import StorageServer  # noqa: PLC0415 - only the server needs it

        StorageServer(_SyncedFileStorage(file_of(folder)), address=address).serve()


PEER = _Durus43()
