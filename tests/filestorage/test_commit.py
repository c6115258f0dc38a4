"""Commits on a disk that fails: all or nothing, and never a success that is none."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.error import StorageWriteError
from durus.file_storage import FileStorage
from durus.testing import make_record
from durus.testing.crash import FaultyDisk
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage], dict[int, bytes]]


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> FaultyDisk:
    """A disk that fails when it is told to."""
    disk = FaultyDisk()
    monkeypatch.setattr("durus.file_storage._file.os", disk)
    return disk


def test_commit_is_one_write_and_one_sync(path: Path, put: Put, faulty: FaultyDisk) -> None:
    """However many records it has, a commit is one write and one sync; unsynced it is one write."""
    with FileStorage(path) as storage:
        faulty.calls.clear()
        put(storage, range(1000))
        assert (faulty.calls["write"], faulty.calls["sync"]) == (1, 1)
    with FileStorage(path, durable=False) as storage:
        faulty.calls.clear()
        put(storage, range(1000))
        assert (faulty.calls["write"], faulty.calls["sync"]) == (1, 0)


def test_empty_transaction_writes_nothing(path: Path, faulty: FaultyDisk) -> None:
    """A transaction without records leaves the file as it is."""
    with FileStorage(path) as storage:
        faulty.calls.clear()
        storage.begin()
        storage.end()
        assert (faulty.calls["write"], faulty.calls["sync"]) == (0, 0)


def test_write_that_is_done_in_parts_is_finished(
    path: Path,
    put: Put,
    contents: Contents,
    faulty: FaultyDisk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the system writes a part, the rest is written."""
    parts = []

    def in_parts(fd: int, data: bytes, offset: int) -> int:
        parts.append(len(data))
        return os.pwrite(fd, data[:50], offset)

    with FileStorage(path) as storage:
        monkeypatch.setattr(faulty, "pwrite", in_parts, raising=False)
        records = put(storage, range(3))
        assert len(parts) > 3
    with FileStorage(path) as storage:
        assert list(contents(storage).values()) == records


@pytest.mark.parametrize("partial_bytes", [None, 0, 1, 70])
def test_full_disk_costs_the_commit_alone(
    path: Path, put: Put, contents: Contents, faulty: FaultyDisk, partial_bytes: int | None
) -> None:
    """If a write fails, so does the commit, cleanly; the same one works when there is room."""
    with FileStorage(path) as storage:
        records = put(storage, [0])
        size = path.stat().st_size
        if partial_bytes is None:
            faulty.fail("write", errno.ENOSPC)
        else:
            faulty.fail("write", errno.ENOSPC, partial_bytes=partial_bytes)
        with pytest.raises(StorageWriteError, match="nothing of it is stored") as caught:
            put(storage, [0, 1], b"second")
        assert isinstance(caught.value, OSError)
        faulty.heal()
        assert path.stat().st_size == size
        assert list(contents(storage).values()) == records
        records = put(storage, [0, 1], b"second")
    with FileStorage(path) as storage:
        assert list(contents(storage).values()) == records


def test_what_cannot_be_cut_off_stops_the_storage(
    path: Path, put: Put, contents: Contents, faulty: FaultyDisk
) -> None:
    """If what a failed write left cannot be removed, nothing more is written until reopening."""
    with FileStorage(path) as storage:
        records = put(storage, [0])
        faulty.fail("write", errno.ENOSPC, partial_bytes=70)
        faulty.fail("truncate", errno.EIO)
        with pytest.raises(StorageWriteError):
            put(storage, [1])
        faulty.heal()
        with pytest.raises(StorageWriteError, match="open it again"):
            storage.begin()
        assert list(contents(storage).values()) == records
    with FileStorage(path) as storage:
        put(storage, [1])
        assert sorted(contents(storage)) == [0, 1]


