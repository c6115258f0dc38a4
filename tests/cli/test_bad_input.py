"""What goes wrong in a person's hands: one clear line on stderr, status 1, nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from durus.backends import installed_storages, open_storage
from durus.connection import Connection
from durus.serialize import pack_record
from durus.utils import int8_to_str

COMMANDS = [("shell",), ("shell", "--readonly"), ("pack",), ("info",)]
# Where it is installed, test_serve.py says what happens.
without_server = pytest.mark.skipif(
    any(storage.name == "durus" for storage in installed_storages()),
    reason="durus-server is installed; tox -e cli runs without it",
)

without_sqlite = pytest.mark.skipif(
    any(storage.name == "sqlite" for storage in installed_storages()),
    reason="durus-sqlite is installed; tox -e cli runs without it",
)

each_command = pytest.mark.parametrize("command", COMMANDS, ids=" ".join)


def _content(folder: Path) -> list[tuple[str, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted((str(path), path.read_bytes()) for path in files)


@each_command
@pytest.mark.parametrize(
    "name", ["missing.durus", "no/such/folder/app.durus", "file:missing.durus"]
)
def test_a_missing_file(durus: Any, command: tuple[str, ...], name: str) -> None:
    """A file that is not there is named, and not made."""
    assert f"there is no file '{name.removeprefix('file:')}'" in durus.error(*command, name)
    assert _content(durus.folder) == []


def test_create_in_a_missing_folder(durus: Any) -> None:
    """--create makes a file, not the folders above it."""
    assert "no/such/folder/app.durus" in durus.error(
        "shell", "no/such/folder/app.durus", "--create"
    )


@each_command
@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is a letter\n",
        b"\x00" * 100,
        os.urandom(2000),
        b"S",
        b"SHELF-2\n" + b"\0" * 99,
    ],
    ids=["text", "zeros", "noise", "one byte", "a later format"],
)
def test_not_a_database(durus: Any, command: tuple[str, ...], content: bytes) -> None:
    """A file of something else is told to be no database, and stays as it is."""
    (durus.folder / "letter").write_bytes(content)
    assert "'letter' is not a database" in durus.error(*command, "letter")
    assert _content(durus.folder) == [(str(durus.folder / "letter"), content)]


@each_command
def test_another_format(durus: Any, database: Path, command: tuple[str, ...]) -> None:
    """A URL that asks for another format than the file's names both."""
    before = _content(durus.folder)
    said = durus.error(*command, "file2:app.durus")
    assert "app.durus" in said
    assert "FileStorage" in said
    assert _content(durus.folder) == before


@without_sqlite
@each_command
def test_a_back_end_that_is_not_installed(durus: Any, command: tuple[str, ...]) -> None:
    """A known format or scheme without its package says what to install."""
    (durus.folder / "app.sqlite").write_bytes(b"SQLite format 3\0" + b"\0" * 84)
    for name in ("app.sqlite", "sqlite:app.sqlite"):
        assert "pip install durus-sqlite" in durus.error(*command, name)
    said = durus.error(*command, "mongo:app")
    assert "no back-end for 'mongo:' is installed (installed: " in said
    assert "file, file2, memory" in said


@without_server
@each_command
def test_a_server_that_cannot_be_asked(durus: Any, command: tuple[str, ...]) -> None:
    """A server's URL without durus-server says what to install."""
    assert "pip install durus-server" in durus.error(*command, "durus://localhost:2972")


@without_server
@pytest.mark.parametrize("command", [("-c",), ("-p",), ("shell",), ("pack",)], ids=" ".join)
def test_no_server_to_ask(durus: Any, command: tuple[str, ...]) -> None:
    """Without a file 4.3 asks a server: the line says where, and what is missing for it."""
    said = durus.error(*command)
    assert "the server at durus://127.0.0.1:2972" in said
    assert "pip install durus-server" in said
    assert "durus://[::1]:2973" in durus.error(*command, "--host", "::1", "--port", "2973")
    assert "durus+unix:/run/my%20durus" in durus.error(*command, "--address", "/run/my durus")


