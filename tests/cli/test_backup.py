"""`durus backup` and `durus restore`: files, other storages, beside writers, after crashes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from durus.backends import open_storage
from durus.cli._restore import restore as restore_command
from durus.connection import Connection
from durus.error import (
    CorruptionError,
    StorageError,
    StorageLockedError,
    StorageMissingError,
    StorageOpenError,
    StorageWriteError,
)
from durus.persistent_dict import PersistentDict
from durus.serialize import ROOT_OID
from durus.testing import commit, make_record
from durus.tools import _backup_folder, _record_pieces
from durus.tools.backup import Backup, back_up, read_catalog, restore

FORMATS = ["file", "file2"]

# Commits while it is not killed, always to two objects whose sum is 0, and packs now and then.
WRITER = """
import sys
from durus.backends import open_storage
from durus.connection import Connection
with Connection(open_storage(sys.argv[1])) as connection:
    n = 0
    while True:
        n += 1
        root = connection.get_root()
        root["left"]["n"], root["right"]["n"] = n, -n
        connection.commit()
        if n % 50 == 0:
            connection.pack()
        if n == 20:
            print("going", flush=True)
"""

# Tells when a backup has taken the first chunk, and goes no further.
SLOW = """
import signal
from pathlib import Path
from durus.file_storage import FileStorage

class Slow(FileStorage):
    @classmethod
    def has_format(cls, path):
        return False
    def gen_bytes(self, start, stop):
        for chunk in super().gen_bytes(start, stop):
            yield chunk
            if start == int(Path("pause-at").read_text()):
                Path("paused").touch()
                signal.pause()
"""


def _set(url: str | Path, *values: int) -> None:
    """Make a commit for each value."""
    with Connection(open_storage(url)) as connection:
        for value in values:
            connection.get_root()["n"] = value
            connection.commit()


def _value(path: Path) -> Any:
    with Connection(open_storage(path, readonly=True)) as connection:
        return connection.get_root()["n"]


def _records(url: str | Path) -> dict[bytes, bytes]:
    with open_storage(url, readonly=True) as storage:
        return dict(storage.gen_oid_record())


def _back_up(url: str | Path, folder: Path, *, full: bool = False) -> Backup:
    with open_storage(url, readonly=True) as storage:
        return back_up(storage, str(folder), str(url), full=full)


def _remove(path: Path) -> None:
    """Remove a database, and what SQLite has beside it."""
    for found in path.parent.glob(f"{path.name}*"):
        found.unlink()


def _commits(path: Path) -> dict[int, datetime]:
    with open_storage(path, readonly=True) as storage:
        return dict(storage.gen_commits())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of the test is."""
    return tmp_path / "app.durus"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where its backups are."""
    return tmp_path / "backups"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where it is restored to."""
    return tmp_path / "restored.durus"


@pytest.fixture
def three_pieces(path: Path, folder: Path) -> Path:
    """A database of 7 commits, the last with n = 6, in a full piece and two increments."""
    for values in ((1, 2), (3, 4), (5, 6)):
        _set(path, *values)
        _back_up(path, folder)
    return folder


# Files.


@pytest.mark.parametrize("scheme", FORMATS)
def test_full_then_increments(path: Path, folder: Path, target: Path, scheme: str) -> None:
    """The first piece has everything, the next only what was appended; restored they are equal."""
    _set(f"{scheme}:{path}", 1)
    size_bytes = path.stat().st_size
    first = _back_up(path, folder)
    assert (first.piece.kind, first.piece.size_bytes) == ("full", size_bytes)
    assert _back_up(path, folder) == Backup(first.piece, is_written=False, reason="")
    _set(path, 2, 3)
    second = _back_up(path, folder)
    assert (second.piece.kind, second.reason) == ("increment", "")
    assert second.piece.size_bytes == path.stat().st_size - size_bytes
    done = restore(str(folder), str(target))
    assert target.read_bytes() == path.read_bytes()
    assert (done.serial, done.pieces) == (4, [first.piece, second.piece])
    assert [entry.name for entry in target.parent.glob(".durus*")] == []


@pytest.mark.parametrize("scheme", FORMATS)
def test_every_commit_can_be_restored(path: Path, folder: Path, target: Path, scheme: str) -> None:
    """--at a serial gives the state right after that commit, whichever piece has it."""
    _set(f"{scheme}:{path}", 1)
    for value in range(2, 8):
        _set(path, value)
        if value % 2:
            _back_up(path, folder)
    commits = _commits(path)
    for serial in range(2, 9):
        assert restore(str(folder), str(target), serial).time == commits[serial]
        assert _value(target) == serial - 1
        assert path.read_bytes().startswith(target.read_bytes())
        target.unlink()
    with pytest.raises(StorageError, match="commit 9"):
        restore(str(folder), str(target), 9)


