"""From a path to a FileStorage, or to one clear line that says why not."""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import durus
from durus.error import (
    StorageClosedError,
    StorageError,
    StorageFormatError,
    StorageLockedError,
    StorageMissingError,
    StorageOpenError,
    StoragePermissionError,
    StorageReadOnlyError,
)
from durus.file_storage import FileStorage, TempFileStorage
from durus.file_storage._shelf import EMPTY_FILE
from durus.serialize import ROOT_OID
from durus.testing import make_record
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage], dict[int, bytes]]


def _refusal(path: object, **options: bool) -> StorageError:
    """Give the error of an opening that must fail, with its message on one line."""
    with pytest.raises(StorageError) as caught:
        FileStorage(path, **options)  # type: ignore[arg-type]  # some of them are no paths
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("tried to ")
    return caught.value


def test_missing_file_is_made(path: Path, contents: Contents) -> None:
    """Opened for writing, a file that is not there is made, and is empty."""
    with FileStorage(path) as storage:
        assert contents(storage) == {}
        assert storage.new_oid() == ROOT_OID


@pytest.mark.parametrize("length", range(len(EMPTY_FILE)))
@pytest.mark.parametrize("filler", [b"", b"\0" * len(EMPTY_FILE)])
def test_file_that_was_not_finished_is_made(
    path: Path, put: Put, length: int, filler: bytes
) -> None:
    """An empty file, or the beginning of a new one with or without zeros after it, is a new one."""
    path.write_bytes((EMPTY_FILE[:length] + filler)[: max(length, len(filler))])
    with FileStorage(path) as storage:
        put(storage, [0])
    assert path.read_bytes().startswith(EMPTY_FILE)


def test_file_name_may_be_text_or_path(path: Path) -> None:
    """A name is text or a path; it is given back, and shown, as text."""
    for name in (path, str(path)):
        with FileStorage(name) as storage:
            assert storage.get_filename() == str(path)
            assert str(storage) == f"FileStorage({str(path)!r})"
            assert storage.readonly is False


def test_link_to_a_database_is_followed(path: Path, tmp_path: Path, put: Put) -> None:
    """Through a symbolic link the file is opened, locked and packed, and the link stays."""
    link = tmp_path / "elsewhere" / "link.durus"
    link.parent.mkdir()
    link.symlink_to(path)
    with FileStorage(link) as storage:
        put(storage, [0, 1])
        with pytest.raises(StorageLockedError):
            FileStorage(path)
        storage.pack()
    assert link.is_symlink()
    assert [entry.name for entry in link.parent.iterdir()] == ["link.durus"]
    with FileStorage(path, readonly=True) as storage:
        assert len(list(storage.gen_oid_record())) == 1


def test_missing_file_is_not_made_to_be_read(path: Path) -> None:
    """Opened read-only, a file that is not there is a StorageMissingError and stays away."""
    error = _refusal(path, readonly=True)
    assert isinstance(error, StorageMissingError)
    assert error.path == str(path)
    assert not path.exists()


@pytest.mark.parametrize("readonly", [True, False])
def test_missing_directory_is_named(tmp_path: Path, readonly: bool) -> None:
    """In a directory that is not there nothing is made; the message names the directory."""
    error = _refusal(tmp_path / "no" / "app.durus", readonly=readonly)
    assert isinstance(error, StorageMissingError)
    assert str(tmp_path / "no") in str(error)


@pytest.mark.parametrize("readonly", [True, False])
def test_what_is_no_file_is_refused(tmp_path: Path, readonly: bool) -> None:
    """A directory, a named pipe and a device are named as what they are; nothing waits on them."""
    os.mkfifo(tmp_path / "pipe")
    for path, name in (
        (tmp_path, "directory"),
        (tmp_path / "pipe", "pipe"),
        ("/dev/null", "device"),
    ):
        error = _refusal(path, readonly=readonly)
        assert isinstance(error, StorageOpenError)
        assert name in str(error)


