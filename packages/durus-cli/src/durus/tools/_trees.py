"""The B-trees in a database, read from their records: order, counts and shape.

A node has `items`, (key, value) pairs sorted by key, and `nodes`, None in a leaf or else one child
more than items. Keys that are builtin values are compared. Others need their class, which is not
imported: of those trees only counts and shape are looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from durus.error import CorruptionError, DurusKeyError
from durus.inspection import Reference, read_state
from durus.serialize import extract_class_path
from durus.storage import Storage

__all__ = ["TreeChecker", "is_node"]

_NODE = re.compile(r"durus\.btree\.BNode(\d*)")
_PLAIN = (int, float, str, bytes, type(None))

# A tree of the smallest nodes that is deeper has more of them than there are oids.
_DEEPEST = 64

# A hostile key may be nested a million deep.
_DEEPEST_KEY = 16


def is_node(class_path: str) -> bool:
    """Tell whether a class is that of a node."""
    return _NODE.fullmatch(class_path) is not None


class TreeChecker:
    """Checks the trees made of the nodes that it is told of.

    It remembers each node's oid and those of its children, not the nodes.

    Attributes:
        trees: how many there are.
        not_comparable: how many of them have a key that cannot be compared without its class.
    """

    def __init__(self, storage: Storage, tell: Callable[[bytes, str], None]) -> None:
        """Make a checker.

        Args:
            storage: where the nodes are.
            tell: is given the oid of a node and what is wrong with it.
        """
        self.trees = 0
        self.not_comparable = 0
        self._storage = storage
        self._tell = tell
        self._nodes: set[bytes] = set()
        self._children: set[bytes] = set()
        self._visited: set[bytes] = set()
        self._leaf_depth: int | None = None
        self._is_comparable = True

    def note(self, oid: bytes, record: bytes) -> None:
        """Note a node, whose record can be read."""
        self._nodes.add(oid)
        state = read_state(record)
        nodes = state.get("nodes") if isinstance(state, dict) else None
        if isinstance(nodes, list):
            self._children.update(node.oid for node in nodes if isinstance(node, Reference))

    def check(self) -> None:
        """Walk every tree from its root, which is no node's child."""
        for root in sorted(self._nodes - self._children):
            self.trees += 1
            self._leaf_depth = None
            self._is_comparable = True
            self._count(root, [], [], 0)
            self.not_comparable += not self._is_comparable
        for oid in sorted(self._nodes - self._visited):
            self._tell(oid, "is a node of a B-tree that no root leads to: it is its own descendant")

    def _count(self, oid: bytes, low: list[Any], high: list[Any], depth: int) -> int | None:
        """Check a node and what is below it; count the items, or give None if that is not known.

        Args:
            oid: the node.
            low: the key that its keys must exceed, or nothing.
            high: the key that must exceed them, or nothing.
            depth: 0 for a root.
        """
        if oid in self._visited:
            self._tell(oid, "is a node of a B-tree in two places")
            return None
        self._visited.add(oid)
        found = self._load(oid)
        if found is None:
            return None
        degree, items, nodes, stored_count = found
        for text in _gen_faults(degree, items, nodes, depth):
            self._tell(oid, text)
        if any(not _is_item(item) for item in items) or depth > _DEEPEST:
            return None
        keys = [*low, *(item[0] for item in items), *high]
        self._check_order(oid, keys)
        if not nodes:
            self._check_depth(oid, degree, depth)
        count: int | None = len(items)
        bounds = [low, *([item[0]] for item in items), high]
        for place, node in enumerate(nodes):
            if not isinstance(node, Reference) or len(nodes) != len(items) + 1:
                return None
            below = self._count(node.oid, bounds[place], bounds[place + 1], depth + 1)
            count = None if count is None or below is None else count + below
        if stored_count is not None and count is not None and stored_count != count:
            self._tell(oid, f"says that {stored_count} items are below it, found {count}")
        return count

    def _load(self, oid: bytes) -> tuple[int, list[Any], list[Any], int | None] | None:
        """Give degree, items, nodes and count of a node; None for one that was told of already."""
        try:
            record = self._storage.load(oid)
            state = read_state(record)
        except (CorruptionError, DurusKeyError):
            return None
        match = _NODE.fullmatch(extract_class_path(record))
        items = state.get("items") if isinstance(state, dict) else None
        nodes = state.get("nodes") if isinstance(state, dict) else None
        if match is None or not isinstance(items, list) or not isinstance(nodes, list | None):
            self._tell(oid, "is in the place of a node of a B-tree, and has not what a node has")
            return None
        count = state.get("_count") if isinstance(state, dict) else None
        degree = int(match[1] or 2)
        return degree, items, nodes or [], count if isinstance(count, int) else None

    def _check_order(self, oid: bytes, keys: list[Any]) -> None:
        if not all(map(_is_plain, keys)):
            self._is_comparable = False
            return
        for key, next_key in pairwise(keys):
            try:
                is_right = key < next_key
            except TypeError:
                is_right = False
            if not is_right:
                text = f"has the key {_shown(key)} before {_shown(next_key)}, out of order"
                self._tell(oid, text)
                return

    def _check_depth(self, oid: bytes, degree: int, depth: int) -> None:
        if self._leaf_depth is None:
            self._leaf_depth = depth
        elif depth != self._leaf_depth and degree > 2:
            self._tell(oid, f"is a leaf at depth {depth}, where others are at {self._leaf_depth}")


def _gen_faults(degree: int, items: list[Any], nodes: list[Any], depth: int) -> Iterator[str]:
    """Yield what is wrong with a node by itself.

    Durus 4.3 leaves nodes of degree 2 too full or too empty, and leaves at unequal depths: reading
    does not mind.
    """
    least = 0 if not depth else degree - 1
    if degree > 2 and not least <= len(items) <= 2 * degree - 1:
        yield f"has {len(items)} items, where a node has {least} to {2 * degree - 1}"
    if nodes and len(nodes) != len(items) + 1:
        yield f"has {len(nodes)} nodes below it, where {len(items) + 1} belong to its items"
    if any(not isinstance(node, Reference) for node in nodes):
        yield "has something else than nodes below it"
    if any(not _is_item(item) for item in items):
        yield "has something else than pairs as items"
    if depth > _DEEPEST:
        yield f"is more than {_DEEPEST} levels below the root of its B-tree"


def _is_item(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) == 2


def _is_plain(key: Any, depth: int = 0) -> bool:
    """Tell whether a key is of builtin values that `<` puts in one order."""
    if type(key) is tuple and depth < _DEEPEST_KEY:
        return all(_is_plain(part, depth + 1) for part in key)
    return isinstance(key, _PLAIN)


def _shown(key: Any) -> str:
    try:
        return f"{key!r:.60}"
    except ValueError:
        return "a number of very many digits"
