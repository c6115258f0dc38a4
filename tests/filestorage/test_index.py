"""FILE.index: a cache that may be missing, stale or damaged, and never makes an answer wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.error import CorruptionError, DurusKeyError
from durus.file_storage import FileStorage
from durus.file_storage._index import Index, are_scattered
from durus.file_storage._marks import Marks
from durus.testing import make_record
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage], dict[int, bytes]]


@pytest.fixture(autouse=True)
def small_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """An index is worth writing at each close."""
    monkeypatch.setattr("durus.file_storage._journal._TAIL_AT_CLOSE", 1)


@pytest.fixture
def index_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.index")


def _expected(*records: bytes) -> dict[int, bytes]:
    return {int.from_bytes(record[:8], "big"): record for record in records}


def test_index_saves_the_scan(path: Path, put: Put, contents: Contents) -> None:
    """What the index covers is not read when the file is opened: damage there is not met."""
    with FileStorage(path) as storage:
        put(storage, range(2000))
        last = put(storage, [1, 2000])
    whole = bytearray(path.read_bytes())
    whole[5000] ^= 1
    path.write_bytes(whole)
    with FileStorage(path) as storage:
        assert storage.load(int8_to_str(2000)) == last[1]
        assert storage.load(int8_to_str(1)) == last[0]
        assert storage.new_oid() == int8_to_str(2001)
        assert storage.describe().object_count == 2001


def test_index_is_written_when_the_tail_has_grown(
    path: Path, index_path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a long run the index is written now and then, ever less often as it grows."""
    monkeypatch.setattr("durus.file_storage._journal._TAIL_AT_COMMIT", 10)
    written = 0
    with FileStorage(path, durable=False) as storage:
        seen = None
        for number in range(200):
            put(storage, [number])
            now = index_path.stat().st_ino if index_path.exists() else None
            written += now != seen
            seen = now
        assert storage.load(int8_to_str(7)) == make_record(int8_to_str(7))
    assert 5 <= written <= 15


def test_without_an_index_the_answers_are_the_same(
    path: Path, index_path: Path, put: Put, contents: Contents
) -> None:
    """Deleted at any time, even while the file is open, the index is only missed for its speed."""
    with FileStorage(path) as storage:
        first = put(storage, range(600))
        assert not index_path.exists()
    with FileStorage(path) as storage:
        index_path.unlink()
        second = put(storage, range(300, 900), b"second")
        assert contents(storage) == _expected(*first, *second)
    index_path.unlink()
    with FileStorage(path, readonly=True) as storage:
        assert contents(storage) == _expected(*first, *second)
        assert storage.describe().object_count == 900
    assert not index_path.exists()


def test_index_that_covers_less_is_gone_on_from(
    path: Path, index_path: Path, put: Put, contents: Contents
) -> None:
    """An index of an earlier time serves for what it covers; the tail is scanned."""
    with FileStorage(path) as storage:
        first = put(storage, range(10))
    earlier = index_path.read_bytes()
    with FileStorage(path) as storage:
        second = put(storage, range(5, 15), b"second")
    index_path.write_bytes(earlier)
    with FileStorage(path) as storage:
        assert contents(storage) == _expected(*first, *second)
        assert storage.describe().transaction_count == 2
        assert storage.new_oid() == int8_to_str(15)


@pytest.mark.parametrize("readonly", [True, False])
def test_index_of_another_file_is_not_used(
    path: Path, index_path: Path, tmp_path: Path, put: Put, contents: Contents, readonly: bool
) -> None:
    """An index that was copied from another database, or from before a restore, is not believed."""
    with FileStorage(tmp_path / "other.durus") as storage:
        put(storage, range(30))
    with FileStorage(path) as storage:
        records = put(storage, range(20))
    (tmp_path / "other.durus.index").replace(index_path)
    with FileStorage(path, readonly=readonly) as storage:
        assert contents(storage) == _expected(*records)


