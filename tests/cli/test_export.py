"""`durus export`: what each value is as JSON, and that it comes back as it was."""

from __future__ import annotations

import json
import math
import os
import pickle
import shutil
import struct
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.backends import open_storage
from durus.btree import BTree
from durus.connection import Connection
from durus.error import CorruptRecordError, DurusKeyError
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.serialize import ROOT_OID, pack_record, seal
from durus.storage import MemoryStorage
from durus.tools.export import export_lines, import_lines
from durus.utils import int8_to_str

GOLDEN = Path(__file__).parents[1] / "compat" / "golden"

SHOP = """
from durus.persistent import Persistent

class Order(Persistent):
    class Line(Persistent):
        pass

class Address:
    class Country:
        pass

class Named:
    def __new__(cls, *, name):
        self = object.__new__(cls)
        self.name = name
        return self
    def __getnewargs_ex__(self):
        return (), {"name": self.name}

class Stack(list):
    pass

class Trap:
    def __reduce__(self):
        return spring, ("sprung",)

def spring(path):
    open(path, "w").close()
"""


def _parsed(lines: list[bytes]) -> list[Any]:
    return [json.loads(line) for line in lines]


def _storage_of(**values: Any) -> MemoryStorage:
    storage = MemoryStorage()
    connection = Connection(storage)
    connection.get_root().update(values)
    connection.commit()
    return storage


def _copy_of(storage: MemoryStorage) -> MemoryStorage:
    """Export and import, and check that the export of that is the same, line by line."""
    lines = list(export_lines(storage, "before"))
    copy = MemoryStorage()
    assert import_lines(lines, copy, "lines") == len(lines) - 2
    assert list(export_lines(copy, "after"))[1:-1] == lines[1:-1]
    return copy


def _there_and_back(value: Any) -> Any:
    return Connection(_copy_of(_storage_of(value=value))).get_root()["value"]


def _json_of(value: Any) -> Any:
    """Give the JSON of a value that stands alone."""
    lines = _parsed(list(export_lines(_storage_of(value=value), "memory")))
    assert list(lines[1]) == ["oid", "class", "state"]
    return lines[1]["state"]["data"]["value"]


def assert_same(before: Any, after: Any) -> None:
    """Check that two values are of the same types, parts and order, and share the same parts."""
    partners: dict[int, int] = {}
    waiting = [(before, after)]
    while waiting:
        one, two = waiting.pop()
        assert type(one) is type(two)
        if isinstance(one, (list, tuple, dict, set, frozenset, bytearray)) and one != ():
            seen = id(one) in partners
            assert partners.setdefault(id(one), id(two)) == id(two)
            assert len(one) == len(two)
            if seen:
                continue
        if isinstance(one, dict):
            waiting += zip(one.keys(), two.keys(), strict=True)
            waiting += zip(one.values(), two.values(), strict=True)
        elif isinstance(one, (list, tuple)):
            waiting += zip(one, two, strict=True)
        elif isinstance(one, (float, complex)):
            assert _bits(one) == _bits(two)
        else:
            assert one == two
    assert len(set(partners.values())) == len(partners)


def _bits(number: complex) -> bytes:
    return struct.pack(">dd", number.real, number.imag)


OTHER_NAN = struct.unpack(">d", bytes.fromhex("7ff8000000000001"))[0]

