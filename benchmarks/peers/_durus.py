"""What the adapters of both versions of Durus share: their names are the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from benchmarks.peers.adapter import CACHE_SIZE, Client, GroupFields, ItemFields, Peer
from durus.btree import BTree
from durus.connection import Connection
from durus.error import ConflictError
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict

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

    conflict = ConflictError

    def __init__(self, storage: Storage, cache_size: int = CACHE_SIZE) -> None:
        self._storage = storage
        self._connection = Connection(storage, cache_size=cache_size)

    def root(self) -> Any:
        return self._connection.get_root()

    def get(self, oid: bytes) -> Any:
        return self._connection.get(oid)

    def commit(self) -> None:
        self._connection.commit()

    def refresh(self) -> None:
        self._connection.abort()

    def close(self) -> None:
        self._storage.close()

    def pack_steps(self) -> Iterator[object]:
        return self._storage.get_packer()


class DurusPeer(Peer):
    """Either version, on any of its storages."""

    item = DurusItem
    group = DurusGroup
    mapping = PersistentDict
    tree = BTree

    def open_storage(self, folder: str, *, synced: bool) -> Storage:
        """Open the storage in `folder`."""
        raise NotImplementedError

    def open(self, folder: str, *, synced: bool = True, cache_size: int = CACHE_SIZE) -> Client:
        return DurusClient(self.open_storage(folder, synced=synced), cache_size)

    def tree_range(self, tree: Any, low: int, high: int) -> Iterable[tuple[int, int]]:
        found: Iterable[tuple[int, int]] = tree.items_range(low, high)
        return found

    def connect(self, address: str) -> Client:
        from durus.client_storage import ClientStorage  # noqa: PLC0415 - only a client needs it

        return DurusClient(ClientStorage(address=address))
