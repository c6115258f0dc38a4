"""The power fails at any point of a run: what was acknowledged is there, and nothing half done.

Each test records what a run does to the disk, rebuilds every content that a cut may leave, opens it
with default options and finds exactly what some k transactions left, k not below the last one
acknowledged. Then it commits, packs and reopens what it found.

Cases:
    commits to a fresh file, of several sizes; reopened and committed to again
    commits by a storage that was opened with durable=False: nothing acknowledged, nothing half done
    pack, in steps with commits between them, some of which refer to garbage; a second pack; a pack
        in few steps, on a file system without hard links, and with oids too scattered for a map
    index built anew: missing, stale, damaged
    recovery of a torn tail is itself cut
    repair
    online copy, beside commits
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.error import CorruptionError
from durus.storage import Storage
from durus.testing.crash import DiskRecorder, DiskState, FaultyDisk
from durus.utils import int8_to_str

from .conftest import Kind
from .helpers import NAME, History, StateChecker, copy_files, make_record, quiet

PutOs = Callable[[Any], None]


def commit_some(storage: Storage, history: History, recorder: DiskRecorder | None = None) -> None:
    """Commit five transactions: small, many records, many KB, an update, garbage left behind."""
    many = tuple(range(1, 9))
    steps: list[tuple[tuple[int, ...], list[bytes]]] = [
        ((), []),
        (many, [make_record(oid, f"item {oid}") for oid in many]),
        ((*many, 20), [make_record(20, os.urandom(5000).hex())]),
        ((*many, 20), [make_record(1, "changed", (2, 3)), make_record(2, "")]),
        ((1, 20), [make_record(3, "nearly last")]),
    ]
    for refs, records in steps:
        number = history.commit(storage, refs, *records)
        if recorder is not None:
            recorder.acknowledge(number)


def prepare(kind: Kind, live: Path) -> History:
    """Make a file with a few transactions before the recording begins."""
    history = History()
    with kind.open(live / NAME) as storage:
        commit_some(storage, history)
    return history


def test_commits(kind: Kind, live: Path, place: Path, put_os: PutOs) -> None:
    """A cut during commits, the first ones of a fresh file included, loses nothing acknowledged."""
    recorder, history = DiskRecorder(live), History()
    put_os(recorder)
    with kind.open(live / NAME) as storage:
        commit_some(storage, history, recorder)
    with kind.open(live / NAME) as storage:
        recorder.acknowledge(history.commit(storage, (1, 20), make_record(1, "reopened")))
        recorder.acknowledge(history.commit(storage, (1, 20), make_record(4, "garbage")))
    put_os(os)
    StateChecker(kind.open, history, place / "cut").check_all(recorder.states(0))


def test_commits_that_need_not_be_durable(
    kind: Kind, live: Path, place: Path, put_os: PutOs
) -> None:
    """With durable=False a cut may cost the last commits, but leaves some whole state."""
    recorder, history = DiskRecorder(live), History()
    put_os(recorder)
    with kind.open(live / NAME, durable=False) as storage:
        commit_some(storage, history)
        commit_some(storage, history)
    put_os(os)
    StateChecker(kind.open, history, place / "cut").check_all(recorder.states())


def _plain(_disk: FaultyDisk, _monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack as it comes."""