def test_every_time_can_be_restored(three_pieces: Path, path: Path, target: Path) -> None:
    """--at a time gives the last commit that was not later, and refuses what is not known."""
    commits = _commits(path)
    for serial in range(2, 8):
        for delay in (timedelta(0), timedelta(microseconds=1)):
            if delay and commits.get(serial + 1) == commits[serial] + delay:
                continue
            assert restore(str(three_pieces), str(target), commits[serial] + delay).serial == serial
            target.unlink()
    before = commits[1] - timedelta(microseconds=1)
    with pytest.raises(StorageError, match="before the first state"):
        restore(str(three_pieces), str(target), before)
    with pytest.raises(StorageError, match="the last backup"):
        restore(str(three_pieces), str(target), datetime.now(UTC))
    assert not target.exists()


@pytest.mark.parametrize("scheme", FORMATS)
def test_a_pack_begins_a_new_chain(path: Path, folder: Path, target: Path, scheme: str) -> None:
    """After a pack the next piece is a full one, and what the pack forgot is in the old chain."""
    _set(f"{scheme}:{path}", 1, 2)
    _back_up(path, folder)
    with open_storage(path) as storage:
        storage.pack()
    _set(path, 3)
    done = _back_up(path, folder)
    assert (done.piece.kind, done.reason) == ("full", "the file was packed since")
    _set(path, 4)
    assert _back_up(path, folder).piece.kind == "increment"
    for serial, value in ((2, 1), (3, 2), (4, 3), (5, 4)):
        restore(str(folder), str(target), serial)
        assert _value(target) == value
        target.unlink()
    # The base of the packed file is a commit too, and nothing before it is there.
    restore(str(folder), str(target), 3)
    assert target.stat().st_size < path.stat().st_size


def test_what_no_backup_has_is_not_made_up(path: Path, folder: Path, target: Path) -> None:
    """A time after the last backup before a pack is refused if commits of then are lost."""
    _set(path, 1)
    _back_up(path, folder)
    _set(path, 2, 3)
    time = _commits(path)[3]
    with open_storage(path) as storage:
        storage.pack()
    _back_up(path, folder)
    with pytest.raises(StorageError, match="commits 3 to 3 between piece 000001-full"):
        restore(str(folder), str(target), time)
    assert not target.exists()


def test_a_file_that_changed_before_the_last_piece(path: Path, folder: Path) -> None:
    """What changed where nothing ever changes is told, and the next piece is a full one."""
    _set(path, 1, 2)
    _back_up(path, folder)
    with open_storage(path, readonly=True) as storage:
        data = bytearray(path.read_bytes())
        data[60] ^= 1
        path.write_bytes(data)
        done = back_up(storage, str(folder), str(path))
    assert done.piece.kind == "full"
    assert "durus check" in done.reason


def test_another_database_is_refused(three_pieces: Path, tmp_path: Path) -> None:
    """A folder takes one database; not even --full puts another one into it."""
    other = tmp_path / "other.durus"
    _set(other, 1)
    for full in (False, True):
        with pytest.raises(StorageOpenError, match="choose another folder"):
            _back_up(other, three_pieces, full=full)
    assert len(read_catalog(str(three_pieces)).pieces) == 3


def test_a_past_state_is_not_backed_up(durus: Any, three_pieces: Path, path: Path) -> None:
    """A database that is opened as of an earlier commit is not taken for the newest state."""
    for folder in (three_pieces, "new"):
        assert "earlier commit" in durus.error("backup", f"file:{path}?at=3", folder)
    assert len(read_catalog(str(three_pieces)).pieces) == 3


def test_a_database_that_moved_goes_on(three_pieces: Path, path: Path, tmp_path: Path) -> None:
    """The same file under another name is known by what is in it."""
    moved = path.rename(tmp_path / "moved.durus")
    _set(moved, 7)
    assert _back_up(moved, three_pieces).piece.kind == "increment"
    assert not _back_up(moved, three_pieces).is_written


