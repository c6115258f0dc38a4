"""Records that came before they were asked for, and how many to have sent."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from struct import Struct

from durus.error import ProtocolError

__all__ = ["ReadAhead"]

_INT4 = Struct(">L")

_MOST_BYTES = 16 << 20

_FIRST_BUDGET = 8 << 10
_LEAST_BUDGET = 2 << 10
_MOST_BUDGET = 256 << 10

# While nothing that was read ahead is used, it is tried again once in so many loads.
_PROBE_INTERVAL = 100


class ReadAhead:
    """The records that were read ahead, each given once.

    The budget follows the use: doubled where at least half of the last records were asked for, cut
    where few were.
    """

    def __init__(self) -> None:
        # Ordered: a plain dictionary looks for its first entry among all those removed before.
        self._records: OrderedDict[bytes, bytes] = OrderedDict()
        self._size_bytes = 0
        self._budget = _FIRST_BUDGET
        self._put_count = 0
        self._take_count = 0
        self._since_probe = 0

    def take(self, oid: bytes) -> bytes | None:
        """Give a record, and forget it."""
        record = self._records.pop(oid, None)
        if record is not None:
            self._take_count += 1
            self._size_bytes -= len(record)
        return record

    def budget(self) -> int:
        """Give how many bytes to have sent with the next record."""
        if self._put_count:
            if 2 * self._take_count >= self._put_count:
                self._budget = min(2 * self._budget, _MOST_BUDGET)
            elif 8 * self._take_count < self._put_count:
                self._budget = self._budget // 4 if self._budget >= 4 * _LEAST_BUDGET else 0
            self._put_count = self._take_count = 0
        if self._budget:
            return self._budget
        self._since_probe += 1
        if self._since_probe < _PROBE_INTERVAL:
            return 0
        self._since_probe = 0
        self._budget = _LEAST_BUDGET
        return self._budget

    def put(self, payload: bytes, start: int) -> None:
        """Take in (u32 length, record)*.

        Raises:
            ProtocolError: the lengths do not add up.
        """
        records = self._records
        end = len(payload)
        while start < end:
            if start + 16 > end:
                raise ProtocolError("the server sent a record that is cut short")
            stop = start + 4 + _INT4.unpack_from(payload, start)[0]
            if not start + 16 <= stop <= end:
                raise ProtocolError("the server sent a record that is cut short")
            record = payload[start + 4 : stop]
            oid = record[:8]
            if oid in records:
                self._size_bytes -= len(records[oid])
            records[oid] = record
            self._size_bytes += len(record)
            self._put_count += 1
            start = stop
        while self._size_bytes > _MOST_BYTES:
            self._size_bytes -= len(records.popitem(last=False)[1])

    def drop(self, oids: Iterable[bytes]) -> None:
        """Forget records that are stale."""
        for oid in oids:
            record = self._records.pop(oid, None)
            if record is not None:
                self._size_bytes -= len(record)

    def clear(self) -> None:
        """Forget all records."""
        self._records.clear()
        self._size_bytes = 0
