"""What is damaged in a journal that can be opened: all of it, not only what is met first.

Opening reads no more than the index does not cover, and a load no more than one entry. Here every
byte is read: the base and its map, each transaction with its commit record, and the index file,
which must lead to the newest entry of each oid. After a damage the reading goes on where the file
is whole again. What is found on the way is one word an oid, in `Marks`, so in bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from durus.error import StorageMissingError
from durus.file_storage._file import open_file, temporary_directory
from durus.file_storage._format import DamageError, Scanner, Tip, crc_of_range
from durus.file_storage._index import IndexFile, StaleIndexError
from durus.file_storage._journal import INDEX_SUFFIX, Journal
from durus.file_storage._marks import Marks
from durus.file_storage._search import Search
from durus.file_storage._words import NO_PAGE, PAGE_WORDS, Words
from durus.storage import Damage
from durus.utils import int8_to_str

__all__ = ["gen_damage"]


def gen_damage(journal: Journal) -> Iterator[Damage]:
    """Yield what is damaged in a journal as it is now, and in its index file."""
    checker = _Checker(journal)
    try:
        for damage in checker.gen_damage():
            oid = None if damage.oid_int is None else int8_to_str(damage.oid_int)
            # Nothing in the journal is at 0, before its magic: that is the index file.
            yield Damage(damage.reason, oid, damage.offset or None)
    except OSError as error:
        yield Damage(f"a place that the system cannot read: {error.strerror or error}")
    finally:
        checker.marks.close()


class _Checker:
    """Reads one journal, up to where it ended when this was made.

    Attributes:
        marks: the newest whole entry of each oid, of what was read so far.
    """

    def __init__(self, journal: Journal) -> None:
        self.marks = Marks(temporary_directory())
        self._journal = journal
        self._file = journal.file
        self._format = journal.format
        self._tip = journal.tip
        self._source = journal.index.source
        self._tail = {**journal.index.older, **journal.index.tail}
        self._search = Search(journal.file, journal.format, journal.tip.end)

    def gen_damage(self) -> Iterator[DamageError]:
        return chain(
            self._gen_base(),
            self._gen_map(),
            self._gen_transactions(),
            self._gen_end(),
            self._gen_index(),
        )

    # The base.

    def _gen_base(self) -> Iterator[DamageError]:
        layout, format = self._journal.layout, self._format
        commit = layout.base_commit
        if commit and crc_of_range(self._file, *format.base_crc_range(layout)) != commit.crc:
            reason = "a base that does not agree with its commit record's CRC"
            yield DamageError(layout.base_start, reason)
        position, stop = layout.base_start, layout.base_end
        while position < stop:
            try:
                for offset, oid_int, _ in format.gen_entries(self._file, position, stop):
                    self.marks.set(oid_int, offset)
                return
            except DamageError as damage:
                yield damage
                position = self._search.next_entry(damage.offset + 1, stop)

    def _gen_map(self) -> Iterator[DamageError]:
        journal, layout = self._journal, self._journal.layout
        is_whole = True
        try:
            for number in sorted({*journal.map.numbers(), *self.marks.numbers()}):
                found = _whole_page(journal.map.page(number))
                for damage in self._gen_differences("the map of the base", number, found):
                    is_whole = False
                    yield damage
            if is_whole and not journal.map.proves_itself:
                # What the words of oids without an entry say, which led nowhere above.
                entries = self._format.gen_entries(self._file, layout.base_start, layout.base_end)
                for _ in journal.map.gen_check(entries):
                    pass
        except DamageError as damage:
            yield damage

    # The transactions.

    def _gen_transactions(self) -> Iterator[DamageError]:
        tip, end = self._journal.layout.tip, self._tip.end
        scanner = self._format.scanner(self._file, end)
        # The commit before the one that comes next is known.
        is_chained = True
        while tip.end < end:
            try:
                tip, offsets = scanner.read(tip, any_chain=not is_chained)
                is_chained = is_chained or not tip.unproven
            except DamageError as damage:
                whole = _read_unchained(scanner, tip) if is_chained else None
                if whole is None:
                    stop = self._search.next_whole(tip.end) or end
                    reason = f"{damage.reason}; nothing whole is there up to offset {stop}"
                    yield DamageError(damage.offset, reason)
                    tip, is_chained = tip._replace(end=stop), False
                    continue
                yield damage
                tip, offsets = whole
            for oid_int, offset in offsets.items():
                self.marks.set(oid_int, offset)

    def _gen_end(self) -> Iterator[DamageError]:
        """Read what follows the last whole transaction.

        A writer may be writing it: it is told if it is the same when looked at again.
        """
        seen = None
        while True:
            limit, tip = self._file.length(), self._tip
            scanner = self._format.scanner(self._file, limit)
            try:
                while tip.end < limit:
                    tip, _ = scanner.read(tip)
                return
            except DamageError as damage:
                present = limit, crc_of_range(self._file, tip.end, limit)
                if present == seen:
                    yield DamageError(
                        tip.end,
                        f"{limit - tip.end} bytes at the end that are no whole transaction"
                        f" ({damage.reason}): the last commit, damaged, or the torn end of one that"
                        " was never acknowledged, which is set aside when the file is opened for"
                        " writing",
                    )
                    return
                seen = present

    # The index.

    def _gen_index(self) -> Iterator[DamageError]:
        if not isinstance(self._source, IndexFile):
            yield from self._gen_unused_index()
            return
        tail: dict[int, list[int]] = {}
        for oid_int in self._tail:
            tail.setdefault(oid_int >> 9, []).append(oid_int)
        for number in sorted({*self._source.numbers(), *self.marks.numbers(), *tail}):
            try:
                found = _whole_page(self._source.page(number))[:]
            except DamageError as damage:
                yield damage
                continue
            for oid_int in tail.get(number, ()):
                found[oid_int & 511] = self._tail[oid_int]
            yield from self._gen_differences("the index", number, found)

    def _gen_unused_index(self) -> Iterator[DamageError]:
        """Tell why there is an index file and it was not used, unless it is only out of date."""
        journal = self._journal
        if not journal.keeps_index:
            return
        try:
            file = open_file(journal.path + INDEX_SUFFIX, readonly=True)
        except StorageMissingError:
            return
        try:
            IndexFile.read(file, self._file, self._format)
        except StaleIndexError:
            return
        except DamageError as damage:
            yield DamageError(0, f"{damage.reason}, as FILE.index, which may be deleted")
        finally:
            file.close()

    def _gen_differences(self, name: str, number: int, found: Words[int]) -> Iterator[DamageError]:
        """Compare a page of what leads to entries with the entries that are there."""
        expected = self.marks.page(number) or NO_PAGE
        if found == expected:
            return
        for place in range(PAGE_WORDS):
            offset, right = found[place], expected[place]
            if offset == right:
                continue
            reason = f"that {name} leads to offset {offset}, where no whole entry of it is"
            if not offset:
                reason = f"an entry that {name} does not lead to"
            elif right:
                reason = f"that {name} leads to offset {offset}, and not to its newest entry"
            yield DamageError(right or offset, reason, number * PAGE_WORDS + place)


def _whole_page(page: Words[int] | None) -> Words[int]:
    if page is None:
        return NO_PAGE
    return page + NO_PAGE[len(page) :] if len(page) < PAGE_WORDS else page


def _read_unchained(scanner: Scanner, tip: Tip) -> tuple[Tip, dict[int, int]] | None:
    """Read a transaction that may be whole and yet not be the one that was to follow."""
    try:
        return scanner.read(tip, any_chain=True)
    except DamageError:
        return None
