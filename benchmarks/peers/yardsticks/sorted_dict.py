"""sortedcontainers.SortedDict: what plain Python has for a BTree, in memory alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

from sortedcontainers import SortedDict

from benchmarks.peers.adapter import Peer
from benchmarks.peers.settings import Outcome, Prepare, Settings
from benchmarks.peers.tasks.trees import time_tree

__all__ = ["PEER"]


def _tree(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    return lambda: time_tree(SortedDict(), peer.tree_range, settings, lambda: None)


class _SortedDict(Peer):
    def own_tasks(self) -> Mapping[str, Prepare]:
        return {"tree": _tree}

    def versions(self) -> dict[str, str]:
        return {"sortedcontainers": version("sortedcontainers")}

    def tree_range(self, tree: Any, low: int, high: int) -> Iterable[tuple[int, int]]:
        return ((key, tree[key]) for key in tree.irange(low, high, inclusive=(True, False)))


PEER = _SortedDict()
