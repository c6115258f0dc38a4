"""The oids of one session: what all sessions promised it, and what it gave away of that."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Container

from durus.sqlite_storage._engine import Engine, connect, translated, writing
from durus.utils import int8_to_str

__all__ = ["OidSupply"]

# Oids are promised to a session so many at a time, the double each time.
_FIRST_OIDS, _MOST_OIDS = 16, 1 << 14

# Durus 4.3 counts on from the highest id; so do we, unless somebody chose an enormous one.
_HIGHEST_COUNTED = 1 << 62


class OidSupply:
    """Gives oids that are neither stored nor promised to any other session of any process.

    Attributes:
        given: those that were given away and are not stored, as far as is known.
    """

    def __init__(self, engine: Engine) -> None:
        self.given: set[bytes] = set()
        self._engine = engine
        self._db: sqlite3.Connection | None = None
        # The rest of what is promised, and what is stored of it nevertheless.
        self._next_oid_int = self._end_oid_int = 0
        self._block_oids = _FIRST_OIDS
        self._taken: set[int] = set()

    def give(self, pending: Container[bytes]) -> bytes:
        """Give an oid that is not in `pending` either.

        Raises:
            StorageError: more are needed, and cannot be had now.
        """
        while True:
            if self._next_oid_int == self._end_oid_int:
                self._take()
            oid_int = self._next_oid_int
            self._next_oid_int += 1
            oid = int8_to_str(oid_int)
            if oid not in pending and oid_int not in self._taken:
                self.given.add(oid)
                return oid

    def note_written(self, oids: Collection[bytes]) -> None:
        """Give none of the promised ones if some of them were written.

        Whoever chooses oids himself, as Durus 4.3, may do that.
        """
        if self._next_oid_int == self._end_oid_int or not oids:
            return
        first, end = int8_to_str(self._next_oid_int), int8_to_str(self._end_oid_int)
        # Most often all of them were given long ago.
        if max(oids) >= first and any(first <= oid < end for oid in oids):
            self._next_oid_int = self._end_oid_int

    def forget(self) -> None:
        """Give none of the promised ones, and take it that what was given is somebody else's."""
        self.given.clear()
        self._next_oid_int = self._end_oid_int

    def close(self) -> None:
        """Close the connection that asks for more."""
        if self._db is not None:
            self._db.close()

    def _take(self) -> None:
        """Have the next oids promised to this session, by all sessions of all processes.

        That needs no sync: who loses it to a power cut loses all that was committed later as well.
        Nor does it disturb the snapshot, by being done through another connection.
        """
        with translated(self._engine.path, "get a new oid from"):
            if self._db is None:
                self._db = connect(self._engine, durable=False)
            with writing(self._engine, self._db):
                ask = self._db.execute
                (start,) = ask("SELECT next_oid FROM durus_state").fetchone()
                (highest,) = ask("SELECT max(id) FROM objects").fetchone()
                if highest is not None and start <= highest < _HIGHEST_COUNTED:
                    start = highest + 1
                end = start + self._block_oids
                ask("UPDATE durus_state SET next_oid = ?", (end,))
                found = ask("SELECT id FROM objects WHERE id BETWEEN ? AND ?", (start, end - 1))
                self._taken = {oid_int for (oid_int,) in found}
        self._next_oid_int, self._end_oid_int = start, end
        self._block_oids = min(self._block_oids * 2, _MOST_OIDS)
