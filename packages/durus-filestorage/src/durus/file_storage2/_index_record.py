r"""The index record of DFS20: a compressed pickle of {oid: file offset}, read without unpickling.

A pickle can run code. So it is read by a pattern that knows the opcodes with which a dictionary of
oids and offsets is pickled, and no others. Python 2 wrote oids as `str`, in the text form of
protocol 0 or in binary; Python 3 as `bytes`, or in protocol 2 as a call of `_codecs.encode` on
text, which the pattern takes for what it says. It is decompressed, and matched, piece by piece.

The record's Adler-32 (zlib's own) is checked before anything is made of it, and in a file that we
packed the CRC-32 that its commit record has.
"""

from __future__ import annotations

import re
import zlib
from array import array
from ast import literal_eval
from collections.abc import Iterator
from struct import Struct

from durus.file_storage._file import File, temporary_directory
from durus.file_storage._format import CHUNK_BYTES, DamageError, Layout
from durus.file_storage._index import are_scattered
from durus.file_storage._journal import FIRST_UNCOUNTED_OID_INT
from durus.file_storage._marks import Marks
from durus.file_storage._words import NO_PAGE, PAGE_WORDS, Words

__all__ = ["EMPTY_INDEX", "IndexRecord", "gen_index", "index_end"]

LENGTH = Struct(">Q")
_OID = Struct(">Q")

# What Durus 4.3 writes for {}, byte for byte.
EMPTY_INDEX = bytes.fromhex("789c6b60a99da20700056201c4")

# Opcodes: PUT and its relatives, and FRAME, may stand anywhere. No pickler puts more than two in
# one place, or four around items; without a limit, matching a long run of them takes memory.
_FILL = rb"(?:q.|r....|\x94|\x95........|p\d+\n){0,8}"
_GET = rb"(?:h.|j....|g\d+\n)"
_ESCAPE = rb"\\(?:x[0-9a-f]{2}|[nrt\\'\"])"
_KEY = (
    rb"(?:(?:C\x08|U\x08|[BT]\x08\0\0\0)(.{8})"
    rb"|S('(?:[ -&(-\[\]-~]|" + _ESCAPE + rb")*'|\"(?:[ !#-\[\]-~]|" + _ESCAPE + rb")*\")\n"
    rb"|(?:c_codecs\nencode\n|" + _GET + rb")" + _FILL + rb"X[\x08-\x10]\0\0\0"
    rb"((?:[\0-\x7f]|\xc2[\x80-\xbf]|\xc3[\x80-\xbf]){8})" + _FILL + rb"(?:X\x06\0\0\0latin1|"
    rb"" + _GET + rb")" + _FILL + rb"\x86" + _FILL + rb"R)"
)
_VALUE = (
    rb"(?:K(.)|M(..)|J(....)|\x8a(\x01.|\x02..|\x03...|\x04....|\x05.{5}|\x06.{6}|\x07.{7}|\x08.{8})"
    rb"|[IL](\d{1,20})L?\n)"
)
_HEAD = re.compile(rb"(?:\x80[\0-\x05])?" + _FILL + rb"(?:\}|\(d)" + _FILL, re.DOTALL)
_ITEM = re.compile(
    rb"(?:[(us]|q.|r....|\x94|\x95........|p\d+\n){0,16}" + _KEY + _FILL + _VALUE, re.DOTALL
)
_END = re.compile(rb"(?:[(us]|q.|r....|\x94|\x95........|p\d+\n){0,16}\.\Z", re.DOTALL)

# More than any item takes.
_LONGEST_ITEM_BYTES = 256

_PIECE_BYTES = 1 << 16

# An entry is at least this long: the record of an object without data.
_SMALLEST_ENTRY_BYTES = 16

_PROTO_AND_DICT = b"\x80\x03}"
_MARK, _SETITEMS, _STOP = b"(", b"u", b"."
_ITEM_SHORT = Struct("<2s8scL")
_ITEM_LONG = Struct("<2s8s2sQ")


