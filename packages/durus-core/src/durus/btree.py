"""BTree: a sorted mapping in many small persistent nodes.

A BTree loads and stores only the nodes that it needs, so it can be far larger than memory, and two
transactions that change different leaves do not conflict. What is stored is as in Durus 4.3: a
BTree has a `root`, a node has `items` and `nodes` (see `durus._btree_nodes`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from itertools import pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, cast, overload

from durus import _btree_nodes
from durus._btree_census import Census, note_direct_change
from durus._btree_nodes import (
    Item,
    TreeBase,
    ascending,
    descending,
    find_holder,
    find_item,
    position_of,
)
from durus._containers import ListlikeItems, ListlikeKeys, ListlikeValues
from durus.persistent import PersistentObject, plain_setstates, set_state

if TYPE_CHECKING:
    from _typeshed import SupportsKeysAndGetItem

__all__ = [
    "BNode",
    "BNode4",
    "BNode8",
    "BNode16",
    "BNode32",
    "BNode64",
    "BNode128",
    "BNode256",
    "BNode512",
    "BTree",
]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

_MISSING: Any = object()
_KEY, _VALUE = 0, 1  # the parts of an item


class BNode(PersistentObject):
    """A node of a BTree, or by itself the root of a tree of (key, value) items.

    Its methods are those of Durus 4.3. A program uses BTree, which calls few of them.

    Attributes:
        minimum_degree: a node has at most twice as many items, less one, and except for the root at
            least this many, less one.
        items: the (key, value) pairs of this node, sorted by key.
        nodes: the children, one more than items, or None in a leaf.
    """

    # What a search that is compiled remembers; as with all that begins with _p_, it is not stored.
    __slots__ = ("_p_keys", "items", "nodes")

    minimum_degree = 2
    items_is: ClassVar[Any] = [tuple]
    nodes_is: ClassVar[Any]

    items: list[Item]
    nodes: list[Self] | None
    _p_keys: Any

    def __init__(self) -> None:
        self.items = []
        self.nodes = None

    def _p_set_status_ghost(self) -> None:
        super()._p_set_status_ghost()
        self._p_keys = None

    def __setstate__(self, state: Any) -> None:
        # Development versions after Durus 4.3 kept the number of items of the subtree as well.
        if state is not None and "_count" in state:
            state = {name: value for name, value in state.items() if name != "_count"}
        set_state(self, state or {})

    def __iter__(self) -> Iterator[Item]:
        return ascending(self)

    def __reversed__(self) -> Iterator[Item]:
        return descending(self)

    def iter_from(self, key: Any) -> Iterator[Item]:
        """Iterate over the items from `key` on."""
        return ascending(self, None, (key, True))

    def iter_backward_from(self, key: Any) -> Iterator[Item]:
        """Iterate in descending order over the items with lesser keys than `key`."""
        return descending(self, None, (key, False))

    def search(self, key: Any) -> Item | None:
        """Give the item with `key`, or None."""
        return find_item(self, key)

    def get_position(self, key: Any) -> int:
        """Give the position in `items` of the first whose key is not less than `key`."""
        return position_of(self.items, key)

    def get_min_item(self) -> Item:
        """Give the first item.

        Raises:
            IndexError: there is none.
        """
        return _first(iter(self))

    def get_max_item(self) -> Item:
        """Give the last item.

        Raises:
            IndexError: there is none.
        """
        return _first(reversed(self))

    def get_count(self) -> int:
        """Count the items of this node and of all below. Visits each."""
        return sum(len(node.items) for node in _btree_nodes.walk(self))

    def get_node_count(self) -> int:
        """Count this node and all below. Visits each."""
        return sum(1 for _ in _btree_nodes.walk(self))

    def get_level(self) -> int:
        """Give the height of this node above the leaves: 0 for a leaf."""
        level, node = 0, self
        while node.nodes:
            level, node = level + 1, node.nodes[0]
        return level

    def is_leaf(self) -> bool:
        """Tell whether this node has no children."""
        return not self.nodes

    def is_full(self) -> bool:
        """Tell whether this node has no room for another item."""
        return len(self.items) >= 2 * self.minimum_degree - 1

    def insert_item(self, item: Item) -> None:
        """Add an item to this node or below, or replace the one with the same key."""
        note_direct_change()
        _btree_nodes.put(self, item)

    def delete(self, key: Any) -> None:
        """Remove the item with `key` from this node or below.

        Raises:
            KeyError: there is none.
        """
        note_direct_change()
        _btree_nodes.remove(self, key)

    def split_child(self, position: int, child: Self) -> None:
        """Split `child`, which is at `position` and full, in two, unless this node is full itself.

        Raises:
            ValueError: `child` is not there or not full, or this node is full.
        """
        if not self.nodes or self.nodes[position] is not child or not child.is_full():
            raise ValueError(f"{child!r} is not a full child at position {position} of {self!r}")
        if self.is_full():
            raise ValueError(f"{self!r} has no room for an item of its child")
        note_direct_change()
        _btree_nodes.split_child(self, position)


plain_setstates.add(BNode.__setstate__)


class BNode4(BNode):
    """A node of 3 to 7 items."""

    __slots__ = ()
    minimum_degree = 4


class BNode8(BNode):
    """A node of 7 to 15 items."""

    __slots__ = ()
    minimum_degree = 8


class BNode16(BNode):
    """A node of 15 to 31 items."""

    __slots__ = ()
    minimum_degree = 16


class BNode32(BNode):
    """A node of 31 to 63 items."""

    __slots__ = ()
    minimum_degree = 32


class BNode64(BNode):
    """A node of 63 to 127 items."""

    __slots__ = ()
    minimum_degree = 64


class BNode128(BNode):
    """A node of 127 to 255 items."""

    __slots__ = ()
    minimum_degree = 128


class BNode256(BNode):
    """A node of 255 to 511 items."""

    __slots__ = ()
    minimum_degree = 256


class BNode512(BNode):
    """A node of 511 to 1023 items."""

    __slots__ = ()
    minimum_degree = 512


_NODE_CLASSES: dict[int, type[BNode]] = {
    node_class.minimum_degree: node_class
    for node_class in (
        BNode, BNode4, BNode8, BNode16, BNode32, BNode64, BNode128, BNode256, BNode512,
    )
}  # fmt: skip
for _node_class in _NODE_CLASSES.values():
    _node_class.nodes_is = (None, [_node_class])


class BTree(TreeBase, PersistentObject, MutableMapping[K, V]):
    """A persistent mapping sorted by key.

    All keys must compare with each other by `==` and `<`, and keep their order for as long as they
    are in the tree.

    An iterator never gives a key twice, keeps the order, and gives every item that is there from
    its start to its end, whatever is added or removed (or committed or aborted) meanwhile. It may
    or may not give what comes or goes during that time.

    `keys()`, `values()` and `items()` are views. They also read like the lists that Durus 4.3 gave,
    but an index costs a walk to its place.

    Attributes:
        root: the root node.

    Source: durus.btree of Durus 4.3.
    """

    # A slot whose name begins with _p_ is neither stored nor lost with the state.
    __slots__ = ("_p_census", "root")

    root: BNode
    root_is: ClassVar[Any] = tuple(_NODE_CLASSES.values())
    _p_census: Census | None

    def __init__(self, node_constructor: type[BNode] = BNode16) -> None:
        """Make an empty tree.

        Args:
            node_constructor: the class of the nodes. Larger nodes make fewer and larger records.

        Raises:
            TypeError: `node_constructor` is not a BNode class.
        """
        if not isinstance(node_constructor, type) or not issubclass(node_constructor, BNode):
            raise TypeError(f"a BTree is made of a class of BNodes, got {node_constructor!r:.80}")
        self.root = node_constructor()
        self._p_census = None

    # -- reading ----------------------------------------------------------------------------------

    if TYPE_CHECKING:

        def __getitem__(self, key: K) -> V: ...
        def __setitem__(self, key: K, value: V) -> None: ...
        def __delitem__(self, key: K) -> None: ...

    @overload
    def get(self, key: K) -> V | None: ...
    @overload
    def get(self, key: K, default: V) -> V: ...
    @overload
    def get(self, key: K, default: T) -> V | T: ...
    def get(self, key: Any, default: Any = None) -> Any:
        item = find_item(self.root, key)
        return default if item is None else item[1]

    def has_key(self, key: object) -> bool:
        """Tell whether `key` is there: Durus 4.3's name for `in`."""
        return key in self

    def __len__(self) -> int:
        root = self.root
        census = self._find_census()
        if census is None or not census.holds(root):
            census = self._p_census = Census(root)
        census.note_use()
        return census.count

    def __bool__(self) -> bool:
        root = self.root
        return bool(root.items or root.nodes)

    def get_min_item(self) -> tuple[K, V]:
        """Give the item with the least key.

        Raises:
            ValueError: the tree is empty.
        """
        for item in self.items():
            return item
        raise ValueError("an empty BTree has no min item")

    def get_max_item(self) -> tuple[K, V]:
        """Give the item with the greatest key.

        Raises:
            ValueError: the tree is empty.
        """
        for item in self.items_backward():
            return item
        raise ValueError("an empty BTree has no max item")

    def get_depth(self) -> int:
        """Count the nodes on the way from the root to a leaf; 1 for an empty tree."""
        return self.root.get_level() + 1

    def get_node_count(self) -> int:
        """Count the nodes. Visits each."""
        return self.root.get_node_count()

    # -- walking in order -------------------------------------------------------------------------

    def __iter__(self) -> Iterator[K]:
        return ascending(self.root, _KEY)

    def __reversed__(self) -> Iterator[K]:
        return descending(self.root, _KEY)

    def keys(self) -> TreeKeys[K]:
        return TreeKeys(self)

    def values(self) -> TreeValues[V]:
        return TreeValues(self)

    def items(self) -> TreeItems[K, V]:
        return TreeItems(self)

    def iterkeys(self) -> Iterator[K]:
        """Iterate over the keys: Durus 4.3's name for `iter()`."""
        return iter(self)

    def itervalues(self) -> Iterator[V]:
        """Iterate over the values: Durus 4.3's name for `iter(tree.values())`."""
        return ascending(self.root, _VALUE)

    def iteritems(self) -> Iterator[tuple[K, V]]:
        """Iterate over the items: Durus 4.3's name for `iter(tree.items())`."""
        return ascending(self.root)

    def items_backward(self) -> Iterator[tuple[K, V]]:
        """Iterate over the items in descending order."""
        return descending(self.root)

    def items_from(self, key: K, closed: bool = True) -> Iterator[tuple[K, V]]:
        """Iterate over the items from `key` on.

        Args:
            key: where to start; it need not be there.
            closed: include the item with `key` itself.
        """
        return ascending(self.root, None, (key, closed))

    def items_backward_from(self, key: K, closed: bool = False) -> Iterator[tuple[K, V]]:
        """Iterate in descending order over the items before `key`.

        Args:
            key: where to start; it need not be there.
            closed: include the item with `key` itself.
        """
        return descending(self.root, None, (key, closed))

    def items_range(
        self, start: K, end: K, closed_start: bool = True, closed_end: bool = False
    ) -> Iterator[tuple[K, V]]:
        """Iterate over the items between two keys, in descending order if `end` is before `start`.

        Args:
            start: where to start; it need not be there.
            end: where to end; it need not be there.
            closed_start: include the item with the key `start` itself.
            closed_end: include the item with the key `end` itself.
        """
        walk = descending if cast("Any", end) < start else ascending
        return walk(self.root, None, (start, closed_start), (end, closed_end))

    # -- changing ---------------------------------------------------------------------------------

    if TYPE_CHECKING:

        def add(self, key: K, value: V = ...) -> None: ...
    else:
        add = TreeBase.add  # named here, so that the documentation of this class has it

    def _remove(self, key: Any) -> None:
        gone = _btree_nodes.remove(self.root, key)
        census = self._find_census()
        if gone is None:
            self._p_census = None
        elif census is not None:
            census.count -= 1
            if gone:
                census.note_gone(gone)

    @overload
    def pop(self, key: K) -> V: ...
    @overload
    def pop(self, key: K, default: V) -> V: ...
    @overload
    def pop(self, key: K, default: T) -> V | T: ...
    def pop(self, key: Any, default: Any = _MISSING) -> Any:
        value = self.get(key, _MISSING)
        if value is not _MISSING:
            del self[key]
            return value
        if default is _MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[K, V]:
        """Remove and give the item with the least key.

        Raises:
            KeyError: the tree is empty.
        """
        for item in self.items():
            del self[item[0]]
            return item
        raise KeyError("popitem(): an empty BTree has no item")

    def clear(self) -> None:
        """Remove all items, and keep the class of the nodes."""
        root = self.root
        if root.items or root.nodes:
            root._p_note_change()
            root.items = []
            root.nodes = None
            self._p_census = None

    @overload
    def setdefault(self: BTree[K, T | None], key: K, value: None = None) -> T | None: ...
    @overload
    def setdefault(self, key: K, value: V) -> V: ...
    def setdefault(self, key: Any, value: Any = None) -> Any:
        found = self.get(key, _MISSING)
        if found is not _MISSING:
            return found
        self.add(key, value)
        return value

    @overload
    def update(self, items: SupportsKeysAndGetItem[K, V], /) -> None: ...
    @overload
    def update(
        self: BTree[str, V], items: SupportsKeysAndGetItem[str, V], /, **kwargs: V
    ) -> None: ...
    @overload
    def update(self, items: Iterable[tuple[K, V]], /) -> None: ...
    @overload
    def update(self: BTree[str, V], items: Iterable[tuple[str, V]], /, **kwargs: V) -> None: ...
    @overload
    def update(self: BTree[str, V], /, **kwargs: V) -> None: ...
    def update(self, items: Any = (), /, **kwargs: Any) -> None:
        """Set the values of many keys. Fills an empty tree several times as fast as one by one."""
        pairs = _pairs_of(items)
        pairs.extend(kwargs.items())
        ordered = _in_order(pairs) if self._is_plain() and not self else None
        if ordered is None:
            for key, value in pairs:
                self[key] = value
        elif ordered:
            _btree_nodes.build(self.root, ordered)
            self._p_census = None

    def _is_plain(self) -> bool:
        """Tell whether no subclass wants to see each item that is set."""
        cls = type(self)
        return cls.__setitem__ is BTree.__setitem__ and cls.add is BTree.add

    def note_change_of_bnode_containing_key(self, key: K) -> None:
        """Mark as changed the node that holds `key`: the value was changed in place.

        Raises:
            KeyError: `key` is not there.
        """
        found = find_holder(self.root, key)
        if found is None:
            raise KeyError(key)
        found[0]._p_note_change()

    def set_bnode_minimum_degree(self, degree: int) -> bool:
        """Build the tree anew with nodes of another size, if it has not that size already.

        Args:
            degree: 2, 4, 8, 16, 32, 64, 128, 256 or 512.

        Returns:
            Whether the tree was built anew; False as well for any other degree.
        """
        node_class = _NODE_CLASSES.get(degree)
        if node_class is None or self.root.minimum_degree == degree:
            return False
        items = list(self.root)
        self._p_note_change()
        root = node_class()
        _btree_nodes.build(root, items)
        self.root = root
        self._p_census = None
        return True

    def _find_census(self) -> Census | None:
        try:
            return self._p_census
        except AttributeError:  # a tree that was loaded, not made
            self._p_census = None
            return None