FORMS = [
    (None, None),
    (True, True),
    (-5, -5),
    (2**70, 2**70),
    (2**1024, {"$int": hex(2**1024)}),
    (-(2**40000), {"$int": hex(-(2**40000))}),
    (1.5, 1.5),
    (math.inf, {"$float": "inf"}),
    (-math.inf, {"$float": "-inf"}),
    (math.nan, {"$float": "nan"}),
    (OTHER_NAN, {"$float": "0x7ff8000000000001"}),
    (complex(1, -0.0), {"$complex": [1.0, -0.0]}),
    (complex(math.inf, 2), {"$complex": [{"$float": "inf"}, 2.0]}),
    ("Zoë 🙂\n\x00", "Zoë 🙂\n\x00"),
    ("\ud83d\ude42", {"$str": "7aC97bmC"}),
    (b"\x00\xff", {"$bytes": "AP8="}),
    (bytearray(b"ab"), {"$bytearray": "YWI="}),
    ([1, [2]], [1, [2]]),
    ((), {"$tuple": []}),
    ((1, "a"), {"$tuple": [1, "a"]}),
    ({1}, {"$set": [1]}),
    (frozenset([1]), {"$frozenset": [1]}),
    ({"a": 1, "": 2}, {"a": 1, "": 2}),
    ({}, {}),
    ({1: 2, None: 3}, {"$dict": [[1, 2], [None, 3]]}),
    ({"$ref": 1, "class": "x.Y"}, {"$dict": [["$ref", 1], ["class", "x.Y"]]}),
    ({"$tuple": [1]}, {"$dict": [["$tuple", [1]]]}),
    ({"\ud800": 1}, {"$dict": [[{"$str": "7aCA"}, 1]]}),
    (date(2026, 11, 28), {"$date": "2026-11-28"}),
    (time(1, 2, 3, 4), {"$time": "01:02:03.000004"}),
    (datetime(2026, 1, 2, 3, 4, 5), {"$datetime": "2026-01-02T03:04:05"}),  # noqa: DTZ001
    (datetime(2026, 1, 2, tzinfo=UTC), {"$datetime": "2026-01-02T00:00:00+00:00"}),
    (time(1, 2, fold=1), {"$time": "01:02:00", "fold": 1}),
    (
        datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=2), "CEST"), fold=1),
        {
            "$datetime": "2026-01-02T00:00:00",
            "tz": {"$call": "datetime.timezone", "args": [{"$timedelta": [0, 7200, 0]}, "CEST"]},
            "fold": 1,
        },
    ),
    (timedelta(-1, 2, 3), {"$timedelta": [-1, 2, 3]}),
    (UTC, {"$call": "datetime.timezone", "args": [{"$timedelta": [0, 0, 0]}]}),
    (Decimal("-1.50"), {"$decimal": "-1.50"}),
    (Decimal("sNaN12"), {"$decimal": "sNaN12"}),
    (UUID(int=5), {"$uuid": "00000000-0000-0000-0000-000000000005"}),
    (OrderedDict, {"$global": "collections.OrderedDict"}),
    (OrderedDict(a=1), {"$call": "collections.OrderedDict", "pairs": [["a", 1]]}),
    (
        defaultdict(list, a=[1]),
        {
            "$call": "collections.defaultdict",
            "args": [{"$global": "builtins.list"}],
            "pairs": [["a", [1]]],
        },
    ),
    (
        deque([1], 5),
        {"$call": "collections.deque", "args": [{"$tuple": []}, 5], "items": [1]},
    ),
    (Counter("a"), {"$call": "collections.Counter", "args": [{"a": 1}]}),
    (range(3), {"$call": "builtins.range", "args": [0, 3, 1]}),
    (Fraction(1, 3), None),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=[type(value).__name__ for value, _ in FORMS])
def test_the_form_of_a_value(value: Any, form: Any) -> None:
    """Each value has the form that the page shows, and comes back the same, of the same type."""
    if form is not None or value is None:
        assert _json_of(value) == form
    back = _there_and_back(value)
    assert type(back) is type(value)
    if isinstance(value, (float, complex)):
        assert _bits(back) == _bits(value)
    elif isinstance(value, Decimal):
        assert repr(back) == repr(value)  # a NaN is not itself
    else:
        assert back == value
    if isinstance(value, (datetime, time)):
        assert (back.fold, repr(back)) == (value.fold, repr(value))


def test_states_of_4_3_have_the_same_form() -> None:
    """Protocol 2, which 4.3 writes, has no bytes and no sets; they are told the same."""
    value = {
        "b": b"\x00\xff",
        "e": b"",
        "ba": bytearray(b"a"),
        "s": {1},
        "f": frozenset([2]),
        "c": 1j,
        "t": datetime(2026, 1, 2, tzinfo=UTC),
        "r": range(3),
    }
    storage = MemoryStorage()
    state = pickle.dumps({"data": value}, 2)
    data = b"\x80\x02cdurus.persistent_dict\nPersistentDict\nq\x00." + state
    storage.begin()
    storage.store(ROOT_OID, pack_record(ROOT_OID, data, b""))
    storage.end()
    assert _parsed(list(export_lines(storage, "old")))[1]["state"]["data"] == {
        "b": {"$bytes": "AP8="},
        "e": {"$bytes": ""},
        "ba": {"$bytearray": "YQ=="},
        "s": {"$set": [1]},
        "f": {"$frozenset": [2]},
        "c": {"$complex": [0.0, 1.0]},
        "t": {"$datetime": "2026-01-02T00:00:00+00:00"},
        "r": {"$call": "builtins.range", "args": [0, 3, 1]},
    }
    assert dict(Connection(_copy_of(storage)).get_root()) == value


