"""What a session must learn of others' commits: the rows of the table `durus_commits`."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from struct import Struct

from durus.error import CorruptionError
from durus.serialize import split_oids

__all__ = ["News", "newest_commit", "read_news", "stored_oids"]

_SIGNED = Struct(">q")


@dataclass
class News:
    """What happened since a session was last told.

    Attributes:
        serial: the newest commit.
        total: of its changes and all before.
        changed: whose records were written or removed.
        removed: whose records a pack removed.
        is_known: `changed` is all of it. Else so much has happened that the log is cut.
    """

    serial: int
    total: int
    changed: set[bytes] = field(default_factory=set)
    removed: set[bytes] = field(default_factory=set)
    is_known: bool = True


def newest_commit(db: sqlite3.Connection) -> tuple[int, int]:
    """Give serial and total of the newest commit.

    Raises:
        CorruptionError: there is none, where one is always kept.
    """
    sql = "SELECT serial, total FROM durus_commits ORDER BY serial DESC LIMIT 1"
    found = db.execute(sql).fetchone()
    if found is None:
        path = db.execute("PRAGMA database_list").fetchone()[2]
        raise CorruptionError(
            f"tried to find the newest commit of {path!r}, found none in durus_commits; restore a"
            " backup",
            path=path,
        )
    serial, total = found
    return serial, total


def read_news(db: sqlite3.Connection, serial: int, total: int) -> News:
    """Give what happened after the commit with this serial and total."""
    sql = "SELECT serial, total, removed, oids FROM durus_commits WHERE serial > ? ORDER BY 1"
    rows = db.execute(sql, (serial,)).fetchall()
    if not rows:
        return News(serial, total)
    news = News(rows[-1][0], rows[-1][1])
    if rows[0][0] != serial + 1:
        news.is_known = False
    for _, _, removed, oids in rows:
        found = _split(oids)
        news.changed.update(found)
        if removed:
            news.removed.update(found)
        else:
            news.removed.difference_update(found)
    return news


def stored_oids(db: sqlite3.Connection, serial: int) -> list[bytes]:
    """Give whose records a commit wrote; none for a pack, or one that is forgotten."""
    sql = "SELECT oids FROM durus_commits WHERE serial = ? AND NOT removed"
    return [oid for (oids,) in db.execute(sql, (serial,)) for oid in _split(oids)]


def _split(oids: bytes | int) -> list[bytes]:
    return split_oids(oids) if isinstance(oids, bytes) else [_SIGNED.pack(oids)]