@without_server
@pytest.mark.parametrize("command", [("-c",), ("-p",)], ids=" ".join)
def test_a_server_is_asked_through_its_back_end(durus: Any, command: tuple[str, ...]) -> None:
    """As soon as somebody provides `durus:` the same words reach them."""
    durus.plug_in(
        "some-server",
        "[durus.storages]\ndurus = some_server:Client\n",
        some_server="""
        from durus.error import StorageOpenError
        from durus.storage import MemoryStorage

        class Client(MemoryStorage):
            def __init__(self, address):
                raise StorageOpenError(f"nobody answers at {address}")
        """,
    )
    assert durus.error(*command, "--port", "2973") == "nobody answers at 127.0.0.1:2973"


@each_command
def test_a_directory(durus: Any, command: tuple[str, ...]) -> None:
    """A directory is told to be one."""
    (durus.folder / "folder.durus").mkdir()
    assert "directory" in durus.error(*command, "folder.durus")
    assert "directory" in durus.error(*command, "file:folder.durus")


@each_command
def test_a_pipe(durus: Any, command: tuple[str, ...]) -> None:
    """A pipe is refused, not waited for."""
    os.mkfifo(durus.folder / "pipe")
    assert "pipe" in durus.error(*command, "pipe")


@each_command
def test_no_permission(durus: Any, database: Path, command: tuple[str, ...]) -> None:
    """A file that this user may not read is named as such."""
    database.chmod(0)
    _lose_power(durus)
    said = durus.error(*command, database)
    assert f"'{database}'" in said
    assert "permission" in said.lower()


def test_no_permission_to_write(durus: Any, database: Path) -> None:
    """A file that may only be read opens with --readonly and info, and refuses to be changed."""
    database.chmod(0o444)
    _lose_power(durus)
    for command in ("shell", "pack"):
        assert "permission" in durus.error(command, database).lower()
    assert durus("shell", "--readonly", database, input="len(root)").stdout == "3\n"
    assert "SHELF-1" in durus("info", database).stdout


def _lose_power(durus: Any) -> None:
    """Let the command run without what lets root pass over permissions."""
    if os.geteuid() != 0:
        return
    powers = "-dac_override,-dac_read_search"
    without = ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}"]
    durus.words = [*without, *durus.words]
    if shutil.which("setpriv") is None:
        pytest.skip("the tests run as root, whom nothing is forbidden, and there is no setpriv")
    tried = subprocess.run([*durus.words, "--version"], capture_output=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"root cannot give up its power over permissions: {tried.stderr!r:.300}")


@pytest.mark.parametrize("command", [("shell",), ("pack",)], ids=" ".join)
def test_a_locked_file(durus: Any, database: Path, command: tuple[str, ...]) -> None:
    """A file that another process writes to says which process that is."""
    with Connection(database):
        said = durus.error(*command, database)
    assert f"'{database}'" in said
    assert str(os.getpid()) in said


@each_command
def test_damage(durus: Any, database: Path, command: tuple[str, ...]) -> None:
    """A flipped byte in the middle names the file and the place; nothing is cut or written."""
    _flip(database, database.read_bytes().index(b"ann"))
    before = _content(durus.folder)
    said = durus.error(*command, database)
    assert f"'{database}'" in said
    assert "offset" in said
    assert _content(durus.folder) == before


