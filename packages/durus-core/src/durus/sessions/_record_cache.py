"""Records that several sessions load, so that the storage beneath is asked for each once."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["RecordCache"]


class RecordCache:
    """The current records of some objects: those that were asked for last.

    Two generations: when the young one is full, it becomes the old one, and what was the old one
    goes.

    Args:
        most_bytes: how many bytes of records to keep.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_young_bytes = most_bytes // 2
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._young_bytes = 0

    def get(self, oid: bytes) -> bytes | None:
        """Give a record, or None if it is not here."""
        record = self._young.get(oid)
        if record is None:
            record = self._old.pop(oid, None)
            if record is not None:
                self.put(oid, record)
        return record

    def peek(self, oid: bytes) -> bytes | None:
        """Give a record as `get` does, and change nothing: any thread may, at any time."""
        return self._young.get(oid) or self._old.get(oid)

    def put(self, oid: bytes, record: bytes) -> None:
        """Keep a record that was not here."""
        self._young[oid] = record
        self._young_bytes += len(record)
        if self._young_bytes > self._most_young_bytes:
            self._old, self._young = self._young, {}
            self._young_bytes = 0

    def forget(self, oids: Iterable[bytes]) -> None:
        """Drop records that are not current any more."""
        for oid in oids:
            record = self._young.pop(oid, None)
            if record is not None:
                self._young_bytes -= len(record)
            self._old.pop(oid, None)

    def clear(self) -> None:
        """Drop all."""
        self._young.clear()
        self._old.clear()
        self._young_bytes = 0
