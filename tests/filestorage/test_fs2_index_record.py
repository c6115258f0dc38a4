"""The index record of DFS20 is read whoever pickled it, bounded, and never run."""

from __future__ import annotations

import codecs
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.error import CorruptionError
from durus.file_storage2 import FileStorage2
from durus.testing import make_record
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage2], dict[int, bytes]]


def packed_file(records: list[bytes], index: bytes) -> bytes:
    """Give a file as a pack of Durus 4.3 leaves it, with this as its compressed index."""
    entries = b"".join(len(record).to_bytes(4, "big") + record for record in records) + bytes(4)
    offset = 14 + len(entries)
    return b"DFS20\0" + int8_to_str(offset) + entries + int8_to_str(len(index)) + index


def offsets_of(records: list[bytes]) -> dict[bytes, int]:
    offsets, position = {}, 14
    for record in records:
        offsets[record[:8]] = position
        position += len(record) + 4
    return offsets


def in_python_2(offsets: dict[bytes, int]) -> bytes:
    """Pickle as Python 2 does by default: the text form of protocol 0."""
    parts = [b"(dp1\n"]
    for number, (oid, offset) in enumerate(offsets.items(), 2):
        quoted = repr(oid)[1:].encode()
        parts.append(b"S%s\np%d\nI%d\ns" % (quoted, number, offset))
    return b"".join(parts) + b"."


def in_python_2_binary(offsets: dict[bytes, int]) -> bytes:
    """Pickle as Python 2 does with protocol 2."""
    items = b"".join(
        b"U\x08" + oid + b"q" + bytes((number % 256,)) + b"J" + offset.to_bytes(4, "little")
        for number, (oid, offset) in enumerate(offsets.items(), 2)
    )
    return b"\x80\x02}q\x01(" + items + b"u."


@pytest.mark.parametrize("protocol", [2, 3, 4, 5, in_python_2, in_python_2_binary])
@pytest.mark.parametrize("count", [0, 1, 2, 300, 5000])
def test_every_pickle_of_a_dictionary_is_read(
    path: Path, protocol: int | Callable[[dict[bytes, int]], bytes], count: int
) -> None:
    """Each protocol of Python 3, and both that Python 2 used; any order of the oids."""
    numbers = Random(count).sample(range(count * 3), count)
    records = [make_record(int8_to_str(n)) for n in numbers]
    offsets = offsets_of(records)
    pickled = protocol(offsets) if callable(protocol) else pickle.dumps(offsets, protocol)
    path.write_bytes(packed_file(records, zlib.compress(pickled)))
    with FileStorage2(path) as storage:
        assert storage.describe().object_count == count
        for record in records:
            assert storage.load(record[:8]) == record
        assert int.from_bytes(storage.new_oid(), "big") == max(numbers, default=-1) + 1


@given(oids=st.sets(st.binary(min_size=8, max_size=8), max_size=40), protocol=st.integers(2, 5))
def test_any_oid_is_read(
    tmp_path_factory: pytest.TempPathFactory, oids: set[bytes], protocol: int
) -> None:
    """Whatever bytes an oid has, they are told from opcodes."""
    path = tmp_path_factory.mktemp("any") / "app.durus"
    records = [make_record(oid) for oid in sorted(oids)]
    for index in (
        pickle.dumps(offsets_of(records), protocol),
        in_python_2(offsets_of(records)),
    ):
        path.write_bytes(packed_file(records, zlib.compress(index)))
        with FileStorage2(path, readonly=True) as storage:
            assert [record for _, record in storage.gen_oid_record()] == records


