"""--at: the commands look at a past state of a database."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durus.backends import open_storage
from durus.connection import Connection


@pytest.fixture
def commits(database: Path) -> list[Any]:
    """Give serial and time of each commit of the database."""
    with open_storage(database, readonly=True) as storage:
        return list(storage.gen_commits())


def test_the_shell_shows_what_was_there(durus: Any, database: Path, commits: list[Any]) -> None:
    """By serial and by time; what another writes meanwhile is not seen, and nothing is changed."""
    before = database.read_bytes()
    serial, time = commits[1]
    local = time.astimezone().replace(tzinfo=None)
    for at in (serial, time.isoformat(), local.isoformat(), local.isoformat(" ")):
        for options in ((), ("--readonly",)):
            done = durus("shell", database, "--at", at, *options, input="print(*sorted(root))")
            assert done.stdout == "ann bob cid dan\n"
    assert durus("shell", database, input="print(*sorted(root))").stdout == "ann bob cid\n"
    assert database.read_bytes() == before
    done = durus("shell", database, "--at", serial, input="root['n'] = 1; commit()", status=1)
    assert "StorageReadOnlyError" in done.stderr


def test_beside_a_writer(durus: Any, database: Path, commits: list[Any]) -> None:
    """The file is not locked: a writer has it open."""
    with Connection(database) as connection:
        connection.get_root()["n"] = 1
        connection.commit()
        connection.pack()
        shown = durus("shell", database, "--at", commits[2][0] + 1, input="print(*sorted(root))")
    assert shown.stdout == "ann bob cid n\n"


def test_the_banner_says_as_of_when(durus: Any, database: Path, commits: list[Any]) -> None:
    """On a terminal the person is told which commit is shown, and that it is read-only."""
    child = durus.on_terminal("shell", database, "--at", str(commits[1][0]))
    child.expect(rf"read-only as of commit {commits[1][0]} of 20\d\d-\d\d-\d\d \S+ UTC")
    child.expect(">>> ")
    child.sendeof()
    child.expect("$")


def test_info_tells_of_then(durus: Any, database: Path, commits: list[Any]) -> None:
    """Objects and length are those of then, and the commit is named."""
    for number, (serial, time) in enumerate(commits, 1):
        answer = json.loads(durus("info", database, "--json", "--at", serial).stdout)
        assert answer["as_of"] == serial
        assert answer["last_commit_time"] == time.isoformat()
        assert answer["transactions_since_pack"] == number
        assert answer["objects"] == (1 if number == 1 else 5)
        assert (answer["size_bytes"] < database.stat().st_size) == (number < 3)
    assert json.loads(durus("info", database, "--json").stdout)["as_of"] is None
    assert "\nAs of         commit 1 of 20" in durus("info", database, "--at", "1").stdout
    assert "As of" not in durus("info", database).stdout


def test_show_shows_it_as_of_then(durus: Any, database: Path, commits: list[Any]) -> None:
    """A path is followed from the root of then, and the state is that of then."""
    for at, names in ((1, []), (2, ["ann", "bob", "cid", "dan"]), (3, ["ann", "bob", "cid"])):
        answer = json.loads(durus("show", database, "--json", "--at", at).stdout)
        assert sorted(answer["state"]["data"]) == names
        assert answer["as_of"] == at
        assert answer["last_commit_time"] == commits[at - 1][1].isoformat()
    assert json.loads(durus("show", database, "--json").stdout)["as_of"] is None
    assert "\nAs of" not in f"\n{durus('show', database).stdout}"
    dan = ("show", database, 'root["dan"]')
    told = durus(*dan, "--at", commits[1][1].isoformat()).stdout
    assert told.startswith("As of      commit 2 of 20")
    assert "'dan'" in told
    assert "tried to follow" in durus.error(*dan)
    said = durus.error("show", "durus+unix:a.sock", "--at", "1", status=2)
    assert "name the file, which opens beside the server" in said


def test_export_writes_what_was_there(durus: Any, database: Path, commits: list[Any]) -> None:
    """What the root of then reaches is exported, and imported again it is the database of then."""
    for at, count in ((1, 1), (commits[1][1].isoformat(), 5), (3, 4)):
        lines = durus("export", database, "--at", at).stdout.splitlines()
        assert len(lines) == count + 2
    assert json.loads(lines[0])["as_of"] == 3
    assert json.loads(lines[0])["last_commit_time"] == commits[2][1].isoformat()
    assert json.loads(durus("export", database).stdout.splitlines()[0])["as_of"] is None
    durus("export", database, "then.jsonl", "--at", "2")
    durus("import", "then.jsonl", "then.durus")
    done = durus("shell", "then.durus", "--readonly", input="print(*sorted(root))")
    assert done.stdout == "ann bob cid dan\n"
    said = durus.error("export", "durus+unix:a.sock", "--at", "1", status=2)
    assert "name the file, which opens beside the server" in said


def test_an_sqlite_database(durus: Any) -> None:
    """One that keeps history is opened so too; one that keeps none says how to keep it."""
    for n, url in enumerate(("sqlite:a.sqlite", "sqlite:a.sqlite?history=1d", "a.sqlite")):
        durus("shell", url, "--create", input=f"root['n'] = {n}; commit()")
        if not n:
            assert 'history="7d"' in durus.error("info", url, "--at", "1")
    with open_storage(durus.folder / "a.sqlite", readonly=True) as storage:
        serial = list(storage.gen_commits())[-2][0]
    assert durus("shell", "a.sqlite", "--at", serial, input="root['n']").stdout == "1\n"


def test_what_there_is_is_told(durus: Any, database: Path, commits: list[Any]) -> None:
    """Out of range, the error tells the first and the last commit that can be opened."""
    (first, early), *_, (last, late) = commits
    told = rf"commit {first} ({early.isoformat()}) to commit {last} ({late.isoformat()})"
    for at in (last + 1, 0, (early - timedelta(hours=1)).isoformat(), "1999-12-31"):
        assert told in durus.error("info", database, "--at", at)
        assert told in durus.error("shell", database, "--at", at)
    durus("pack", database)
    assert f"goes from commit {last} " in durus.error("info", database, "--at", first)


@pytest.mark.parametrize("at", ["yesterday", "", "-1", "2026-13-01"])
def test_what_is_neither_a_time_nor_a_serial(durus: Any, database: Path, at: str) -> None:
    """It is wrong usage, and the error shows one of each."""
    said = durus.error("info", database, "--at", at, status=2)
    assert "such as 17, or by a time in ISO 8601" in said


def test_what_has_no_past(durus: Any, database: Path) -> None:
    """Neither memory nor a server is opened so; nor is what is to be made or repaired."""
    for command in ("info", "shell"):
        said = durus.error(command, "memory:", "--at", "1", status=2)
        assert said.startswith("--at is for what keeps its past, and 'memory:' gives the newest")
        said = durus.error(command, database.name + "x", "--at", "1")
        assert said == f"there is no file '{database.name}x'"
        said = durus.error(command, f"file:{database}?at=1", "--at", "1")
        assert said == "option 'at' is given in the URL and as a keyword"
    for option in ("--create", "--repair"):
        said = durus.error("shell", database, option, "--at", "1", status=2)
        assert "not with --create or --repair" in said


def test_a_server_has_no_past(durus: Any, database: Path, serve: Callable[..., Any]) -> None:
    """The error says that its file has; which is so, beside the server."""
    server = serve(database).ready()
    for arguments in (server.place, ("durus+unix:a.sock",)):
        said = durus.error("shell", *arguments, "--at", "1", status=2)
        assert "name the file, which opens beside the server" in said
    assert durus("shell", database, "--at", "1", input="len(root)").stdout == "0\n"
    server.stop()
