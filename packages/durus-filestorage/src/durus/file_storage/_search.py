"""Where a damaged file goes on being whole: the next transaction, the next entry of the base."""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import chain

from durus.file_storage._file import File
from durus.file_storage._format import CHUNK_BYTES, DamageError, Format, Tip

__all__ = ["Search"]

# How the data of a record begins, in our form and in that of Durus 4.3.
_CLASS_MARK = re.compile(rb"\x80[\x02\x04]c")


class Search:
    """Looks in a file for what is whole after something that is not.

    Args:
        file: the journal.
        format: its format.
        limit: file offset that stands for the end of the file.
    """

    def __init__(self, file: File, format: Format, limit: int) -> None:
        self._file = file
        self._format = format
        self._limit = limit
        self._starts: list[int] | None = None

    def next_whole(self, position: int) -> int:
        """Give the offset of the next whole transaction after `position`, 0 if there is none."""
        if self._starts is None:
            self._starts = sorted(set(self._format.gen_starts(self._file, self._limit)))
        near = set(self._format.gen_ends(self._file, position, self._limit))
        far = self._starts[bisect_right(self._starts, position) :]
        scanner = self._format.scanner(self._file, self._limit)
        for start in chain(sorted(near), far):
            if not position < start < self._limit:
                continue
            try:
                _, offsets = scanner.read(Tip(start), any_chain=True)
            except DamageError:
                continue
            if offsets:
                return start
        return 0

    def next_entry(self, start: int, stop: int) -> int:
        """Search for the next entry, by the beginning of its data; `stop` if there is none."""
        while start < stop:
            chunk = self._file.read(start, min(CHUNK_BYTES, stop - start))
            for found in _CLASS_MARK.finditer(chunk):
                offset = start + found.start() - self._format.header.size
                if offset >= start and self._is_entry(offset, stop):
                    return offset
            start += max(len(chunk) - 2 * self._format.header.size, 1)
        return stop

    def _is_entry(self, offset: int, stop: int) -> bool:
        try:
            next(self._format.gen_entries(self._file, offset, stop), None)
        except DamageError:
            return False
        return True