def test_shared_values_stay_one() -> None:
    """What is met twice in a state stands under "shared", once, and is one object again."""
    storage = _storage_of(a=[1], b=None)
    connection = Connection(storage)
    root = connection.get_root()
    root["b"] = root["a"]
    connection.commit()
    line = _parsed(list(export_lines(storage, "memory")))[1]
    assert line["state"] == {"data": {"a": {"$shared": 0}, "b": {"$shared": 0}}}
    assert line["shared"] == [[1]]
    back = Connection(_copy_of(storage)).get_root()
    assert back["a"] is back["b"]


def _cycles() -> Iterator[Any]:
    direct: list[Any] = []
    direct.append(direct)
    yield direct
    through_tuple: list[Any] = []
    through_tuple.append((through_tuple, 1))
    yield through_tuple
    yield through_tuple[0]
    yield {"self": through_tuple, "again": through_tuple[0]}
    by_value: dict[str, Any] = {}
    by_value["a"] = [by_value, {1: by_value}]
    yield by_value
    one: list[Any] = []
    two: list[Any] = []
    pair = (one, two)
    one.append(pair)
    two.append(pair)
    yield pair


@pytest.mark.parametrize("value", list(_cycles()), ids=range(6))
def test_values_that_hold_themselves(value: Any) -> None:
    """A cycle comes back as one, be it entered at a list, a dict or a tuple."""
    assert_same(value, _there_and_back(value))


def test_deep_values_are_no_deep_json() -> None:
    """A state nested 300 deep is less than 256 deep as JSON, the limit of some readers."""
    value: Any = ()
    for number in range(200):
        value = [value, (number,)] if number % 2 else {"in": (value,)}
    line = list(export_lines(_storage_of(value=value), "memory"))[1]
    depth = deepest = 0
    for byte in line:
        depth += (byte in b"[{") - (byte in b"]}")
        deepest = max(deepest, depth)
    assert deepest < 256
    assert_same(value, _there_and_back(value))


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**1000, max_value=2**1100),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(codec=None, exclude_categories=())),
    st.sampled_from(["$", "$ref", "$tuple", "class", "oid"]),
    st.binary(),
    st.binary().map(bytearray),
    st.datetimes(timezones=st.sampled_from([None, UTC, timezone(timedelta(hours=3))])),
    st.dates(),
    st.times(),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
KEYS = st.one_of(st.text(), st.integers(), st.none(), st.binary(), st.tuples(st.text(), st.dates()))


@st.composite
def states(draw: Any) -> Any:
    """A value whose parts may be met in several places, and may hold it."""
    made: list[Any] = [draw(SCALARS) for _ in range(draw(st.integers(1, 6)))]
    for _ in range(draw(st.integers(0, 10))):
        parts = draw(st.lists(st.sampled_from(range(len(made))), max_size=4))
        chosen = [made[number] for number in parts]
        kind = draw(st.sampled_from(["list", "tuple", "dict", "text dict", "set", "frozenset"]))
        if kind == "list":
            made.append(chosen)
        elif kind == "tuple":
            made.append(tuple(chosen))
        elif kind == "dict":
            made.append({draw(KEYS): part for part in chosen})
        elif kind == "text dict":
            made.append({draw(st.text()): part for part in chosen})
        else:
            made.append((set if kind == "set" else frozenset)(draw(st.lists(KEYS, max_size=4))))
    containers = [value for value in made if type(value) in {list, dict}]
    for holder in containers:
        if draw(st.booleans()):
            part = made[draw(st.integers(0, len(made) - 1))]
            if isinstance(holder, list):
                holder.append(part)
            else:
                holder[draw(KEYS)] = part
    return made[-1]


@given(states())
def test_any_value_comes_back(value: Any) -> None:
    """Values of every built-in type, shared and in cycles, come back the same, each part once."""
    before = Connection(_storage_of(value=value))
    copy = _copy_of(before.get_storage())  # type: ignore[arg-type]  # which is in memory
    # Against what is stored and loaded: a pickler makes equal short texts one, and the like.
    after = Connection(copy).get_root()["value"]
    assert_same(Connection(before.get_storage()).get_root()["value"], after)


