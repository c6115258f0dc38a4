"""The tables of a database, the version of them, and how a file is made or upgraded.

::

    objects            the table of Durus 4.3, with one column more
        id       INTEGER PRIMARY KEY   the oid, as a signed number of 64 bits
        data     BLOB                  the data of the record
        refs     BLOB                  the references of the record, 8 bytes each
        serial   INTEGER, 0 if unsaid  the commit that wrote the row
    durus_commits      what each commit changed, so that others can learn it; old ones are trimmed
        serial   INTEGER PRIMARY KEY   1, 2, 3, ... without a gap
        total    INTEGER               how many changes there were up to here, this commit included
        time_us  INTEGER               when: microseconds since 1970, UTC
        removed  INTEGER               1 if a pack removed the records, else 0
        oids     BLOB or INTEGER       whose records: 8 bytes each, or the id of a single one
    durus_state        one row
        next_oid      INTEGER          the lowest oid that was promised to nobody
        history_us    INTEGER          for how long to keep what is overwritten; 0: not at all
        history_from  INTEGER          the first commit of which all is kept
    durus_history      what was overwritten or removed, if history is kept
        id, serial    INTEGER          whose record, and the commit that wrote it
        until         INTEGER          the commit that replaced it
        until_us      INTEGER          when: microseconds since 1970, UTC
        data, refs    BLOB             as in objects

`PRAGMA application_id` is 0x44757235 ("Dur5") and `PRAGMA user_version` is 1, the version of these
tables. Durus 4.3 asks for neither, selects and replaces the first three columns by name, and leaves
the other tables alone. Triggers do for it what our own commits do: a row that is written with
serial 0 becomes a commit of its own, and so does a row that is deleted.

The file is in WAL mode. A commit that was cut off is found by SQLite's checksums when the file is
next opened, and was never seen by anybody.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from time import time_ns

from durus.error import StorageFormatError, StorageLockedError
from durus.sqlite_storage._engine import Engine, connect, run, translated, writing

__all__ = ["LARGEST_LOG", "has_format", "is_upgraded", "prepare", "set_history", "trim"]

_MAGIC = b"SQLite format 3\0"
_APPLICATION_ID = 0x44757235
_VERSION = 1

# A session that has not synced for as many changes is told that all may have changed.
LARGEST_LOG = 250_000

_NOW_US = "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"

_OBJECTS = "CREATE TABLE objects (id INTEGER PRIMARY KEY, data BLOB, refs BLOB)"
_NEXT_COMMIT = f"SELECT serial + 1, total + 1, {_NOW_US}"
_LAST_COMMIT = "FROM durus_commits ORDER BY serial DESC LIMIT 1"

_SCHEMA = [
    "ALTER TABLE objects ADD COLUMN serial INTEGER NOT NULL DEFAULT 0",
    """CREATE TABLE durus_commits (
        serial INTEGER PRIMARY KEY, total INTEGER NOT NULL, time_us INTEGER NOT NULL,
        removed INTEGER NOT NULL, oids)""",
    f"INSERT INTO durus_commits VALUES (1, 0, {_NOW_US}, 0, x'')",
    """CREATE TABLE durus_state (
        next_oid INTEGER NOT NULL, history_us INTEGER NOT NULL, history_from INTEGER NOT NULL)""",
    "INSERT INTO durus_state VALUES (1, 0, 0)",
    """CREATE TABLE durus_history (
        id INTEGER NOT NULL, serial INTEGER NOT NULL, until INTEGER NOT NULL,
        until_us INTEGER NOT NULL, data BLOB, refs BLOB)""",
    "CREATE INDEX durus_history_of ON durus_history (id, until)",
    "CREATE INDEX durus_history_until ON durus_history (until_us)",
    f"""CREATE TRIGGER durus_written AFTER INSERT ON objects WHEN NEW.serial = 0 BEGIN
        INSERT INTO durus_commits {_NEXT_COMMIT}, 0, NEW.id {_LAST_COMMIT};
        UPDATE objects SET serial = (SELECT max(serial) FROM durus_commits) WHERE id = NEW.id;
    END""",
    f"""CREATE TRIGGER durus_removed AFTER DELETE ON objects BEGIN
        INSERT INTO durus_commits {_NEXT_COMMIT}, 1, OLD.id {_LAST_COMMIT};
    END""",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_VERSION}",
]

# They are there only while history is kept: others pay nothing for it. What replaces a row has its
# serial already, unless Durus 4.3 writes; it is a commit of its own, after the last one.
_HISTORY_TRIGGERS = {
    "durus_keep_written": f"""
        BEFORE INSERT ON objects BEGIN
        INSERT INTO durus_history
            SELECT id, serial, CASE NEW.serial WHEN 0 THEN
                (SELECT max(serial) + 1 FROM durus_commits) ELSE NEW.serial END,
                {_NOW_US}, data, refs
            FROM objects WHERE id = NEW.id;
        END""",
    "durus_keep_removed": f"""
        BEFORE DELETE ON objects BEGIN
        INSERT INTO durus_history VALUES (OLD.id, OLD.serial,
            (SELECT max(serial) + 1 FROM durus_commits), {_NOW_US}, OLD.data, OLD.refs);
        END""",
    # Twice what one commit adds, and more: it never falls behind for long.
    "durus_forget": """
        AFTER INSERT ON durus_commits BEGIN
        DELETE FROM durus_history WHERE rowid IN (
            SELECT rowid FROM durus_history
            WHERE until_us < NEW.time_us - (SELECT history_us FROM durus_state)
            LIMIT 100 + length(NEW.oids) / 4);
        END""",
}


def has_format(path: str) -> bool:
    """Tell by its first bytes whether a file is an SQLite database that may be ours or 4.3's.

    Not to be asked of a file that this process has open: it would lose the locks that it has on it.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(100)
    except OSError:
        return False
    return start.startswith(_MAGIC) and int.from_bytes(start[68:72], "big") in {0, _APPLICATION_ID}