def test_index_is_not_used_for_a_file_that_was_cut(
    path: Path, index_path: Path, put: Put, contents: Contents
) -> None:
    """An index that covers more than there is is not believed."""
    with FileStorage(path) as storage:
        records = put(storage, range(20))
        length = path.stat().st_size
        put(storage, [3], b"later")
    path.write_bytes(path.read_bytes()[:length])
    with FileStorage(path) as storage:
        assert contents(storage) == _expected(*records)


def test_index_with_any_byte_changed_gives_right_answers(
    path: Path, index_path: Path, put: Put, contents: Contents
) -> None:
    """Whichever byte of a small index is changed, every answer is right, and writing goes on."""
    with FileStorage(path) as storage:
        records = put(storage, {0: [1], 1: [], 5: [], 511: [], 512: [0]})
    whole = index_path.read_bytes()
    unused = range(200, 4096 + 96, 97)
    positions = [*range(160), *unused, *range(len(whole) - 4096 - 24, len(whole) - 4000)]
    for position in [*positions, *range(len(whole) - 40, len(whole))]:
        damaged = bytearray(whole)
        damaged[position] ^= 0x81
        index_path.write_bytes(damaged)
        with FileStorage(path, readonly=True) as storage:
            assert contents(storage) == _expected(*records), position
            with pytest.raises(DurusKeyError):
                storage.load(int8_to_str(2))


@pytest.mark.parametrize("length", [0, 7, 100, 150, 4000, -1])
def test_index_that_is_cut_gives_right_answers(
    path: Path, index_path: Path, put: Put, contents: Contents, length: int
) -> None:
    """A torn index is made again."""
    with FileStorage(path) as storage:
        records = put(storage, range(20))
    index_path.write_bytes(index_path.read_bytes()[:length])
    with FileStorage(path) as storage:
        assert contents(storage) == _expected(*records)
        records += put(storage, range(30, 60))
    with FileStorage(path) as storage:
        assert contents(storage) == _expected(*records)


def test_damaged_page_is_noticed_when_it_is_used(
    path: Path,
    index_path: Path,
    put: Put,
    contents: Contents,
    warnings_of: Callable[[], list[str]],
) -> None:
    """A page that fails its CRC costs a warning and a scan, for loads and for a pack."""
    with FileStorage(path) as storage:
        records = put(storage, {0: [*range(1, 600)], **{n: [] for n in range(1, 600)}})
    damaged = bytearray(index_path.read_bytes())
    damaged[4096 + 200] ^= 1
    index_path.write_bytes(damaged)
    with FileStorage(path) as storage:
        assert storage.load(int8_to_str(3)) == records[3]
        assert warnings_of() == []
        assert storage.load(int8_to_str(599)) == records[599]
        assert len(warnings_of()) == 1
        assert contents(storage) == _expected(*records)
    index_path.write_bytes(damaged)
    with FileStorage(path) as storage:
        storage.pack()
        assert contents(storage) == _expected(*records)


def test_index_is_left_out_where_it_cannot_be_written(
    path: Path, index_path: Path, put: Put, contents: Contents, warnings_of: Callable[[], list[str]]
) -> None:
    """If the index cannot be written, commit, close and pack go on, with a warning."""
    index_path.mkdir()
    (index_path / "in the way").touch()
    with FileStorage(path) as storage:
        records = put(storage, {0: [1], 1: []})
    assert any("no index is written" in warning for warning in warnings_of())
    with FileStorage(path) as storage:
        storage.pack()
        records = put(storage, [1], b"new") + records[:1]
        assert contents(storage) == _expected(*records)


