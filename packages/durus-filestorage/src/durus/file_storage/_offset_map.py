"""The offset map of a packed file: from oid to file offset, with its list of holes.

The map is drawn in `_shelf`. It is read and written in pages of 512 words, as `_index` does, so
that neither opening a file nor packing one takes memory in proportion to its objects.

A map that we wrote is covered by the base's commit record, and checked as a whole when it is first
needed. One that Durus 4.3 wrote has no proof. There a wrong offset leads to an entry of another
oid, which is noticed, and a wrong hole is noticed because the list of holes does not lead to it.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct

from durus.file_storage._file import File
from durus.file_storage._format import DamageError, Layout, crc_of_range
from durus.file_storage._marks import Marks
from durus.file_storage._words import NO_PAGE, PAGE_WORDS, Words

__all__ = ["MAP_HEADER", "OffsetMap", "ShelfLayout", "gen_map", "map_width", "narrow", "widen"]

MAP_HEADER = Struct(">QQQ")

_IS_LITTLE_ENDIAN = sys.byteorder == "little"


def widen(raw: bytes, width: int) -> Words[int]:
    """Turn big-endian words of `width` bytes into integers."""
    wide = bytearray(len(raw) // width * 8)
    for k in range(width):
        wide[8 - width + k :: 8] = raw[k::width]
    words = array("Q")
    words.frombytes(wide)
    if _IS_LITTLE_ENDIAN:
        words.byteswap()
    return words


def narrow(words: Words[int], width: int) -> bytes:
    """Turn integers into big-endian words of `width` bytes."""
    swapped = words[:]
    if _IS_LITTLE_ENDIAN:
        swapped.byteswap()
    wide = swapped.tobytes()
    raw = bytearray(len(words) * width)
    for k in range(width):
        raw[k::width] = wide[8 - width + k :: 8]
    return bytes(raw)


def map_width(map_offset: int, count: int) -> int:
    """Give the width of the words: what S + the highest oid + 2 + 1 takes."""
    return (map_offset + count + 1).bit_length() + 7 >> 3


def gen_map(offset: int, next_oid_int: int, marks: Marks) -> Iterator[bytes]:
    """Yield the map of what is marked, in pieces, to be written at `offset`."""
    count = next_oid_int + 1
    width = map_width(offset, count)
    yield MAP_HEADER.pack(16 + width * count, width, count)
    last_hole = count - 1
    for number in range(-(-count // PAGE_WORDS)):
        first = number * PAGE_WORDS
        words = (marks.page(number) or NO_PAGE)[: count - first]
        if 0 in words:
            for i, word in enumerate(words):
                if not word:
                    words[i] = offset + last_hole
                    last_hole = first + i
        yield narrow(words, width)


@dataclass(frozen=True, slots=True)
class ShelfLayout(Layout):
    """What a SHELF-1 file says before its first transaction, width and count of the map too."""

    width: int
    count: int


class OffsetMap:
    """The map in the file, as a source of pages for an Index."""

    def __init__(self, file: File, layout: ShelfLayout) -> None:
        self._file = file
        self._layout = layout
        self._is_checked = layout.base_commit is None
        self._holes: bytearray | None = None

    def page(self, number: int) -> Words[int] | None:
        """Give the offsets of the oids from 512 * number on, 0 for a hole; None beyond the map.

        Raises:
            DamageError: the map does not agree with its CRC.
        """
        if not self._is_checked:
            self._check()
        words = self._words(number)
        if words is None:
            return None
        map_offset = self._layout.map_offset
        # No entry is at offset 0: a word that says so leads to offset 1, where it is noticed.
        if max(words) < map_offset and min(words) > 0:
            return words
        return array("Q", [(word or 1) if word < map_offset else 0 for word in words])

    def numbers(self) -> Iterator[int]:
        """Give the numbers of all pages, ascending."""
        return iter(range(-(-self._layout.count // PAGE_WORDS)))

    def object_count_at_most(self) -> int:
        """Give a number that the number of objects in the map does not exceed."""
        return self._layout.count

    def check_missing(self, oid_int: int) -> None:
        """Refuse to believe that an oid has no entry, if the map does not say so consistently.

        Raises:
            DamageError: the oid is within the map, and the list of holes does not lead to it.
        """
        layout = self._layout
        if layout.base_commit is not None or oid_int >= layout.count - 1:
            return
        if self._holes is None:
            self._holes = self._walk_holes()
        if not self._holes[oid_int >> 3] >> (oid_int & 7) & 1:
            raise DamageError(
                layout.map_offset, f"a hole for oid {oid_int} that is not in its list", oid_int
            )

    def gen_check(self, entries: Iterator[tuple[int, int, bytes]]) -> Iterator[None]:
        """Check the map against the entries of the base, a little at a time.

        Raises:
            DamageError: they do not agree, or the list of holes does not come back to its start.
        """
        layout = self._layout
        missing = 0
        for n in self.numbers():
            words = self.page(n)
            missing += len(words) - words.count(0) if words else 0
            yield
        number, words = -1, None
        for offset, oid_int, _ in entries:
            if oid_int // PAGE_WORDS != number:
                number = oid_int // PAGE_WORDS
                words = self.page(number)
            place = oid_int % PAGE_WORDS
            if words is None or place >= len(words) or words[place] != offset:
                raise DamageError(offset, "an entry that the offset map does not lead to", oid_int)
            missing -= 1
            yield
        if missing:
            raise DamageError(layout.map_offset, "an offset map that leads to what is no entry")
        if layout.count:
            self._walk_holes()

    @property
    def proves_itself(self) -> bool:
        return self._layout.base_commit is not None

    def next_oid_int(self) -> int:
        return max(self._layout.count - 1, 0)

    def object_count(self) -> int | None:
        return None if self._layout.count else 0

    def opening_cost(self) -> int:
        return 0

    def _words(self, number: int) -> Words[int] | None:
        layout = self._layout
        first = number * PAGE_WORDS
        count = min(PAGE_WORDS, layout.count - first)
        if count <= 0:
            return None
        start = layout.map_offset + MAP_HEADER.size + first * layout.width
        raw = self._file.read(start, count * layout.width)
        if len(raw) < count * layout.width:
            raise DamageError(layout.map_offset, "the end of the file in the offset map")
        return widen(raw, layout.width)

    def _check(self) -> None:
        layout = self._layout
        commit = layout.base_commit
        crc = crc_of_range(self._file, layout.map_offset, layout.map_end)
        if commit is not None and commit.map_crc != crc:
            raise DamageError(
                layout.map_offset, "an offset map that does not agree with its commit record's CRC"
            )
        self._is_checked = True

    def _walk_holes(self) -> bytearray:
        """Follow the list of holes; give a bit for each word."""
        layout = self._layout
        bits = bytearray((layout.count >> 3) + 1)
        last = layout.count - 1
        index = last
        pages: dict[int, Words[int] | None] = {}
        while True:
            number = index // PAGE_WORDS
            if number not in pages:
                pages = {number: self._words(number)}
            words = pages[number]
            index = (words[index % PAGE_WORDS] if words else 0) - layout.map_offset
            if index == last:
                return bits
            if not 0 <= index < last or bits[index >> 3] >> (index & 7) & 1:
                raise DamageError(layout.map_offset, "an offset map whose list of holes is broken")
            bits[index >> 3] |= 1 << (index & 7)
