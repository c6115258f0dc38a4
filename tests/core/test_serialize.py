"""The record: its form, its proof, what is read of 4.3's, and how damage is told."""

from __future__ import annotations

import datetime as dt
import io
import os
import pickle
import random
import re
import struct
import sys
import threading
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import durus.serialize
from durus.connection import Connection
from durus.error import CorruptRecordError, UnknownClassError, UnpicklableError
from durus.persistent import Persistent, PersistentBase
from durus.persistent_dict import PersistentDict
from durus.serialize import (
    ROOT_OID,
    ObjectReader,
    ObjectWriter,
    check_proof,
    class_pickle,
    extract_class_name,
    extract_class_path,
    open_record,
    pack_record,
    seal,
    split_oids,
    unpack_record,
)
from durus.storage import MemoryStorage

OID = b"\0" * 7 + b"\1"


class Thing(Persistent):
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Refusing:
    """A plain class whose __setstate__ refuses."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError("I refuse")

    def __getstate__(self) -> Any:
        return {"a": 1}


class BadRepr(Persistent):
    def __repr__(self) -> str:
        raise ZeroDivisionError


class BadKey:
    def __repr__(self) -> str:
        raise ZeroDivisionError

    def __reduce__(self) -> Any:
        raise TypeError("no")


@pytest.fixture
def connection() -> Connection:
    return Connection(MemoryStorage())


def stored(connection: Connection, obj: Persistent) -> bytes:
    """Commit `obj`, and give its record."""
    connection.get_root()["obj"] = obj
    connection.commit()
    return connection.get_storage().load(obj._p_oid)


def load(record: bytes) -> Any:
    """Load a record under the oid 1 of a storage that has nothing else but a root."""
    storage = Connection(MemoryStorage()).get_storage()
    assert isinstance(storage, MemoryStorage)
    storage._open_records()[OID] = record
    return Connection(storage).get(OID)


def old_record(state: Any, *, protocol: int = 2, compress: bool = True, cls: type = Thing) -> bytes:
    """Make a record as Durus 4.3 does: class and state by one pickler, the state compressed."""
    file = io.BytesIO()
    refs = set()

    class ReferencePickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if isinstance(obj, PersistentBase):
                refs.add(obj._p_oid)
                return obj._p_oid, type(obj)
            return None

    pickler = ReferencePickler(file, protocol)
    pickler.dump(cls)
    start = file.tell()
    pickler.dump(state)
    data = file.getvalue()
    if compress:
        data = data[:start] + zlib.compress(data[start:])
    return pack_record(OID, data, b"".join(sorted(refs)))


# -- the form


def worked_example() -> bytes:
    text = durus.serialize.__doc__
    assert text is not None
    lines = text.split("Example:")[1].splitlines()
    columns = [re.match(r"    ((?:[0-9a-f]{2} )*[0-9a-f]{2})(?:\s{2,}|$)", line) for line in lines]
    return bytes.fromhex("".join(match[1] for match in columns if match))


def test_the_worked_example(connection: Connection) -> None:
    """The example in the picture of the record is what is stored."""
    obj = Persistent()
    obj.x = 2
    assert stored(connection, obj) == worked_example()


def test_the_data_of_an_example(connection: Connection) -> None:
    """Class, state and proof stand where the picture says, and 4.3's way to read them works."""
    thing = Thing(a=[1, "two"])
    oid, data, refs = unpack_record(stored(connection, thing))
    name = f"{Thing.__module__}\n{Thing.__qualname__}\n".encode()
    assert data.startswith(b"\x80\x04c" + name + b".\x80\x04")
    file = io.BytesIO(data)
    assert pickle.load(file) is Thing
    assert pickle.load(file) == {"a": [1, "two"]}
    assert file.read() == struct.pack(">L", zlib.crc32(oid + data[:-4] + refs))


def test_references_are_sorted_and_without_self(connection: Connection) -> None:
    """The references of a record: each once, in order, the object itself left out."""
    thing = Thing()
    thing.others = [Thing(n=n) for n in range(20)]
    thing.me = thing
    thing.again = thing.others[::-1]
    refs = unpack_record(stored(connection, thing))[2]
    oids = [other._p_oid for other in thing.others]
    assert split_oids(refs) == sorted(oids)
    found = Connection(connection.get_storage()).get(thing._p_oid)
    assert found.me is found
    assert [other.n for other in found.others] == list(range(20))