def test_impossible_path_is_refused(tmp_path: Path) -> None:
    """A path that no file can have is a StorageOpenError."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in ("a\0b", loop, tmp_path / ("x" * 300), tmp_path / "f" / "g"):
        (tmp_path / "f").touch()
        assert isinstance(_refusal(path), StorageOpenError)


def test_file_that_may_not_be_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system does not permit is a StoragePermissionError; so is a read-only disk."""
    path.write_bytes(EMPTY_FILE)

    for number in (errno.EACCES, errno.EROFS):

        def refuse(name: str, *_: object, number: int = number) -> int:
            raise OSError(number, os.strerror(number), name)

        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refuse)
            error = _refusal(path)
        assert isinstance(error, StoragePermissionError)
        assert isinstance(error, PermissionError)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"DFS20\0" + bytes(50), "FileStorage2"),
        (b"SQLite format 3\0" + bytes(84), "SqliteStorage"),
        (b"FS21" + bytes(40), "ZODB"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (b"Dear diary, today I opened a database.", "Dear dia"),
        (b"SHELF-2\n" + bytes(40), "SHELF-2"),
        (bytes(80), "begins with"),
    ],
)
@pytest.mark.parametrize("readonly", [True, False])
def test_other_formats_are_named_and_left_alone(
    path: Path, start: bytes, name: str, readonly: bool
) -> None:
    """A file of another kind is a StorageFormatError that says which, and is not touched."""
    path.write_bytes(start)
    error = _refusal(path, readonly=readonly)
    assert isinstance(error, StorageFormatError)
    assert error.path == str(path)
    assert name in str(error)
    assert path.read_bytes() == start
    assert not FileStorage.has_format(path)


def test_empty_file_cannot_be_read(path: Path) -> None:
    """Opened read-only, an empty file is no database yet."""
    path.touch()
    assert "an empty file" in str(_refusal(path, readonly=True))


def test_has_format_judges_by_the_first_bytes(path: Path, tmp_path: Path) -> None:
    """`has_format` knows its own files, and says no to everything else without raising."""
    FileStorage(path).close()
    assert FileStorage.has_format(path)
    assert FileStorage.has_format(str(path))
    assert not FileStorage.has_format(tmp_path)
    assert not FileStorage.has_format(tmp_path / "missing")


def test_second_writer_in_this_process_is_refused(path: Path) -> None:
    """Open for writing, the file is locked against another opening in the same process."""
    with FileStorage(path):
        error = _refusal(path)
        assert isinstance(error, StorageLockedError)
        assert f"this process ({os.getpid()})" in str(error)
        assert "close that first" in str(error)
    FileStorage(path).close()


_HOLDER = """
import sys
from durus.file_storage import FileStorage
storage = FileStorage(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


def test_second_writer_is_told_who_was_first(path: Path, put: Put) -> None:
    """A lock of another process is an OSError that names it; reading works meanwhile."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        error = _refusal(path)
        assert isinstance(error, StorageLockedError)
        assert isinstance(error, OSError)
        if os.access("/proc/locks", os.R_OK):
            assert f"process {holder.pid} ({sys.executable} -c" in str(error)
        assert "let both use a server" in str(error)
        FileStorage(path, readonly=True).close()
    with FileStorage(path) as storage:
        put(storage, [0])


