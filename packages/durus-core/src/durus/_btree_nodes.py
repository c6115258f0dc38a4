"""Changing the nodes of a B-tree, and what is in them.

A node has `items`, a list of (key, value) sorted by key, and `nodes`: None in a leaf, and otherwise
a list of children, one more than items; what is in `nodes[i]` comes before `items[i]`, what is in
`nodes[i + 1]` after it. All leaves are equally deep. A node of minimum degree t has t - 1 to 2t - 1
items, the root 0 to 2t - 1.

What every function here keeps to:

- Keys are compared by `==` and `<` only. Values are never compared.
- Everything is read, and every change noted (which the Connection may refuse), before anything is
  changed. So an error leaves the tree as it was.
- A node is marked as changed only if its contents change: two transactions whose keys are in
  different leaves do not conflict.
- The root stays the same object. When it is full, its contents move down into two new nodes.
- A change of which keys are where in an inner node gives the node a new `nodes` list. By that a
  walk sees, as it does after a reload, that its way has changed.
- The items of a leaf are changed in place, so a walk gives copies.

Trees of degree 2 that Durus 4.3 has deleted from may have leaves of unequal depth or nodes that are
too full. Reading and adding does not mind; a deletion that meets such a place builds the tree anew.

Searches, walks and adding are hot: they are compiled, or in Python as `_btree_pure` has them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

from durus._btree_pure import Item, Node, make_node, path_to, set_node, slice_nodes
from durus.persistent import PersistentBase

if TYPE_CHECKING or PersistentBase.__module__ == "durus._pure":
    from durus import _btree_pure as _hot
else:
    from durus import _speedups as _hot

__all__ = [
    "Item",
    "Node",
    "TreeBase",
    "ascending",
    "build",
    "descending",
    "find_holder",
    "find_item",
    "position_of",
    "put",
    "remove",
    "split_child",
    "walk",
]

TreeBase = _hot.TreeBase
ascending = _hot.ascending
descending = _hot.descending
find_holder = _hot.find_holder
find_item = _hot.find_item
position_of = _hot.position_of
put = _hot.put


def walk(root: Node) -> Iterator[Node]:
    """Yield every node, parents first."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(_nodes_of(node)))


def split_child(node: Node, position: int) -> None:
    """Split the child at `position`, and put its middle item into `node`, which has room for it."""
    child = _nodes_of(node)[position]
    items, below = child.items, child.nodes
    middle = len(items) // 2
    node._p_note_change()
    child._p_note_change()
    right = make_node(child, items[middle + 1 :], slice_nodes(below, middle + 1, None))
    set_node(
        node,
        [*node.items[:position], items[middle], *node.items[position:]],
        _put_node(node.nodes, position + 1, right),
    )
    set_node(child, items[:middle], slice_nodes(below, 0, middle + 1))


# -- removing --------------------------------------------------------------------------------------


def remove(root: Node, key: Any) -> Collection[Node] | None:
    """Remove the item with `key`.

    Returns:
        The nodes that are no longer in the tree, usually none; None if all may be others now.

    Raises:
        KeyError: there is none.
    """
    found = find_holder(root, key)
    if found is None:
        raise KeyError(key)
    node, position = found
    items = node.items
    if node.nodes or (node is not root and len(items) < node.minimum_degree):
        return _remove_and_join(root, key)
    node._p_note_change()
    del items[position]
    return ()


def _remove_and_join(root: Node, key: Any) -> Collection[Node] | None:
    """Remove an item that is there, and join or even out the nodes that get too empty by it."""
    path = path_to(root, key)
    holder, position = path[-1]
    item = holder.items[position]
    gone: list[Node] | None
    try:
        changes, gone = _changes_for_removal(path)
    except _MalformedTreeError:
        changes = [(root, *_build_lists(root, [it for it in ascending(root) if it is not item]))]
        gone = None
    for node, _, _ in changes:
        node._p_note_change()
    for node, items, nodes in changes:
        set_node(node, items, nodes)
    return gone


class _MalformedTreeError(Exception):
    """A place in a tree that has not the shape that every change keeps."""


_Change: TypeAlias = tuple[Node, list[Item], list[Node] | None]


