"""Durus 5, this checkout or another revision of it, on its FileStorage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.peers._durus import DurusPeer, file_of, versions_of
from benchmarks.peers.adapter import CACHE_SIZE, Group, PeerDatabase
from durus.file_storage import FileStorage

if TYPE_CHECKING:
    from durus.storage import Storage

__all__ = ["PEER"]


def _directory(root: Any) -> Group:
    group: Group = root["directory"]
    return group


class _Database(PeerDatabase):
    def __init__(self, path: str) -> None:
        from durus.database import Database  # noqa: PLC0415 - the other workloads do without

        self._database = Database(path, cache_size=CACHE_SIZE)

    def read(self, work: Callable[[Group], int]) -> int:
        with self._database.transaction() as root:
            return work(_directory(root))

    def write(self, work: Callable[[Group], int]) -> int:
        return self._database.run(lambda root: work(_directory(root)), retries=1000)


class _Durus5(DurusPeer):
    def versions(self) -> dict[str, str]:
        return versions_of("durus-core", "durus-filestorage", "durus-server", "uvloop")

    def open_storage(self, folder: str, *, synced: bool) -> Storage:
        return FileStorage(file_of(folder), durable=synced)

    def serve(self, folder: str, address: str) -> None:
        from durus.storage_server import StorageServer  # noqa: PLC0415 - only the server needs it

        StorageServer(FileStorage(file_of(folder)), address=address).serve()

    def database(self, folder: str) -> PeerDatabase:
        return _Database(file_of(folder))


PEER = _Durus5()
