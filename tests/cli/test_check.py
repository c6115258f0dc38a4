"""`durus check`: all that is wrong is told with the object's path, and nothing of whole files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from durus.backends import open_storage
from durus.btree import BNode4, BTree
from durus.connection import Connection
from durus.error import CorruptionError, StorageFormatError
from durus.persistent import Persistent
from durus.persistent_dict import PersistentDict
from durus.serialize import (
    ROOT_OID,
    class_pickle,
    pack_record,
    seal,
    unpack_record,
)
from durus.storage import MemoryStorage, Storage
from durus.testing import commit
from durus.tools.check import CheckReport, check
from durus.utils import int8_to_str


@pytest.fixture
def storage() -> Iterator[Storage]:
    """A storage of a root, a dict "users" with "kim" and "lee", and a B-tree of 100 numbers."""
    with MemoryStorage() as storage:
        connection = Connection(storage)
        root = connection.get_root()
        root["users"] = PersistentDict(kim=PersistentDict(age=1), lee=PersistentDict(age=2))
        root["tree"] = BTree(BNode4)
        for number in range(100):
            root["tree"][number] = str(number)
        connection.commit()
        yield storage


def _oid_at(storage: Storage, *names: str) -> bytes:
    found: Any = Connection(storage).get_root()
    for name in names:
        found = found[name]
    oid: bytes = found._p_oid
    return oid


def _told(report: CheckReport) -> list[tuple[str, str | None]]:
    return [(problem.kind, problem.path) for problem in report.problems]


def _change_refs(record: bytes, refs: list[bytes]) -> bytes:
    oid, data, _ = unpack_record(record)
    joined = b"".join(sorted(refs))
    return pack_record(oid, seal(oid, data[:-4], joined), joined)


def _change(storage: Storage, oid: bytes, name: str, change: Any) -> None:
    """Store an attribute of an object changed, past all that an object does."""
    connection = Connection(storage)
    found: Any = connection.get(oid)
    found._p_load_state()
    change(getattr(found, name))
    found._p_note_change()
    connection.commit()


def test_nothing_wrong(storage: Storage) -> None:
    """Of a storage that is as it was written, all is counted and nothing told."""
    report = check(storage, imports=True)
    assert _told(report) == []
    assert report.objects == len(list(storage.gen_oid_record()))
    assert report.record_bytes == sum(len(record) for _, record in storage.gen_oid_record())
    assert (report.trees, report.not_comparable, report.unproven) == (1, 0, 0)


def test_nothing_in_an_empty_storage() -> None:
    """A storage without an object, and so without a root, has nothing wrong."""
    assert check(MemoryStorage()).problems == []


def test_a_damaged_record(storage: Storage) -> None:
    """A record that does not prove itself is told by its path, and the others are read."""
    oid = _oid_at(storage, "users", "kim")
    storage._records[oid] = storage.load(oid)[:-1] + b"?"  # type: ignore[attr-defined]
    report = check(storage)
    assert _told(report) == [("record", 'root["users"]["kim"]')]
    assert "does not prove itself" in report.problems[0].text
    assert report.problems[0].oid == oid


def test_every_damaged_record(storage: Storage) -> None:
    """Not only the first one is told."""
    for name in ("kim", "lee"):
        oid = _oid_at(storage, "users", name)
        storage._records[oid] = b"short"  # type: ignore[attr-defined]
        # The other can be reached only if this one is not looked at.
    assert len(check(storage).problems) == 2


def test_references_that_the_state_has_not(storage: Storage) -> None:
    """References too many, and one too few, are told: a pack goes by them."""
    oid = _oid_at(storage, "users")
    kim, lee = _oid_at(storage, "users", "kim"), _oid_at(storage, "users", "lee")
    commit(storage, _change_refs(storage.load(oid), [kim, ROOT_OID]))
    (problem,) = check(storage).problems
    assert (problem.kind, problem.path) == ("references", 'root["users"]')
    lacks, excess = problem.text.split("; ")
    assert lacks.endswith(f"lacks oid {int.from_bytes(lee, 'big')}")
    assert excess.endswith("has oid 0 in excess")


def test_a_dangling_reference(storage: Storage) -> None:
    """What refers to an object that is not stored is told, with the step."""
    oid = _oid_at(storage, "users", "lee")
    del storage._records[oid]  # type: ignore[attr-defined]
    (problem,) = check(storage).problems
    assert (problem.kind, problem.path) == ("dangling", 'root["users"]')
    number = int.from_bytes(oid, "big")
    assert problem.text == f'refers at ["lee"] to oid {number}, which is not stored'


def test_no_root(storage: Storage) -> None:
    """Objects without a root are told."""
    del storage._records[ROOT_OID]  # type: ignore[attr-defined]
    assert [(p.kind, p.oid) for p in check(storage).problems] == [("dangling", ROOT_OID)]


def _leaf(storage: Storage) -> bytes:
    """Give the oid of a leaf of the tree."""
    node = Connection(storage).get_root()["tree"].root
    while node.nodes:
        node = node.nodes[1]
    oid: bytes = node._p_oid
    return oid


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda items: items.reverse(), "out of order"),
        (lambda items: items.__setitem__(0, (-5, "")), "out of order"),
        (lambda items: items.__setitem__(-1, (1000, "")), "out of order"),
        (lambda items: items.__setitem__(0, ("text", "")), "out of order"),
        (lambda items: items.__setitem__(0, (10**5000, "")), "very many digits"),
        (lambda items: items.clear(), "has 0 items"),
        (lambda items: items.append(5), "something else than pairs"),
    ],
)
def test_a_leaf_of_a_btree(storage: Storage, change: Any, said: str) -> None:
    """Keys that are not in order, in a node or against those above, and a wrong count are told."""
    oid = _leaf(storage)
    _change(storage, oid, "items", change)
    problems = check(storage).problems
    assert [(p.kind, p.oid, p.path) for p in problems] == [("btree", oid, 'root["tree"]')]
    assert said in problems[0].text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda nodes: nodes.pop(), "belong to its items"),
        (lambda nodes: nodes.__setitem__(1, nodes[0]), "in two places"),
        (lambda nodes: nodes.__setitem__(1, None), "something else than nodes"),
        (lambda nodes: nodes.__setitem__(1, PersistentDict()), "has not what a node has"),
    ],
)
def test_the_root_of_a_btree(storage: Storage, change: Any, said: str) -> None:
    """Children too few, one that is there twice, and what is no node are told."""
    oid: bytes = Connection(storage).get_root()["tree"].root._p_oid
    _change(storage, oid, "nodes", change)
    assert any(p.kind == "btree" and said in p.text for p in check(storage).problems)


def test_keys_that_need_their_class(storage: Storage) -> None:
    """A tree whose keys are no builtin values is told as not compared, and not as wrong."""
    connection = Connection(storage)
    tree = connection.get_root()["other"] = BTree(BNode4)
    for number in range(3):
        tree[(number, frozenset([number]))] = number
    deep = connection.get_root()["deep"] = BTree(BNode4)
    key: tuple[Any, ...] = ()
    for _ in range(100):
        key = (key,)
    deep[key] = 1
    connection.commit()
    report = check(storage)
    assert (report.problems, report.trees, report.not_comparable) == ([], 3, 2)


class Note(Persistent):
    """An object whose class is to be lost."""


def test_classes_that_cannot_be_imported(storage: Storage) -> None:
    """They are told if they are asked for, each once, those of plain objects inside states too."""
    oid = int8_to_str(2**32)
    body = class_pickle(Note).replace(b"Note", b"Gone") + b"\x80\x04clost.module\nThing\n)\x81."
    commit(storage, pack_record(oid, seal(oid, body, b""), b""))
    assert check(storage).problems == []
    told = [problem.text for problem in check(storage, imports=True).problems]
    assert len(told) == 2
    assert any("names the class lost.module.Thing, which cannot be imported" in t for t in told)
    assert any("Gone, which cannot be imported" in text for text in told)


@pytest.mark.parametrize("url", ["file:app.db", "file2:app.db", "sqlite:app.db"])
def test_a_changed_byte_is_told_or_means_nothing(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every kind of file: opening refuses, or check tells it, or all that is read is right."""
    monkeypatch.chdir(tmp_path)
    if url.startswith("sqlite"):
        pytest.importorskip("durus.sqlite_storage", reason="durus-sqlite is not installed here")
    with Connection(open_storage(url)) as connection:
        root = connection.get_root()
        for name in ("kim", "lee"):
            root[name] = PersistentDict(text=name * 20)
            connection.commit()
        root["tree"] = BTree(BNode4)
        for number in range(20):
            root["tree"][number] = number
        connection.commit()
        connection.pack()
        root["kim"]["text"] = "later"
        connection.commit()
    path = tmp_path / "app.db"
    content = path.read_bytes()
    random = Random(6)

    def read() -> dict[bytes, bytes]:
        with open_storage(url, readonly=True) as storage:
            return dict(storage.gen_oid_record())

    right = read()
    told = 0
    for place in random.sample(range(len(content)), min(150, len(content))):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x21]) + content[place + 1 :])
        try:
            with open_storage(url, readonly=True) as storage:
                report = check(storage)
        except (CorruptionError, StorageFormatError):
            continue
        told += bool(report.problems)
        assert report.problems or read() == right
    assert told > 3