def _changes_for_removal(path: list[tuple[Node, int]]) -> tuple[list[_Change], list[Node]]:
    """Give the new contents of each node that the removal changes, and the nodes that go.

    Nothing is changed yet.
    """
    holder, position = path.pop()
    holder_items = holder.items
    holder_waits = bool(holder.nodes)  # it has changed, and is not among the changes yet
    if holder.nodes:
        # Its neighbour, the last item of the leaf before it, takes the place of the item.
        path.append((holder, position))
        node = holder.nodes[position]
        while node.nodes:
            path.append((node, len(node.items)))
            node = node.nodes[-1]
        if not node.items:
            raise _MalformedTreeError
        items = node.items[:-1]
        holder_items = [*holder_items[:position], node.items[-1], *holder_items[position + 1 :]]
    else:
        node = holder
        items = [*holder_items[:position], *holder_items[position + 1 :]]
    nodes: list[Node] | None = None
    changes: list[_Change] = []
    gone: list[Node] = []
    while path and len(items) < node.minimum_degree - 1:
        parent, position = path.pop()
        left, right = _pair_up(parent, position)
        parent_items = holder_items if parent is holder else parent.items
        holder_waits = holder_waits and parent is not holder
        parent_nodes = _nodes_of(parent)
        at = position if left is node else position - 1
        left_items, left_nodes = (items, nodes) if left is node else (left.items, left.nodes)
        right_items, right_nodes = (items, nodes) if right is node else (right.items, right.nodes)
        joint_items = [*left_items, parent_items[at], *right_items]
        joint_nodes = [*left_nodes, *right_nodes] if left_nodes and right_nodes else None
        if len(joint_items) > 2 * (node.minimum_degree - 1):
            middle = len(joint_items) // 2
            changes.append((left, joint_items[:middle], slice_nodes(joint_nodes, 0, middle + 1)))
            changes.append(
                (right, joint_items[middle + 1 :], slice_nodes(joint_nodes, middle + 1, None))
            )
            node, nodes = parent, list(parent_nodes)
            items = [*parent_items[:at], joint_items[middle], *parent_items[at + 1 :]]
            break
        changes.append((left, joint_items, joint_nodes))
        gone.append(right)
        node = parent
        items = [*parent_items[:at], *parent_items[at + 1 :]]
        nodes = [*parent_nodes[: at + 1], *parent_nodes[at + 2 :]]
    if not path and not items and nodes:
        # The root has a single child left, the one that was joined last: it takes its contents.
        child, items, nodes = changes.pop()
        gone.append(child)
    changes.append((node, items, nodes))
    if holder_waits:
        changes.append((holder, holder_items, list(_nodes_of(holder))))
    return changes, gone


def _pair_up(parent: Node, position: int) -> tuple[Node, Node]:
    """Give the child at `position` and the neighbour to join it with, in their order."""
    nodes = _nodes_of(parent)
    child = nodes[position]
    left = nodes[position - 1] if position else None
    right = nodes[position + 1] if position + 1 < len(nodes) else None
    neighbour = left
    if left is None or (right is not None and not _can_lend(left) and _can_lend(right)):
        neighbour = right
    if neighbour is None or bool(neighbour.nodes) != bool(child.nodes):
        raise _MalformedTreeError
    return (neighbour, child) if neighbour is left else (child, neighbour)


def _can_lend(node: Node) -> bool:
    return len(node.items) >= node.minimum_degree


# -- building --------------------------------------------------------------------------------------


def build(root: Node, items: list[Item]) -> None:
    """Give `root`, which must be empty, these items, sorted and each key once."""
    root._p_note_change()
    set_node(root, *_build_lists(root, items))


def _build_lists(root: Node, items: list[Item]) -> tuple[list[Item], list[Node] | None]:
    """Give the items and nodes of a root over `items`, its nodes three quarters full."""
    degree = root.minimum_degree
    nodes: list[Node] | None = None
    while len(items) >= 2 * degree:
        separators: list[Item] = []
        made: list[Node] = []
        start = 0
        for length in _group_lengths(len(items), degree):
            end = start + length
            made.append(make_node(root, items[start:end], slice_nodes(nodes, start, end + 1)))
            separators.extend(items[end : end + 1])
            start = end + 1
        items, nodes = separators, made
    return items, nodes


def _group_lengths(count: int, degree: int) -> list[int]:
    """Split `count` items, and one more between each two groups, into groups for one node each."""
    wanted = 3 * degree // 2
    groups = min(-(-(count + 1) // (wanted + 1)), (count + 1) // degree)
    length, longer = divmod(count + 1 - groups, groups)
    return [length + (group < longer) for group in range(groups)]


def _nodes_of(node: Node) -> list[Node]:
    return node.nodes or []


def _put_node(nodes: list[Node] | None, position: int, node: Node) -> list[Node]:
    nodes = nodes or []
    return [*nodes[:position], node, *nodes[position:]]
