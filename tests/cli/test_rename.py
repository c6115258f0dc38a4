"""`durus rename`: what is renamed, on every storage, and that it is all or nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.backends import open_storage
from durus.error import ConflictError, DurusError
from durus.serialize import pack_record
from durus.storage import Storage
from durus.tools.rename import RenameError, Renaming, apply, plan, rename_record
from durus.utils import int8_to_str

GOLDEN = Path(__file__).parents[1] / "compat" / "golden"

MODELS = """
from durus.persistent import Persistent

class Order(Persistent):
    class Line:
        pass
"""

MAKE = """
import shop.models
order = root["order"] = shop.models.Order()
order.line = order.Line()
order.other = shop.models.Order()
order.text = "shop.models"
commit()
"""

LOOK = """
order = root["order"]
print(type(order), type(order.line), type(order.other), order.text)
"""

PLACES = ["app.durus", "file2:app.durus", "sqlite:app.sqlite"]

Records = dict[bytes, bytes]


@pytest.fixture
def make(durus: Any) -> Callable[..., Path]:
    """A function that makes a database of orders."""
    for module in ("models", "model", "models2"):
        path = durus.folder / "shop" / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(MODELS)
    durus.see(durus.folder)

    def make(place: str = "app.durus", script: str = MAKE) -> str:
        durus("shell", place, "--create", input=script)
        return place

    return make


def _records(place: str | Path) -> Records:
    with open_storage(place, readonly=True) as storage:
        return dict(storage.gen_oid_record())


@pytest.mark.parametrize("place", PLACES)
def test_a_module_on_every_storage(
    durus: Any, make: Any, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records, references and plain objects get the new name; texts that read like it stay."""
    monkeypatch.chdir(durus.folder)
    make(place)
    told = durus("rename", place, "shop.models", "shop.model").stdout
    assert told == (
        "shop.models.Order -> shop.model.Order: 4 times\n"
        "shop.models.Order.Line -> shop.model.Order.Line: 1 time\n"
        "changed 5 names in 3 records of 3\n"
    )
    shutil.move(durus.folder / "shop" / "models.py", durus.folder / "away.py")
    assert durus("shell", place, input=LOOK).stdout == (
        "<class 'shop.model.Order'> <class 'shop.model.Order.Line'> <class 'shop.model.Order'>"
        " shop.models\n"
    )


def test_a_running_server(durus: Any, make: Any, serve: Any) -> None:
    """A server is asked like a file, and its other clients see the new names."""
    make()
    server = serve("app.durus").ready()
    durus("rename", "durus+unix:a.sock", "shop.models", "shop.model", "--dry-run")
    assert "shop.models.Order'" in server.shell(LOOK)
    durus("rename", "durus+unix:a.sock", "shop.models", "shop.model")
    assert "shop.model.Order.Line'" in server.shell(LOOK)


def test_neither_class_is_imported(durus: Any, make: Any) -> None:
    """The old module and the new one need not exist."""
    make()
    shutil.rmtree(durus.folder / "shop")
    durus("rename", "app.durus", "shop.models.Order", "elsewhere.Purchase")
    assert "elsewhere.Purchase" in durus("info", "app.durus").stdout


def test_a_dry_run_changes_nothing(durus: Any, make: Any) -> None:
    """It tells the same, of a file that somebody else has open to write, and writes nothing."""
    make()
    path = durus.folder / "app.durus"
    before = path.read_bytes()
    with open_storage(path):
        dry = durus("rename", "app.durus", "shop.models", "shop.model", "--dry-run").stdout
    assert path.read_bytes() == before
    done = durus("rename", "app.durus", "shop.models", "shop.model").stdout
    assert dry == done.replace("changed", "would change")
    assert path.read_bytes() != before


def test_json(durus: Any, make: Any) -> None:
    """The keys are those of the page."""
    make()
    arguments = ("rename", "app.durus", "shop.models.Order.Line", "shop.lines:Line", "--json")
    answer = json.loads(durus(*arguments).stdout)
    assert answer == {
        "durus_rename": 1,
        "database": "app.durus",
        "old": "shop.models.Order.Line",
        "new": "shop.lines:Line",
        "kind": "class",
        "dry_run": False,
        "objects": 3,
        "changed": 1,
        "names": [{"old": "shop.models.Order.Line", "new": "shop.lines.Line", "count": 1}],
    }


def test_there_and_back_is_the_same(durus: Any, make: Any) -> None:
    """A renaming is undone by another: the classes are those of before, and so are the states."""
    make()
    durus("rename", "app.durus", "shop.models.Order", "shop.model.Purchase")
    durus("rename", "app.durus", "shop.model.Purchase", "shop.models.Order")
    assert "shop.models.Order.Line'" in durus("shell", "app.durus", input=LOOK).stdout


