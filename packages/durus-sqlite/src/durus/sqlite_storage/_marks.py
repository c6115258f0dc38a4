"""Which oids a pack has reached: a bit each, in pages for as far as there are any."""

from __future__ import annotations

__all__ = ["Marks"]

_PAGE_BITS = 12


class Marks:
    """A set of signed numbers that takes an eighth of a byte for each where they are dense.

    Attributes:
        count: how many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._pages: dict[int, bytearray] = {}

    def add(self, number: int) -> bool:
        """Add a number; tell whether it is new."""
        page = self._pages.get(number >> _PAGE_BITS)
        if page is None:
            page = self._pages[number >> _PAGE_BITS] = bytearray(1 << _PAGE_BITS - 3)
        place, bit = (number >> 3) & (1 << _PAGE_BITS - 3) - 1, 1 << (number & 7)
        if page[place] & bit:
            return False
        page[place] |= bit
        self.count += 1
        return True

    def __contains__(self, number: int) -> bool:
        page = self._pages.get(number >> _PAGE_BITS)
        if page is None:
            return False
        return bool(page[(number >> 3) & (1 << _PAGE_BITS - 3) - 1] & 1 << (number & 7))