class IndexRecord:
    """The map of a DFS20 file, as a source of pages for an Index.

    It is read when it is first needed, all of it: it says nothing of where in it an oid is.
    """

    def __init__(self, file: File, layout: Layout) -> None:
        self._file = file
        self._layout = layout
        self._marks: Marks | None = None
        # In place of marks, if these would be mostly empty pages.
        self._scattered: dict[int, int] = {}
        self._count = 0
        self._next_oid_int = 0

    @property
    def proves_itself(self) -> bool:
        return True

    def page(self, number: int) -> Words[int] | None:
        """Give the offsets of the oids from 512 * number on, 0 for none; None if none has one.

        Raises:
            DamageError: the index record is damaged.
        """
        marks = self._read()
        if not self._scattered:
            return marks.page(number)
        find = self._scattered.get
        first = number * PAGE_WORDS
        return array("Q", [find(oid_int, 0) for oid_int in range(first, first + PAGE_WORDS)])

    def numbers(self) -> Iterator[int]:
        """Give the numbers of all pages, ascending."""
        marks = self._read()
        if not self._scattered:
            return iter(marks.numbers())
        return iter(sorted({oid_int >> 9 for oid_int in self._scattered}))

    def check_missing(self, oid_int: int) -> None:
        """Believe it: the record as a whole was checked."""

    def gen_check(self, entries: Iterator[tuple[int, int, bytes]]) -> Iterator[None]:
        """Check that each offset leads to an entry of its oid, the last one of this oid.

        Raises:
            DamageError: they do not agree.
        """
        missing = 0
        for number in self.numbers():
            words = self.page(number) or NO_PAGE
            missing += len(words) - words.count(0)
            yield
        number, words = -1, NO_PAGE
        for offset, oid_int, _ in entries:
            if oid_int >> 9 != number:
                number = oid_int >> 9
                words = self.page(number) or NO_PAGE
            found = words[oid_int & 511]
            if found < offset:
                reason = "an entry that the index record does not lead to"
                raise DamageError(offset, reason, oid_int)
            missing -= found == offset
            yield
        if missing:
            raise self._damage("that leads to what is no entry")

    def next_oid_int(self) -> int:
        self._read()
        commit = self._layout.base_commit
        return max(self._next_oid_int, commit.next_oid_int if commit else 0)

    def object_count(self) -> int | None:
        self._read()
        return self._count

    def object_count_at_most(self) -> int:
        self._read()
        return self._count

    def opening_cost(self) -> int:
        return self._count

    def _read(self) -> Marks:
        if self._marks is None:
            self._check_sums()
            self._scattered = {}
            self._marks = self._read_items()
        return self._marks

    def _damage(self, reason: str) -> DamageError:
        return DamageError(self._layout.map_offset, f"an index record {reason}")

    def _check_sums(self) -> None:
        start, stop = self._layout.map_offset + 8, self._layout.map_end
        crc = 0
        decompressor = zlib.decompressobj()
        for piece in _gen_pieces(self._file, start, stop):
            crc = zlib.crc32(piece, crc)
            try:
                for _ in _gen_decompressed(decompressor, piece):
                    pass
            except zlib.error as error:
                raise self._damage(f"that cannot be decompressed ({error})") from error
        commit = self._layout.base_commit
        if commit is not None and crc != commit.map_crc:
            raise self._damage("that does not agree with its commit record's CRC")
        if not decompressor.eof or decompressor.unused_data:
            raise self._damage("of another length than it says")

    def _read_items(self) -> Marks:
        """Read the items into pages, or into a dictionary if pages would be mostly empty."""
        marks = Marks(temporary_directory())
        first_offset, end = self._layout.base_start, self._layout.map_offset
        most = (end - first_offset) // _SMALLEST_ENTRY_BYTES
        highest = -1
        count = 0
        for oid_int, offset in self._gen_items():
            if not first_offset <= offset < end:
                raise self._damage(f"that leads to offset {offset}")
            if count == most:
                raise self._damage("of more objects than there is room for")
            if highest < oid_int < FIRST_UNCOUNTED_OID_INT:
                highest = oid_int
            count += 1
            if self._scattered:
                self._scattered[oid_int] = offset
                continue
            marks.set(oid_int, offset)
            if not count & 0xFFFF and are_scattered(len(marks.numbers()), count):
                self._scattered = _taken_out(marks)
        self._count = count
        self._next_oid_int = highest + 1
        return marks

    def _gen_items(self) -> Iterator[tuple[int, int]]:
        """Yield oid and offset of each object."""
        decompressor = zlib.decompressobj()
        start, stop = self._layout.map_offset + 8, self._layout.map_end
        held = b""
        position = -1
        for piece in _gen_pieces(self._file, start, stop):
            for text in _gen_decompressed(decompressor, piece):
                held = held[max(position, 0) :] + text
                if position < 0:
                    if len(held) < _LONGEST_ITEM_BYTES and not decompressor.eof:
                        continue
                    position = self._head_end(held)
                else:
                    position = 0
                for match in _ITEM.finditer(held, position):
                    if match.start() != position:
                        break
                    if not decompressor.eof and match.end() + _LONGEST_ITEM_BYTES > len(held):
                        break
                    yield _item(match)
                    position = match.end()
                if len(held) - position > 2 * _LONGEST_ITEM_BYTES:
                    raise self._damage("with something else than oids and offsets in it")
        if position < 0 or not _END.match(held, position):
            raise self._damage("with something else than oids and offsets in it")

    def _head_end(self, held: bytes) -> int:
        head = _HEAD.match(held)
        if head is None:
            raise self._damage("that is no dictionary")
        return head.end()


