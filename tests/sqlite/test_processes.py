"""Several processes, and several openings in one of them, on one database.

Cases:
    what one process commits another learns, and only that; conflicts between them
    the lock is waited for, but not for ever
    an opening in the same process takes no locks from another one
    a reader's snapshot, and a WAL file that has grown too long
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest

from durus.backends import open_storage, owner_of_file
from durus.connection import Connection
from durus.database import Database
from durus.error import ConflictError, ReadConflictError, StorageLockedError, WriteConflictError
from durus.sessions import SharedStorage
from durus.sqlite_storage import SqliteStorage, _storage
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Open = Callable[..., SqliteStorage]
Start = Callable[[str], "subprocess.Popen[bytes]"]


def hear(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def go_on(process: subprocess.Popen[bytes]) -> None:
    to: IO[bytes] | None = process.stdin
    assert to is not None
    to.write(b"\n")
    to.flush()


def oid(number: int) -> bytes:
    return int8_to_str(number)


def test_sync_tells_what_another_process_committed(open_here: Open, start: Start) -> None:
    """A session learns the oids that another process changed, once, and then reads them."""
    storage = open_here()
    commit(storage, *(make_record(oid(n)) for n in range(50)))
    other = start(
        "with SqliteStorage(path) as storage:\n"
        "    commit(storage, *(make_record(int8_to_str(n), payload=b'new') for n in (3, 5, 8)))\n"
        "say('done')\n"
    )
    assert hear(other) == "done"
    assert storage.load(oid(3)) == make_record(oid(3))
    told = storage.sync()
    assert told is not None
    assert sorted(told) == [oid(3), oid(5), oid(8)]
    assert storage.load(oid(3)) == make_record(oid(3), payload=b"new")
    assert storage.sync() == []


def test_a_commit_over_what_another_process_changed_is_refused(
    open_here: Open, start: Start
) -> None:
    """What another process committed since is not overwritten."""
    storage = open_here()
    commit(storage, make_record(oid(0)), make_record(oid(1)))
    other = start(
        "with SqliteStorage(path) as storage:\n"
        "    commit(storage, make_record(int8_to_str(1), payload=b'theirs'))\n"
        "say('done')\n"
    )
    assert hear(other) == "done"
    with pytest.raises(WriteConflictError) as caught:
        commit(storage, make_record(oid(1), payload=b"ours"), make_record(oid(0), payload=b"ours"))
    assert caught.value.oids == [oid(1)]
    storage.sync()
    assert storage.load(oid(1)) == make_record(oid(1), payload=b"theirs")
    assert storage.load(oid(0)) == make_record(oid(0))


def test_the_wait_for_the_lock_ends(open_here: Open, start: Start) -> None:
    """A commit waits for another process's, then gives up with nothing stored; reads go on."""
    storage = open_here(lock_timeout_s=0.2)
    commit(storage, make_record(oid(0)))
    other = start(
        "import sqlite3\n"
        "db = sqlite3.connect(path, isolation_level=None)\n"
        "db.execute('BEGIN IMMEDIATE')\n"
        "say('locked')\n"
        "wait()\n"
        "db.execute('ROLLBACK')\n"
        "say('free')\n"
    )
    assert hear(other) == "locked"
    with pytest.raises(StorageLockedError, match=r"waited 0.2 s .*SQLITE_BUSY"):
        commit(storage, make_record(oid(0), payload=b"mine"))
    assert storage.load(oid(0)) == make_record(oid(0))
    go_on(other)
    assert hear(other) == "free"
    commit(storage, make_record(oid(0), payload=b"mine"))
    assert open_here().load(oid(0)) == make_record(oid(0), payload=b"mine")


def test_a_commit_waits_for_that_of_another_process(open_here: Open, start: Start) -> None:
    """Who finds the lock taken commits as soon as it is free."""
    storage = open_here()
    commit(storage, make_record(oid(0)))
    other = start(
        "with SqliteStorage(path) as storage:\n"
        "    storage.begin()\n"
        "    storage.store(int8_to_str(1), make_record(int8_to_str(1)))\n"
        "    from durus.sqlite_storage import _storage\n"
        "    trim = _storage.trim\n"
        "    _storage._TRIM_EVERY = 1\n"
        "    _storage.trim = lambda *a: (say('inside'), wait())\n"
        "    storage.end()\n"
        "say('done')\n"
    )
    assert hear(other) == "inside"
    storage.begin()
    storage.store(oid(2), make_record(oid(2)))
    go_on(other)
    storage.end()
    assert hear(other) == "done"
    found = dict(open_here().gen_oid_record())
    assert sorted(found) == [oid(0), oid(1), oid(2)]


