"""A BTree of random keys: in memory, and from a cold cache."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.peers.adapter import Peer
from benchmarks.peers.data import keys_of
from benchmarks.peers.settings import Outcome, Settings, Task, client_of

__all__ = ["TASKS", "time_tree"]

RANGES = 100
RANGE_PART = 100  # a range is that part of all the keys

Range = Callable[[Any, int, int], Iterable[tuple[int, int]]]


def _shuffled(settings: Settings) -> list[int]:
    keys = keys_of(settings)
    random.Random(8).shuffle(keys)
    return keys


def _bounds(settings: Settings) -> list[tuple[int, int]]:
    """Give the ranges: their keys from the first to, but without, the second."""
    keys = sorted(keys_of(settings))
    length = len(keys) // RANGE_PART
    starts = random.Random(9).choices(range(len(keys) - length), k=RANGES)
    return [(keys[start], keys[start + length]) for start in starts]


def _lookups(tree: Any, keys: list[int]) -> tuple[int, float]:
    began = time.perf_counter()
    checksum = sum(tree[key] for key in keys)
    return checksum, len(keys) / (time.perf_counter() - began)


def _items(tree: Any) -> tuple[int, float]:
    items = getattr(tree, "iteritems", tree.items)
    began, count, checksum = time.perf_counter(), 0, 0
    for _, value in items():
        checksum += value
        count += 1
    return checksum, count / (time.perf_counter() - began)


def time_tree(
    tree: Any, tree_range: Range, settings: Settings, commit: Callable[[], None]
) -> Outcome:
    """Insert all the keys, look them all up, iterate over them, and over ranges of them."""
    keys, shuffled, bounds = keys_of(settings), _shuffled(settings), _bounds(settings)
    began = time.perf_counter()
    for key in keys:
        tree[key] = key
    insert_rate = len(keys) / (time.perf_counter() - began)
    commit()
    looked_up, lookup_rate = _lookups(tree, shuffled)
    iterated, iterate_rate = _items(tree)
    began, count, ranged = time.perf_counter(), 0, 0
    for low, high in bounds:
        for _, value in tree_range(tree, low, high):
            ranged += value
            count += 1
    figures = {
        "insert_rate": insert_rate,
        "lookup_rate": lookup_rate,
        "iterate_rate": iterate_rate,
        "range_rate": count / (time.perf_counter() - began),
    }
    return Outcome(len(keys), looked_up + iterated + ranged, figures=figures)


def tree(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Fill a tree that is stored, commit it, and read it while it is in memory."""
    client = client_of(peer, settings)
    client.root()["tree"] = made = peer.tree()
    client.commit()
    return lambda: time_tree(made, peer.tree_range, settings, client.commit)


def cold_tree(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Look up all the keys of a stored tree, and iterate over them, each from a cold cache."""
    keys = _shuffled(settings)

    def run() -> Outcome:
        client = client_of(peer, settings)
        looked_up, lookup_rate = _lookups(client.root()["tree"], keys)
        client.close()
        client = client_of(peer, settings)
        iterated, iterate_rate = _items(client.root()["tree"])
        figures = {"lookup_rate": lookup_rate, "iterate_rate": iterate_rate}
        return Outcome(len(keys), looked_up + iterated, figures=figures)

    return run


def count_tree(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Count and sum up a stored tree."""
    client = client_of(peer, settings)

    def run() -> Outcome:
        made = client.root()["tree"]
        return Outcome(len(made), sum(made.values()))

    return run


def _expected_of_tree(settings: Settings) -> tuple[int, int]:
    keys = sorted(keys_of(settings))
    ranged = sum(key for low, high in _bounds(settings) for key in keys if low <= key < high)
    return len(keys), 2 * sum(keys) + ranged


TASKS = {
    "tree": Task(
        tree,
        _expected_of_tree,
        "count_tree",
        lambda settings: (settings.keys, sum(keys_of(settings))),
    ),
    "cold_tree": Task(cold_tree, lambda settings: (settings.keys, 2 * sum(keys_of(settings)))),
    "count_tree": Task(count_tree, lambda settings: (settings.keys, sum(keys_of(settings)))),
}