def _in_few_steps(_disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durus.file_storage._packer._STEP_S", 1)
    monkeypatch.setattr("durus.file_storage._packer._WRITE_BYTES", 1 << 18)
    monkeypatch.setattr("durus.file_storage._packer._LAST_BYTES", 1 << 16)


def _without_links(disk: FaultyDisk, _monkeypatch: pytest.MonkeyPatch) -> None:
    disk.fail("link", errno.EPERM, forever=True)


def _scattered_oids(_disk: FaultyDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durus.file_storage._packer._FREE_MAP_BYTES", 0)
    monkeypatch.setattr("durus.file_storage._packer._MAP_BYTES_AN_OBJECT", 0)


@pytest.mark.parametrize("packed_before", [False, True])
@pytest.mark.parametrize("way", [_plain, _in_few_steps, _without_links, _scattered_oids])
def test_pack(
    kind: Kind,
    live: Path,
    place: Path,
    put_os: PutOs,
    packed_before: bool,
    way: Callable[[FaultyDisk, pytest.MonkeyPatch], None],
) -> None:
    """A cut during a pack, or during the commits between its steps, loses nothing acknowledged."""
    history = prepare(kind, live)
    if packed_before:
        with kind.open(live / NAME) as storage:
            storage.pack()
            commit_some(storage, history)
    disk = FaultyDisk()
    recorder = DiskRecorder(live, disk)
    recorder.acknowledge(history.base)
    put_os(recorder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        way(disk, monkeypatch)
        pack_and_commit(kind, live, history, recorder)
    put_os(os)
    StateChecker(kind.open, history, place / "cut").check_all(recorder.states())


def pack_and_commit(kind: Kind, live: Path, history: History, recorder: DiskRecorder) -> None:
    """Pack with commits between the steps, one of them of what was garbage, and after it."""
    with kind.open(live / NAME) as storage:
        for step, _ in enumerate(storage.get_packer()):
            if step % 3 == 0 and step < 30:
                refs = (1, 20, 30 + step, *([5, 6] if step else []))
                record = make_record(30 + step, f"while packing {step}")
                recorder.acknowledge(history.commit(storage, refs, record))
        assert history.number_of(storage) == history.base
        recorder.acknowledge(history.commit(storage, (1, 20), make_record(40, "after")))
        storage.pack()
        recorder.acknowledge(history.commit(storage, (1, 20), make_record(41, "after")))


def _index_gone(live: Path) -> None:
    (live / f"{NAME}.index").unlink(missing_ok=True)


def _index_damaged(live: Path) -> None:
    index = live / f"{NAME}.index"
    if index.exists():
        content = bytearray(index.read_bytes())
        content[len(content) // 2] ^= 1
        index.write_bytes(content)


@pytest.mark.parametrize("spoil", [_index_gone, _index_damaged])
def test_index_rebuilt(
    kind: Kind, live: Path, place: Path, put_os: PutOs, spoil: Callable[[Path], None]
) -> None:
    """A cut while an index is built anew and written changes nothing of what is read."""
    history = prepare(kind, live)
    spoil(live)
    recorder = DiskRecorder(live)
    recorder.acknowledge(history.base)
    put_os(recorder)
    for _ in range(2):
        with kind.open(live / NAME) as storage:
            assert history.number_of(storage) == history.base
            recorder.acknowledge(history.commit(storage, (1, 20), make_record(1, "again")))
    put_os(os)
    StateChecker(kind.open, history, place / "cut").check_all(recorder.states())


def test_index_of_an_earlier_time(kind: Kind, live: Path, place: Path, put_os: PutOs) -> None:
    """An index from before other commits, or from before a pack, is noticed and not believed."""
    history = History()
    with kind.open(live / NAME) as storage:
        commit_some(storage, history)
    copy_files(live, place / "early")
    with kind.open(live / NAME) as storage:
        commit_some(storage, history)
    copy_files(live, place / "late")
    with kind.open(live / NAME) as storage:
        storage.pack()
    copy_files(live, place / "packed")
    directories = [place / "early", place / "late", place / "packed"]
    for data in directories:
        for index in directories:
            if not (index / f"{NAME}.index").exists():
                continue
            copy_files(data, live)
            (live / f"{NAME}.index").write_bytes((index / f"{NAME}.index").read_bytes())
            with quiet(), kind.open(live / NAME) as storage:
                expected = 5 if data.name == "early" else 10
                assert history.number_of(storage) == expected, (data.name, index.name)


def _cut(content: bytes) -> bytes:
    return content[:-7]


def _zeros(content: bytes) -> bytes:
    return content[:-40] + bytes(40)


def _garbage(content: bytes) -> bytes:
    return content + b"garbage that nobody wrote" * 30


@pytest.mark.parametrize("tear", [_cut, _zeros, _garbage])
def test_recovery_of_a_torn_tail(
    kind: Kind, live: Path, place: Path, put_os: PutOs, tear: Callable[[bytes], bytes]
) -> None:
    """A cut while a torn tail is set aside, or after that, ends in the same recovered state."""
    history = prepare(kind, live)
    path = live / NAME
    path.write_bytes(tear(path.read_bytes()))
    recorder = DiskRecorder(live)
    put_os(recorder)
    with quiet(), kind.open(path) as storage:
        number = history.number_of(storage)
        assert number == history.base - (tear is not _garbage)
        history.base = number
        recorder.acknowledge(number)
        recorder.acknowledge(history.commit(storage, (1, 20), make_record(1, "recovered")))
    put_os(os)
    StateChecker(kind.open, history, place / "cut").check_all(recorder.states())


def test_repair(kind: Kind, live: Path, place: Path, put_os: PutOs) -> None:
    """A cut during repair leaves the damaged file as it was, or the repaired one."""
    history = prepare(kind, live)
    path = live / NAME
    content = path.read_bytes()
    assert content.count(b"changed") == 1
    path.write_bytes(content.replace(b"changed", b"chamged"))
    _index_gone(live)
    for oid in map(int8_to_str, (1, 2)):
        history.states[5][oid] = history.states[3][oid]
    recorder = DiskRecorder(live)
    put_os(recorder)
    with quiet(), kind.open(path, repair=True) as storage:
        assert history.number_of(storage) == 5
        recorder.acknowledge(5)
        recorder.acknowledge(history.commit(storage, (1, 20), make_record(1, "repaired")))
    put_os(os)

    def repair(path: Path, state: DiskState) -> None:
        try:
            kind.open(path).close()
        except CorruptionError:
            assert not state.acknowledged
            kind.open(path, repair=True).close()

    StateChecker(kind.open, history, place / "cut", repair).check_all(recorder.states())


def test_copy(kind: Kind, live: Path, place: Path, put_os: PutOs) -> None:
    """A cut during an online copy costs the original nothing, and no copy that was finished.

    The copy's name appears only when the copy is whole.
    """
    history = prepare(kind, live)
    recorder = DiskRecorder(live)
    put_os(recorder)
    with kind.open(live / NAME) as storage:
        storage.copy(live / "copy")
        recorder.acknowledge(history.base)
        copied = history.base
        history.commit(storage, (1, 20), make_record(1, "after the copy"))
    put_os(os)

    def check_copy(path: Path, state: DiskState) -> None:
        copy = path.with_name("copy")
        assert copy.exists() or not state.acknowledged
        if copy.exists():
            with kind.open(copy, readonly=True) as storage:
                assert history.number_of(storage) == copied

    StateChecker(kind.open, history, place / "cut", check_copy).check_all(recorder.states())