# The command.


def test_a_whole_file(durus: Any, database: Path) -> None:
    """One line tells what was checked, and the exit status is 0; the file is as it was."""
    before = database.read_bytes()
    done = durus("check", "app.durus")
    assert done.stdout.startswith("app.durus: nothing wrong; checked 5 objects in ")
    assert database.read_bytes() == before


def _damage_bob(durus: Any, database: Path) -> int:
    """Damage bob's record in a file that Durus 4.3 might have written; give his oid."""
    with Connection(open_storage(database)) as connection:
        oid: bytes = connection.get_root()["bob"]._p_oid
        connection.pack()
        connection.get_storage()._journal.write_index()
        offset = connection.get_storage()._journal.find(int.from_bytes(oid, "big"))
    content = bytearray(database.read_bytes())
    content[content.index(b"bob", offset)] ^= 1
    database.write_bytes(content)
    database.with_name(f"{database.name}.index").unlink()
    return int.from_bytes(oid, "big")


def test_a_damaged_file(durus: Any, database: Path) -> None:
    """Each thing is a line with the path, the exit status is 1, and stderr is empty."""
    oid = _damage_bob(durus, database)
    done = durus("check", "app.durus", status=1)
    lines = done.stdout.splitlines()
    named = f'record: root["bob"] (oid {oid}, durus.persistent_dict.PersistentDict): '
    assert any(line.startswith(named) for line in lines)
    assert any(line.startswith("storage: offset ") for line in lines)
    assert lines[-1].startswith("app.durus: 2 things wrong; ")
    assert done.stderr == ""


