"""`durus copy`: between storages, interrupted and gone on with, compressed or not, compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durus.backends import open_storage
from durus.btree import BTree
from durus.connection import Connection
from durus.error import (
    CorruptRecordError,
    ReadConflictError,
    StorageError,
    StorageLockedError,
    StorageOpenError,
    StorageWriteError,
)
from durus.file_storage import FileStorage
from durus.persistent_dict import PersistentDict
from durus.serialize import ROOT_OID, check_proof, pack_record, unpack_record
from durus.storage import MemoryStorage
from durus.testing import commit, make_record
from durus.tools.copy import Copied, copy_records, copy_to_file, recompressed

SCHEMES = ["file", "file2", "sqlite"]

# Tells when a copy has come to its third commit, and goes no further.
SLOW = """
import signal
from pathlib import Path
from durus.file_storage import FileStorage

class Slow(FileStorage):
    ends = 0
    @classmethod
    def has_format(cls, path):
        return False
    def end(self, handle_invalidations=None):
        self.ends += 1
        if self.ends == 3 and not Path("paused").exists():
            Path("paused").touch()
            signal.pause()
        super().end(handle_invalidations)
"""


def _records(url: str | Path) -> dict[bytes, bytes]:
    with open_storage(url, readonly=True) as storage:
        return dict(storage.gen_oid_record())


def _copy(source: str | Path, target: str | Path, **options: Any) -> Copied:
    with open_storage(source, readonly=True) as storage:
        return copy_to_file(storage, str(source), str(target), **options)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A database whose records do not fit into one commit of a copy, some of them compressed."""
    path = tmp_path / "large.durus"
    with Connection(path) as connection:
        root = connection.get_root()
        root["tree"] = BTree()
        for n in range(40):
            root["tree"][n] = PersistentDict(random=os.urandom(900_000 if n < 30 else 100))
            root["tree"][n]["text"] = "text " * 200
        connection.commit()
    return path


@pytest.mark.parametrize("target", SCHEMES)
@pytest.mark.parametrize("source", SCHEMES)
def test_every_pair(durus: Any, source: str, target: str) -> None:
    """Between any two storages every record arrives as it is, under its oid, garbage included."""
    script = "root['a'] = type(root)(); root['b'] = type(root)(); commit(); del root['a']; commit()"
    durus("shell", f"{source}:from", "--create", input=script)
    expected = _records(f"{source}:{durus.folder}/from")
    assert len(expected) == 3
    done = durus("copy", "from", f"{target}:to", "--verify")
    size = sum(map(len, expected.values()))
    assert done.stdout == f"copied from to {target}:to: 3 objects, {size} B of records; compared\n"
    assert _records(f"{target}:{durus.folder}/to") == expected
    assert {path.name for path in durus.folder.glob("to*")} <= {"to", "to-wal", "to-shm"}
    assert "'b'" in durus("shell", "to", input="print(dict(root))").stdout


def test_as_json(durus: Any, database: Path) -> None:
    """The keys are those on the page; a bare path is made a FileStorage."""
    told = json.loads(durus("copy", "app.durus", "to.durus", "--json").stdout)
    assert list(told) == [
        "durus_copy",
        "from",
        "to",
        "objects",
        "record_bytes",
        "kept",
        "verified",
        "renumbered",
    ]
    assert (told["durus_copy"], told["objects"], told["kept"]) == (1, 5, 0)
    assert _records(durus.folder / "to.durus") == _records(database)


def test_an_empty_database(tmp_path: Path) -> None:
    """A database without a root is copied as one without a root."""
    FileStorage(tmp_path / "empty.durus").close()
    assert _copy(tmp_path / "empty.durus", tmp_path / "to.durus").objects == 0
    assert _records(tmp_path / "to.durus") == {}


def test_from_a_server(durus: Any, serve: Callable[..., Any], database: Path) -> None:
    """Of a server that is in use what the root reaches is copied."""
    server = serve(database).ready()
    server.shell("root['new'] = 1; commit()")
    durus("copy", "durus+unix:a.sock", "sqlite:to.sqlite", "--verify")
    server.stop()
    durus("pack", database)
    assert _records(durus.folder / "to.sqlite") == _records(database)


def test_a_server_is_no_target(durus: Any, database: Path) -> None:
    """A server gives oids itself, so nothing is copied into one."""
    assert "no file" in durus.error("copy", database, "durus://localhost:1")


