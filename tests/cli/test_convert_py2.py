"""`durus convert-py2`: what Python 2 wrote is read, and what it was written to stays."""

from __future__ import annotations

import array
import json
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from collections import OrderedDict, defaultdict, deque
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.backends import open_storage
from durus.btree import BTree
from durus.connection import Connection
from durus.error import CorruptionError, StorageOpenError
from durus.persistent_dict import PersistentDict
from durus.serialize import check_proof, pack_record, unpack_record
from durus.storage import Storage
from durus.tools.convert_py2 import Report, convert, convert_record
from durus.tools.pickles import open_record
from durus.utils import int8_to_str

GOLDEN = Path(__file__).parents[1] / "compat" / "golden" / "dfs20-python2.durus"


class Python2Pickler(pickle._Pickler):
    """Pickles bytes as Python 2 did its `str`, and `str` as its `unicode`."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def _save_string(self, value: bytes) -> None:
        if self.proto == 0:
            self.write(b"S" + repr(value)[1:].encode() + b"\n")
        elif len(value) < 256:
            self.write(b"U" + bytes([len(value)]) + value)
        else:
            self.write(b"T" + struct.pack("<l", len(value)) + value)
        self.memoize(value)

    dispatch[bytes] = _save_string


class Reference:
    """Stands for a persistent object."""

    def __init__(self, oid: bytes, klass: type = PersistentDict) -> None:
        self.pair = oid, klass

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and other.pair == self.pair

    def __hash__(self) -> int:
        return 2


def _record(
    state: object, oid_int: int = 0, protocol: int = 2, klass: type = PersistentDict
) -> bytes:
    """Make a record as Durus 4.2 did under Python 2: class and state share a memo."""
    file = BytesIO()
    pickler: Any = Python2Pickler(file, protocol)
    pickler.persistent_id = lambda obj: obj.pair if isinstance(obj, Reference) else None
    pickler.dump(klass)
    start = file.tell()
    pickler.dump(state)
    data = file.getvalue()
    compressed = zlib.compress(data[start:])
    if len(compressed) < len(data) - start:
        data = data[:start] + compressed
    oid = int8_to_str(oid_int)
    return pack_record(oid, data, b"")


def _store(path: str | Path, *records: bytes) -> None:
    with open_storage(path) as storage:
        storage.begin()
        for record in records:
            storage.store(record[:8], record)
        storage.end()


class Reader(pickle.Unpickler):
    def persistent_load(self, reference: Any) -> Any:
        return Reference(*reference)


def _read(record: bytes) -> Any:
    """Read the state of a record that proves itself."""
    assert check_proof(record)
    opened = open_record(record)
    file = BytesIO(opened.data)
    assert Reader(file).load() is PersistentDict
    assert file.tell() == opened.state_start
    # With a memo of its own, as Connection reads it.
    return Reader(file).load()


def _converted(state: object, encoding: str = "utf-8", protocol: int = 2) -> tuple[Any, Report]:
    report = Report()
    return _read(convert_record(_record(state, protocol=protocol), encoding, report)), report


def test_a_real_one(durus: Any) -> None:
    """A file of Durus 4.2 under Python 2 becomes one that opens; every value and oid is there."""
    before = GOLDEN.read_bytes()
    shutil.copyfile(GOLDEN, durus.folder / "old.durus")
    told = durus("convert-py2", "old.durus", "new.durus").stdout
    assert told == (
        "converted 145 objects of 145 into new.durus: 293 texts decoded, 0 left as bytes\n"
    )
    assert (durus.folder / "old.durus").read_bytes() == before
    assert sorted(path.name for path in durus.folder.glob("*.*")) == ["new.durus", "old.durus"]
    with Connection(durus.folder / "new.durus") as connection:
        root = connection.get_root()
        assert set(root) == {"number", "dict", "list", "tree"}
        assert root["number"] == 1
        assert dict(root["dict"]) == {"one": 1}
        assert [dict(each) for each in root["list"]] == [{"number": n} for n in range(140)]
        assert isinstance(root["tree"], BTree)
        assert dict(root["tree"]) == {"key": "value"}
        root["written"] = "under Python 3"
        connection.commit()
    assert _refs(durus.folder / "new.durus") == _refs(GOLDEN)


def _refs(path: Path) -> dict[bytes, bytes]:
    with open_storage(path, readonly=True) as storage:
        return {oid: unpack_record(record)[2] for oid, record in storage.gen_oid_record()}


def test_values_of_the_standard_library() -> None:
    """Values whose parts have to be bytes, or had another name, are what they were."""
    moment = datetime(2012, 12, 30, 23, 59, 58, 999999)  # noqa: DTZ001 - Python 2 had no time zones
    state = {
        b"datetime": moment,
        b"ascii": datetime(0x2020, 1, 1, tzinfo=None),  # noqa: DTZ001 - the same
        b"date": date(2012, 2, 3),
        b"time": time(1, 2, 3, 4),
        b"delta": timedelta(1, 2, 3),
        b"decimal": Decimal("1.50"),
        b"fraction": Fraction(1, 3),
        b"uuid": UUID(int=5),
        b"set": {1, 2},
        b"frozen": frozenset([3]),
        b"complex": 1 + 2j,
        b"range": range(3),
        b"deque": deque([b"x"]),
        b"ordered": OrderedDict([(b"b", 1), (b"a", 2)]),
        b"default": defaultdict(list, {b"k": [b"v"]}),
        b"error": KeyError(b"key"),
        b"long": 2**100,
        b"class": bytearray,
    }
    expected = {key.decode(): value for key, value in state.items()}
    expected |= {
        "deque": deque(["x"]),
        "ordered": OrderedDict([("b", 1), ("a", 2)]),
        "default": {"k": ["v"]},
    }
    read, report = _converted(state)
    error = read.pop("error")
    assert (type(error), error.args) == (KeyError, ("key",))
    del expected["error"]
    assert read == expected
    assert report.undecoded == 0


def test_an_array_of_bytes() -> None:
    """What older versions of Python 2 wrote for an array keeps its bytes."""
    state = b"\x80\x02carray\narray\nU\x01iU\x04\x01\0\0\0\x86R."
    data = b"\x80\x02cdurus.persistent_dict\nPersistentDict\nq\1." + state
    record = convert_record(pack_record(bytes(8), data, b""), "utf-8", Report())
    assert _read(record) == array.array("i", [1])


class Moment(datetime):
    """Somebody's own class."""