def test_failed_sync_stops_the_storage(
    path: Path, put: Put, contents: Contents, faulty: FaultyDisk
) -> None:
    """After a sync failed the commit is not stored, and no other is taken until reopening."""
    with FileStorage(path) as storage:
        records = put(storage, [0])
        faulty.fail("sync", errno.EIO)
        with pytest.raises(StorageWriteError, match="the sync failed"):
            put(storage, [0, 1], b"second")
        for attempt in (storage.begin, storage.new_oid, storage.pack):
            with pytest.raises(StorageWriteError, match="a sync failed"):
                attempt()
        assert storage.load(int8_to_str(0)) == records[0]
    with FileStorage(path) as storage:
        assert list(contents(storage).values()) == records
        put(storage, [1])


def test_interrupt_during_a_commit_leaves_nothing_of_it(
    path: Path,
    put: Put,
    contents: Contents,
    faulty: FaultyDisk,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Control-C between write and sync: the commit is not stored, and the next one is."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with FileStorage(path) as storage:
        records = put(storage, [0])
        with monkeypatch.context() as patch:
            patch.setattr(faulty, "fdatasync", interrupt, raising=False)
            with pytest.raises(KeyboardInterrupt):
                put(storage, [0, 1], b"second")
        assert list(contents(storage).values()) == records
        records += put(storage, [1])
    with FileStorage(path) as storage:
        assert list(contents(storage).values()) == records


def test_unreadable_file_is_reported(path: Path, put: Put, faulty: FaultyDisk) -> None:
    """If the system cannot read an object's place, `load` says where, and of which object."""
    with FileStorage(path) as storage:
        put(storage, [0, 7])
        faulty.fail("read", errno.EIO)
        with pytest.raises(ValueError, match="object 7 from") as caught:
            storage.load(int8_to_str(7))
        assert getattr(caught.value, "oid", None) == int8_to_str(7)
        assert storage.load(int8_to_str(7)) == make_record(int8_to_str(7))


def test_index_is_synced_after_what_it_covers(
    path: Path, put: Put, faulty: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With durable=False the journal is synced before an index is written that covers it."""
    monkeypatch.setattr("durus.file_storage._journal._TAIL_AT_CLOSE", 1)
    storage = FileStorage(path, durable=False)
    put(storage, [0])
    faulty.calls.clear()
    storage.close()
    assert faulty.calls["sync"] == 1
    assert Path(f"{path}.index").exists()


def test_record_longer_than_one_read_is_loaded(
    path: Path, put: Put, faulty: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the system reads less than it was asked for, the rest is read."""
    monkeypatch.setattr("durus.file_storage._file._SURE_READ_BYTES", 5000)
    with FileStorage(path) as storage:
        [record] = put(storage, [0], b"x" * 30_000)

        def in_parts(fd: int, length: int, offset: int) -> bytes:
            return os.pread(fd, min(length, 5000), offset)

        monkeypatch.setattr(faulty, "pread", in_parts, raising=False)
        assert storage.load(int8_to_str(0)) == record


def test_stored_record_may_be_changed_by_its_maker(path: Path) -> None:
    """What is committed is the record as it was stored, though its buffer is used again."""
    record = make_record(int8_to_str(0), payload=b"as it was")
    buffer = bytearray(record)
    with FileStorage(path) as storage:
        storage.begin()
        storage.store(int8_to_str(0), buffer)  # type: ignore[arg-type]  # more than is promised
        buffer[-10:] = bytes(10)
        storage.end()
        assert storage.load(int8_to_str(0)) == record


def test_walks_both_ways_read_ahead(
    path: Path, put: Put, faulty: FaultyDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading neighbours, forwards or backwards, takes one read for many; what comes is right."""
    with FileStorage(path) as storage:
        records = [record for n in range(1000) for record in put(storage, [n], b"x" * (n % 90))]
        [long] = put(storage, [1000], b"y" * 100_000)
        reads = []

        def counted(fd: int, length: int, offset: int) -> bytes:
            reads.append(length)
            return os.pread(fd, length, offset)

        monkeypatch.setattr(faulty, "pread", counted, raising=False)
        assert [storage.load(int8_to_str(n)) for n in range(1000)] == records
        assert storage.load(int8_to_str(1000)) == long
        assert [storage.load(int8_to_str(n)) for n in reversed(range(1000))] == records[::-1]
        assert len(reads) < 20
