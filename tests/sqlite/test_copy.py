"""A copy of a database that is in use.

Cases:
    the copy holds one committed state, is one file, and is whole or not there
    others commit all the time meanwhile
    progress, and what is refused
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.error import StorageMissingError, StorageOpenError, StorageWriteError
from durus.serialize import ROOT_OID
from durus.sqlite_storage import SqliteStorage
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Open = Callable[..., SqliteStorage]
Start = Callable[[str], "subprocess.Popen[bytes]"]


def put_many(storage: SqliteStorage, payload: bytes) -> None:
    commit(storage, *(make_record(int8_to_str(n), payload=payload) for n in range(1000)))


def test_a_copy_is_the_newest_state(tmp_path: Path, open_here: Open) -> None:
    """The copy is one file with every record of the last commit, and can be worked on with."""
    storage, reader = open_here(), open_here()
    put_many(storage, b"one" * 50)
    reader.sync()
    put_many(storage, b"two" * 50)
    copy = tmp_path / "copy.sqlite"
    reader.copy(copy)
    assert sorted(each.name for each in tmp_path.iterdir() if "copy" in each.name) == [copy.name]
    with SqliteStorage(copy, readonly=True) as found:
        assert dict(found.gen_oid_record()) == dict(open_here().gen_oid_record())
    with SqliteStorage(copy) as found:
        assert found.new_oid() not in dict(found.gen_oid_record())
        commit(found, make_record(ROOT_OID))
    assert open_here().load(ROOT_OID) == make_record(ROOT_OID, payload=b"two" * 50)


def test_a_copy_while_others_commit(tmp_path: Path, open_here: Open, start: Start) -> None:
    """Another process commits without end: the copy ends all the same, with one state of it."""
    storage = open_here()
    put_many(storage, b"0" * 500)
    other = start(
        "with SqliteStorage(path, durable=False) as storage:\n"
        "    n = 0\n"
        "    while True:\n"
        "        n += 1\n"
        "        text = b'%d' % n * 100\n"
        "        commit(storage, *(make_record(int8_to_str(i), payload=text)\n"
        "                          for i in range(0, 1000, 50)))\n"
        "        if n == 3: say('busy')\n"
    )
    assert other.stdout is not None
    assert other.stdout.readline() == b"busy\n"
    for n in range(3):
        storage.copy(tmp_path / f"copy-{n}")
        with SqliteStorage(tmp_path / f"copy-{n}", readonly=True) as found:
            changed = [found.load(int8_to_str(i)) for i in range(0, 1000, 50)]
            assert len({re.findall(rb"[0-9]{100,}", record)[0] for record in changed}) == 1
            assert len(dict(found.gen_oid_record())) == 1000
    assert other.poll() is None


def test_progress_is_told(tmp_path: Path, open_here: Open) -> None:
    """Progress goes up to the whole, in bytes."""
    storage = open_here()
    put_many(storage, b"x" * 3000)
    told: list[tuple[int, int]] = []
    storage.copy(tmp_path / "copy.sqlite", lambda done, total: told.append((done, total)))
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] > 1000 * 3000


def test_what_raises_in_between_leaves_nothing(tmp_path: Path, open_here: Open) -> None:
    """An error of the caller's own ends the copy, and nothing of it is left."""
    storage = open_here()
    put_many(storage, b"x" * 3000)

    def stop(done: int, total: int) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError):
        storage.copy(tmp_path / "copy.sqlite", stop)
    assert not [each for each in tmp_path.iterdir() if "copy" in each.name]
    storage.copy(tmp_path / "copy.sqlite")


def test_nothing_is_overwritten(tmp_path: Path, open_here: Open) -> None:
    """A copy never takes the place of a file, its own database least of all."""
    storage = open_here()
    commit(storage, make_record(ROOT_OID))
    other = tmp_path / "other"
    other.write_bytes(b"mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (other, storage.get_filename(), tmp_path, tmp_path / "dangling"):
        with pytest.raises(StorageOpenError):
            storage.copy(path)
    assert other.read_bytes() == b"mine"
    with pytest.raises((StorageMissingError, StorageWriteError)):
        storage.copy(tmp_path / "missing" / "copy.sqlite")


def test_what_a_crash_left_of_a_copy(tmp_path: Path, open_here: Open) -> None:
    """What is left of a copy that was cut off does not disturb the next."""
    storage = open_here()
    commit(storage, make_record(ROOT_OID))
    for suffix in ("", "-journal", "-wal"):
        Path(f"{tmp_path}/copy.sqlite.new{suffix}").write_bytes(b"half")
    storage.copy(tmp_path / "copy.sqlite")
    with SqliteStorage(tmp_path / "copy.sqlite", readonly=True) as copy:
        assert copy.load(ROOT_OID) == make_record(ROOT_OID)
    assert [each.name for each in tmp_path.iterdir() if "copy" in each.name] == ["copy.sqlite"]
