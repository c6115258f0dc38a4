"""Records that a client will probably ask for next.

Loading a graph object by object costs a round trip for each. A client that says how many bytes it
has room for gets more with the record that it asked for: what a walk would come to next. That is
what the record refers to, each with what is below it; then what stands next to it, in the container
through which the client came to it; then what stands next to that. When the client came through no
container that is remembered, it is the objects with the oids that follow, since what was made
together is mostly used together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
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

# How many objects that the client has already to pass over in one reply: each takes time.
_MOST_PASSED = 64


class ReadAhead:
    """What to send ahead to one client.

    Args:
        load: gives the record of an oid, or raises a DurusError.
        is_known: tells whether the client has been sent an oid.
    """

    __slots__ = ("_containers", "_is_known", "_load")

    def __init__(self, load: Callable[[bytes], bytes], is_known: Callable[[bytes], bool]) -> None:
        self._load = load
        self._is_known = is_known
        self._containers: OrderedDict[bytes, list[bytes]] = OrderedDict()

    def collect(
        self, oid: bytes, record: bytes, budget_bytes: int, *, was_known: bool
    ) -> list[tuple[bytes, bytes]]:
        """Give (oid, record) of what to send with a record that was asked for.

        Args:
            oid: of that record.
            record: itself, which the budget does not count.
            budget_bytes: how much all of what is sent ahead may take.
            was_known: the client had been sent it before. Then it has forgotten it, and probably
                the others around it as well: they are sent again.
        """
        is_known = _knows_nothing if was_known else self._is_known
        walk = _Walk(self._load, is_known, budget_bytes, oid)
        path = self._containers_above(oid)
        is_alone = not path
        path.append(_Place(oid, _split_refs(record), 0))
        try:
            walk.through(path)
            if is_alone and not path:
                walk.through_oids_after(oid)
        except DurusError:
            # It is not there, is newer than what this client sees, or is damaged: whoever asks for
            # it is told.
            pass
        self._remember(path)
        return walk.found

    def _containers_above(self, oid: bytes) -> list[_Place]:
        """Give where the client stands in the containers that led to an oid, outermost first."""
        path: list[_Place] = []
        while len(path) < _CONTAINERS:
            place = self._place_of(oid)
            if place is None:
                break
            path.append(place)
            oid = place.owner
        path.reverse()
        return path

    def _place_of(self, oid: bytes) -> _Place | None:
        for owner, refs in self._containers.items():
            position = bisect_left(refs, oid)
            if position < len(refs) and refs[position] == oid:
                return _Place(owner, refs, position + 1)
        return None

    def _remember(self, path: list[_Place]) -> None:
        for place in path:
            if place.refs:
                self._containers[place.owner] = place.refs
                self._containers.move_to_end(place.owner)
        while len(self._containers) > _CONTAINERS:
            self._containers.popitem(last=False)


class _Place:
    """A place in a container: the next of its references to go to."""

    __slots__ = ("next", "owner", "refs")

    def __init__(self, owner: bytes, refs: list[bytes], next_: int) -> None:
        self.owner = owner
        self.refs = refs
        self.next = next_


class _Walk:
    """One walk, which ends when the budget is used up.

    Attributes:
        found: (oid, record) of what is to be sent.
    """

    def __init__(
        self,
        load: Callable[[bytes], bytes],
        is_known: Callable[[bytes], bool],
        budget_bytes: int,
        start: bytes,
    ) -> None:
        self.found: list[tuple[bytes, bytes]] = []
        self._load = load
        self._is_known = is_known
        self._budget_bytes = budget_bytes
        self._seen = {start}
        self._passed = 0

    def through(self, path: list[_Place]) -> None:
        """Walk on from a path, depth first; what is left of it is where the walk ended."""
        while path:
            place = path[-1]
            if place.next == len(place.refs):
                path.pop()
                continue
            oid = place.refs[place.next]
            if oid in self._seen:
                place.next += 1
                continue
            record = self._visit(oid)
            if record is None:
                return
            place.next += 1
            refs = _split_refs(record)
            if refs:
                path.append(_Place(oid, refs, 0))

    def through_oids_after(self, oid: bytes) -> None:
        """Walk through the objects in the order of their oids."""
        (oid_int,) = _OID.unpack(oid)
        while oid_int < _LAST_OID_INT:
            oid_int += 1
            following = _OID.pack(oid_int)
            if following not in self._seen and self._visit(following) is None:
                return

    def _visit(self, oid: bytes) -> bytes | None:
        """Load an object, and take it if the client does not have it; None at the end."""
        record = self._load(oid)
        if self._is_known(oid):
            self._passed += 1
            if self._passed > _MOST_PASSED:
                return None
        else:
            self._budget_bytes -= len(record) + 4
            if self._budget_bytes < 0:
                return None
            self.found.append((oid, record))
        self._seen.add(oid)
        return record


def _knows_nothing(_oid: bytes) -> bool:
    return False


def _split_refs(record: bytes) -> list[bytes]:
    """Give the oids that a record refers to, in order, or those of its first part if it is huge."""
    (data_bytes,) = _DATA_BYTES.unpack_from(record)
    start = 12 + data_bytes
    end = min(len(record), start + 8 * _CONTAINER_REFS)
    return [record[at : at + 8] for at in range(start, end, 8)]
