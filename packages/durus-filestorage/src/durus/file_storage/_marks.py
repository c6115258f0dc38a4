"""Which objects a pack has copied, and where to: one word an oid, in bounded memory."""

from __future__ import annotations

from array import array

from durus.file_storage._file import File, create_nameless
from durus.file_storage._words import PAGE_BYTES, Words

__all__ = ["Marks"]

# 64 MiB: the pages of eight million objects. Beyond that, pages go to a nameless file and come
# back.
_PAGES_HELD = 16384


class Marks:
    """From oid to file offset, in pages as those of `durus.file_storage._index`.

    Args:
        directory: where to put pages that memory has no room for.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._pages: dict[int, Words[int]] = {}
        self._slots: dict[int, int] = {}
        self._file: File | None = None

    def find(self, oid_int: int) -> int:
        """Give the offset of an oid, 0 if it has none."""
        page = self._pages.get(oid_int >> 9)
        if page is None:
            page = self._fetch(oid_int >> 9)
            if page is None:
                return 0
        return page[oid_int & 511]

    def set(self, oid_int: int, offset: int) -> None:
        """Give an oid its offset."""
        number = oid_int >> 9
        page = self._pages.get(number) or self._fetch(number)
        if page is None:
            page = array("Q", bytes(PAGE_BYTES))
            self._hold(number, page)
        page[oid_int & 511] = offset

    def page(self, number: int) -> Words[int] | None:
        """Give one page, or None if none of its oids has an offset. Do not change it."""
        return self._pages.get(number) or self._fetch(number)

    def numbers(self) -> list[int]:
        """Give the numbers of all pages, ascending."""
        return sorted({*self._pages, *self._slots})

    def close(self) -> None:
        self._pages.clear()
        if self._file is not None:
            self._file.close()

    def _fetch(self, number: int) -> Words[int] | None:
        slot = self._slots.get(number)
        if slot is None or self._file is None:
            return None
        page = array("Q")
        page.frombytes(self._file.read(slot * PAGE_BYTES, PAGE_BYTES))
        self._hold(number, page)
        return page

    def _hold(self, number: int, page: Words[int]) -> None:
        """Keep a page in memory, and make room for it: the one that came first goes."""
        if len(self._pages) >= _PAGES_HELD:
            if self._file is None:
                self._file = create_nameless(self._directory)
            first = next(iter(self._pages))
            slot = self._slots.setdefault(first, len(self._slots))
            self._file.write(slot * PAGE_BYTES, self._pages[first].tobytes())
            del self._pages[first]
        self._pages[number] = page