def test_a_date_of_a_class_of_ones_own() -> None:
    """A subclass of datetime is known by the form of what it holds."""
    moment = Moment(2012, 12, 30, tzinfo=UTC)
    assert _converted([moment])[0] == [moment]


def test_own_classes_keep_their_names() -> None:
    """They are neither imported nor renamed."""
    state = (
        b"\x80\x02c__builtin__\nset\nq\2](cnowhere.shop\nOrder\nh\1e\x85R(inowhere\nOld\nU\1x\x87."
    )
    data = b"\x80\x02cnowhere.models\nRoot\nq\1." + state
    opened = open_record(convert_record(pack_record(bytes(8), data, b""), "utf-8", Report()))
    assert opened.data == (
        b"\x80\x04cnowhere.models\nRoot\n.\x80\x04cbuiltins\nset\nq\2](cnowhere.shop\nOrder\n"
        b"cnowhere.models\nRoot\ne\x85R(inowhere\nOld\nX\1\0\0\0x\x87."
    )


def test_a_class_in_another_form() -> None:
    """What else the class leaves in the memo stays there for the state."""
    data = (
        b"\x80\x02c__builtin__\ngetattr\nq\0cnowhere\nOuter\nq\1U\5Innerq\2\x86q\3Rq\4."
        b"\x80\x02h\3h\0h\2\x87."
    )
    converted = convert_record(pack_record(bytes(8), data, b""), "utf-8", Report())
    assert not check_proof(converted)
    assert open_record(converted).data == (
        b"\x80\x02cbuiltins\ngetattr\nq\0cnowhere\nOuter\nq\1X\5\0\0\0Innerq\2\x86q\3Rq\4."
        b"\x80\x04h\3cbuiltins\ngetattr\nh\2\x87."
    )


def test_what_cannot_be_decoded(durus: Any) -> None:
    """It stays bytes, and is told with its object; another encoding reads it."""
    state = {b"data": {b"name": "Zo\xeb".encode("latin-1"), b"raw": b"\xff" * 300}}
    _store(durus.folder / "old.durus", _record(state))
    told = durus("convert-py2", "old.durus", "new.durus").stdout.splitlines()
    assert told[0] == "stays bytes: in oid 0 b'Zo\\xeb'"
    assert told[1].startswith("stays bytes: in oid 0 b'\\xff")
    assert told[1].endswith("'...")
    assert told[2].endswith(": 3 texts decoded, 2 left as bytes")
    with Connection(durus.folder / "new.durus") as connection:
        assert dict(connection.get_root()) == {"name": b"Zo\xeb", "raw": b"\xff" * 300}
    arguments = "convert-py2", "old.durus", "latin.durus", "--encoding", "latin-1", "--json"
    assert json.loads(durus(*arguments).stdout) == {
        "durus_convert_py2": 1,
        "from": "old.durus",
        "to": "latin.durus",
        "encoding": "latin-1",
        "objects": 1,
        "converted": 1,
        "decoded": 5,
        "undecoded": 0,
        "examples": [],
    }


