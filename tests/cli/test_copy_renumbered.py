"""`durus copy --renumber`: new oids without a gap, and otherwise the same objects."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durus.backends import open_storage
from durus.btree import BTree
from durus.connection import Connection
from durus.error import CorruptRecordError, ReadConflictError, StorageError
from durus.file_storage import FileStorage
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.serialize import ROOT_OID, check_proof, pack_record, seal, split_oids, unpack_record
from durus.storage import MemoryStorage, Storage
from durus.testing import commit, make_record
from durus.tools._renumbering import _Numbers, gen_renumbered
from durus.tools._state_graph import Made, Members, Pairs, Reference, read_graph
from durus.tools.copy import Copied, RenumberError, copy_records, copy_to_file, recompressed
from durus.tools.pickles import open_record
from durus.utils import int8_to_str, str_to_int8

GOLDEN = Path(__file__).parents[1] / "compat" / "golden"

Records = dict[bytes, bytes]


def _records(place: str | Path) -> Records:
    with open_storage(place, readonly=True) as storage:
        return dict(storage.gen_oid_record())


def _renumber(source: str | Path, target: str | Path, **options: Any) -> Copied:
    with open_storage(source, readonly=True) as storage:
        return copy_to_file(storage, str(source), str(target), renumber=True, **options)


def _shape(records: Records) -> list[str]:
    """Give all that the root reaches, each object called by when one first comes to it.

    The states are read by the unpickler of the standard library.
    """
    names = {ROOT_OID: 0}
    shape = []
    for oid in names_in_order(names):
        klass, state = read_graph(oid, records[oid])
        shape.append(f"{klass} {_text(state, names, {})}")
    return shape


def names_in_order(names: dict[bytes, int]) -> Any:
    """Yield the keys of a dict that grows meanwhile."""
    count = 0
    while count < len(names):
        yield list(names)[count]
        count += 1


def _text(value: Any, names: dict[bytes, int], seen: dict[int, tuple[int, Any]]) -> str:
    """Give a text of a value in which everything shows, sharing included."""
    if isinstance(value, Reference):
        return f"<{value.klass} {names.setdefault(value.oid, len(names))}>"
    parts: Any
    if isinstance(value, (list, tuple)):
        parts = value
    elif isinstance(value, Pairs):
        parts = [part for pair in value.pairs for part in pair]
    elif isinstance(value, Members):
        parts = value.items
    elif isinstance(value, Made):
        pairs = [part for pair in value.pairs for part in pair]
        parts = [value.maker, value.args, value.kwargs, value.items, pairs, value.state]
    else:
        parts = None
    if id(value) in seen:
        return f"see {seen[id(value)][0]}"
    if not isinstance(value, (int, float, type(None))):
        # Held, so that the number is not used again.
        seen[id(value)] = len(seen), value
    if parts is None:
        return repr(value)
    inner = ", ".join([_text(part, names, seen) for part in parts])
    return f"{type(value).__name__}({inner})"


def _check(before: Records, after: Records) -> None:
    """Compare a renumbered copy with what it was made of."""
    shape = _shape(before)
    assert _shape(after) == shape
    assert sorted(after) == [int8_to_str(number) for number in range(len(shape))]
    for oid, record in after.items():
        found, _, refs = unpack_record(record)
        assert found == oid
        references: dict[bytes, int] = {}
        _text(read_graph(oid, record)[1], references, {})
        assert refs == b"".join(sorted(references.keys() - {oid}))


# Databases.


@pytest.fixture
def varied(tmp_path: Path) -> Path:
    """A database with garbage among its objects, and whatever a reference may be in."""
    path = tmp_path / "varied.durus"
    with Connection(path) as connection:
        root = connection.get_root()
        root["gone"] = PersistentList([PersistentDict() for _ in range(300)])
        connection.commit()
        tree = root["tree"] = BTree()
        for key in range(100):
            tree[key] = Persistent()
            tree[key].parts = [PersistentDict(number=key), tree[key]]
        root["set"] = PersistentSet([tree[7], tree[8]])
        root["keys"] = {tree[1]: (tree[2], tree[1], [tree[3]] * 2)}
        root["self"] = root
        tree[5].parent = tree
        root["large"] = PersistentDict(text="text " * 2000, tree=tree)
        del root["gone"]
        connection.commit()
        # They equal oids of objects that are referred to, and are none.
        root["tree"][5].plain = [bytes(bytearray(tree[1]._p_oid)), ROOT_OID, b"\0" * 7 + b"\1"]
        connection.commit()
    return path


@pytest.mark.parametrize(
    ("source", "target", "compress"),
    [("file", "sqlite", None), ("file2", "file", "zlib"), ("sqlite", "file2", "none")],
)
def test_between_storages(
    durus: Any, varied: Path, source: str, target: str, compress: str | None
) -> None:
    """Every object that the root reaches arrives with all that it refers to; garbage does not."""
    before = _records(varied)
    with open_storage(f"{source}:{durus.folder}/from") as storage:
        commit(storage, *before.values())
    options = () if compress is None else ("--compress", compress)
    done = durus("copy", "from", f"{target}:to", "--renumber", "--verify", *options)
    after = _records(f"{target}:{durus.folder}/to")
    assert len(after) < len(before) - 300
    _check(before, after)
    assert all(check_proof(record) for record in after.values())
    if compress is not None:
        changed = [recompressed(record, compress=compress == "zlib") for record in after.values()]
        assert changed == list(after.values())
    size = sum(map(len, after.values()))
    assert done.stdout == (
        f"copied from to {target}:to: {len(after)} objects, {size / 1000:.1f} kB of records;"
        " renumbered; compared\n"
    )
    with Connection(open_storage(f"{target}:{durus.folder}/to", readonly=True)) as connection:
        root = connection.get_root()
        assert root["tree"][5].parent[7].parts[0]["number"] == 7
        assert root["self"] is root


def test_what_is_read_together_is_together(tmp_path: Path) -> None:
    """What an object refers to are neighbours, in its order; what hangs on the first comes next."""
    path, target = tmp_path / "app.durus", tmp_path / "to.durus"
    with Connection(path) as connection:
        root = connection.get_root()
        # Made from the last to the first, so that the old oids say nothing.
        people = []
        for number in reversed(range(3)):
            person = PersistentDict(name=f"person {number}")
            root["latest"] = person
            connection.commit()
            for part in ("b", "a"):
                person["latest"] = PersistentDict(name=f"{part} of {number}")
                connection.commit()
                person[part] = person.pop("latest")
            person["a"], person["b"] = person.pop("a"), person.pop("b")
            people.insert(0, person)
        root.pop("latest")
        root["all"] = PersistentList(people)
        connection.commit()
    _renumber(path, target)
    with Connection(target) as connection:
        found = [connection.get(number) for number in range(11)]
        names = [obj.get("name") if isinstance(obj, PersistentDict) else type(obj) for obj in found]
    assert names == [
        None,
        PersistentList,
        "person 0",
        "person 1",
        "person 2",
        "a of 0",
        "b of 0",
        "a of 1",
        "b of 1",
        "a of 2",
        "b of 2",
    ]


def test_as_json(durus: Any, database: Path) -> None:
    """It tells that it has renumbered, and how many objects there are now."""
    told = json.loads(durus("copy", database, "to.durus", "--renumber", "--json").stdout)
    assert (told["renumbered"], told["objects"], told["kept"]) == (True, 4, 0)


def test_an_empty_database(tmp_path: Path) -> None:
    """Nothing becomes nothing; but records that no root reaches are not left out in silence."""
    path = tmp_path / "empty.durus"
    FileStorage(path).close()
    assert _renumber(path, tmp_path / "to.durus", verify=True).objects == 0
    with FileStorage(path) as storage:
        commit(storage, make_record(int8_to_str(1)))
    with pytest.raises(RenumberError, match="there is no root"):
        _renumber(path, tmp_path / "other.durus")
    assert not (tmp_path / "other.durus").exists()


@pytest.mark.parametrize("golden", ["shelf-committed-after-pack", "dfs20-plain", "dfs20-python2"])
def test_files_of_older_versions(tmp_path: Path, golden: str) -> None:
    """Durus 4.3 wrote oids as texts, and Python 2 as its own: each stays what it was."""
    source = GOLDEN / f"{golden}.durus"
    _renumber(source, tmp_path / "to.durus", verify=True)
    before, after = _records(source), _records(tmp_path / "to.durus")
    if golden == "dfs20-python2":
        assert sorted(after) == [int8_to_str(number) for number in range(len(after))]
        references = [
            b"U\x08" + oid in open_record(record).data
            for record in after.values()
            for oid in split_oids(unpack_record(record)[2])
        ]
        assert references
        assert all(references)
    else:
        _check(before, after)


def test_of_a_server_that_is_in_use(durus: Any, serve: Callable[..., Any], varied: Path) -> None:
    """It is one state, that of the beginning, whatever others commit meanwhile."""
    before = _records(varied)
    server = serve(varied).ready()
    url = f"durus+unix:{durus.folder}/a.sock"
    _renumber_while_it_changes(url, durus.folder / "to.durus")
    _renumber(url, f"sqlite:{durus.folder}/later")
    server.stop()
    _check(before, _records(durus.folder / "to.durus"))
    _check(_records(varied), _records(durus.folder / "later"))


@pytest.mark.parametrize("scheme", ["file", "sqlite"])
def test_of_a_file_that_is_in_use(tmp_path: Path, varied: Path, scheme: str) -> None:
    """The same of a file."""
    source, target = f"{scheme}:{tmp_path}/from", tmp_path / "to.durus"
    before = _records(varied)
    with open_storage(source) as storage:
        commit(storage, *before.values())
    _renumber_while_it_changes(source, target)
    assert len(_records(source)) == len(before) + 1
    _check(before, _records(target))


def _renumber_while_it_changes(source: str, target: Path) -> None:
    """Copy, and after 20 objects commit a change of many others."""
    done = 0

    def change(record: bytes) -> bytes:
        nonlocal done
        done += 1
        if done == 20:
            with Connection(source) as connection:
                root = connection.get_root()
                for value in root["tree"].values():
                    value.parts = []
                root["new"] = PersistentDict()
                connection.commit()
        return record

    _renumber(source, target, change=change, verify=True)


# What is refused.


def test_a_dangling_reference(durus: Any, database: Path) -> None:
    """The place that refers to nothing is named, and there is no copy, nor part of one."""
    with FileStorage(database) as storage:
        record = make_record(int8_to_str(1), refs=[int8_to_str(77)])
        commit(storage, record)
    message = durus.error("copy", database, "to.durus", "--renumber")
    assert message == (
        'tried to renumber oid 77 (root["ann"].refs[0]), which is referred to but not stored;'
        " remove that reference, or copy without renumbering"
    )
    assert list(durus.folder.glob("to.durus*")) == []
    # As the message proposes.
    durus("copy", database, "to.durus", "--verify")


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("is_old", [False, True])
def test_an_oid_that_is_data_too(tmp_path: Path, place: str, is_old: bool) -> None:
    """A state that has one and the same oid in a reference and beside it is refused by name."""
    source = MemoryStorage()
    state = {"x": [ONE, _Node(ONE)] if place == "before" else [_Node(ONE), ONE]}
    if is_old:
        record = _old_record(TWO, state, {ONE})
    else:
        record = _new_record(TWO, state, {ONE}, 4, compress=False, in_python=False)
    commit(source, make_record(ROOT_OID, refs=[TWO]), make_record(ONE), record)
    with pytest.raises(
        RenumberError, match=r"oid 2 \(root.refs\[0\]\), but it keeps the oid of an"
    ):
        copy_to_file(source, "it", str(tmp_path / "to.durus"), renumber=True)
    assert not (tmp_path / "to.durus").exists()


CLASS = b"\x80\x04cdurus.persistent\nPersistent\n."
PERSISTENT = b"cdurus.persistent\nPersistent\n"
ONE, TWO = int8_to_str(1), int8_to_str(2)


@pytest.mark.parametrize(
    ("state", "refs", "message"),
    [
        (b"C\x08" + ONE + PERSISTENT + b"\x86Q.", b"", "its list of references"),
        (b"N.", ONE, "its list of references"),
        (b"C\x08" + ONE + PERSISTENT + b"\x86Q.", ONE + TWO, "its list of references"),
        (b"P1\nQ.", ONE, "a reference is written as a text"),
        (b"K\x01Q.", ONE, "in a way that Durus does not"),
        (b"C\x09\0" + ONE + PERSISTENT + b"\x86Q.", ONE, "in a way that Durus does not"),
        (b"X\x08\0\0\0" + ONE + PERSISTENT + b"\x86Q.", ONE, "in a way that Durus does not"),
        # The pair is kept, the oid is kept by DUP, and its text is a key.
        (b"C\x08" + ONE + PERSISTENT + b"\x86q\x01Qh\x01\x86.", ONE, "as data of its own"),
        (b"C\x08" + ONE + b"2" + PERSISTENT + b"\x86Q\x86.", ONE, "as data of its own"),
        (
            b"c_codecs\nencode\nX\x08\0\0\0"
            + ONE
            + b"q\x01X\x06\0\0\0latin1\x86R"
            + PERSISTENT
            + b"\x86Q}h\x01K\x01s\x86.",
            ONE,
            "as data of its own",
        ),
        # What would have been encoded is given to something else as well.
        (
            b"c_codecs\nencode\nX\x08\0\0\0"
            + ONE
            + b"X\x06\0\0\0latin1\x86q\x01R"
            + PERSISTENT
            + b"\x86Qcshop\nsell\nh\x01R\x86.",
            ONE,
            "as data of its own",
        ),
        (b"(N.", b"", None),
        (b"C\x08" + ONE + PERSISTENT + b"\x86Q", ONE, "is not understood"),
    ],
)
def test_what_is_not_certain(state: bytes, refs: bytes, message: str | None) -> None:
    """A record that could be rewritten into something else is refused, or is left as it is."""
    body = CLASS + b"\x80\x04" + state
    storage = MemoryStorage()
    root = pack_record(ROOT_OID, seal(ROOT_OID, body, refs), refs)
    commit(storage, root, make_record(ONE), make_record(TWO))
    if message is None:
        assert list(gen_renumbered(storage)) == [(ROOT_OID, root)]
        return
    with pytest.raises(RenumberError, match=rf"oid 0 \(root\), but .*{message}"):
        list(gen_renumbered(storage))


@pytest.mark.parametrize("code", [b"C\x08" + bytes(8), b"C\x08" + ONE + b"N0"])
def test_what_went_wrong(monkeypatch: pytest.MonkeyPatch, code: bytes) -> None:
    """A record that was rewritten into something else, by a mistake of ours, gets no further."""
    storage = MemoryStorage()
    commit(storage, make_record(ROOT_OID, refs=[ONE]), make_record(ONE))
    assert len(list(gen_renumbered(storage))) == 2
    monkeypatch.setattr("durus.tools._renumbering._code", lambda _step, _oid: code)
    with pytest.raises(RenumberError, match="what it became"):
        list(gen_renumbered(storage))


def test_a_damaged_record(tmp_path: Path) -> None:
    """A record whose proof is wrong gets no new one."""
    storage = MemoryStorage()
    record = bytearray(make_record(ROOT_OID, payload=b"x" * 50))
    record[60] ^= 1
    commit(storage, bytes(record))
    with pytest.raises(CorruptRecordError, match="does not prove itself"):
        copy_to_file(storage, "it", str(tmp_path / "to.durus"), renumber=True)


def test_a_source_that_gives_up_its_state(tmp_path: Path) -> None:
    """A copy that would mix two states is an error."""

    class Busy(MemoryStorage):
        def load(self, oid: bytes) -> bytes:
            if oid != ROOT_OID:
                raise ReadConflictError([oid])
            return super().load(oid)

    source = Busy()
    commit(source, make_record(ROOT_OID, refs=[ONE]), make_record(ONE))
    with pytest.raises(StorageError, match=r"after 1 records gave up the state .* is committed$"):
        copy_to_file(source, "busy:", str(tmp_path / "to.durus"), renumber=True)


def test_into_what_is_not_empty() -> None:
    """What is there already is not taken for part of the copy, nor changed."""
    source, target = MemoryStorage(), MemoryStorage()
    commit(source, make_record(ROOT_OID))
    commit(target, make_record(ONE))
    with pytest.raises(StorageError, match="not empty"):
        copy_records(source, target, renumber=True)
    assert list(target.gen_oid_record()) == [(ONE, make_record(ONE))]


# Interrupted.

KILLED = """
import os, sys
from durus.backends import open_storage
from durus.tools import copy
copy._BATCH_BYTES = 1
count = 0
def change(record):
    global count
    count += 1
    if count == 50:
        os._exit(9)
    return record