def test_scattered_oids_work_without_an_index(
    path: Path, put: Put, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oids that are so scattered that an index would be mostly zeros are found all the same."""
    monkeypatch.setattr("durus.file_storage._index._FREE_PAGES", 3)
    monkeypatch.setattr("durus.file_storage._packer._FREE_MAP_BYTES", 1000)
    oid_ints = [0, *(n * 10_007 for n in range(1, 40))]
    with FileStorage(path) as storage:
        records = put(storage, {n: oid_ints if n == 0 else [] for n in oid_ints})
        put(storage, [5])
    assert are_scattered(40, 40)
    with FileStorage(path) as storage:
        storage.pack()
        assert contents(storage) == _expected(*records)
        put(storage, [5])
    assert not path.with_name(f"{path.name}.index").exists()
    with FileStorage(path) as storage:
        assert contents(storage) == _expected(*records, make_record(int8_to_str(5)))
        assert storage.new_oid() == int8_to_str(oid_ints[-1] + 1)


def test_pages_beyond_the_limit_are_read_again(
    path: Path, put: Put, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many pages there are, no more than the limit are held, and answers stay right."""
    monkeypatch.setattr("durus.file_storage._index._PAGES_HELD", 2)
    monkeypatch.setattr("durus.file_storage._marks._PAGES_HELD", 2)
    oid_ints = range(0, 512 * 9, 37)
    with FileStorage(path) as storage:
        records = put(storage, {n: oid_ints if n == 0 else [] for n in oid_ints})
    with FileStorage(path) as storage:
        assert contents(storage) == _expected(*records)
        storage.pack()
        assert contents(storage) == _expected(*records)
    path.with_name(f"{path.name}.index").unlink()
    with FileStorage(path) as storage:
        assert contents(storage) == _expected(*records)


def test_marks_are_a_dictionary_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks remember every offset, though they hold few pages in memory and leave no file."""
    monkeypatch.setattr("durus.file_storage._marks._PAGES_HELD", 3)
    marks = Marks(str(tmp_path))
    expected = {n * n * 1001: n + 1 for n in range(200)}
    for oid_int, offset in expected.items():
        marks.set(oid_int, offset)
    assert {n: marks.find(n) for n in expected} == expected
    assert marks.find(1) == 0
    assert marks.find(2**60) == 0
    assert marks.numbers() == sorted({n >> 9 for n in expected})
    assert list(tmp_path.iterdir()) == []
    marks.close()


def test_index_splits_for_a_pack() -> None:
    """After `split` what comes is found, and what was there is found as it was."""
    index = Index(None)
    index.tail.update({1: 100, 2: 200})
    index.split()
    index.tail[2] = 300
    assert (index.find(1), index.find(2), index.find(3)) == (100, 300, 0)
    assert (index.find_older(1), index.find_older(2)) == (100, 200)
    index.join()
    assert (index.find(1), index.find(2)) == (100, 300)
    assert sorted(index.gen_oids()) == [1, 2]


# The map of a packed file, where there is no index.


@pytest.fixture
def packed(path: Path, index_path: Path, put: Put) -> list[bytes]:
    """Make a packed file with holes, without an index; give what is in it."""
    with FileStorage(path) as storage:
        records = put(storage, {0: [2, 700], **{n: [] for n in range(1, 701)}})
        storage.pack()
    index_path.unlink()
    return [records[0], records[2], records[700]]


def test_map_serves_where_there_is_no_index(
    path: Path, packed: list[bytes], contents: Contents
) -> None:
    """A packed file without an index opens by its own map; holes are no objects and stay unused."""
    with FileStorage(path, readonly=True) as storage:
        assert contents(storage) == _expected(*packed)
        assert storage.describe().object_count is None
    with FileStorage(path) as storage:
        with pytest.raises(DurusKeyError):
            storage.load(int8_to_str(1))
        with pytest.raises(DurusKeyError):
            storage.load(int8_to_str(701))
        assert storage.new_oid() == int8_to_str(701)


def test_map_of_ours_with_any_byte_changed_is_reported(path: Path, packed: list[bytes]) -> None:
    """A map that does not agree with its commit record is a CorruptionError at the first use."""
    whole = path.read_bytes()
    for position in range(len(whole) - 2 * 702, len(whole), 13):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with FileStorage(path) as storage, pytest.raises(CorruptionError, match="offset map"):
            storage.load(int8_to_str(0))


def test_index_log_is_quiet_when_all_is_well(
    path: Path, put: Put, caplog: pytest.LogCaptureFixture
) -> None:
    """Opening, committing, packing and closing say nothing above DEBUG."""
    caplog.set_level(logging.INFO, "durus")
    for _ in range(2):
        with FileStorage(path) as storage:
            put(storage, {0: [1], 1: [], 2: []})
            storage.pack()
    assert caplog.records == []
