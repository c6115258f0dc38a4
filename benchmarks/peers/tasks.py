"""The loops that are timed, the same for every peer, and what each of them must come to.

A task takes a `Peer` and what it needs to know, prepares without being timed, and gives the
function that is timed. What the function returns is compared with what `expected` says, so
that a peer that did less, or read other data, is found out.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers.adapter import Group, Peer

__all__ = ["TASKS", "Outcome", "Settings", "build", "expected", "read_oids"]


@dataclass
class Settings:
    """What a task is told.

    Attributes:
        folder: the database's folder.
        address: the server's socket, where there is one.
        groups: how many Groups the directory holds.
        members: how many Items a Group holds.
        operations: how often the loop runs, in each client or thread.
        index: which of the clients this is, from 0.
        threads: how many threads share one database.
        reads: how many Items a transaction of a thread reads.
        write_every: of how many transactions of a thread the last one writes.
    """

    folder: str
    address: str = ""
    groups: int = 0
    members: int = 0
    operations: int = 0
    index: int = 0
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
    """

    operations: int
    checksum: int
    latencies_s: list[float] = field(default_factory=list)


Task = Callable[[Peer, Settings], Callable[[], Outcome]]


def build(peer: Peer, settings: Settings) -> None:
    """Make the data: a directory of Groups of Items, and the Items' oids in a file beside it."""
    items = [peer.item(n) for n in range(settings.items)]
    members = settings.members
    groups = [peer.group(items[start : start + members]) for start in range(0, len(items), members)]
    peer.create(settings.folder, peer.group(groups))
    with open(f"{settings.folder}/oids", "wb") as file:
        file.writelines(item._p_oid for item in items)


def read_oids(folder: str) -> list[bytes]:
    """Give the oids of all Items, in the order of their numbers."""
    with open(f"{folder}/oids", "rb") as file:
        content = file.read()
    return [content[start : start + 8] for start in range(0, len(content), 8)]


def _sum_of(directory: Group, attribute: str) -> int:
    return sum(
        getattr(member, attribute) for group in directory.members for member in group.members
    )


def _chosen(settings: Settings) -> list[int]:
    """Give the numbers of the Items that a client loads: random, each once."""
    choice = random.Random(settings.index + 1)
    return choice.sample(range(settings.items), settings.operations)


def walk(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Touch every Item in its order, as a report over all the data does."""
    client = peer.connect(settings.address)

    def run() -> Outcome:
        count = checksum = 0
        for group in client.directory().members:
            for item in group.members:
                checksum += item.n
                count += 1
        return Outcome(count, checksum)

    return run


def loads(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Load Items by their oids, at random, each once and one after the other."""
    oids = read_oids(settings.folder)
    wanted = [oids[n] for n in _chosen(settings)]
    client = peer.connect(settings.address)

    def run() -> Outcome:
        get = client.get
        return Outcome(len(wanted), sum(get(oid).n for oid in wanted))

    return run


def commits(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Change one Item and commit, over and over; no two clients change the same."""
    client = peer.connect(settings.address)
    item = client.get(read_oids(settings.folder)[settings.index * settings.members])
    checksum = item.counter  # a load, which is not what is timed

    def run() -> Outcome:
        clock, latencies_s = time.perf_counter, []
        for _ in range(settings.operations):
            began = clock()
            item.counter += 1
            client.commit()
            latencies_s.append(clock() - began)
        return Outcome(settings.operations, item.counter - checksum, latencies_s)

    return run


def refreshes(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Ask for what others have changed, which is nothing."""
    client = peer.connect(settings.address)
    client.directory()

    def run() -> Outcome:
        for _ in range(settings.operations):
            client.refresh()
        return Outcome(settings.operations, 0)

    return run


def count_through_server(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Sum up what clients have committed, by a client that knows nothing yet."""
    client = peer.connect(settings.address)
    oids = read_oids(settings.folder)[:: settings.members]

    def run() -> Outcome:
        return Outcome(len(oids), sum(client.get(oid).counter for oid in oids))

    return run


def threads(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Read-mostly transactions in threads on one database, with cold caches to begin with."""
    database = peer.database(settings.folder)
    barrier = threading.Barrier(settings.threads + 1)
    outcomes: list[Outcome] = []
    errors: list[BaseException] = []

    def run_thread(index: int) -> None:
        try:
            barrier.wait()
            outcomes.append(_run_transactions(database, settings, index))
        except BaseException as error:
            errors.append(error)
            raise

    workers = [
        threading.Thread(target=run_thread, args=(index,), daemon=True)
        for index in range(settings.threads)
    ]
    for worker in workers:
        worker.start()

    def run() -> Outcome:
        barrier.wait()
        for worker in workers:
            worker.join()
        if errors:
            raise errors[0]
        return Outcome(
            sum(outcome.operations for outcome in outcomes),
            sum(outcome.checksum for outcome in outcomes),
            [latency for outcome in outcomes for latency in outcome.latencies_s],
        )

    return run


def _run_transactions(database: Any, settings: Settings, index: int) -> Outcome:
    choice = _thread_choice(settings, index)
    clock, checksum, latencies_s = time.perf_counter, 0, []
    for number in range(settings.operations):
        wanted = [divmod(choice(settings.items), settings.members) for _ in range(settings.reads)]
        writes = number % settings.write_every == settings.write_every - 1
        began = clock()
        transact = database.write if writes else database.read
        checksum += transact(_transaction(wanted, writes=writes))
        latencies_s.append(clock() - began)
    return Outcome(settings.operations, checksum, latencies_s)


def _thread_choice(settings: Settings, index: int) -> Callable[[int], int]:
    return random.Random(settings.index * 1000 + index).randrange


def _transaction(wanted: list[tuple[int, int]], *, writes: bool) -> Callable[[Group], int]:
    def work(directory: Group) -> int:
        groups, checksum, item = directory.members, 0, None
        for group, member in wanted:
            item = groups[group].members[member]
            checksum += item.n
        if writes and item is not None:
            item.counter += 1
        return checksum

    return work


def count_in_process(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Sum up what threads have committed, in a process that opens the database anew."""
    database = peer.database(settings.folder)

    def run() -> Outcome:
        return Outcome(settings.items, database.read(lambda root: _sum_of(root, "counter")))

    return run


TASKS: dict[str, Task] = {
    "walk": walk,
    "loads": loads,
    "commits": commits,
    "refreshes": refreshes,
    "count_through_server": count_through_server,
    "threads": threads,
    "count_in_process": count_in_process,
}


def expected(task: str, settings: Settings) -> tuple[int, int]:
    """Give the operations and the checksum that a task must come to, without any peer."""
    match task:
        case "walk":
            return settings.items, sum(range(settings.items))
        case "loads":
            return settings.operations, sum(_chosen(settings))
        case "commits":
            return settings.operations, settings.operations
        case "refreshes":
            return settings.operations, 0
        case "threads":
            checksum = 0
            for index in range(settings.threads):
                choice = _thread_choice(settings, index)
                for _ in range(settings.operations * settings.reads):
                    checksum += choice(settings.items)
            return settings.operations * settings.threads, checksum
    raise ValueError(f"nothing is known of the task {task!r}")