def test_killed_and_gone_on_with(durus: Any, large: Path) -> None:
    """Killed in the middle there is no target; called again the copy goes on, and is whole."""
    durus.plug_in("slow", "[durus.storages]\nslow = slow_storage:Slow\n", slow_storage=SLOW)
    process = durus.start("copy", large, "slow:to.durus")
    while not (durus.folder / "paused").exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.wait()
    target = durus.folder / "to.durus"
    assert not target.exists()
    half = _records(durus.folder / "to.durus.copying")
    assert half
    assert ROOT_OID not in half
    other = durus.folder / "other.durus"
    Connection(other).close()
    assert "unfinished copy, of" in durus.error("copy", other, "slow:to.durus")
    done = json.loads(durus("copy", large, "slow:to.durus", "--verify", "--json").stdout)
    assert done["kept"] == len(half)
    assert _records(target) == _records(large)
    assert sorted(path.name for path in durus.folder.glob("to.durus*")) == ["to.durus"]


def test_what_changed_since_the_interruption(large: Path, tmp_path: Path) -> None:
    """What was committed after a copy was interrupted is in it in the end."""
    target = tmp_path / "to.durus"
    half = tmp_path / "to.durus.copying"
    with open_storage(large, readonly=True) as source, FileStorage(half) as storage:
        records = [record for oid, record in source.gen_oid_record() if oid != ROOT_OID]
        commit(storage, *records[:20])
    Path(f"{half}.json").write_text(json.dumps({"from": str(large), "form": "file"}))
    with Connection(large) as connection:
        for child in connection.get_root()["tree"].values():
            child["later"] = True
        connection.commit()
    _copy(large, target, verify=True)
    assert _records(target) == _records(large)


@pytest.mark.parametrize("note", ["", "[]", "{}"])
def test_an_unknown_half_is_refused(database: Path, tmp_path: Path, note: str) -> None:
    """A half copy of nobody knows what is not taken for ours."""
    half = tmp_path / "to.durus.copying"
    shutil.copy(database, half)
    Path(f"{half}.json").write_text(note)
    with pytest.raises(StorageOpenError, match="it is not known what of"):
        _copy(database, tmp_path / "to.durus")
    assert half.read_bytes() == database.read_bytes()


def test_a_half_in_another_format_is_refused(database: Path, tmp_path: Path) -> None:
    """A copy to a path goes on with a FileStorage only: it is never SQLite by accident."""
    half = tmp_path / "to.durus.copying"
    with open_storage(f"sqlite:{half}"):
        pass
    Path(f"{half}.json").write_text(json.dumps({"from": str(database), "form": "sqlite"}))
    with pytest.raises(StorageOpenError, match="an unfinished copy to a 'sqlite' storage"):
        _copy(database, tmp_path / "to.durus")
    assert not (tmp_path / "to.durus").exists()
    with open_storage(database, readonly=True) as source:
        copy_to_file(source, str(database), f"sqlite:{tmp_path}/to.durus")
    assert _records(tmp_path / "to.durus") == _records(database)


def test_cut_off_right_after_the_name(database: Path, tmp_path: Path) -> None:
    """A copy that has its name already, and was moved, does not change with the next one."""
    half, moved = tmp_path / "to.durus.copying", tmp_path / "moved.durus"
    shutil.copy(database, moved)
    os.link(moved, half)
    Path(f"{half}.json").write_text(json.dumps({"from": str(database), "form": "file"}))
    before = moved.read_bytes()
    with Connection(database) as connection:
        connection.get_root()["later"] = 1
        connection.commit()
    assert _copy(database, tmp_path / "to.durus").kept == 0
    assert moved.read_bytes() == before
    assert moved.stat().st_nlink == 1
    assert _records(tmp_path / "to.durus") == _records(database)