@each_command
def test_a_file_cut_short(durus: Any, database: Path, command: tuple[str, ...]) -> None:
    """A packed file that is cut in half is damaged, not empty."""
    durus("pack", database)
    content = database.read_bytes()
    for path in durus.folder.glob("app.durus*"):
        path.unlink()
    database.write_bytes(content[: len(content) // 2])
    assert f"'{database}'" in durus.error(*command, database)


def test_a_torn_tail_is_set_aside(durus: Any, database: Path) -> None:
    """Half a commit at the end is no error: it is set aside, with a warning that says where."""
    with database.open("ab") as file:
        file.write(b"\0\0\0\0\0\0\x04\0torn")
    done = durus("shell", database, input="len(root)")
    assert done.stdout == "3\n"
    assert done.stderr.startswith("durus: warning: ")
    (aside,) = durus.folder.glob("app.durus.torn-*")
    assert str(aside) in done.stderr


@each_command
@pytest.mark.parametrize("query", ["colour=red", "readonly=perhaps", "readonly=0&readonly=0"])
def test_a_wrong_option_in_a_url(
    durus: Any, database: Path, command: tuple[str, ...], query: str
) -> None:
    """An unknown option, a wrong value and a repeated option are named."""
    assert query.partition("=")[0] in durus.error(*command, f"file:app.durus?{query}")


@pytest.mark.parametrize(
    "name",
    ["no.such.module.Storage", "durus.storage.NoStorage", "json.JSONDecoder", "nothing", "a..b"],
)
def test_a_wrong_storage_class(durus: Any, database: Path, name: str) -> None:
    """--storage-class must name a class that is there, and is a storage."""
    assert name in durus.error("shell", database, "--storage-class", name)


def test_a_storage_class_that_takes_no_file(durus: Any, database: Path) -> None:
    """A class that cannot be called with a file and these options says so."""
    said = durus.error("shell", database, "--storage-class", "durus.storage.MemoryStorage")
    assert "MemoryStorage" in said


def test_names_that_a_terminal_would_obey(durus: Any) -> None:
    """Control characters in a name are shown, not sent to the terminal."""
    said = durus.error("info", "a\x1b[31m\nb.durus")
    assert "\x1b" not in said


def test_an_empty_name(durus: Any) -> None:
    """An empty name, as an unset variable in a script leaves it, is an error."""
    for command in COMMANDS:
        assert "empty" in durus.error(*command, "")


ROOT_READERS = [
    ("shell", "NAME", "--readonly"),
    ("export", "NAME"),
    ("show", "NAME"),
    ("refs", "NAME", "root.users"),
    ("history", "NAME", "0"),
]


def test_an_empty_database(durus: Any) -> None:
    """What nobody has committed to is said to be empty, where it is read from the root."""
    open_storage(durus.folder / "new.durus").close()
    for command in ROOT_READERS:
        message = durus.error(*(word.replace("NAME", "new.durus") for word in command))
        assert "but 'new.durus' is empty: it has no root" in message
        assert "'durus shell new.durus'" in message
    assert "Objects       0" in durus("info", "new.durus", "--garbage").stdout
    assert "nothing wrong; checked 0 objects" in durus("check", "new.durus").stdout
    told = durus("copy", "new.durus", "copy.durus").stdout
    assert told.startswith("copied new.durus to copy.durus: 0 objects")


def test_objects_without_a_root(durus: Any) -> None:
    """Where there are objects and no root, that is said, and not that all is well."""
    with open_storage(durus.folder / "lost.durus") as storage:
        storage.begin()
        oid = int8_to_str(3)
        data = b"\x80\x02cdurus.persistent\nPersistent\nq\0.\x80\x02}."
        storage.store(oid, pack_record(oid, data, b""))
        storage.end()
    for command in ROOT_READERS:
        message = durus.error(*(word.replace("NAME", "lost.durus") for word in command))
        assert "but 'lost.durus' has no root, the object with oid 0" in message
    assert "durus.persistent.Persistent" in durus("show", "lost.durus", "3").stdout
    told = json.loads(durus("info", "lost.durus", "--garbage", "--json").stdout)
    assert told["garbage"]["objects"] == told["objects"] == 1
    assert "root (oid 0): is the root, and is not" in durus("check", "lost.durus", status=1).stdout


def _flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
