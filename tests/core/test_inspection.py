"""Records as plain values, and paths between objects: nothing that is stored is imported or run."""

from __future__ import annotations

import shutil
import sys
import zlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from pickle import dumps
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from durus.backends import open_storage
from durus.btree import BNode4, BTree
from durus.connection import Connection
from durus.error import CorruptRecordError, PathError
from durus.inspection import (
    Instance,
    InstanceClass,
    Reference,
    find_paths,
    gen_references,
    read_state,
    resolve,
)
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.serialize import ROOT_OID, pack_record, unpack_record
from durus.storage import MemoryStorage
from durus.testing.records import commit, make_record
from durus.utils import int8_to_str

GOLDEN = Path(__file__).parents[1] / "compat" / "golden"

SHOP = """
import enum
from collections import namedtuple
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict

class Order(Persistent):
    pass

class Users(PersistentDict):
    pass

class Line:
    pass

class Slotted:
    __slots__ = ("x",)

class Stack(list):
    pass

class Register(dict):
    pass

class Tags(set):
    pass

Point = namedtuple("Point", "x y")

class Colour(enum.Enum):
    RED = 1

class Odd(Persistent):
    def __getstate__(self):
        return ["first", self.inner]
"""


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module whose objects are stored, and that is taken away before they are read."""
    module = ModuleType("inspected_shop")
    monkeypatch.setitem(sys.modules, "inspected_shop", module)
    exec(SHOP, module.__dict__)
    return module


def _stored(**entries: object) -> MemoryStorage:
    """Give a storage whose root has these entries, without the module shop."""
    storage = MemoryStorage()
    connection = Connection(storage)
    connection.get_root().update(entries)
    connection.commit()
    sys.modules.pop("inspected_shop", None)
    return storage


def _root_data(storage: MemoryStorage, trust: tuple[str, ...] = ()) -> dict[Any, Any]:
    state = read_state(storage.load(ROOT_OID), trust)
    assert isinstance(state, dict)
    data: dict[Any, Any] = state["data"]
    return data


def _hostile(state: bytes) -> bytes:
    """Give a record, as Durus 4.3 writes them, with this pickle as its state."""
    return pack_record(ROOT_OID, b"\x80\x02cdurus.persistent\nPersistent\nq\x00." + state, b"")


# -- states ---------------------------------------------------------------------------------------

VALUES = {
    "none": None,
    "number": 10**30,
    "text": "é\n\0",
    "bytes": b"\xff",
    "bytearray": bytearray(b"x"),
    "float": 0.5,
    "complex": 1 + 2j,
    "list": [1, (2, {3: {4}})],
    "frozenset": frozenset({1}),
    "counter": Counter("aab"),
    "ordered": OrderedDict(b=1, a=2),
    "default": defaultdict(list, {1: [2]}),
    "deque": deque([1, 2], 3),
    "datetime": datetime(2020, 1, 2, tzinfo=UTC),
    "date": date(2020, 1, 2),
    "decimal": Decimal("1.50"),
    "fraction": Fraction(1, 3),
    "uuid": UUID(int=5),
    "slice": slice(1, 2),
}


@pytest.mark.parametrize("name", VALUES)
def test_builtin_values_come_as_they_were_stored(name: str) -> None:
    """A value of the types that states are made of is equal to what was stored, and of its type."""
    value = VALUES[name]
    found = _root_data(_stored(value=value))["value"]
    assert found == value
    assert isinstance(found, type(value))
    assert repr(found) == repr(value)


def test_a_range_is_an_instance() -> None:
    """With a range a short record could ask for a list that fills the memory."""
    found = _root_data(_stored(value=range(2, 5)))["value"]
    assert (found.class_name, found.args) == ("builtins.range", (2, 5, 1))


def test_a_persistent_object_is_a_reference() -> None:
    """It has the oid and the class that the reference names."""
    found = _root_data(_stored(one=PersistentList()))["one"]
    assert found == Reference(int8_to_str(1), "durus.persistent_list.PersistentList")
    assert repr(found) == "<durus.persistent_list.PersistentList 1>"


def test_instances_keep_what_their_class_would_get(shop: Any) -> None:
    """Attributes, slots, items, pairs and arguments of classes that are not there."""
    line, slotted, stack, register = shop.Line(), shop.Slotted(), shop.Stack("ab"), shop.Register()
    line.count = 3
    slotted.x = 4
    register["k"] = "v"
    data = _root_data(
        _stored(
            line=line,
            slotted=slotted,
            stack=stack,
            register=register,
            tags=shop.Tags("t"),
            point=shop.Point(1, 2),
            colour=shop.Colour.RED,
            kind=shop.Line,
        )
    )
    assert "inspected_shop" not in sys.modules
    assert data["line"].class_name == "inspected_shop.Line"
    assert data["line"].state == {"count": 3}
    assert data["slotted"].state == (None, {"x": 4})
    assert data["stack"].items == ["a", "b"]
    assert data["register"].pairs == [("k", "v")]
    assert data["tags"].args == (["t"],)
    assert data["point"].args == (1, 2)
    assert (data["colour"].class_name, data["colour"].args) == ("inspected_shop.Colour", (1,))
    assert isinstance(data["kind"], InstanceClass)
    assert data["kind"].class_name == "inspected_shop.Line"
    assert repr(data["line"]) == "<a inspected_shop.Line>"


def test_trusted_names_are_imported(shop: Any) -> None:
    """What the caller trusts becomes what it was, and nothing else does."""
    storage = _stored(point=shop.Point(1, 2), line=shop.Line())
    sys.modules["inspected_shop"] = shop
    data = _root_data(storage, ("inspected_shop.Point",))
    assert data["point"] == shop.Point(1, 2)
    assert isinstance(data["line"], Instance)


def test_what_is_present_is_not_imported_either(tmp_path: Path, monkeypatch: Any) -> None:
    """A module that could be imported is not: its import would leave a mark."""
    (tmp_path / "inspected_trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    state = read_state(_hostile(b"\x80\x02cinspected_trap\nTrap\n)\x81."))
    assert isinstance(state, Instance)
    assert state.class_name == "inspected_trap.Trap"


def test_a_record_of_4_3_shares_its_memo() -> None:
    """There the state may refer to the class as memo entry 0."""
    oid = int8_to_str(7)
    state = b"\x80\x02}U\x01xU\x08" + oid + b"h\x00\x86Qs."
    assert read_state(_hostile(state)) == {"x": Reference(oid, "durus.persistent.Persistent")}


def test_compressed_states() -> None:
    """A compressed state is read, with a proof and without."""
    text = "much of it " * 1000
    assert _root_data(_stored(text=text))["text"] == text
    assert read_state(_hostile(zlib.compress(dumps({"x": text}, 2)))) == {"x": text}


def test_a_database_of_python_2(tmp_path: Path) -> None:
    """Its oids are text; every object of it has a path, and the path leads to it."""
    pytest.importorskip("durus.file_storage2", reason="durus-filestorage is not installed here")
    path = tmp_path / "python2.durus"
    shutil.copy(GOLDEN / "dfs20-python2.durus", path)
    with open_storage(str(path), readonly=True) as storage:
        oids = [oid for oid, _ in storage.gen_oid_record()]
        paths = find_paths(storage, oids)
        assert set(paths) == set(oids)
        assert paths[resolve(storage, 'root["list"][139]')] == 'root["list"][139]'


def test_text_and_dates_of_python_2() -> None:
    """UTF-8 text is decoded, other bytes can be had back, and a date is one."""
    utf8 = _hostile(b"\x80\x02}U\x01xU\x02\xc3\xa9s.")
    other = _hostile(b"\x80\x02}U\x01xU\x01\xe9s.")
    dated = _hostile(b"\x80\x02}U\x01xcdatetime\ndate\nU\x04\x07\xe4\x01\x02\x85Rs.")
    assert read_state(utf8) == {"x": "é"}
    assert read_state(other) == {"x": "\udce9"}
    assert read_state(dated) == {"x": date(2020, 1, 2)}
    assert read_state(_hostile(b"\x80\x02c__builtin__\nset\n](K\x01e\x85R.")) == {1}


# -- hostile states -------------------------------------------------------------------------------


def test_nothing_is_called(tmp_path: Path) -> None:
    """A state that would run a program gives the name and the arguments instead."""
    mark = tmp_path / "mark"
    state = read_state(_hostile(b"\x80\x02cos\nsystem\nU\x05" + b"touch" + b"\x85R."))
    assert isinstance(state, Instance)
    assert (state.class_name, state.args) == ("os.system", ("touch",))
    for name in (b"builtins\neval", b"builtins\ngetattr", b"posix\nsystem", b"builtins\nexec"):
        code = f"open({str(mark)!r}, 'w')".encode()
        read_state(_hostile(b"\x80\x02c" + name + b"\nU" + bytes([len(code)]) + code + b"\x85R."))
    assert not mark.exists()


DAMAGED = {
    "nothing": b"",
    "no end": b"\x80\x02}",
    "no pickle": b"hello",
    "an empty stack": b"\x80\x02.",
    "a reference that is no pair": b"\x80\x02K\x01Q.",
    "a reference with a short oid": b"\x80\x02U\x03abch\x00\x86Q.",
    "a reference to no class": b"\x80\x02U\x08abcdefghK\x01\x86Q.",
    "text that ends early": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "bytes that end early": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00abc.",
    "bytes after the end": b"\x80\x02N.N",
    "a key that cannot be one": b"\x80\x02}]K\x01s.",
    "bytes made of a number": b"\x80\x02cbuiltins\nbytes\n\x8a\x05\x00\x00\x00\x00\x01\x85R.",
    "a bytearray made of a number": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "a list made of a range": (
        b"\x80\x02cbuiltins\nlist\ncbuiltins\nrange\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R\x85R."
    ),
    "a huge fraction": b"\x80\x02cfractions\nFraction\nU\x0b1e999999999\x85R.",
    "a changed Counter": b"\x80\x02ccollections\nCounter\nN}U\x06updateNs\x86b.",
    "a changed UUID": b"\x80\x02cuuid\nUUID\nN}U\x07__str__Ns\x86b.",
    "a changed stand-in": b"\x80\x02cshop\nThing\nN}U\x0aclass_nameK\x01s\x86b.",
    "a changed reference": b"\x80\x02U\x08abcdefghh\x00\x86QN}U\x03oidK\x01s\x86b.",
    "a UUID of text": b"\x80\x02cuuid\nUUID\n)\x81}U\x03intU\x01xsb.",
    "a slice of a slice": b"\x80\x02cbuiltins\nslice\ncbuiltins\nslice\nK\x01\x85R\x85R.",
    "a tuple as key that is too deep": b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.",
    "a compressed one": zlib.compress(b"\x80\x02})" + b"K\x01\x86" * 1_000_000 + b"Ns."),
    "one with marks": b"\x80\x02}" + b"(" * 100_000 + b"t" * 100_000 + b"Ns.",
    "one by way of the memo": (b"\x80\x02})" + (b"\x85" * 9000 + b"q\x050h\x05") * 200 + b"Ns."),
    "a compressed state that is cut": zlib.compress(b"\x80\x02N." * 100)[:-3],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_told(name: str) -> None:
    """A state that is damaged, or wants to do harm, is a CorruptRecordError with the oid."""
    record = _hostile(DAMAGED[name])
    with pytest.raises(CorruptRecordError, match="oid 0") as caught:
        read_state(record)
    assert caught.value.oid == ROOT_OID
    with pytest.raises(CorruptRecordError):
        list(gen_references(record))
    assert str(UUID(int=1)).endswith("1")


def test_many_tuples_that_are_not_deep() -> None:
    """A long state of many tuples is read as it is."""
    value = [(number, (str(number), b"t" * 3)) for number in range(30_000)]
    assert read_state(_hostile(dumps({"x": value}, 2))) == {"x": value}
    assert _root_data(_stored(value=value))["value"] == value


def test_a_wrong_proof_is_told() -> None:
    """A changed byte of a record with a proof is an error, though the pickle may still load."""
    record = bytearray(make_record(ROOT_OID, payload=b"payload"))
    record[record.index(b"payload") + 1] ^= 1
    with pytest.raises(CorruptRecordError, match="does not prove itself"):
        read_state(bytes(record))


def test_a_class_is_not_changed_by_what_is_stored() -> None:
    """A state cannot change the classes that later states are read with."""
    with pytest.raises(CorruptRecordError):
        read_state(_hostile(b"\x80\x02ccopy_reg\n__newobj__\nN}U\x04makeNs\x86b."))
    assert _root_data(_stored(x=UUID(int=1), y=Counter("a"))) == {"x": UUID(int=1), "y": {"a": 1}}


def test_a_deep_state() -> None:
    """A state that is nested a hundred thousand deep is walked; its steps do not grow with it."""
    depth = 100_000
    oid = int8_to_str(7)
    state = b"\x80\x02" + b"]" * depth + b"U\x08" + oid + b"h\x00\x86Q" + b"a" * depth + b"."
    assert next(gen_references(_hostile(state)))[1] == oid
    assert all(len(step) < 10_000 for step, _ in gen_references(_hostile(state)))


def test_a_state_that_holds_itself() -> None:
    """A cycle is walked once; so is a part that is there twice, 2 to the power of 60 times."""
    oid = int8_to_str(7)
    cycle = b"\x80\x02]q\x01(h\x01U\x08" + oid + b"h\x00\x86Qe."
    assert list(gen_references(_hostile(cycle))) == [(".__getstate__()[1]", oid)]
    doubled = b"\x80\x02]" + b"".join(b"q%c0](h%ch%ce" % (i, i, i) for i in range(1, 60)) + b"."
    assert list(gen_references(_hostile(doubled))) == []


# -- steps and paths ------------------------------------------------------------------------------


def _steps(record: bytes) -> list[str]:
    return [step for step, _ in gen_references(record)]


def test_steps_of_the_containers() -> None:
    """A key or index, as a program writes it; an oid for a member; nothing to a BTree's nodes."""
    thing = Persistent()
    storage = _stored(
        d=PersistentDict({"k": thing, 3: [thing], (1, "a"): thing}),
        l=PersistentList([0, thing, {"x": thing}]),
        s=PersistentSet([thing]),
        t=BTree(),
    )
    found = {step: storage.load(oid) for step, oid in gen_references(storage.load(ROOT_OID))}
    oid = int.from_bytes(dict(gen_references(found['["d"]']))['["k"]'], "big")
    assert _steps(found['["d"]']) == ['["k"]', "[3][0]", '[(1, "a")]']
    assert _steps(found['["l"]']) == ["[1]", '[2]["x"]']
    assert _steps(found['["s"]']) == [f"{{oid {oid}}}"]
    assert _steps(found['["t"]']) == [""]


