"""What is damaged in a database beside its records: SQLite's structure, and the tables of ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from struct import Struct

from durus.storage import Damage

__all__ = ["gen_damage"]

_SIGNED = Struct(">q")
_MOST_MESSAGES = 1_000_000

_WRONG_ROWS = """
    SELECT id FROM objects WHERE typeof(data) != 'blob' OR typeof(refs) != 'blob'
    OR length(refs) % 8
"""
_WRONG_SERIALS = """
    SELECT id, serial FROM objects WHERE typeof(serial) != 'integer'
    OR serial NOT BETWEEN 1 AND (SELECT max(serial) FROM durus_commits)
"""
_WRONG_COMMITS = """
    SELECT serial, before, total, total_before, count FROM (
        SELECT serial, total, removed,
            lag(serial) OVER (ORDER BY serial) AS before,
            lag(total) OVER (ORDER BY serial) AS total_before,
            CASE typeof(oids) WHEN 'integer' THEN 1 WHEN 'blob' THEN length(oids) / 8.0 END AS count
        FROM durus_commits)
    WHERE before IS NOT NULL AND (serial != before + 1 OR total != total_before + count)
    OR count IS NULL OR removed NOT IN (0, 1)
"""
_WRONG_HISTORY = """
    SELECT id, serial FROM durus_history WHERE typeof(data) != 'blob' OR typeof(refs) != 'blob'
    OR length(refs) % 8 OR NOT serial < until
"""
_RIGHT_STATES = """
    SELECT count(*) FROM durus_state WHERE typeof(next_oid) = 'integer' AND next_oid > 0
    AND typeof(history_us) = 'integer' AND history_us >= 0 AND typeof(history_from) = 'integer'
"""


def gen_damage(db: sqlite3.Connection, *, is_plain: bool) -> Iterator[Damage]:
    """Yield what is damaged in the snapshot that a connection reads.

    Args:
        db: the connection.
        is_plain: the tables of ours are not there, as in what Durus 4.3 made.
    """
    checks = [_gen_structure, _gen_rows]
    if not is_plain:
        checks += [_gen_serials, _gen_commits, _gen_state, _gen_history]
    for check in checks:
        try:
            yield from check(db)
        except sqlite3.DatabaseError as error:
            yield Damage(f"what SQLite cannot read: {error}")


def _gen_structure(db: sqlite3.Connection) -> Iterator[Damage]:
    for (text,) in db.execute(f"PRAGMA integrity_check({_MOST_MESSAGES})"):
        if text != "ok":
            yield Damage(f"by SQLite's integrity_check: {text}")


def _gen_rows(db: sqlite3.Connection) -> Iterator[Damage]:
    for (oid_int,) in db.execute(_WRONG_ROWS):
        yield Damage("a row that holds no record", _SIGNED.pack(oid_int))


def _gen_serials(db: sqlite3.Connection) -> Iterator[Damage]:
    for oid_int, serial in db.execute(_WRONG_SERIALS):
        text = f"a row of commit {serial!r:.40}, which durus_commits does not know"
        yield Damage(text, _SIGNED.pack(oid_int))


def _gen_commits(db: sqlite3.Connection) -> Iterator[Damage]:
    for serial, before, total, total_before, count in db.execute(_WRONG_COMMITS):
        yield Damage(
            f"commit {serial} of durus_commits, with {count} changes and {total} up to there, after"
            f" commit {before} with {total_before}"
        )


def _gen_state(db: sqlite3.Connection) -> Iterator[Damage]:
    (count,) = db.execute("SELECT count(*) FROM durus_state").fetchone()
    (right,) = db.execute(_RIGHT_STATES).fetchone()
    if (count, right) != (1, 1):
        yield Damage(f"{count} rows in durus_state, {right} of them as they should be, not one")


def _gen_history(db: sqlite3.Connection) -> Iterator[Damage]:
    for oid_int, serial in db.execute(_WRONG_HISTORY):
        text = f"a row in durus_history, of commit {serial}, that holds no record of the past"
        yield Damage(text, _SIGNED.pack(oid_int))