def test_json(durus: Any, database: Path) -> None:
    """The same for a program."""
    told = json.loads(durus("check", "app.durus", "--json").stdout)
    assert told.pop("record_bytes") > 100
    assert told == {
        "durus_check": 1,
        "database": "app.durus",
        "objects": 5,
        "unproven": 0,
        "btrees": 0,
        "btrees_not_comparable": 0,
        "storage_checked": True,
        "problems": [],
    }
    oid = _damage_bob(durus, database)
    told = json.loads(durus("check", "app.durus", "--json", status=1).stdout)
    (found,) = (problem for problem in told["problems"] if problem["kind"] == "record")
    assert (found["oid"], found["path"]) == (oid, 'root["bob"]')
    assert list(found) == ["kind", "text", "oid", "offset", "class", "path"]


def test_what_cannot_be_opened(durus: Any, database: Path) -> None:
    """It is told as the error of opening it."""
    database.write_bytes(b"SHELF-1\n" + b"\xff" * 100)
    assert "tried to read" in durus.error("check", "app.durus")
    assert "there is no file" in durus.error("check", "typo.durus")


def test_nothing_is_imported_unless_asked_for(durus: Any, database: Path) -> None:
    """A class is imported with --imports only, and told if it cannot be."""
    durus.see(durus.folder)
    module = durus.folder / "trap.py"
    module.write_text("from durus.persistent import Persistent\nclass Trap(Persistent): pass\n")
    durus("shell", "app.durus", input="import trap\nroot['trap'] = trap.Trap()\ncommit()\n")
    module.write_text("raise RuntimeError('imported')")
    durus("check", "app.durus")
    told = durus("check", "--imports", "app.durus", status=1).stdout
    assert 'class: root["trap"] (oid ' in told
    assert "names the class trap.Trap, which cannot be imported: imported" in told


def test_a_running_server(durus: Any, database: Path, serve: Any) -> None:
    """A server is asked for all that its root reaches, and what it cannot tell is said."""
    server = serve("app.durus").ready()
    told = durus("check", *server.place).stdout
    assert "nothing wrong; checked 4 objects" in told
    assert "nothing that only the storage could tell" in told
    server.stop()


def test_a_bar_while_the_storage_looks_at_itself(durus: Any, database: Path) -> None:
    """Until the first object is read the bar moves too, with the time that has passed."""
    durus.plug_in(
        "slow",
        "[durus.storages]\nslow = slow_storage:Slow\n",
        slow_storage="""
        import time
        from pathlib import Path
        from durus.file_storage import FileStorage

        class Slow(FileStorage):
            @classmethod
            def has_format(cls, path):
                return False

            def gen_damage(self):
                while not Path("go-on").exists():
                    time.sleep(0.01)
                return super().gen_damage()
        """,
    )
    child = durus.on_terminal("check", "slow:app.durus")
    child.expect_exact("checking slow:app.durus")
    assert child.expect([r"\d:\d\d:\d\d", r"-:--:--"]) == 0
    (durus.folder / "go-on").touch()
    child.expect_exact("nothing wrong; checked 5 objects")
    child.expect("$")
