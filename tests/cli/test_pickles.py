"""The rewriting of pickles: whatever a state holds, after a renaming it is the same state."""

from __future__ import annotations

import pickle
import sys
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from durus.error import CorruptRecordError
from durus.serialize import check_proof, pack_record, seal, unpack_record
from durus.tools.pickles import gen_record_steps, open_record
from durus.tools.rename import Renaming, rename_record

OID = b"\0\0\0\0\0\0\0\x07"
CLASS = b"\x80\x04cshop.models\nOrder\n."


class Thing:
    """Compared by what it holds."""

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return 1


def _make(module: str, name: str, *bases: type) -> type:
    made = type(name.rpartition(".")[2], bases, {"__module__": module, "__qualname__": name})
    owner: Any = MODULES[module]
    *outer, last = name.split(".")
    for part in outer:
        owner = getattr(owner, part)
    setattr(owner, last, made)
    return made


MODULES = {
    name: ModuleType(name) for name in ("shop", "shop.models", "shop.models.deep", "shop.models2")
}
for _name, _module in MODULES.items():
    _package, _, _last = _name.rpartition(".")
    if _package:
        setattr(MODULES[_package], _last, _module)


ORDER = _make("shop.models", "Order", Thing)
CLASSES = [
    ORDER,
    _make("shop.models", "Order.Line", Thing),
    _make("shop.models", "OrderList", list),
    _make("shop.models", "Ärger", Thing),
    _make("shop.models.deep", "Order", dict),
    _make("shop.models2", "Order", Thing),
]


@pytest.fixture(autouse=True, scope="module")
def _shop() -> Iterator[None]:
    """Have the modules of the classes be found, whatever another test has called so."""
    with pytest.MonkeyPatch.context() as patch:
        for name, module in MODULES.items():
            patch.setitem(sys.modules, name, module)
        yield


class Reference:
    """Stands for a persistent object."""

    def __init__(self, oid: bytes, klass: type) -> None:
        self.pair = oid, klass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and other.pair == self.pair

    def __hash__(self) -> int:
        return 2


def _persistent_id(_: object, obj: object) -> Any:
    return obj.pair if isinstance(obj, Reference) else None


RENAMINGS = [
    Renaming("class", "shop.models.Order", "store.Purchase"),
    Renaming("class", "shop.models.Order.Line", "shop.lines.Order.Line"),
    Renaming("class", "shop.models.Order.Line", "shop.lines:Line"),
    Renaming("class", "shop.models.Ärger", "shop.models.Freude"),
    Renaming("module", "shop.models", "shop.a_longer_name_than_before"),
    Renaming("module", "shop", "s"),
    Renaming("module", "shop.models.deep", "shop.flat"),
]


def _expected(renaming: Renaming, module: str, name: str) -> tuple[str, str]:
    """What becomes of a name, said in another way."""
    old, new = renaming.old.split("."), renaming.new.replace(":", ".").split(".")
    parts = module.split(".")
    if renaming.kind == "module":
        if parts[: len(old)] == old:
            parts[: len(old)] = new
        return ".".join(parts), name
    names = name.split(".")
    depth = len(old) - len(parts)
    if depth < 1 or parts + names[:depth] != old:
        return module, name
    new_depth = renaming.new.split(":")[1].count(".") + 1 if ":" in renaming.new else depth
    return ".".join(new[:-new_depth]), ".".join([*new[-new_depth:], *names[depth:]])


class Reader(pickle.Unpickler):
    """Finds the classes where they are, under the names that they would have after a renaming."""

    def __init__(self, file: BytesIO, renaming: Renaming) -> None:
        super().__init__(file)
        self._classes = {
            _expected(renaming, klass.__module__, klass.__qualname__): klass for klass in CLASSES
        }

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] in {"shop", "store", "s"}:
            return self._classes[module, name]
        return super().find_class(module, name)

    def persistent_load(self, reference: Any) -> Any:
        return Reference(*reference)


# Texts that are the names of classes share their memo entries with what names the classes.
TEXTS = st.text(max_size=3) | st.sampled_from(["shop", "shop.models", "Order", "Order.Line", "ß"])
HASHABLE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
LEAVES = HASHABLE | st.binary(max_size=300) | st.sampled_from(CLASSES)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    things = [klass for klass in CLASSES if issubclass(klass, Thing)]
    return (
        st.lists(inner, max_size=5)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.frozensets(HASHABLE, max_size=3)
        | st.sets(HASHABLE, max_size=3)
        | st.builds(lambda klass, value: klass(value), st.sampled_from(things), inner)
        | st.lists(inner, max_size=3).map(CLASSES[2])
        | st.dictionaries(TEXTS, inner, max_size=3).map(CLASSES[4])
        | inner.map(lambda value: [value, value, (value, value)])
    )


STATES = st.recursive(LEAVES, _containers, max_leaves=15)
REFERENCES = st.builds(Reference, st.binary(min_size=8, max_size=8), st.sampled_from(CLASSES))
STATES_WITH_REFERENCES = st.recursive(LEAVES | REFERENCES, _containers, max_leaves=15)


