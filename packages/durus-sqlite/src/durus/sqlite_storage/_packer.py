"""Pack: mark what the root reaches, remove the rest, give the space back; all in small steps.

Others commit meanwhile. Whatever they write is taken for reachable, and its references are followed
from what is stored now. So when nothing is left to follow and nothing is new, every object that the
root reaches is marked: a reference from a marked object to one that is not could only have been
written after the former was read, and then it would be new. This is made sure under the write lock
before each step that removes. What commits refer to again before it is removed, stays by that; what
they refer to after it was removed, they are told.

Losing a step to a power cut only brings garbage back, so none of them is synced.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing
from struct import iter_unpack

from durus.sqlite_storage._engine import Engine, connect, run, writing
from durus.sqlite_storage._marks import Marks
from durus.sqlite_storage._schema import trim
from durus.storage import Removal

__all__ = ["Packer"]

# What a step may do, so that it takes a few milliseconds.
_MARKS_A_STEP = 1000
_REMOVALS_A_STEP = 500
_PAGES_A_STEP = 200
_VACUUM = f"PRAGMA incremental_vacuum({_PAGES_A_STEP})"


class Packer:
    """One pack.

    Attributes:
        removals: how many records it has removed since somebody set this to 0.
    """

    def __init__(self, engine: Engine) -> None:
        self.removals = 0
        self._engine = engine
        self._marks = Marks()
        self._waiting: list[int] = []
        self._serial = 0  # of the last commit whose changes are marked

    def gen_steps(self) -> Generator[int | Removal, None, None]:
        """Do it; yield how many objects are kept so far, and once what will be removed."""
        with closing(connect(self._engine, durable=False)) as db:
            if not self._begin(db):
                return
            first = -(1 << 63)
            yield from self._gen_marking(db)
            yield Removal(self._is_garbage)
            while True:
                yield from self._gen_marking(db)
                sql = "SELECT id FROM objects WHERE id >= ? ORDER BY id LIMIT ?"
                ids = [i for (i,) in db.execute(sql, (first, 10 * _REMOVALS_A_STEP))]
                garbage = [i for i in ids if i not in self._marks]
                while garbage:
                    if self._remove(db, garbage[:_REMOVALS_A_STEP]):
                        del garbage[:_REMOVALS_A_STEP]
                    else:
                        yield from self._gen_marking(db)
                    yield self._marks.count
                if not ids or ids[-1] == (1 << 63) - 1:
                    break
                first = ids[-1] + 1
            yield from self._gen_giving_back(db)

    def _is_garbage(self, oid: bytes) -> bool:
        return int.from_bytes(oid, signed=True) not in self._marks

    def _begin(self, db: sqlite3.Connection) -> bool:
        """Note from where on others' commits count, and tell whether there is a root."""

        def begin() -> bool:
            db.execute("BEGIN")
            try:
                (self._serial,) = db.execute("SELECT max(serial) FROM durus_commits").fetchone()
                return bool(db.execute("SELECT 1 FROM objects WHERE id = 0").fetchone())
            finally:
                db.execute("COMMIT")

        self._marks.add(0)
        self._waiting.append(0)
        return run(self._engine, begin)

    def _gen_marking(self, db: sqlite3.Connection) -> Generator[int, None, None]:
        """Mark until nothing is left and nothing is new."""
        while True:
            db.execute("BEGIN")
            try:
                run(self._engine, lambda: self._mark_news(db))
                self._mark(db)
            finally:
                db.execute("COMMIT")
            if not self._waiting:
                return
            yield self._marks.count

    def _mark(self, db: sqlite3.Connection) -> None:
        """Follow the references of the newest states, for one step."""
        waiting, add = self._waiting, self._marks.add
        sql = "SELECT refs FROM objects WHERE id = ?"
        for _ in range(_MARKS_A_STEP):
            if not waiting:
                return
            row = db.execute(sql, (waiting.pop(),)).fetchone()
            # Nothing, if it was removed meanwhile, or never stored: 4.3 may refer to such.
            for (ref,) in iter_unpack(">q", row[0] or b"") if row else ():
                if add(ref):
                    waiting.append(ref)

    def _mark_news(self, db: sqlite3.Connection) -> None:
        """Mark what was committed since the last time, to be read again even if it was before."""
        sql = "SELECT serial, removed, oids FROM durus_commits WHERE serial > ? ORDER BY serial"
        rows = db.execute(sql, (self._serial,)).fetchall()
        if rows and rows[0][0] != self._serial + 1:
            # So much was committed that the log does not have all of it: begin again.
            self._marks = Marks()
            self._waiting = [0]
            self._marks.add(0)
        for serial, removed, oids in rows:
            self._serial = serial
            if removed:
                continue
            written = [i for (i,) in iter_unpack(">q", oids)] if isinstance(oids, bytes) else [oids]
            for i in written:
                self._marks.add(i)
            self._waiting += written

    def _remove(self, db: sqlite3.Connection, garbage: list[int]) -> bool:
        """Remove what is still garbage; nothing, if there is much to mark before."""
        with writing(self._engine, db):
            self._mark_news(db)
            self._mark(db)
            if self._waiting:
                return False
            gone = [(i,) for i in garbage if i not in self._marks]
            db.executemany("DELETE FROM objects WHERE id = ?", gone)
            # Each is a commit of its own: the trigger's, as when Durus 4.3 packs.
            (serial,) = db.execute("SELECT max(serial) FROM durus_commits").fetchone()
            trim(db, 2 * len(gone))
        self.removals += serial - self._serial
        self._serial = serial
        return True

    def _gen_giving_back(self, db: sqlite3.Connection) -> Generator[int, None, None]:
        """Move pages from the end of the file to where removed ones were, and cut it.

        As many as are free now: commits go on, and free others.
        """
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        for _ in range(0, free, _PAGES_A_STEP):
            # As a script: it gives a row without columns for each page, of which others fetch one.
            run(self._engine, lambda: db.executescript(_VACUUM))
            yield self._marks.count
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
