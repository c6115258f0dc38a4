"""`durus info`: the facts, as a table and as JSON, from the records alone."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from durus.backends import open_storage
from durus.connection import Connection
from durus.serialize import pack_record
from durus.utils import int8_to_str

KEYS = [
    "durus_info",
    "database",
    "path",
    "storage",
    "format",
    "size_bytes",
    "transactions_since_pack",
    "last_commit_time",
    "as_of",
    "objects",
    "record_bytes",
    "classes",
    "garbage",
]


def _json(durus: Any, *arguments: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(durus("info", *arguments, "--json").stdout)
    return answer


def _store(path: Path, records: dict[int, tuple[bytes, list[int]]]) -> None:
    """Write records, given as oid: (data, referred oids), past all that makes them."""
    with open_storage(path) as storage:
        storage.begin()
        for oid_int, (data, referred) in records.items():
            oid = int8_to_str(oid_int)
            storage.store(oid, pack_record(oid, data, b"".join(map(int8_to_str, referred))))
        storage.end()


def _record_of(class_name: bytes) -> bytes:
    """Give the data of an object of any class, as 4.3 would store it, with the state None."""
    module, _, name = class_name.rpartition(b".")
    return b"\x80\x02c" + module + b"\n" + name + b"\nq\x00." + b"\x80\x02N."


def test_the_facts_as_json(durus: Any, database: Path) -> None:
    """The keys are those that the guide lists, and the values are true."""
    before = datetime.now(UTC) - timedelta(minutes=5)
    answer = _json(durus, database)
    assert list(answer) == KEYS
    assert answer["durus_info"] == 1
    assert answer["database"] == answer["path"] == str(database)
    assert (answer["storage"], answer["format"]) == ("FileStorage", "SHELF-1")
    assert answer["size_bytes"] == os.path.getsize(database)
    assert answer["objects"] == 5
    assert answer["transactions_since_pack"] == 3
    assert before < datetime.fromisoformat(answer["last_commit_time"]) <= datetime.now(UTC)
    assert answer["garbage"] is None
    (only,) = answer["classes"]
    assert only == {
        "name": "durus.persistent_dict.PersistentDict",
        "objects": 5,
        "bytes": answer["record_bytes"],
    }


def test_garbage(durus: Any, database: Path) -> None:
    """--garbage counts what the root does not reach, and its share of the records' bytes."""
    answer = _json(durus, database, "--garbage")
    garbage = answer["garbage"]
    assert garbage["objects"] == 1
    assert 0 < garbage["bytes"] < answer["record_bytes"]
    assert garbage["share"] == round(garbage["bytes"] / answer["record_bytes"], 6)
    durus("pack", database)
    assert _json(durus, database, "--garbage")["garbage"] == {"objects": 0, "bytes": 0, "share": 0}


def test_after_a_pack(durus: Any, database: Path) -> None:
    """A pack starts the count of transactions anew, and keeps the time of the last commit."""
    earlier = _json(durus, database)
    durus("pack", database)
    answer = _json(durus, database)
    assert answer["transactions_since_pack"] == 0
    assert answer["last_commit_time"] == earlier["last_commit_time"]
    assert answer["objects"] == 4


def test_the_table(durus: Any, database: Path) -> None:
    """Without --json the same is told to a person: facts first, then a row for each class."""
    lines = [line.rstrip() for line in durus("info", database, "--garbage").stdout.splitlines()]
    facts = dict(line.split("  ", 1) for line in lines[:7])
    assert list(facts) == [
        "Database",
        "Format",
        "Size",
        "Objects",
        "Transactions",
        "Last commit",
        "Garbage",
    ]
    assert facts["Format"].strip() == "SHELF-1 (FileStorage)"
    assert facts["Transactions"].strip() == "3 since the last pack"
    assert facts["Last commit"].endswith(" UTC")
    assert "1 object in " in facts["Garbage"]
    assert any(line.startswith("durus.persistent_dict.PersistentDict") for line in lines)


def test_the_other_formats(durus: Any) -> None:
    """DFS20 is told as well as SHELF-1."""
    durus("shell", "file2:app.durus", "--create", input="root['n'] = 1; commit()")
    answer = _json(durus, "app.durus", "--garbage")
    assert (answer["storage"], answer["format"]) == ("FileStorage2", "DFS20")
    assert (answer["objects"], answer["garbage"]["objects"]) == (1, 0)


def test_nothing_is_imported(durus: Any, database: Path) -> None:
    """A class is a name: its module is not imported, whatever it would do."""
    (durus.folder / "poison.py").write_text("open('imported', 'w')\n")
    durus.see(durus.folder)
    _store(database, {900: (_record_of(b"poison.Pill"), [])})
    names = [row["name"] for row in _json(durus, database, "--garbage")["classes"]]
    assert "poison.Pill" in names
    durus("info", database)
    assert not (durus.folder / "imported").exists()


def test_a_state_is_not_unpickled(durus: Any, database: Path) -> None:
    """A state that would run a program when it is loaded runs nothing."""
    attack = b"\x80\x02cos\nsystem\nX\x08\x00\x00\x00touch it\x85R."
    _store(database, {900: (b"\x80\x02cbuiltins\nobject\nq\x00." + attack, [])})
    assert _json(durus, database, "--garbage")["objects"] == 6
    assert not (durus.folder / "it").exists()


def test_a_hostile_class_name(durus: Any, database: Path) -> None:
    """What a terminal would obey, or rich would take for markup, is shown and not obeyed."""
    _store(database, {900: (_record_of(b"m.\x1b[31m[bold]"), [])})
    shown = durus("info", database).stdout
    assert "\x1b" not in shown
    assert r"m.\x1b[31m[bold]" in shown


def test_beside_a_writer(durus: Any, database: Path) -> None:
    """The file is opened read-only: a writer may have it open, and nothing in it changes."""
    with Connection(database) as connection:
        connection.get_root()["n"] = 1
        connection.commit()
        before = sorted((p.name, p.read_bytes()) for p in durus.folder.glob("app.durus*"))
        assert _json(durus, database)["transactions_since_pack"] == 4
        assert sorted((p.name, p.read_bytes()) for p in durus.folder.glob("app.durus*")) == before


def test_a_torn_tail_is_ignored(durus: Any, database: Path) -> None:
    """Half a transaction at the end, never acknowledged, changes neither answer nor file."""
    expected = _json(durus, database)
    whole = database.read_bytes()
    database.write_bytes(whole + b"\0\0\0\0\0\0\x04\0torn")
    answer = _json(durus, database)
    assert (answer["objects"], answer["last_commit_time"]) == (5, expected["last_commit_time"])
    assert database.read_bytes() == whole + b"\0\0\0\0\0\0\x04\0torn"


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_table_fits_the_terminal(durus: Any, database: Path, columns: str) -> None:
    """Long names are folded, never cut."""
    durus.environment["COLUMNS"] = columns
    done = durus("info", database)
    assert max(map(len, done.stdout.splitlines())) <= int(columns)
    assert str(database) in "".join(done.stdout.split()).replace("\n", "")
