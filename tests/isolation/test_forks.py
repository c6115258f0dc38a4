"""A program that opens a Database on a server and then forks, as web servers do."""

from __future__ import annotations

import os
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.database import Database
from durus.error import ConnectionForkError

from .conftest import Server

COUNT = 30


def add_one(root: Any) -> None:
    root["n"] = root.get("n", 0) + 1


def count(database: Database) -> None:
    for _ in range(COUNT):
        database.run(add_one, retries=1000)


def fork(work: Callable[[], object]) -> int:
    """Let a child do the work, and give its number."""
    with warnings.catch_warnings():
        # From 3.12 on: there are threads. That it is safe nevertheless is what is tried here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        os._exit(status)


def test_workers_that_were_forked(folder: Path, servers: Callable[[str], Server]) -> None:
    """Children of a Database on a server connect anew, and work beside their parent's threads."""
    server = servers("file:{}/a.durus")
    with Database(server.url) as database:
        threads = [threading.Thread(target=count, args=(database,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        database.run(add_one, retries=1000)

        def work() -> None:
            with database:
                theirs = [threading.Thread(target=count, args=(database,)) for _ in range(2)]
                for thread in theirs:
                    thread.start()
                for thread in theirs:
                    thread.join()

        for pid in [fork(work) for _ in range(3)]:
            assert os.waitpid(pid, 0)[1] == 0
        for thread in threads:
            thread.join()
        with database.transaction() as root:
            assert root["n"] == 1 + COUNT * 8


def test_what_the_parent_had_open(folder: Path, servers: Callable[[str], Server]) -> None:
    """The Connection that a parent had in a transaction at the fork is not for its child."""
    server = servers("file:{}/a.durus")
    with Database(server.url) as database:
        with database.transaction() as root:
            root["n"] = 5

            def work() -> None:
                with pytest.raises(ConnectionForkError):
                    root["n"]
                database.run(add_one)

            assert os.waitpid(fork(work), 0)[1] == 0
            root["m"] = 6
            database.connection().abort()
        with database.transaction() as root:
            assert dict(root) == {"n": 1}
