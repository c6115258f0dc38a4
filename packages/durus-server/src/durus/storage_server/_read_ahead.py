"""Records that a client will probably ask for next.

Loading a graph object by object costs a round trip for each. A client that says how many bytes it
has room for gets more with the record that it asked for: first what that refers to, breadth first;
then what stands next to it, in a container that was sent lately; and when it stands in none, the
objects with the oids that follow, since what was made together is mostly used together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from struct import Struct

from durus.error import DurusError

__all__ = ["ReadAhead"]

_OID = Struct(">Q")
_DATA_BYTES = Struct(">8xL")
_LAST_OID_INT = 2**64 - 1

# How many containers to remember for each client, and how large they may be: they are kept for as
# long as the client stays.
_CONTAINERS = 8
_CONTAINER_REFS = 8192


class ReadAhead:
    """What to send ahead to one client.

    Args:
        load: gives the record of an oid, or raises a DurusError.
    """

    __slots__ = ("_containers", "_load")

    def __init__(self, load: Callable[[bytes], bytes]) -> None:
        self._load = load
        self._containers: deque[list[bytes]] = deque(maxlen=_CONTAINERS)

    def collect(self, oid: bytes, record: bytes, budget_bytes: int) -> list[tuple[bytes, bytes]]:
        """Give (oid, record) of what to send with a record that was asked for.

        Args:
            oid: of that record.
            record: itself, which the budget does not count.
            budget_bytes: how much all of what is sent ahead may take.
        """
        found: list[tuple[bytes, bytes]] = []
        sent = {oid}
        refs = _split_refs(record)
        if refs:
            self._containers.appendleft(refs)
        waiting = deque(refs)
        try:
            budget_bytes = self._take(waiting, True, sent, found, budget_bytes)
            if not refs or budget_bytes > 0:
                self._take(self._gen_neighbours(oid), False, sent, found, budget_bytes)
        except DurusError:
            # It is not there, is newer than what this client sees, or is damaged: whoever asks for
            # it is told.
            pass
        return found

    def _take(
        self,
        oids: deque[bytes] | Iterator[bytes],
        descends: bool,
        sent: set[bytes],
        found: list[tuple[bytes, bytes]],
        budget_bytes: int,
    ) -> int:
        """Load into `found` until the budget is used up; give what is left of it, 0 or less if not.

        Args:
            oids: what to load; if it is a queue, what is loaded adds its references to it.
            descends: it is a queue.
            sent: the oids that are in `found`, or need not be.
            found: (oid, record) of what is loaded.
            budget_bytes: how many bytes may be added.
        """
        load = self._load
        is_queue = isinstance(oids, deque)
        next_oid = oids.popleft if isinstance(oids, deque) else oids.__next__
        while budget_bytes > 0:
            try:
                oid = next_oid()
            except (IndexError, StopIteration):
                return budget_bytes
            if oid in sent:
                continue
            record = load(oid)
            budget_bytes -= len(record) + 4
            if budget_bytes < 0:
                return 0
            sent.add(oid)
            found.append((oid, record))
            if is_queue and len(oids) < _CONTAINER_REFS:  # type: ignore[arg-type] # it is a queue
                oids.extend(_split_refs(record))  # type: ignore[union-attr] # it is a queue
        return budget_bytes

    def _gen_neighbours(self, oid: bytes) -> Iterator[bytes]:
        for refs in self._containers:
            position = bisect_left(refs, oid)
            if position < len(refs) and refs[position] == oid:
                yield from refs[position + 1 :]
                return
        (oid_int,) = _OID.unpack(oid)
        while oid_int < _LAST_OID_INT:
            oid_int += 1
            yield _OID.pack(oid_int)


def _split_refs(record: bytes) -> list[bytes]:
    """Give the oids that a record refers to, in order, or those of its first part if it is huge."""
    (data_bytes,) = _DATA_BYTES.unpack_from(record)
    start = 12 + data_bytes
    end = min(len(record), start + 8 * _CONTAINER_REFS)
    return [record[at : at + 8] for at in range(start, end, 8)]
