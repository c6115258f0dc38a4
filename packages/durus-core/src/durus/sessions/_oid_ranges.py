"""Sets of oids that take little memory for as long as oids come and go in order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from struct import unpack

__all__ = ["OidRanges"]


class OidRanges:
    """Oids as numbers, in ranges.

    Attributes:
        count: how many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._starts: list[int] = []
        self._ends: list[int] = []

    def clear(self) -> None:
        """Remove all."""
        self.count = 0
        self._starts.clear()
        self._ends.clear()

    def __contains__(self, oid_int: int) -> bool:
        i = bisect_right(self._starts, oid_int) - 1
        return i >= 0 and oid_int < self._ends[i]

    def add(self, start: int, end: int) -> None:
        """Add the numbers from `start` to below `end`, none of which is there."""
        self.count += end - start
        starts, ends = self._starts, self._ends
        i = bisect_right(starts, start)
        joins_left = i > 0 and ends[i - 1] == start
        joins_right = i < len(starts) and starts[i] == end
        if joins_left and joins_right:
            ends[i - 1] = ends.pop(i)
            del starts[i]
        elif joins_left:
            ends[i - 1] = end
        elif joins_right:
            starts[i] = start
        else:
            starts.insert(i, start)
            ends.insert(i, end)

    def discard(self, start: int, end: int) -> None:
        """Remove the numbers from `start` to below `end`, as far as they are there."""
        starts, ends = self._starts, self._ends
        i = bisect_right(ends, start)
        while i < len(starts) and starts[i] < end:
            low, high = starts.pop(i), ends.pop(i)
            self.count -= min(high, end) - max(low, start)
            for left, right in ((low, start), (end, high)):
                if left < right:
                    starts.insert(i, left)
                    ends.insert(i, right)
                    i += 1

    def add_oids(self, oids: Iterable[bytes]) -> None:
        """Add oids, none of which is there."""
        for start, end in _gen_ranges(oids):
            self.add(start, end)

    def discard_oids(self, oids: Iterable[bytes]) -> None:
        """Remove oids, as far as they are there."""
        for start, end in _gen_ranges(oids):
            self.discard(start, end)

    def take_all(self, other: OidRanges) -> None:
        """Move the numbers of another to this one."""
        for start, end in zip(other._starts, other._ends, strict=True):
            self.add(start, end)
        other.clear()

    def take(self, count: int) -> list[int]:
        """Remove the lowest numbers, `count` of them or all, and give them."""
        taken: list[int] = []
        while self._starts and len(taken) < count:
            start = self._starts[0]
            end = min(self._ends[0], start + count - len(taken))
            taken += range(start, end)
            self.discard(start, end)
        return taken


def _gen_ranges(oids: Iterable[bytes]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) for each run of neighbours among distinct oids."""
    joined = b"".join(sorted(oids))
    start = end = -1
    for oid_int in unpack(f">{len(joined) // 8}Q", joined):
        if oid_int != end:
            if start >= 0:
                yield start, end
            start = oid_int
        end = oid_int + 1
    if start >= 0:
        yield start, end
