"""A FileStorage that is opened read-only beside a writer sees whole commits, and follows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durus.error import CorruptionError, DurusKeyError
from durus.file_storage import FileStorage
from durus.file_storage._file import File
from durus.testing import make_record
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage], dict[int, bytes]]


@pytest.fixture
def writer(path: Path, put: Put) -> Iterator[FileStorage]:
    """A storage with three objects, open for writing."""
    with FileStorage(path) as storage:
        put(storage, {0: [1, 2], 1: [], 2: []})
        yield storage


@pytest.fixture
def reader(path: Path, writer: FileStorage) -> Iterator[FileStorage]:
    """The same, open for reading."""
    with FileStorage(path, readonly=True) as storage:
        yield storage


def _numbers(oids: list[bytes]) -> list[int]:
    return sorted(int.from_bytes(oid, "big") for oid in oids)


def test_reader_follows_commits(writer: FileStorage, reader: FileStorage, put: Put) -> None:
    """`sync` takes in what was committed, and gives the oids in it, once."""
    assert reader.sync() == []
    [record] = put(writer, [1], b"new")
    put(writer, [1, 7], b"new")
    assert reader.load(int8_to_str(1)) == make_record(int8_to_str(1))
    assert _numbers(reader.sync()) == [1, 7]
    assert reader.load(int8_to_str(1)) == record
    assert reader.sync() == []
    assert reader.describe().transaction_count == 3


def test_reader_sees_no_part_of_a_commit(
    path: Path, writer: FileStorage, reader: FileStorage, put: Put, contents: Contents
) -> None:
    """However much of a commit is there when the reader looks, it sees all of it or nothing."""
    before = path.read_bytes()
    put(writer, {0: [1], 3: []}, b"new")
    after = path.read_bytes()
    old = contents(reader)
    for length in range(len(before), len(after)):
        path.write_bytes(after[:length])
        assert reader.sync() == []
        assert contents(reader) == old
    path.write_bytes(after)
    assert _numbers(reader.sync()) == [0, 3]


def test_reader_follows_a_pack(
    writer: FileStorage, reader: FileStorage, put: Put, contents: Contents
) -> None:
    """After a pack `sync` gives what was removed and what was committed since, and no more."""
    put(writer, {0: [1, 5], 5: []})
    reader.sync()
    writer.pack()
    put(writer, [1], b"after")
    assert reader.load(int8_to_str(2)) == make_record(int8_to_str(2))
    assert _numbers(reader.sync()) == [1, 2]
    assert contents(reader) == contents(writer)
    with pytest.raises(DurusKeyError):
        reader.load(int8_to_str(2))
    put(writer, [1], b"again")
    assert _numbers(reader.sync()) == [1]


def test_reader_that_missed_commits_before_a_pack(
    writer: FileStorage, reader: FileStorage, put: Put, contents: Contents
) -> None:
    """If a pack hides what was committed since the reader looked, every oid may have changed."""
    put(writer, {1: [], 9: []}, b"missed")
    writer.pack()
    assert _numbers(reader.sync()) == [0, 1, 2]
    assert contents(reader) == contents(writer)


def test_reader_follows_a_pack_during_commits(
    writer: FileStorage,
    reader: FileStorage,
    put: Put,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was committed between a pack's steps and seen already is not news."""
    monkeypatch.setattr("durus.file_storage._packer._STEP_S", -1)
    for number, _ in enumerate(writer.get_packer()):
        put(writer, [1], b"%d" % number)
        assert _numbers(reader.sync()) == [1]
    put(writer, [0])
    assert _numbers(reader.sync()) == [0]
    assert contents(reader) == contents(writer)


def test_reader_of_a_file_that_was_replaced(
    path: Path, tmp_path: Path, reader: FileStorage, put: Put, contents: Contents
) -> None:
    """If another database takes the path, every oid of both is news, and the new one is read."""
    other = tmp_path / "other.durus"
    with FileStorage(other) as storage:
        put(storage, [0, 8])
        expected = contents(storage)
    other.replace(path)
    assert _numbers(reader.sync()) == [0, 1, 2, 8]
    assert contents(reader) == expected


def test_reader_of_a_file_that_was_put_back(
    path: Path, writer: FileStorage, reader: FileStorage, put: Put, contents: Contents
) -> None:
    """If the end of the file is not what the reader knows, it reads the file again."""
    before = path.read_bytes()
    put(writer, [1], b"new")
    reader.sync()
    path.write_bytes(before)
    assert _numbers(reader.sync()) == [0, 1, 2]
    assert reader.load(int8_to_str(1)) == make_record(int8_to_str(1))


def test_reader_of_a_file_that_is_gone(path: Path, reader: FileStorage, contents: Contents) -> None:
    """If the name is removed, the reader goes on with what it has open."""
    expected = contents(reader)
    path.unlink()
    assert reader.sync() == []
    assert contents(reader) == expected


def test_reader_reports_damage_and_keeps_its_state(
    path: Path, writer: FileStorage, reader: FileStorage, put: Put, contents: Contents
) -> None:
    """Damage in what follows is an error of `sync`; what was seen before is there still."""
    expected = contents(reader)
    start = path.stat().st_size
    put(writer, [1], b"new")
    put(writer, [2], b"new")
    with path.open("r+b") as file:
        file.seek(start + 30)
        file.write(b"\xee")
    with pytest.raises(CorruptionError):
        reader.sync()
    assert contents(reader) == expected


def test_walk_goes_on_through_commits_and_packs(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk over all records gives each object once more or less: a state that was committed."""
    with FileStorage(path) as storage:
        records = put(storage, {0: range(1, 50), **{n: [] for n in range(1, 50)}})
        walk = storage.gen_oid_record()
        seen = dict(next(walk) for _ in range(10))
        changed = put(storage, range(40, 60), b"changed")
        storage.pack()
        put(storage, [1], b"after the pack")
        seen.update(walk)
        expected = {r[:8]: r for r in records} | {r[:8]: r for r in changed}
        assert seen == expected


def test_load_reads_ahead_no_further_than_what_is_committed(path: Path, put: Put) -> None:
    """What was read ahead of a commit is not taken for what the commit wrote."""
    with FileStorage(path) as storage:
        first = put(storage, range(3))
        assert [storage.load(r[:8]) for r in first] == first
        second = put(storage, range(3, 6))
        assert [storage.load(r[:8]) for r in first + second] == first + second


@pytest.mark.parametrize("step", [1, -1], ids=["forward", "backward"])
def test_neighbours_are_read_together(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Whoever loads one entry after the other, in either direction, reads the file in pieces."""
    with FileStorage(path) as storage:
        records = put(storage, range(1000))[::step]
        reads = []
        read = File.read

        def count(self: File, offset: int, length: int) -> bytes:
            reads.append(length)
            return read(self, offset, length)

        monkeypatch.setattr(File, "read", count)
        assert [storage.load(r[:8]) for r in records] == records
        assert len(reads) < 20
