"""`durus demo`: it shows what it runs, checks what it claims, and keeps the file."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest

Look = Callable[[Path], dict[str, Any]]


def _path_in(shown: str) -> Path:
    found = re.search(r"^The database is (\S+) \(", shown, re.MULTILINE)
    assert found is not None, shown
    return Path(found[1])


def test_it_shows_the_four_steps(durus: Any, look: Look) -> None:
    """Create, commit, abort and reopen are shown with their code and what it prints."""
    shown = durus("demo").stdout
    for words in (
        'root["accounts"] = PersistentDict(ann=70, bob=30)',
        "connection.commit()",
        "with connection.transaction():",
        "connection.abort()",
        "-> bob wakes up with 50",
        "connection.close()",
        "-> {'ann': 50, 'bob': 50}",
        "Checked:",
    ):
        assert words in shown
    path = _path_in(shown)
    assert path.is_relative_to(durus.home)
    assert look(path) == {"accounts": {"ann": 50, "bob": 50}}


def test_each_run_has_its_own_folder(durus: Any) -> None:
    """Two runs do not meet, and both files stay."""
    paths = {_path_in(durus("demo").stdout) for _ in range(2)}
    assert len(paths) == 2
    assert all(path.is_file() for path in paths)


def test_the_shown_code_runs_as_it_is(durus: Any, tmp_path: Path) -> None:
    """Whoever copies the code from the screen gets what the screen says."""
    shown = durus("demo", "a.durus").stdout
    code = [line[4:] for line in shown.splitlines() if line.startswith("    ")]
    until_commands = code[: next(i for i, line in enumerate(code) if line.startswith("durus "))]
    printed = [line[3:] for line in until_commands if line.startswith("-> ")]
    source = "\n".join(line for line in until_commands if not line.startswith("-> "))
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=fresh, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == printed


def test_a_given_file(durus: Any, look: Look) -> None:
    """The database is made where it is asked for."""
    durus("demo", "my bank.durus")
    assert look(durus.folder / "my bank.durus") == {"accounts": {"ann": 50, "bob": 50}}


@pytest.mark.parametrize("name", ["app.durus", "file:app.durus"])
def test_an_existing_file_is_refused(durus: Any, database: Path, name: str) -> None:
    """What is there is not touched."""
    before = database.read_bytes()
    assert "exists already" in durus.error("demo", name)
    assert database.read_bytes() == before


def test_what_is_no_file_is_refused(durus: Any) -> None:
    """A demonstration in memory would show nothing of what it is to show."""
    assert "names none" in durus.error("demo", "memory:")


def test_it_notices_a_storage_that_lies(durus: Any) -> None:
    """If what a step claims is not in the file the demonstration fails: it does check."""
    durus.plug_in(
        "lying-storage",
        "[durus.storages]\nlying = lying_storage:Lying\n",
        lying_storage="""
        from durus.file_storage import FileStorage

        class Lying(FileStorage):
            def store(self, oid, record):
                if self.was_lied_to:
                    record = self.first[oid] if oid in self.first else record
                self.first = {**getattr(self, "first", {}), oid: record}
                super().store(oid, record)
            was_lied_to = True
            first = {}
        """,
    )
    done = durus("demo", "lying:a.durus", status=1)
    assert "the demonstration does not work here: after" in done.stderr


def test_on_a_terminal_it_has_colours(durus: Any) -> None:
    """On a terminal the code is highlighted, and the text is the same."""
    child = durus.on_terminal("demo", "a.durus")
    child.expect_exact("Checked: ")
    child.expect_exact("The database is ")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
