"""What was overwritten or removed, for as long as the database keeps it."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from time import time_ns

from durus.error import BackendError

__all__ = ["PastRows", "find_as_of", "gen_commits", "has_commit", "history_us_of", "last_time_us"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_LARGEST_SERIAL = (1 << 63) - 1

# The newest state can always be read; older ones from when history was first kept, and not from
# before its time: what they need may be gone.
_COMMITS = """
    SELECT serial, time_us FROM durus_commits, durus_state
    WHERE serial = (SELECT max(serial) FROM durus_commits)
    OR history_us > 0 AND serial >= history_from AND time_us >= ? - history_us
"""

_AS_OF = """
    SELECT data, refs FROM objects WHERE id = ? AND serial <= ?
    UNION ALL
    SELECT data, refs FROM durus_history WHERE id = ? AND ? BETWEEN serial AND until - 1
"""

_OIDS_AS_OF = """
    SELECT id FROM objects WHERE id >= ? AND serial <= ?
    UNION
    SELECT id FROM durus_history WHERE id >= ? AND ? BETWEEN serial AND until - 1
    ORDER BY id LIMIT ?
"""


def history_us_of(text: str) -> int:
    """Give microseconds for such as "90m", "12h", "7d" or "2w"; "0" is none.

    Raises:
        BackendError: it is none of these.
    """
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text, re.ASCII)
    if match is not None:
        return int(match[1]) * _SECONDS[match[2]] * 1_000_000
    if text == "0":
        return 0
    raise BackendError(
        "option 'history' of 'sqlite:' takes a time such as 90m, 12h, 7d, 2w or 0,"
        f" got {text!r:.80}",
        "sqlite",
    )


def gen_commits(db: sqlite3.Connection, last: int | None = None) -> Iterator[tuple[int, int]]:
    """Yield serial and time in microseconds of the commits as of which all is kept, up to one."""
    sql = f"SELECT serial, time_us FROM ({_COMMITS}) WHERE serial <= ? ORDER BY serial"
    upto = _LARGEST_SERIAL if last is None else last
    yield from db.execute(sql, (time_ns() // 1000, upto)).fetchall()


def has_commit(db: sqlite3.Connection, serial: int, last: int | None = None) -> bool:
    """Tell whether a commit is one of these."""
    if not 0 <= serial <= (_LARGEST_SERIAL if last is None else last):
        return False
    found = db.execute(f"SELECT 1 FROM ({_COMMITS}) WHERE serial = ?", (time_ns() // 1000, serial))
    return found.fetchone() is not None


def last_time_us(db: sqlite3.Connection, last: int | None = None) -> int | None:
    """Give when the newest commit up to one was made, packs left out; None if there is none."""
    sql = """SELECT max(time_us) FROM durus_commits
        WHERE NOT removed AND serial BETWEEN 2 AND ?"""
    found: int | None = db.execute(sql, (_LARGEST_SERIAL if last is None else last,)).fetchone()[0]
    return found


def find_as_of(db: sqlite3.Connection, oid_int: int, serial: int) -> tuple[bytes, bytes] | None:
    """Give data and references of the record as it was right after a commit."""
    found = db.execute(_AS_OF, (oid_int, serial) * 2)
    row: tuple[bytes, bytes] | None = found.fetchone()
    return row


class PastRows:
    """Reads rows as they were right after a commit, as `RowReader` does those of now.

    Attributes:
        serial: the commit.
    """

    def __init__(self, serial: int) -> None:
        self.serial = serial

    def read(self, db: sqlite3.Connection, oid_int: int) -> tuple[bytes, bytes] | None:
        return find_as_of(db, oid_int, self.serial)

    def oids_from(self, db: sqlite3.Connection, first_oid_int: int, count: int) -> list[int]:
        values = (first_oid_int, self.serial) * 2
        return [oid_int for (oid_int,) in db.execute(_OIDS_AS_OF, (*values, count))]

    def forget(self) -> None:
        """Forget nothing: nothing is read ahead."""
