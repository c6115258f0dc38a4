"""`copy`: the committed state in a new file, while the storage is in use."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.error import StorageOpenError, StorageWriteError
from durus.file_storage import FileStorage
from durus.testing.crash import FaultyDisk
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage], dict[int, bytes]]


def test_copy_is_the_committed_state(path: Path, put: Put, contents: Contents) -> None:
    """A copy holds what is committed, not what is pending, and has the mode of the original."""
    target = path.with_name("copy.durus")
    with FileStorage(path) as storage:
        path.chmod(0o604)
        records = put(storage, range(10))
        storage.begin()
        storage.store(int8_to_str(1), records[1])
        storage.copy(target)
        whole = path.read_bytes()
        put(storage, [11])
    assert target.read_bytes() == whole
    assert target.stat().st_mode & 0o777 == 0o604
    with FileStorage(target) as copy:
        assert sorted(contents(copy)) == list(range(10))


def test_copy_leaves_a_torn_tail_out(path: Path, put: Put) -> None:
    """A reader's copy ends with the last whole commit."""
    target = path.with_name("copy.durus")
    with FileStorage(path) as storage:
        put(storage, [0])
    whole = path.read_bytes()
    path.write_bytes(whole + b"torn")
    with FileStorage(path, readonly=True) as storage:
        storage.copy(str(target))
    assert target.read_bytes() == whole


def test_commits_and_packs_go_on_during_a_copy(
    path: Path, put: Put, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed or packed while the copy is made does not show in it."""
    monkeypatch.setattr("durus.file_storage._copying.CHUNK_BYTES", 1000)
    target = path.with_name("copy.durus")
    with FileStorage(path) as storage:
        put(storage, {0: range(1, 20), **{n: [] for n in range(1, 40)}}, b"x" * 100)
        expected = contents(storage)
        seen: list[tuple[int, int]] = []

        def go_on(done: int, total: int) -> None:
            seen.append((done, total))
            assert not target.exists()
            put(storage, [1], b"meanwhile")
            if len(seen) == 3:
                storage.pack()

        storage.copy(target, go_on)
    assert len(seen) > 5
    assert seen[-1][0] == seen[-1][1] == target.stat().st_size
    with FileStorage(target) as copy:
        assert contents(copy) == expected


def test_copy_never_overwrites(path: Path, put: Put) -> None:
    """What is at the target stays, also if it comes there while the copy is made."""
    target = path.with_name("copy.durus")
    with FileStorage(path) as storage:
        put(storage, [0])
        target.write_bytes(b"precious")
        with pytest.raises(StorageOpenError, match="something already"):
            storage.copy(target)
        with pytest.raises(StorageOpenError, match="something already"):
            storage.copy(path)
        target.unlink()
        with pytest.raises(StorageOpenError, match="something already"):
            storage.copy(target, lambda *_: target.write_bytes(b"precious"))
    assert target.read_bytes() == b"precious"
    assert sorted(entry.name for entry in path.parent.iterdir()) == [path.name, target.name]


@pytest.mark.parametrize("kind", ["create", "write", "sync", "link", "sync_directory"])
def test_copy_that_fails_leaves_nothing(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """On a full or failing disk a copy is a StorageWriteError."""
    target = path.with_name("copy.durus")
    with FileStorage(path) as storage:
        put(storage, [0])
        faulty = FaultyDisk()
        faulty.fail(kind, errno.ENOSPC)
        with monkeypatch.context() as patch:
            patch.setattr("durus.file_storage._file.os", faulty)
            with pytest.raises(StorageWriteError, match="tried to copy"):
                storage.copy(target)
        put(storage, [1])
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_copy_into_a_missing_directory(path: Path, put: Put) -> None:
    """A copy to where there is no directory says so."""
    with FileStorage(path) as storage:
        put(storage, [0])
        with pytest.raises(StorageWriteError, match="No such file"):
            storage.copy(path.parent / "no" / "copy.durus")
