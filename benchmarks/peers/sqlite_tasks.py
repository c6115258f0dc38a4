"""One workload on one SQLite database, by one program: a plain script for the Python of any peer.

Run as: python -P sqlite_tasks.py PEER WORKLOAD FOLDER COUNT NUMBER START. It prints how many
operations a second it did. PEER is bare, durus (this one or 4.3, whichever is installed) or
relstorage.
"""
# ruff: noqa: PLC0415 - each environment has what one of the peers needs

from __future__ import annotations

import importlib
import os
import sys
import time
from contextlib import suppress
from typing import Any

OBJECTS = 50

# Any: what it is depends on the peer.
Base: Any = object
if sys.argv[1] != "bare":
    module = {"durus": "durus.persistent", "relstorage": "persistent"}[sys.argv[1]]
    Base = importlib.import_module(module).Persistent


class Item(Base):  # type: ignore[misc]  # as said
    """What is stored: some 80 bytes."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = f"name {number}"
        self.weight = 1.5


Item.__module__ = "sqlite_tasks"
sys.modules["sqlite_tasks"] = sys.modules["__main__"]


class Bare:
    """The module sqlite3, with the table of Durus and the same durability."""

    def __init__(self, folder: str) -> None:
        import sqlite3

        self._db = sqlite3.connect(f"{folder}/bare.sqlite", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE objects (id INTEGER PRIMARY KEY, data BLOB, refs BLOB)")

    def commits(self, count: int, number: int) -> None:
        execute = self._db.execute
        for n in range(count):
            execute("BEGIN IMMEDIATE")
            row = (n % OBJECTS, b"x" * 100 + b"%d" % n, b"")
            execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?)", row)
            execute("COMMIT")


class Objects:
    """What Durus and ZODB do alike."""

    root: Any
    conflict: type[Exception]

    def commit(self) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    def commits(self, count: int, number: int) -> None:
        """Change one object of ten of its own and commit, again upon conflict."""
        items = self.root["items"][number * 10 : number * 10 + 10]
        done = 0
        while done < count:
            items[done % 10].number = done
            try:
                self.commit()
                done += 1
            except self.conflict:
                self.abort()

    def prepare(self, count: int, number: int) -> None:
        self.root["items"] = [Item(n) for n in range(OBJECTS)]
        self.commit()

    def before_new(self, count: int) -> None:
        self.root["many"] = [Item(n) for n in range(count)]

    def new(self, count: int, number: int) -> None:
        """Commit many new objects at once."""
        self.commit()

    def cold(self, count: int, number: int) -> None:
        """Touch every object for the first time, in the order of the list."""
        assert sum(1 for item in self.root["many"] if item.number >= 0) == count


class Durus(Objects):
    """SqliteStorage of either version."""

    def __init__(self, folder: str) -> None:
        from durus.connection import Connection
        from durus.error import ConflictError
        from durus.sqlite_storage import SqliteStorage

        connection = Connection(SqliteStorage(f"{folder}/durus.sqlite"), cache_size=10**6)
        self.root, self.conflict = connection.get_root(), ConflictError
        self.commit, self.abort = connection.commit, connection.abort  # type: ignore[method-assign]


class RelStorage(Objects):
    """RelStorage on SQLite, made to sync what it commits."""

    def __init__(self, folder: str) -> None:
        import transaction
        from relstorage.adapters.sqlite.adapter import Sqlite3Adapter
        from relstorage.options import Options
        from relstorage.storage import RelStorage as Storage
        from ZODB.DB import DB
        from ZODB.POSException import ConflictError

        options = Options(keep_history=False)
        adapter = Sqlite3Adapter(f"{folder}/rel", pragmas={"synchronous": "FULL"}, options=options)
        self._db = DB(Storage(adapter, options=options), cache_size=10**6)
        self.root, self.conflict = self._db.open().root(), ConflictError
        self.commit, self.abort = transaction.commit, transaction.abort  # type: ignore[method-assign]


def main(peer: str, workload: str, folder: str, count: str, number: str, start: str) -> None:
    """Do it, all programs of a workload from the same moment on."""
    os.makedirs(folder, exist_ok=True)
    kind: Any = {"bare": Bare, "durus": Durus, "relstorage": RelStorage}[peer]
    side = kind(folder)
    if workload == "commits" and peer != "bare":
        for item in side.root["items"]:
            assert item.number >= 0
    if workload == "new":
        side.before_new(int(count))
    time.sleep(max(0.0, float(start) - time.time()))
    before = time.perf_counter()
    getattr(side, workload)(int(count), int(number))
    print(int(count) / (time.perf_counter() - before))
    # What a peer does when it closes is not what is measured; it may take long.
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