def test_steps_through_attributes(shop: Any) -> None:
    """Attributes of persistent and plain objects, with and without their class."""
    order, line, slotted = shop.Order(), shop.Line(), shop.Slotted()
    line.parts = [Persistent()]
    slotted.x = Persistent()
    order.line = line
    order.slotted = slotted
    order.pairs = shop.Register(k=Persistent())
    order.point = shop.Point(Persistent(), 0)
    vars(order)["not a name"] = Persistent()
    users = shop.Users(kim=Persistent())
    odd = shop.Odd()
    odd.inner = Persistent()
    storage = _stored(order=order, users=users, odd=odd)
    found = {step: storage.load(oid) for step, oid in gen_references(storage.load(ROOT_OID))}
    steps = _steps(found['["order"]'])
    assert [step for step in steps if "oid" not in step] == [
        ".line.parts[0]",
        ".slotted.x",
        '.pairs["k"]',
        '.__dict__["not a name"]',
    ]
    assert [step.partition("{")[0] for step in steps if "oid" in step] == [".point"]
    assert _steps(found['["users"]']) == ['.data["kim"]']
    assert _steps(found['["odd"]']) == [".__getstate__()[1]"]


def _graph() -> MemoryStorage:
    tree = BTree(BNode4)
    for number in range(100):
        tree[f"key {number:03}"] = PersistentDict(number=number)
    return _stored(
        users=PersistentDict(kim=PersistentList([Persistent(), PersistentSet([Persistent()])])),
        index=tree,
        **{'it\'s "so"': Persistent(), "x" * 300: Persistent(), "\n": [{"a": Persistent()}]},
    )


