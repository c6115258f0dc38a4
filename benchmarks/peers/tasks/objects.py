"""Objects in memory: their attributes, a dictionary, what they take, and what a cache costs."""

from __future__ import annotations

import gc
import os
import time
import timeit
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from benchmarks.peers.adapter import Peer
from benchmarks.peers.data import read_oids
from benchmarks.peers.settings import Outcome, Settings, Task, client_of

__all__ = ["TASKS", "anonymous_bytes", "time_attributes", "time_mapping"]

# A statement stands so many times in the loop: what the loop itself takes must not count.
UNROLLED = 20
# Short ones: on a machine with neighbours some of them have the processor to themselves.
REPEATS = 25
REPEAT_S = 0.004
FIRST_WRITES = 7
FEW_ITEMS = 1000
# The two are measured one after the other: a neighbour that comes in between must not count.
UPKEEP_PARTS = 20


def _statement_ns(statement: str, **names: Any) -> float:
    """Time a statement of some nanoseconds: the fastest of many repeats, as the rest is noise."""
    statements = "; ".join([statement] * UNROLLED)
    timer = timeit.Timer(statements, timer=time.process_time, globals=names)
    number, taken_s = timer.autorange()
    number = max(int(number * REPEAT_S / taken_s), 1)
    return min(timer.repeat(REPEATS, number)) / number / UNROLLED * 1e9


def time_attributes(items: Sequence[Any], refresh: Callable[[], None]) -> dict[str, float]:
    """Time reading and writing an attribute of objects that are loaded."""
    item = items[0]
    figures = {"read_ns": _statement_ns("item.n", item=item)}
    item.counter = 1
    figures["write_ns"] = _statement_ns("item.counter = 7", item=item)
    firsts_s = []
    for _ in range(FIRST_WRITES):
        refresh()
        for each in items:
            each.n  # noqa: B018 - loads what the last round changed
        began = time.process_time()
        for each in items:
            each.counter = 7
        firsts_s.append(time.process_time() - began)
    refresh()
    return figures | {"first_write_ns": min(firsts_s) / len(items) * 1e9}


def attributes(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Read and write attributes of loaded Items."""
    client = client_of(peer, settings)
    items = [client.get(oid) for oid in read_oids(settings.folder)]
    sum(item.n for item in items)

    def run() -> Outcome:
        figures = time_attributes(items, client.refresh)
        checksum = sum(item.n + item.counter for item in items)
        return Outcome(len(items), checksum, figures=figures)

    return run


def _each_ns(function: Callable[[], object], count: int) -> float:
    timer = timeit.Timer(function, timer=time.process_time)
    return min(timer.repeat(REPEATS, 20)) / 20 / count * 1e9


def time_mapping(mapping: Any, keys: Sequence[str]) -> dict[str, float]:
    """Time getting, iterating and setting, the loop around them included."""

    def get() -> None:
        for key in keys:
            mapping[key]

    def iterate() -> None:
        for _, _ in mapping.items():
            pass

    def put() -> None:
        for key in keys:
            mapping[key] = 1

    return {
        "get_ns": _each_ns(get, len(keys)),
        "items_ns": _each_ns(iterate, len(keys)),
        "set_ns": _each_ns(put, len(keys)),
    }


def mapping(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Use a persistent dictionary that is loaded and committed."""
    client = client_of(peer, settings)
    keys = [f"key {number:04d}" for number in range(settings.keys)]
    client.root()["mapping"] = made = peer.mapping()
    made.update(dict.fromkeys(keys, 1))
    client.commit()

    def run() -> Outcome:
        figures = time_mapping(made, keys)
        return Outcome(len(made), sum(made.values()), figures=figures)

    return run


def anonymous_bytes() -> int:
    """Give how much memory the process has that is no file's: what is mapped can be let go."""
    gc.collect()
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["RssAnon"].split()[0]) * 1024


def sizes(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Measure Items as ghosts, loaded, and in the file with all that belongs to it."""
    stored = sum(
        entry.stat().st_size for entry in os.scandir(settings.folder) if entry.name != "oids"
    )
    client = client_of(peer, settings)
    groups = client.directory().members

    def run() -> Outcome:
        before = anonymous_bytes()
        for group in groups:
            group.members  # noqa: B018 - a Group that is loaded makes ghosts of its Items
        ghosts = anonymous_bytes() - before
        checksum = sum(item.n for group in groups for item in group.members)
        loaded = anonymous_bytes() - before
        figures = {
            "ghost_bytes": ghosts / settings.items,
            "loaded_bytes": loaded / settings.items,
            "file_bytes": stored / settings.items,
        }
        return Outcome(settings.items, checksum, figures=figures)

    return run


def upkeep(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Commit small changes beside a full cache of few Items, and beside one of all of them."""

    def commit_us(items: int) -> tuple[float, int]:
        groups = items // settings.members
        client = peer.open(settings.folder, synced=False, cache_size=items + groups + 2)
        loaded = [item for group in client.directory().members[:groups] for item in group.members]
        sum(item.n for item in loaded)
        gc.collect()
        gc.disable()  # its passes over everything are Python's price, and come at any time
        before = loaded[0].counter
        part = settings.operations // UPKEEP_PARTS
        parts_s = []
        for _ in range(UPKEEP_PARTS):
            began = time.process_time()
            for _ in range(part):
                loaded[0].counter += 1
                client.commit()
            parts_s.append(time.process_time() - began)
        gc.enable()
        done = loaded[0].counter - before
        client.close()
        return median(parts_s) / part * 1e6, done

    def run() -> Outcome:
        few_us, few = commit_us(min(FEW_ITEMS, settings.items // 2))
        many_us, many = commit_us(settings.items)
        figures = {"few_us": few_us, "many_us": many_us, "upkeep": many_us / few_us}
        return Outcome(settings.operations * 2, few + many, figures=figures)

    return run


def _of_items(settings: Settings) -> tuple[int, int]:
    return settings.items, sum(range(settings.items))


TASKS = {
    "attributes": Task(attributes, _of_items),
    "mapping": Task(mapping, lambda settings: (settings.keys, settings.keys)),
    "sizes": Task(sizes, _of_items),
    "upkeep": Task(
        upkeep,
        lambda settings: (settings.operations * 2, settings.operations * 2),
        "count_changed",
        lambda settings: (settings.groups, settings.operations * 2),
    ),
}
