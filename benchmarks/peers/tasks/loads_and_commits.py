"""Loads, commits and refreshes: through a server, or on a database opened in the process."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from benchmarks.peers.adapter import Peer
from benchmarks.peers.data import make_directory, read_oids
from benchmarks.peers.settings import Outcome, Settings, Task, client_of

__all__ = ["TASKS"]


def walk(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Touch every Item in its order, as a report over all the data does."""
    client = client_of(peer, settings)

    def run() -> Outcome:
        count = checksum = 0
        for group in client.directory().members:
            for item in group.members:
                checksum += item.n
                count += 1
        return Outcome(count, checksum)

    return run


def _chosen(settings: Settings) -> list[int]:
    """Give the numbers of the Items that a client loads: random, each once."""
    choice = random.Random(settings.index + 1)
    return choice.sample(range(settings.items), settings.operations)


def loads(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Load Items by their oids, at random, each once and one after the other."""
    oids = read_oids(settings.folder)
    wanted = [oids[n] for n in _chosen(settings)]
    client = client_of(peer, settings)

    def run() -> Outcome:
        get = client.get
        return Outcome(len(wanted), sum(get(oid).n for oid in wanted))

    return run


def commits(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Change one Item and commit, over and over; no two clients change the same."""
    client = client_of(peer, settings)
    item = client.get(read_oids(settings.folder)[settings.index * settings.members])
    checksum = item.counter  # a load, which is not what is timed

    def run() -> Outcome:
        clock = time.perf_counter
        latencies_s: list[float] = []
        while len(latencies_s) < settings.operations:
            began = clock()
            item.counter += 1
            try:
                client.commit()
            except client.conflict:  # some see one where nobody else changed this Item
                client.refresh()
            else:
                latencies_s.append(clock() - began)
        return Outcome(settings.operations, item.counter - checksum, latencies_s)

    return run


def refreshes(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Ask for what others have changed, which is nothing."""
    client = client_of(peer, settings)
    client.directory()

    def run() -> Outcome:
        for _ in range(settings.operations):
            client.refresh()
        return Outcome(settings.operations, 0)

    return run


def new_objects(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Commit all the Items at once, as new objects."""
    client = client_of(peer, settings)
    groups = make_directory(peer, settings)
    client.root()["directory"] = peer.group(groups)

    def run() -> Outcome:
        client.commit()
        return Outcome(settings.items, 0)

    return run


def count_changed(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Sum up the counters of the Items that clients change, which are the first of a Group."""
    client = client_of(peer, settings)
    oids = read_oids(settings.folder)[:: settings.members]

    def run() -> Outcome:
        return Outcome(len(oids), sum(client.get(oid).counter for oid in oids))

    return run


def count_all(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Count the Items that the directory reaches, and sum up their numbers and counters."""
    client = client_of(peer, settings)

    def run() -> Outcome:
        count = checksum = 0
        for group in client.directory().members:
            for item in group.members:
                checksum += item.n + item.counter
                count += 1
        return Outcome(count, checksum)

    return run


def _all(settings: Settings) -> tuple[int, int]:
    return settings.items, sum(range(settings.items))


TASKS = {
    "walk": Task(walk, _all),
    "loads": Task(loads, lambda settings: (settings.operations, sum(_chosen(settings)))),
    "commits": Task(
        commits,
        lambda settings: (settings.operations, settings.operations),
        "count_changed",
        lambda settings: (settings.groups, settings.operations * settings.clients),
    ),
    "refreshes": Task(refreshes, lambda settings: (settings.operations, 0)),
    "new_objects": Task(new_objects, lambda settings: (settings.items, 0), "count_all", _all),
    "count_changed": Task(count_changed, lambda settings: (settings.groups, 0)),
    "count_all": Task(count_all, _all),
}