def test_of_a_read_only_file(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of a read-only file can be written until it is whole, by the next attempt too."""
    database.chmod(0o444)
    modes = []

    def compare(*_arguments: object) -> None:
        modes.append((tmp_path / "to.durus.copying").stat().st_mode & 0o777)

    monkeypatch.setattr("durus.tools.copy._compare", compare)
    with open_storage(database, readonly=True) as source:
        copy_to_file(source, str(database), str(tmp_path / "to.durus"), verify=True)
    assert modes == [0o644]
    assert (tmp_path / "to.durus").stat().st_mode & 0o777 == 0o444


def test_nothing_is_overwritten(database: Path, tmp_path: Path) -> None:
    """What stands at the target is kept, the source itself included."""
    before = database.read_bytes()
    with pytest.raises(StorageOpenError, match="already"):
        _copy(database, database)
    assert database.read_bytes() == before
    assert list(tmp_path.glob("*.copying*")) == []


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_who_may_use_the_copy(database: Path, tmp_path: Path, mode: int) -> None:
    """The copy of a file has its permissions."""
    database.chmod(mode)
    _copy(database, tmp_path / "to.durus")
    assert (tmp_path / "to.durus").stat().st_mode & 0o777 == mode


def test_one_copy_at_a_time(database: Path, tmp_path: Path) -> None:
    """A second copy into the same target is refused while the first one runs."""

    def during(record: bytes) -> bytes:
        with pytest.raises(StorageLockedError, match="another copy"):
            _copy(database, tmp_path / "to.durus")
        return record

    _copy(database, tmp_path / "to.durus", change=during)
    assert _records(tmp_path / "to.durus") == _records(database)


def test_the_root_goes_last(database: Path) -> None:
    """In a storage that is given names no half can be taken for the whole: it has no root."""
    stored: list[bytes] = []

    class Noting(MemoryStorage):
        def store(self, oid: bytes, record: bytes) -> None:
            stored.append(oid)
            super().store(oid, record)

    with open_storage(database, readonly=True) as source:
        copy_records(source, Noting())
    assert len(stored) == 5
    assert stored.index(ROOT_OID) == 4


@pytest.mark.parametrize("renumber", [False, True])
def test_a_target_that_lies_is_found_out(database: Path, tmp_path: Path, renumber: bool) -> None:
    """--verify compares what the target gives back, and a copy that differs gets no name."""
    answers = iter(range(1000))

    def unstable(record: bytes) -> bytes:
        oid, data, refs = unpack_record(record)
        return pack_record(oid, data + b"%d" % next(answers), refs)

    with pytest.raises(StorageWriteError, match="something else"):
        _copy(database, tmp_path / "to.durus", change=unstable, renumber=renumber, verify=True)
    assert not (tmp_path / "to.durus").exists()


def test_compression(durus: Any, large: Path) -> None:
    """States are stored as asked, prove themselves, and are the same objects."""
    expected = _records(large)
    told = {}
    for compress in ("none", "zlib"):
        target = f"{compress}.durus"
        command = ("copy", large, target, "--compress", compress, "--verify", "--json")
        told[compress] = json.loads(durus(*command).stdout)
        records = _records(durus.folder / target)
        assert records.keys() == expected.keys()
        assert all(check_proof(record) for record in records.values())
        with Connection(large) as one, Connection(durus.folder / target) as other:
            pairs = zip(
                one.get_root()["tree"].items(), other.get_root()["tree"].items(), strict=True
            )
            for (key, value), (other_key, other_value) in pairs:
                assert (key, dict(value)) == (other_key, dict(other_value))
    assert told["none"]["record_bytes"] > told["zlib"]["record_bytes"]


def test_compression_of_what_4_3_wrote() -> None:
    """A record without a proof gets none; one in which more follows the state stays as it is."""
    oid = bytes(8)
    state = b"\x80\x02X\xc8\x00\x00\x00" + b"x" * 200 + b"q\x01."
    start = b"\x80\x02cmodule\nName\nq\x00."
    plain = pack_record(oid, start + state, b"")
    packed = pack_record(oid, start + zlib.compress(state), b"")
    assert recompressed(plain, compress=True) == packed
    assert recompressed(packed, compress=False) == plain
    assert recompressed(plain, compress=False) == plain
    for record in (plain, packed):
        longer = pack_record(oid, unpack_record(record)[1] + b"more", b"")
        assert recompressed(longer, compress=True) == longer
        assert recompressed(longer, compress=False) == longer
    for data in (b"", b"none", start[:-1], start + zlib.compress(state)[:-9] + b"123456789"):
        with pytest.raises(CorruptRecordError, match="oid 0"):
            recompressed(pack_record(oid, data, b""), compress=False)


def test_a_damaged_record_is_not_made_to_prove_itself() -> None:
    """A record whose proof is wrong is refused where it would get a new one."""
    record = bytearray(make_record(bytes(8), payload=b"x" * 50))
    record[60] ^= 1
    for compress in (True, False):
        with pytest.raises(CorruptRecordError):
            partial(recompressed, compress=compress)(bytes(record))


def test_a_source_that_gives_up_its_state(database: Path, tmp_path: Path) -> None:
    """A copy that would mix two states is an error, and goes on later."""

    class Busy(MemoryStorage):
        is_busy = True

        def gen_oid_record(self, start_oid: bytes | None = None, batch_size: int = 100) -> Any:
            for count, pair in enumerate(super().gen_oid_record(start_oid, batch_size)):
                if count == 3 and self.is_busy:
                    raise ReadConflictError([pair[0]])
                yield pair

    source = Busy()
    with open_storage(database, readonly=True) as storage:
        copy_records(storage, source)
    target = tmp_path / "to.durus"
    with pytest.raises(StorageError, match="after 3 records gave up the state"):
        copy_to_file(source, "busy:", str(target))
    assert not target.exists()
    source.is_busy = False
    copy_to_file(source, "busy:", str(target))
    assert _records(target) == _records(database)
