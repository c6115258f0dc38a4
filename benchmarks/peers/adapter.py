"""What an adapter gives, so that one set of loops drives every peer.

The loops (`benchmarks.peers.tasks`) touch attributes of persistent objects, which look the same
everywhere; what differs is how one opens, commits and refreshes, and that is all that is here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

__all__ = [
    "CACHE_SIZE",
    "Client",
    "Group",
    "GroupFields",
    "Item",
    "ItemFields",
    "Peer",
    "PeerDatabase",
]

# Objects that a connection may keep. One number for all, above what any workload touches: evicting
# is not what is measured.
CACHE_SIZE = 300_000


class Item(Protocol):
    """The small object that nearly all the data consists of."""

    n: int
    counter: int


class Group(Protocol):
    """An object full of references."""

    members: list[Any]


class ItemFields:
    """The attributes of an Item; an adapter's Item inherits them and its Persistent.

    The state's pickle is some 80 bytes, which is usual for objects of applications.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.counter = 0
        self.name = f"item {n:07d}"
        self.price = n * 0.25


class GroupFields:
    """The attribute of a Group, as above."""

    def __init__(self, members: list[Any]) -> None:
        self.members = members


class Client(ABC):
    """One connection to the data, used by one thread.

    Attributes:
        conflict: what `commit` raises when another was first; `refresh`, and it may be tried again.
    """

    conflict: type[Exception]

    @abstractmethod
    def root(self) -> Any:
        """Give the root: a mapping of names to objects."""

    def directory(self) -> Group:
        """Give the Group of all the Groups, as a ghost where the peer has loaded nothing else."""
        group: Group = self.root()["directory"]
        return group

    @abstractmethod
    def get(self, oid: bytes) -> Any:
        """Give the object of an oid, at the cost that a user of the peer pays for it."""

    @abstractmethod
    def commit(self) -> None:
        """Commit; what is acknowledged has been synced to disk, unless opened otherwise."""

    @abstractmethod
    def refresh(self) -> None:
        """Drop what is not committed, and begin a transaction that sees what others committed."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection, and the storage with it."""

    def pack_steps(self) -> Iterator[object]:
        """Pack the storage, each step at a `next()`; once only, where the peer has no steps."""
        raise NotImplementedError


class PeerDatabase(ABC):
    """One database that the threads of a process share."""

    @abstractmethod
    def read(self, work: Callable[[Group], int]) -> int:
        """Run `work` on the directory in a transaction of this thread that changes nothing."""

    @abstractmethod
    def write(self, work: Callable[[Group], int]) -> int:
        """Run `work` in a transaction of this thread and commit it, again after a conflict."""


class Peer(ABC):
    """What is measured. An adapter's module has one, called `PEER`.

    A peer leaves out what its workloads do not ask for: one without a server `serve` and
    `connect`, one without threads `database`.

    Attributes:
        item: the class of an Item, by the peer's own Persistent.
        group: the class of a Group.
        mapping: the persistent dictionary.
        tree: the BTree.
        counts_syncs: whether the peer syncs through `os.fsync` and `os.fdatasync`, which a worker
            counts, rather than in C.
    """

    item: Callable[[int], Any]
    group: Callable[[list[Any]], Any]
    mapping: Callable[[], Any]
    tree: Callable[[], Any]
    counts_syncs: bool = True

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Give the versions of the distributions that take part, by name."""

    def own_tasks(self) -> Mapping[str, Callable[..., Callable[[], Any]]]:
        """Give loops by the task's name that a yardstick has for itself.

        It stores no objects, so it does in its own way what the others do by the common loop.
        """
        return {}

    def open(self, folder: str, *, synced: bool = True, cache_size: int = CACHE_SIZE) -> Client:
        """Open the database in `folder` in this process, and make it if there is none."""
        raise NotImplementedError

    def tree_range(self, tree: Any, low: int, high: int) -> Iterable[tuple[int, int]]:
        """Iterate over the items of a BTree from the key `low` to, but without, `high`."""
        raise NotImplementedError

    def serve(self, folder: str, address: str) -> None:
        """Serve the database in `folder` on a Unix socket, until SIGTERM."""
        raise NotImplementedError

    def connect(self, address: str) -> Client:
        """Connect to the server, with nothing cached yet."""
        raise NotImplementedError

    def database(self, folder: str) -> PeerDatabase:
        """Open the database in `folder` for threads, with nothing cached yet."""
        raise NotImplementedError
