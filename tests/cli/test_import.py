"""`durus import`: all of an export or nothing, whatever the lines say."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.backends import open_storage
from durus.connection import Connection
from durus.error import StorageFormatError
from durus.storage import MemoryStorage
from durus.tools import _json_states
from durus.tools.export import import_lines, is_blank

ROOT_CLASS = "durus.persistent_dict.PersistentDict"


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _root(value: Any, **other: Any) -> bytes:
    """Give the line of a root whose state is `value`."""
    return _line({"oid": 0, "class": ROOT_CLASS, "state": value} | other)


def _export_of(*objects: bytes, **footer: Any) -> list[bytes]:
    """Give an export that is whole, with the footer's keys changed as given."""
    lines = [_line({"durus_export": 1}), *objects]
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    end = {"durus_export_end": 1, "objects": len(objects), "sha256": digest} | footer
    return [*lines, _line({key: value for key, value in end.items() if value is not None})]


def _refusal(lines: list[bytes]) -> str:
    """Give why lines are refused, after checking that nothing is stored of them."""
    storage = MemoryStorage()
    with pytest.raises(StorageFormatError) as caught:
        import_lines(lines, storage, "app.jsonl")
    assert list(storage.gen_oid_record()) == []
    assert len(str(caught.value)) < 400
    return str(caught.value)


def _value(form: Any, *shared: Any) -> Any:
    """Give what a form is in the loaded root."""
    storage = MemoryStorage()
    import_lines(_export_of(_root({"data": {"value": form}}, shared=list(shared))), storage, "x")
    return Connection(storage).get_root()["value"]


MALFORMED = {
    "no JSON": (b"{\n", "it is no JSON"),
    "not UTF-8": (b'"\xff"\n', "not UTF-8"),
    "nested a million deep": (b"[" * 1_000_000 + b"]" * 1_000_000 + b"\n", "nested too deeply"),
    "not an object": (b"[1]\n", "an object is"),
    "no state": (_line({"oid": 0, "class": ROOT_CLASS}), "an object is"),
    "unknown key": (_root(None, extra=1), "no 'extra'"),
    "repeated key": (b'{"oid":0,"oid":1,"class":"a.B","state":null}\n', "'oid' twice"),
    "negative oid": (_root(None, oid=-1), "an oid is an integer"),
    "oid of the storage": (_root(None, oid=2**64 - 1), "an oid is an integer"),
    "oid as text": (_root(None, oid="0"), "an oid is an integer"),
    "deep oid": (
        b'{"oid":' + b"[" * 400 + b"]" * 400 + b',"class":"a.B","state":1}\n',
        "an oid is",
    ),
    "true as oid": (_root(None, oid=True), "an oid is an integer"),
    "class without module": (_root(None, **{"class": "Order"}), "a class is named"),
    "class with a newline": (_root(None, **{"class": "shop\nOrder.x"}), "a class is named"),
    "class that is no text": (_root(None, **{"class": 1}), "class is a text"),
    "shared that is no list": (_root(None, shared={}), "shared is a list"),
    "NaN": (b'{"oid":0,"class":"a.B","state":NaN}\n', "NaN is no JSON"),
    "float too large": (b'{"oid":0,"class":"a.B","state":1e999}\n', "more than a float"),
    "int too long": (
        b'{"oid":0,"class":"a.B","state":' + b"9" * 1_000_000 + b"}\n",
        "1000000 digits",
    ),
    "unknown tag": (_root({"$nothing": 1}), "'$nothing', which is no tag"),
    "two tags": (_root({"$set": [], "$tuple": []}), "which is no tag here"),
    "beside a tag": (_root({"$set": [], "x": 1}), "beside $set stands 'x'"),
    "tag of the wrong type": (_root({"$tuple": 1}), "$tuple is a list"),
    "bad base64": (_root({"$bytes": "a"}), "$bytes is base64"),
    "bad surrogates": (_root({"$str": "/w=="}), "can't decode"),
    "bad $int": (_root({"$int": "1f"}), "$int is a text"),
    "bad $float": (_root({"$float": 1}), "$float is"),
    "bad $complex": (_root({"$complex": [1]}), "two parts"),
    "bad $dict": (_root({"$dict": [[1]]}), "[key, value]"),
    "bad $decimal": (_root({"$decimal": "one"}), "$decimal"),
    "bad $uuid": (_root({"$uuid": "1"}), "UUID"),
    "bad $date": (_root({"$date": "2026-02-30"}), "day"),
    "bad $datetime": (_root({"$datetime": "2026-01-01T00:00:00+02:00"}), "under tz"),
    "bad $timedelta": (_root({"$timedelta": [1]}), "$timedelta"),
    "bad $ref": (_root({"$ref": 2**64, "class": "a.B"}), "$ref is an integer"),
    "$ref without class": (_root({"$ref": 0}), "the class of a $ref"),
    "bad $object": (_root({"$object": 1}), "made by a class"),
    "kwargs that are no dict": (_root({"$object": "a.B", "kwargs": []}), "kwargs"),
    "a list as a key": (_root({"$dict": [[[], 1]]}), "cannot be a key"),
    "a shared list as a key": (_root({"$dict": [[{"$shared": 0}, 1]]}, shared=[[]]), "cannot be"),
    "a dict in a set": (_root({"$set": [{}]}), "cannot be a member"),
    "shared that is not there": (_root({"$shared": 0}), "$shared is an integer"),
    "a tuple in itself": (
        _root({"$shared": 0}, shared=[{"$tuple": [{"$shared": 0}]}]),
        "shared value 0 is made of itself",
    ),
    "a name for itself": (_root({"$shared": 0}, shared=[{"$shared": 0}]), "made of itself"),
}


