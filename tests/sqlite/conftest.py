"""What the tests of SqliteStorage share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from durus.sqlite_storage import SqliteStorage


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of the test is, or is to be."""
    return tmp_path / "app.sqlite"


@pytest.fixture
def open_here(path: Path) -> Iterator[Callable[..., SqliteStorage]]:
    """Open the database, as often as a test likes; all are closed at its end."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(SqliteStorage(path, **options))


@pytest.fixture
def start(path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Run a program in another process: `path` is the database, `wait()` waits for a line."""
    before = (
        "import sys\n"
        "from durus.sqlite_storage import SqliteStorage\n"
        "from durus.testing.records import commit, make_record\n"
        "from durus.utils import int8_to_str\n"
        "path = sys.argv[1]\n"
        "def say(text): print(text, flush=True)\n"
        "def wait(): assert sys.stdin.readline()\n"
    )
    with ExitStack() as stack:

        def start(program: str) -> subprocess.Popen[bytes]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", before + program, str(path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            stack.callback(process.kill)
            return process

        yield start