def test_containers_and_references() -> None:
    """The containers of Durus are as they are stored, and a reference has oid and class."""
    storage = _storage_of(d=PersistentDict(a=1), l=PersistentList([1]), s=PersistentSet([1]))
    header, root, *others, footer = _parsed(list(export_lines(storage, "memory")))
    assert header["durus_export"] == 1
    assert header["database"] == "memory"
    assert footer["objects"] == 4
    of_class = {line["class"]: line for line in others}
    listed = of_class["durus.persistent_list.PersistentList"]
    assert listed["state"] == {"data": [1]}
    assert of_class["durus.persistent_set.PersistentSet"]["state"] == {"s": {"$set": [1]}}
    assert root["state"]["data"]["l"] == {"$ref": listed["oid"], "class": listed["class"]}
    back = Connection(_copy_of(storage)).get_root()
    assert (dict(back["d"]), list(back["l"]), set(back["s"])) == ({"a": 1}, [1], {1})


def test_a_tree_of_10_000_keys() -> None:
    """A BTree keeps its nodes, their oids and order, and can be changed afterwards."""
    storage = MemoryStorage()
    connection = Connection(storage)
    tree = connection.get_root()["tree"] = BTree()
    for number in range(10_000):
        tree[f"key {number * 7919 % 10_000:05}"] = number
    connection.commit()
    back = Connection(_copy_of(storage))
    copied = back.get_root()["tree"]
    assert list(copied.items()) == list(tree.items())
    del copied["key 00500"]
    copied["new"] = 1
    back.commit()
    assert len(copied) == 10_000


class Shop:
    """A module that can be taken away and brought back."""

    def __init__(self) -> None:
        self.module = ModuleType("shop")
        self.stock()

    def stock(self) -> None:
        sys.modules["shop"] = self.module
        exec(SHOP, vars(self.module))

    def close(self) -> None:
        sys.modules.pop("shop", None)


@pytest.fixture
def shop() -> Iterator[Shop]:
    """A module of classes that stored data can name and that can be missing."""
    shop = Shop()
    yield shop
    shop.close()


def test_classes_that_cannot_be_imported(shop: Shop) -> None:
    """Persistent and plain objects of missing classes are exported and imported by name."""
    module: Any = shop.module
    order = module.Order()
    order.address = module.Address()
    order.address.street = "Kirkgata"
    order.country = module.Address.Country()
    order.named = module.Named(name="Kim")
    order.stack = module.Stack([1, 2])
    order.stack.top = 2
    order.line = module.Order.Line()
    storage = _storage_of(order=order)
    shop.close()
    copy = _copy_of(storage)
    lines = _parsed(list(export_lines(copy, "copy")))
    by_class = {line["class"]: line for line in lines[1:-1]}
    assert by_class["shop.Order"]["state"] == {
        "address": {"$object": "shop.Address", "state": {"street": "Kirkgata"}},
        "country": {"$object": "shop:Address.Country"},
        "named": {"$object": "shop.Named", "kwargs": {"name": "Kim"}, "state": {"name": "Kim"}},
        "stack": {"$object": "shop.Stack", "items": [1, 2], "state": {"top": 2}},
        "line": {"$ref": by_class["shop:Order.Line"]["oid"], "class": "shop:Order.Line"},
    }
    assert "shop" not in sys.modules
    sys.modules["shop"] = module
    back = Connection(copy).get_root()["order"]
    assert type(back) is module.Order
    assert back.address.street == "Kirkgata"
    assert type(back.country) is module.Address.Country
    assert back.named.name == "Kim"
    assert (list(back.stack), back.stack.top) == ([1, 2], 2)
    assert type(back.line) is module.Order.Line


def test_nothing_that_is_stored_runs(shop: Shop, tmp_path: Path, monkeypatch: Any) -> None:
    """A value whose loading calls a function is a call by name, there and back."""
    monkeypatch.chdir(tmp_path)
    storage = _storage_of(trap=shop.module.Trap())  # type: ignore[attr-defined]  # made by exec
    lines = list(export_lines(_copy_of(storage), "copy"))
    assert _parsed(lines)[1]["state"]["data"]["trap"] == {
        "$call": "shop.spring",
        "args": ["sprung"],
    }
    assert os.listdir(tmp_path) == []