def test_paths_lead_where_they_say() -> None:
    """Of every object a path is found, and it leads to the object again, except into a BTree."""
    storage = _graph()
    oids = [oid for oid, _ in storage.gen_oid_record()]
    paths = find_paths(storage, oids)
    assert set(paths) == set(oids)
    for oid, path in paths.items():
        if path != 'root["index"]':
            assert resolve(storage, path) == oid
    assert paths[resolve(storage, "root['users'][ 'kim' ][1]")] == 'root["users"]["kim"][1]'
    assert 'root["index"]["key 077"]' in paths.values()
    assert paths[ROOT_OID] == "root"


def test_a_path_is_what_a_program_writes() -> None:
    """Those without an oid in them are Python that gives the object."""
    storage = _graph()
    connection = Connection(storage)
    for oid, path in find_paths(storage, [oid for oid, _ in storage.gen_oid_record()]).items():
        if "{" not in path and path != 'root["index"]':
            assert eval(path, {"root": connection.get_root()})._p_oid == oid


def test_the_shortest_path_is_given() -> None:
    """An object that is reached in several ways has the path through the fewest objects."""
    thing = Persistent()
    storage = _stored(far=PersistentList([PersistentList([thing])]), near=PersistentList([thing]))
    thing_oid = resolve(storage, 'root["near"][0]')
    assert find_paths(storage, [thing_oid]) == {thing_oid: 'root["near"][0]'}


