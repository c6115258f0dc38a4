"""`durus history`: transactions, and the versions of one object, newest first."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from pickle import Pickler
from typing import Any

import pytest

from durus.backends import open_storage
from durus.error import DurusKeyError, NotSupportedError
from durus.persistent import Persistent
from durus.serialize import ROOT_OID, class_pickle, pack_record, seal
from durus.storage import MemoryStorage, Storage
from durus.tools.history import gen_transactions, gen_versions
from durus.utils import int8_to_str

ONE, TWO = int8_to_str(1), int8_to_str(2)


class _Reference:
    """Stands for a persistent object while its referrer is pickled."""

    def __init__(self, oid: bytes) -> None:
        self.oid = oid


class _ReferencePickler(Pickler):
    def persistent_id(self, obj: object) -> tuple[bytes, type[Persistent]] | None:
        return (obj.oid, Persistent) if isinstance(obj, _Reference) else None


def _record(oid: bytes, refs: Iterable[bytes] = (), payload: str = "") -> bytes:
    """Make a record of a Persistent that refers to others by its attribute `refs`."""
    refs = list(refs)
    state = BytesIO()
    values = {"payload": payload, "refs": [_Reference(ref) for ref in refs]}
    _ReferencePickler(state, 4).dump(values)
    joined = b"".join(sorted(refs))
    return pack_record(oid, seal(oid, class_pickle(Persistent) + state.getvalue(), joined), joined)


def _commit(storage: Storage, *records: bytes) -> None:
    storage.begin()
    for record in records:
        storage.store(record[:8], record)
    storage.end()


RECORDS = [
    [_record(ROOT_OID, [ONE]), _record(ONE)],
    [_record(ONE, payload="changed")],
    [_record(ROOT_OID, [ONE, TWO]), _record(TWO)],
]


@pytest.fixture(params=["app.durus", "file2:app.durus", "sqlite:app.db?history=7d"])
def url(request: Any, durus: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database of three transactions, in each storage that keeps history."""
    found: str = request.param
    if found.startswith("sqlite:"):
        pytest.importorskip("durus.sqlite_storage", reason="durus-sqlite is not installed here")
    monkeypatch.chdir(durus.folder)
    with open_storage(found) as storage:
        for records in RECORDS:
            _commit(storage, *records)
    return found.partition("?")[0]


def _json(durus: Any, *arguments: str | Path) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(durus("history", *arguments, "--json").stdout)
    return answer


def test_transactions_are_told_newest_first(durus: Any, url: str) -> None:
    """Each with its serial, its time, its objects, their size and their classes."""
    answer = _json(durus, url)
    assert list(answer) == ["durus_history", "database", "oid", "transactions"]
    assert (answer["durus_history"], answer["database"], answer["oid"]) == (1, url, None)
    found = answer["transactions"][:3]
    assert list(found[0]) == ["serial", "time", "objects", "record_bytes", "classes"]
    serials = [each["serial"] for each in found]
    assert serials == [serials[0], serials[0] - 1, serials[0] - 2]
    for each, records in zip(found, reversed(RECORDS), strict=True):
        assert each["objects"] == len(records)
        assert each["record_bytes"] == sum(map(len, records))
        assert each["classes"] == {"durus.persistent.Persistent": len(records)}
        assert datetime.now(UTC) - datetime.fromisoformat(each["time"]) < timedelta(minutes=10)


def test_the_versions_of_an_object_are_told(durus: Any, url: str) -> None:
    """Only the transactions that changed it, with its size and class then."""
    answer = _json(durus, url, "root.refs[0]")
    assert list(answer) == ["durus_history", "database", "oid", "versions"]
    assert answer["oid"] == 1
    newest = _json(durus, url)["transactions"][0]["serial"]
    changed, first = answer["versions"]
    assert list(first) == [
        "serial",
        "time",
        "removed",
        "record_bytes",
        "class",
        "may_be_older",
    ]
    assert [changed["serial"], first["serial"]] == [newest - 1, newest - 2]
    assert changed["record_bytes"] == len(_record(ONE, payload="changed"))
    assert first["class"] == "durus.persistent.Persistent"
    assert not first["removed"]
    assert not first["may_be_older"]


def test_the_table(durus: Any, url: str) -> None:
    """A line for each, and one that says if there are older ones."""
    lines = durus("history", url, "--limit", "2").stdout.splitlines()
    assert lines[0].split() == ["Transaction", "Time", "Objects", "Size", "Classes"]
    assert lines[1].endswith(" B  durus.persistent.Persistent (2)")
    assert lines[2].split()[4] == "1"
    assert lines[3:] == ["... and older ones; --limit 0 tells all"]
    versions = durus("history", url, "1", "--limit", "1").stdout.splitlines()
    assert versions[0].endswith("Object 1")
    assert versions[2:] == ["... and older ones; --limit 0 tells all"]
    assert len(durus("history", url, "1", "--limit", "0").stdout.splitlines()) == 3