def test_records_are_deterministic() -> None:
    """The same objects give the same bytes, in any connection."""

    def records() -> dict[bytes, bytes]:
        connection = Connection(MemoryStorage())
        thing = Thing(text="abc", number=2**70, items=[Thing(n=n) for n in range(5)])
        thing.big = "abc" * 5000
        stored(connection, thing)
        return dict(connection.get_storage().gen_oid_record())

    first = records()
    assert first == records()
    again = Connection(MemoryStorage())
    again.get_storage()._open_records().update(first)  # type: ignore[attr-defined]
    reader = Connection(again.get_storage())
    for oid in first:
        reader.get(oid)._p_note_change()
    reader.commit()
    assert dict(reader.get_storage().gen_oid_record()) == first


def test_a_commit_of_many_pickles_each_by_itself(connection: Connection) -> None:
    """No state refers to what another one has memoized, small or large."""
    shared = "shared text " * 3
    things = [Thing(text=shared, n=n, pad="x" * (n % 3 * 30_000)) for n in range(9)]
    connection.get_root()["things"] = things
    connection.commit()
    for thing in things:
        found = Connection(connection.get_storage()).get(thing._p_oid)
        assert found.__dict__ == thing.__dict__


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text()
        | st.binary(max_size=6000),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text(), inner)
            | st.tuples(inner, inner)
            | st.frozensets(st.integers() | st.text())
        ),
        max_leaves=20,
    )
)
def test_any_state_comes_back(value: Any) -> None:
    """Whatever is built of the built-ins comes back as it was, proven."""
    connection = Connection(MemoryStorage())
    thing = Thing(value=value)
    record = stored(connection, thing)
    assert check_proof(record)
    thing._p_set_status_ghost()
    assert thing.value == value
    state = connection.get_reader().get_state_pickle(unpack_record(record)[1])
    assert pickle.loads(state) == {"value": value}


@pytest.mark.parametrize(
    "value",
    [
        dt.datetime.now(tz=dt.UTC),
        dt.timedelta(days=1),
        2**1000,
        complex(1, 2),
        bytearray(b"abc"),
        range(5),
        {1, 2},
        ...,
        NotImplemented,
        float,
        len,
    ],
    ids=repr,
)
def test_other_values_come_back(connection: Connection, value: Any) -> None:
    """Values of the standard library come back as they were."""
    thing = Thing(value=value)
    stored(connection, thing)
    thing._p_set_status_ghost()
    assert thing.value == value


# -- compression


@pytest.mark.parametrize("size", [0, 100, 4000])
def test_small_states_are_not_compressed(connection: Connection, size: int) -> None:
    """A state below 4 KiB stays plain, however well it would compress."""
    data = unpack_record(stored(connection, Thing(text="x" * size)))[1]
    assert b"x" * size in data


@pytest.mark.parametrize("size", [5000, 40_000, 5_000_000])
def test_large_states_are_compressed_where_it_pays(connection: Connection, size: int) -> None:
    """A state that shrinks by a tenth or more is compressed."""
    thing = Thing(text="x" * size)
    data = unpack_record(stored(connection, thing))[1]
    assert len(data) < size / 5
    assert b"\nThing\n.\x78" in data
    thing._p_set_status_ghost()
    assert thing.text == "x" * size


@pytest.mark.parametrize("size", [5000, 40_000, 5_000_000])
def test_incompressible_states_stay_plain(connection: Connection, size: int) -> None:
    """A state that does not shrink by a tenth stays plain."""
    noise = random.Random(1).randbytes(size)
    thing = Thing(data=noise)
    assert noise in unpack_record(stored(connection, thing))[1]
    thing._p_set_status_ghost()
    assert thing.data == noise


def test_a_state_that_only_begins_well_stays_plain(connection: Connection) -> None:
    """What counts is the whole: a compressible head before much noise is not enough."""
    noise = random.Random(1).randbytes(1_000_000)
    data = unpack_record(stored(connection, Thing(head="x" * 40_000, noise=noise)))[1]
    assert noise in data


# -- records of other writers


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("compress", [True, False])
def test_records_without_a_proof_are_read(
    connection: Connection, protocol: int, compress: bool
) -> None:
    """A record of 4.3's form is read, compressed or not, of any pickle protocol."""
    root = connection.get_root()
    state = {"a": [1, "two", b"three"], "class": Thing, "root": root if protocol else None}
    record = old_record(state, protocol=protocol, compress=compress)
    assert not check_proof(record)
    found = load(record)
    assert found.a == [1, "two", b"three"]
    # Class and state share one memo.
    assert found.__dict__["class"] is Thing
    if protocol:
        assert found.root is found._p_connection.get_root()
        assert unpack_record(record)[2] == ROOT_OID