class _CountingStorage(MemoryStorage):
    loads = 0

    def load(self, oid: bytes) -> bytes:
        self.loads += 1
        return super().load(oid)


def test_the_walk_stops_when_all_are_found() -> None:
    """What is near is found without reading what is far."""
    storage = _CountingStorage()
    chain = [make_record(int8_to_str(i), [int8_to_str(i + 1)]) for i in range(1000)]
    commit(storage, *chain, make_record(int8_to_str(1000)))
    assert find_paths(storage, [int8_to_str(2)]) == {int8_to_str(2): "root.refs[0].refs[0]"}
    assert storage.loads < 10


def test_what_the_root_does_not_reach_has_no_path() -> None:
    """Garbage, and an oid that was never stored; without a root there are no paths."""
    storage = MemoryStorage()
    assert find_paths(storage, [int8_to_str(5)]) == {}
    commit(storage, make_record(ROOT_OID), make_record(int8_to_str(5)))
    assert find_paths(storage, [int8_to_str(5), int8_to_str(6)]) == {}


def test_paths_in_a_damaged_database() -> None:
    """What is missing or damaged has a path too, and does not hide what is beside it."""
    root, dangling, damaged, whole, below = map(int8_to_str, range(5))
    storage = MemoryStorage()
    data, refs = unpack_record(make_record(damaged, [below]))[1:]
    commit(
        storage,
        make_record(root, [dangling, damaged, whole]),
        pack_record(damaged, data[:-1] + b"?", refs),
        make_record(whole),
        make_record(below),
    )
    assert find_paths(storage, [dangling, damaged, whole, below]) == {
        dangling: "root.refs[0]",
        damaged: "root.refs[1]",
        whole: "root.refs[2]",
        below: "root.refs[1]{oid 4}",
    }