def test_damage_is_told() -> None:
    """A record whose proof holds and whose state is none is an error that names it."""
    storage = MemoryStorage()
    storage.begin()
    body = b"\x80\x04cdurus.persistent\nPersistent\n.\x80\x04(."
    storage.store(ROOT_OID, pack_record(ROOT_OID, seal(ROOT_OID, body, b""), b""))
    storage.end()
    with pytest.raises(CorruptRecordError, match="the record of oid 0 from memory cannot be read"):
        list(export_lines(storage, "memory"))


def test_a_reference_to_nothing_is_told() -> None:
    """An export never leaves out what is missing."""
    storage = _storage_of(one=Persistent())
    del storage._open_records()[int8_to_str(1)]
    with pytest.raises(DurusKeyError):
        list(export_lines(storage, "memory"))


GOLDEN_FILES = [path for path in sorted(GOLDEN.glob("*.durus")) if "python2" not in path.name]


@pytest.mark.parametrize("golden", GOLDEN_FILES, ids=[path.stem for path in GOLDEN_FILES])
def test_files_of_4_3_come_back(golden: Path, durus: Any) -> None:
    """Every file that 4.3 wrote: each object is again what it was."""
    shutil.copyfile(golden, durus.folder / "old.durus")
    durus("export", "old.durus", "old.jsonl")
    durus("import", "old.jsonl", "new.durus")
    durus("export", "new.durus", "new.jsonl")
    old, new = (
        (durus.folder / name).read_bytes().splitlines() for name in ("old.jsonl", "new.jsonl")
    )
    assert old[1:-1] == new[1:-1]
    with (
        Connection(
            open_storage(durus.folder / "old.durus", readonly=True), broken_objects=True
        ) as a,
        Connection(
            open_storage(durus.folder / "new.durus", readonly=True), broken_objects=True
        ) as b,
    ):
        assert len(old) > 2
        for line in old[1:-1]:
            oid = json.loads(line)["oid"]
            assert type(a.get(oid)) is type(b.get(oid))


def test_python_2_is_referred_to_its_command(durus: Any) -> None:
    """What Python 2 pickled has no JSON that is sure; the error says what makes it readable."""
    shutil.copyfile(GOLDEN / "dfs20-python2.durus", durus.folder / "old.durus")
    done = durus("export", "old.durus", "old.jsonl", status=1)
    assert "durus convert-py2" in done.stderr
    assert not (durus.folder / "old.jsonl").exists()


def test_to_stdout_and_to_a_file(durus: Any, database: Path) -> None:
    """Without FILE, or with -, the lines go to stdout, alone; a file gets the same lines."""
    printed = durus("export", database)
    assert printed.stderr == ""
    told = durus("export", database, "app.jsonl").stdout
    assert told == f"exported {database}: 4 objects to app.jsonl\n"
    of_file = (durus.folder / "app.jsonl").read_text().splitlines()
    for lines in (printed.stdout.splitlines(), durus("export", database, "-").stdout.splitlines()):
        assert lines[1:-1] == of_file[1:-1]
        assert len(lines) == 6


def test_no_file_is_overwritten(durus: Any, database: Path) -> None:
    """An export makes a new file, or none: the database itself could be named by mistake."""
    before = database.read_bytes()
    assert "there is a" in durus.error("export", database, database)
    assert database.read_bytes() == before


def test_a_failed_export_leaves_no_file(durus: Any) -> None:
    """A file that would not be whole is removed."""
    with open_storage(durus.folder / "app.durus") as storage:
        storage.begin()
        storage.store(ROOT_OID, pack_record(ROOT_OID, b"\x80\x02cno\nclass\nq\x00.\x80\x02(.", b""))
        storage.end()
    durus.error("export", "app.durus", "app.jsonl")
    assert not (durus.folder / "app.jsonl").exists()


def test_an_export_of_a_server(durus: Any, database: Path, serve: Callable[..., Any]) -> None:
    """A running server is exported as its file is."""
    expected = durus("export", database).stdout.splitlines()
    server = serve(database).ready()
    lines = durus("export", "durus+unix:a.sock").stdout.splitlines()
    assert lines[1:-1] == expected[1:-1]
    server.stop()
