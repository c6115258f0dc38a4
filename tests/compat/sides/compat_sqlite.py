"""What the tests ask of a version of Durus about a database in SQLite: tasks of `compat_runner`."""

from __future__ import annotations

from typing import Any

import compat_dump
import compat_files

from durus.connection import Connection
from durus.sqlite_storage import SqliteStorage
from durus.utils import str_to_int8


def run(path: str, case: str, actions: list[list[Any]]) -> dict[str, Any]:
    """Open a database, do `actions` on it, and give what this process then sees of it."""
    storage = SqliteStorage(path)
    connection = Connection(storage)
    # The first oid that 4.3 gives after opening is that of the last stored object.
    storage.new_oid()
    compat_files.act(connection, case, actions)
    seen = view(connection)
    storage.close()
    return seen


def read(path: str, **options: Any) -> dict[str, Any]:
    """Open a database and give all that can be seen of it, loading every object afresh."""
    storage = SqliteStorage(path, **options)
    seen = view(Connection(storage))
    storage.close()
    return seen


def view(connection: Connection) -> dict[str, Any]:
    """Give the graph, by oids and by order, and what is crawled. 4.3 cannot walk all records."""
    return {
        "objects": compat_dump.dump(connection),
        "canonical": compat_dump.dump(connection, by_oid=False),
        "crawled": sorted(str_to_int8(obj._p_oid) for obj in connection.get_crawler()),
    }


def first_oid_after_opening(path: str) -> bool:
    """Tell whether the first oid that is given is that of a stored object."""
    storage = SqliteStorage(path)
    oid = storage.new_oid()
    try:
        storage.load(oid)
    except KeyError:
        return False
    finally:
        storage.close()
    return True