class TreeKeys(ListlikeKeys[K]):
    """The keys, in their order."""

    __slots__ = ()


class TreeValues(ListlikeValues[V]):
    """The values, in the order of the keys."""

    __slots__ = ()

    def __iter__(self) -> Iterator[V]:
        tree: BTree[Any, V] = self._mapping
        return tree.itervalues()

    def __contains__(self, value: object) -> bool:
        return any(found is value or found == value for found in self)

    def __reversed__(self) -> Iterator[V]:
        tree: BTree[Any, V] = self._mapping
        return descending(tree.root, _VALUE)


class TreeItems(ListlikeItems[K, V]):
    """The items, in the order of the keys."""

    __slots__ = ()

    def __iter__(self) -> Iterator[tuple[K, V]]:
        tree: BTree[K, V] = self._mapping
        return tree.iteritems()

    def __reversed__(self) -> Iterator[tuple[K, V]]:
        tree: BTree[K, V] = self._mapping
        return tree.items_backward()


def _first(items: Iterator[Item]) -> Item:
    for item in items:
        return item
    raise IndexError("an empty node has no items")


def _pairs_of(items: Any) -> list[Any]:
    """Give what a dict would be made of as a list of (key, value)."""
    if isinstance(items, Mapping):
        return list(items.items())
    if hasattr(items, "keys"):
        return [(key, items[key]) for key in items.keys()]  # noqa: SIM118 - it may have no more
    return [(key, value) for key, value in items]


def _in_order(pairs: list[Item]) -> list[Item] | None:
    """Sort pairs and keep the last of each key; None if the keys have no clear order."""
    ordered = sorted(pairs, key=itemgetter(0))
    if all(left[0] < right[0] for left, right in pairwise(ordered)):
        return ordered
    unique: list[Item] = []
    for pair in ordered:
        if unique and unique[-1][0] == pair[0]:
            unique[-1] = pair
        else:
            unique.append(pair)
    return unique if all(left[0] < right[0] for left, right in pairwise(unique)) else None