def test_another_past_is_refused(three_pieces: Path, path: Path, target: Path) -> None:
    """After a restore to an earlier commit the chain ends; --full begins the next one."""
    restore(str(three_pieces), str(target), 3)
    target.replace(path)
    _set(path, 33)
    with pytest.raises(StorageOpenError, match="--full"):
        _back_up(path, three_pieces)
    assert _back_up(path, three_pieces, full=True).reason == "it was asked for"
    restore(str(three_pieces), str(target))
    assert _value(target) == 33


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("000002-increment.data", None, "piece 000002-increment.data is missing"),
        ("000002-increment.json", None, "piece 000002 is missing"),
        ("000001-full.json", None, "piece 000001 is missing"),
        ("000002-increment.data", "cut", "piece 000002-increment.data is damaged"),
        ("000002-increment.data", "flip", "piece 000002-increment.data is damaged"),
        ("000001-full.data", "flip", "piece 000001-full.data is damaged"),
        ("000002-increment.json", "flip", "piece 000002-increment.json is damaged"),
        ("000003-increment.json", "flip", "piece 000003-increment.json is damaged"),
        ("000003-increment.json", "cut", "piece 000003-increment.json is damaged"),
    ],
)
def test_a_bad_chain_is_refused(
    three_pieces: Path, path: Path, target: Path, name: str, change: str | None, told: str
) -> None:
    """What is missing or damaged is named, nothing is restored, and the next backup is good."""
    file = three_pieces / name
    data = bytearray(file.read_bytes())
    if change is None:
        file.unlink()
    elif change == "cut":
        file.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    with pytest.raises(StorageError) as caught:
        restore(str(three_pieces), str(target))
    assert told in str(caught.value)
    assert not target.exists()
    assert list(target.parent.glob(".durus*")) == []
    if not name.startswith("000001"):
        restore(str(three_pieces), str(target), 3)
        assert _value(target) == 2
        target.unlink()
    _set(path, 7)
    done = _back_up(path, three_pieces)
    assert done.piece.kind == "full"
    assert told in done.reason
    restore(str(three_pieces), str(target))
    assert _value(target) == 7


def test_an_altered_piece_and_another_past(three_pieces: Path, path: Path, target: Path) -> None:
    """A chain that was altered is left, also if nothing is new; another past is refused."""
    data = three_pieces / "000002-increment.data"
    before = data.read_bytes()
    data.write_bytes(bytes(len(before)))
    done = _back_up(path, three_pieces)
    assert (done.is_written, done.piece.kind) == (True, "full")
    restore(str(three_pieces), str(target), 3)
    target.replace(path)
    with pytest.raises(StorageOpenError, match="--full"):
        _back_up(path, three_pieces)


