"""Packing a FileStorage: what is kept, while what goes on, and what is left when it fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from threading import Event

import pytest

from durus.error import (
    CorruptionError,
    StorageReadOnlyError,
    StorageTransactionError,
    StorageWriteError,
)
from durus.file_storage import FileStorage
from durus.file_storage._commit_record import COMMIT_ENTRY_BYTES
from durus.file_storage._file import open_file
from durus.file_storage._shelf import SHELF
from durus.serialize import pack_record
from durus.testing import make_record
from durus.testing.crash import FaultyDisk
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage], dict[int, bytes]]


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack takes a step for each object and each piece of file, and does not stop early."""
    for name, value in (("_STEP_S", -1), ("_WRITE_BYTES", 300), ("_LAST_BYTES", 0)):
        monkeypatch.setattr(f"durus.file_storage._packer.{name}", value)


def _names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def _expected(*records: bytes) -> dict[int, bytes]:
    return {int.from_bytes(record[:8], "big"): record for record in records}


def test_old_file_is_kept_as_prepack(path: Path, put: Put, contents: Contents) -> None:
    """The file as it was before the last pack is beside the new one, and is a database."""
    prepack = Path(f"{path}.prepack")
    for number in range(2):
        with FileStorage(path) as storage:
            put(storage, {0: [1], 1: [], 5: []}, b"%d" % number)
            before = path.read_bytes()
            storage.pack()
        assert prepack.read_bytes() == before
        assert _names(path) == [path.name, f"{path.name}.index", prepack.name]
    with FileStorage(prepack, readonly=True) as storage:
        assert sorted(contents(storage)) == [0, 1, 5]


def test_pack_keeps_mode(path: Path, put: Put) -> None:
    """The packed file and its index may be used by whom the old file allowed."""
    with FileStorage(path) as storage:
        path.chmod(0o640)
        put(storage, [0])
        storage.pack()
    assert path.stat().st_mode & 0o777 == 0o640
    assert Path(f"{path}.index").stat().st_mode & 0o777 == 0o640


def test_new_file_is_locked_as_the_old_one_was(path: Path, put: Put) -> None:
    """Before, during and after a pack nobody else can open the path for writing."""
    with FileStorage(path) as storage:
        put(storage, [0])
        for _ in storage.get_packer():
            with pytest.raises(BlockingIOError):
                FileStorage(path)
        with pytest.raises(BlockingIOError):
            FileStorage(path)


@pytest.mark.usefixtures("small_steps")
def test_commits_during_a_pack_keep_order_time_and_serial(
    path: Path, put: Put, contents: Contents
) -> None:
    """What is committed between steps follows the base, in order, with its time and serial."""
    with FileStorage(path) as storage:
        put(storage, {0: range(1, 30), **{n: [] for n in range(1, 30)}})
        put(storage, [40])
        last = storage.describe().last_commit_time
        commits = 0
        for _ in storage.get_packer():
            put(storage, {0: range(1, 30), 3: [0]}, b"%d" % commits)
            commits += 1
        put(storage, [4], b"after")
        description = storage.describe()
        assert description.transaction_count == commits + 1
        expected = contents(storage)
    assert commits > 30
    file = open_file(str(path), readonly=True)
    found = [commit for _, commit in SHELF.gen_commits(file, 0, file.length())]
    assert [commit.serial for commit in found] == list(range(2, commits + 4))
    times = [commit.time_us for commit in found]
    assert last is not None
    assert times[0] == round(last.timestamp() * 1_000_000)
    assert times == sorted(times)
    Path(f"{path}.index").unlink()
    with FileStorage(path, repair=True) as storage:
        assert contents(storage) == expected
        assert sorted(expected) == list(range(30))
    assert not Path(f"{path}.damaged").exists()


@pytest.mark.usefixtures("small_steps")
def test_garbage_that_is_reached_again_goes_into_that_transaction(
    path: Path, put: Put, contents: Contents
) -> None:
    """A commit between steps may refer to garbage: it stays with all that it refers to."""
    chain = {n: [n + 1] for n in range(100, 140)}
    with FileStorage(path) as storage:
        put(storage, {0: range(1, 30), **{n: [] for n in range(1, 30)}, **chain, 140: [0], 200: []})
        packer = storage.get_packer()
        for _ in range(5):
            next(packer)
        put(storage, {0: [1, 100]})
        for _ in packer:
            pass
        assert sorted(contents(storage)) == [*range(30), *range(100, 141)]
        assert storage.sync() == [int8_to_str(200)]
        put(storage, [7], b"after")
    Path(f"{path}.index").unlink()
    with FileStorage(path) as storage:
        assert sorted(contents(storage)) == [*range(30), *range(100, 141)]
        storage.pack()
        assert sorted(contents(storage)) == [0, 1, *range(100, 141)]


