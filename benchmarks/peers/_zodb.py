"""What the adapters of the ZODB family share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

import transaction
from BTrees.OOBTree import OOBTree
from persistent import Persistent
from persistent.mapping import PersistentMapping
from ZODB.DB import DB
from ZODB.POSException import ConflictError
from ZODB.serialize import referencesf

from benchmarks.peers.adapter import (
    CACHE_SIZE,
    Client,
    Group,
    GroupFields,
    ItemFields,
    Peer,
    PeerDatabase,
)

__all__ = ["ZodbClient", "ZodbDatabase", "ZodbPeer", "versions_of"]


class ZodbItem(ItemFields, Persistent):  # type: ignore[misc] # persistent has no types
    """An Item."""


class ZodbGroup(GroupFields, Persistent):  # type: ignore[misc] # persistent has no types
    """A Group."""


def versions_of(*distributions: str) -> dict[str, str]:
    """Give the versions of these distributions."""
    return {name: version(name) for name in distributions}


def open_database(storage: Any, cache_size: int = CACHE_SIZE) -> Any:
    """Give a DB with the cache that all peers have."""
    return DB(storage, cache_size=cache_size, pool_size=64)


class ZodbClient(Client):
    """A connection with a transaction manager of its own."""

    conflict = ConflictError

    def __init__(self, database: Any) -> None:
        self._database = database
        self._manager = transaction.TransactionManager(explicit=True)
        self._manager.begin()
        self._connection = database.open(self._manager)

    def root(self) -> Any:
        return self._connection.root()

    def get(self, oid: bytes) -> Any:
        return self._connection.get(oid)

    def commit(self) -> None:
        self._manager.commit()
        self._manager.begin()

    def refresh(self) -> None:
        self._manager.abort()
        self._manager.begin()

    def close(self) -> None:
        self._manager.abort()
        self._connection.close()
        self._database.close()

    def pack_steps(self) -> Iterator[object]:
        self._database.storage.pack(time.time() + 1, referencesf)
        yield None


class ZodbDatabase(PeerDatabase):
    """One DB. Each thread keeps its connection: to open one for each transaction costs more."""

    def __init__(self, storage: Any) -> None:
        self._database = open_database(storage)
        self._local = threading.local()

    def _mine(self) -> tuple[Any, Any]:
        if not hasattr(self._local, "connection"):
            self._local.manager = transaction.TransactionManager(explicit=True)
            self._local.connection = self._database.open(self._local.manager)
        return self._local.manager, self._local.connection

    def read(self, work: Callable[[Group], int]) -> int:
        manager, connection = self._mine()
        manager.begin()
        try:
            return work(connection.root()["directory"])
        finally:
            manager.abort()

    def write(self, work: Callable[[Group], int]) -> int:
        manager, connection = self._mine()
        while True:
            manager.begin()
            try:
                result = work(connection.root()["directory"])
                manager.commit()
            except ConflictError:
                manager.abort()
            except BaseException:
                manager.abort()
                raise
            else:
                return result


class ZodbPeer(Peer):
    """Any storage of ZODB."""

    item = ZodbItem
    group = ZodbGroup
    mapping = PersistentMapping
    tree = OOBTree

    def open_storage(self, folder: str, *, synced: bool) -> Any:
        """Open the storage in `folder`."""
        raise NotImplementedError

    def open(self, folder: str, *, synced: bool = True, cache_size: int = CACHE_SIZE) -> Client:
        return ZodbClient(open_database(self.open_storage(folder, synced=synced), cache_size))

    def tree_range(self, tree: Any, low: int, high: int) -> Iterable[tuple[int, int]]:
        found: Iterable[tuple[int, int]] = tree.iteritems(low, high, excludemax=True)
        return found

    def database(self, folder: str) -> PeerDatabase:
        return ZodbDatabase(self.open_storage(folder, synced=True))