def test_a_piece_of_elsewhere_is_refused(
    three_pieces: Path, path: Path, target: Path, tmp_path: Path
) -> None:
    """A piece that proves itself and was made after another one does not fit in."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(three_pieces, elsewhere)
    for ending in ("data", "json"):
        (elsewhere / f"000003-increment.{ending}").unlink()
        (elsewhere / f"000002-increment.{ending}").unlink()
    _back_up(path, elsewhere)
    for ending in ("data", "json"):
        shutil.copy(elsewhere / f"000002-increment.{ending}", three_pieces)
    with pytest.raises(CorruptionError, match="000003-increment does not continue"):
        restore(str(three_pieces), str(target))


def test_old_chains_may_be_removed(three_pieces: Path, path: Path, target: Path) -> None:
    """A folder without its oldest chain is whole."""
    _back_up(path, three_pieces, full=True)
    for piece in list(three_pieces.glob("00000[123]-*")):
        piece.unlink()
    assert read_catalog(str(three_pieces)).problems == []
    restore(str(three_pieces), str(target))
    assert target.read_bytes() == path.read_bytes()


def test_nothing_is_overwritten(three_pieces: Path, target: Path) -> None:
    """Whatever stands at the target, or beside it and would be taken for part of it, is kept."""
    for name in (target.name, f"{target.name}-wal"):
        found = target.with_name(name)
        found.write_text("mine")
        with pytest.raises(StorageOpenError, match="already"):
            restore(str(three_pieces), str(target))
        assert found.read_text() == "mine"
        found.unlink()
    with pytest.raises(StorageWriteError, match="No such file"):
        restore(str(three_pieces), str(target.parent / "nowhere" / "new.durus"))


def test_nobody_else_may_read_it(three_pieces: Path, target: Path) -> None:
    """What is backed up or restored is readable by its user alone, whatever the umask."""
    restore(str(three_pieces), str(target))
    for found in (target, *three_pieces.iterdir()):
        assert found.stat().st_mode & 0o777 == 0o600


def test_one_backup_at_a_time(three_pieces: Path, path: Path) -> None:
    """While a backup is being written into a folder a second one is refused."""
    _set(path, 7)
    descriptor = os.open(three_pieces, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(StorageLockedError, match="another backup"):
        _back_up(path, three_pieces)
    os.close(descriptor)
    assert _back_up(path, three_pieces).is_written


# Crashes.


class _FullError(OSError):
    """What the system says in these tests."""


@pytest.mark.parametrize(
    ("call", "steps", "times"),
    [("fsync", 4, n) for n in range(5)] + [("replace", 2, n) for n in range(3)],
)
def test_an_error_at_every_step(
    three_pieces: Path,
    path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    steps: int,
    times: int,
) -> None:
    """Whichever step of a backup fails, all earlier states can be restored, and it can go on."""
    _set(path, 7)
    real = getattr(os, call)
    left = times

    def failing(*arguments: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise _FullError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(_backup_folder.os, call, failing)
    # After the last step nothing is left that could fail.
    with nullcontext() if times >= steps else pytest.raises(StorageWriteError, match="No space"):
        _back_up(path, three_pieces)
    monkeypatch.undo()
    restore(str(three_pieces), str(target), 7)
    assert _value(target) == 6
    target.unlink()
    _set(path, 8)
    assert _back_up(path, three_pieces).piece.kind == "increment"
    restore(str(three_pieces), str(target))
    assert target.read_bytes() == path.read_bytes()
    assert list(three_pieces.glob("*.new")) == []


@pytest.mark.parametrize("is_first", [True, False], ids=["the first", "an increment"])
def test_killed_in_the_middle(
    durus: Any, path: Path, folder: Path, target: Path, is_first: bool
) -> None:
    """A backup that is killed costs nothing but itself; the next one takes its place."""
    durus.plug_in("slow", "[durus.storages]\nslow = slow_storage:Slow\n", slow_storage=SLOW)
    _set(path, 1)
    if not is_first:
        _back_up(path, folder)
    start = 0 if is_first else path.stat().st_size
    (durus.folder / "pause-at").write_text(str(start))
    _set(path, 2)
    process = durus.start("backup", f"slow:{path}", folder)
    while not (durus.folder / "paused").exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(folder.glob("*.new")) != []
    if is_first:
        with pytest.raises(StorageError, match="there is no backup"):
            restore(str(folder), str(target))
    else:
        restore(str(folder), str(target))
        assert _value(target) == 1
        target.unlink()
    assert _back_up(path, folder).piece.kind == ("full" if is_first else "increment")
    assert list(folder.glob("*.new")) == []
    restore(str(folder), str(target))
    assert _value(target) == 2


def test_a_killed_restore(three_pieces: Path, target: Path) -> None:
    """What a restore that was killed has left is removed by the next one to the same path."""
    code = (
        "import os, signal, sys; from durus.tools.backup import restore; restore(*sys.argv[1:],"
        " progress=lambda done: os.kill(os.getpid(), signal.SIGKILL))"
    )
    killed = subprocess.run([sys.executable, "-c", code, three_pieces, target], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(list(target.parent.glob(f"{target.name}.restoring-*/*"))) == 1
    restore(str(three_pieces), str(target))
    assert _value(target) == 6
    assert not list(target.parent.glob(f"{target.name}.*"))


def test_a_full_disk(durus: Any, path: Path, three_pieces: Path, target: Path) -> None:
    """A backup that does not fit says so, and leaves nothing of itself."""
    with Connection(path) as connection:
        connection.get_root()["large"] = os.urandom(100_000)
        connection.commit()
    before = sorted(three_pieces.iterdir())
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 20; exec {durus.words[0]} backup {path} {three_pieces}"],
        env=durus.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert "the earlier pieces are as they were" in done.stderr
    assert sorted(three_pieces.iterdir()) == before
    restore(str(three_pieces), str(target))
    assert _value(target) == 6


# Beside others.


@pytest.mark.parametrize("scheme", ["file", "file2", "sqlite"])
def test_beside_a_writer_that_packs(
    tmp_path: Path, path: Path, folder: Path, target: Path, scheme: str
) -> None:
    """Each piece of a database in use is one state of it: no half of a commit, nothing lost."""
    url = f"{scheme}:{path}"
    with Connection(open_storage(url)) as connection:
        connection.get_root().update(left=PersistentDict(n=0), right=PersistentDict(n=0))
        connection.commit()
    last = 0
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, cwd=tmp_path
    ) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"going\n"
            for _ in range(12):
                _back_up(url, folder)
                restore(str(folder), str(target))
                with Connection(open_storage(target, readonly=True)) as connection:
                    root = connection.get_root()
                    assert root["left"]["n"] == -root["right"]["n"] >= last
                    last = root["left"]["n"]
                _remove(target)
            assert writer.poll() is None
        finally:
            writer.kill()
    assert last >= 20


def test_each_commit_beside_a_writer(tmp_path: Path, kept: str, folder: Path, target: Path) -> None:
    """Of a database that another process changes and packs, each commit is restored as it was."""
    with Connection(open_storage(kept)) as connection:
        connection.get_root().update(left=PersistentDict(n=0), right=PersistentDict(n=0))
        connection.commit()
    pieces = [_back_up(kept, folder).piece]
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, kept], stdout=subprocess.PIPE, cwd=tmp_path
    ) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"going\n"
            for _ in range(6):
                done = _back_up(kept, folder)
                assert (done.piece.method, done.reason) == ("commits", "")
                pieces.append(done.piece)
            assert writer.poll() is None
        finally:
            writer.kill()
    assert all(a.last_serial < b.first_serial for a, b in pairwise(pieces))  # type: ignore[operator]
    newest = pieces[-1].last_serial or 0
    assert newest > 20
    for serial in {newest - n * (newest // 10) for n in range(10)} | {newest - 1}:
        restore(str(folder), str(target), serial)
        with open_storage(f"{kept}?at={serial}") as past:
            assert _records(target) == dict(past.gen_oid_record())
        _remove(target)


def test_sqlite(tmp_path: Path, folder: Path, target: Path) -> None:
    """An SQLite database: everything, then the records that changed or are gone."""
    url = f"sqlite:{tmp_path / 'app.sqlite'}"
    with Connection(open_storage(url)) as connection:
        root = connection.get_root()
        root.update({str(n): PersistentDict(n=n, payload="x" * 1000) for n in range(50)})
        connection.commit()
        records = _records(url)
        full = _back_up(url, folder).piece
        assert (full.kind, full.end) == ("full", 51)
        assert not _back_up(url, folder).is_written
        root["0"]["n"] = -1
        del root["1"]
        connection.commit()
        connection.pack()
        increment = _back_up(url, folder).piece
        assert (increment.kind, increment.end) == ("increment", 50)
        assert increment.size_bytes < full.size_bytes / 5
    done = restore(str(folder), str(target))
    assert _records(target) == _records(url)
    assert (done.serial, done.time) == (None, increment.made)
    with open_storage(target, readonly=True) as storage:
        assert storage.describe().format == "SQLite"
    _remove(target)
    restore(str(folder), str(target), increment.made - timedelta(microseconds=1))
    assert _records(target) == records
    with pytest.raises(StorageError, match="no backup holds it"):
        restore(str(folder), str(target), 1)


def _states(url: str) -> dict[int, dict[bytes, bytes]]:
    """Give all records as of each commit that the history of an SQLite database tells."""
    states = {}
    with open_storage(url, readonly=True) as storage:
        for serial, _ in storage.gen_commits():
            with open_storage(f"{url}?at={serial}") as past:
                states[serial] = dict(past.gen_oid_record())
    return states


@pytest.fixture
def kept(tmp_path: Path) -> str:
    """The URL of an SQLite database that keeps its history, with a first commit."""
    path = tmp_path / "kept.sqlite"
    _set(f"sqlite:{path}?history=7d", 0)
    return f"sqlite:{path}"


def test_every_commit_of_a_history(kept: str, folder: Path, target: Path) -> None:
    """Each commit since the last piece, packs too, is restored as it was, by serial or by time."""
    full = _back_up(kept, folder).piece
    assert (full.method, full.first_serial) == ("records", full.last_serial)
    with Connection(open_storage(kept)) as connection:
        root = connection.get_root()
        for n in range(3):
            root["child"] = PersistentDict(n=n)
            connection.commit()
        # One that was made and removed between two pieces, one that was there before.
        connection.pack()
        middle = _back_up(kept, folder)
        assert (middle.piece.method, middle.reason) == ("commits", "")
        for n in range(3):
            root["n"] = n
            connection.commit()
        root["child"] = None
        connection.commit()
        connection.pack()
    last = _back_up(kept, folder).piece
    assert (last.method, last.start, last.end) == ("commits", 0, 1)
    assert last.first_serial == (middle.piece.last_serial or 0) + 1
    assert not _back_up(kept, folder).is_written
    times = _commits(Path(kept.removeprefix("sqlite:")))
    states = _states(kept)
    assert last.last_serial == max(states)
    assert len({tuple(sorted(state.items())) for state in states.values()}) > 6
    for serial, state in states.items():
        if serial < (full.first_serial or 0):
            continue
        done = restore(str(folder), str(target), serial)
        assert (done.serial, done.time) == (serial, times[serial])
        assert _records(target) == state
        _remove(target)
        if serial % 3:
            continue
        # A pack has several commits of one time.
        done = restore(str(folder), str(target), times[serial])
        assert done.serial == max(each for each in times if times[each] <= times[serial])
        assert _records(target) == states[done.serial]
        _remove(target)
    with pytest.raises(StorageError, match="before the first state"):
        restore(str(folder), str(target), times[full.first_serial or 0] - timedelta(microseconds=1))


def test_what_was_removed_and_stored_again(kept: str, folder: Path, target: Path) -> None:
    """Where a pack removed what somebody stored again, the increment is the difference."""
    one = (1).to_bytes(8)
    with open_storage(kept) as storage:
        commit(storage, make_record(ROOT_OID, [one]), make_record(one))
        _back_up(kept, folder)
        commit(storage, make_record(ROOT_OID))
        storage.pack()
        storage.sync()
        commit(storage, make_record(ROOT_OID, [one]), make_record(one, payload=b"again"))
        done = _back_up(kept, folder)
        assert done.piece.method == "records"
        assert done.reason == "not each commit: object 1 was removed and stored again"
        commit(storage, make_record(one, payload=b"and again"))
        assert _back_up(kept, folder).piece.method == "commits"
    restore(str(folder), str(target))
    assert _records(target) == _records(kept)


@pytest.mark.parametrize("is_served", [False, True], ids=["opened", "served"])
def test_commits_around_the_sync(
    tmp_path: Path, folder: Path, target: Path, kept: str, is_served: bool
) -> None:
    """The state is known by its own commit, whatever is committed just before and after it is."""
    with ExitStack() as stack:
        storage = open_storage(kept)
        if is_served:
            storage_server = pytest.importorskip("durus.storage_server")
            server = storage_server.StorageServer(storage, address=str(tmp_path / "s"))
            server.start()
            stack.callback(server.stop)
            storage = open_storage(f"durus+unix:{tmp_path / 's'}")
            writer = open_storage(f"durus+unix:{tmp_path / 's'}")
            stack.enter_context(writer)
        else:
            writer = storage.new_session()
            stack.enter_context(writer)
        stack.enter_context(storage)
        real_sync = storage.sync

        def sync_amidst() -> list[bytes] | None:
            for payload in (b"one", b"two"):
                commit(writer, make_record(ROOT_OID, payload=payload))
            found = real_sync()
            for payload in (b"three", b"four"):
                commit(writer, make_record(ROOT_OID, payload=payload))
            return found

        storage.sync = sync_amidst  # type: ignore[method-assign]
        pieces = [back_up(storage, str(folder), kept).piece for _ in range(2)]
    assert [piece.method for piece in pieces] == ["records", "commits"]
    states = _states(kept)
    for piece in pieces:
        serial = piece.last_serial or 0
        assert states[serial][ROOT_OID] == make_record(ROOT_OID, payload=b"two")
        restore(str(folder), str(target), serial)
        assert _records(target) == states[serial]
        _remove(target)
    restore(str(folder), str(target), (pieces[1].first_serial or 0) + 1)
    assert _records(target)[ROOT_OID] == make_record(ROOT_OID, payload=b"four")


def test_a_history_that_does_not_reach_back(kept: str, folder: Path, target: Path) -> None:
    """Then the increment is the difference, says so, and the commits between are refused."""
    serial = _back_up(kept, folder).piece.last_serial or 0
    with open_storage(f"{kept}?history=0"):
        pass
    _set(kept, 1)
    without = _back_up(kept, folder)
    assert (without.piece.method, without.piece.last_serial, without.reason) == (
        "records",
        None,
        "",
    )
    with open_storage(f"{kept}?history=1d"):
        pass
    _set(kept, 2, 3)
    done = _back_up(kept, folder)
    assert (done.piece.kind, done.piece.method) == ("increment", "records")
    assert done.reason == "not each commit: of which commit 000002-increment is, is not known"
    _set(kept, 4)
    assert _back_up(kept, folder).piece.method == "commits"
    for at, value in ((serial, 0), (serial + 3, 3), (serial + 4, 4), (None, 4)):
        restore(str(folder), str(target), at)
        assert _value(target) == value
        _remove(target)
    with pytest.raises(StorageError, match=f"commit {serial + 2} .* no backup holds it"):
        restore(str(folder), str(target), serial + 2)


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        # As of no commit at all: the triggers that make one of it are gone.
        (
            "UPDATE objects SET data = CAST(data || x'00' AS BLOB) WHERE id = 2",
            "do not lead to what is stored",
        ),
        ("DELETE FROM objects WHERE id = 1", "the history could not be read"),
        ("DELETE FROM durus_commits WHERE serial = 4", "do not lead to what is stored"),
        ("UPDATE durus_commits SET time_us = time_us + 1 WHERE serial = 3", "not reach back"),
    ],
)
def test_a_history_that_is_not_true(
    tmp_path: Path, folder: Path, target: Path, sql: str, told: str
) -> None:
    """Where the commits do not lead to the present, that is backed up all the same, and told."""
    path = tmp_path / "kept.sqlite"
    url = f"sqlite:{path}"
    with Connection(open_storage(f"{url}?history=7d")) as connection:
        connection.get_root().update(child=PersistentDict(), other=PersistentDict())
        connection.commit()
        assert _back_up(url, folder).piece.last_serial == 3
        connection.get_root()["child"]["n"] = 1
        connection.commit()
        connection.get_root()["n"] = 2
        connection.commit()
    with closing(sqlite3.connect(path)) as db:
        for (name,) in db.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.execute(sql)
        db.commit()
        rows = dict(db.execute("SELECT id, data FROM objects").fetchall())
    with open_storage(url, readonly=True) as storage:
        done = back_up(storage, str(folder), url)
    assert (done.piece.kind, done.piece.method) == ("increment", "records")
    assert told in done.reason
    restore(str(folder), str(target))
    with closing(sqlite3.connect(target)) as db:
        assert dict(db.execute("SELECT id, data FROM objects").fetchall()) == rows


@pytest.mark.parametrize("name", ["000001-full.data", "000002-increment.data"])
def test_a_bad_piece_of_records(tmp_path: Path, folder: Path, target: Path, name: str) -> None:
    """A damaged piece of records is named, restores nothing, and is followed by a full one."""
    url = f"sqlite:{tmp_path / 'app.sqlite'}"
    for value in (1, 2):
        _set(url, value)
        _back_up(url, folder)
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(CorruptionError, match=name):
        restore(str(folder), str(target))
    assert not target.exists()
    done = _back_up(url, folder)
    assert done.piece.kind == "full"
    assert name in done.reason
    restore(str(folder), str(target))
    assert _value(target) == 2


def test_a_server(
    durus: Any, serve: Callable[..., Any], path: Path, folder: Path, target: Path
) -> None:
    """What a server tells, at one state of it: everything, then each commit, garbage too."""
    server = serve(path).ready()
    url = "durus+unix:a.sock"
    server.shell("root['a'] = type(root)(); root['b'] = type(root)(); commit()")
    first = json.loads(durus("backup", url, folder, "--json").stdout)
    assert (first["piece"]["kind"], first["piece"]["end"]) == ("full", 3)
    # The second is garbage as of the last, and the third as of none but the middle.
    server.shell(
        "root['a']['n'] = 1; commit(); del root['b']; root['c'] = type(root)(); commit();"
        " root['c'] = 3; commit()"
    )
    second = json.loads(durus("backup", url, folder, "--json").stdout)
    assert (second["piece"]["kind"], second["piece"]["method"]) == ("increment", "commits")
    assert (second["reason"], second["piece"]["first_serial"]) == ("", 3)
    assert second["piece"]["size_bytes"] < first["piece"]["size_bytes"] * 3
    assert "nothing has changed" in durus("backup", url, folder).stdout
    with pytest.raises(StorageOpenError, match="choose another folder"):
        _back_up(path, folder)
    server.stop()
    for serial, time in _commits(path).items():
        if serial < 2:
            continue
        for at in (serial, time):
            assert restore(str(folder), str(target), at).serial == serial
            with open_storage(f"file:{path}?at={serial}") as past:
                found = dict(past.gen_oid_record(ROOT_OID))
            with open_storage(target, readonly=True) as storage:
                assert dict(storage.gen_oid_record(ROOT_OID)) == found
            target.unlink()
    # A pack of the file forgets what was before, and what it removed.
    with open_storage(path) as storage:
        storage.pack()
    server = serve(path).ready()
    server.shell("root['n'] = 4; commit()")
    third = json.loads(durus("backup", url, folder, "--json").stdout)
    assert (third["piece"]["method"], third["piece"]["end"]) == ("commits", 2)
    server.stop()
    restore(str(folder), str(target))
    assert _records(target) == _records(path)


# The command.


def test_what_is_told(durus: Any, database: Path, folder: Path, target: Path) -> None:
    """A line for a person, JSON for a program."""
    line = durus("backup", "app.durus", "backups").stdout
    assert line.startswith("backed up app.durus into backups: 000001-full, ")
    assert line.endswith(", up to commit 3 (it is the first in this folder)\n")
    assert durus("backup", "app.durus", "backups").stdout == (
        "nothing has changed in app.durus since 000001-full\n"
    )
    told = json.loads(durus("backup", "app.durus", "backups", "--full", "--json").stdout)
    assert list(told) == ["durus_backup", "database", "folder", "written", "reason", "piece"]
    assert (told["written"], told["reason"]) == (True, "it was asked for")
    restored = json.loads(durus("restore", "backups", "restored.durus", "--json").stdout)
    assert list(restored) == [
        "durus_restore",
        "folder",
        "target",
        "serial",
        "time",
        "size_bytes",
        "pieces",
    ]
    assert (restored["serial"], restored["pieces"]) == (3, ["000002-full"])
    assert target.read_bytes() == database.read_bytes()


@pytest.mark.parametrize("scheme", ["file", "sqlite"])
def test_how_far_a_restore_is(
    tmp_path: Path,
    folder: Path,
    target: Path,
    scheme: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bar knows how many bytes there are to be read, and comes to them, not beyond."""
    monkeypatch.setattr(_record_pieces, "_TELL_EVERY", 1)
    url = f"{scheme}:{tmp_path / 'app'}"
    for values in ((1,), (2, 3)):
        _set(url, *values)
        _back_up(url, folder)
    totals, told = [], []

    def progress(title: str, total: int, noun: str) -> Any:
        assert (title, noun) == (f"restoring {target}", "byte")
        totals.append(total)
        return nullcontext(told.append)

    monkeypatch.setattr("durus.cli._restore.progress", progress)
    restore_command.main([str(folder), str(target)], standalone_mode=False)
    assert told == sorted(told)
    assert [told[-1]] == totals == [sum(path.stat().st_size for path in folder.glob("*.data"))]


