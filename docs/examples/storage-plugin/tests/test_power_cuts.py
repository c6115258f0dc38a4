"""What `end` has acknowledged is there after a power cut, whole, and nothing half done."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from durus.error import (
    CorruptionError,
    StorageError,
    StorageFormatError,
    StorageLockedError,
    StorageMissingError,
    StorageOpenError,
    StorageWriteError,
)
from durus.serialize import ROOT_OID
from durus.testing import commit, make_record
from durus.testing.crash import DiskRecorder, FaultyDisk
from durus.utils import int8_to_str
from durus_folder import FolderStorage

COMMITS = 6
GARBAGE = int8_to_str(99)


def _records(number: int) -> list[bytes]:
    """Make what the transaction with a number stores: a root that refers to two others."""
    others = [int8_to_str(number % 3 + 1), int8_to_str(number % 3 + 2)]
    payload = b"%d" % number
    return [make_record(ROOT_OID, others, payload), *(make_record(o, (), payload) for o in others)]


def _live(folder: Path) -> FolderStorage:
    """Make a database with one transaction, before anything goes wrong."""
    storage = FolderStorage(str(folder))
    commit(storage, *_records(0), make_record(GARBAGE))
    return storage


def _commit_one(storage: FolderStorage) -> None:
    commit(storage, *_records(1))


def _newest(folder: Path) -> int:
    """Open what a power cut has left; give the last transaction, of which all must be there."""
    with FolderStorage(str(folder)) as storage:
        found = dict(storage.gen_oid_record())
    for number in reversed(range(COMMITS + 1)):
        records = _records(number)
        if found[ROOT_OID] == records[0]:
            assert all(found[record[:8]] == record for record in records)
            return number
    pytest.fail("the root is of no transaction")


def test_power_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the power fails, all that was acknowledged is there, and no part of a commit."""
    _live(tmp_path / "live").close()
    recorder = DiskRecorder(tmp_path / "live")
    with monkeypatch.context() as patch:
        patch.setattr("durus_folder.storage.os", recorder)
        with FolderStorage(str(tmp_path / "live")) as storage:
            for number in range(1, COMMITS + 1):
                commit(storage, *_records(number))
                recorder.acknowledge(number)
                if number % 3 == 0:
                    storage.pack()
    states = 0
    for state in recorder.states():
        state.write_to(tmp_path / "cut")
        assert _newest(tmp_path / "cut") >= state.acknowledged, state.note
        states += 1
    assert states > 20


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_directory"])
def test_a_disk_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A commit or pack that fails is told, nothing of it stays, and the next opening works on."""
    disk = FaultyDisk()
    monkeypatch.setattr("durus_folder.storage.os", disk)
    for what in (_commit_one, FolderStorage.pack):
        with _live(tmp_path / f"live-{what.__name__}") as storage:
            disk.fail(kind)
            with pytest.raises(StorageWriteError, match="Input/output error"):
                what(storage)
            assert storage.load(ROOT_OID) == _records(0)[0]
            assert storage.load(GARBAGE) == make_record(GARBAGE)
        assert _newest(tmp_path / f"live-{what.__name__}") == 0
        with FolderStorage(str(tmp_path / f"live-{what.__name__}")) as storage:
            commit(storage, *_records(2))
        assert _newest(tmp_path / f"live-{what.__name__}") == 2


def test_a_name_that_may_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the folder could not be synced, nothing is written until it is opened again."""
    disk = FaultyDisk()
    monkeypatch.setattr("durus_folder.storage.os", disk)
    with _live(tmp_path / "live") as storage:
        disk.fail("sync_directory")
        with pytest.raises(StorageWriteError):
            commit(storage, *_records(1))
        for write in (storage.begin, storage.pack):
            with pytest.raises(StorageWriteError, match="open the storage again"):
                write()


def test_an_opening_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An opening that the system refuses is told, and leaves no lock behind."""
    _live(tmp_path / "live").close()
    disk = FaultyDisk()
    monkeypatch.setattr("durus_folder.storage.os", disk)
    disk.fail("sync_directory")
    with pytest.raises(StorageOpenError, match="Input/output error"):
        FolderStorage(str(tmp_path / "live"))
    assert _newest(tmp_path / "live") == 0


def test_damage_is_found(tmp_path: Path) -> None:
    """A changed byte, a file cut short and one that is missing are found when it is opened."""
    with _live(tmp_path / "live") as storage:
        commit(storage, *_records(1))
        commit(storage, *_records(2))
    second = tmp_path / "live" / f"{2:016d}.commit"
    good = second.read_bytes()
    changed = [good[:n] + bytes([good[n] ^ 1]) + good[n + 1 :] for n in (0, 19, 20, 24, 35, -1)]
    for bad in (b"", good[:10], good[:-1], good + b"\0", *changed):
        second.write_bytes(bad)
        with pytest.raises(CorruptionError, match="is damaged"):
            FolderStorage(str(tmp_path / "live"))
    second.unlink()
    with pytest.raises(CorruptionError, match="has no file 2 and has 3"):
        FolderStorage(str(tmp_path / "live"))
    second.write_bytes(good)
    assert _newest(tmp_path / "live") == 2


def test_damage_while_it_is_open_is_found(tmp_path: Path) -> None:
    """A record proves itself each time that it is loaded."""
    with _live(tmp_path / "live") as storage:
        first = tmp_path / "live" / f"{1:016d}.commit"
        good = first.read_bytes()
        first.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(CorruptionError, match=r"oid 99 .* is damaged"):
            storage.load(GARBAGE)
        assert storage.load(ROOT_OID) == _records(0)[0]
        first.unlink()
        with pytest.raises(StorageError, match="cannot read"):
            storage.load(ROOT_OID)


def test_a_copy_is_a_backup(tmp_path: Path) -> None:
    """Files that are copied while the database is open are a database."""
    with _live(tmp_path / "live") as storage:
        commit(storage, *_records(1))
        shutil.copytree(tmp_path / "live", tmp_path / "copy")
        commit(storage, *_records(2))
    assert _newest(tmp_path / "copy") == 1


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    """A second writer is refused, and so is a folder of something else, which stays as it is."""
    with _live(tmp_path / "live"), pytest.raises(StorageLockedError, match=r"has .* open"):
        FolderStorage(str(tmp_path / "live"))
    with FolderStorage(str(tmp_path / "live"), readonly=True) as reader:
        with FolderStorage(str(tmp_path / "live"), readonly=True) as another:
            assert another.load(ROOT_OID) == reader.load(ROOT_OID)
        with pytest.raises(StorageLockedError, match=r"has .* open"):
            FolderStorage(str(tmp_path / "live"))
    with pytest.raises(StorageMissingError, match="there is no"):
        FolderStorage(str(tmp_path / "nothing"), readonly=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("Dear Kim")
    with pytest.raises(StorageFormatError, match=r"holds other files \('letter.txt'\)"):
        FolderStorage(str(tmp_path / "other"))
    assert os.listdir(tmp_path / "other") == ["letter.txt"]