def prepare(engine: Engine) -> None:
    """Make the file if there is none, upgrade it if Durus 4.3 made it, and refuse all others.

    Raises:
        StorageFormatError: it is no database of ours, or a newer one. Nothing was changed.
    """
    kind, mode = "empty", ""
    if os.path.exists(engine.path):
        with translated(engine.path, "open"):
            kind, mode = _judge(engine)
    if not engine.readonly:
        if (kind, mode) != ("ours", "wal"):
            _make(engine, kind)
    elif kind == "empty":
        raise StorageFormatError(
            f"{engine.path!r} holds no database yet; open it for writing once", engine.path
        )


def is_upgraded(db: sqlite3.Connection) -> bool:
    """Tell whether the tables of ours are there; of what Durus 4.3 made, only `objects` is."""
    return _application_id(db) == _APPLICATION_ID


def _application_id(db: sqlite3.Connection) -> int:
    number: int = db.execute("PRAGMA application_id").fetchone()[0]
    return number & 0xFFFFFFFF


def _judge(engine: Engine) -> tuple[str, str]:
    """Tell "empty", "4.3" or "ours", and the journal's mode, changing nothing.

    By way of SQLite alone: whoever closes a file loses every lock that his process has on it, and
    the process may have it open.
    """

    def judge(*, readonly: bool) -> tuple[str, str]:
        with closing(connect(engine, readonly=readonly)) as db:
            kind = _kind_of(db, engine.path)
            (mode,) = db.execute("PRAGMA journal_mode").fetchone()
            return kind, mode

    # What is in a WAL file would come into the database when the last one closes it, unless he may
    # not write. Where there is none, who may write leaves none behind.
    has_wal = os.path.exists(f"{engine.path}-wal")
    return run(engine, lambda: judge(readonly=has_wal))


def _kind_of(db: sqlite3.Connection, path: str) -> str:
    application_id = _application_id(db)
    if application_id == _APPLICATION_ID:
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise StorageFormatError(
                f"{path!r} has tables of version {version}, and this release of durus-sqlite knows"
                f" those up to {_VERSION}; install a newer one",
                path,
            )
        return "ours"
    names = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
    if not application_id:
        if not names:
            return "empty"
        columns = [row[1].lower() for row in db.execute("PRAGMA table_info(objects)")]
        if names == {"objects"} and columns == ["id", "data", "refs"]:
            return "4.3"
    shown = ", ".join(sorted(names)[:5])
    raise StorageFormatError(
        f"{path!r} is the SQLite database of another application: its application_id is"
        f" {application_id:#x}, it has {shown or 'no tables'}",
        path,
    )


def _make(engine: Engine, kind: str) -> None:
    """Make the tables, or add what a database of Durus 4.3 lacks: at once, or not at all."""
    path = engine.path
    with translated(path, "open"), closing(connect(engine, durable=True, create=True)) as db:
        # A new file gets this with its first table; one of Durus 4.3 when it is written anew.
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if kind == "4.3":
            run(engine, lambda: db.execute("VACUUM"))
        with writing(engine, db):
            # Another process may have been here first.
            found = _kind_of(db, path)
            if found == "empty":
                db.execute(_OBJECTS)
            if found != "ours":
                for statement in _SCHEMA:
                    db.execute(statement)
        (mode,) = run(engine, lambda: db.execute("PRAGMA journal_mode = WAL").fetchone())
    if mode != "wal":
        raise StorageLockedError(
            f"cannot share {path!r}: SQLite leaves it in journal mode {mode!r}", path
        )
    _sync_directory(path)


def _sync_directory(path: str) -> None:
    # SQLite does so with the names of its journals; that of the database may have come before.
    descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_history(engine: Engine, db: sqlite3.Connection, history_us: int) -> None:
    """Keep history for so long from now on; 0 forgets what there is.

    It is the database's, for whoever commits to it.
    """
    sql = "SELECT history_us FROM durus_state"
    if run(engine, lambda: db.execute(sql).fetchone()) == (history_us,):
        return
    with writing(engine, db):
        (before,) = db.execute(sql).fetchone()
        db.execute("UPDATE durus_state SET history_us = ?", (history_us,))
        for name, text in _HISTORY_TRIGGERS.items():
            db.execute(f"DROP TRIGGER IF EXISTS {name}")
            if history_us:
                db.execute(f"CREATE TRIGGER {name} {text}")
        if not history_us:
            db.execute("DELETE FROM durus_history")
        elif not before:
            db.execute(
                "UPDATE durus_state SET history_from = (SELECT max(serial) FROM durus_commits)"
            )


def trim(db: sqlite3.Connection, count: int) -> None:
    """Forget up to `count` of the oldest commits, if sessions or the history do not need them."""
    db.execute(
        """DELETE FROM durus_commits WHERE serial <= (
            SELECT max(serial) FROM (
                SELECT serial, total, time_us FROM durus_commits ORDER BY serial LIMIT ?)
            WHERE total < (SELECT total FROM durus_commits ORDER BY serial DESC LIMIT 1) - ?
            AND time_us < ? - (SELECT history_us FROM durus_state))""",
        (count, LARGEST_LOG, time_ns() // 1000),
    )