def test_a_packed_file_says_what_it_forgot(durus: Any, url: str) -> None:
    """What a pack put into the base is not told as a change, and the object may be older."""
    if url.startswith("sqlite:"):
        pytest.skip("a pack leaves the history of SQLite")
    durus("pack", url)
    (only,) = _json(durus, url)["transactions"]
    assert (only["objects"], only["record_bytes"], only["classes"]) == (None, None, None)
    assert "not known: packed since" in durus("history", url).stdout
    assert _json(durus, url, "1")["versions"][0]["may_be_older"]
    assert "(or older)" in durus("history", url, "1").stdout


def test_what_a_pack_removed_is_told(durus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An SQLite database knows the object that a pack removed, and when that was."""
    pytest.importorskip("durus.sqlite_storage", reason="durus-sqlite is not installed here")
    monkeypatch.chdir(durus.folder)
    with open_storage("sqlite:app.db?history=7d") as storage:
        _commit(storage, *RECORDS[0])
        _commit(storage, _record(ROOT_OID))
        storage.pack()
    removed, stored = _json(durus, "sqlite:app.db", "1")["versions"]
    assert (removed["removed"], removed["record_bytes"], removed["class"]) == (True, None, None)
    assert not stored["removed"]
    assert "removed by a pack" in durus("history", "sqlite:app.db", "1").stdout
    assert _json(durus, "sqlite:app.db")["transactions"][0]["objects"] == 0


def test_no_history_is_an_error(durus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that keeps none says how to keep it."""
    pytest.importorskip("durus.sqlite_storage", reason="durus-sqlite is not installed here")
    monkeypatch.chdir(durus.folder)
    with open_storage("sqlite:app.db") as storage:
        _commit(storage, *RECORDS[0])
    assert 'open it with history="7d"' in durus.error("history", "sqlite:app.db")
    assert 'open it with history="7d"' in durus.error("history", "sqlite:app.db", "1")


def test_an_object_that_was_never_there(durus: Any, url: str) -> None:
    """It is an error, and so is a path that leads nowhere."""
    assert durus.error("history", url, "99") == "no record is stored under oid 99"
    assert "refers to no persistent object at .x" in durus.error("history", url, "root.x")


def test_a_server_tells_as_its_file_does(durus: Any, serve: Any, url: str) -> None:
    """Through a server the same is told, also of what is committed through it meanwhile."""
    serve(url).ready()
    path = durus.folder / url.removeprefix("sqlite:").partition("?")[0].removeprefix("file2:")
    with (
        open_storage(f"durus+unix:{durus.folder / 'a.sock'}") as client,
        open_storage(path, readonly=True) as beside,
    ):
        for payload in ("one", "two"):
            _commit(client, _record(ONE, payload=payload))
            beside.sync()
            assert list(gen_transactions(client)) == list(gen_transactions(beside))
            assert list(gen_versions(client, ONE)) == list(gen_versions(beside, ONE))
        assert len(list(gen_transactions(client))) >= 5


def test_a_server_that_cannot_tell(durus: Any, serve: Any) -> None:
    """What keeps no history has none through a server either, which sends to the file."""
    pytest.importorskip("durus.sqlite_storage", reason="durus-sqlite is not installed here")
    serve("sqlite:app.db").ready()
    told = durus.error("history", "durus+unix:a.sock")
    assert "tells nothing of the past" in told
    assert "give the file that it serves" in told


def test_a_storage_without_history() -> None:
    """The library says so too, before it yields anything."""
    storage = MemoryStorage()
    with pytest.raises(NotSupportedError):
        list(gen_transactions(storage))
    with pytest.raises(NotSupportedError):
        list(gen_versions(storage, ROOT_OID))


def test_versions_read_no_more_than_they_are_asked_for(tmp_path: Path) -> None:
    """The newest version is told without a look at all commits, and how far it came is told."""
    with open_storage(tmp_path / "app.durus") as storage:
        for n in range(50):
            _commit(storage, _record(ROOT_OID, payload=str(n)))
        seen: list[int] = []
        assert next(gen_versions(storage, ROOT_OID, seen.append)).serial == 50
        assert seen == [1]
        assert len(list(gen_versions(storage, ROOT_OID, seen.append))) == 50
        assert seen[-1] == 50
        with pytest.raises(DurusKeyError):
            list(gen_versions(storage, ONE))
