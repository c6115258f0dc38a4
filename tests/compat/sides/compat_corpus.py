"""Object graphs, described once: each is built, and later changed, by 4.3 and by ours alike.

A case has a `build(root)` and a `change(root, step)`. Both must do the same on both versions, for
any step number, on a graph that either has built, changed or packed: no clock, no unseeded
randomness, no order that depends on addresses.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

from compat_model import (
    Catalog,
    Employee,
    Loose,
    Mixed,
    Person,
    Plain,
    Point,
    Point3,
    Registry,
    Shelf,
    SlottedRegistry,
    Tuplet,
    Vault,
)

from durus.btree import BNode, BNode4, BNode16, BNode64, BNode512, BTree
from durus.persistent import ComputedAttribute
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet


class Case(NamedTuple):
    """One object graph under the root."""

    build: Callable[[Any], None]
    change: Callable[[Any, int], None]


def nested() -> list[Any]:
    """Give plain containers with most of what a state may hold, shared parts and a cycle."""
    shared = ["shared", 1]
    cyclic: list[Any] = [1]
    cyclic.append(cyclic)
    return [
        None,
        True,
        False,
        0,
        -1,
        255,
        65536,
        -(2**31),
        2**63,
        -(2**200),
        0.1,
        float("-inf"),
        float("nan"),
        3 + 4j,
        "",
        "text",
        "Grüße, 世界 \U0001f40d",
        "line\nbreak",
        b"",
        b"bytes",
        bytes(range(256)),
        bytearray(b"array"),
        (),
        (1,),
        (1, 2, 3, (4, (5, 6))),
        {},
        {"a": {"b": {"c": []}}, 2: (None,), ("t", 1): "tuple key", None: "none key"},
        set(),
        {1, 2, 3},
        frozenset({"x", "y"}),
        [shared, shared],
        cyclic,
        dt.datetime(2001, 2, 3, 4, 5, 6, 789),  # noqa: DTZ001 - states hold such too
        dt.datetime(2024, 2, 29, tzinfo=dt.UTC),
        dt.date(1999, 12, 31),
        dt.time(23, 59, 59),
        dt.timedelta(days=-1, microseconds=1),
        Decimal("1.10"),
        Plain({"inside": shared}),
        dict,
        Person,
    ]


def _build_empty(root: Any) -> None:
    """Leave the root as it is made."""


def _change_empty(root: Any, step: int) -> None:
    root["step"] = step


def _build_values(root: Any) -> None:
    root["values"] = nested()
    root["person"] = Person("Ada", values=nested(), born=dt.date(1815, 12, 10))
    root["dict"] = PersistentDict({"values": nested(), 7: "seven", None: None, (1, "a"): 1.5})
    root["list"] = PersistentList(nested())
    root["set"] = PersistentSet([1, "one", b"one", (1, 2), None, frozenset([3])])


def _change_values(root: Any, step: int) -> None:
    root["person"].values = [step, *nested()]
    root["dict"][("step", step)] = {"step": step}
    root["dict"].pop(7, None)
    root["list"].append(("step", step))
    root["set"].add(("step", step))
    root["values"] = [step]


def _build_dicts(root: Any) -> None:
    root["empty"] = PersistentDict()
    root["numbers"] = PersistentDict((n, str(n)) for n in range(50))
    root["registry"] = Registry({"one": 1}, two=2)
    root["registry"].owner = root["empty"]
    root["slotted"] = SlottedRegistry()
    root["slotted"]["key"] = root["registry"]
    root["slotted"].owner = "slot"
    root["shelf"] = Shelf()
    root["shelf"]["numbers"] = root["numbers"]


def _change_dicts(root: Any, step: int) -> None:
    root["numbers"].update({step: "changed", -step: step})
    root["numbers"].setdefault(1000 + step, [step])
    root["registry"][step] = PersistentDict(step=step)
    root["registry"].history.append(step)
    root["registry"]._p_note_change()
    root["slotted"].owner = Person("owner", step=step)
    root["shelf"][step] = root["slotted"].owner
    if step % 2:
        root["numbers"].popitem()
        root["empty"].clear()
    root["empty"]["step"] = step


def _build_lists(root: Any) -> None:
    root["empty"] = PersistentList()
    root["numbers"] = PersistentList(range(100))
    people = [Person(f"p{n}") for n in range(10)]
    root["people"] = PersistentList(people + people)
    root["inner"] = PersistentList([root["people"], root["numbers"], [root["people"]]])


def _change_lists(root: Any, step: int) -> None:
    numbers = root["numbers"]
    numbers.append(step)
    numbers.insert(0, -step)
    numbers[1:3] = [step, step, step]
    del numbers[len(numbers) // 2]
    numbers.sort(key=str)
    root["people"].append(Person(f"new{step}"))
    del root["people"][0]
    root["inner"].reverse()
    root["empty"] += [step]
    root["empty"] *= 1 + step % 2


def _build_sets(root: Any) -> None:
    root["empty"] = PersistentSet()
    root["words"] = PersistentSet(["one", "two", "three", "four"])
    root["people"] = PersistentSet(Person(f"p{n}") for n in range(6))
    root["plain"] = {"a", "b", "c"}


def _change_sets(root: Any, step: int) -> None:
    root["words"] |= {f"step{step}"}
    root["words"].discard("two")
    root["words"] ^= {"three", "never"}
    root["people"].add(Person(f"new{step}"))
    for person in sorted(root["people"], key=lambda member: str(member.name))[:1]:
        root["people"].remove(person)
    root["empty"].update({step, step + 1})


def _btree_case(node: type[BNode], count: int) -> Case:
    """Give a case of BTrees of one degree: empty, ascending, shuffled, with persistent values.

    Nothing is deleted from a tree of degree 2: 4.3 raises or loses items there.
    """
    deletes = node.minimum_degree > 2

    def build(root: Any) -> None:
        root["empty"] = BTree(node)
        root["ascending"] = BTree(node)
        for key in range(count):
            root["ascending"][key] = f"value {key}"
        root["shuffled"] = BTree(node)
        keys = [f"{key:06}" for key in range(count)]
        random.Random(count).shuffle(keys)
        for key in keys:
            root["shuffled"][key] = key
        root["people"] = BTree(node)
        for key in range(min(count, 40)):
            root["people"][(key % 7, key)] = Person(f"p{key}", partner=root["ascending"])

    def change(root: Any, step: int) -> None:
        rng = random.Random(step)
        for key in rng.sample(range(-count, 2 * count), min(count, 30)):
            root["ascending"][key] = [step, key]
            root["shuffled"].setdefault(f"{key:06}", step)
        root["people"][(step, -1)] = Person(f"new{step}", tree=root["empty"])
        root["empty"].add(step)
        if deletes:
            for key in rng.sample(range(count), min(count // 4, 200)):
                if key in root["ascending"]:
                    del root["ascending"][key]
            for key in list(root["people"])[:2]:
                del root["people"][key]

    return Case(build, change)


def _build_catalog(root: Any) -> None:
    root["catalog"] = Catalog()
    for key in range(100):
        root["catalog"][key] = (key, "x" * key)
    root["catalog"].owner = Person("librarian")
    root["small"] = BTree(BNode4)
    root["small"]["only"] = root["catalog"]


def _change_catalog(root: Any, step: int) -> None:
    root["catalog"].label = f"catalog {step}"
    root["catalog"][1000 + step] = root["catalog"].owner
    root["catalog"].pop(step % 100, None)
    # setdefault tells whether the key was there; a later step may meet it again.
    root["small"].setdefault(f"step {step}", step)


def _build_objects(root: Any) -> None:
    root["person"] = Person("Ada", title="countess")
    root["bare"] = Person("bare")
    del root["bare"].name
    point, unset, deep = Point(), Point(), Point3()
    point.x, point.y = 1, [2, 3]
    unset.x = None
    deep.x, deep.y, deep.z = "x", {"y": point}, (point, unset)
    root["points"] = [point, unset, deep]
    root["loose"] = Loose()
    root["loose"].anything = {"at": "all", "point": point}
    root["vault"] = Vault("sesame")
    root["tuplet"] = Tuplet(1, "two", point)
    root["mixed"] = Mixed(21)
    root["mixed"].plain = Plain(point)
    root["employee"] = Employee("Bob", [1, 2, 3])
    root["computed"] = Employee("Eve", [4, 5])
    root["computed"].get_total()
    root["alone"] = ComputedAttribute()


def _change_objects(root: Any, step: int) -> None:
    root["person"].title = f"title {step}"
    root["bare"].name = step
    point, unset, deep = root["points"]
    point.x = step
    if hasattr(unset, "x"):
        del unset.x
    unset.y = deep
    deep.z = (step, point)
    root["loose"].more = [step]
    root["vault"].secret = f"secret {step}"
    root["tuplet"].values = (step, deep)
    root["mixed"].value = step
    root["employee"].wages = [step, step + 1]
    root["employee"].total.invalidate()
    root["employee"].get_total()


def _build_keys(root: Any) -> None:
    people = [Person(f"p{n}") for n in range(5)]
    root["people"] = people
    root["plain"] = {person: person.name for person in people}
    root["persistent"] = PersistentDict({people[0]: people[1], people[2]: people[2]})
    root["pairs"] = {(people[0], people[1]): "married"}
    people[0].friends = {people[1]: "dear", people[0]: "self"}


def _change_keys(root: Any, step: int) -> None:
    people = root["people"]
    stranger = Person(f"stranger {step}")
    root["plain"][stranger] = step
    root["plain"].pop(people[step % 5], None)
    root._p_note_change()
    root["persistent"][stranger] = people[step % 5]
    people[0].friends = {stranger: people[0]}


def _build_cycles(root: Any) -> None:
    root["self"] = root
    one, two, three = (Person(name) for name in ("one", "two", "three"))
    one.next, two.next, three.next = two, three, one
    one.me = [one, {"me": one}]
    root["ring"] = one
    members = PersistentList()
    members.append(members)
    members.append(PersistentDict(members=members, root=root))
    root["members"] = members
    tree = BTree(BNode4)
    for key in range(20):
        tree[key] = tree
    root["tree"] = tree


def _change_cycles(root: Any, step: int) -> None:
    one = root["ring"]
    link = Person(f"link {step}", next=one.next)
    one.next = link
    root["members"].append(root["members"])
    root["tree"][1000 + step] = link
    link.root = root


def _build_garbage(root: Any) -> None:
    root["kept"] = PersistentDict((n, Person(f"kept {n}")) for n in range(20))
    root["dropped"] = PersistentDict((n, Person(f"dropped {n}")) for n in range(60))
    root["generation"] = 0


def _change_garbage(root: Any, step: int) -> None:
    """Turn most of what is there into garbage, so that a pack leaves holes among the oids."""
    root["dropped"] = PersistentDict((n, Person(f"dropped {step} {n}")) for n in range(10))
    for n in list(root["kept"])[:: 2 + step % 3]:
        root["kept"][n] = Person(f"replaced {step} {n}")
    root["generation"] += 1


def big_bytes(seed: int, length_bytes: int) -> bytes:
    """Give bytes that no compression shortens."""
    return random.Random(seed).randbytes(length_bytes)


def _build_big(root: Any) -> None:
    root["noise"] = Person("noise", payload=big_bytes(1, 5_000_000))
    root["text"] = Person("text", payload="compressible " * 400_000)
    root["list"] = PersistentList(range(60_000))
    root["after"] = Person("small, behind the big ones")


def _change_big(root: Any, step: int) -> None:
    root["noise"].payload = big_bytes(step, 5_000_001)
    root["list"].append(step)
    root["after"].step = step


def _build_many(root: Any) -> None:
    """Make enough objects that oids and offsets need more than one byte and one batch."""
    root["people"] = PersistentList(Person(f"p{n}", number=n) for n in range(1500))


def _change_many(root: Any, step: int) -> None:
    people = root["people"]
    for n in range(step % 7, len(people), 97):
        people[n].number = -step
    del people[:: 50 + step]
    people.extend(Person(f"new{step} {n}") for n in range(20))


CASES: dict[str, Case] = {
    "empty": Case(_build_empty, _change_empty),
    "values": Case(_build_values, _change_values),
    "dicts": Case(_build_dicts, _change_dicts),
    "lists": Case(_build_lists, _change_lists),
    "sets": Case(_build_sets, _change_sets),
    "btree2": _btree_case(BNode, 60),
    "btree4": _btree_case(BNode4, 200),
    "btree16": _btree_case(BNode16, 600),
    "btree64": _btree_case(BNode64, 1500),
    "btree512": _btree_case(BNode512, 3000),
    "catalog": Case(_build_catalog, _change_catalog),
    "objects": Case(_build_objects, _change_objects),
    "keys": Case(_build_keys, _change_keys),
    "cycles": Case(_build_cycles, _change_cycles),
    "garbage": Case(_build_garbage, _change_garbage),
    "many": Case(_build_many, _change_many),
    "big": Case(_build_big, _change_big),
}


_COMBINED = [name for name in CASES if name not in ("btree64", "btree512", "many", "big")]


def _build_everything(root: Any) -> None:
    for name in _COMBINED:
        root[name] = PersistentDict()
        CASES[name].build(root[name])


def _change_everything(root: Any, step: int) -> None:
    for name in random.Random(step).sample(_COMBINED, 6):
        CASES[name].change(root[name], step)


# All the smaller cases in one database.
CASES["everything"] = Case(_build_everything, _change_everything)


def _build_golden(root: Any) -> None:
    """Make a little of everything, for files that are small enough to keep."""
    ada = Person("Ada", born=dt.date(1815, 12, 10), letters=[b"bytes", ("tuple", None), 2**70])
    root["person"] = ada
    root["dict"] = Registry({"ada": ada, 1: {"plain": [1.5, True]}})
    root["dict"].owner = ada
    root["list"] = PersistentList([ada, "Grüße", dt.datetime(2001, 2, 3, 4, 5, 6, tzinfo=dt.UTC)])
    root["set"] = PersistentSet([1, "one", (1, 2)])
    root["keys"] = {ada: "friend"}
    point, point3 = Point(), Point3()
    point.x = 1
    point3.x, point3.z = point, {"deep": (point,)}
    root["points"] = [point, point3]
    root["vault"] = Vault("sesame")
    root["mixed"] = Mixed(Plain(1))
    root["shelf"] = Shelf()
    root["shelf"]["self"] = root["shelf"]
    root["employee"] = Employee("Bob", [1, 2, 3])
    root["employee"].get_total()
    root["catalog"] = Catalog()
    root["catalog"]["key"] = "value"
    for node in (BNode, BNode4, BNode16):
        tree = root[f"tree{node.minimum_degree}"] = BTree(node)
        for key in range(12):
            tree[key * 7 % 12] = f"{key}"
    ada.friend = root["list"]
    root["dropped"] = PersistentList(Person(f"dropped {n}") for n in range(5))


def _change_golden(root: Any, step: int) -> None:
    root["person"].letters = [step, *root["person"].letters]
    root["dict"][f"step {step}"] = Person(f"new {step}")
    root["list"].append(step)
    root["set"].add(step)
    root["points"][1].y = step
    root["vault"].secret = f"sesame {step}"
    root["tree4"][100 + step] = step
    root["tree16"].pop(step % 12, None)
    root["employee"].total.invalidate()
    # What was there becomes garbage: the next pack leaves holes among the oids.
    root["dropped"] = PersistentList([Person(f"kept {step}")])


CASES["golden"] = Case(_build_golden, _change_golden)