def test_oids_are_promised_once_over_all_processes(open_here: Open, start: Start) -> None:
    """No two processes are given the same oid."""
    others = [
        start(
            "with SqliteStorage(path) as storage:\n"
            "    say(' '.join(storage.new_oid().hex() for _ in range(300)))\n"
            "    wait()\n"
        )
        for _ in range(3)
    ]
    storage = open_here()
    given = [storage.new_oid().hex() for _ in range(300)]
    for other in others:
        given += hear(other).split()
        go_on(other)
    assert len(given) == 1200
    assert len(set(given)) == 1200


def test_another_opening_takes_no_lock_away(path: Path, open_here: Open, start: Start) -> None:
    """While a process has the file open, opening it by its bare path does not free its locks.

    The system takes all of a process's locks on a file away when any descriptor of it is closed.
    Another process would then believe to be the last one, and remove the WAL file under us.
    """
    storage = open_here()
    commit(storage, make_record(oid(0)))
    assert SqliteStorage.has_format(path)
    open_storage(path).close()
    open_storage(str(path), readonly=True).close()
    other = start("with SqliteStorage(path) as storage:\n    storage.sync()\nsay('closed')\n")
    assert hear(other) == "closed"
    assert Path(f"{path}-wal").exists()
    commit(storage, make_record(oid(0), payload=b"later"))
    assert open_here().load(oid(0)) == make_record(oid(0), payload=b"later")


def test_a_file_is_free_again_after_the_last_close(path: Path) -> None:
    """Who has a file open is known for as long as it is open."""
    with SqliteStorage(path) as one:
        session = one.new_session()
        one.close()
        assert owner_of_file(str(path)) is SqliteStorage
        session.close()
        session.close()
    assert owner_of_file(str(path)) is None
    assert not Path(f"{path}-wal").exists()


