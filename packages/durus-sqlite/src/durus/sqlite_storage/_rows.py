"""The rows of the table `objects`: read one by one or ahead, and written many at a time."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from struct import Struct

from durus.serialize import split_oids

__all__ = ["Row", "RowReader", "gen_referred", "write_rows"]

Row = tuple[bytes, bytes]

# Objects that were stored one after the other are often loaded so. From the second on, rows are
# read ahead, more each time, and for as long as they are found to be asked for.
_NEAR = 8
_FIRST_ROWS_AHEAD, _MOST_ROWS_AHEAD, _MOST_BYTES_AHEAD = 16, 256, 1 << 20

_WRITE_ROWS = "INSERT OR REPLACE INTO objects (id, data, refs, serial) VALUES "
_WRITE_ROW = f"{_WRITE_ROWS}(?, ?, ?, ?)"

# To run a statement takes as long as to write a row. This is within the limit of 999 values
# that SQLite may be built with.
_ROWS_AT_ONCE = 100
_WRITE_MANY = _WRITE_ROWS + ", ".join(["(?, ?, ?, ?)"] * _ROWS_AT_ONCE)

# The oid as a signed number, and the length of the data.
_RECORD_START = Struct(">qL")


class RowReader:
    """Reads rows of one snapshot."""

    def __init__(self) -> None:
        # Those that were read and not asked for yet.
        self._ahead: dict[int, Row] = {}
        self._last_oid_int = -_NEAR
        self._rows_ahead = _FIRST_ROWS_AHEAD

    def forget(self) -> None:
        """Forget what was read ahead: it belongs to a snapshot that is given back."""
        self._ahead = {}

    def read(self, db: sqlite3.Connection, oid_int: int) -> Row | None:
        """Give data and refs of the record, as they are stored, or None.

        Raises:
            sqlite3.Error: what SQLite raises.
        """
        row = self._ahead.pop(oid_int, None)
        if row is None:
            if 0 < oid_int - self._last_oid_int <= _NEAR:
                row = self._read_ahead(db, oid_int)
            else:
                self._rows_ahead = _FIRST_ROWS_AHEAD
                sql = "SELECT data, refs FROM objects WHERE id = ?"
                row = db.execute(sql, (oid_int,)).fetchone()
            if row is None:
                return None
        self._last_oid_int = oid_int
        return row

    def oids_from(self, db: sqlite3.Connection, first_oid_int: int, count: int) -> list[int]:
        """Give up to `count` oids of stored objects, ascending, from `first_oid_int` on.

        Raises:
            sqlite3.Error: what SQLite raises.
        """
        sql = "SELECT id FROM objects WHERE id >= ? ORDER BY id LIMIT ?"
        return [oid_int for (oid_int,) in db.execute(sql, (first_oid_int, count))]

    def _read_ahead(self, db: sqlite3.Connection, oid_int: int) -> Row | None:
        sql = "SELECT id, data, refs FROM objects WHERE id >= ? ORDER BY id LIMIT ?"
        ahead: dict[int, Row] = {}
        length_bytes = 0
        for found, data, refs in db.execute(sql, (oid_int, self._rows_ahead)):
            ahead[found] = (data, refs)
            length_bytes += len(data)
            if length_bytes > _MOST_BYTES_AHEAD:
                break
        self._ahead = ahead
        self._rows_ahead = min(self._rows_ahead * 2, _MOST_ROWS_AHEAD)
        return ahead.pop(oid_int, None)


def write_rows(db: sqlite3.Connection, records: dict[bytes, bytes], serial: int) -> None:
    """Write the records of the commit `serial` over what is stored of them.

    Raises:
        sqlite3.Error: what SQLite raises.
    """
    # In the order of the table, which is how it is written fastest.
    oids = iter(sorted(records))
    if len(records) >= _ROWS_AT_ONCE:
        batches = len(records) // _ROWS_AT_ONCE
        db.executemany(
            _WRITE_MANY,
            (_values_of(islice(oids, _ROWS_AT_ONCE), records, serial) for _ in range(batches)),
        )
    db.executemany(_WRITE_ROW, (_values_of((oid,), records, serial) for oid in oids))


def _values_of(
    oids: Iterable[bytes], records: dict[bytes, bytes], serial: int
) -> list[int | bytes]:
    values: list[int | bytes] = []
    for oid in oids:
        record = records[oid]
        oid_int, data_bytes = _RECORD_START.unpack_from(record)
        end = 12 + data_bytes
        values += (oid_int, record[12:end], record[end:], serial)
    return values


def gen_referred(records: dict[bytes, bytes]) -> Iterator[bytes]:
    """Yield each oid that one of the records refers to, some of them again and again."""
    for record in records.values():
        _, data_bytes = _RECORD_START.unpack_from(record)
        yield from split_oids(record[12 + data_bytes :])