def _pickled(pickler_class: Any, protocol: int, *values: Any) -> list[bytes]:
    """Pickle values one after the other, with one memo."""
    file = BytesIO()
    # Of an object that was made already, 3.13 does not take the function.
    with_references = type("Pickler", (pickler_class,), {"persistent_id": _persistent_id})
    pickler = with_references(file, protocol)
    ends = [0]
    for value in values:
        try:
            pickler.dump(value)
        except pickle.PicklingError:
            # A name that is not ASCII needs protocol 3.
            assert protocol < 3
            reject()
        ends.append(file.tell())
    return [file.getvalue()[start:end] for start, end in pairwise(ends)]


def _check(record: bytes, state: Any, renaming: Renaming) -> None:
    renamed = rename_record(record, renaming)
    changed = record if renamed is None else renamed[0]
    assert check_proof(changed) == check_proof(record)
    assert unpack_record(changed)[2] == unpack_record(record)[2]
    opened = open_record(changed)
    assert opened.is_compressed == open_record(record).is_compressed
    reader = Reader(BytesIO(opened.data), renaming)
    assert reader.load() is ORDER
    assert reader.load() == state
    named = {_expected(renaming, klass.__module__, klass.__qualname__) for klass in CLASSES} | {
        ("copyreg", ""),
        ("builtins", ""),
    }
    for step in gen_record_steps(opened):
        if step.op in {"GLOBAL", "STACK_GLOBAL"} and step.given.module.startswith("shop"):
            assert (step.given.module, step.given.name) in named


@given(
    state=STATES_WITH_REFERENCES,
    renaming=st.sampled_from(RENAMINGS),
    protocol=st.integers(1, 5),
    in_python=st.booleans(),
    compressed=st.booleans(),
)
def test_records_of_ours(
    state: Any, renaming: Renaming, protocol: int, in_python: bool, compressed: bool
) -> None:
    """A record that proves itself still does, and gives the same state under the new names."""
    [pickled] = _pickled(pickle._Pickler if in_python else pickle.Pickler, protocol, state)
    body = CLASS + (zlib.compress(pickled) if compressed else pickled)
    _check(pack_record(OID, seal(OID, body, OID), OID), state, renaming)


@given(
    state=STATES_WITH_REFERENCES,
    renaming=st.sampled_from(RENAMINGS),
    protocol=st.integers(1, 5),
    compressed=st.booleans(),
)
def test_records_with_one_memo(
    state: Any, renaming: Renaming, protocol: int, compressed: bool
) -> None:
    """In a record as Durus 4.3 makes them the state finds the class in the memo."""
    klass, pickled = _pickled(pickle._Pickler, protocol, ORDER, state)
    body = klass + (zlib.compress(pickled) if compressed else pickled)
    if klass[:3] != CLASS[:3]:
        _check(pack_record(OID, body, b""), state, renaming)


@given(state=STATES, renaming=st.sampled_from(RENAMINGS))
def test_states_of_protocol_0(state: Any, renaming: Renaming) -> None:
    """The oldest protocol is text, and renamed as well."""
    klass, pickled = _pickled(pickle._Pickler, 0, ORDER, state)
    _check(pack_record(OID, klass + pickled, b""), state, renaming)


OLD = Renaming("module", "shop.models", "shop.m")


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (b"(ishop.models\nOrder\n.", b"(ishop.m\nOrder\n."),
        (b"(cshop.models\nOrder\no.", b"(cshop.m\nOrder\no."),
        (b"S'shop.models'\n0cshop.models\nOrder\n.", b"S'shop.models'\n0cshop.m\nOrder\n."),
        (
            b"\x80\x04X\x0b\0\0\0shop.models\x940h\1Vx\n\x93h\1\x86.",
            b"\x80\x04X\x0b\0\0\0shop.models\x940h\1Vx\n00cshop.m\nx\nh\1\x86.",
        ),
    ],
    ids=["INST", "OBJ", "text of Python 2", "memo"],
)
def test_rare_forms(state: bytes, expected: bytes) -> None:
    """Forms that no pickler makes today are renamed in place, and nothing beside the names."""
    start = b"\x80\x02cshop\nRoot\nq\0."
    renamed = rename_record(pack_record(OID, start + state, b""), OLD)
    assert renamed is not None
    assert renamed[0] == pack_record(OID, start + expected, b"")
    assert renamed[1].total() == 1


@pytest.mark.parametrize(
    "state",
    [
        b"\x80\x02cshop.models\nOrder\n",
        b"\x80\x02cshop.models\nOrder\n..",
        b"\x80\x02cshop.models\nOrder\n0.",
        b"\x80\x02cshop.models\nOrder\n\xff.",
        b"\x80\x02cshop.models\nOrder\nh\x09\x86.",
        b"\x80\x02cshop.models\n\xff\n.",
        b"\x80\x04K\x01\x8c\x0bshop.models\x93.",
        b"\x80\x04U\x0bshop.modelsU\x01x\x93.",
        b"Pshop.models\n.",
        b"cshop.models\nOrder",
        b"\x80\x04\x8c\xffshop.models",
        b"Sshop.models\n.",
        b"pshop.models\n.",
        b"(cshop.models\nOrder\n.",
        b"cshop.models\nOrder\nt.",
        b"x\x9cshop.models",
    ],
)
def test_what_is_not_understood(state: bytes) -> None:
    """Damage, and what no Durus writes, is an error that names the object."""
    record = pack_record(OID, b"\x80\x02cshop\nRoot\nq\0." + state, b"")
    with pytest.raises(CorruptRecordError, match="oid 7") as raised:
        rename_record(record, OLD)
    assert raised.value.oid == OID
