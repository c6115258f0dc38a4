"""What `gen_damage` tells of damaged files: all of it, and nothing of whole ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from durus.error import CorruptionError, StorageClosedError, StorageFormatError
from durus.file_storage import FileStorage
from durus.file_storage._storage import JournalStorage
from durus.file_storage2 import FileStorage2
from durus.storage import Damage
from durus.testing import commit, make_record
from durus.testing.crash import crash_points
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Open = Callable[..., JournalStorage]

SHAPES = ["never packed", "packed", "packed, then committed"]


@pytest.fixture(params=[FileStorage, FileStorage2])
def open_file(request: pytest.FixtureRequest) -> Open:
    """Open a file of either format."""
    opener: Open = request.param
    return opener


@pytest.fixture(params=SHAPES)
def files(request: pytest.FixtureRequest, path: Path, open_file: Open, put: Put) -> list[Path]:
    """A database in each shape and its index file, which covers all but the last commit."""
    with open_file(path) as storage:
        for number, graph in enumerate([{0: [1, 2], 1: []}, {2: [1], 1: []}, {0: [2], 3: []}]):
            put(storage, graph, b"%d" % number)
        if request.param != "never packed":
            storage.pack()
        if request.param == "packed, then committed":
            put(storage, {0: [1, 2, 4], 4: []}, b"later")
        storage._journal.write_index()
        if request.param != "packed":
            put(storage, {0: [1, 2], 2: []}, b"last")
    return [path, path.with_name(f"{path.name}.index")]


def _damage(open_file: Open, path: Path) -> list[Damage]:
    with open_file(path, readonly=True) as storage:
        return list(storage.gen_damage())


def _past(open_file: Open, path: Path) -> tuple[object, ...]:
    """Give all that a storage tells of its present and its past."""
    with open_file(path, readonly=True) as storage:
        records = dict(storage.gen_oid_record())
        assert records == {oid: storage.load(oid) for oid in records}
        commits = list(storage.gen_commits())
        past = [storage.load_as_of(int8_to_str(0), serial) for serial, _ in commits]
        return records, commits, past, storage.describe()


def _flips(content: bytes, random: Random) -> Iterator[bytes]:
    """Yield the content with one bit changed at every byte, or at as many as there is time for."""
    limit = crash_points(100)
    places = range(len(content))
    for place in random.sample(places, limit) if 0 < limit < len(content) else places:
        bit = 1 << random.randrange(8)
        yield content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def test_a_whole_file_has_no_damage(open_file: Open, files: list[Path]) -> None:
    """Nothing is told of a file that is as it was written, to a reader or to the writer."""
    assert _damage(open_file, files[0]) == []
    with open_file(files[0]) as storage:
        assert list(storage.gen_damage()) == []


@pytest.mark.parametrize("damaged", [0, 1], ids=["the file", "its index"])
def test_a_changed_bit_is_told_or_means_nothing(
    open_file: Open, files: list[Path], damaged: int
) -> None:
    """Wherever a bit is changed: opening refuses, or it is told, or all that is read is right."""
    path, content = files[damaged], files[damaged].read_bytes()
    right = _past(open_file, files[0])
    told = 0
    for changed in _flips(content, Random(6)):
        path.write_bytes(changed)
        try:
            if _damage(open_file, files[0]):
                told += 1
                continue
        except (CorruptionError, StorageFormatError):
            continue
        assert _past(open_file, files[0]) == right
    assert told > 5


def test_all_damage_is_told(path: Path, open_file: Open, put: Put) -> None:
    """Two damaged transactions are told, and each object whose newest entry was in them."""
    with open_file(path) as storage:
        ends = [path.stat().st_size]
        for number in range(6):
            # What an index looks at of the journal, its first and its last bytes, stays whole.
            put(storage, {0: [], number + 1: []}, b"x" * (50 if 0 < number < 5 else 5000))
            ends.append(path.stat().st_size)
        storage._journal.write_index()
    content = bytearray(path.read_bytes())
    for number in (1, 3):
        content[ends[number + 1] - 100] ^= 1
    path.write_bytes(content)
    found = _damage(open_file, path)
    assert {ends[1], ends[3]} <= {damage.offset for damage in found}
    assert {damage.oid for damage in found if damage.oid} == {int8_to_str(2), int8_to_str(4)}


def test_two_damaged_objects_of_a_base_are_told(path: Path, open_file: Open, put: Put) -> None:
    """Of a packed file, each entry that does not hold together is told."""
    with open_file(path) as storage:
        put(storage, {0: [1, 2, 3, 4], 1: [], 2: [], 3: [], 4: []}, b"x" * 50)
        storage.pack()
        offsets = {n: storage._journal.find(n) for n in (1, 3)}
        storage._journal.write_index()
    content = bytearray(path.read_bytes())
    for offset in offsets.values():
        # The length of the data, which then does not fit the length of the entry.
        content[offset + storage._format.header.size - 1] ^= 1
    path.write_bytes(content)
    found = _damage(open_file, path)
    assert set(offsets.values()) <= {damage.offset for damage in found}
    assert {int8_to_str(1), int8_to_str(3)} <= {damage.oid for damage in found}


def test_the_end_is_told_if_it_is_not_whole(path: Path, open_file: Open, put: Put) -> None:
    """A reader tells of a torn end; the writer, who has set it aside, does not."""
    with open_file(path) as storage:
        put(storage, {0: []})
        end = path.stat().st_size
        put(storage, {0: [], 1: []})
    path.write_bytes(path.read_bytes()[:-10])
    (found,) = _damage(open_file, path)
    assert (found.offset, found.oid) == (end, None)
    assert "torn end" in found.text
    with open_file(path) as storage:
        assert list(storage.gen_damage()) == []
    assert _damage(open_file, path) == []


def test_an_index_of_another_state_is_no_damage(path: Path, open_file: Open, put: Put) -> None:
    """An index file that is only out of date, as after a pack of Durus 4.3, is not told."""
    with open_file(path) as storage:
        put(storage, {0: [1], 1: []})
        storage._journal.write_index()
    index = path.with_name(f"{path.name}.index")
    old = index.read_bytes()
    path.unlink()
    with open_file(path) as storage:
        put(storage, {0: [2], 2: []})
    index.write_bytes(old)
    assert _damage(open_file, path) == []


def test_a_reader_tells_of_what_it_sees_beside_a_writer(
    path: Path, open_file: Open, put: Put
) -> None:
    """What is committed while a reader looks is no damage."""
    with open_file(path) as writer:
        put(writer, {0: []})
        with open_file(path, readonly=True) as reader:
            found = reader.gen_damage()
            put(writer, {0: [1], 1: []})
            assert list(found) == []
            writer.pack()
            assert list(reader.gen_damage()) == []


def test_closed(path: Path, open_file: Open) -> None:
    """After close it raises."""
    storage = open_file(path)
    commit(storage, make_record(int8_to_str(0)))
    storage.close()
    with pytest.raises(StorageClosedError):
        storage.gen_damage()