@pytest.mark.parametrize("filler", [0, 2000])
def test_keys_that_would_become_one(filler: int) -> None:
    """Of two keys that Python 2 told apart neither is lost."""
    fill = dict.fromkeys(range(filler))
    for keys in ({"ë": 1, "ë".encode(): 2}, {"ë".encode(): 2, "ë": 1}):
        (first, one), (second, two) = keys.items()
        read, report = _converted({first: one} | fill | {second: two})
        assert read == {"ë": 1, "ë".encode(): 2} | fill
        assert report.undecoded == 1


def test_one_string_as_oid_and_as_text() -> None:
    """A string that the memo gives to both is bytes for the one and text for the other."""
    oid = b"abcdefgh"
    for state in ([oid, Reference(oid), oid], [Reference(oid), oid, Reference(oid)]):
        expected = ["abcdefgh" if each is oid else each for each in state]
        assert _converted(state)[0] == expected


def test_records_of_python_3_stay() -> None:
    """A record that Python 3 wrote, ours or that of Durus 4.3, is copied byte for byte."""
    with open_storage("memory:") as storage:
        connection = Connection(storage)
        connection.get_root()["commands"] = {"text": b"bytes"}
        connection.commit()
        ours = storage.load(bytes(8))
    theirs = b"\x80\x02cdurus.persistent\nPersistent\nq\0.\x80\x02}q\1X\1\0\0\0xq\2K\1s."
    for record in (ours, pack_record(bytes(8), theirs, b"")):
        report = Report()
        assert convert_record(record, "utf-8", report) is record
        assert (report.objects, report.converted) == (1, 0)


STRINGS = st.sampled_from([b"", b"a", b"key", "ë".encode(), b"\xff"]) | st.binary(max_size=300)
KEYS = st.integers() | STRINGS | st.text(max_size=2) | st.sampled_from(["a", "ë"])
DATES = st.datetimes() | st.dates() | st.times() | st.decimals(allow_nan=False)
LEAVES = KEYS | DATES | st.none() | st.booleans() | st.floats(allow_nan=False)
REFERENCES = st.builds(Reference, st.binary(min_size=8, max_size=8))


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.lists(inner, max_size=3).map(deque)
        | inner.map(lambda value: [value, value, {1: value}])
    )


