"""The pictures of the SHELF-1 file tell the truth."""

from __future__ import annotations

import pickle
import re
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.file_storage import FileStorage, _commit_record, _shelf
from durus.file_storage._commit_record import (
    BASE,
    SYNCED,
    UNSYNCED,
    Commit,
    pack_commit,
    parse_commit,
)
from durus.file_storage._file import open_file
from durus.file_storage._offset_map import MAP_HEADER, map_width, narrow, widen
from durus.file_storage._shelf import LENGTH, SHELF
from durus.serialize import check_proof, extract_class_path, unpack_record
from durus.testing import make_record
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]

_RESERVED = b"\xff" * 8


def _hex_of(docstring: str | None) -> bytes:
    """Give the bytes of the indented hex lines after the last "Example"."""
    example = (docstring or "").rpartition("Example: ")[2]
    lines = re.findall(r"^    ((?:[0-9a-f]{2} {0,2})+)(?= |$)", example, re.MULTILINE)
    return bytes.fromhex(" ".join(lines))


def test_example_of_the_file_is_a_database(path: Path) -> None:
    """The worked example at the top of `_shelf` opens, and holds what it says."""
    path.write_bytes(_hex_of(_shelf.__doc__))
    with FileStorage(path) as storage:
        [(oid, record)] = storage.gen_oid_record()
        assert oid == int8_to_str(0)
        assert len(unpack_record(record)[1]) == 70
        assert extract_class_path(record) == "durus.persistent_dict.PersistentDict"
        assert storage.describe().transaction_count == 1


def test_example_of_a_commit_record_is_what_is_written() -> None:
    """The worked example at the top of `_commit_record` is what `pack_commit` makes."""
    commit = Commit(SYNCED, 0x11223344, 1_700_000_000_000_000, 1, 0)
    assert pack_commit(commit) == _hex_of(_commit_record.__doc__)


@pytest.mark.parametrize("commit_format", [SYNCED, BASE, UNSYNCED])
def test_commit_record_is_an_ordinary_record(commit_format: int) -> None:
    """To others a commit record is the proven record of an `object` whose state is bytes."""
    commit = Commit(commit_format, 1, 2, 3, 4, 5 if commit_format == BASE else 0)
    entry = pack_commit(commit)
    assert len(entry) == commit.entry_bytes == LENGTH.unpack_from(entry)[0] + 8
    oid, data, refs = unpack_record(entry[16:])
    assert (oid, refs) == (_RESERVED, b"")
    assert check_proof(entry[16:])
    assert extract_class_path(entry[16:]) == "builtins.object"
    state = data[data.index(b"\n.") + 2 :]
    assert isinstance(pickle.loads(state), bytes)
    assert parse_commit(entry) == commit


def test_commit_record_with_any_bit_changed_is_none() -> None:
    """Every bit of a commit record counts."""
    entry = pack_commit(Commit(SYNCED, 0xDEADBEEF, 17, 3, 99))
    for position in range(len(entry) * 8):
        damaged = bytearray(entry)
        damaged[position >> 3] ^= 1 << (position & 7)
        assert parse_commit(bytes(damaged)) is None


def test_new_file_is_the_empty_file_of_durus_4_3(path: Path) -> None:
    """A new file has the bytes that Durus 4.3 begins one with."""
    FileStorage(path).close()
    assert path.read_bytes() == SHELF.empty_file
    assert SHELF.empty_file.hex() == (
        "5348454c462d310a0000000000000000000000000000001000000000000000010000000000000000"
    )


def test_transaction_is_laid_out_as_drawn(path: Path, put: Put) -> None:
    """A commit appends a length, an entry for each record in order, and a commit record."""
    before = time.time_ns() // 1000
    with FileStorage(path) as storage:
        first, second = put(storage, {0: [5], 5: []})
        put(storage, [5])
    raw = path.read_bytes()[len(SHELF.empty_file) :]
    entries = b"".join(int8_to_str(len(r) + 8) + r[:8] + r for r in (first, second))
    length = int8_to_str(len(entries) + 86)
    assert raw.startswith(length + entries)
    end = 8 + len(entries) + 86
    commit = parse_commit(raw[end - 86 : end])
    assert commit is not None
    assert (commit.format, commit.serial, commit.previous) == (SYNCED, 1, 0)
    assert commit.crc == zlib.crc32(length + entries)
    assert before <= commit.time_us <= time.time_ns() // 1000
    following = parse_commit(raw[-86:])
    assert following is not None
    assert (following.serial, following.previous) == (2, len(SHELF.empty_file) + end - 86)


def test_commits_that_are_not_synced_say_so(path: Path, put: Put) -> None:
    """With durable=False a commit record says that nothing was synced before it."""
    with FileStorage(path, durable=False) as storage:
        put(storage, [0])
    file = open_file(str(path), readonly=True)
    [(_, commit)] = SHELF.gen_commits(file, 0, file.length())
    assert commit.format == UNSYNCED


def test_packed_file_is_laid_out_as_drawn(path: Path, put: Put) -> None:
    """A pack writes base, commit record and map; holes are a list from the last word down."""
    with FileStorage(path) as storage:
        put(storage, {0: [3, 6], **{n: [] for n in range(1, 8)}})
        storage.new_oid()
        storage.pack()
    raw = path.read_bytes()
    file = open_file(str(path), readonly=True)
    layout = SHELF.read_layout(file, len(raw))
    assert layout.map_end == len(raw)
    commit = layout.base_commit
    assert commit is not None
    assert (commit.serial, commit.previous) == (1, 0)
    assert commit.crc == zlib.crc32(raw[8 : layout.base_end])
    assert commit.map_crc == zlib.crc32(raw[layout.map_offset :])
    length, width, count = MAP_HEADER.unpack_from(raw, layout.map_offset)
    assert (length, width, count) == (16 + 2 * 10, 2, 10)
    words = widen(raw[-20:], 2)
    for oid_int in (0, 3, 6):
        assert raw[words[oid_int] + 8 :].startswith(int8_to_str(oid_int) * 2)
    holes = []
    hole = count - 1
    while (hole := words[hole] - layout.map_offset) != count - 1:
        holes.append(hole)
    assert holes == [8, 7, 5, 4, 2, 1]


@pytest.mark.parametrize("width", range(1, 9))
def test_words_of_every_width_come_back(width: int) -> None:
    """Narrowing words and widening them again gives the same words."""
    top = 256**width - 1
    words = widen(
        narrow(widen(int8_to_str(top) + int8_to_str(1) + int8_to_str(0), 8), width), width
    )
    assert list(words) == [top, 1, 0]


def test_width_is_what_durus_4_3_computes() -> None:
    """The width has room for S + the highest oid + 2 + 1, seen in files of Durus 4.3."""
    assert map_width(16, 0) == 1
    assert map_width(879, 12) == 2
    assert map_width(65536 - 14, 12) == 2
    assert map_width(65536 - 13, 12) == 3


def test_reserved_oid_is_not_an_objects(path: Path, put: Put) -> None:
    """Nothing can be stored under the oid of commit records, and it is never there."""
    with FileStorage(path) as storage:
        put(storage, [0])
        storage.begin()
        with pytest.raises(Exception, match="commit records"):
            storage.store(_RESERVED, make_record(_RESERVED))
        storage.end()
        with pytest.raises(KeyError):
            storage.load(_RESERVED)
        assert [oid for oid, _ in storage.gen_oid_record()] == [int8_to_str(0)]
        storage.pack()
        assert [oid for oid, _ in storage.gen_oid_record()] == [int8_to_str(0)]
