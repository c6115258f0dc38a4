"""Searching and walking the nodes of a B-tree: the twin of what `_btree_speedups.c` has.

Both have the same names and behaviour; `durus._btree_nodes`, which describes the nodes, chooses.
Here is what reads a tree, and what adds to it. What joins nodes is not as hot, and there only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

__all__ = [
    "TreeBase",
    "ascending",
    "descending",
    "find_holder",
    "find_item",
    "position_of",
    "put",
]

Item: TypeAlias = tuple[Any, Any]
Bound: TypeAlias = tuple[Any, bool] | None


class Node(Protocol):
    """What is used of a BNode."""

    minimum_degree: int
    items: list[Item]
    nodes: list[Self] | None

    def _p_note_change(self) -> None: ...


def position_of(items: list[Item], key: Any) -> int:
    """Give the position of the first item whose key is not less than `key`.

    `(key,)` comes right before every `(key, value)`, so no value is ever looked at.
    """
    return bisect_left(items, (key,))


def find_holder(root: Node, key: Any) -> tuple[Node, int] | None:
    """Give the node that holds `key`, and where in its items; None if there is none."""
    node = root
    probe = (key,)
    while True:
        items = node.items
        position = bisect_left(items, probe)
        if position < len(items) and items[position][0] == key:
            return node, position
        nodes = node.nodes
        if not nodes:
            return None
        node = nodes[position]


def find_item(root: Node, key: Any) -> Item | None:
    """Give the item with `key`, or None."""
    node = root
    probe = (key,)
    while True:
        items = node.items
        position = bisect_left(items, probe)
        if position < len(items):
            item = items[position]
            if item[0] == key:
                return item
        nodes = node.nodes
        if not nodes:
            return None
        node = nodes[position]


# -- adding ----------------------------------------------------------------------------------------


def put(root: Node, item: Item) -> Collection[Node] | None:
    """Add an item, or replace the one with the same key.

    Returns:
        The nodes that were made, often none; None if another item was replaced.
    """
    key = item[0]
    probe = (key,)
    node = root
    while True:
        items = node.items
        position = bisect_left(items, probe)
        if position < len(items) and items[position][0] == key:
            node._p_note_change()
            items[position] = item
            return None
        nodes = node.nodes
        if not nodes:
            break
        node = nodes[position]
    if len(items) >= 2 * node.minimum_degree - 1:
        return _put_and_split(root, item)
    node._p_note_change()
    items.insert(position, item)
    return ()


def _put_and_split(root: Node, item: Item) -> list[Node]:
    """Add an item whose leaf is full: split it, and every full node that the split reaches."""
    path = path_to(root, item[0])
    for node, _ in reversed(path):
        node._p_note_change()
        if len(node.items) < 2 * node.minimum_degree - 1:
            break
    made: list[Node] = []
    # No node of the tree is changed before all new ones are made, which may fail.
    changes: list[tuple[Node, list[Item], list[Node] | None]] = []
    right: Node | None = None  # the node that was split off below, which follows `item`
    while True:
        node, position = path.pop()
        items, nodes = node.items, node.nodes
        items = _list_with(items, position, item)
        if right is not None:
            nodes = _list_with(nodes or [], position + 1, right)
        if len(items) < 2 * node.minimum_degree:
            changes.append((node, items, nodes))
            break
        middle = len(items) // 2
        item = items[middle]
        right = make_node(node, items[middle + 1 :], slice_nodes(nodes, middle + 1, None))
        made.append(right)
        items, nodes = items[0:middle], slice_nodes(nodes, 0, middle + 1)
        if not path:
            left = make_node(node, items, nodes)
            made.append(left)
            changes.append((node, [item], [left, right]))
            break
        changes.append((node, items, nodes))
    for node, items, nodes in changes:
        set_node(node, items, nodes)
    return made


def _list_with(elements: list[Any], position: int, element: Any) -> list[Any]:
    return [*elements[0:position], element, *elements[position:]]


def path_to(root: Node, key: Any) -> list[tuple[Node, int]]:
    """Give the nodes from the root to the one where `key` is or belongs, with the positions."""
    path = []
    node = root
    probe = (key,)
    while True:
        items, nodes = node.items, node.nodes
        position = bisect_left(items, probe)
        path.append((node, position))
        if not nodes or (position < len(items) and items[position][0] == key):
            return path
        node = nodes[position]


def make_node(like: Node, items: list[Item], nodes: list[Node] | None) -> Node:
    """Give a new node of the same class."""
    node = type(like)()
    set_node(node, items, nodes)
    return node


def set_node(node: Node, items: list[Item], nodes: list[Node] | None) -> None:
    """Give a node other contents."""
    node.items = items
    node.nodes = nodes


def slice_nodes(nodes: list[Node] | None, start: int, stop: int | None) -> list[Node] | None:
    """Give nodes[start:stop] of an inner node, and None for a leaf."""
    return nodes[start:stop] if nodes else None


class TreeBase:
    """The operators of a BTree, on the node in its attribute `root`."""

    __slots__ = ()

    if TYPE_CHECKING:
        root: Any
        _remove: Any

    def __getitem__(self, key: Any) -> Any:
        item = find_item(self.root, key)
        if item is None:
            raise KeyError(key)
        return item[1]

    def __contains__(self, key: object) -> bool:
        return find_item(self.root, key) is not None

    def __setitem__(self, key: Any, value: Any) -> None:
        self.add(key, value)

    def __delitem__(self, key: Any) -> None:
        self._remove(key)

    def add(self, key: Any, value: Any = True) -> None:
        """Set the value of `key`: by default True, to use the tree as a sorted set."""
        made = put(self.root, (key, value))
        if made is not None:
            census = getattr(self, "_p_census", None)
            if census is not None:
                census.note_added(made)


# -- walking in order ------------------------------------------------------------------------------
# A walk yields runs: lists of items in ascending order, one for each leaf together with the item of
# an inner node that stands on the way to it. Between two runs anything may happen to the tree. Then
# the walk finds that its way is no longer there and goes on from the key that it gave last.

_START: Any = object()


def ascending(
    root: Node, part: int | None = None, start: Bound = None, end: Bound = None, /
) -> Iterator[Any]:
    """Iterate over the items of a tree in ascending order.

    Args:
        root: the root of the tree.
        part: what to give of each item: 0 the key, 1 the value, None all.
        start: the key to start at, and whether the item with it is included; None: the first item.
        end: the same for the end.
    """
    runs = _runs_forward(root, *(start or (_START, True)))
    if end is not None:
        runs = _up_to(runs, *end)
    return _parts(runs, part)


def descending(
    root: Node, part: int | None = None, start: Bound = None, end: Bound = None, /
) -> Iterator[Any]:
    """Iterate over the items of a tree in descending order; the arguments are as in `ascending`."""
    runs = _runs_backward(root, *(start or (_START, True)))
    if end is not None:
        runs = _down_to(runs, *end)
    return _parts(map(reversed, runs), part)


def _parts(runs: Iterator[Iterable[Item]], part: int | None) -> Iterator[Any]:
    items = _join(runs)
    return items if part is None else map(itemgetter(part), items)


def _join(runs: Iterator[Iterable[Item]]) -> Iterator[Item]:
    # Not chain.from_iterable(): asked for its next item by a comparison that it waits for, it frees
    # the generator that is running, and the process ends.
    for run in runs:
        yield from run


def _runs_forward(root: Node, key: Any = _START, closed: bool = True) -> Iterator[list[Item]]:
    """Yield the items from `key` on, or all: runs in ascending order.

    Args:
        root: the root of the tree.
        key: where to start; without one at the first item.
        closed: the item with this key is the first, if there is one.
    """
    path: list[_Step] = []
    run = _go_down_forward(root, key, closed, path)
    while True:
        if run:
            yield run
            key, closed = run[-1][0], False
            if not _is_still_there(path):
                run = _go_down_forward(root, key, closed, path)
                continue
        while path and path[-1].position >= len(path[-1].node.items):
            path.pop()
        if not path:
            return
        step = path[-1]
        run = [step.node.items[step.position]]
        step.position += 1
        run += _go_down_forward(step.nodes[step.position], _START, closed, path, len(path))


def _runs_backward(root: Node, key: Any = _START, closed: bool = True) -> Iterator[list[Item]]:
    """Yield the items up to `key`, or all: runs in descending order, each ascending in itself.

    Args:
        root: the root of the tree.
        key: where to start; without one at the last item.
        closed: the item with this key is included, if there is one.
    """
    path: list[_Step] = []
    run = _go_down_backward(root, key, closed, path)
    while True:
        if run:
            yield run
            key, closed = run[0][0], False
            if not _is_still_there(path):
                run = _go_down_backward(root, key, closed, path)
                continue
        while path and path[-1].position == 0:
            path.pop()
        if not path:
            return
        step = path[-1]
        step.position -= 1
        item = step.node.items[step.position]
        run = _go_down_backward(step.nodes[step.position], _START, closed, path, len(path))
        run.append(item)


class _Step:
    """A node on the way of a walk, and which of its children the way goes through."""

    __slots__ = ("node", "nodes", "position")

    def __init__(self, node: Node, nodes: list[Node], position: int) -> None:
        self.node = node
        self.nodes = nodes
        self.position = position


def _is_still_there(path: list[_Step]) -> bool:
    return all(step.node.nodes is step.nodes for step in path)


def _go_down_forward(
    node: Node, key: Any, closed: bool, path: list[_Step], keep: int = 0
) -> list[Item]:
    """Extend the first `keep` steps of `path` to a leaf; give its items from `key` on."""
    del path[keep:]
    position = 0
    while True:
        items, nodes = node.items, node.nodes
        if key is not _START:
            position = position_of(items, key)
            if position < len(items) and items[position][0] == key:
                if closed and nodes:
                    path.append(_Step(node, nodes, position))
                    return []
                position += not closed
        if not nodes:
            return items[position:]
        path.append(_Step(node, nodes, position))
        node = nodes[position]


def _go_down_backward(
    node: Node, key: Any, closed: bool, path: list[_Step], keep: int = 0
) -> list[Item]:
    """Extend the first `keep` steps of `path` to a leaf; give its items up to `key`."""
    del path[keep:]
    while True:
        items, nodes = node.items, node.nodes
        position = len(items)
        if key is not _START:
            position = position_of(items, key)
            if closed and position < len(items) and items[position][0] == key:
                position += 1
                if nodes:
                    path.append(_Step(node, nodes, position))
                    return []
        if not nodes:
            return items[:position]
        path.append(_Step(node, nodes, position))
        node = nodes[position]


def _up_to(runs: Iterator[list[Item]], key: Any, closed: bool) -> Iterator[list[Item]]:
    """Cut ascending runs off at `key`."""
    for run in runs:
        position = position_of(run, key)
        if position < len(run):
            yield run[: position + bool(closed and run[position][0] == key)]
            return
        yield run


def _down_to(runs: Iterator[list[Item]], key: Any, closed: bool) -> Iterator[list[Item]]:
    """Cut descending runs off at `key`."""
    for run in runs:
        position = position_of(run, key)
        is_found = position < len(run) and run[position][0] == key
        if position or is_found:
            yield run[position + bool(is_found and not closed) :]
            return
        yield run
