"""The hot parts of the BTree, in Python and in C, side by side: also on hostile keys and nodes."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import tracemalloc
import weakref
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durus import _btree_nodes, _btree_pure
from durus.btree import BNode, BNode4, BNode16, BTree
from durus.connection import Connection
from durus.storage import MemoryStorage

from .twins import find_twins

TWINS = find_twins(_btree_pure)


@pytest.fixture(params=sorted(TWINS))
def twin(request: pytest.FixtureRequest) -> Any:
    return TWINS[request.param]


def node_of(items: Any, nodes: Any = None, node_class: type[BNode] = BNode4) -> Any:
    node = node_class()
    node.items = items
    node.nodes = nodes
    return node


def outcome(action: Callable[[], Any]) -> Any:
    """Give what `action` returns, an iterator as the list of it, or the class of its error."""
    try:
        result = action()
        return list(result) if isinstance(result, Iterator) else result
    except Exception as error:  # noqa: BLE001 - whatever it is, both twins must raise it
        return type(error)


def outcomes(twin: Any, root: Any, key: Any) -> list[Any]:
    """Give the outcome of everything that reads."""
    low, high = (key, True), (key, False)
    return [
        outcome(lambda: twin.find_item(root, key)),
        outcome(lambda: twin.find_holder(root, key)),
        outcome(lambda: twin.position_of(root.items, key)),
        *(
            outcome(lambda walk=walk, args=args: walk(root, *args))  # type: ignore[misc]
            for walk in (twin.ascending, twin.descending)
            for part in (None, 0, 1)
            for args in (
                (part,),
                (part, low),
                (part, high),
                (part, None, low),
                (part, None, high),
            )
        ),
    ]


def test_the_twins_export_the_same_names() -> None:
    """Each function that one has the other has."""
    for name in _btree_pure.__all__:
        assert all(callable(getattr(twin, name)) for twin in TWINS.values())


def test_wrong_arguments_are_refused(twin: Any) -> None:
    """Too few arguments, too many, and bounds that are none raise TypeError."""
    root = node_of([(1, 2)])
    for name in set(_btree_pure.__all__) - {"TreeBase"}:
        function = getattr(twin, name)
        with pytest.raises(TypeError):
            function()
        with pytest.raises(TypeError):
            function(root, None, None, None, None)
    for bound in (5, (1, 2, 3)):
        with pytest.raises(TypeError):
            list(twin.ascending(root, None, bound))


if BTree.__mro__[1] is _btree_pure.TreeBase:
    PureTree = BTree
else:

    class PureTree(_btree_pure.TreeBase, BTree[Any, Any]):
        """A BTree with the operators in Python."""

        __slots__ = ()


TREES: dict[str, type[BTree[Any, Any]]] = {
    name: PureTree if name == "durus._btree_pure" else BTree
    for name in (twin.__name__ for twin in TWINS.values())
}


@pytest.fixture(params=sorted(TREES))
def tree_class(request: pytest.FixtureRequest) -> type[BTree[Any, Any]]:
    return TREES[request.param]


def shape_of(node: Any) -> Any:
    """Give what a node holds, and all below, in a form that compares."""
    children = node.nodes and [shape_of(child) for child in node.nodes]
    return type(node).__name__, [repr(item) for item in node.items], children


# -- keys of every kind


class Text(str):
    __slots__ = ()


class Number(int):
    pass


class Backward(int):
    """An int whose order is the other way around: that of int must not be used for it."""

    def __lt__(self, other: int) -> bool:
        return int(self) > int(other)

    def __gt__(self, other: int) -> bool:
        return int(self) < int(other)


NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.integers(-(2**31), 2**31),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**30 - 1, 2**30, -(2**30), 2**62, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1]),
    st.booleans(),
    st.floats(allow_nan=False),
    st.integers(-9, 9).map(Number),
)
TEXTS = st.one_of(
    st.text("ab", max_size=3),
    st.text("a\0\x7f\x80\xff\u0100\ud800\uffff\U00010000", max_size=4),
    st.text("ab", max_size=3).map(Text),
)
OTHERS = st.one_of(st.binary(max_size=3), st.tuples(st.integers(0, 3), st.text("ab", max_size=2)))


@given(
    st.one_of(*(st.tuples(st.lists(keys), keys) for keys in (NUMBERS, TEXTS))),
    st.sampled_from([BNode, BNode4]),
)
def test_keys_of_every_kind(keys_and_key: tuple[list[Any], Any], node_class: type[BNode]) -> None:
    """Numbers and texts of all kinds, mixed, are found, added and walked over alike."""
    keys, sought = keys_and_key
    trees: dict[str, BTree[Any, Any]] = {}
    for name, twin in TWINS.items():
        tree = trees[name] = BTree[Any, Any](node_class)
        for number, key in enumerate(keys):
            twin.put(tree.root, (key, number))
        model = dict(zip(keys, range(len(keys)), strict=True))
        assert list(twin.ascending(tree.root)) == sorted(model.items())
        assert list(twin.descending(tree.root)) == sorted(model.items(), reverse=True)
        assert [twin.find_item(tree.root, key) for key in model] == list(model.items())
        assert (twin.find_item(tree.root, sought) is not None) == (sought in model)
    for name, twin in TWINS.items():
        tree = trees["pure"]
        assert outcomes(twin, tree.root, sought) == outcomes(_btree_pure, tree.root, sought), name
        assert [type(key) for key in trees[name]] == [type(key) for key in tree]


@given(st.lists(st.one_of(NUMBERS, TEXTS, OTHERS, st.none(), st.floats()), max_size=8), st.data())
def test_keys_in_no_order(keys: list[Any], data: Any) -> None:
    """Keys that do not compare, and NaN, lead to the same place or to the same error."""
    root = node_of([(key, number) for number, key in enumerate(keys)])
    sought = data.draw(st.one_of(st.sampled_from(keys), NUMBERS, TEXTS) if keys else NUMBERS)
    expected = outcomes(_btree_pure, root, sought)
    for twin in TWINS.values():
        # Compared as text, in which NaN equals itself.
        assert repr(outcomes(twin, root, sought)) == repr(expected)


def test_the_order_of_a_subclass_is_its_own(twin: Any) -> None:
    """A subclass of int with an order of its own is searched by that."""
    root = node_of([(Backward(number), number) for number in range(6, -1, -1)])
    assert [twin.position_of(root.items, Backward(number)) for number in range(7)] == [
        6, 5, 4, 3, 2, 1, 0,
    ]  # fmt: skip
    assert twin.find_item(root, Backward(2)) == (2, 2)
    assert twin.find_item(root, 2) == (2, 2)


def test_the_item_that_is_found_is_the_one_in_the_node(twin: Any) -> None:
    """No copy: the item, its key and its value are the very objects."""
    items = [(key, object()) for key in ("a", "b", "c")]
    root = node_of(list(items))
    assert twin.find_item(root, "b") is items[1]
    assert list(twin.ascending(root, 1)) == [value for _, value in items]
    assert twin.find_holder(root, "c") == (root, 2)


# -- what an addition changes


class Registry:
    """A tree that is stored, alone in its database, and what its objects have been through."""

    def __init__(self, tree_class: type[BTree[Any, Any]], node_class: type[BNode]) -> None:
        self._storage = MemoryStorage()
        self.connection = Connection(self._storage)
        self.connection.get_root()["tree"] = self.tree = tree_class(node_class)
        self.connection.commit()

    def open_again(self) -> None:
        self.connection.commit()
        self.connection = Connection(self._storage)
        self.tree = self.connection.get_root()["tree"]

    def change_elsewhere(self, key: Any) -> None:
        """Have another connection change the tree, and take that over."""
        other = Connection(self._storage)
        other.get_root()["tree"].update({key: "from elsewhere"})
        other.commit()
        self.connection.abort()

    def marks(self) -> Any:
        """Give what is changed, and what is loaded and used in this transaction."""
        serial = self.connection.transaction_serial
        return sorted(self.connection.changed), sorted(
            (obj._p_oid, obj._p_status, obj._p_serial == serial) for obj in self.connection.cache
        )


@given(
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.sampled_from(["set", "add", "del", "len", "get", "abort", "open", "change"]),
        )
    ),
    st.sampled_from([BNode, BNode4]),
    st.sampled_from([int, str, float, Text, lambda number: (number, "a")]),
)
def test_additions_make_the_same_trees(
    steps: list[tuple[int, str]], node_class: type[BNode], key_of: Callable[[int], Any]
) -> None:
    """Each step finds the same, makes the same nodes, and loads, uses and changes the same."""
    registries = [Registry(tree_class, node_class) for tree_class in TREES.values()]
    for step, (number, what) in enumerate(steps):
        key, marks, shapes, found = key_of(number), [], [], []
        for registry in registries:
            tree = registry.tree
            if what == "open":
                registry.open_again()
            elif what == "len":
                len(tree)
            elif what == "get":
                found.append([tree.get(key_of(sought)) for _ in range(2) for sought in range(66)])
            elif what == "abort":
                registry.connection.abort()
            elif what == "change":
                registry.change_elsewhere(key)
            elif what == "del":
                outcome(lambda t=tree, k=key: t.__delitem__(k))  # type: ignore[misc]
            elif what == "add":
                tree.add(value=step, key=key)
            else:
                for further in range(5):
                    tree[key_of(number + further)] = step
            marks.append(registry.marks())
        for registry in registries:
            shapes.append(shape_of(registry.tree.root))
            assert len(registry.tree) == sum(1 for _ in registry.tree)
        assert all(each == found[0] for each in found)
        assert all(mark == marks[0] for mark in marks)
        assert all(shape == shapes[0] for shape in shapes)


@pytest.mark.parametrize("node_class", [BNode, BNode4])
def test_a_change_that_is_refused_leaves_the_tree(node_class: type[BNode]) -> None:
    """Whichever node refuses its change, both twins ask the same nodes, and change none of them."""

    class Refusing(node_class):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def _p_note_change(self) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise RuntimeError(len(self.items))

    for refused in range(4):
        for key in range(1, 80, 2):
            seen = []
            for twin in TWINS.values():
                left = 10**6
                root = Refusing()
                for number in range(0, 80, 2):
                    _btree_pure.put(root, (number, number))
                before = shape_of(root)
                left = refused
                result = outcome(lambda t=twin, r=root, k=key: t.put(r, (k, k)))  # type: ignore[misc]
                if result is RuntimeError:
                    assert shape_of(root) == before
                left = 10**6
                seen.append((result is RuntimeError, shape_of(root)))
            assert all(each == seen[0] for each in seen)


def test_a_split_that_cannot_make_its_nodes_leaves_the_tree(twin: Any) -> None:
    """An error, or an interrupt, while a split makes new nodes leaves every item where it was."""

    class Interrupted(BNode):
        __slots__ = ()
        left = 10**6

        def __init__(self) -> None:
            if not Interrupted.left:
                raise KeyboardInterrupt
            Interrupted.left -= 1
            super().__init__()

    root = Interrupted()
    refused = 0
    for number in range(100):
        before = shape_of(root)
        for Interrupted.left in range(8):
            try:
                twin.put(root, (number, number))
            except KeyboardInterrupt:
                refused += 1
                assert shape_of(root) == before
                assert all(twin.find_item(root, key) for key in range(number))
            else:
                break
    assert refused > 40
    assert [key for key, _ in twin.ascending(root)] == list(range(100))


def test_a_class_whose_nodes_differ_in_degree(twin: Any) -> None:
    """A minimum degree of a node's own, of a class that changes, or none at all is asked for."""

    class Own(BNode):
        minimum_degree = 2

    class Changing(BNode):
        __slots__ = ()

    class Wrong(BNode):
        __slots__ = ()
        minimum_degree = "two"  # type: ignore[assignment]

    node, changing, wrong = Own(), Changing(), Wrong()
    node.minimum_degree = 3
    for number in range(5):
        twin.put(node, (number, number))
    assert len(node.items) == 5
    for number in range(3):
        twin.put(changing, (number, number))
    Changing.minimum_degree = 3
    twin.put(changing, (3, 3))
    assert len(changing.items) == 4
    with pytest.raises(TypeError):
        twin.put(wrong, (1, 1))