def test_a_session_opens_the_same_file_from_another_folder(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A relative path is that of the time of opening, for later sessions too."""
    monkeypatch.chdir(path.parent)
    with SqliteStorage("app.sqlite") as storage:
        commit(storage, make_record(oid(0)))
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        with storage.new_session() as session:
            assert session.load(oid(0)) == make_record(oid(0))
            assert str(session) == str(storage) == "SqliteStorage('app.sqlite')"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_readers_never_conflict(path: Path) -> None:
    """A transaction that only reads sees one state, whatever is committed meanwhile."""
    with Database(f"sqlite:{path}") as database:
        with database.transaction() as root:
            root["a"] = root["b"] = 0
        writer = Connection(f"sqlite:{path}")
        with database.transaction() as root:
            for n in range(20):
                writer.get_root()["a"] = writer.get_root()["b"] = n
                writer.commit()
                assert root["a"] == root["b"] == 0
        with database.transaction() as root:
            assert root["a"] == root["b"] == 19
        writer.close()


def test_idle_threads_hold_no_snapshot(path: Path, open_here: Open) -> None:
    """Between the blocks of a Database the WAL file is begun anew, however long nobody calls."""
    with Database(f"sqlite:{path}") as database:
        with database.transaction() as root:
            root["n"] = 0
        with pytest.raises(KeyError), database.transaction() as root:
            root["missing"]
        writer = open_here()
        large = b"x" * 100_000
        for n in range(300):
            commit(writer, make_record(oid(9), payload=b"%d" % n + large))
        assert os.stat(f"{path}-wal").st_size < 10_000_000
        with database.transaction() as root:
            assert root["n"] == 0


def test_a_long_wal_is_not_held_by_idle_sessions(
    path: Path, open_here: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the WAL is too long, sessions hold no snapshot between transactions; it is reused."""
    monkeypatch.setattr(_storage, "_LARGEST_WAL_BYTES", 500_000)
    idle, writer = open_here(), open_here()
    commit(writer, make_record(oid(0)))
    idle.sync()
    large = b"x" * 100_000
    lengths = []
    for n in range(200):
        commit(writer, make_record(oid(0), payload=b"%d" % n + large))
        if n % 10 == 0:
            idle.sync()
        lengths.append(os.stat(f"{path}-wal").st_size)
    assert lengths[-1] == max(lengths) < 100 * 100_000


def test_a_load_that_does_not_fit_the_last_sync_is_refused(
    open_here: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a snapshot, what others committed since `sync` is a ReadConflictError, not a mix."""
    monkeypatch.setattr(_storage, "_LARGEST_WAL_BYTES", -1)
    reader, writer = open_here(), open_here()
    commit(writer, make_record(oid(0)), make_record(oid(1)))
    reader.sync()
    commit(writer, make_record(oid(1), payload=b"new"))
    with pytest.raises(ReadConflictError):
        reader.load(oid(0))
    with pytest.raises(ReadConflictError):
        list(reader.gen_oid_record())
    assert reader.sync() == [oid(1)]
    assert reader.load(oid(0)) == make_record(oid(0))


def test_a_session_that_slept_too_long_is_told_so(
    open_here: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the log is cut, `sync` gives None, a commit is a conflict, and then all goes on."""
    monkeypatch.setattr("durus.sqlite_storage._schema.LARGEST_LOG", 100)
    sleeper, writer = open_here(), open_here()
    for n in range(400):
        commit(writer, make_record(oid(n % 7), payload=b"%d" % n))
    with pytest.raises(WriteConflictError):
        commit(sleeper, make_record(oid(100)))
    assert sleeper.sync() is None
    assert sleeper.load(oid(0)) == writer.load(oid(0))
    commit(sleeper, make_record(oid(100)))
    assert writer.sync() == [oid(100)]


def test_the_log_stays_short(path: Path, open_here: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is committed, the log holds what the last changes need."""
    monkeypatch.setattr("durus.sqlite_storage._schema.LARGEST_LOG", 100)
    storage = open_here()
    for n in range(600):
        commit(storage, make_record(oid(0), payload=b"%d" % n))
    with sqlite3.connect(path) as db:
        (count,) = db.execute("SELECT count(*) FROM durus_commits").fetchone()
    db.close()
    assert count < 300


def test_two_programs_make_the_first_root(path: Path) -> None:
    """Whoever comes second to an empty database finds the root of the first."""
    one, other = SqliteStorage(path), SqliteStorage(path)
    first, second = Connection(one), Connection(other)
    first.get_root()["n"] = 1
    first.commit()
    second.abort()
    assert second.get_root()["n"] == 1
    first.close()
    second.close()


def test_a_server_beside_other_programs(open_here: Open) -> None:
    """Sessions of one opening are refused what they validated before another program committed."""
    shared, beside = SharedStorage(open_here()), open_here()
    session = shared.new_session()
    commit(session, *(make_record(oid(n)) for n in range(3)))
    beside.sync()
    session.load(oid(1))
    outcome: list[BaseException | None] = []
    session.begin()
    session.store(oid(2), make_record(oid(2), payload=b"seen oid 1"))
    session.submit(None, outcome.append)
    commit(beside, make_record(oid(1), payload=b"beside"))
    shared.flush()
    assert [type(error) for error in outcome] == [ConflictError]
    assert session.sync() == [oid(1)]
    assert session.load(oid(2)) == make_record(oid(2))
    commit(session, make_record(oid(2), payload=b"again"))
    assert beside.sync() == [oid(2)]


def test_a_handler_may_load_what_has_not_changed(open_here: Open) -> None:
    """Inside `end` a load gives what the transaction sees, or is a ReadConflictError."""
    storage, other = open_here(), open_here()
    commit(storage, *(make_record(oid(n)) for n in range(4)))
    other.sync()
    commit(storage, make_record(oid(1), payload=b"new"))
    found: list[bytes] = []

    def look(oids: list[bytes]) -> None:
        found.append(other.load(oid(0)))
        with pytest.raises(ReadConflictError):
            other.load(oids[0])

    other.begin()
    other.store(oid(3), make_record(oid(3), payload=b"ours"))
    other.end(look)
    assert found == [make_record(oid(0))]
    assert other.load(oid(1)) == make_record(oid(1), payload=b"new")
