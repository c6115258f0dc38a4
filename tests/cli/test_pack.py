"""`durus pack`: what it removes, tells, shows on a terminal, and leaves when it is interrupted."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest

from durus.connection import Connection

Look = Callable[[Path], dict[str, Any]]

# Packs like FileStorage, and in the middle of it waits for a signal.
WAITING = """
import time
from durus.file_storage import FileStorage

class Waiting(FileStorage):
    def get_packer(self):
        packer = super().get_packer()
        for step in packer:
            yield step
            if isinstance(step, int):
                break
        while True:  # not pause(): a signal that comes right before it would be waited for again
            time.sleep(0.05)
"""

LINE = re.compile(
    r"packed (?P<name>\S+): (?P<before>[\d.]+ k?B) -> (?P<after>[\d.]+ k?B), saved [\d.]+ k?B;"
    r" (?P<kept>\d+) objects kept, (?P<removed>\d+) removed\n"
)


@pytest.fixture
def waiting(durus: Any) -> str:
    """A storage class whose pack waits for a signal."""
    (durus.folder / "waiting.py").write_text(WAITING)
    durus.see(durus.folder)
    return "waiting.Waiting"


@pytest.mark.parametrize(
    "arguments",
    [
        ("pack", "app.durus"),
        ("pack", "file:app.durus"),
        ("pack", "--file", "app.durus"),
        ("-p", "--file", "app.durus"),
        ("-p", "--file=app.durus"),
    ],
    ids=" ".join,
)
def test_one_line_tells_what_was_saved(
    durus: Any, database: Path, look: Look, arguments: tuple[str, ...]
) -> None:
    """In every spelling garbage goes and the rest stays; into a pipe one line tells of it."""
    expected, before = look(database), database.stat().st_size
    done = durus(*arguments)
    assert done.stderr == ""
    line = LINE.fullmatch(done.stdout)
    assert line is not None, done.stdout
    assert (line["kept"], line["removed"]) == ("4", "1")
    assert look(database) == expected
    assert database.stat().st_size < before


def test_a_second_pack_has_nothing_to_save(durus: Any, database: Path) -> None:
    """A file that is packed already is told to have nothing to save."""
    durus("pack", database)
    assert "nothing to save; 4 objects kept, 0 removed" in durus("pack", database).stdout


def test_the_other_format(durus: Any) -> None:
    """DFS20 is packed by the same command."""
    script = "root['n'] = type(root)(); commit(); del root['n']; commit()"
    durus("shell", "file2:app.durus", "--create", input=script)
    assert "1 object kept, 1 removed" in durus("pack", "app.durus").stdout


def test_a_storage_that_cannot_be_packed(durus: Any) -> None:
    """A back-end without a pack says so in one line."""
    durus.plug_in(
        "plain-storage",
        "[durus.storages]\nplain = plain_storage:Plain\n",
        plain_storage="""
        from durus.storage import MemoryStorage

        class Plain(MemoryStorage):
            can_pack = False
            def get_packer(self):
                from durus.error import NotSupportedError
                raise NotSupportedError("Plain cannot be packed")
        """,
    )
    assert durus.error("pack", "plain:") == "Plain cannot be packed"


def test_a_storage_that_counts_nothing(durus: Any) -> None:
    """Of a back-end that tells neither sizes nor numbers the line tells what there is to tell."""
    durus.plug_in(
        "plain-storage",
        "[durus.storages]\nplain = plain_storage:Plain\n",
        plain_storage="""
        from durus.storage import MemoryStorage

        class Plain(MemoryStorage):
            def get_packer(self):
                return iter([None])
        """,
    )
    assert durus("pack", "plain:").stdout == "packed plain:\n"


def test_a_misspelt_name_makes_no_file(durus: Any) -> None:
    """There is nothing to pack where there is no file, and none is made."""
    for arguments in (("pack", "typo.durus"), ("-p", "--file", "typo.durus")):
        assert durus.error(*arguments) == "there is no file 'typo.durus'"
    assert list(durus.folder.glob("typo*")) == []


def test_a_writer_keeps_others_from_packing(durus: Any, database: Path) -> None:
    """A file that a writer has open is not packed."""
    with Connection(database):
        assert str(database) in durus.error("pack", database)


def test_a_bar_on_a_terminal(durus: Any, database: Path, waiting: str, look: Look) -> None:
    """On a terminal a bar with the number of objects moves, and the summary takes its place."""
    expected = look(database)
    child = durus.on_terminal("pack", "app.durus", "--storage-class", waiting)
    child.expect_exact("packing app.durus")
    child.expect(r"\d objects?")
    child.sendintr()
    child.expect_exact("durus: error: interrupted")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert look(database) == expected
    child = durus.on_terminal("pack", "app.durus")
    child.expect_exact("4 objects kept, 1 removed")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_an_interrupted_pack_changes_nothing(durus: Any, database: Path, waiting: str) -> None:
    """After Ctrl-C the file is byte for byte as it was, nothing is left beside it, status 130."""
    before = sorted((p.name, p.read_bytes()) for p in durus.folder.glob("app.durus*"))
    child = durus.on_terminal("pack", "app.durus", "--storage-class", waiting)
    child.expect_exact("packing app.durus")
    child.sendintr()
    child.expect_exact("durus: error: interrupted")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    left = sorted((p.name, p.read_bytes()) for p in durus.folder.glob("app.durus*"))
    assert [entry for entry in left if not entry[0].endswith(".index")] == [
        entry for entry in before if not entry[0].endswith(".index")
    ]
    assert "4 objects kept" in durus("pack", "app.durus").stdout