@pytest.mark.parametrize("golden", ["shelf-plain", "dfs20-plain", "dfs20-python2"])
def test_files_of_older_versions(durus: Any, golden: str) -> None:
    """What Durus 4.3, or 4.2 under Python 2, wrote is renamed; the rest stays byte for byte."""
    path = durus.folder / "old.durus"
    shutil.copyfile(GOLDEN / f"{golden}.durus", path)
    before = _records(path)
    durus("rename", path, "durus.persistent_dict.PersistentDict", "my.dicts.Dict")
    changed = _records(path)
    assert changed != before
    assert b"durus.persistent_dict" not in b"".join(changed.values())
    for oid, record in before.items():
        if b"durus.persistent_dict\n" not in record and record[13:] == changed[oid][13:]:
            assert changed[oid] == record
    durus("rename", path, "my.dicts.Dict", "durus.persistent_dict.PersistentDict")
    assert _records(path) == before


def test_a_prefix_of_letters_is_no_match(durus: Any, make: Any) -> None:
    """A module is renamed, not those whose names begin with the same letters."""
    make(script="import shop.models2; root['n'] = shop.models2.Order(); commit()")
    message = durus.error("rename", "app.durus", "shop.models", "shop.x")
    assert message.startswith("no record names shop.models; close to it: shop.models2")
    message = durus.error("rename", "app.durus", "shop.models2.Ord", "shop.x.Ord")
    assert "shop.models2.Order" in message
    message = durus.error("rename", "app.durus", "zzz", "shop.x")
    assert message == "no record names zzz, nor anything like it"


def _store(place: str | Path, *states: bytes) -> None:
    with open_storage(place) as storage:
        storage.begin()
        for number, state in enumerate(states):
            oid = int8_to_str(number)
            data = b"\x80\x02cdurus.persistent\nPersistent\nq\0." + state
            storage.store(oid, pack_record(oid, data, b""))
        storage.end()


def test_a_class_that_is_called_like_a_module(durus: Any) -> None:
    """If OLD is both, nothing is changed until one says which."""
    _store(durus.folder / "app.durus", b"cshop\nmodels\n.", b"cshop.models\nOrder\n.")
    names = "rename", "app.durus", "shop.models", "shop.other"
    assert "both a class and a module" in durus.error(*names)
    assert "shop.models -> shop.other: 1 time" in durus(*names, "--dry-run", "--class").stdout
    told = durus(*names, "--dry-run", "--module").stdout
    assert "shop.models.Order -> shop.other.Order: 1 time" in told
    assert "not both" in durus.error(*names, "--class", "--module", status=2)


def test_what_is_something_else(durus: Any) -> None:
    """Where OLD is not what NEW or an option takes it for, that is said, and what to do."""
    _store(durus.folder / "app.durus", b"\x80\x04\x8c\x06shop.m\x8c\x0bOuter.Inner\x93.")
    for old in ("shop.m.Outer.Inner", "shop.m.Outer"):
        a_class = f"tried to rename the module {old}, but that is a class here"
        message = durus.error("rename", "app.durus", old, "Inner")
        assert message == (
            f"{a_class}, and 'Inner' names no module; write MODULE:CLASS, such as shop.m:Inner"
        )
        message = durus.error("rename", "app.durus", old, "n.m", "--module")
        assert message == f"{a_class}; say --class in place of --module"
    a_module = "tried to rename the class shop.m, but that is a module here"
    assert durus.error("rename", "app.durus", "shop.m", "n:m").startswith(a_module)
    message = durus.error("rename", "app.durus", "shop.m", "n.m", "--class")
    assert message == f"{a_module}; say --module in place of --class"
    told = durus("rename", "app.durus", "shop.m.Outer.Inner", "shop.m:Inner").stdout
    assert "shop.m.Outer.Inner -> shop.m.Inner: 1 time" in told


@pytest.mark.parametrize(
    "new", ["", "a..b", "a b.c", "a.b\nc", "a:b:c", "9.x", "shop.models.Order"]
)
def test_what_is_no_name(durus: Any, make: Any, new: str) -> None:
    """A new name that Python could not import is refused before anything is read."""
    make()
    before = _records(durus.folder / "app.durus")
    durus.error("rename", "app.durus", "shop.models.Order", new)
    assert _records(durus.folder / "app.durus") == before


def test_a_nested_class_needs_a_module() -> None:
    """A name too short for a module and as many classes as before says how to write it."""
    renaming = Renaming("class", "shop.models.Order.Line", "models.Line")
    with pytest.raises(RenameError, match="MODULE:CLASS"):
        renaming("shop.models", "Order.Line")
    with pytest.raises(RenameError, match="names no module"):
        Renaming("class", "shop.models.Order", "Order")