def test_an_old_record_is_stored_anew_with_a_proof() -> None:
    """A record of 4.3 gets a proof when its object is stored again."""
    found = load(old_record({"a": 1}))
    found.a = 2
    found._p_connection.commit()
    assert check_proof(found._p_connection.get_storage().load(OID))


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("extra", [b"\0", b".", b"\x80", b"12345678"])
def test_bytes_after_an_unproven_state_are_damage(compress: bool, extra: bytes) -> None:
    """Bytes after the state of a record that promises no proof are damage."""
    data = unpack_record(old_record({"a": 1}, compress=compress))[1]
    with pytest.raises(CorruptRecordError):
        load(pack_record(OID, data + extra, b""))


def outcome_of(record: bytes) -> str:
    try:
        load(record)
    except CorruptRecordError:
        return "damage"
    except UnknownClassError:
        return "another class"
    except TypeError as error:
        return "another state" if "is a dict, got" in str(error) else repr(error)
    return "another object"


@pytest.mark.parametrize("make", ["proven", "proven compressed", "old", "old compressed"])
def test_every_changed_bit_is_noticed(connection: Connection, make: str) -> None:
    """A record with any bit changed is a CorruptRecordError, or (without a proof) another object.

    Nothing else is raised but an error about the class that a changed name means.
    """
    thing = Thing(a=[1, "two"], b="abc" * (2000 if "proven comp" in make else 1), c=Thing())
    record = stored(connection, thing)
    if make.startswith("old"):
        record = old_record({"a": [1, "two"], "b": b"abc"}, compress="comp" in make)
    for position in range(len(record)):
        for bit in range(8):
            damaged = bytearray(record)
            damaged[position] ^= 1 << bit
            outcome = outcome_of(bytes(damaged))
            allowed = {"damage"}
            if make.startswith("old"):
                allowed |= {"another object", "another class", "another state"}
            assert outcome in allowed, (position, bit)


@pytest.mark.parametrize("compress", [True, False])
def test_every_shortening_is_noticed(connection: Connection, compress: bool) -> None:
    """A record cut anywhere is a CorruptRecordError."""
    for record in (
        stored(connection, Thing(a="b" * (9000 if compress else 1))),
        old_record({"a": [1, "two"]}, compress=compress),
    ):
        data = unpack_record(record)[1]
        for length in range(len(data)):
            with pytest.raises(CorruptRecordError):
                load(pack_record(OID, data[:length], b""))
        for length in range(len(record)):
            with pytest.raises(CorruptRecordError):
                load(record[:length])


@given(st.binary(max_size=200))
def test_noise_is_no_record(noise: bytes) -> None:
    """Random bytes, bare or where data should be, are a CorruptRecordError."""
    connection = Connection(MemoryStorage())
    stored(connection, Thing())
    for record in (noise, pack_record(OID, noise, b"")):
        with pytest.raises((CorruptRecordError, UnknownClassError)):
            load(record)


@given(st.binary(max_size=60), st.booleans())
def test_noise_is_no_state(noise: bytes, is_proven: bool) -> None:
    """Random bytes after a class, with a right proof too, never crash and never give an object."""
    reader = ObjectReader(Connection(MemoryStorage()))
    name = f"{Thing.__module__}\n{Thing.__qualname__}\n".encode()
    data = b"\x80\x04c" + name + b"." + noise
    data = seal(OID, data, b"") if is_proven else data.replace(b"\x80\x04", b"\x80\x02", 1)
    try:
        reader.get_state(data)
    except (CorruptRecordError, UnknownClassError):
        pass
    except (ValueError, TypeError, AttributeError, KeyError, MemoryError, ImportError):
        assert is_proven


def test_what_a_class_refuses_passes_through(connection: Connection) -> None:
    """Of a record that proved itself, what a class raises is not called damage."""
    thing = Thing(part=Refusing())
    stored(connection, thing)
    thing._p_set_status_ghost()
    with pytest.raises(ValueError, match="I refuse") as caught:
        thing.part
    assert not isinstance(caught.value, CorruptRecordError)
    assert "Thing with oid 1" in "".join(caught.value.__notes__)


