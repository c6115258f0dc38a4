"""`durus show`: one object, readably, without its class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from durus.backends import open_storage
from durus.connection import Connection
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.serialize import ROOT_OID, pack_record, unpack_record
from durus.tools.show import gen_lines, json_value
from durus.utils import int8_to_str

KEYS = [
    "durus_show",
    "database",
    "as_of",
    "last_commit_time",
    "oid",
    "class",
    "record_bytes",
    "compressed",
    "proof",
    "references",
    "state",
    "damage",
]

# Importing it fails, so a command that shows its objects has not imported it.
TRAP = "raise SystemExit('imported')"


@pytest.fixture
def shown(durus: Any) -> Path:
    """A database with some of everything, and an object of a class that must not be imported."""
    path: Path = durus.folder / "app.durus"
    with open_storage(path) as storage:
        connection = Connection(storage)
        root = connection.get_root()
        root["users"] = PersistentDict(kim=PersistentDict(address="Seoul"))
        root["many"] = PersistentList(range(100))
        root["text"] = "long " * 1000
        connection.commit()
        _store(storage, 9, b"\x80\x02ctrap\nOrder\nq\x00.", b"\x80\x02}U\x01nctrap\nLine\n)\x81s.")
    (durus.folder / "trap.py").write_text(TRAP)
    durus.see(durus.folder)
    return path


def _store(storage: Any, oid_int: int, klass: bytes, state: bytes) -> None:
    oid = int8_to_str(oid_int)
    storage.begin()
    storage.store(oid, pack_record(oid, klass + state, b""))
    storage.end()


def _json(durus: Any, *arguments: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(durus("show", *arguments, "--json").stdout)
    return answer


def test_the_root_is_shown(durus: Any, shown: Path) -> None:
    """Without a name it is the root: class, proof, where it refers to what, and the state."""
    lines = durus("show", shown).stdout.splitlines()
    assert lines[0] == "Oid        0 (0x0)"
    assert "Class      durus.persistent_dict.PersistentDict" in lines
    assert "Proof      right" in lines
    assert '["users"]  1  durus.persistent_dict.PersistentDict' in lines
    assert "  'users': <durus.persistent_dict.PersistentDict 1>" in lines


def test_an_object_is_named_by_oid_or_path(durus: Any, shown: Path) -> None:
    """A number, a hexadecimal number and a path name the same object."""
    path = 'root["users"]["kim"]'
    oid = _json(durus, shown, path)["oid"]
    for name in (str(oid), hex(oid), "root['users']['kim']"):
        assert _json(durus, shown, name)["state"] == {"data": {"address": "Seoul"}}


def test_the_facts_as_json(durus: Any, shown: Path) -> None:
    """The keys are those of the page, the values are true, nothing is cut."""
    answer = _json(durus, shown)
    assert list(answer) == KEYS
    assert answer["durus_show"] == 1
    assert (answer["oid"], answer["proof"], answer["compressed"]) == (0, "right", True)
    assert answer["record_bytes"] > 100
    assert [reference["step"] for reference in answer["references"]] == ['["users"]', '["many"]']
    assert answer["state"]["data"]["text"] == "long " * 1000
    assert answer["damage"] is None


def test_no_class_is_imported(durus: Any, shown: Path) -> None:
    """Objects whose module would end the program are shown, one in the other."""
    printed = durus("show", shown, "9").stdout
    assert "Class      trap.Order" in printed
    assert "Proof      none: Durus 4.3 wrote it" in printed
    assert ".n: a trap.Line" in printed
    assert _json(durus, shown, "9")["state"] == {"n": {"$class": "trap.Line"}}


def test_trusted_classes_are_used(durus: Any, shown: Path) -> None:
    """With --trust a class is imported, and what it makes is shown."""
    (durus.folder / "trap.py").write_text(
        "class Line:\n    def __repr__(self):\n        return 'a line'\n"
    )
    assert ".n: a line" in durus("show", shown, "9", "--trust", "trap.Line").stdout


def test_long_values_are_cut_unless_full(durus: Any, shown: Path) -> None:
    """A long text and a long list say how long they are; --full shows all."""
    short, full = durus("show", shown).stdout, durus("show", shown, "--full").stdout
    assert "of 5,000 characters" in short
    assert "long " * 1000 not in short
    assert "long " * 1000 in full
    many = durus("show", shown, 'root["many"]').stdout
    assert "  [19]: 19\n  ...: 80 more" in many
    assert "  [99]: 99\n" in durus("show", shown, 'root["many"]', "--full").stdout


def test_a_reference_to_nothing_is_told(durus: Any) -> None:
    """What an object refers to and is not stored is named."""
    path = durus.folder / "app.durus"
    with open_storage(path) as storage:
        klass = b"\x80\x02cdurus.persistent\nPersistent\nq\x00."
        _store(storage, 0, klass, b"\x80\x02}U\x01xU\x08\0\0\0\0\0\0\0\x07h\x00\x86Qs.")
    assert ".x  7  which is NOT STORED" in durus("show", path).stdout


def test_a_damaged_record_is_told(durus: Any, shown: Path) -> None:
    """What can be told is shown, the damage is an error, and the status is 1."""
    with open_storage(shown) as storage:
        oid, data, refs = unpack_record(storage.load(ROOT_OID))
        storage.begin()
        storage.store(oid, pack_record(oid, data[:-1] + bytes([data[-1] ^ 1]), refs))
        storage.end()
    done = durus("show", shown, status=1)
    assert "Proof      WRONG: the record is damaged" in done.stdout
    assert done.stderr.startswith("durus: error: the record of oid 0 does not prove itself")
    answer = json.loads(durus("show", shown, "--json", status=1).stdout)
    assert (answer["proof"], answer["state"]) == ("wrong", None)
    assert "does not prove itself" in answer["damage"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("99", "no record is stored under oid 99"),
        ('root["uzers"]', 'refers to no persistent object at ["uzers"]; it has ["users"]'),
        ("nonsense", "an oid is a number such as 17 or 0x11"),
    ],
)
def test_what_is_not_there(durus: Any, shown: Path, name: str, told: str) -> None:
    """A name that leads nowhere is a clear error."""
    assert told in durus.error("show", shown, name)


def test_nothing_reaches_the_terminal(durus: Any) -> None:
    """What a database holds cannot send control sequences to the terminal."""
    path = durus.folder / "app.durus"
    with open_storage(path) as storage:
        connection = Connection(storage)
        connection.get_root()["\x1b[2J"] = ["\x1b]0;title\x07", PersistentDict()]
        connection.commit()
        _store(storage, 9, b"\x80\x02c\x1b[2Jtrap\nOrder\nq\x00.", b"\x80\x02c\x1b[2Jt\nL\n)\x81.")
    for name in ("0", "9"):
        printed = durus("show", path, name).stdout
        assert "\x1b" not in printed
        assert "\\x1b[2J" in printed
    child = durus.on_terminal("show", str(path), NO_COLOR="1")
    child.expect(r"\\x1b\[2J")


def test_a_server_is_asked(durus: Any, serve: Any, shown: Path) -> None:
    """An object of a running server is shown as one of a file."""
    serve(shown).ready()
    assert '["users"]  1' in durus("show", "durus+unix:a.sock").stdout


def test_what_holds_itself_is_shown_once() -> None:
    """A cycle, and what doubles sixty times, end: as lines and as JSON."""
    cycle: list[object] = [1]
    cycle.append(cycle)
    assert list(gen_lines({"x": cycle})) == [
        (".x", "list of 2"),
        ("  [0]", "1"),
        ("  [1]", "list of 2, shown above"),
    ]
    assert json_value(cycle) == [1, {"$again": "list of 2"}]
    doubled: list[object] = [1]
    for _ in range(60):
        doubled = [doubled, doubled]
    assert len(list(gen_lines(doubled, full=True))) < 200
    assert len(json.dumps(json_value(doubled))) < 5000


def test_a_deep_value_ends() -> None:
    """A value that is nested a hundred thousand deep is cut."""
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert list(gen_lines(deep))[-1][1] == "list of 1, not shown: too deep"
    assert len(list(gen_lines(deep, full=True))) < 2000
    assert '"$deep"' in json.dumps(json_value(deep))


def test_json_of_other_values() -> None:
    """What JSON has no form for is a dict with a key that begins with a dollar."""
    assert json_value({1: b"\xff", "n": float("nan")}) == {
        "$pairs": [[1, {"$bytes": "ff"}], ["n", {"$value": "nan", "type": "float"}]]
    }
    assert json_value([(1,), {2}, {"$x": 1}, 1 + 2j]) == [
        {"$tuple": [1]},
        {"$set": [2]},
        {"$pairs": [["$x", 1]]},
        {"$value": "(1+2j)", "type": "complex"},
    ]