@pytest.mark.usefixtures("small_steps")
def test_base_is_the_state_when_the_pack_began(path: Path, put: Put, contents: Contents) -> None:
    """Cut after the map, a file that was packed during commits is the state before them."""
    with FileStorage(path) as storage:
        records = put(storage, {0: [1, 2, 3], **{n: [] for n in range(1, 4)}})
        for _ in storage.get_packer():
            put(storage, {0: [1], 1: []}, b"newer")
    file = open_file(str(path), readonly=True)
    commits = list(SHELF.gen_commits(file, 0, file.length()))
    length = commits[0][0] + 90 + 24 + 2 * 5
    path.write_bytes(path.read_bytes()[:length])
    with FileStorage(path, readonly=True) as storage:
        assert contents(storage) == _expected(*records)


def test_second_pack_at_the_same_time_is_refused(path: Path, put: Put) -> None:
    """While a pack runs, another is an error that says so; when it is over, one may begin."""
    with FileStorage(path) as storage:
        put(storage, range(3))
        first, second = storage.get_packer(), storage.get_packer()
        next(first)
        with pytest.raises(StorageTransactionError, match="being packed"):
            storage.get_packer()
        with pytest.raises(StorageTransactionError, match="being packed"):
            next(second)
        for _ in first:
            pass
        storage.pack()


def test_reader_cannot_pack(path: Path, put: Put) -> None:
    """A storage that was opened read-only is not packed."""
    with FileStorage(path) as storage:
        put(storage, [0])
    with FileStorage(path, readonly=True) as storage, pytest.raises(StorageReadOnlyError):
        storage.get_packer()


@pytest.mark.usefixtures("small_steps")
def test_pack_that_is_dropped_leaves_nothing(path: Path, put: Put, contents: Contents) -> None:
    """At whichever step a pack is dropped, its files are gone and the storage works on."""
    with FileStorage(path) as storage:
        put(storage, {0: range(1, 9), **{n: [] for n in range(1, 9)}, 20: []})
        steps = 0
        is_done = False
        while not is_done:
            steps += 1
            packer = storage.get_packer()
            for _ in range(steps):
                is_done = next(packer, None) is None
                put(storage, [2, steps % 8 + 1], b"%d" % steps)
            del packer
            if not is_done:
                assert _names(path) == [path.name]
                assert sorted(contents(storage)) == [*range(9), 20]
        assert sorted(contents(storage)) == [*range(9)]