class Hostile:
    """Runs code when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", range(6))
def test_pickle_of_something_else_is_damage_and_is_not_run(path: Path, protocol: int) -> None:
    """A pickle can run code: one that is no dictionary of oids and offsets is refused unread."""
    marker = path.with_name("marker")
    records = [make_record(int8_to_str(0))]
    offset = offsets_of(records)[int8_to_str(0)]
    for value in (
        Hostile(marker),
        {Hostile(marker): 14},
        {int8_to_str(0): Hostile(marker)},
        {int8_to_str(0): offset, "more": Hostile(marker)},
        [offset],
        {int8_to_str(0): "text"},
        {b"short": offset},
        {int8_to_str(0): offset, int8_to_str(1): 13},
        {int8_to_str(0): 10**9},
        {codecs.encode("x"): offset},
    ):
        pickled = pickle.dumps(value, protocol)
        path.write_bytes(packed_file(records, zlib.compress(pickled)))
        with pytest.raises(CorruptionError):
            FileStorage2(path)
        with FileStorage2(path, repair=True) as storage:
            assert storage.load(int8_to_str(0)) == records[0]
        for side in path.parent.glob(f"{path.name}.*"):
            side.unlink()
        assert not marker.exists()


def test_compression_bomb_takes_no_memory(path: Path) -> None:
    """What a small record unfolds to is looked at in pieces."""
    index = zlib.compress(b"\x80\x04}\x94(" + bytes(200_000_000) + b"u.", 9)
    path.write_bytes(packed_file([make_record(int8_to_str(0))], index))
    with pytest.raises(CorruptionError):
        FileStorage2(path)


@pytest.mark.parametrize("ours", [True, False])
def test_index_record_with_any_byte_changed_is_reported_and_repaired(
    path: Path, put: Put, contents: Contents, ours: bool
) -> None:
    """Its own sums tell; repair finds the objects without it."""
    graph = {n: [n + 1] for n in range(20)} | {20: []}
    with FileStorage2(path) as storage:
        records = put(storage, graph)
        expected = dict(enumerate(records))
        storage.pack()
    path.with_name(f"{path.name}.index").unlink(missing_ok=True)
    if not ours:
        index = zlib.compress(pickle.dumps(offsets_of(records)))
        path.write_bytes(packed_file(records, index))
    whole = path.read_bytes()
    start = int.from_bytes(whole[6:14], "big")
    for position in (*range(6, 14), *range(start, len(whole))):
        damaged = bytearray(whole)
        damaged[position] ^= 0x11
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError):
            FileStorage2(path, readonly=True).load(int8_to_str(3))
        if position % 5:
            continue
        with FileStorage2(path, repair=True, durable=False) as storage:
            assert contents(storage) == expected
        for side in path.parent.glob(f"{path.name}.*"):
            side.unlink()


def test_index_file_spares_the_index_record(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an index file, a packed file opens without a look at its index record."""
    monkeypatch.setattr("durus.file_storage._journal._TAIL_AT_CLOSE", 1)
    with FileStorage2(path) as storage:
        records = put(storage, {n: [n + 1] for n in range(20)} | {20: []}, b"x" * 300)
        storage.pack()
        # An index is compared with the first bytes of the file, and those before its end.
        put(storage, [0], b"x" * 9000)
    damaged = bytearray(path.read_bytes())
    start = int.from_bytes(damaged[6:14], "big")
    damaged[start + 12] ^= 1
    path.write_bytes(damaged)
    with FileStorage2(path, readonly=True) as storage:
        assert storage.load(int8_to_str(0)) != records[0]
    path.with_name(f"{path.name}.index").unlink()
    with pytest.raises(CorruptionError):
        FileStorage2(path, readonly=True)


def test_oids_far_apart(path: Path, contents: Contents) -> None:
    """Scattered oids take memory by their number, not by the room between them."""
    records = [make_record(int8_to_str(n * 2**40)) for n in range(70_000)]
    index = zlib.compress(pickle.dumps(offsets_of(records)))
    path.write_bytes(packed_file(records, index))
    with FileStorage2(path, readonly=True) as storage:
        assert storage.describe().object_count == len(records)
        assert list(contents(storage).values()) == records
