"""BTree is a sorted mapping, at every degree and on every order of keys."""

from __future__ import annotations

import copy
import functools
import pickle
import random
from collections.abc import Callable, ItemsView, Iterator, KeysView, MutableMapping, ValuesView
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from durus import btree
from durus.btree import BNode, BNode4, BNode8, BNode16, BNode512, BTree
from durus.connection import Connection
from durus.persistent import SAVED
from durus.storage import MemoryStorage

NODE_CLASSES = [
    node_class
    for name, node_class in vars(btree).items()
    if name.startswith("BNode") and isinstance(node_class, type)
]


def check_shape(tree: BTree[Any, Any]) -> None:
    """Check order, fill and depth of every node."""
    _check_node(tree.root, None, None, is_root=True)


def _check_node(node: BNode, low: Any, high: Any, *, is_root: bool = False) -> int:
    degree = node.minimum_degree
    keys = [key for key, _ in node.items]
    assert all(type(item) is tuple and len(item) == 2 for item in node.items)
    assert all(first < second for first, second in pairwise(keys))
    assert not keys or low is None or low < keys[0]
    assert not keys or high is None or keys[-1] < high
    assert len(keys) <= 2 * degree - 1
    assert is_root or len(keys) >= degree - 1
    if node.nodes is None:
        return 1
    assert len(node.nodes) == len(keys) + 1
    assert all(type(child) is type(node) for child in node.nodes)
    bounds = [low, *keys, high]
    depths = {_check_node(child, bounds[i], bounds[i + 1]) for i, child in enumerate(node.nodes)}
    assert len(depths) == 1
    return depths.pop() + 1


def check_same(tree: BTree[Any, Any], model: dict[Any, Any]) -> None:
    """Check every way of reading against a dict."""
    items = sorted(model.items())
    assert list(tree.items()) == items
    assert list(reversed(tree.items())) == list(tree.items_backward()) == items[::-1]
    assert list(tree) == list(tree.keys()) == [key for key, _ in items]
    assert list(reversed(tree)) == list(reversed(tree.keys())) == [key for key, _ in items[::-1]]
    assert list(tree.values()) == [value for _, value in items]
    assert list(reversed(tree.values())) == [value for _, value in items[::-1]]
    assert len(tree) == len(tree.items()) == len(items) == tree.root.get_count()
    assert bool(tree) == bool(items)
    for key, value in items:
        assert tree[key] == tree.get(key) == value
        assert key in tree


def filled(node_class: type[BNode], keys: Any) -> BTree[Any, Any]:
    """Make a tree, one key after the other."""
    tree = BTree[Any, Any](node_class)
    for key in keys:
        tree[key] = -key
    return tree


def stored(tree: BTree[Any, Any]) -> Connection:
    """Commit `tree` as the root's "x", and make ghosts of it and of all its nodes."""
    connection = Connection(MemoryStorage())
    connection.get_root()["x"] = tree
    connection.commit()
    ghosts(tree)
    return connection


def ghosts(tree: BTree[Any, Any]) -> None:
    """Make ghosts of a tree and its nodes."""
    for node in list(btree._btree_nodes.walk(tree.root)):
        node._p_set_status_ghost()  # type: ignore[attr-defined]
    tree._p_set_status_ghost()


# -- the mapping -----------------------------------------------------------------------------------


def test_it_is_a_mutable_mapping() -> None:
    """It is a MutableMapping, cannot be hashed, has no `__dict__`, and is subscriptable."""
    tree = BTree[str, int]()
    assert isinstance(tree, MutableMapping)
    assert not hasattr(tree, "__dict__")
    with pytest.raises(TypeError, match="unhashable"):
        hash(tree)
    assert type(tree.root) is BNode16


