"""What is measured: one row a workload, with its sizes, its peers and its targets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["WORKLOADS", "Target", "Workload"]

SERVERS = ("durus5", "durus5-uvloop", "durus43", "zodb")
EMBEDDED = ("durus5", "zodb", "relstorage")


@dataclass(frozen=True)
class Target:
    """What our own peer is to reach.

    Attributes:
        ratio: how many times the operations a second of the other.
        versus: the peer to compare with, or None for the best of the peers.
        p99_ratio: how many times that peer's 99th percentile of latency at most, or None.
    """

    ratio: float
    versus: str | None = None
    p99_ratio: float | None = None


@dataclass(frozen=True)
class Workload:
    """One measurement.

    Attributes:
        name: for the command line and the stored results.
        title: for people.
        unit: what an operation is.
        task: the loop, in `benchmarks.peers.tasks`.
        peers: who can do it.
        target: what ours is to reach.
        full: the settings of the task, as `Settings` has them, in a run that is believed.
        quick: those that differ in a quick run.
        clients: how many processes do it at once.
        serves: whether there is a server, in a process of its own.
        writes: whether it changes the data: it gets a copy of its own, and what it committed is
            counted afterwards.
        max_rounds: at most so many rounds, where one of them takes long.
    """

    name: str
    title: str
    unit: str
    task: str
    peers: tuple[str, ...]
    target: Target
    full: dict[str, Any]
    quick: dict[str, Any]
    clients: int = 1
    serves: bool = True
    writes: bool = False
    max_rounds: int | None = None

    def settings(self, *, quick: bool) -> dict[str, Any]:
        """Give the settings of a full or of a quick run."""
        return self.full | self.quick if quick else self.full

    def described(self, *, quick: bool) -> dict[str, Any]:
        """Give what is stored with the results of a run, so that they stand alone."""
        described = asdict(self) | {"settings": self.settings(quick=quick)}
        del described["full"], described["quick"]
        return described

    def expected_writes(self, settings: dict[str, Any]) -> int:
        """Give how many Items' counters have gone up by one in all, if it writes."""
        if self.serves:
            operations: int = settings["operations"]
            return self.clients * operations
        writes: int = settings["threads"] * (settings["operations"] // settings["write_every"])
        return writes


# 1,000 Groups of 100 Items, and a tenth of that for what does not need as many.
LARGE = {"groups": 1000, "members": 100}
SMALL = {"groups": 100, "members": 100}
TINY = {"groups": 20, "members": 20}


def _commits(clients: int, operations: int, target: Target) -> Workload:
    return Workload(
        name=f"commits-{clients}",
        title=f"synced commits, {clients} client{'s' if clients > 1 else ''} in all",
        unit="commits",
        task="commits",
        peers=SERVERS,
        target=target,
        full=SMALL | {"operations": operations},
        quick=TINY | {"operations": 5},
        clients=clients,
        writes=True,
    )


_ALL = [
    Workload(
        name="walk",
        title="cold walk of 100,000 objects, 1 client",
        unit="loads",
        task="walk",
        peers=SERVERS,
        target=Target(5, versus="durus43"),
        full=LARGE,
        quick=TINY,
        max_rounds=3,
    ),
    Workload(
        name="loads-1",
        title="single random loads, 1 client",
        unit="loads",
        task="loads",
        peers=SERVERS,
        target=Target(1.2, versus="durus43"),
        full=LARGE | {"operations": 10_000},
        quick=TINY | {"operations": 100},
    ),
    Workload(
        name="loads-8",
        title="random loads, 8 clients in all",
        unit="loads",
        task="loads",
        peers=SERVERS,
        target=Target(2, versus="durus43"),
        full=LARGE | {"operations": 4_000},
        quick=TINY | {"operations": 50},
        clients=8,
    ),
    _commits(1, 400, Target(1)),
    _commits(4, 200, Target(2)),
    _commits(16, 80, Target(5, p99_ratio=0.5)),
    Workload(
        name="sync",
        title="sync with nothing new, 1 client",
        unit="syncs",
        task="refreshes",
        peers=SERVERS,
        target=Target(1, versus="durus43"),
        full=SMALL | {"operations": 20_000},
        quick=TINY | {"operations": 100},
    ),
    Workload(
        name="threads-8",
        title="8 threads on one database, 20 reads a transaction, every 20th writes",
        unit="transactions",
        task="threads",
        peers=EMBEDDED,
        target=Target(1.5),
        full=SMALL | {"operations": 500, "threads": 8, "reads": 20, "write_every": 20},
        quick=TINY | {"operations": 20, "threads": 8, "reads": 5, "write_every": 10},
        serves=False,
        writes=True,
    ),
]
WORKLOADS = {workload.name: workload for workload in _ALL}