def test_a_record_of_another_oid(connection: Connection) -> None:
    """A record that is not that of the oid asked for is a CorruptRecordError that names both."""
    record = stored(connection, Thing())
    with pytest.raises(CorruptRecordError, match=r"oid 5.*record of oid 1"):
        open_record(b"\0" * 7 + b"\5", record)


def test_the_proof_covers_all() -> None:
    """Oid, class, state and references: none can be exchanged for another record's."""
    body = class_pickle(Thing) + pickle.dumps({"a": 1}, 4)
    record = pack_record(OID, seal(OID, body, ROOT_OID), ROOT_OID)
    assert check_proof(record)
    data = unpack_record(record)[1]
    other = class_pickle(PersistentDict) + pickle.dumps({"a": 1}, 4)
    for damaged in (
        pack_record(ROOT_OID, data, ROOT_OID),
        pack_record(OID, data, OID),
        pack_record(OID, data, b""),
        pack_record(OID, data, ROOT_OID * 2),
        pack_record(OID, other + data[-4:], ROOT_OID),
        pack_record(OID, data[:-6] + b"\2" + data[-5:], ROOT_OID),
    ):
        with pytest.raises(CorruptRecordError, match="does not prove itself"):
            check_proof(damaged, "some.file")


def test_the_error_names_path_and_oid(connection: Connection) -> None:
    """Damage that is found by a load says which object it is and where it came from."""
    record = stored(connection, Thing(a=1))
    with pytest.raises(CorruptRecordError) as caught:
        load(record[:-1] + bytes([record[-1] ^ 1]))
    assert caught.value.oid == OID
    assert "MemoryStorage" in str(caught.value.path)
    assert "oid 1" in str(caught.value)


def test_a_class_that_is_not_persistent() -> None:
    """A record of a class that is not persistent is damage."""
    for module, name in (("builtins", "dict"), ("builtins", "len")):
        body = f"\x80\x04c{module}\n{name}\n.".encode("latin-1") + pickle.dumps({}, 4)
        with pytest.raises(CorruptRecordError, match="not a persistent class"):
            load(pack_record(OID, seal(OID, body, b""), b""))


@pytest.mark.parametrize(
    "reference",
    [None, (OID,), (OID, Thing, 1), (b"short", Thing), ("text", Thing), (OID, dict), (OID, 5), 7],
    ids=repr,
)
def test_references_are_checked(reference: Any) -> None:
    """A reference that is not (oid, persistent class) is damage."""
    state = b"\x80\x04" + pickle.dumps(reference, 4)[2:-1] + b"Q."
    body = class_pickle(Thing) + state
    with pytest.raises(CorruptRecordError):
        load(pack_record(OID, seal(OID, body, b""), b""))


# -- what cannot be pickled


@pytest.mark.parametrize(
    ("attributes", "path"),
    [
        ({"a": 1, "file": threading.Lock()}, ".file"),
        ({"files": {"a": [0, threading.Lock()]}}, ".files['a'][1]"),
        ({"pair": (1, (2, lambda: 3))}, ".pair[1][1]"),
        ({"keys": {("k", threading.Lock): 1, threading.Lock(): 2}}, ".keys key "),
        ({"members": {1, threading.Lock()}}, ".members member "),
        ({"bad": {BadKey(): 1}}, ".bad key of BadKey"),
    ],
)
def test_what_cannot_be_pickled_is_named(
    connection: Connection, attributes: dict[str, Any], path: str
) -> None:
    """The error names the object and the path to the part that cannot be pickled."""
    connection.get_root()["thing"] = Thing(**attributes)
    with pytest.raises(UnpicklableError) as caught:
        connection.commit()
    assert caught.value.path.startswith(path)
    assert str(caught.value).startswith(f"cannot store <Thing 1>: Thing{path}")
    assert caught.value.__cause__ is not None


def test_a_repr_that_fails_hides_nothing(connection: Connection) -> None:
    """The error is made without the __repr__ of the object."""
    bad = connection.get_root()["bad"] = BadRepr()
    bad.lock = threading.Lock()
    with pytest.raises(UnpicklableError, match=r"BadRepr\.lock"):
        connection.commit()


