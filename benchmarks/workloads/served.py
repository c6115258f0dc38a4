"""The workloads of a server and its clients, and of threads on one database."""

from __future__ import annotations

from typing import Any

from benchmarks.workloads.model import Target, Workload, at_least, at_most

__all__ = ["SERVED"]

SERVERS = ("durus5", "durus5-uvloop", "durus43", "zodb")

# Groups of 100 Items. ZEO walks some 2,000 a second.
LARGE = {"groups": 200, "members": 100}
SMALL = {"groups": 100, "members": 100}
TINY = {"groups": 20, "members": 20}


def _served(
    name: str,
    title: str,
    task: str,
    targets: tuple[Target, ...],
    full: dict[str, Any],
    quick: dict[str, Any],
    **more: Any,
) -> Workload:
    return Workload(name, title, task, SERVERS, targets, full, TINY | quick, serves=True, **more)


def _commits(clients: int, operations: int, *targets: Target) -> Workload:
    return _served(
        f"commits-{clients}",
        f"synced commits, {clients} client{'s' if clients > 1 else ''} in all",
        "commits",
        targets,
        SMALL | {"operations": operations},
        {"operations": 5},
        figures=("rate", "p50_ms", "p99_ms"),
        clients=clients,
    )


OF_43 = ("durus43",)

SERVED = [
    _served(
        "walk",
        "cold walk of 20,000 objects, 1 client",
        "walk",
        (at_least(5, versus=OF_43),),
        LARGE,
        {},
    ),
    _served(
        "loads-1",
        "single random loads, 1 client",
        "loads",
        (at_least(1.2, versus=OF_43),),
        LARGE | {"operations": 5_000},
        {"operations": 100},
    ),
    _served(
        "loads-8",
        "random loads, 8 clients in all",
        "loads",
        (at_least(2, versus=OF_43),),
        LARGE | {"operations": 1_500},
        {"operations": 50},
        clients=8,
    ),
    _commits(1, 400, at_least(1)),
    _commits(4, 200, at_least(2)),
    _commits(16, 60, at_least(5), at_most(0.5, "p99_ms")),
    _served(
        "sync",
        "sync with nothing new, 1 client",
        "refreshes",
        (at_least(1, versus=OF_43),),
        SMALL | {"operations": 6_000},
        {"operations": 100},
    ),
    Workload(
        name="threads-8",
        title="8 threads on one database, 20 reads a transaction, every 20th writes",
        task="threads",
        peers=("durus5", "zodb", "relstorage"),
        targets=(at_least(1.5),),
        full=SMALL | {"operations": 400, "threads": 8, "reads": 20, "write_every": 20},
        quick=TINY | {"operations": 20, "threads": 8, "reads": 5, "write_every": 10},
        figures=("rate", "p50_ms", "p99_ms"),
    ),
]
