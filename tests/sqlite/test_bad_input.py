"""What cannot be opened, read or written: an error of ours that carries SQLite's."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from durus.error import (
    CorruptionError,
    CorruptRecordError,
    DurusError,
    StorageError,
    StorageFormatError,
    StorageLockedError,
    StorageMissingError,
    StorageOpenError,
    StoragePermissionError,
    StorageReadOnlyError,
    StorageWriteError,
)
from durus.serialize import ROOT_OID
from durus.sqlite_storage import SqliteStorage, _engine
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Open = Callable[..., SqliteStorage]

as_anybody = pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")


def sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


@pytest.mark.parametrize(
    "content",
    [b"Dear Durus,", b"SHELF-1\n" + bytes(200), b"SQLite format 3\0", b"\0" * 4096],
    ids=["text", "shelf", "header", "zeros"],
)
@pytest.mark.parametrize("readonly", [False, True])
def test_not_a_database(path: Path, content: bytes, readonly: bool) -> None:
    """A file that is no SQLite database is refused, and stays as it is."""
    path.write_bytes(content)
    with pytest.raises(StorageFormatError, match="SQLITE_NOTADB") as caught:
        SqliteStorage(path, readonly=readonly)
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "statements",
    [
        ["PRAGMA application_id = 0x12345678"],
        ["CREATE TABLE objects (id INTEGER PRIMARY KEY, name TEXT)"],
        ["CREATE TABLE objects (id INTEGER PRIMARY KEY, data, refs)", "CREATE TABLE t (x)"],
        [
            "CREATE TABLE places (name)",
            "PRAGMA journal_mode = WAL",
            "INSERT INTO places VALUES (1)",
        ],
    ],
    ids=["application_id", "columns", "another table", "wal"],
)
@pytest.mark.parametrize("readonly", [False, True])
def test_the_database_of_another_application(
    path: Path, statements: list[str], readonly: bool
) -> None:
    """What belongs to another application is refused by name, and not a byte of it changes."""
    sql(path, "CREATE TABLE first (x)", "DROP TABLE first", *statements)
    before = path.read_bytes()
    with pytest.raises(StorageFormatError, match="of another application"):
        SqliteStorage(path, readonly=readonly)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_another_application_at_work(path: Path) -> None:
    """A database that another application has open in WAL mode is refused and left alone."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE places (name)")
        before = path.read_bytes()
        wal_before = Path(f"{path}-wal").read_bytes()
        with pytest.raises(StorageFormatError, match="of another application"):
            SqliteStorage(path)
        assert path.read_bytes() == before
        assert Path(f"{path}-wal").read_bytes() == wal_before


def test_a_newer_version_of_the_tables(path: Path, open_here: Open) -> None:
    """Tables of a later release are refused, with what to do."""
    open_here().close()
    sql(path, "PRAGMA user_version = 2")
    for readonly in (False, True):
        with pytest.raises(StorageFormatError, match=r"version 2.* install a newer"):
            SqliteStorage(path, readonly=readonly)


@pytest.mark.parametrize("readonly", [False, True])
def test_what_is_no_file(tmp_path: Path, readonly: bool) -> None:
    """A directory, a FIFO, an empty path and a missing directory are refused, and nothing made."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (tmp_path, fifo, "/dev/null", ""):
        with pytest.raises(StorageOpenError):
            SqliteStorage(path, readonly=readonly)
    with pytest.raises(StorageMissingError):
        SqliteStorage(tmp_path / "missing" / "app.sqlite", readonly=readonly)
    assert [each.name for each in tmp_path.iterdir()] == ["fifo"]


def test_a_missing_file_opened_read_only(path: Path) -> None:
    """Read-only, a missing file is missing, and an empty one holds no database yet."""
    with pytest.raises(StorageMissingError) as caught:
        SqliteStorage(path, readonly=True)
    assert caught.value.path == str(path)
    path.touch()
    with pytest.raises(StorageFormatError, match="no database yet"):
        SqliteStorage(path, readonly=True)
    assert path.stat().st_size == 0


def test_an_empty_file_becomes_a_database(path: Path) -> None:
    """What a crash at the first moment leaves, an empty file, is opened as a new one."""
    path.touch()
    with SqliteStorage(path) as storage:
        commit(storage, make_record(ROOT_OID))


def test_a_file_that_is_locked(path: Path, open_here: Open) -> None:
    """A file that another program has exclusively is waited for, then a clear error."""
    open_here().close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE")
        for readonly in (False, True):
            with pytest.raises(StorageLockedError, match="SQLITE_BUSY"):
                SqliteStorage(path, readonly=readonly, lock_timeout_s=0.05)


@as_anybody
def test_a_file_that_may_not_be_written(path: Path, open_here: Open) -> None:
    """A file without permission to write is refused for writing, and read otherwise."""
    commit(open_here(), make_record(ROOT_OID))
    path.chmod(0o444)
    with pytest.raises(StoragePermissionError):
        SqliteStorage(path)
    with SqliteStorage(path, readonly=True) as storage:
        assert storage.load(ROOT_OID) == make_record(ROOT_OID)


@as_anybody
def test_a_directory_that_may_not_be_written(path: Path, open_here: Open) -> None:
    """Where SQLite cannot make its files, that is said; a copy can be read there."""
    storage = open_here()
    commit(storage, make_record(ROOT_OID))
    folder = path.parent / "media"
    folder.mkdir()
    storage.copy(folder / "copy.sqlite")
    storage.close()
    folder.chmod(0o555)
    with SqliteStorage(folder / "copy.sqlite", readonly=True) as copy:
        assert copy.load(ROOT_OID) == make_record(ROOT_OID)
    with pytest.raises((StorageOpenError, StorageWriteError)):
        SqliteStorage(folder / "copy.sqlite")
    with pytest.raises(StorageOpenError):
        SqliteStorage(folder / "new.sqlite")
    folder.chmod(0o755)


def test_a_full_disk(path: Path, open_here: Open) -> None:
    """A commit that finds no room is refused whole; the storage goes on when there is room."""
    storage = open_here()
    commit(storage, make_record(ROOT_OID))
    db = storage._opened()
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    large = make_record(int8_to_str(1), payload=bytes(100_000))
    with pytest.raises(StorageWriteError, match=r"SQLITE_FULL.*disk is full"):
        commit(storage, make_record(ROOT_OID, payload=b"new"), large)
    assert storage.load(ROOT_OID) == make_record(ROOT_OID)
    assert open_here().sync() == []
    db.execute("PRAGMA max_page_count = 100000")
    commit(storage, large)
    assert open_here().load(large[:8]) == large


def test_a_file_size_limit(path: Path) -> None:
    """Where the system refuses to let the file grow, nothing of the commit is kept, and it says so.

    After a failed write nothing that is only in memory is trusted: the storage refuses further
    writes until it is opened again.
    """
    program = """
