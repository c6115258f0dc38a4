"""What the adapters of both versions of Durus share: their names are the same."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from benchmarks.peers.adapter import CACHE_SIZE, Client, Group, GroupFields, ItemFields, Peer
from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.persistent import Persistent

if TYPE_CHECKING:
    from durus.storage import Storage

__all__ = ["DurusClient", "DurusGroup", "DurusItem", "DurusPeer", "file_of", "versions_of"]


class DurusItem(ItemFields, Persistent):
    """An Item."""


class DurusGroup(GroupFields, Persistent):
    """A Group."""


def file_of(folder: str) -> str:
    """Give the path of the database in `folder`."""
    return f"{folder}/data.durus"


def versions_of(*distributions: str) -> dict[str, str]:
    """Give the versions of those of these distributions that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass  # an optional one
    return found


class DurusClient(Client):
    """A Connection on a storage."""

    def __init__(self, storage: Storage) -> None:
        self._connection = Connection(storage, cache_size=CACHE_SIZE)

    def directory(self) -> Group:
        root: Any = self._connection.get_root()
        group: Group = root["directory"]
        return group

    def get(self, oid: bytes) -> Any:
        return self._connection.get(oid)

    def commit(self) -> None:
        self._connection.commit()

    def refresh(self) -> None:
        self._connection.abort()


class DurusPeer(Peer):
    """Either version."""

    item = DurusItem
    group = DurusGroup

    def create(self, folder: str, directory: Any) -> None:
        storage = FileStorage(file_of(folder))
        connection = Connection(storage)
        root: Any = connection.get_root()
        root["directory"] = directory
        connection.commit()
        storage.close()

    def connect(self, address: str) -> Client:
        return DurusClient(ClientStorage(address=address))