def test_the_list(durus: Any, three_pieces: Path) -> None:
    """--list tells of every piece, and ends with 1 if one is not good."""
    lines = durus("restore", three_pieces, "--list").stdout.splitlines()
    assert lines[0].split() == ["Piece", "Made", "Commits", "Last", "commit", "Size"]
    assert [line.split()[0] for line in lines[1:]] == [
        "000001-full",
        "000002-increment",
        "000003-increment",
    ]
    told = json.loads(durus("restore", three_pieces, "--list", "--json").stdout)
    assert list(told) == ["durus_restore", "folder", "pieces", "problems"]
    assert [piece["last_serial"] for piece in told["pieces"]] == [3, 5, 7]
    assert told["problems"] == []
    data = three_pieces / "000002-increment.data"
    data.write_bytes(bytes(data.stat().st_size))
    durus("restore", three_pieces, "--list")
    found = durus("restore", three_pieces, "--list", "--verify", "--json", status=1)
    text = "piece 000002-increment.data is damaged: its SHA-256 is not that of its manifest"
    assert json.loads(found.stdout)["problems"] == [text]
    data.unlink()
    done = durus("restore", three_pieces, "--list", status=1)
    assert "wrong: piece 000002-increment.data is missing\n" in done.stdout
    done = durus("restore", three_pieces, "--list", "--verify", status=1)
    assert "wrong: piece 000002-increment.data is missing\n" in done.stdout
    manifest = three_pieces / "000002-increment.json"
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(StorageOpenError, match=r"read the backups in .*\.json'"):
        read_catalog(str(three_pieces))
    manifest.rmdir()
    # As where the disk with the backups is not mounted.
    for found in three_pieces.iterdir():
        found.unlink()
    for verify in [], ["--verify"]:
        done = durus("restore", three_pieces, "--list", *verify, status=1)
        assert done.stdout == f"wrong: there is no backup in {str(three_pieces)!r}\n"
    told = json.loads(durus("restore", three_pieces, "--list", "--json", status=1).stdout)
    assert told["problems"] == [f"there is no backup in {str(three_pieces)!r}"]


def test_local_time(durus: Any, three_pieces: Path, path: Path, target: Path) -> None:
    """A time without a zone is that of the machine; with one it is that of the zone."""
    time = _commits(path)[5]
    durus.environment["TZ"] = "UTC-3"
    local = (time + timedelta(hours=3)).replace(tzinfo=None).isoformat()
    for text in (local, time.isoformat()):
        assert "commit 5 of" in durus("restore", three_pieces, target, "--at", text).stdout
        target.unlink()


def test_wrong_usage(durus: Any, three_pieces: Path, path: Path) -> None:
    """What is no time, or asks for two things at once, is refused as usage."""
    for arguments in (
        ("restore", three_pieces),
        ("restore", three_pieces, "new.durus", "--list"),
        ("restore", three_pieces, "new.durus", "--verify"),
        ("restore", three_pieces, "new.durus", "--at", "yesterday"),
        ("restore", three_pieces, "sqlite:new.durus"),
        ("backup", path),
    ):
        durus.error(*arguments, status=2)
    assert list(durus.folder.glob("*new.durus*")) == []
    assert "there is no folder" in durus.error("restore", "nowhere", "new.durus")
    with pytest.raises(StorageMissingError):
        read_catalog("nowhere")
