"""How many items a BTree has, without reading it again for each `len()`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from durus import _btree_nodes

__all__ = ["Census", "note_direct_change"]

_direct_changes = 0


def note_direct_change() -> None:
    """Make every tree count anew: a node does not know of which tree it is."""
    global _direct_changes  # noqa: PLW0603 - one number for all trees
    _direct_changes += 1


class Census:
    """How many items a tree has, counted once and then kept up to date.

    A tree changes in three ways. Through its own methods: they change `count`. By direct use of the
    nodes, or by another root: `holds()` sees that. And by what an abort takes back or other
    sessions commit, perhaps to nodes that are not in memory: the Connection tells its summaries.

    Attributes:
        count: the number of items.
        oids: the nodes that are stored.
        serial: the last transaction that asked for it. By that it has read every node, and
            conflicts with a change of any.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_direct_changes",
        "_is_right",
        "_new_nodes",
        "_root",
        "count",
        "oids",
        "serial",
    )

    def __init__(self, root: Any) -> None:
        self._root = root
        self._connection = root._p_connection
        self._direct_changes = _direct_changes
        self._is_right = True
        self.oids: set[bytes] = set()
        self._new_nodes: dict[int, Any] = {}  # by id(); they get their oids from a commit
        self.count = 0
        self.serial = 0
        for node in _btree_nodes.walk(root):
            self.count += len(node.items)
            self.note_new((node,))
        if self._connection is not None:
            self._connection.summaries.add(self)

    def holds(self, root: Any) -> bool:
        """Tell whether `count` is still right for the tree with this root."""
        return (
            self._is_right
            and self._root is root
            and self._connection is root._p_connection
            and self._direct_changes == _direct_changes
        )

    def note_use(self) -> None:
        """Note that the open transaction has asked for the count."""
        if self._connection is not None:
            self.serial = self._connection.transaction_serial

    def note_added(self, made: Iterable[Any]) -> None:
        """Note that the tree has one item more, and these further nodes."""
        self.count += 1
        self.note_new(made)

    def note_new(self, nodes: Iterable[Any]) -> None:
        """Note that the tree has these further nodes."""
        for node in nodes:
            if node._p_oid is not None:
                self.oids.add(node._p_oid)
            elif self._connection is not None:
                self._new_nodes[id(node)] = node

    def note_gone(self, nodes: Iterable[Any]) -> None:
        """Note that the tree no longer has these nodes: what becomes of them is no conflict."""
        for node in nodes:
            self.oids.discard(node._p_oid)
            self._new_nodes.pop(id(node), None)

    def note_stale(self, oids: Iterable[bytes]) -> set[bytes]:
        """Forget the count if a node of the tree is among `oids`, whose states were replaced.

        Returns:
            The oids of those nodes.
        """
        new_nodes, self._new_nodes = self._new_nodes, {}
        self.note_new(new_nodes.values())
        found = self.oids.intersection(oids)
        if found:
            self._is_right = False
        return found