@pytest.mark.parametrize(("line", "text"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_line_is_told_by_its_number(line: bytes, text: str) -> None:
    """Each error names the line and what is wrong with it, and nothing is stored."""
    told = _refusal(_export_of(_line({"oid": 5, "class": "a.B", "state": None}), line))
    assert told.startswith("line 3 of app.jsonl is refused, and nothing was imported: ")
    assert text in told


WHOLE = _export_of(_root({"data": {}}), _line({"oid": 1, "class": "a.B", "state": None}))

INCOMPLETE = {
    "nothing": ([], "ends after line 0"),
    "another file": ([b'{"a": 1}\n', *WHOLE[1:]], "no export of Durus begins so"),
    "a list": ([b"[]\n"], "no export of Durus begins so"),
    "a later form": ([b'{"durus_export": 2}\n'], "form 2"),
    "no footer": (WHOLE[:-1], "ends after line 3"),
    "cut footer": ([*WHOLE[:-1], WHOLE[-1][:30]], "line 4 of app.jsonl"),
    "footer without newline": ([*WHOLE[:-1], WHOLE[-1][:-1]], "the end of the line is missing"),
    "a line left out": ([*WHOLE[:2], *WHOLE[3:]], "says that there are 2 objects, and 1"),
    "a byte changed": (
        [WHOLE[0], WHOLE[1].replace(b"{}", b"{ }"), *WHOLE[2:]],
        "checksum is wrong",
    ),
    "header changed": ([b'{"durus_export":1}\n', *WHOLE[1:]], "checksum is wrong"),
    "more behind it": ([*WHOLE, b"\n"], "line 5 of app.jsonl"),
    "an oid twice": (_export_of(_root(1), _root(2)), "oid 0 is there twice"),
    "no root": (_export_of(_line({"oid": 1, "class": "a.B", "state": None})), "no root"),
    "no object": (_export_of(), "no root"),
    "dangling": (_export_of(_root({"$ref": 7, "class": "a.B"})), "line 2 refers to oid 7"),
    "footer of another form": (_export_of(_root(1), durus_export_end=2), "form 2"),
}


@pytest.mark.parametrize(("lines", "text"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_an_export_that_is_not_whole_is_refused(lines: list[bytes], text: str) -> None:
    """A cut, changed or incomplete export is told as such, and nothing is stored."""
    assert text in _refusal(lines)


def test_every_cut_is_found() -> None:
    """An export cut at any byte is refused."""
    whole = b"".join(WHOLE)
    for length in range(len(whole)):
        _refusal(whole[:length].splitlines(keepends=True))


def test_changed_on_purpose() -> None:
    """Without the checksum in its last line a changed export is taken; the count must hold."""
    lines = _export_of(_root({"data": {"n": 1}}), sha256=None)
    lines[1] = lines[1].replace(b'"n": 1', b'"n": 2')
    storage = MemoryStorage()
    assert import_lines(lines, storage, "changed") == 1
    assert Connection(storage).get_root()["n"] == 2


def test_a_shared_value_may_be_a_name_of_another() -> None:
    """A chain of names, however long, leads to the one value."""
    names = [{"$shared": number + 1} for number in range(50_000)]
    value = _value([{"$shared": 0}, {"$shared": 40_000}], *names, [1])
    assert value == [[1], [1]]
    assert value[0] is value[1]


def test_deep_shared_values() -> None:
    """Values nested as deep as nobody could write them at once are no danger to the import."""
    links = [[{"$shared": number + 1}] for number in range(50_000)]
    value = _value({"$shared": 0}, *links, "end")
    for _ in range(50_000):
        (value,) = value
    assert value == "end"


def test_a_tuple_in_very_many_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tuple in lists in itself comes back; one whose writing would take for ever is refused."""
    parts = [[{"$shared": 0}] for _ in range(100)]
    value = _value({"$shared": 0}, {"$tuple": parts})
    assert all(part[0] is value for part in value)
    monkeypatch.setattr(_json_states, "_MOST_STEPS", 1000)
    lines = _export_of(_root({"$shared": 0}, shared=[{"$tuple": parts}]))
    assert "shared value 0 is made of itself in too many ways" in _refusal(lines)


def test_no_line_takes_the_square_of_its_length() -> None:
    """What is refused is refused at once, however many keys or names of one value are in it."""
    keys = ",".join(f'"{number}":1' for number in range(200_000))
    line = f'{{"oid":0,"class":"a.B","state":{{{keys},"199999":1}}}}\n'.encode()
    assert "the key '199999' twice" in _refusal(_export_of(line))
    no_key = {**dict.fromkeys(map(str, range(50_000)), 1), "$tuple": []}
    names = [{"$shared": 0}] * 50_000
    assert "beside $tuple" in _refusal(_export_of(_root({"$set": names}, shared=[no_key])))


def test_large_states_are_compressed(tmp_path: Path) -> None:
    """A long state that compresses takes less room than its text."""
    lines = _export_of(_root({"data": {"text": "word " * 100_000}}))
    with open_storage(tmp_path / "app.durus") as storage:
        import_lines(lines, storage, "x")
    assert (tmp_path / "app.durus").stat().st_size < 50_000
    with Connection(tmp_path / "app.durus") as connection:
        assert connection.get_root()["text"] == "word " * 100_000


def test_blank_storages() -> None:
    """A storage is blank without objects, or with a root that nobody used."""
    storage = MemoryStorage()
    assert is_blank(storage)
    connection = Connection(storage)
    assert is_blank(storage)
    connection.get_root()["n"] = 1
    connection.commit()
    assert not is_blank(storage)


@pytest.fixture
def exported(durus: Any, database: Path) -> Path:
    """An export of the database of 4 objects that the root reaches."""
    durus("export", database, "app.jsonl")
    path: Path = durus.folder / "app.jsonl"
    return path


@pytest.mark.parametrize("name", ["new.durus", "file2:new.dfs", "sqlite:new%20one.db", "-x"])
def test_into_a_new_file(durus: Any, exported: Path, look: Any, database: Path, name: str) -> None:
    """A new file of any back-end holds the same, and nothing else is left beside it."""
    if name.startswith("sqlite:"):
        pytest.importorskip("durus.sqlite_storage", reason="durus-sqlite is not installed here")
    told = durus("import", "--", exported, name).stdout
    assert told == f"imported {exported}: 4 objects to {name}\n"
    path = durus.folder / name.rpartition(":")[2].replace("%20", " ")
    assert look(path) == look(database)
    assert not [found for found in durus.folder.iterdir() if ".importing-" in found.name]
    again = durus("export", "--", name).stdout.splitlines()
    assert again[1:-1] == exported.read_text().splitlines()[1:-1]


def test_from_stdin(durus: Any, exported: Path, look: Any, database: Path) -> None:
    """FILE - is stdin."""
    told = durus("import", "-", "new.durus", input=exported.read_text()).stdout
    assert told == "imported stdin: 4 objects to new.durus\n"
    assert look(durus.folder / "new.durus") == look(database)


def test_what_is_there_is_kept(durus: Any, exported: Path, database: Path) -> None:
    """Without --into a file is never touched; with it, one that holds objects is not."""
    before = database.read_bytes()
    assert "there is a" in durus.error("import", exported, database)
    assert "holds objects" in durus.error("import", exported, database, "--into")
    (durus.folder / "empty").touch()
    assert "there is a" in durus.error("import", exported, "empty")
    assert database.read_bytes() == before


def test_a_refused_import_leaves_no_file(durus: Any, exported: Path) -> None:
    """The file is there when it is whole, or not at all."""
    lines = exported.read_bytes().splitlines(keepends=True)
    exported.write_bytes(b"".join(lines[:-1]))
    before = {path.name for path in durus.folder.iterdir()}
    assert "it was cut" in durus.error("import", exported, "new.durus")
    assert {path.name for path in durus.folder.iterdir()} == before


def test_batches_leave_no_half_file(
    durus: Any, exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An import in several transactions that fails in a late one leaves nothing either."""
    from durus.tools import export

    monkeypatch.setattr(export, "_BATCH_BYTES", 1)
    lines = exported.read_bytes().splitlines(keepends=True)
    folder = tmp_path / "there"
    folder.mkdir()
    with pytest.raises(StorageFormatError):
        export.import_into_new_file(lines[:-1], folder / "a", open_storage, "x")
    assert list(folder.iterdir()) == []
    assert export.import_into_new_file(lines, folder / "a", open_storage, "x") == 4
    assert [path.name for path in folder.iterdir()] == ["a"]
    with open_storage(folder / "a", readonly=True) as storage:
        assert len(list(storage.gen_commits())) == 4


def test_a_killed_import_leaves_no_database(durus: Any, exported: Path) -> None:
    """At SIGKILL there is no file of that name; the next import removes what is left, no more."""
    lines = exported.read_bytes().splitlines(keepends=True)
    mine = durus.folder / "new.durus.importing-12345678"
    mine.mkdir()
    (mine / "notes").touch()

    def start() -> tuple[subprocess.Popen[bytes], Path]:
        """Start an import that waits for its last line; give it and where it works."""
        before = set(durus.folder.glob("new.durus.importing-*/new.durus"))
        process = subprocess.Popen(
            [*durus.words, "import", "-", "new.durus"],
            cwd=durus.folder,
            env=durus.environment,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        durus.processes.append(process)
        assert process.stdin is not None
        process.stdin.write(b"".join(lines[:-1]))
        process.stdin.flush()
        while not (made := set(durus.folder.glob("new.durus.importing-*/new.durus")) - before):
            assert process.poll() is None
        return process, made.pop().parent

    killed, left = start()
    killed.kill()
    killed.communicate()
    assert left.exists()
    assert not (durus.folder / "new.durus").exists()
    living, used = start()
    assert not left.exists()
    durus("import", exported, "new.durus")
    assert used.exists()
    _, told = living.communicate(lines[-1])
    assert b"there is a 'new.durus' already" in told
    assert list(durus.folder.glob("new.durus.importing-*")) == [mine]


def test_no_such_place(durus: Any, exported: Path) -> None:
    """Where nothing can be made: what was tried, and what the system says."""
    assert "tried to import" in durus("import", exported, "nowhere/new.durus", status=1).stderr


def test_somebody_else_made_the_file(exported: Path, tmp_path: Path) -> None:
    """A file that appears while the import runs is not overwritten."""
    from durus.error import StorageOpenError
    from durus.tools.export import import_into_new_file

    target = tmp_path / "taken"

    def lines() -> Any:
        yield from exported.read_bytes().splitlines(keepends=True)
        target.write_text("theirs")

    with pytest.raises(StorageOpenError):
        import_into_new_file(lines(), target, open_storage, "x")
    assert target.read_text() == "theirs"


def test_into_an_empty_file(durus: Any, exported: Path, look: Any, database: Path) -> None:
    """--into fills a database that is there, and whose root nobody used, in one transaction."""
    durus("shell", "new.durus", "--create", input="commit()\n")
    durus("import", exported, "new.durus", "--into")
    assert look(durus.folder / "new.durus") == look(database)


def test_a_refused_import_into_an_empty_file(durus: Any, exported: Path, look: Any) -> None:
    """Nothing of a malformed export is in the database that is there."""
    durus("shell", "new.durus", "--create", input="commit()\n")
    lines = exported.read_bytes().splitlines(keepends=True)
    exported.write_bytes(b"".join([*lines[:-2], lines[-1]]))
    durus.error("import", exported, "new.durus", "--into")
    assert look(durus.folder / "new.durus") == {}


@pytest.mark.parametrize("makes_root", [False, True])
def test_into_a_server(
    durus: Any,
    exported: Path,
    serve: Callable[..., Any],
    look: Any,
    database: Path,
    makes_root: bool,
) -> None:
    """--into fills an empty database that a server has open, with the same oids."""
    server = serve(durus.folder / "new.durus").ready()
    if makes_root:
        server.shell("commit()\n")
    durus("import", exported, "durus+unix:a.sock", "--into")
    again = durus("export", "durus+unix:a.sock").stdout.splitlines()
    assert again[1:-1] == exported.read_text().splitlines()[1:-1]
    assert "holds objects" in durus.error("import", exported, "durus+unix:a.sock", "--into")
    server.stop()
    assert look(durus.folder / "new.durus") == look(database)


def test_a_server_is_no_new_file(durus: Any, exported: Path) -> None:
    """Without --into the target must be a file that can be made."""
    told = durus.error("import", exported, "durus+unix:a.sock", status=2)
    assert "--into" in told