import resource, signal, sys
from durus.error import StorageWriteError
from durus.sqlite_storage import SqliteStorage
from durus.testing.records import commit, make_record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
storage = SqliteStorage(sys.argv[1])
commit(storage, make_record(bytes(8)))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
for expected in ("SQLITE_", "refuses since"):
    try:
        commit(storage, make_record(bytes(7) + b"1", payload=bytes(1_000_000)))
    except StorageWriteError as error:
        assert expected in str(error), error
    else:
        raise AssertionError("stored")
assert storage.load(bytes(8)) == make_record(bytes(8))
"""
    subprocess.run([sys.executable, "-c", program, path], check=True)
    with SqliteStorage(path) as storage:
        assert dict(storage.gen_oid_record()) == {ROOT_OID: make_record(ROOT_OID)}
        commit(storage, make_record(ROOT_OID, payload=b"goes on"))


def test_a_corrupt_page(path: Path, open_here: Open) -> None:
    """Damage inside of the file is a CorruptionError with the path, never an object."""
    storage = open_here()
    commit(storage, *(make_record(int8_to_str(n), payload=bytes(500)) for n in range(200)))
    storage.close()
    content = bytearray(path.read_bytes())
    page = 4096
    for start in range(12 * page, len(content), page):
        content[start : start + 100] = b"\xff" * 100
    path.write_bytes(content)
    with SqliteStorage(path) as storage:
        with pytest.raises(CorruptionError, match="SQLITE_CORRUPT") as caught:
            for n in range(200):
                storage.load(int8_to_str(n))
        assert caught.value.path == str(path)
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        with pytest.raises(CorruptionError):
            list(storage.gen_oid_record())
        with pytest.raises(DurusError):
            commit(storage, *(make_record(int8_to_str(n)) for n in range(200)))
        with pytest.raises(CorruptionError):
            storage.pack()


def test_a_row_that_is_no_record(path: Path, open_here: Open) -> None:
    """A row with other types than Durus stores is a CorruptRecordError, not a surprise."""
    open_here().close()
    sql(
        path,
        "INSERT INTO objects (id, data, refs) VALUES (1, 'text', x''), (2, x'00', NULL)",
        "INSERT INTO objects (id, data, refs) VALUES (3, 7, x'')",
    )
    storage = open_here()
    for n in (1, 2, 3):
        with pytest.raises(CorruptRecordError) as caught:
            storage.load(int8_to_str(n))
        assert caught.value.oid == int8_to_str(n)


def test_every_error_of_sqlite_is_one_of_ours(path: Path) -> None:
    """Whatever SQLite raises, the error of ours carries its words and its name."""
    for code, kind in {
        sqlite3.SQLITE_BUSY_SNAPSHOT: StorageLockedError,
        sqlite3.SQLITE_CORRUPT_INDEX: CorruptionError,
        sqlite3.SQLITE_NOTADB: StorageFormatError,
        sqlite3.SQLITE_CANTOPEN_ISDIR: StorageOpenError,
        sqlite3.SQLITE_READONLY_DBMOVED: StoragePermissionError,
        sqlite3.SQLITE_FULL: StorageWriteError,
        sqlite3.SQLITE_IOERR_FSYNC: StorageWriteError,
        sqlite3.SQLITE_MISUSE: StorageError,
    }.items():
        error = sqlite3.OperationalError("what SQLite says")
        error.sqlite_errorcode, error.sqlite_errorname = code, "SQLITE_NAME"
        found = _engine.translation(error, str(path), "read")
        assert isinstance(found, kind)
        assert "what SQLite says (SQLITE_NAME)" in str(found)
        assert str(path) in str(found)
    assert type(_engine.translation(sqlite3.Error("odd"), "p", "read")) is StorageError


def test_a_read_only_storage_says_what_was_tried(open_here: Open) -> None:
    """A write to what was opened read-only names the storage."""
    open_here().close()
    with pytest.raises(StorageReadOnlyError, match=r"app\.sqlite"):
        open_here(readonly=True).begin()
