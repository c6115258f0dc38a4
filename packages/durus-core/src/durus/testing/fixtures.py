"""Fixtures for those who test an application: databases that are gone with the test.

A program's `conftest.py`, the one in its topmost folder of tests, asks for them::

    pytest_plugins = ["durus.testing.fixtures"]

They are asked for, and not announced to pytest as an entry point would do it: that would import
them, and hypothesis with them, into every run of pytest where durus-core is installed, and break
the runs of those who have it without its extra `testing`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import pytest

from durus.connection import Connection
from durus.database import Database
from durus.storage import MemoryStorage

__all__ = ["durus_connection", "durus_database", "durus_open", "durus_server"]

# A test that failed may have left threads inside of transactions. They are to fail, not to hang.
_PATIENCE_S = 10.0


@pytest.fixture
def durus_database() -> Iterator[Database]:
    """A new Database in memory, which threads may share; closed after the test."""
    database = Database(MemoryStorage())
    yield database
    database.close(_PATIENCE_S)


@pytest.fixture
def durus_connection(durus_database: Database) -> Connection:
    """The Connection that the test's own thread has to `durus_database`."""
    return durus_database.connection()


@pytest.fixture
def durus_open(tmp_path: Path) -> Iterator[Callable[..., Database]]:
    """A function `open(name="test.durus", **options)` that gives a Database, closed after the test.

    The name is that of a file in `tmp_path`, there or not, or any URL; the options are those of
    Database. To open a file again, close it first, as the end of a program would.
    """
    with ExitStack() as opened:

        def open_database(name: str = "test.durus", **options: Any) -> Database:
            database = Database(name if ":" in name else tmp_path / name, **options)
            opened.callback(database.close, _PATIENCE_S)
            return database

        yield open_database


@pytest.fixture
def durus_server() -> Iterator[str]:
    """The URL of a real server on a Unix domain socket, with a new database in memory.

    It needs the distribution durus-server, and fails without it. The server runs in a thread of
    this process; programs that the test starts can connect to it as well.
    """
    # By its name: durus-core does not depend on what stands above it.
    try:
        server_class = import_module("durus.storage_server").StorageServer
    except ModuleNotFoundError as error:
        pytest.fail(f"the fixture durus_server needs durus-server (pip install it): {error}")
    # Not tmp_path: the path of a socket has some hundred characters at most.
    with TemporaryDirectory(prefix="durus-") as folder:
        path = f"{folder}/socket"
        server = server_class(MemoryStorage(), address=path)
        server.start()
        yield f"durus+unix:{quote(path)}"
        server.stop()
