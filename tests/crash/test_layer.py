"""The recording and failing stand-ins for `os`, tried on a little journal and its broken kin.

Cases:
    a journal that syncs what it should passes every cut; each way to leave out a step is caught
    contents, names, directories, hard links and resizes become durable by their own syncs only
    what goes round the recorder, or that it cannot model, is said and not ignored
    faults hit the call that they were meant for, once or from then on
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durus.testing.crash import DiskRecorder, DiskState, FaultyDisk, crash_points

_HEAD = struct.Struct(">LL")


class Journal:
    """A journal of numbered blobs, right by default; each flag leaves out what makes it so."""

    def __init__(
        self,
        os_module: Any,
        path: Path,
        *,
        syncs: bool = True,
        syncs_names: bool = True,
        syncs_before_rename: bool = True,
        checks: bool = True,
        length_first: bool = True,
    ) -> None:
        self.os = os_module
        self.path = path
        self.syncs = syncs
        self.syncs_names = syncs_names
        self.syncs_before_rename = syncs_before_rename
        self.checks = checks
        self.length_first = length_first
        self.blobs: list[bytes] = []
        if path.exists():
            self.blobs, end = self._read()
            self._open()
            if end < path.stat().st_size:
                self.os.ftruncate(self.fd, end)
                self.os.fsync(self.fd)
        else:
            self._rewrite()

    def append(self, blob: bytes) -> None:
        end = self.os.fstat(self.fd).st_size
        entry = self._entry(blob)
        if self.length_first:
            self.os.pwrite(self.fd, entry, end)
        else:
            self.os.pwrite(self.fd, entry[4:], end + 4)
            self.os.pwrite(self.fd, entry[:4], end)
        if self.syncs:
            self.os.fdatasync(self.fd)
        self.blobs.append(blob)

    def drop_all_but_last(self) -> None:
        self.os.close(self.fd)
        self.blobs = self.blobs[-1:]
        self._rewrite()

    def close(self) -> None:
        self.os.close(self.fd)

    def _open(self) -> None:
        self.fd = self.os.open(self.path, os.O_RDWR)

    def _rewrite(self) -> None:
        new = self.path.with_suffix(".new")
        self.fd = self.os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self.os.write(self.fd, b"".join([b"journal\n", *map(self._entry, self.blobs)]))
        if self.syncs and self.syncs_before_rename:
            self.os.fsync(self.fd)
        self.os.replace(new, self.path)
        if self.syncs_names:
            directory = self.os.open(self.path.parent, os.O_RDONLY)
            self.os.fsync(directory)
            self.os.close(directory)

    def _entry(self, blob: bytes) -> bytes:
        return _HEAD.pack(len(blob), zlib.crc32(blob) if self.checks else 0) + blob

    def _read(self) -> tuple[list[bytes], int]:
        content = self.path.read_bytes()
        if not content.startswith(b"journal\n"):
            raise ValueError("not a journal")
        blobs, start = [], 8
        while start + _HEAD.size <= len(content):
            length, crc = _HEAD.unpack_from(content, start)
            blob = content[start + _HEAD.size : start + _HEAD.size + length]
            if len(blob) < length or not length or (self.checks and zlib.crc32(blob) != crc):
                break
            blobs.append(blob)
            start += _HEAD.size + length
        return blobs, start


BLOBS = [b"one" * 20, b"two" * 180, b"three", b"four" * 5]


def record(directory: Path, **flags: bool) -> DiskRecorder:
    """Append the blobs, with a rewrite after the third; the n-th is acknowledged as n."""
    recorder = DiskRecorder(directory)
    journal = Journal(recorder, directory / "toy", **flags)
    for number, blob in enumerate(BLOBS, 1):
        journal.append(blob)
        recorder.acknowledge(number)
        if number == 3:
            journal.drop_all_but_last()
    journal.close()
    return recorder


def is_right(state: DiskState, directory: Path, **flags: bool) -> bool:
    """Open the journal that `state` left and say whether it holds what was acknowledged."""
    state.write_to(directory)
    allowed = [BLOBS[:1], BLOBS[:2], BLOBS[:3], BLOBS[2:3], BLOBS[2:4]]
    numbers = [1, 2, 3, 3, 4]
    try:
        journal = Journal(os, directory / "toy", **flags)
        journal.close()
    except ValueError:
        return False
    found = journal.blobs
    if not found:
        return state.acknowledged == 0
    return found in allowed and numbers[allowed.index(found)] >= state.acknowledged


def test_right_journal_passes_every_cut(tmp_path: Path) -> None:
    """A journal that syncs contents and names in order survives every cut."""
    (tmp_path / "live").mkdir()
    states = list(record(tmp_path / "live").states(0))
    assert len(states) > 1000
    wrong = [state.note for state in states if not is_right(state, tmp_path / "cut")]
    assert not wrong


@pytest.mark.parametrize(
    "flag", ["syncs", "syncs_names", "syncs_before_rename", "checks", "length_first"]
)
def test_wrong_journal_is_caught(tmp_path: Path, flag: str) -> None:
    """No fsync, a rename whose name or content was not synced, no checksum: each is caught."""
    flags = {flag: False}
    if flag == "length_first":
        flags["checks"] = False
    (tmp_path / "live").mkdir()
    states = record(tmp_path / "live", **flags).states(0)
    assert not all(is_right(state, tmp_path / "cut", **flags) for state in states)


def recorded(directory: Path, act: Callable[[DiskRecorder, Path], None]) -> list[dict[str, bytes]]:
    """Give the files of every state that a cut after `act` may leave."""
    recorder = DiskRecorder(directory)
    act(recorder, directory)
    return last_states(recorder)


def last_states(recorder: DiskRecorder) -> list[dict[str, bytes]]:
    """Give the files of every state that a cut may leave now."""
    recorder.acknowledge(1)
    return [state.files for state in recorder.states(0) if state.acknowledged]


def put(system: DiskRecorder, path: Path, content: bytes) -> int:
    """Write a file and sync it; give it open."""
    fd: int = system.open(path, os.O_RDWR | os.O_CREAT)
    system.pwrite(fd, content, 0)
    system.fsync(fd)
    return fd


def sync_directory(system: DiskRecorder, path: Path) -> None:
    """Make the names in a directory durable."""
    fd = system.open(path, os.O_RDONLY)
    system.fsync(fd)
    system.close(fd)


def test_new_name_needs_a_sync_of_its_directory(tmp_path: Path) -> None:
    """A new file whose content was synced may be gone; after a sync of the directory it may not."""

    def act(system: DiskRecorder, path: Path) -> None:
        system.close(put(system, path / "a", b"x"))

    assert recorded(tmp_path, act) == [{"a": b"x"}, {}]
    (tmp_path / "a").unlink()

    def act_and_sync(system: DiskRecorder, path: Path) -> None:
        act(system, path)
        sync_directory(system, path)

    assert recorded(tmp_path, act_and_sync) == [{"a": b"x"}]


def test_unsynced_data_may_be_there_missing_or_zeros(tmp_path: Path) -> None:
    """Unsynced bytes behind a durable name arrive, or not, or as zeros, or cut anywhere."""
    (tmp_path / "a").write_bytes(b"old")

    def act(system: DiskRecorder, path: Path) -> None:
        fd = system.open(path / "a", os.O_RDWR | os.O_APPEND)
        system.write(fd, b"xyz")

    found = {files["a"] for files in recorded(tmp_path, act)}
    zeros = {b"old\0\0\0", b"oldx\0\0", b"oldxy\0"}
    assert found == {b"old", b"oldx", b"oldxy", b"oldxyz"} | zeros


def test_writes_may_arrive_in_any_order(tmp_path: Path) -> None:
    """A later unsynced write may arrive without an earlier one, block by block."""
    (tmp_path / "a").write_bytes(bytes(1024))

    def act(system: DiskRecorder, path: Path) -> None:
        fd = system.open(path / "a", os.O_RDWR)
        system.pwrite(fd, b"1" * 1024, 0)
        system.pwrite(fd, b"22", 0)

    found = {files["a"] for files in recorded(tmp_path, act)}
    assert b"22" + bytes(1022) in found
    assert b"22" + bytes(510) + b"1" * 512 in found
    assert b"1" * 512 + bytes(512) in found


def test_links_and_renames_may_be_undone_in_any_combination(tmp_path: Path) -> None:
    """Each unsynced change of a name is there or not, never half of a rename."""
    (tmp_path / "a").write_bytes(b"A")
    (tmp_path / "b").write_bytes(b"B")

    def act(system: DiskRecorder, path: Path) -> None:
        system.link(path / "a", path / "c")
        system.replace(path / "b", path / "a")

    found = recorded(tmp_path, act)
    assert {"a": b"A", "b": b"B"} in found
    assert {"a": b"A", "b": b"B", "c": b"A"} in found
    assert {"a": b"B"} in found
    assert {"a": b"B", "c": b"A"} in found
    assert len(found) == 4


def test_unlink_may_be_undone(tmp_path: Path) -> None:
    """A file that was removed may be back until its directory is synced."""
    (tmp_path / "a").write_bytes(b"A")
    assert recorded(tmp_path, lambda system, path: system.unlink(path / "a")) == [{}, {"a": b"A"}]


def test_shrinking_needs_fsync(tmp_path: Path) -> None:
    """A cut file may be long again after fdatasync; after fsync it may not."""
    (tmp_path / "a").write_bytes(b"long")

    def act(system: DiskRecorder, path: Path) -> None:
        fd = system.open(path / "a", os.O_RDWR)
        system.ftruncate(fd, 1)
        system.fdatasync(fd)

    assert {files["a"] for files in recorded(tmp_path, act)} == {b"l", b"long"}
    (tmp_path / "a").write_bytes(b"long")

    def act_and_sync(system: DiskRecorder, path: Path) -> None:
        act(system, path)
        system.fsync(system.open(path / "a", os.O_RDWR))

    assert recorded(tmp_path, act_and_sync) == [{"a": b"l"}]


def test_growth_is_covered_by_fdatasync(tmp_path: Path) -> None:
    """What fdatasync covered can be read back, the size included."""
    (tmp_path / "a").write_bytes(b"old")

    def act(system: DiskRecorder, path: Path) -> None:
        fd = system.open(path / "a", os.O_RDWR)
        system.pwrite(fd, b"new", 3)
        system.fdatasync(fd)

    assert recorded(tmp_path, act) == [{"a": b"oldnew"}]


def test_directory_may_be_gone_with_what_it_holds(tmp_path: Path) -> None:
    """A new directory needs a sync of its parent, whatever was synced inside."""

    def act(system: DiskRecorder, path: Path) -> None:
        system.mkdir(path / "d")
        system.close(put(system, path / "d" / "a", b"x"))
        sync_directory(system, path / "d")

    assert recorded(tmp_path, act) == [{"d/a": b"x"}, {}]


def test_after_a_failed_sync_a_later_one_proves_nothing(tmp_path: Path) -> None:
    """Data whose sync failed may be missing although the next sync succeeded."""
    (tmp_path / "a").write_bytes(b"")
    faults = FaultyDisk()
    recorder = DiskRecorder(tmp_path, faults)
    fd = recorder.open(tmp_path / "a", os.O_RDWR)
    recorder.pwrite(fd, b"x", 0)
    faults.fail("sync")
    with pytest.raises(OSError):
        recorder.fsync(fd)
    recorder.pwrite(fd, b"y", 1)
    recorder.fsync(fd)
    assert {files["a"] for files in last_states(recorder)} == {b"xy", b"\0y"}


def test_hard_links_stay_links(tmp_path: Path) -> None:
    """Two names of one file are one file in the rebuilt directory too."""
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "a").write_bytes(b"x")
    recorder = DiskRecorder(tmp_path / "live")
    recorder.link(tmp_path / "live" / "a", tmp_path / "live" / "b")
    states = [state for state in recorder.states(0) if len(state.files) == 2]
    states[0].write_to(tmp_path / "cut")
    assert (tmp_path / "cut" / "a").samefile(tmp_path / "cut" / "b")


def test_copies_inside_the_kernel_are_recorded(tmp_path: Path) -> None:
    """sendfile, copy_file_range, writev and posix_fallocate change the log like a write."""
    (tmp_path / "a").write_bytes(b"0123456789")
    recorder = DiskRecorder(tmp_path)
    source = recorder.open(tmp_path / "a", os.O_RDONLY)
    target = recorder.open(tmp_path / "b", os.O_RDWR | os.O_CREAT)
    recorder.sendfile(target, source, 2, 3)
    recorder.copy_file_range(source, target, 2, 0, 3)
    recorder.lseek(target, 0, os.SEEK_END)
    recorder.writev(target, [b"x", b"yz"])
    recorder.pwritev(target, [b"!"], 0)
    recorder.posix_fallocate(target, 0, 20)
    recorder.check_complete()
    assert (tmp_path / "b").read_bytes() == b"!3401xyz" + bytes(12)


def test_writes_round_the_recorder_are_noticed(tmp_path: Path) -> None:
    """A change that the log does not explain is an error, not a hole in the proof."""
    (tmp_path / "a").write_bytes(b"x")
    recorder = DiskRecorder(tmp_path)
    (tmp_path / "a").write_bytes(b"y")
    with pytest.raises(AssertionError, match="did not see"):
        next(recorder.states())


def test_calls_that_are_not_modelled_are_refused(tmp_path: Path) -> None:
    """A call whose effect the recorder does not know raises, before it does anything."""
    recorder = DiskRecorder(tmp_path)
    with pytest.raises(NotImplementedError):
        recorder.symlink(tmp_path / "a", tmp_path / "b")
    with pytest.raises(NotImplementedError):
        recorder.open("a", os.O_RDONLY, dir_fd=3)
    with pytest.raises(NotImplementedError):
        recorder.open(tmp_path, os.O_TMPFILE | os.O_RDWR)


def test_paths_elsewhere_pass_through(tmp_path: Path) -> None:
    """What happens outside the recorded directory is done and not logged."""
    (tmp_path / "live").mkdir()
    recorder = DiskRecorder(tmp_path / "live")
    recorder.close(put(recorder, tmp_path / "other", b"x"))
    recorder.replace(tmp_path / "other", tmp_path / "another")
    assert (tmp_path / "another").read_bytes() == b"x"
    assert recorder.log == []


def test_sampling_keeps_the_limit_and_the_seed(tmp_path: Path) -> None:
    """A limit is kept by a choice that the seed makes again."""
    (tmp_path / "live").mkdir()
    recorder = record(tmp_path / "live")
    notes = [state.note for state in recorder.states(300, seed=1)]
    assert 100 < len(notes) <= 300
    assert notes == [state.note for state in recorder.states(300, seed=1)]
    assert notes != [state.note for state in recorder.states(300, seed=2)]


def test_number_of_points_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """$DURUS_CRASH_POINTS sets how much is tried."""
    monkeypatch.setenv("DURUS_CRASH_POINTS", "7")
    assert crash_points() == 7
    monkeypatch.delenv("DURUS_CRASH_POINTS")
    assert crash_points(9) == 9


def test_fault_hits_the_call_it_was_meant_for(tmp_path: Path) -> None:
    """The n-th call of a kind fails with the given error, and only that one."""
    disk = FaultyDisk()
    disk.fail("write", errno.ENOSPC, call=2)
    fd = disk.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    disk.write(fd, b"1")
    with pytest.raises(OSError) as caught:
        disk.pwrite(fd, b"2", 1)
    assert caught.value.errno == errno.ENOSPC
    disk.write(fd, b"3")
    disk.close(fd)
    assert (tmp_path / "a").read_bytes() == b"13"
    assert disk.calls == {"create": 1, "write": 3}


def test_fault_may_stay(tmp_path: Path) -> None:
    """A lasting fault fails every later call of its kind until it is healed."""
    disk = FaultyDisk()
    disk.fail("sync", forever=True)
    fd = disk.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    for call in (disk.fsync, disk.fdatasync, disk.fsync):
        with pytest.raises(OSError):
            call(fd)
    disk.heal()
    disk.fsync(fd)
    disk.close(fd)


def test_disk_that_runs_full_writes_a_part(tmp_path: Path) -> None:
    """A partial write says how much it wrote; the next one fails."""
    disk = FaultyDisk()
    disk.fail("write", errno.ENOSPC, partial_bytes=2, forever=True)
    fd = disk.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    assert disk.write(fd, b"12345") == 2
    for _ in range(2):
        with pytest.raises(OSError):
            disk.write(fd, b"345")
    disk.close(fd)
    assert (tmp_path / "a").read_bytes() == b"12"


def test_faults_tell_files_from_directories_and_names(tmp_path: Path) -> None:
    """A directory's sync is a kind of its own, and a fault may be bound to one file's name."""
    disk = FaultyDisk()
    disk.fail("sync_directory", forever=True)
    disk.fail("unlink", name=".index")
    fd = disk.open(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    disk.fsync(fd)
    disk.close(fd)
    directory = disk.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError):
        disk.fsync(directory)
    disk.close(directory)
    disk.unlink(tmp_path / "a")
    (tmp_path / "a.index").touch()
    with pytest.raises(OSError):
        disk.unlink(tmp_path / "a.index")
    with pytest.raises(ValueError):
        disk.fail("explode")