def test_lock_is_that_of_the_file_at_the_path(
    path: Path, tmp_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced between opening and locking is let go, and the new one opened."""
    with FileStorage(path) as storage:
        put(storage, [0, 1])
    newer = tmp_path / "newer.durus"
    with FileStorage(newer) as storage:
        put(storage, [0, 1, 2])

    def lock_late(fd: int, operation: int) -> None:
        newer.rename(path) if newer.exists() else None
        flock(fd, operation)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lock_late)
    with FileStorage(path) as storage:
        assert len(list(storage.gen_oid_record())) == 3


def test_readonly_storage_leaves_no_trace(path: Path, tmp_path: Path, put: Put) -> None:
    """Opened read-only, nothing is written, even where a tail is torn and an index is missing."""
    with FileStorage(path) as storage:
        put(storage, range(3))
    with path.open("ab") as file:
        file.write(b"\0" * 5)
    before = {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()}
    with FileStorage(path, readonly=True) as storage:
        assert storage.readonly
        assert len(list(storage.gen_oid_record())) == 3
        with pytest.raises(StorageReadOnlyError):
            storage.begin()
    assert before == {entry.name: entry.stat().st_mtime_ns for entry in tmp_path.iterdir()}


def test_temporary_file_is_gone_when_closed(put: Put, contents: Contents) -> None:
    """Without a name the file is a temporary one, also packed; nothing of it is left at the end."""
    for make in (FileStorage, TempFileStorage):
        storage = make()
        path = Path(storage.get_filename())
        put(storage, {0: [1], 1: [], 2: []})
        storage.pack()
        put(storage, [1])
        assert sorted(contents(storage)) == [0, 1]
        storage.close()
        assert list(path.parent.glob(path.name + "*")) == []


def test_temporary_file_is_gone_when_dropped(put: Put) -> None:
    """A temporary file that nobody closes goes with its storage."""
    storage = FileStorage()
    path = Path(storage.get_filename())
    put(storage, [0])
    assert path.exists()
    del storage
    assert not path.exists()


def test_a_child_leaves_the_temporary_file_alone() -> None:
    """A process that was forked may end as it likes: the file is its parent's, who removes it."""
    program = """if True:
        import os
        import sys
        from durus.file_storage import FileStorage
        storage = FileStorage()
        pid = os.fork()
        if pid == 0:
            sys.exit()
        os.waitpid(pid, 0)
        print(os.path.exists(storage.get_filename()))
        storage.close()
        print(os.path.exists(storage.get_filename()))
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]


def test_leftovers_are_removed(path: Path, tmp_path: Path) -> None:
    """What an interrupted pack, repair or index left is removed by the next one who may write."""
    FileStorage(path).close()
    for suffix in (".pack", ".prepack.new", ".repair", ".index.new", ".torn.new"):
        Path(f"{path}{suffix}").write_bytes(b"half of something")
    FileStorage(path).close()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_every_method_refuses_after_close(path: Path) -> None:
    """After `close`, what only FileStorage has raises StorageClosedError as well."""
    storage = FileStorage(path)
    storage.close()
    for call in (storage.describe, lambda: storage.copy(f"{path}.copy"), storage.get_packer):
        with pytest.raises(StorageClosedError, match="open it again"):
            call()
    assert storage.get_filename() == str(path)


def test_pack_of_a_closed_storage_ends(path: Path, put: Put) -> None:
    """Closing a storage ends the pack that runs in it, and removes what it had written."""
    storage = FileStorage(path)
    put(storage, range(10))
    packer = storage.get_packer()
    next(packer)
    storage.close()
    assert not Path(f"{path}.pack").exists()
    with pytest.raises((StorageClosedError, StopIteration)):
        next(packer)


def test_old_durus_in_the_same_environment_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside Durus 4.3 (`durus.__file__` is set) the package refuses to load, in one line."""
    monkeypatch.setattr(durus, "__file__", "/somewhere/durus/__init__.py", raising=False)
    monkeypatch.delitem(sys.modules, "durus.file_storage")
    with pytest.raises(ImportError, match="pip uninstall Durus"):
        importlib.import_module("durus.file_storage")


def test_huge_oids_do_not_use_up_the_new_ones(path: Path, put: Put, contents: Contents) -> None:
    """Oids from 2**63 on that a program chose are kept, packed too, and new ones stay small."""
    chosen = [2**63, 2**64 - 2]
    with FileStorage(path) as storage:
        put(storage, {0: [5, *chosen], 5: [], 2**63: [], 2**64 - 2: [0], 2**63 + 1: []})
        assert storage.new_oid() == int8_to_str(6)
        storage.pack()
        assert sorted(contents(storage)) == [0, 5, *chosen]
    with FileStorage(path) as storage:
        assert sorted(contents(storage)) == [0, 5, *chosen]
        assert storage.load(int8_to_str(5)) == make_record(int8_to_str(5))
        assert storage.new_oid() == int8_to_str(7)