BY_HAND: dict[str, Callable[[list[Any], int, int], None]] = {
    "another key": lambda items, at, key: items.__setitem__(at, (key + 1, "by hand")),
    "another item": lambda items, at, key: items.insert(at, (items.pop(at)[0] + 1, "by hand")),
    "another type": lambda items, at, key: items.__setitem__(at, (float(key), "by hand")),
    "one more": lambda items, at, key: items.append((items[-1][0] + 8, "by hand")),
}


@settings(max_examples=50)
@given(
    st.integers(1, 120),
    st.lists(st.tuples(st.sampled_from(sorted(BY_HAND)), st.integers(0, 10**6)), max_size=4),
    st.sampled_from([BNode, BNode4, BNode16]),
)
def test_nodes_that_are_changed_by_hand(
    count: int, changes: list[tuple[str, int]], node_class: type[BNode]
) -> None:
    """What a program changes in the lists of the nodes, in place, is what is found from then on."""
    tree = BTree[Any, Any](node_class)
    for number in random.Random(count).sample(range(0, 16 * count, 16), count):
        tree[number] = number
    candidates = [key + more for key in range(0, 16 * count, 16) for more in (0, 1, 2, 8)]
    is_longer = False
    for change, where in changes:
        for sought in candidates:
            tree.get(sought)
        nodes = list(_btree_nodes.walk(tree.root))
        node = nodes[where % len(nodes)]
        if change == "one more":
            if is_longer or node.nodes:
                continue
            is_longer = True
        at = where % len(node.items)
        BY_HAND[change](node.items, at, node.items[at][0])
        for sought in [-1, *candidates, 0.5, 10**30]:
            found = _btree_pure.find_holder(tree.root, sought)
            for twin in TWINS.values():
                assert twin.find_holder(tree.root, sought) == found
    shapes = []
    for twin in TWINS.values():
        copy = copy_of(tree.root)
        for sought in [*candidates, *candidates]:
            twin.find_item(copy, sought)
        for key in candidates:
            twin.put(copy, (key, "new"))
        shapes.append(shape_of(copy))
    assert all(shape == shapes[0] for shape in shapes)