def _decoded(value: Any) -> Any:
    """What is expected in place of a value."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, dict):
        return {
            key if isinstance(key, bytes) and _decoded(key) in value else _decoded(key): _decoded(v)
            for key, v in value.items()
        }
    if isinstance(value, (list, tuple, deque)):
        return type(value)(map(_decoded, value))
    return value


def _equal_in_python_2(state: Any) -> bool:
    """Tell whether a dictionary has keys that Python 2 could not tell apart."""
    if isinstance(state, dict):
        texts = [key.decode() for key in state if isinstance(key, bytes) and key.isascii()]
        if any(text in state for text in texts):
            return True
        return any(map(_equal_in_python_2, state.values()))
    return isinstance(state, (list, tuple, deque)) and any(map(_equal_in_python_2, state))


@given(state=st.recursive(LEAVES | REFERENCES, _containers), protocol=st.integers(1, 2))
def test_any_state(state: Any, protocol: int) -> None:
    """Texts are decoded wherever they are; all that is no text is what it was."""
    read, _ = _converted([state, b"one"], protocol=protocol)
    assert read == [_decoded(state), "one"]


@given(state=st.recursive(LEAVES, _containers))
def test_any_state_of_protocol_0(state: Any) -> None:
    """The same of the protocol of text."""
    assert _converted([state, b"one"], protocol=0)[0] == [_decoded(state), "one"]


def test_nothing_is_overwritten(durus: Any) -> None:
    """Where something is already, be it a dangling link, nothing is written."""
    shutil.copyfile(GOLDEN, durus.folder / "old.durus")
    (durus.folder / "new.durus").write_text("mine")
    (durus.folder / "link.durus").symlink_to("nowhere")
    before = sorted(durus.folder.iterdir())
    for name in ("new.durus", "link.durus", "old.durus"):
        assert "exists already" in durus.error("convert-py2", "old.durus", name)
    assert (durus.folder / "new.durus").read_text() == "mine"
    assert sorted(durus.folder.iterdir()) == before


def test_a_file_that_appears_meanwhile(tmp_path: Path) -> None:
    """What somebody makes at the path while it is converted stays, and that is an error."""
    path = tmp_path / "new.durus"
    with (
        open_storage(GOLDEN, readonly=True) as source,
        pytest.raises(StorageOpenError, match="exists already"),
    ):
        convert(source, str(path), show=lambda _done: path.write_text("mine") and None)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_damage_leaves_nothing(durus: Any) -> None:
    """A record that is not understood is named, and no file is made."""
    data = b"\x80\x02cshop\nRoot\nq\1.\x80\x02U\x05shop."
    _store(
        durus.folder / "old.durus", _record({b"data": {}}), pack_record(int8_to_str(7), data, b"")
    )
    before = sorted(durus.folder.iterdir())
    assert "oid 7 is not understood" in durus.error("convert-py2", "old.durus", "new.durus")
    assert sorted(durus.folder.iterdir()) == before


def test_usage(durus: Any) -> None:
    """An encoding that is none, and a URL in place of a path, are told as such."""
    shutil.copyfile(GOLDEN, durus.folder / "old.durus")
    for encoding in ("nonsense", "hex"):
        arguments = "convert-py2", "old.durus", "new.durus", "--encoding", encoding
        assert "there is no encoding" in durus.error(*arguments, status=2)
    assert "path" in durus.error("convert-py2", "old.durus", "sqlite:new.db", status=2)
    assert durus.error("convert-py2", "typo", "new.durus") == "there is no file 'typo'"
    assert "No such file" in durus.error("convert-py2", "old.durus", "nowhere/new.durus")


def test_a_kill_leaves_no_file(tmp_path: Path) -> None:
    """Killed before its end, it leaves nothing under the name."""
    script = """
import os, sys
from durus.backends import open_storage
from durus.tools.convert_py2 import convert
source = open_storage(sys.argv[1], readonly=True)
convert(source, "new.durus", show=lambda done: done == 99 and os._exit(9))
"""
    words = [sys.executable, "-c", script, str(GOLDEN)]
    assert subprocess.run(words, cwd=tmp_path, check=False).returncode == 9
    assert not (tmp_path / "new.durus").exists()


def test_a_missing_object_is_missing_as_before(durus: Any) -> None:
    """A reference to nothing keeps nobody from the rest."""
    record = _record({b"data": {b"gone": Reference(int8_to_str(5)), b"n": 1}})
    oid, data, _ = unpack_record(record)
    _store(durus.folder / "old.durus", pack_record(oid, data, int8_to_str(5)))
    durus("convert-py2", "old.durus", "new.durus")
    with Connection(durus.folder / "new.durus") as connection:
        assert connection.get_root()["n"] == 1


def test_a_large_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written in several transactions, so that memory holds only one."""
    monkeypatch.setattr("durus.tools.convert_py2._MOST_TRANSACTION_BYTES", 1000)
    path = tmp_path / "new.durus"
    with open_storage(GOLDEN, readonly=True) as source:
        assert convert(source, str(path)).objects == 145
    with open_storage(path, readonly=True) as storage:
        assert (storage.describe().transaction_count or 0) > 3
        assert sum(1 for _ in storage.gen_oid_record()) == 145


def test_what_was_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the new file does not give what was written, it is given up."""

    def open_forgetful(path: str, **options: Any) -> Storage:
        storage = open_storage(path, **options)
        if options:
            records = list(storage.gen_oid_record())[1:]
            storage.gen_oid_record = lambda *_: iter(records)  # type: ignore[method-assign]
        return storage

    monkeypatch.setattr("durus.tools.convert_py2.open_storage", open_forgetful)
    with (
        open_storage(GOLDEN, readonly=True) as source,
        pytest.raises(CorruptionError, match="wrote 145 objects and read 144"),
    ):
        convert(source, str(tmp_path / "new.durus"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o440, 0o640)])
def test_who_may_read_it(durus: Any, mode: int, expected: int) -> None:
    """The new file is open to those to whom the old one is; its owner may write to it."""
    path = durus.folder / "old.durus"
    shutil.copyfile(GOLDEN, path)
    path.chmod(mode)
    durus("convert-py2", "old.durus", "new.durus")
    assert (durus.folder / "new.durus").stat().st_mode & 0o777 == expected