@pytest.mark.parametrize("kind", ["write", "sync", "create", "rename", "link"])
def test_pack_that_fails_leaves_everything_as_it_was(
    path: Path, put: Put, contents: Contents, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """On a full or failing disk a pack is a StorageWriteError, and the storage works on."""
    with FileStorage(path) as storage:
        put(storage, {0: [1], 1: [], 2: []})
        before = path.read_bytes()
        faulty = FaultyDisk()
        faulty.fail(kind, errno.ENOSPC)
        with monkeypatch.context() as patch:
            patch.setattr("durus.file_storage._file.os", faulty)
            with pytest.raises(StorageWriteError, match="tried to pack"):
                storage.pack()
        assert path.read_bytes() == before
        assert [name for name in _names(path) if "pack" in name or "index" in name] in (
            [],
            [f"{path.name}.prepack"],
        )
        put(storage, [3])
        storage.pack()
        assert sorted(contents(storage)) == [0, 1]


def test_a_sync_that_fails_beside_the_work_is_not_outdone_by_a_later_one(
    path: Path,
    put: Put,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
    small_steps: None,
) -> None:
    """What the first sync of many could not write is not taken for written: the pack fails."""
    monkeypatch.setattr("durus.file_storage._packer._SYNC_BYTES", 1)
    with FileStorage(path) as storage:
        put(storage, {0: range(1, 30), **{number: [] for number in range(1, 40)}})
        before = path.read_bytes()
        faulty = FaultyDisk()
        faulty.fail("sync", name=".pack")
        with monkeypatch.context() as patch:
            patch.setattr("durus.file_storage._file.os", faulty)
            with pytest.raises(StorageWriteError, match="Input/output error"):
                storage.pack()
        assert path.read_bytes() == before
        storage.pack()
        assert sorted(contents(storage)) == list(range(30))


def test_steps_end_while_the_disk_is_slow(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch, small_steps: None
) -> None:
    """A step does not wait for a sync, and the pack does not end before it."""
    monkeypatch.setattr("durus.file_storage._packer._STEP_S", 0.001)
    is_synced = Event()
    with FileStorage(path) as storage:
        put(storage, {0: [1], 1: [], 2: []})
        monkeypatch.setattr("durus.file_storage._file.File.sync_all", lambda _: is_synced.wait(60))
        packer = storage.get_packer()
        steps = sum(1 for _ in zip(range(50), packer, strict=False))
        assert (steps, Path(f"{path}.prepack").exists()) == (50, False)
        is_synced.set()
        assert list(packer)[-1:] in ([], [2])
    assert Path(f"{path}.prepack").exists()


def test_directory_that_cannot_be_synced_after_a_pack(
    path: Path, put: Put, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is not certain that the new name is on the disk, further commits are refused."""
    from durus.file_storage import _packer

    def fail(_: str) -> None:
        raise OSError(errno.EIO, "the directory is gone")

    with FileStorage(path) as storage:
        put(storage, {0: [1], 1: [], 2: []})
        with monkeypatch.context() as patch:
            patch.setattr(_packer, "sync_directory", fail)
            storage.pack()
        assert sorted(contents(storage)) == [0, 1]
        with pytest.raises(StorageWriteError, match="directory could not be synced"):
            storage.begin()
    with FileStorage(path) as storage:
        put(storage, [0])


def test_file_system_without_second_names(
    path: Path, put: Put, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files have one name only, the old file is copied to `.prepack`."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with FileStorage(path) as storage:
        put(storage, {0: [1], 1: [], 2: []})
        before = path.read_bytes()
        monkeypatch.setattr(os, "link", refuse)
        storage.pack()
        assert sorted(contents(storage)) == [0, 1]
        storage.copy(f"{path}.copy")
    assert Path(f"{path}.prepack").read_bytes() == before
    assert Path(f"{path}.copy").read_bytes() == path.read_bytes()


def test_damaged_record_is_not_packed_away(path: Path, put: Put, contents: Contents) -> None:
    """A reachable record that does not prove itself ends the pack, and nothing is lost."""
    with FileStorage(path) as storage:
        records = put(storage, {0: [1], 1: []})
        storage.pack()
        whole = path.read_bytes()
        at = whole.index(records[1]) + 40
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes((whole[at] ^ 1,)))
        before = path.read_bytes()
        with pytest.raises(CorruptionError) as caught:
            storage.pack()
        assert caught.value.oid == int8_to_str(1)
    assert path.read_bytes() == before


def test_reference_to_nothing_is_kept(
    path: Path, put: Put, contents: Contents, warnings_of: Callable[[], list[str]]
) -> None:
    """Durus 4.3 could leave references to objects that it never stored: a pack tells of it."""
    with FileStorage(path) as storage:
        records = put(storage, {0: [1, 99], 1: []})
        storage.pack()
        assert contents(storage) == _expected(*records)
    assert any("such as 99" in warning for warning in warnings_of())


def test_large_and_wide_objects_are_packed(path: Path, put: Put, contents: Contents) -> None:
    """Records longer than what is held in memory, and with more references, are copied whole."""
    oid_ints = range(1, 140_000, 1000)
    with FileStorage(path, durable=False) as storage:
        wide = put(storage, {0: [*oid_ints, *range(200_000, 350_000)]})
        large = put(storage, {n: [0] for n in oid_ints}, b"x" * 30_000)
        storage.pack()
        assert contents(storage) == _expected(*wide, *large)


# Maps that Durus 4.3 wrote have no proof.


@pytest.fixture
def old_packed(path: Path) -> bytes:
    """Make a packed file as Durus 4.3 leaves it: oids 0, 1, 3 with a hole at 2."""
    data = b"\x80\x02cdurus.persistent\nPersistent\nq\x00.\x80\x02}q\x01."
    entries = b""
    offsets = {}
    for oid_int, refs in ((0, [1, 3]), (1, []), (3, [])):
        record = pack_record(int8_to_str(oid_int), data, b"".join(map(int8_to_str, refs)))
        offsets[oid_int] = 16 + len(entries)
        entries += int8_to_str(len(record) + 8) + record[:8] + record
    base = 16 + len(entries)
    words = [offsets[0], offsets[1], base + 4, offsets[3], base + 2]
    offset_map = b"".join(map(int8_to_str, (16 + 2 * 5, 2, 5)))
    offset_map += b"".join(word.to_bytes(2, "big") for word in words)
    whole = b"SHELF-1\n" + int8_to_str(len(entries)) + entries + offset_map
    path.write_bytes(whole)
    return whole


def test_file_packed_by_durus_4_3_is_used_as_it_is(
    path: Path, old_packed: bytes, put: Put, contents: Contents
) -> None:
    """Its map leads to its objects, its holes are not handed out, and a pack makes it ours."""
    with FileStorage(path) as storage:
        assert sorted(contents(storage)) == [0, 1, 3]
        with pytest.raises(KeyError):
            storage.load(int8_to_str(2))
        assert storage.new_oid() == int8_to_str(4)
        put(storage, [1])
    assert path.read_bytes().startswith(old_packed)
    with FileStorage(path) as storage:
        assert sorted(contents(storage)) == [0, 1, 3]
        storage.pack()
        assert sorted(contents(storage)) == [0, 1, 3]
        assert storage.new_oid() == int8_to_str(4)


@pytest.mark.parametrize("word", range(5))
@pytest.mark.parametrize("bit", range(16))
def test_damaged_map_of_durus_4_3_is_noticed(
    path: Path, old_packed: bytes, word: int, bit: int
) -> None:
    """With any bit of the map changed, a load is right or a CorruptionError, and so is a pack."""
    damaged = bytearray(old_packed)
    damaged[len(damaged) - 10 + 2 * word + bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    with FileStorage(path) as storage:
        for oid_int, is_there in enumerate([True, True, False, True]):
            try:
                record = storage.load(int8_to_str(oid_int))
            except CorruptionError:
                continue
            except KeyError:
                assert not is_there
                continue
            assert is_there
            assert record in old_packed
        if word in (0, 1, 3):
            with pytest.raises(CorruptionError):
                storage.pack()
    assert path.read_bytes() == damaged


def test_commit_record_is_dropped_by_nobody_but_a_pack(path: Path, put: Put) -> None:
    """Packing leaves one commit record for the base, whatever the number of commits before."""
    with FileStorage(path) as storage:
        for _ in range(5):
            put(storage, [0])
        size = path.stat().st_size
        storage.pack()
        assert path.stat().st_size < size - 4 * COMMIT_ENTRY_BYTES
        assert storage.load(int8_to_str(0)) == make_record(int8_to_str(0))
        assert storage.describe().transaction_count == 0


def test_object_with_many_references_is_packed_in_small_pieces(
    path: Path, put: Put, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one object refers to is not gathered in memory before it is written."""
    monkeypatch.setattr("durus.file_storage._packer._WRITE_BYTES", 2000)
    faulty = FaultyDisk()
    sizes = []

    def note_size(fd: int, data: bytes, offset: int) -> int:
        sizes.append(len(data))
        return os.pwrite(fd, data, offset)

    with FileStorage(path) as storage:
        put(storage, {0: range(1, 1000), **{n: [] for n in range(1, 1000)}})
        monkeypatch.setattr(faulty, "pwrite", note_size, raising=False)
        monkeypatch.setattr("durus.file_storage._file.os", faulty)
        storage.pack()
        assert sorted(contents(storage)) == list(range(1000))
    # The longest record is the root's, of some 25 KB; all together are five times that.
    assert max(sizes) < 60_000 < sum(sizes)


def test_damaged_map_of_durus_4_3_is_noticed_in_the_past(
    path: Path, old_packed: bytes, put: Put
) -> None:
    """An object that the map says is none, against its list of holes, is not taken for absent."""
    base = len(old_packed) - 10 - 24
    damaged = old_packed[:-8] + (base + 3).to_bytes(2, "big") + old_packed[-6:]
    path.write_bytes(damaged)
    with FileStorage(path) as storage:
        put(storage, [0])
        put(storage, [1, 2])
        [first, _] = (serial for serial, _ in storage.gen_commits())
        with pytest.raises(CorruptionError, match="hole for oid 1 that is not in its list"):
            storage.load_as_of(int8_to_str(1), first)
        with pytest.raises(KeyError):
            storage.load_as_of(int8_to_str(2), first)
