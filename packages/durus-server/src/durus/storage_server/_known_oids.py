"""Which objects a client has in memory, as far as the server can tell."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct

__all__ = ["KnownOids"]

_OID = Struct(">Q")

# A page covers 32,768 neighbouring oids. Oids are given in order, so that the objects which a
# client works on share pages: 1,024 pages (4 MiB) are enough for 30 million of them.
_PAGE_BYTES = 4096
_PAGE_SHIFT = 15
_MOST_PAGES = 1024


class KnownOids:
    """The oids that a client was sent or has stored, less those that it was told are stale.

    A bit for each, in pages that are made when they are needed. A client whose objects are spread
    over more pages than it is granted counts as one that knows everything: that costs it round
    trips or conflicts, never a stale object.
    """

    __slots__ = ("_pages", "knows_all")

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self.knows_all = False

    def add(self, oid: bytes) -> None:
        """Note that the client knows the object."""
        (oid_int,) = _OID.unpack(oid)
        page = self._pages.get(oid_int >> _PAGE_SHIFT)
        if page is None:
            page = self._add_page(oid_int >> _PAGE_SHIFT)
        page[(oid_int >> 3) & 4095] |= 1 << (oid_int & 7)

    def discard(self, oids: Iterable[bytes]) -> None:
        """Note that the client was told to forget these objects."""
        for oid in oids:
            (oid_int,) = _OID.unpack(oid)
            page = self._pages.get(oid_int >> _PAGE_SHIFT)
            if page is not None:
                page[(oid_int >> 3) & 4095] &= ~(1 << (oid_int & 7))

    def clear(self) -> None:
        """Note that the client was told to forget all objects."""
        self._pages.clear()
        self.knows_all = False

    def __contains__(self, oid: bytes) -> bool:
        if self.knows_all:
            return True
        (oid_int,) = _OID.unpack(oid)
        page = self._pages.get(oid_int >> _PAGE_SHIFT)
        return page is not None and bool(page[(oid_int >> 3) & 4095] >> (oid_int & 7) & 1)

    def among(self, oids: Iterable[bytes]) -> list[bytes]:
        """Give those of `oids` that the client knows."""
        if self.knows_all:
            return list(oids)
        pages, unpack = self._pages, _OID.unpack
        found = []
        for oid in oids:
            (oid_int,) = unpack(oid)
            page = pages.get(oid_int >> _PAGE_SHIFT)
            if page is not None and page[(oid_int >> 3) & 4095] >> (oid_int & 7) & 1:
                found.append(oid)
        return found

    def _add_page(self, number: int) -> bytearray:
        page = bytearray(_PAGE_BYTES)
        if len(self._pages) >= _MOST_PAGES:
            self.knows_all = True
            return page
        self._pages[number] = page
        return page