def test_a_key_that_moved_down_from_an_inner_node_is_found(twin: Any) -> None:
    """An item that a program moves, in place, from an inner node to a leaf is found there."""
    pairs = [(number, str(number)) for number in range(0, 80, 2)]
    leaves = [node_of(pairs[start : start + 9]) for start in range(0, 40, 10)]
    root = node_of(pairs[9:30:10], leaves)
    for number in [*range(80), *range(80)]:
        twin.find_item(root, number)
    moved = root.items[1]
    root.items[1] = leaves[2].items.pop(0)
    leaves[1].items.append(moved)
    assert twin.find_item(root, moved[0]) is moved
    assert twin.put(root, (moved[0], "new")) is None
    assert leaves[1].items[-1] == (moved[0], "new")


def copy_of(node: Any) -> Any:
    children = node.nodes and [copy_of(child) for child in node.nodes]
    return node_of(list(node.items), children, type(node))


def test_what_a_search_remembers_goes_with_the_tree(twin: Any) -> None:
    """However many trees of numbers are filled, searched and dropped, no memory is left behind."""

    def use() -> None:
        root = BNode4()
        for number in random.Random(3).sample(range(1000), 500):
            twin.put(root, (number, number))
            twin.find_item(root, number // 2)
        twin.put(root, (0.5, None))
        _btree_pure.put(root, (1000, None))
        for number in range(1000):
            twin.find_item(root, number)

    use()
    gc.collect()
    tracemalloc.start()
    try:
        use()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(5):
            use()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 5000
    finally:
        tracemalloc.stop()


# -- the operators


def test_the_operators(tree_class: type[BTree[Any, Any]]) -> None:
    """Setting, getting, asking and removing by the operators and by their names."""
    tree = tree_class()
    tree[1] = "a"
    tree.__setitem__(2, "b")
    tree.add(3)
    assert (tree[1], tree.__getitem__(2), tree[3]) == ("a", "b", True)
    assert 1 in tree
    assert not tree.__contains__(4)
    del tree[1]
    tree.__delitem__(2)
    assert list(tree.items()) == [(3, True)]
    for missing in (1, (1, 2), (), None):
        only = tree_class()
        for act in (only.__getitem__, only.__delitem__):
            with pytest.raises(KeyError) as caught:
                act(missing)
            assert caught.value.args == (missing,)
    for wrong in (tree.add, lambda: tree.add(1, 2, 3), lambda: tree["x"]):  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            wrong()


def test_add_of_a_subclass_is_used(tree_class: type[BTree[Any, Any]]) -> None:
    """Setting an item goes through `add`, also if the class gets its own later."""
    added = []

    class Watched(tree_class):  # type: ignore[misc, valid-type]
        __slots__ = ()

    tree = Watched()
    tree[1] = 1
    Watched.add = lambda _, key, value=True: added.append((key, value))
    tree[2] = 2
    tree.update({3: 3})
    assert added == [(2, 2), (3, 3)]
    assert list(tree) == [1]


def test_a_tree_without_its_attributes(tree_class: type[BTree[Any, Any]]) -> None:
    """A tree without root raises AttributeError; one that never counted counts when it is asked."""
    tree = tree_class()
    del tree._p_census
    tree[1] = 1
    assert len(tree) == 1
    tree[2] = 2
    assert len(tree) == 2
    del tree.root
    for act in (lambda: tree[1], lambda: 1 in tree, lambda: tree.add(1)):
        with pytest.raises(AttributeError):
            act()


# -- keys that run code


class Meddler:
    """A key that may do something each time it is compared, and then compares by its number."""

    def __init__(self, number: int, meddle: Callable[[], Any] | None = None) -> None:
        self.number = number
        self._meddle = meddle

    def meddle(self, other: object) -> None:
        for each in (self, other):
            if isinstance(each, Meddler) and each._meddle is not None:
                each._meddle()

    def __eq__(self, other: object) -> bool:
        self.meddle(other)
        return self.number == getattr(other, "number", other)

    def __lt__(self, other: Any) -> bool:
        self.meddle(other)
        return bool(self.number < getattr(other, "number", other))

    def __gt__(self, other: Any) -> bool:
        self.meddle(other)
        return bool(self.number > getattr(other, "number", other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Meddler({self.number})"


def tree_of_meddlers(count: int = 40) -> BTree[Any, Any]:
    tree = BTree[Any, Any](BNode)
    for number in range(count):
        tree[Meddler(number)] = [number]
    return tree


MEDDLING: dict[str, Callable[[Any], Any]] = {
    "clear the items": lambda node: node.items.clear(),
    "take one item away": lambda node: node.items and node.items.pop(),
    "add an item": lambda node: node.items.append((Meddler(99), 99)),
    "other items": lambda node: setattr(node, "items", []),
    "no children": lambda node: setattr(node, "nodes", None),
    "other children": lambda node: setattr(node, "nodes", list(node.nodes or ())),
    "empty children": lambda node: node.nodes and node.nodes.clear(),
    "collect garbage": lambda node: gc.collect(0),
    "raise": lambda node: node.items.index("missing"),
}


@pytest.mark.parametrize("meddling", MEDDLING)
@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 8])
def test_a_comparison_that_changes_the_nodes(meddling: str, after: int) -> None:
    """Whatever a comparison does to the nodes, both twins come to the same end."""
    seen = {}
    for name, twin in TWINS.items():
        results = []
        for operation in ("find_item", "find_holder", "put", "ascending", "descending"):
            for at in (0, 7, 17, 39, 40):
                tree = tree_of_meddlers()
                nodes = [tree.root, *tree.root.nodes[:2]] if tree.root.nodes else [tree.root]
                key = Meddler(at, meddle_after(after, MEDDLING[meddling], nodes))
                arguments: tuple[Any, ...] = {
                    "put": ((key, "new"),),
                    "ascending": (None, (key, True), (Meddler(30), False)),
                    "descending": (None, (key, False), (Meddler(3), True)),
                }.get(operation, (key,))
                call = getattr(twin, operation)
                result = outcome(lambda c=call, t=tree, a=arguments: c(t.root, *a))
                if operation == "find_holder" and isinstance(result, tuple):
                    result = (len(result[0].items), result[1])
                results.append((operation, at, repr(result)))
        seen[name] = results
    assert all(results == seen["pure"] for results in seen.values())


@pytest.mark.parametrize("meddling", MEDDLING)
@pytest.mark.parametrize("after", range(14))
def test_a_comparison_that_changes_the_nodes_of_a_split(meddling: str, after: int) -> None:
    """Whatever a comparison does on the way to a full leaf, both twins leave the same nodes."""
    seen = {}
    for name, twin in TWINS.items():
        results = []
        for at in (9.5, 10.5, 11.5, 39.5):
            tree = tree_of_meddlers()
            for number in (9.1, 9.2, 9.3, 11.1, 11.2):
                tree[Meddler(number)] = number  # type: ignore[arg-type]
            nodes = [tree.root, *(tree.root.nodes or [])[:3]]
            key = Meddler(at, meddle_after(after, MEDDLING[meddling], nodes))  # type: ignore[arg-type]
            result = outcome(lambda t=twin, r=tree.root, k=key: t.put(r, (k, "new")))  # type: ignore[misc]
            kind = len(result) if isinstance(result, (list, tuple)) else result
            results.append((at, kind, [shape_of(node) for node in nodes]))
        seen[name] = results
    assert all(results == seen["pure"] for results in seen.values())


def meddle_after(
    count: int, meddling: Callable[[Any], Any], nodes: list[Any]
) -> Callable[[], None]:
    """Give what meddles with each of the nodes at the comparison with this number, once."""
    left = count

    def meddle() -> None:
        nonlocal left
        left -= 1
        if left == -1:
            for node in nodes:
                meddling(node)

    return meddle


def test_a_comparison_that_ends_the_last_reference(twin: Any) -> None:
    """The item, the list and the node that are being compared outlive the comparison."""
    root = node_of([(Meddler(number), number) for number in range(7)])
    holder = [root]
    del root

    def drop() -> None:
        if holder:
            node = holder.pop()
            node.items = None
        gc.collect(0)

    key = Meddler(3, drop)
    assert twin.find_item(holder[0], key) == (Meddler(3), 3)


def test_a_walk_refuses_to_be_used_by_what_it_calls(twin: Any) -> None:
    """A comparison that asks the walk it belongs to for its next item gets ValueError."""
    root = node_of([(Meddler(number), number) for number in range(7)])
    walk: Any = None
    key = Meddler(3, lambda: next(walk))
    walk = twin.ascending(root, None, (key, True))
    with pytest.raises(ValueError, match=r"."):
        next(walk)
    assert list(walk) == []


def test_a_walk_that_failed_has_ended(twin: Any) -> None:
    """After an error a walk gives nothing more."""
    root = node_of([(number, number) for number in range(3)])
    for walk in (twin.ascending(root, None, ("a", True)), twin.descending(root, 0, ("a", True))):
        with pytest.raises(TypeError):
            next(walk)
        assert list(walk) == []


def test_a_walk_starts_when_it_is_first_asked(twin: Any) -> None:
    """What is added before the first item is asked for is given."""
    tree = BTree[int, int](BNode)
    walks = [twin.ascending(tree.root), twin.ascending(tree.root, 0), twin.descending(tree.root)]
    tree[1] = 2
    assert [list(walk) for walk in walks] == [[(1, 2)], [1], [(1, 2)]]


# -- damaged nodes

Pair = namedtuple("Pair", "key value")  # noqa: PYI024 - untyped on purpose: a foreign class

DAMAGED_ITEMS: list[Any] = [
    [()],
    [(1,), (2,)],
    [(1, 2, 3), (4, 5, 6)],
    [[1, "a"], [2, "b"]],
    [Pair(1, "a"), Pair(2, "b"), Pair(3, "c")],
    [(0, "a"), Pair(1, "b"), (2, "c")],
    ["ab", "cd"],
    [None],
    [1, 2, 3],
    [(1, "a"), None, (3, "c")],
    [(), (1, "a")],
    None,
    7,
    {},
    {1: 2},
]
DAMAGED_NODES: list[Any] = [None, [], (), [None] * 3, ["x"] * 4, 5, {1: 2}]


@pytest.mark.parametrize("items", DAMAGED_ITEMS, ids=repr)
@pytest.mark.parametrize("nodes", DAMAGED_NODES, ids=repr)
def test_damaged_nodes(items: Any, nodes: Any) -> None:
    """Items that are no pairs and nodes that are none: the same result or error from both."""
    root = node_of(items, nodes)
    for key in (1, 2, 5, "a", (1,), None):
        expected = outcomes(_btree_pure, root, key)
        for twin in TWINS.values():
            assert outcomes(twin, root, key) == expected, key


@pytest.mark.parametrize("items", DAMAGED_ITEMS, ids=repr)
def test_putting_into_damaged_nodes(items: Any) -> None:
    """A damaged leaf takes an item, or refuses it, alike."""
    ends = {}
    for name, twin in TWINS.items():
        root = node_of(list(items) if isinstance(items, list) else items)
        results = [outcome(lambda t=twin, r=root, k=key: t.put(r, (k, 0))) for key in (1, 4)]
        ends[name] = (results, root.items)
    assert all(end == ends["pure"] for end in ends.values())
    for twin in TWINS.values():
        assert outcome(lambda t=twin: t.put(node_of([]), ())) is IndexError


def test_too_few_children(twin: Any) -> None:
    """A child that is missing is an IndexError, in a search and in a walk."""
    leaf = node_of([(1, 1)])
    root = node_of([(5, 5), (9, 9)], [leaf])
    assert twin.find_item(root, 1) == (1, 1)
    with pytest.raises(IndexError):
        twin.find_item(root, 7)
    with pytest.raises(IndexError):
        list(twin.ascending(root))
    with pytest.raises(IndexError):
        list(twin.descending(root))


INTERRUPTED = """
import signal, sys
from importlib import import_module
from durus.btree import BNode4
twin, operation = sys.argv[1:]
root = BNode4()
root.items = []
root.nodes = [root]
signal.signal(signal.SIGALRM, signal.default_int_handler)
signal.setitimer(signal.ITIMER_REAL, 0.01)
getattr(import_module(twin), operation)(root, (2, 2))  # a key, or an item
"""


@pytest.mark.parametrize("operation", ["find_item", "find_holder", "put"])
def test_a_search_in_a_circle_can_be_interrupted(twin: Any, operation: str) -> None:
    """A search in nodes that lead in a circle ends with what a signal's handler raises."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, twin.__name__, operation],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.rstrip().endswith("KeyboardInterrupt"), done.stderr


def test_a_class_of_nodes_with_ways_of_its_own(twin: Any) -> None:
    """A class that computes its items, or notes its changes itself, is asked."""
    noted = []

    class Computed(BNode4):
        __slots__ = ()

        @property
        def items(self) -> Any:
            return [(1, "a"), (2, "b")]

        @items.setter
        def items(self, value: Any) -> None:
            pass

    class Noting(BNode4):
        __slots__ = ()

        def _p_note_change(self) -> None:
            noted.append(len(getattr(self, "items", "new")))
            super()._p_note_change()

    class Watching(BNode4):
        __slots__ = ()

        def __getattribute__(self, name: str) -> Any:
            if name == "items":
                return [(3, "c")]
            return super().__getattribute__(name)

    assert list(twin.ascending(Computed())) == [(1, "a"), (2, "b")]
    assert twin.find_item(Watching(), 3) == (3, "c")
    node = Noting()
    noted.clear()
    assert [twin.put(node, (key, 0)) for key in (1, 2, 1)] == [(), (), None]
    assert noted == [0, 1, 2]


def test_a_class_that_changes_later_is_asked_anew(twin: Any) -> None:
    """What was known of a class of nodes is forgotten when the class changes."""

    class Changing(BNode4):
        __slots__ = ()

    node = Changing()
    node.items = [(1, 1)]
    assert twin.find_item(node, 1) == (1, 1)
    Changing.items = property(lambda _: [(2, 2)])  # type: ignore[assignment]
    assert twin.find_item(node, 1) is None
    assert twin.find_item(node, 2) == (2, 2)


def test_an_attribute_that_is_missing(twin: Any) -> None:
    """A node without items or nodes, and what is no node, raise AttributeError."""
    node = node_of([(1, 1)])
    del node.items
    for root in (node, "text", None):
        with pytest.raises(AttributeError):
            twin.find_item(root, 1)
        with pytest.raises(AttributeError):
            next(twin.ascending(root))


# -- references


def test_no_reference_is_kept_or_lost(twin: Any) -> None:
    """After many operations, with and without errors, every object has the references it had."""
    tree = BTree[Any, Any](BNode)
    keys = [f"key {number} {'é' * (number % 2)}" for number in range(100)]
    for key in keys:
        tree[key] = [key]
    damaged = node_of([(1, 1), (2, 2)], [None, "x", 3])
    full = node_of([(number, number) for number in range(7)])
    sought = keys[50]
    held = [
        full,
        full.items,
        tree,
        tree.root,
        tree.root.items,
        tree.root.nodes,
        sought,
        tree[sought],
        damaged,
        None,
    ]
    held += [full, full.items, damaged.items, damaged.nodes, *tree.root.nodes, *tree.root.items]

    def use() -> None:
        outcomes(twin, tree.root, sought)
        outcomes(twin, tree.root, "missing")
        outcomes(twin, tree.root, 5)
        outcomes(twin, damaged, 7)
        item = twin.find_item(tree.root, sought)
        twin.put(tree.root, item)
        outcome(lambda: twin.put(tree.root, (5, 5)))
        grown = TREES[twin.__name__](BNode)
        for key in keys:
            grown[key] = grown.add(key, None)
            assert key in grown
        with pytest.raises(KeyError):
            grown["missing"]
        outcome(lambda: twin.put(full, (sought, 5)))
        outcome(lambda: twin.put(full, (Meddler(5, lambda: len(3)), 5)))  # type: ignore[arg-type]
        walk = twin.ascending(tree.root, None, (keys[3], True), (keys[70], True))
        next(walk)
        next(twin.descending(tree.root, 0, (keys[70], True)))

    use()
    gc.collect()
    before = [sys.getrefcount(obj) for obj in held]
    for _ in range(50):
        use()
    gc.collect()
    after = [sys.getrefcount(obj) for obj in held]
    # None has many users besides: only a loss or gain with each use would be a fault.
    index = held.index(None)
    assert abs(after[index] - before[index]) < 50
    del before[index], after[index]
    assert after == before


def test_a_walk_in_a_circle_is_collected(twin: Any) -> None:
    """A walk that its own tree refers to does not keep the tree alive."""
    for walk_of in (twin.ascending, twin.descending):
        tree = BTree[int, Any](BNode)
        for number in range(40):
            tree[number] = [number]
        walk = walk_of(tree.root, None, (0 if walk_of is twin.ascending else 39, True), (20, True))
        next(walk)
        tree[5].append(walk)
        gone = weakref.ref(tree.root)
        del tree, walk
        gc.collect()
        assert gone() is None


def test_walks_under_changes_give_the_same(twin: Any) -> None:
    """While the same changes are made, a walk gives what the twin's gives."""
    for seed in range(20):
        given_by = []
        for each in (twin, _btree_pure):
            rng = random.Random(seed)
            tree = BTree[int, int](BNode)
            tree.update((number, number) for number in rng.sample(range(300), 150))
            walks = [
                each.ascending(tree.root, None, (40, True), (250, False)),
                each.descending(tree.root, 0, (250, True), (40, True)),
                each.ascending(tree.root, 1),
            ]
            given: list[Any] = []
            for _ in range(300):
                given.append(next(rng.choice(walks), None))
                number = rng.randrange(300)
                if rng.random() < 0.5:
                    tree[number] = number
                else:
                    tree.pop(number, None)
            given_by.append(given)
        assert given_by[0] == given_by[1]