@pytest.mark.parametrize(
    ("text", "oid"), [("17", 17), ("0x11", 17), (" 0X1F ", 31), ("root", 0), (" root ", 0)]
)
def test_an_oid_is_a_number(text: str, oid: int) -> None:
    """Decimal or hexadecimal, and the root has a name; it need not be stored."""
    assert resolve(MemoryStorage(), text) == int8_to_str(oid)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "an oid is a number such as 17"),
        ("rooot", "an oid is a number such as 17"),
        ('root["users"', "an oid is a number such as 17"),
        ("18446744073709551616", "less than 2 to the power of 64"),
        ('root["user"]', r'came as far as root \(oid 0, a .*PersistentDict\).*it has \["users"\]'),
        ('root["users"]["kim"][0].x', r'as far as root\["users"\]\["kim"\]\[0\].*to no object'),
        ('root["index"]["key 1000"]', r'refers to no persistent object at \["key 1000"\]'),
    ],
)
def test_a_path_that_leads_nowhere(text: str, told: str) -> None:
    """The error says how far the path came, and what is there."""
    with pytest.raises(PathError, match=told) as caught:
        resolve(_graph(), text)
    assert caught.value.path == text


def test_a_path_through_what_is_not_stored() -> None:
    """It leads to a dangling reference, and no further."""
    storage = MemoryStorage()
    commit(storage, make_record(ROOT_OID, [int8_to_str(9)]))
    assert resolve(storage, "root.refs[0]") == int8_to_str(9)
    with pytest.raises(PathError, match=r"root.refs\[0\] is oid 9, which is not stored"):
        resolve(storage, "root.refs[0].x")


@pytest.fixture(autouse=True)
def _no_module_is_left() -> Iterator[None]:
    yield
    sys.modules.pop("inspected_shop", None)