def test_a_damaged_record_stops_it(durus: Any) -> None:
    """What is not understood is an error with the oid, and the records before it stay too."""
    path = durus.folder / "app.durus"
    _store(path, b"cshop.models\nOrder\n.", b"cshop.models\nOrder\n")
    before = path.read_bytes()
    message = durus.error("rename", "app.durus", "shop.models", "shop.model")
    assert message.startswith("the record of oid 1 is not understood: ")
    assert path.read_bytes() == before


def _conflict(mine: Storage, other: Storage) -> None:
    mine.sync()
    report = plan(mine, "shop.models", "shop.model")
    record = other.load(int8_to_str(1))
    other.begin()
    other.store(int8_to_str(1), record)
    other.end()
    with pytest.raises(ConflictError):
        apply(mine, report)
    other.sync()
    assert b"shop.models\n" in other.load(int8_to_str(0))
    # Afterwards it works.
    mine.sync()
    apply(mine, plan(mine, "shop.models", "shop.model"))
    other.sync()
    assert b"shop.models\n" not in other.load(int8_to_str(0))


def test_a_commit_meanwhile_into_sqlite(tmp_path: Path) -> None:
    """Somebody else's commit, be it of a record that is not renamed, is a conflict."""
    url = f"sqlite:{tmp_path / 'app.sqlite'}"
    _store(url, b"cshop.models\nOrder\n.", b"N.")
    with open_storage(url) as mine, open_storage(url) as other:
        _conflict(mine, other)


def test_a_commit_meanwhile_through_a_server(durus: Any, serve: Any) -> None:
    """The same through a server."""
    path = durus.folder / "app.durus"
    refs = int8_to_str(1)
    _store(path, b"N.", b"N.")
    with open_storage(path) as storage:
        storage.begin()
        data = b"\x80\x02cdurus.persistent\nPersistent\nq\0.cshop.models\nOrder\n."
        storage.store(int8_to_str(0), pack_record(int8_to_str(0), data, refs))
        storage.end()
    serve("app.durus").ready()
    url = f"durus+unix:{durus.folder / 'a.sock'}"
    with open_storage(url) as mine, open_storage(url) as other:
        _conflict(mine, other)


def test_the_command_tells_of_a_conflict(durus: Any) -> None:
    """A conflict is one line that says what to do."""
    durus.plug_in(
        "busy-storage",
        "[durus.storages]\nbusy = busy_storage:Busy\n",
        busy_storage="""
        from durus.serialize import pack_record
        from durus.storage import MemoryStorage

        class Busy(MemoryStorage):
            def __init__(self, url, **options):
                super().__init__()
                self.begin()
                data = b"\\x80\\x02cshop.models\\nOrder\\nq\\0.N."
                self.store(b"\\0" * 8, pack_record(b"\\0" * 8, data, b""))
                self.end()

            def end(self, handle_invalidations=None):
                if handle_invalidations:
                    handle_invalidations([b"\\0" * 8])
                super().end()
        """,
    )
    message = durus.error("rename", "busy:x", "shop.models", "shop.model")
    assert message == (
        "somebody else committed to busy:x while shop.models was being renamed; nothing is changed:"
        " stop the programs that write to it, or try again"
    )


def test_a_power_cut_while_it_is_stored(tmp_path: Path) -> None:
    """A process that is killed before the end of the transaction leaves all as it was."""
    path = tmp_path / "app.durus"
    _store(path, b"cshop.models\nOrder\n.", b"cshop.models\nOrder\n.")
    before = _records(path)
    script = """
import os, sys
from durus.backends import open_storage
from durus.tools.rename import apply, plan
storage = open_storage(sys.argv[1])
apply(storage, plan(storage, "shop.models", "shop.model"), lambda done: done == 2 and os._exit(9))
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert done.returncode == 9
    assert _records(path) == before


def test_errors_are_ours() -> None:
    """A program catches what it asked for wrongly as DurusError or ValueError."""
    assert issubclass(RenameError, DurusError)
    assert issubclass(RenameError, ValueError)


def test_a_nested_class_as_durus_43_pickled_it() -> None:
    """`getattr(Outer, "Inner")` becomes the new name, be Outer renamed or not."""
    class_ = b"\x80\x02cdurus.persistent\nPersistent\nq\0."
    state = b"\x80\x02c__builtin__\ngetattr\nq\1cm\nOuter\nq\2X\5\0\0\0Innerq\3\x86q\4Rq\5."
    record = pack_record(bytes(8), class_ + state, b"")
    renamed = rename_record(record, Renaming("class", "m.Outer.Inner", "n:Inner"))
    assert renamed is not None
    assert renamed[0][12:] == class_ + state.replace(b"Rq\5", b"00cn\nInner\nq\5")
    renamed = rename_record(record, Renaming("class", "m.Outer", "n.Around"))
    assert renamed is not None
    assert renamed[0][12:] == class_ + state.replace(b"cm\nOuter", b"cn\nAround")
    assert renamed[1].total() == 1