def test_a_class_that_is_not_found(connection: Connection) -> None:
    """An object of a class inside a function cannot be stored; the error says where, and why."""

    class Local(Persistent):
        pass

    class Plain:
        pass

    root = connection.get_root()
    for local in (Local(), Plain()):
        root["x"] = [0, local]
        # Not what it holds, which is none of this record if it is persistent.
        local.lock = threading.Lock() if isinstance(local, Local) else 1
        with pytest.raises(UnpicklableError, match="define its class at the top level") as caught:
            connection.commit()
        assert caught.value.path == ".data['x'][1]"
        assert f"<locals>.{type(local).__name__}, which" in str(caught.value)


@pytest.mark.parametrize("depth", [10_000, 100_000])
def test_what_is_nested_too_deeply(connection: Connection, depth: int) -> None:
    """A state nested deeper than the stack is a clear error, and the commit can be tried again."""
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    root = connection.get_root()
    root["x"] = Thing(n=1)
    root["deep"] = nested
    with pytest.raises(UnpicklableError, match="nested too deeply") as caught:
        connection.commit()
    assert len(str(caught.value)) < 1000
    del root["deep"]
    connection.commit()
    assert root["x"]._p_is_saved()


# -- parts


@pytest.mark.parametrize("record", [b"", b"1" * 11, OID + b"\0\0\0\1", OID + b"\xff" * 4 + b"x"])
def test_lengths_are_checked(record: bytes) -> None:
    """A record whose lengths do not fit is a CorruptRecordError."""
    with pytest.raises(CorruptRecordError):
        unpack_record(record)


def test_pack_and_unpack() -> None:
    """unpack_record takes apart what pack_record joined."""
    assert unpack_record(pack_record(OID, b"data", ROOT_OID)) == (OID, b"data", ROOT_OID)
    with pytest.raises(CorruptRecordError):
        unpack_record(pack_record(OID, b"data", b"1234567"))


def test_split_oids() -> None:
    """split_oids cuts into 8 bytes each and refuses a rest."""
    assert split_oids(b"") == []
    assert split_oids(ROOT_OID + OID) == [ROOT_OID, OID]
    with pytest.raises(CorruptRecordError):
        split_oids(b"123")


def test_class_names_without_import(connection: Connection) -> None:
    """The class of a record is told without importing it, for both forms."""
    for record in (stored(connection, Thing()), old_record({})):
        assert extract_class_name(record) == b"Thing"
        assert extract_class_path(record) == f"{__name__}.Thing"
    lost = pack_record(OID, b"\x80\x02cno.such.module\nLost\nq\0.", b"")
    assert extract_class_path(lost) == "no.such.module.Lost"
    assert "no" not in sys.modules
    for nothing in (b"", pack_record(OID, b"", b""), pack_record(OID, b"a\nb\nc", b"")):
        assert (extract_class_name(nothing), extract_class_path(nothing)) == (b"?", "?")


def test_a_reader_by_itself(connection: Connection) -> None:
    """ObjectReader gives class, ghost and state of a record's data, and counts the loads."""
    thing = Thing(a=1)
    data = unpack_record(stored(connection, thing))[1]
    reader = ObjectReader(connection)
    assert reader.get_class(data) is Thing
    assert reader.get_state(data) == {"a": 1}
    assert reader.get_load_count() == 1
    assert pickle.loads(reader.get_state(data, load=False)) == {"a": 1}
    ghost = reader.get_ghost(data)
    assert type(ghost) is Thing
    assert (ghost._p_status, ghost._p_oid) == (-1, None)
    with pytest.raises(CorruptRecordError):
        reader.get_state(class_pickle(Thing))
    with pytest.raises(CorruptRecordError):
        reader.get_state_pickle(b"")


def test_a_writer_by_itself(connection: Connection) -> None:
    """ObjectWriter yields an object and the new ones that it refers to, each once."""
    first, second = Thing(n=1), Thing(n=2)
    first.other = second.other = second
    second.first = first
    writer = ObjectWriter(connection)
    root = connection.get_root()
    root["first"] = first
    seen = []
    for obj in writer.gen_new_objects(root):
        data, refs = writer.get_state(obj)
        seen.append(obj)
        assert len(split_oids(refs)) == 1
        assert check_proof(pack_record(obj._p_oid, data, refs))
    writer.close()
    assert seen == [root, first, second]
    connection._undo_adoptions(keep_oids=True)


def test_the_proof_is_a_crc() -> None:
    """The proof is the CRC-32 of zlib over oid, body and references."""
    body = class_pickle(Thing) + os.urandom(50)
    proof = struct.pack(">L", zlib.crc32(OID + body + ROOT_OID))
    assert seal(OID, body, ROOT_OID) == body + proof
