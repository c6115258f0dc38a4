"""What a loop is told, what it gives, and what makes it a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.peers.adapter import Client, Peer

__all__ = ["Found", "Outcome", "Prepare", "Settings", "Task", "client_of"]


@dataclass
class Settings:
    """What a task, or a builder of data, is told.

    Attributes:
        folder: the database's folder.
        address: the server's socket, or nothing where the database is opened in the process.
        groups: how many Groups the directory holds.
        members: how many Items a Group holds.
        keys: how many keys a tree holds.
        text_bytes: how long a text each Item has besides, or 0.
        operations: how often the loop runs, in each client or thread.
        clients: how many clients do it at once.
        index: which of the clients this is, from 0.
        synced: whether a commit is on the disk when it returns.
        threads: how many threads share one database.
        reads: how many Items a transaction of a thread reads.
        write_every: of how many transactions of a thread the last one writes.
    """

    folder: str
    address: str = ""
    groups: int = 0
    members: int = 0
    keys: int = 0
    text_bytes: int = 0
    operations: int = 0
    clients: int = 1
    index: int = 0
    synced: bool = True
    threads: int = 1
    reads: int = 0
    write_every: int = 0

    @property
    def items(self) -> int:
        """How many Items there are."""
        return self.groups * self.members


@dataclass
class Outcome:
    """What a loop did.

    Attributes:
        operations: how many loads, commits, transactions...
        checksum: the sum of what was read.
        latencies_s: how long each operation took, where that is asked for.
        figures: what the loop measured itself, by the names in `benchmarks.workloads.FIGURES`.
    """

    operations: int
    checksum: int
    latencies_s: list[float] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


Prepare = Callable[[Peer, Settings], Callable[[], Outcome]]
Found = tuple[int, int]  # the operations and the checksum


@dataclass(frozen=True)
class Task:
    """A loop, and what it must come to whoever runs it.

    Attributes:
        prepare: does what is not timed, and gives the function that is.
        expected: the operations and the checksum of the outcome.
        count: the task that counts, in a process which opens the data afresh, what is there
            afterwards; nothing if the loop changes nothing.
        left: what that one must come to.
    """

    prepare: Prepare
    expected: Callable[[Settings], Found]
    count: str = ""
    left: Callable[[Settings], Found] | None = None


def client_of(peer: Peer, settings: Settings) -> Client:
    """Connect to the server, or open the database where there is none."""
    if settings.address:
        return peer.connect(settings.address)
    return peer.open(settings.folder, synced=settings.synced)
