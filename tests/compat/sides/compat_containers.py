"""Operations on containers whose results must be the same under Durus 4.3 and under ours.

Every operation runs on a container that was stored and is a ghost again. What is compared: what it
gives or raises, what the container holds after it, and whether it counts as changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from operator import add
from typing import Any

from compat_behaviour import outcome, show, status, stored

from durus.btree import BNode, BNode4, BNode16, BTree
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet

Operation = Callable[[Any], Any]


def _in_place(symbol: str, other: Any) -> Operation:
    """Give an operation that does `container symbol= other`."""

    def operation(container: Any) -> Any:
        names = {"it": container, "other": other}
        exec(f"it {symbol}= other", names)
        return names["it"] is container

    return operation


def _delete(key: Any) -> Operation:
    return lambda container: container.__delitem__(key)


def _assign(key: Any, value: Any) -> Operation:
    return lambda container: container.__setitem__(key, value)


def make_dict() -> Any:
    return PersistentDict([("a", 1), ("b", [2]), (3, "c"), (None, None)])


DICT_OPERATIONS: dict[str, Operation] = {
    "get": lambda it: [it["a"], it.get("a"), it.get("x"), it.get("x", 5)],
    "get missing": lambda it: it["x"],
    "in": lambda it: ["a" in it, "x" in it, None in it, it.has_key("a"), it.has_key("x")],
    "unhashable in": lambda it: [] in it,
    "len": len,
    "bool": bool,
    "iter": list,
    "keys": lambda it: list(it.keys()),
    "values": lambda it: list(it.values()),
    "items": lambda it: list(it.items()),
    "iterkeys": lambda it: list(it.iterkeys()),
    "itervalues": lambda it: list(it.itervalues()),
    "iteritems": lambda it: list(it.iteritems()),
    "==": lambda it: [
        it == make_dict(),
        it != make_dict(),
        it == PersistentDict(),
        it == make_dict().data,
        it == 1,
    ],
    "hash": hash,
    "data": lambda it: it.data,
    "copy": lambda it: [type(it.copy()).__name__, it.copy().data],
    "fromkeys": lambda it: [
        it.fromkeys("ab").data,
        PersistentDict.fromkeys([1], 2).data,
        type(PersistentDict.fromkeys([1])).__name__,
    ],
    "make from pairs": lambda it: PersistentDict([(1, 2)], x=3).data,
    "make from a dict": lambda it: PersistentDict({1: 2}).data,
    "make from a PersistentDict": lambda it: PersistentDict(it).data,
    "make from too much": lambda it: PersistentDict({}, {}),
    "set": _assign("a", 2),
    "set same": _assign("a", 1),
    "set new": _assign("new", {}),
    "set unhashable": _assign([], 1),
    "del": _delete("a"),
    "del missing": _delete("x"),
    "pop": lambda it: it.pop("a"),
    "pop missing": lambda it: it.pop("x"),
    "pop default": lambda it: it.pop("x", 9),
    "popitem": lambda it: it.popitem(),
    "clear": lambda it: it.clear(),
    "setdefault there": lambda it: it.setdefault("a", 5),
    "setdefault missing": lambda it: it.setdefault("x", 5),
    "setdefault without value": lambda it: it.setdefault("x"),
    "update": lambda it: it.update({"x": 1}),
    "update pairs": lambda it: it.update([("x", 1), ("y", 2)]),
    "update keywords": lambda it: it.update(x=1),
    "update both": lambda it: it.update({"x": 1}, y=2),
    "update PersistentDict": lambda it: it.update(PersistentDict(x=1)),
    "update itself": lambda it: it.update(it),
    "change inside": lambda it: it["b"].append(1),
}


def make_list() -> Any:
    return PersistentList([3, 1, [2], "x", 1])


def make_numbers() -> Any:
    return PersistentList([3, 1, 2, 5, 4])


LIST_OPERATIONS: dict[str, Operation] = {
    "get": lambda it: [it[0], it[-1]],
    "get beyond": lambda it: it[99],
    "slice values": lambda it: [list(it[1:3]), list(it[:]), list(it[::-2])],
    "len": len,
    "bool": bool,
    "iter": list,
    "reversed": lambda it: list(reversed(it)),
    "in": lambda it: [1 in it, [2] in it, 99 in it],
    "count": lambda it: [it.count(1), it.count(9)],
    "index": lambda it: [it.index(1), it.index(1, 2)],
    "index missing": lambda it: it.index(99),
    "==": lambda it: [
        it == make_list(),
        it == list(it),
        it != list(it),
        it == PersistentList(),
        it == 1,
    ],
    "+": lambda it: [list(add(it, [1])), type(add(it, [1])).__name__, list(it + it)],
    "list +": lambda it: [list(add([0], it)), type(add([0], it)).__name__],
    "*": lambda it: [list(it * 2), type(it * 2).__name__, list(2 * it)],
    "hash": hash,
    "data": lambda it: it.data,
    "make": lambda it: [
        list(PersistentList()),
        list(PersistentList("ab")),
        list(PersistentList(it)),
    ],
    "set": _assign(0, 9),
    "set beyond": _assign(99, 9),
    "set slice": _assign(slice(1, 3), [7, 8, 9]),
    "set slice from itself": lambda it: it.__setitem__(slice(0, 1), it),
    "set step": _assign(slice(0, 4, 2), ["a", "b"]),
    "set step wrong": _assign(slice(0, 4, 2), ["a"]),
    "del": _delete(0),
    "del beyond": _delete(99),
    "del slice": _delete(slice(1, 3)),
    "append": lambda it: it.append(1),
    "insert": lambda it: it.insert(1, "in"),
    "pop": lambda it: [it.pop(), it.pop(0)],
    "pop beyond": lambda it: it.pop(99),
    "remove": lambda it: it.remove(1),
    "remove missing": lambda it: it.remove(99),
    "reverse": lambda it: it.reverse(),
    "extend": lambda it: it.extend([1, 2]),
    "extend PersistentList": lambda it: it.extend(PersistentList([1])),
    "extend iterator": lambda it: it.extend(iter([1, 2])),
    "extend nothing": lambda it: it.extend([]),
    "+=": _in_place("+", [1]),
    "+= PersistentList": _in_place("+", PersistentList([1])),
    "*=": _in_place("*", 2),
    "clear": lambda it: it.clear(),
    "sort mixed": lambda it: it.sort(),
    "change inside": lambda it: it[2].append(1),
}

NUMBER_OPERATIONS: dict[str, Operation] = {
    "sort": lambda it: it.sort(),
    "sort reverse": lambda it: it.sort(reverse=True),
    "sort key": lambda it: it.sort(key=lambda number: -number),
    "<": lambda it: [it < [4], it <= [3], it > [1], it >= [9], it < make_numbers()],
    "sorted": sorted,
    "max": max,
}


def make_set() -> Any:
    return PersistentSet([1, "a", (2, 3)])


SET_OPERATIONS: dict[str, Operation] = {
    "in": lambda it: [1 in it, "x" in it],
    "unhashable in": lambda it: [] in it,
    "len": len,
    "bool": bool,
    "iter": set,
    "==": lambda it: [
        it == make_set(),
        it != make_set(),
        it == PersistentSet(),
        it == 1,
    ],
    "<=": lambda it: [
        it <= make_set(),
        it < make_set(),
        it >= PersistentSet([1]),
        it > PersistentSet([1]),
    ],
    "hash": hash,
    "s": lambda it: it.s,
    "&": lambda it: [set(it & PersistentSet([1, 9])), type(it & PersistentSet([1])).__name__],
    "|": lambda it: [set(it | PersistentSet([9])), type(it | PersistentSet([9])).__name__],
    "-": lambda it: [set(it - PersistentSet([1])), type(it - PersistentSet([1])).__name__],
    "^": lambda it: [set(it ^ PersistentSet([1, 9])), type(it ^ PersistentSet([1])).__name__],
    "& set": lambda it: set(it & {1, 9}),
    "| set": lambda it: set(it | {9}),
    "- set": lambda it: set(it - {1}),
    "^ set": lambda it: set(it ^ {1, 9}),
    "union": lambda it: [set(it.union([9])), type(it.union([9])).__name__],
    "intersection": lambda it: set(it.intersection([1, 9])),
    "difference": lambda it: set(it.difference([1])),
    "symmetric_difference": lambda it: set(it.symmetric_difference([1, 9])),
    "issubset": lambda it: [it.issubset([1, "a", (2, 3), 4]), it.issubset([])],
    "issuperset": lambda it: [it.issuperset([1]), it.issuperset([9])],
    "copy": lambda it: [set(it.copy()), type(it.copy()).__name__],
    "make": lambda it: [set(PersistentSet()), set(PersistentSet("ab")), set(PersistentSet(it))],
    "add": lambda it: it.add(9),
    "add there": lambda it: it.add(1),
    "add unhashable": lambda it: it.add([]),
    "remove": lambda it: it.remove(1),
    "remove missing": lambda it: it.remove(9),
    "discard": lambda it: it.discard(1),
    "discard missing": lambda it: it.discard(9),
    "pop": lambda it: it.pop() in {1, "a", (2, 3)} and len(it),
    "clear": lambda it: it.clear(),
    "update": lambda it: it.update([9, 10]),
    "intersection_update": lambda it: it.intersection_update([1]),
    "difference_update": lambda it: it.difference_update([1]),
    "symmetric_difference_update": lambda it: it.symmetric_difference_update([1, 9]),
    "|=": _in_place("|", {9}),
    "&=": _in_place("&", {1}),
    "-=": _in_place("-", {1}),
    "^=": _in_place("^", {1, 9}),
    "|= PersistentSet": _in_place("|", PersistentSet([9])),
}


def make_tree(node: type[BNode] = BNode4) -> Any:
    tree = BTree(node)
    for key in range(0, 100, 2):
        tree[key] = str(key)
    return tree


TREE_OPERATIONS: dict[str, Operation] = {
    "get": lambda it: [it[0], it[98], it.get(50), it.get(51), it.get(51, "none")],
    "get missing": lambda it: it[51],
    "get of another type": lambda it: it["text"],
    "in": lambda it: [0 in it, 1 in it, it.has_key(98), it.has_key(99)],
    "len": len,
    "bool": bool,
    "iter": list,
    "reversed": lambda it: list(reversed(it)),
    "keys": lambda it: list(it.keys()),
    "values": lambda it: list(it.values()),
    "items": lambda it: list(it.items()),
    "iterkeys": lambda it: list(it.iterkeys()),
    "itervalues": lambda it: list(it.itervalues()),
    "iteritems": lambda it: list(it.iteritems()),
    "items_backward": lambda it: list(it.items_backward()),
    "items_from": lambda it: [
        list(it.items_from(start, closed=closed))
        for start in (-1, 0, 49, 50, 98, 99)
        for closed in (True, False)
    ],
    "items_from default": lambda it: list(it.items_from(90)),
    "items_backward_from": lambda it: [
        list(it.items_backward_from(start, closed=closed))
        for start in (-1, 0, 49, 50, 98, 99)
        for closed in (True, False)
    ],
    "items_backward_from default": lambda it: list(it.items_backward_from(10)),
    "items_range": lambda it: [
        list(it.items_range(start, end, closed_start=closed_start, closed_end=closed_end))
        for start in (-1, 0, 49, 50)
        for end in (50, 51, 99, 200)
        for closed_start in (True, False)
        for closed_end in (True, False)
    ],
    "items_range default": lambda it: list(it.items_range(10, 20)),
    "items_range backward": lambda it: [
        list(it.items_range(start, end, closed_start=closed_start, closed_end=closed_end))
        for start in (50, 51, 99)
        for end in (-1, 0, 40)
        for closed_start in (True, False)
        for closed_end in (True, False)
    ],
    "get_min_item": lambda it: it.get_min_item(),
    "get_max_item": lambda it: it.get_max_item(),
    "get_depth": lambda it: it.get_depth(),
    "empty min": lambda it: BTree().get_min_item(),
    "empty max": lambda it: BTree().get_max_item(),
    "empty": lambda it: [len(BTree()), bool(BTree()), list(BTree().items()), BTree().get_depth()],
    "hash": lambda it: hash(it) and None,
    "set": lambda it: it.__setitem__(50, "changed"),
    "set new": lambda it: it.__setitem__(51, "new"),
    "set many": lambda it: [it.__setitem__(key, key) for key in range(99, 0, -2)],
    "add": lambda it: [it.add(51), it[51], it.add(52, "x"), it[52]],
    "del": lambda it: it.__delitem__(50),
    "del missing": lambda it: it.__delitem__(51),
    "del many": lambda it: [it.__delitem__(key) for key in range(0, 100, 4)],
    "del all": lambda it: [it.__delitem__(key) for key in range(0, 100, 2)],
    "pop": lambda it: it.pop(50),
    "pop missing": lambda it: it.pop(51),
    "pop default": lambda it: it.pop(51, "none"),
    "clear": lambda it: it.clear(),
    "setdefault there": lambda it: it.setdefault(50, "x"),
    "setdefault missing": lambda it: it.setdefault(51, "x"),
    "update": lambda it: it.update({51: "x", 50: "y"}),
    "update pairs": lambda it: it.update([(51, "x")]),
    "update keywords": lambda it: BTree().update(x=1),
    "update nothing": lambda it: it.update(),
    "update too much": lambda it: it.update({}, {}),
    "note_change_of_bnode_containing_key": lambda it: it.note_change_of_bnode_containing_key(50),
    "note_change of a missing key": lambda it: it.note_change_of_bnode_containing_key(51),
    "set_bnode_minimum_degree": lambda it: [
        it.set_bnode_minimum_degree(16),
        type(it.root).__name__,
        list(it),
    ],
    "set_bnode_minimum_degree same": lambda it: it.set_bnode_minimum_degree(4),
    "root": lambda it: [type(it.root).__name__, it.root.get_count(), it.root.is_leaf()],
    "nodes": lambda it: _shape(it.root),
    "node": lambda it: [
        it.root.search(50),
        it.root.search(51),
        it.root.get_position(-1),
        list(it.root),
        list(reversed(it.root)),
        list(it.root.iter_from(50)),
        list(it.root.iter_backward_from(50)),
        it.root.get_node_count() > 1,
    ],
}


def _shape(node: Any) -> Any:
    """Give the nodes of a tree as far as a B-tree fixes them: its keys in order, and its rules."""
    problems: list[str] = []
    keys = list(_check_node(node, True, node.get_level(), problems))
    return [type(node).__name__, node.get_count(), keys, problems]


def _check_node(node: Any, is_root: bool, level: int, problems: list[str]) -> Iterator[Any]:
    """Yield the keys below a node; note each rule of 4.3's trees that it breaks."""
    degree = node.minimum_degree
    children = node.nodes or []
    if not (is_root or degree - 1 <= len(node.items)) or len(node.items) > 2 * degree - 1:
        problems.append(f"{len(node.items)} items in a node of degree {degree}")
    if children and len(children) != len(node.items) + 1:
        problems.append(f"{len(children)} children beside {len(node.items)} items")
    if node.is_leaf() != (level == 0) or node.get_level() != level:
        problems.append(f"a leaf at level {level}")
    if node.is_full() != (len(node.items) == 2 * degree - 1):
        problems.append(f"full with {len(node.items)} items")
    if node.items and node.get_min_item() > node.get_max_item():
        problems.append("the least item is above the greatest")
    for position, item in enumerate(node.items):
        if children:
            yield from _check_node(children[position], False, level - 1, problems)
        yield item[0]
    if children:
        yield from _check_node(children[-1], False, level - 1, problems)