with open_storage(sys.argv[1], readonly=True) as storage:
    copy.copy_to_file(storage, *sys.argv[1:3], change=change, renumber=bool(sys.argv[3]))
"""


@pytest.mark.parametrize("scheme", ["file", "sqlite"])
def test_killed(durus: Any, varied: Path, scheme: str) -> None:
    """A copy of one kind is not gone on with as one of the other; a renumbering begins anew."""
    target = f"{scheme}:to"
    half = durus.folder / "to.copying"

    def kill(*, renumber: bool) -> set[Path]:
        arguments = [str(varied), target, "yes" * renumber]
        command = [sys.executable, "-c", KILLED, *arguments]
        done = subprocess.run(command, cwd=durus.folder, env=durus.environment, check=False)
        assert done.returncode == 9
        assert half.exists()
        return {*durus.folder.glob("to*")}

    found = kill(renumber=True)
    message = durus.error("copy", varied, target)
    assert "tried to copy with the oids of FROM, but 'to.copying' is an unfinished copy with" in (
        message
    )
    assert {*durus.folder.glob("to*")} == found
    with Connection(varied) as connection:
        del connection.get_root()["tree"]
        del connection.get_root()["keys"]
        del connection.get_root()["large"]
        connection.commit()
    durus("copy", varied, target, "--renumber", "--verify")
    _check(_records(varied), _records(f"{scheme}:{durus.folder}/to"))
    for path in durus.folder.glob("to*"):
        assert path.name in {"to", "to-wal", "to-shm"}
        path.unlink()


@pytest.fixture
def half(varied: Path, tmp_path: Path) -> Path:
    """Half of a plain copy that was killed."""
    command = [sys.executable, "-c", KILLED, str(varied), "to.durus", ""]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), check=False)
    assert done.returncode == 9
    return varied.parent / "to.durus.copying"


def test_a_plain_half_is_not_renumbered(durus: Any, varied: Path, half: Path) -> None:
    """Half of a plain copy is left alone by a renumbering, for the copy that goes on with it."""
    before = half.read_bytes()
    message = durus.error("copy", varied, "to.durus", "--renumber")
    assert "tried to copy with new oids, but 'to.durus.copying' is an unfinished copy with" in (
        message
    )
    assert half.read_bytes() == before
    told = json.loads(durus("copy", varied, "to.durus", "--verify", "--json").stdout)
    assert told["kept"] > 0
    assert _records(durus.folder / "to.durus") == _records(varied)


# Any graph, of any writer.


class _Node:
    """Stands for a persistent object."""

    def __init__(self, oid: bytes) -> None:
        self.oid = oid


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> Any:
        return (obj.oid, Persistent) if isinstance(obj, _Node) else None


class _SlowPickler(pickle._Pickler):
    def persistent_id(self, obj: object) -> Any:
        return (obj.oid, Persistent) if isinstance(obj, _Node) else None


def _old_record(oid: bytes, state: Any, refs: set[bytes], *, compress: bool = True) -> bytes:
    """Make a record as Durus 4.3 does: protocol 2, one memo, compressed, no proof."""
    file = BytesIO()
    pickler = _Pickler(file, 2)
    pickler.dump(Persistent)
    start = file.tell()
    pickler.dump(state)
    data = file.getvalue()
    data = data[:start] + (zlib.compress(data[start:]) if compress else data[start:])
    return pack_record(oid, data, b"".join(sorted(refs - {oid})))


def _new_record(
    oid: bytes, state: Any, refs: set[bytes], protocol: int, *, compress: bool, in_python: bool
) -> bytes:
    file = BytesIO()
    (_SlowPickler if in_python else _Pickler)(file, protocol).dump(state)
    pickled = file.getvalue()
    joined = b"".join(sorted(refs - {oid}))
    body = CLASS + (zlib.compress(pickled) if compress else pickled)
    return pack_record(oid, seal(oid, body, joined), joined)


# The bytes of some are two in UTF-8, and of some one.
OIDS = [ROOT_OID, ONE, b"\0" * 7 + b"\x80", b"\0" * 6 + b"\1\0", b"latin1\0Q", b"\xff" * 8]
# Of one object every reference has the same bytes, as in a Connection.
NODES = st.sampled_from(OIDS).map(_Node)
# Bytes that equal an oid, but are no part of a reference.
EQUAL = st.sampled_from(OIDS).map(lambda oid: bytes(bytearray(oid)))
PLAIN = st.none() | st.integers() | st.text(max_size=3) | st.binary(max_size=3) | EQUAL
VALUES = st.recursive(
    PLAIN | NODES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, max_size=3)
        | st.frozensets(NODES, max_size=3)
        | st.dictionaries(NODES, inner, max_size=2)
        | inner.map(lambda value: [value, value, (value, value)])
    ),
    max_leaves=8,
)


@st.composite
def _graphs(draw: st.DrawFn) -> Records:
    records: Records = {}
    for oid in OIDS:
        state = {"a": draw(VALUES), "b": draw(VALUES)}
        referred: set[bytes] = set()
        _collect(state, referred)
        compress = draw(st.booleans())
        if draw(st.booleans()):
            records[oid] = _old_record(oid, state, referred, compress=compress)
        else:
            records[oid] = _new_record(
                oid,
                state,
                referred,
                draw(st.integers(2, 5)),
                compress=compress,
                in_python=draw(st.booleans()),
            )
    return records


def _collect(value: Any, oids: set[bytes]) -> None:
    if isinstance(value, _Node):
        oids.add(value.oid)
    elif isinstance(value, dict):
        for pair in value.items():
            _collect(pair, oids)
    elif isinstance(value, (list, tuple, frozenset)):
        for part in value:
            _collect(part, oids)


@settings(max_examples=25)
@given(_graphs())
def test_any_graph(before: Records) -> None:
    """Whoever wrote the records: each refers to the same objects, and the rest is untouched."""
    storage: Storage = MemoryStorage()
    commit(storage, *before.values())
    after = dict(gen_renumbered(storage))
    _check(before, after)
    # The other way round it would be the same: nothing is renumbered twice.
    again: Storage = MemoryStorage()
    commit(again, *after.values())
    assert dict(gen_renumbered(again)) == after


def test_the_memory_of_one_record() -> None:
    """What a large state holds beside references takes little more than its pickle."""
    source = MemoryStorage()
    state = {"numbers": list(range(10_000)), "it": _Node(ONE)}
    record = _new_record(ROOT_OID, state, {ONE}, 4, compress=False, in_python=False)
    commit(source, record, make_record(ONE))
    tracemalloc.start()
    assert len(list(gen_renumbered(source))) == 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * len(record)


def test_the_memory_it_takes() -> None:
    """For each object some bytes, where the oids are close together."""
    numbers = _Numbers()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(0, 100_000, 2):
        assert numbers.add(int8_to_str(number))
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert used < 50_000 * 32
    assert not numbers.add(ROOT_OID)
    assert str_to_int8(numbers[int8_to_str(99_998)]) == 49_999
