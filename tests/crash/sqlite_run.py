"""What is recorded of SqliteStorage: `python -m tests.crash.sqlite_run PATH` does it, and says so.

It writes the number of each transaction to its standard output when the commit has returned.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager

from durus.sqlite_storage import SqliteStorage, _packer, _schema, _storage
from durus.storage import Storage

from .helpers import History, make_record


def run(
    open_storage: Callable[[], AbstractContextManager[Storage]], say: Callable[[int], object]
) -> History:
    """Commit small and large, update, leave garbage, reopen, pack with commits between, go on."""
    history = History()
    many = tuple(range(1, 9))
    with open_storage() as storage:
        say(history.commit(storage, ()))
        say(history.commit(storage, many, *(make_record(oid, f"item {oid}") for oid in many)))
        storage.new_oid()
        say(history.commit(storage, (*many, 20), make_record(20, "large" * 4000)))
        for n in range(6):
            say(history.commit(storage, (*many, 20), make_record(1, f"changed {n}", (2, 3))))
    with open_storage() as storage:
        say(history.commit(storage, (1, 20), make_record(3, "nearly garbage")))
        packer = iter(storage.get_packer())
        for n in range(4):
            next(packer, None)
            say(history.commit(storage, (1, 20), make_record(20, "beside the pack" * n)))
        for _ in packer:
            pass
        storage.new_oid()
        for n in range(6):
            say(history.commit(storage, (1, 20), make_record(1, f"later {n}" * 300)))
    return history


def main(path: str) -> None:
    """Do it in a file. SQLite empties the WAL file now and then, as it does with a large one."""
    connect = _storage.connect

    def connect_and_checkpoint_often(*args: object, **options: object) -> object:
        db = connect(*args, **options)  # type: ignore[arg-type]  # handed on
        db.execute("PRAGMA wal_autocheckpoint = 12")
        return db

    _packer._MARKS_A_STEP, _packer._REMOVALS_A_STEP = 3, 2
    for module in (_storage, _schema):
        module.connect = connect_and_checkpoint_often  # type: ignore[assignment]  # for this process
    run(lambda: SqliteStorage(path), lambda number: os.write(1, b"%d\n" % number))


if __name__ == "__main__":
    main(*sys.argv[1:])