def tree_shapes() -> Any:
    """Give the trees that insertions and, for degrees above 2, deletions make."""
    ascending = list(range(700))
    scattered = [key * 377 % 1009 for key in range(700)]
    shapes = []
    for node in (BNode, BNode4, BNode16):
        for keys in (ascending, ascending[::-1], scattered):
            tree = BTree(node)
            for key in keys:
                tree[key] = -key
            shapes.append(_shape(tree.root))
            for key in keys[::3] if node is not BNode else ():
                del tree[key]
            shapes.append(_shape(tree.root))
    return shapes


CONTAINERS: dict[str, tuple[Callable[[], Any], dict[str, Operation]]] = {
    "dict": (make_dict, DICT_OPERATIONS),
    "list": (make_list, LIST_OPERATIONS),
    "numbers": (make_numbers, NUMBER_OPERATIONS),
    "set": (make_set, SET_OPERATIONS),
    "btree4": (make_tree, TREE_OPERATIONS),
    "btree16": (lambda: make_tree(BNode16), TREE_OPERATIONS),
}


def run_operations(container: str) -> dict[str, Any]:
    """Run every operation on a fresh ghost of one container."""
    make, operations = CONTAINERS[container]
    return {name: _run(make, operation) for name, operation in operations.items()}


def _run(make: Callable[[], Any], operation: Operation) -> list[Any]:
    connection, it = stored(make())
    result = outcome(lambda: operation(it))
    # How many nodes of a tree a change touches, and which, is its own business.
    changed = bool(connection.changed)
    after = status(it) if not isinstance(it, BTree) else None
    content = list(it.items()) if hasattr(it, "items") else sorted(it, key=repr)
    if isinstance(it, PersistentList):
        content = list(it)
    connection.commit()
    reopened = type(connection)(connection.get_storage()).get_root()["it"]
    again = list(reopened.items()) if hasattr(it, "items") else sorted(reopened, key=repr)
    return [result, after, changed, show(content), len(again) == len(content)]
