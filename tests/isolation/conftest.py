"""What histories are recorded on: a Database in this process, or processes that share one."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

# In all threads of all processes of one test. The environment `isolation` of tox does more.
TRANSACTIONS = int(os.environ.get("DURUS_ISOLATION_TRANSACTIONS") or 600)


ROOT = Path(__file__).parents[2]


class Server:
    """A StorageServer on one database in a process of its own, killed and started as a test likes.

    Attributes:
        url: what clients open.
    """

    def __init__(self, folder: Path, database: str) -> None:
        self._database = database
        self._socket = folder / "socket"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"durus+unix://{self._socket}"
        self.start()
        # Where it cannot start at all, say so now.
        while not self._socket.exists():
            assert self.is_running(), self.log()
            time.sleep(0.01)

    def start(self) -> None:
        """Start it; clients that come before it listens wait."""
        command = [sys.executable, "-m", "tests.isolation.serve", self._database]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*command, str(self._socket)], cwd=ROOT, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it at once, as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stop it; when this returns it does nothing."""
        assert self._process is not None
        stop(self._process)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def is_running(self) -> bool:
        """Tell whether it runs, as it should."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Give what it has said."""
        return self._log.read_text(errors="replace")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a child; when this returns it does nothing."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT | os.WEXITED)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="durus-") as name:
        yield Path(name)


@pytest.fixture
def servers(folder: Path) -> Iterator[Callable[[str], Server]]:
    """Start a server on a database, of which `{}` is its folder."""
    if importlib.util.find_spec("durus.storage_server") is None:
        pytest.skip("durus-server is not installed")
    with ExitStack() as stack:

        def start(database: str) -> Server:
            place = Path(tempfile.mkdtemp(dir=folder))
            stack.callback(shutil.rmtree, place)
            server = Server(place, database.format(place))
            stack.callback(server.kill)
            return server

        yield start