def test_the_node_classes_are_those_of_43() -> None:
    """There is a class for each degree from 2 to 512, with the attributes of Durus 4.3."""
    degrees = [2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert [node_class.minimum_degree for node_class in NODE_CLASSES] == degrees
    for node_class in NODE_CLASSES:
        assert node_class.items_is == [tuple]
        assert node_class.nodes_is == (None, [node_class])
        assert not hasattr(node_class(), "__dict__")


@pytest.mark.parametrize("wrong", [3, dict, {1: 2}, None])
def test_it_is_made_of_nodes(wrong: Any) -> None:
    """What is no class of nodes is refused."""
    with pytest.raises(TypeError):
        BTree(wrong)


@pytest.mark.parametrize("node_class", NODE_CLASSES)
@pytest.mark.parametrize("order", ["ascending", "descending", "random", "zigzag"])
def test_every_order_of_keys(node_class: type[BNode], order: str) -> None:
    """Keys may come and go in any order; the tree keeps its shape and loses nothing."""
    keys = list(range(4 * node_class.minimum_degree + 300))
    if order == "descending":
        keys.reverse()
    elif order == "random":
        random.Random(1).shuffle(keys)
    elif order == "zigzag":
        keys.sort(key=lambda key: (key % 7, key))
    tree = filled(node_class, keys)
    model = {key: -key for key in keys}
    check_shape(tree)
    check_same(tree, model)
    for key in keys:
        assert tree.pop(key) == model.pop(key)
        assert key not in tree
        check_shape(tree)
    check_same(tree, {})


def test_what_is_not_there() -> None:
    """Missing keys raise KeyError with the key, or give the default."""
    tree = filled(BNode, range(0, 20, 2))
    for key in (-1, 5, 99):
        for call in (tree.__getitem__, tree.__delitem__, tree.pop, tree.root.delete):
            with pytest.raises(KeyError) as caught:
                call(key)
            assert caught.value.args == (key,)
        assert tree.get(key) is None
        assert tree.get(key, "default") == tree.pop(key, "default") == "default"
        assert not tree.has_key(key)
    check_same(tree, {key: -key for key in range(0, 20, 2)})


def test_an_empty_tree() -> None:
    """Nothing is in it, and what needs an item says so."""
    tree = BTree[int, int]()
    assert not tree
    assert len(tree) == 0
    assert list(tree.items()) == list(tree.items_backward()) == []
    assert (tree.get_depth(), tree.get_node_count()) == (1, 1)
    with pytest.raises(KeyError):
        tree.popitem()
    with pytest.raises(ValueError, match="empty"):
        tree.get_min_item()
    with pytest.raises(ValueError, match="empty"):
        tree.get_max_item()
    tree.clear()
    tree.update()


def test_the_methods_of_43() -> None:
    """add, setdefault, popitem, min, max, depth and the iterators do as in Durus 4.3."""
    tree = BTree[int, Any](BNode)
    tree.add(3)
    tree.add(1, "one")
    assert tree.setdefault(1, "eins") == "one"
    assert tree.setdefault(2, "two") == "two"
    assert tree.setdefault(4) is None
    assert list(tree.iteritems()) == [(1, "one"), (2, "two"), (3, True), (4, None)]
    assert list(tree.iterkeys()) == [1, 2, 3, 4]
    assert list(tree.itervalues()) == ["one", "two", True, None]
    assert tree.get_min_item() == (1, "one")
    assert tree.get_max_item() == (4, None)
    assert (tree.get_depth(), tree.get_node_count()) == (2, 3)
    assert tree.popitem() == (1, "one")
    assert next(tree.items_from(3)) == (3, True)
    tree.clear()
    assert type(tree.root) is BNode
    check_same(tree, {})


def test_setting_again_replaces_key_and_value() -> None:
    """The item is replaced as a whole, as in Durus 4.3."""
    tree = filled(BNode, range(20))
    for key in range(20):
        tree[float(key)] = "new"
    assert all(type(key) is float and value == "new" for key, value in tree.items())
    assert len(tree) == 20


@given(st.sets(st.integers(0, 40)), st.integers(-1, 41), st.integers(-1, 41), st.data())
def test_ranges(keys: set[int], start: int, end: int, data: Any) -> None:
    """A range gives what lies between two keys, either end open or closed, in both directions."""
    tree = filled(data.draw(st.sampled_from([BNode, BNode4])), keys)
    for closed_start in (False, True):
        for closed_end in (False, True):
            found = list(tree.items_range(start, end, closed_start, closed_end))
            low, high = min(start, end), max(start, end)
            expected = [
                (key, -key)
                for key in sorted(keys, reverse=end < start)
                if low <= key <= high
                and (key not in {start, end} or (start == end and closed_start and closed_end)
                     or (start != end and (closed_start if key == start else closed_end)))
            ]  # fmt: skip
            if start == end and closed_start != closed_end:
                expected = []
            assert found == expected
        ascending = [(key, -key) for key in sorted(keys)]
        assert list(tree.items_from(start, closed_start)) == [
            item for item in ascending if item[0] > start or (closed_start and item[0] == start)
        ]
        assert list(tree.items_backward_from(start, closed_start)) == [
            item
            for item in reversed(ascending)
            if item[0] < start or (closed_start and item[0] == start)
        ]
    assert list(tree.items_range(start, end)) == list(tree.items_range(start, end, True, False))
    assert list(tree.items_from(start)) == list(tree.items_from(start, closed=True))
    assert list(tree.items_backward_from(start)) == list(
        tree.items_backward_from(start, closed=False)
    )


def test_a_range_reads_no_further_than_it_must() -> None:
    """A range loads the nodes on its way, and no others."""
    tree = filled(BNode16, range(10000))
    connection = stored(tree)
    before = connection.get_load_count()
    assert list(tree.items_range(5000, 5005)) == [(key, -key) for key in range(5000, 5005)]
    assert tree.get_max_item() == (9999, -9999)
    assert tree.keys()[0] == 0
    assert tree.values()[-1] == -9999
    assert connection.get_load_count() - before <= 1 + 4 * tree.get_depth()


def test_views() -> None:
    """keys(), values() and items() are live views that also read like lists."""
    tree = filled(BNode, range(10))
    keys, values, items = tree.keys(), tree.values(), tree.items()
    assert isinstance(keys, KeysView)
    assert isinstance(values, ValuesView)
    assert isinstance(items, ItemsView)
    del tree[0]
    assert list(keys) == list(range(1, 10))
    assert len(values) == 9
    assert (3, -3) in items
    assert (3, 3) not in items
    assert -3 in values
    assert 3 not in values
    assert keys & {1, 50} == {1}
    assert keys[0] == 1
    assert items[-1] == (9, -9)
    assert values[1:3] == [-2, -3]
    assert keys == list(range(1, 10))
    with pytest.raises(IndexError):
        keys[9]
    for key in tree.keys():  # noqa: SIM118 - the view is tested
        del tree[key]
    assert not tree


@given(st.lists(st.tuples(st.integers(0, 30), st.integers())), st.data())
def test_update_is_as_that_of_dict(pairs: list[tuple[int, int]], data: Any) -> None:
    """update() takes pairs in any order, mappings and keywords; the last value of a key counts."""
    tree = filled(
        data.draw(st.sampled_from([BNode, BNode4])), data.draw(st.sets(st.integers(0, 30)))
    )
    model = dict(tree.items())
    tree.update(pairs)
    model.update(pairs)
    check_shape(tree)
    check_same(tree, model)
    other = BTree[int, int](BNode)
    other.update(tree)
    other.update(other)
    check_same(other, model)
    check_shape(other)


def test_update_with_keywords() -> None:
    """Keywords are string keys, also those that are names of parameters."""
    tree = BTree[str, int]()
    tree.update({"a": 1}, b=2, self=3, items=4)
    tree.update([("a", 5)], c=6)
    tree.update(d=7)
    assert dict(tree) == {"a": 5, "b": 2, "self": 3, "items": 4, "c": 6, "d": 7}
    with pytest.raises(TypeError):
        tree.update({}, {})  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        tree.update(3)  # type: ignore[call-overload]


def test_update_that_fails_to_read_changes_nothing() -> None:
    """All pairs are taken before the first is set."""
    tree = BTree[int, int]()
    with pytest.raises(ZeroDivisionError):
        tree.update((key, 1 // key) for key in (2, 1, 0))
    with pytest.raises(TypeError):
        tree.update([(1, 1), ("a", 2)])  # type: ignore[list-item]
    assert not tree


@pytest.mark.parametrize("node_class", NODE_CLASSES[:6])
@pytest.mark.parametrize("count", [*range(40), 63, 64, 100, 1000, 1001, 4097])
def test_a_tree_that_is_filled_at_once_has_the_shape_of_others(
    node_class: type[BNode], count: int
) -> None:
    """update() of an empty tree gives nodes that are neither too empty nor too full."""
    tree = BTree[int, int](node_class)
    tree.update((key, -key) for key in range(count))
    check_shape(tree)
    assert list(tree.items()) == [(key, -key) for key in range(count)]


def test_update_lets_a_subclass_see_each_item() -> None:
    """A subclass with an own add() or `__setitem__` gets every item, as in Durus 4.3."""
    seen = []

    class Watched(BTree[Any, Any]):
        def add(self, key: Any, value: Any = True) -> None:
            seen.append(key)
            super().add(key, value)

    tree = Watched()
    tree.update({2: 2, 1: 1})
    tree[3] = 3
    tree.setdefault(4, 4)
    assert seen == [2, 1, 3, 4]


@pytest.mark.parametrize("degree", [2, 4, 8, 16, 32, 64, 128, 256, 512])
def test_set_bnode_minimum_degree(degree: int) -> None:
    """The tree is built anew with nodes of the given degree, once; other degrees change nothing."""
    tree = filled(BNode8, range(1000))
    assert tree.set_bnode_minimum_degree(degree) == (degree != 8)
    assert not tree.set_bnode_minimum_degree(degree)
    assert not tree.set_bnode_minimum_degree(3)
    assert tree.root.minimum_degree == degree
    check_shape(tree)
    check_same(tree, {key: -key for key in range(1000)})


# -- keys and values -------------------------------------------------------------------------------


class Opaque:
    """A value that must not be compared."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("values were compared")

    __lt__ = __le__ = __gt__ = __ge__ = __ne__ = __eq__  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


@functools.total_ordering
class Counted:
    """A key that counts comparisons."""

    count = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Counted)
        Counted.count += 1
        return self.number == other.number

    def __lt__(self, other: Counted) -> bool:
        Counted.count += 1
        return self.number < other.number

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize("node_class", [BNode, BNode16])
def test_values_are_never_compared(node_class: type[BNode]) -> None:
    """Values need no comparison, whatever is done with their keys."""
    tree = BTree[int, Any](node_class)
    for key in [*range(100), *range(50)]:
        tree[key] = Opaque()
    assert type(tree[7]) is Opaque
    assert len(list(tree.items_range(10, 20))) == 10
    assert len(list(tree.items_range(20, 10))) == 10
    tree.update((key, Opaque()) for key in range(200))
    other = BTree[int, Any](node_class)
    other.update([(1, Opaque()), (0, Opaque()), (1, Opaque())])
    for key in range(200):
        del tree[key]


def test_a_search_bisects() -> None:
    """A lookup makes about two comparisons for each doubling of the number of items."""
    tree = BTree[Any, Any](btree.BNode64)
    for number in range(5000):
        tree[Counted(number)] = number
    Counted.count = 0
    assert tree[Counted(1234)] == 1234
    assert Counted.count < 40
    Counted.count = 0
    assert [key.number for key in tree] == list(range(5000))
    assert Counted.count == 0


def test_keys_that_do_not_compare_change_nothing() -> None:
    """A key that does not compare with the others raises TypeError and leaves the tree alone."""
    tree = filled(BNode, range(20))
    connection = stored(tree)
    calls: list[Callable[[], Any]] = [
        lambda: tree.__setitem__("a", 1),
        lambda: tree.__delitem__("a"),
        lambda: "a" in tree,
        lambda: tree.get("a"),
        lambda: tree.pop("a", 1),
        lambda: tree.setdefault(None, 1),
        lambda: list(tree.items_from("a")),
        lambda: list(tree.items_range("a", 3)),
        lambda: list(tree.items_range(3, None)),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
    assert not connection.changed
    check_same(tree, {key: -key for key in range(20)})


def test_keys_of_mixed_types_that_compare() -> None:
    """Integers, floats and booleans are one order; tuples and strings have theirs."""
    tree = BTree[Any, Any](BNode)
    for key in (2, 0.5, True, -3, 1e300, 2.5):
        tree[key] = key
    assert list(tree) == [-3, 0.5, 1, 2, 2.5, 1e300]
    assert tree[1] is True
    words = BTree[Any, Any](BNode)
    for key in [(word, n) for word in "banana" for n in range(3)]:
        words[key] = 1
    assert [key for key, _ in words.items_from(("b",))] == [
        ("b", 0), ("b", 1), ("b", 2), ("n", 0), ("n", 1), ("n", 2),
    ]  # fmt: skip


def test_none_may_be_the_only_key() -> None:
    """A single key need not compare with anything."""
    tree = BTree[Any, Any]()
    tree[None] = 1
    tree[None] = 2
    assert tree[None] == 2
    assert len(tree) == 1
    del tree[None]
    assert not tree


# -- what is stored, and what a change marks -------------------------------------------------------


def test_the_state_is_as_in_43() -> None:
    """A tree stores its root, a node its items and nodes, a subclass its attributes besides."""

    class Named(BTree[int, int]):
        name = "x"

    tree = Named(BNode)
    tree.name = "named"
    tree.update((key, key) for key in range(10))
    assert len(tree) == 10
    assert tree.__getstate__() == {"root": tree.root, "name": "named"}
    assert set(tree.root.__getstate__()) == {"items", "nodes"}
    assert type(tree.root.items) is list
    assert type(tree.root.nodes) is list
    assert tree.root.nodes[0].__getstate__()["nodes"] is None


def test_a_state_with_a_count_is_read() -> None:
    """Later development versions of Durus 4 stored `_count`: it is ignored, and not kept."""
    node = BNode4()
    node.__setstate__({"items": [(1, 2)], "nodes": None, "_count": 7})
    assert node.__getstate__() == {"items": [(1, 2)], "nodes": None}
    assert node.get_count() == 1
    node.__setstate__(None)
    node.__setstate__({"items": [], "nodes": None})
    assert node.items == []


def test_a_tree_is_loaded_as_it_was_stored() -> None:
    """After a commit every item is found again, in ghosts and in another Connection."""
    tree = filled(BNode4, range(300))
    connection = stored(tree)
    check_same(tree, {key: -key for key in range(300)})
    again = Connection(connection.get_storage()).get_root()["x"]
    assert again is not tree
    check_same(again, {key: -key for key in range(300)})
    check_shape(again)


def test_reading_marks_nothing() -> None:
    """No way of reading marks a node as changed."""
    tree = filled(BNode, range(100))
    connection = stored(tree)
    check_same(tree, {key: -key for key in range(100)})
    assert list(tree.items_range(10, 20))
    assert tree.get_min_item()
    assert tree.get_depth() == tree.root.get_level() + 1
    assert tree.get_node_count() > 10
    assert tree.pop(1000, None) is None
    assert tree.setdefault(5, 0) == -5
    assert str(tree)
    assert not tree.set_bnode_minimum_degree(2)
    assert tree == {key: -key for key in range(100)}
    assert not connection.changed


@pytest.mark.parametrize("node_class", [BNode, BNode4, BNode16])
def test_a_change_marks_only_the_nodes_that_it_changes(node_class: type[BNode]) -> None:
    """After each operation the marked nodes are those whose contents differ, and no others."""
    tree = filled(node_class, range(0, 400, 2))
    connection = stored(tree)
    rng = random.Random(5)
    for _ in range(300):
        nodes = list(btree._btree_nodes.walk(tree.root))
        before = {node._p_oid: _contents(node) for node in nodes}  # type: ignore[attr-defined]
        key = rng.randrange(400)
        if rng.random() < 0.5:
            tree[key] = rng.random()
        else:
            tree.pop(key, None)
        remaining = list(btree._btree_nodes.walk(tree.root))
        after = {node._p_oid: _contents(node) for node in remaining}  # type: ignore[attr-defined]
        changed = {oid for oid, contents in after.items() if oid and before[oid] != contents}
        assert set(connection.changed) == changed
        assert tree._p_oid not in connection.changed
        connection.commit()


def _contents(node: Any) -> Any:
    return list(node.items), list(node.nodes or ())


def test_most_changes_mark_one_node() -> None:
    """Setting a key marks the node that has it, adding and removing the leaf, unless it must."""
    tree = filled(BNode16, range(0, 2000, 2))
    connection = stored(tree)
    key = tree.root.items[0][0]
    tree[key] = "new"
    assert list(connection.changed) == [tree.root._p_oid]
    connection.abort()
    for change in (lambda: tree.add(31), lambda: tree.pop(30), lambda: tree.add(30, "new")):
        change()
        (leaf,) = connection.changed.values()
        assert leaf.is_leaf()  # type: ignore[attr-defined]
        connection.abort()
    tree.note_change_of_bnode_containing_key(30)
    assert len(connection.changed) == 1
    with pytest.raises(KeyError):
        tree.note_change_of_bnode_containing_key(31)


def test_clear_marks_the_root_node_if_there_is_something_to_clear() -> None:
    """Clearing an empty tree changes nothing; aborting a clear brings all back."""
    tree = filled(BNode, range(50))
    connection = stored(tree)
    tree.clear()
    check_same(tree, {})
    assert list(connection.changed) == [tree.root._p_oid]
    connection.abort()
    check_same(tree, {key: -key for key in range(50)})
    tree.clear()
    connection.commit()
    tree.clear()
    assert not connection.changed


class Brittle(BNode):
    """A node whose first change is refused once `allowed` others were noted."""

    allowed = 10**9

    def _p_note_change(self) -> None:
        if self._p_status == SAVED:
            if not Brittle.allowed:
                raise RuntimeError("refused")
            Brittle.allowed -= 1
        super()._p_note_change()


@pytest.mark.parametrize("seed", range(5))
def test_a_refused_change_leaves_the_tree_as_it_was(seed: int) -> None:
    """Wherever a change is refused, nothing of it is done."""
    rng = random.Random(seed)
    Brittle.allowed = 10**9
    tree = filled(Brittle, rng.sample(range(200), 100))
    connection = stored(tree)
    model = dict(tree.items())
    for _ in range(200):
        key = rng.randrange(200)
        allowed = 0
        while True:
            Brittle.allowed = allowed
            try:
                if key in model:
                    del tree[key]
                else:
                    tree[key] = -key
                break
            except RuntimeError:
                Brittle.allowed = 10**9
                check_shape(tree)
                assert dict(tree.items()) == model
                connection.abort()
                allowed += 1
        Brittle.allowed = 10**9
        if model.pop(key, None) is None:
            model[key] = -key
        check_shape(tree)
        assert dict(tree.items()) == model
        connection.commit()


def test_copies() -> None:
    """A deep copy and a pickle have nodes of their own."""
    tree = filled(BNode, range(30))
    assert len(tree) == 30
    for other in (copy.deepcopy(tree), pickle.loads(pickle.dumps(tree))):
        check_same(other, dict(tree.items()))
        del other[3]
        assert 3 in tree
        assert (len(other), len(tree)) == (29, 30)


# -- trees that Durus 4.3 has spoilt ---------------------------------------------------------------


def _grow_crooked(rng: random.Random, keys: list[int], depth: int) -> BNode:
    node = BNode()
    if depth == 0 or len(keys) < 5 or rng.random() < 0.2:
        node.items = [(key, -key) for key in keys]
        return node
    if rng.random() < 0.2:
        node.items = [(keys[-1], -keys[-1])]
        node.nodes = [_grow_crooked(rng, keys[:-1], depth - 1), BNode()]
        return node
    cuts = sorted(rng.sample(range(1, len(keys) - 1), rng.randint(1, min(3, len(keys) // 3))))
    cuts = [cut for i, cut in enumerate(cuts) if i == 0 or cut > cuts[i - 1] + 1]
    edges = [-1, *cuts, len(keys)]
    node.items = [(keys[cut], -keys[cut]) for cut in cuts]
    node.nodes = [
        _grow_crooked(rng, keys[low + 1 : high], depth - 1) for low, high in pairwise(edges)
    ]
    return node


@pytest.mark.parametrize("seed", range(30))
def test_a_crooked_tree_can_be_read_and_changed(seed: int) -> None:
    """Leaves of unequal depth, or too full or empty, are read, changed and put right."""
    rng = random.Random(seed)
    tree = BTree[int, int](BNode)
    tree.root = _grow_crooked(rng, list(range(0, 120, 2)), 4)
    model = {key: -key for key in range(0, 120, 2)}
    check_same(tree, model)
    for _ in range(300):
        key = rng.randrange(120)
        if rng.random() < 0.45:
            tree[key] = model[key] = rng.random()  # type: ignore[assignment]
        else:
            assert tree.pop(key, None) == model.pop(key, None)
        assert list(tree.items()) == sorted(model.items())
    while tree:
        tree.popitem()
    check_same(tree, {})


# -- walking while the tree changes ----------------------------------------------------------------


@settings(max_examples=300)
@given(st.data())
def test_a_walk_survives_changes(data: Any) -> None:
    """A walk keeps the order, gives no key twice, and misses none that stays."""
    rng = random.Random(data.draw(st.integers(0, 10**6)))
    tree = filled(data.draw(st.sampled_from([BNode, BNode, BNode4])), rng.sample(range(100), 50))
    connection = stored(tree) if rng.random() < 0.5 else None
    backward = rng.random() < 0.5
    start = set(tree)
    stays, ever = set(start), set(start)
    seen = []
    walk: Iterator[int] = reversed(tree) if backward else iter(tree)
    for key in walk:
        seen.append(key)
        for _ in range(rng.choice([0, 0, 1, 5])):
            other = rng.randrange(100)
            if rng.random() < 0.5:
                tree.pop(other, None)
                stays.discard(other)
            else:
                tree[other] = 0
                ever.add(other)
        if connection and rng.random() < 0.1:
            connection.commit()
            ghosts(tree)
    assert seen == sorted(set(seen), reverse=backward)
    assert stays <= set(seen) <= ever
    check_shape(tree)


def test_a_walk_survives_an_abort() -> None:
    """An abort in the middle of a walk takes back what the walk would have missed."""
    tree = filled(BNode, range(100))
    connection = stored(tree)
    seen = []
    for key in tree:
        seen.append(key)
        if key == 20:
            for other in range(30, 60):
                del tree[other]
        if key == 25:
            connection.abort()
    assert seen == list(range(100))


def test_a_walk_survives_a_new_degree() -> None:
    """A tree may be built anew under a walk."""
    tree = filled(BNode, range(100))
    seen = []
    for key in tree:
        seen.append(key)
        if key == 20:
            tree.set_bnode_minimum_degree(16)
    assert seen == list(range(100))


# -- nodes by themselves ---------------------------------------------------------------------------


def test_a_node_is_a_tree_by_itself() -> None:
    """The methods of a node do as in Durus 4.3."""
    node = BNode()
    for key in range(10):
        node.insert_item((key, -key))
    node.insert_item((5, "five"))
    assert node.search(5) == (5, "five")
    assert node.search(50) is None
    assert list(node) == list(reversed(list(reversed(node))))
    assert [key for key, _ in node.iter_from(7)] == [7, 8, 9]
    assert [key for key, _ in node.iter_backward_from(3)] == [2, 1, 0]
    assert node.get_min_item() == (0, 0)
    assert node.get_max_item() == (9, -9)
    assert node.get_count() == 10
    assert not node.is_leaf()
    assert node.get_level() == 1 + node.nodes[0].get_level()  # type: ignore[index]
    node.delete(5)
    assert node.search(5) is None
    with pytest.raises(IndexError):
        BNode().get_min_item()


def test_split_child() -> None:
    """A full child is split in two; anything else is refused."""
    tree = BTree[int, int](BNode)
    tree.root.items = [(10, 0)]
    left, right = BNode(), BNode()
    tree.root.nodes = [left, right]
    left.items = [(1, 0), (2, 0), (3, 0)]
    right.items = [(11, 0)]
    assert len(tree) == 5
    for position, child in ((0, right), (1, right)):
        with pytest.raises(ValueError, match="not a full child"):
            tree.root.split_child(position, child)
    tree.root.split_child(0, left)
    assert tree.root.get_position(3) == 1
    check_shape(tree)
    assert list(tree) == [1, 2, 3, 10, 11]
    tree.root.items = [(5, 0)] * 3
    with pytest.raises(ValueError, match="no room"):
        full = BNode()
        full.items = [(1, 0)] * 3
        tree.root.nodes = [full]
        tree.root.split_child(0, full)


# -- beside a dict ---------------------------------------------------------------------------------


class TreeMachine(RuleBasedStateMachine):
    """A BTree beside a dict, with commits, aborts and ghosts."""

    node_class: type[BNode] = BNode
    keys = st.integers(0, 60)

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        self.tree = BTree[int, int](self.node_class)
        self.connection = stored(self.tree)

    @rule(key=keys, value=st.integers())
    def set(self, key: int, value: int) -> None:
        self.tree[key] = self.model[key] = value

    @rule(low=keys, count=st.integers(1, 20), value=st.integers())
    def set_many(self, low: int, count: int, value: int) -> None:
        for key in range(low, low + count):
            self.tree[key] = self.model[key] = value

    @rule(key=keys)
    def pop(self, key: int) -> None:
        assert self.tree.pop(key, None) == self.model.pop(key, None)

    @rule(low=keys, count=st.integers(1, 20))
    def delete_many(self, low: int, count: int) -> None:
        for key in range(low, low + count):
            assert (key in self.tree) == (key in self.model)
            if key in self.model:
                del self.tree[key]
                del self.model[key]

    @precondition(lambda self: self.model)
    @rule()
    def popitem(self) -> None:
        key = min(self.model)
        assert self.tree.popitem() == (key, self.model.pop(key))

    @rule(pairs=st.lists(st.tuples(keys, st.integers())))
    def update(self, pairs: list[tuple[int, int]]) -> None:
        self.tree.update(pairs)
        self.model.update(pairs)

    @rule(degree=st.sampled_from([2, 4, 8, 3]))
    def set_degree(self, degree: int) -> None:
        self.tree.set_bnode_minimum_degree(degree)

    @rule()
    def clear(self) -> None:
        self.tree.clear()
        self.model.clear()

    @rule()
    def commit(self) -> None:
        self.connection.commit()
        self.committed = dict(self.model)

    @rule()
    def abort(self) -> None:
        self.connection.abort()
        self.model = dict(self.committed)

    @precondition(lambda self: not self.connection.changed)
    @rule()
    def forget(self) -> None:
        ghosts(self.tree)
        assert self.tree._p_status != SAVED

    @invariant()
    def same(self) -> None:
        check_shape(self.tree)
        check_same(self.tree, self.model)


TestTreeMachine = TreeMachine.TestCase
TestTreeMachine.settings = settings(stateful_step_count=40)


def test_large_nodes_take_many_items() -> None:
    """A tree of the largest nodes has three of them for two thousand items."""
    tree = filled(BNode512, range(2000))
    assert tree.get_depth() == 2
    check_shape(tree)