def gen_index(marks: Marks) -> Iterator[bytes]:
    """Yield the compressed pickle of what is marked, in pieces; some may be empty."""
    compressor = zlib.compressobj(1)
    yield compressor.compress(_PROTO_AND_DICT)
    for number in marks.numbers():
        items = [_MARK]
        for i, offset in enumerate(marks.page(number) or ()):
            if offset:
                items.append(_pickled(number * PAGE_WORDS + i, offset))
        items.append(_SETITEMS)
        yield compressor.compress(b"".join(items))
    yield compressor.compress(_STOP) + compressor.flush()


def index_end(file: File, offset: int, limit: int) -> int:
    """Give the offset after the index record at `offset`, 0 if there is none.

    Its length is believed if it fits into the file; else it ends where the compression does.
    """
    head = file.read(offset, 10) if offset + 10 <= limit else b""
    if len(head) < 10 or head[8] & 15 != 8 or (head[8] << 8 | head[9]) % 31:
        return 0
    decompressor = zlib.decompressobj()
    position = offset + 8
    try:
        for piece in _gen_pieces(file, position, limit):
            for _ in _gen_decompressed(decompressor, piece):
                pass
            position += len(piece) - len(decompressor.unused_data)
            if decompressor.eof:
                return position
    except zlib.error:
        pass
    end: int = offset + 8 + LENGTH.unpack_from(head)[0]
    return end if end <= limit else 0


def _gen_pieces(file: File, start: int, stop: int) -> Iterator[bytes]:
    while start < stop:
        piece = file.read(start, min(_PIECE_BYTES, stop - start))
        if not piece:
            raise DamageError(start, "the end of the file")
        yield piece
        start += len(piece)


def _gen_decompressed(decompressor: zlib._Decompress, piece: bytes) -> Iterator[bytes]:
    """Yield what a piece holds, in bounded pieces: a small one may hold much."""
    while not decompressor.eof:
        text = decompressor.decompress(piece, CHUNK_BYTES)
        piece = decompressor.unconsumed_tail
        yield text
        if not piece and len(text) < CHUNK_BYTES:
            return


def _item(match: re.Match[bytes]) -> tuple[int, int]:
    raw, quoted, text, byte, two, four, long, digits = match.groups()
    if raw is None:
        if text is not None:
            raw = text.decode("utf-8").encode("latin-1")
        else:
            raw = literal_eval("b" + quoted.decode("latin-1"))
    little = byte or two or four or (long and long[1:])
    offset = int.from_bytes(little, "little") if little is not None else int(digits)
    # What is no oid is given offset 0, where nothing is.
    return (_OID.unpack(raw)[0], offset) if len(raw) == 8 else (0, 0)


def _pickled(oid_int: int, offset: int) -> bytes:
    oid = oid_int.to_bytes(8, "big")
    if offset < 1 << 31:
        return _ITEM_SHORT.pack(b"C\x08", oid, b"J", offset)
    return _ITEM_LONG.pack(b"C\x08", oid, b"\x8a\x08", offset)


def _taken_out(marks: Marks) -> dict[int, int]:
    """Give what is marked as a dictionary, and forget the marks."""
    offsets = {}
    for number in marks.numbers():
        for i, offset in enumerate(marks.page(number) or NO_PAGE):
            if offset:
                offsets[number * PAGE_WORDS + i] = offset
    marks.close()
    return offsets
