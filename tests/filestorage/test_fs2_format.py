"""The pictures of the DFS20 file tell the truth, and what is packed can be followed in it."""

from __future__ import annotations

import pickle
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.error import CorruptionError
from durus.file_storage._commit_record import BASE, COMMIT_MARK, SYNCED, UNSYNCED, Commit
from durus.file_storage._file import open_file
from durus.file_storage2 import FileStorage2, _format
from durus.file_storage2._commit_record import COMMIT_MARK_OFFSET, pack_commit, parse_commit
from durus.file_storage2._format import DFS20
from durus.serialize import check_proof, extract_class_path, pack_record, unpack_record
from durus.testing.records import make_record
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]


def commits_in(path: Path) -> list[tuple[int, Commit]]:
    """Give the commit records in a file and where they are."""
    file = open_file(str(path), readonly=True)
    return list(DFS20.gen_commits(file, 0, file.length()))


def test_example_is_a_database(path: Path) -> None:
    """The worked example opens, holds what it says, and its commit record proves it."""
    example = (_format.__doc__ or "").rpartition("Example: ")[2]
    lines = re.findall(r"^    ((?:[0-9a-f]{2} {0,2})+)(?= |$)", example, re.MULTILINE)
    raw = bytes.fromhex(" ".join(lines))
    path.write_bytes(raw)
    with FileStorage2(path, readonly=True) as storage:
        [(oid, record)] = storage.gen_oid_record()
        assert oid == int8_to_str(0)
        assert len(unpack_record(record)[1]) == 70
        assert extract_class_path(record) == "durus.persistent_dict.PersistentDict"
        told = storage.describe()
    assert (told.format, told.transaction_count) == ("DFS20", 1)
    assert told.last_commit_time is not None
    assert told.last_commit_time.timestamp() == 1_700_000_000
    assert raw.startswith(DFS20.empty_file)


@pytest.mark.parametrize("commit_format", [SYNCED, BASE, UNSYNCED])
def test_commit_record_is_an_ordinary_record(commit_format: int) -> None:
    """To others a commit record is the proven record of an `object` whose state is bytes."""
    base = (5, 7) if commit_format == BASE else (0, 0)
    commit = Commit(commit_format, 1, 2, 3, 4, base[0], 6, base[1])
    entry = pack_commit(int8_to_str(9), commit)
    assert len(entry) == DFS20.commit_bytes(commit) == int.from_bytes(entry[:4], "big") + 4
    oid, data, refs = unpack_record(entry[4:])
    assert (oid, refs) == (int8_to_str(9), b"")
    assert check_proof(entry[4:])
    assert extract_class_path(entry[4:]) == "builtins.object"
    assert isinstance(pickle.loads(data[data.index(b"\n.") + 2 :]), bytes)
    assert parse_commit(entry) == commit


def test_commit_record_with_any_bit_changed_is_none() -> None:
    """Every bit of a commit record counts."""
    entry = pack_commit(int8_to_str(9), Commit(SYNCED, 0xDEADBEEF, 17, 3, 99, 0, 500))
    for position in range(len(entry) * 8):
        damaged = bytearray(entry)
        damaged[position >> 3] ^= 1 << (position & 7)
        assert parse_commit(bytes(damaged)) is None


def test_commit_record_comes_first_under_the_oid_that_follows(path: Path, put: Put) -> None:
    """So Durus 4.3, where a later entry counts, needs no oid for it."""
    with FileStorage2(path) as storage:
        records = put(storage, [7, 3])
    [(offset, commit)] = commits_in(path)
    raw = path.read_bytes()
    assert offset == len(DFS20.empty_file)
    assert raw[offset + 4 : offset + 12] == raw[offset + 86 : offset + 94] == int8_to_str(7)
    assert raw[offset + 86 : offset + 86 + len(records[0])] == records[0]
    assert offset + 82 + commit.following == len(raw)


def test_commits_during_a_pack_keep_order_time_and_serial(path: Path, put: Put) -> None:
    """A base takes over the last commit that it covers, and the ones that follow are copied."""
    with FileStorage2(path) as storage:
        put(storage, {0: [1], 1: []})
        put(storage, [1], b"2")
        steps = storage.get_packer()
        next(steps)
        put(storage, [1], b"3")
        put(storage, {0: [1, 2], 2: []}, b"4")
        before = commits_in(path)
        for _ in steps:
            pass
    base, *later = commits_in(path)
    assert base[0] == 14
    assert (base[1].format, base[1].serial, base[1].time_us) == (BASE, 2, before[1][1].time_us)
    assert [commit.serial for _, commit in later] == [3, 4]
    assert [commit.time_us for _, commit in later] == [c.time_us for _, c in before[2:]]
    assert [commit.previous for _, commit in later] == [14, later[0][0]]


def test_oid_is_not_used_twice(path: Path, put: Put) -> None:
    """An oid that was given out stays so: across a pack that drops its object, and reopened."""
    with FileStorage2(path) as storage:
        put(storage, {0: [], 1: []})
        given = storage.new_oid()
        put(storage, [int.from_bytes(given, "big")])
        storage.pack()
    path.with_name(f"{path.name}.index").unlink(missing_ok=True)
    with FileStorage2(path) as storage:
        assert storage.new_oid() > given


def test_new_file_is_that_of_durus_4_3(path: Path) -> None:
    """A new file is byte for byte what Durus 4.3 makes."""
    FileStorage2(path).close()
    raw = path.read_bytes()
    golden = Path(__file__).parents[1] / "compat" / "golden" / "dfs20-empty.durus"
    assert golden.read_bytes().startswith(raw)


@pytest.mark.parametrize("is_whole", [True, False], ids=["the mark", "all of it"])
def test_a_base_with_a_damaged_mark_is_refused(path: Path, put: Put, is_whole: bool) -> None:
    """It is not taken for one of Durus 4.3, whichever bit it is; a repair keeps its records."""
    with FileStorage2(path) as storage:
        put(storage, {0: [1], 1: []})
        storage.pack()
        put(storage, {1: []}, b"later")
        records = dict(storage.gen_oid_record())
    content = path.read_bytes()
    start = _format.BASE_START + COMMIT_MARK_OFFSET
    places = [(start + place, bit) for place in range(len(COMMIT_MARK)) for bit in range(8)]
    for place, bit in places if is_whole else [(start, 0)]:
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        if not is_whole:
            changed[start : start + 60] = bytes(60)
        path.write_bytes(changed)
        with pytest.raises(CorruptionError, match="at offset 14, found what is left of a base's"):
            FileStorage2(path)
    with FileStorage2(path, repair=True) as storage:
        assert dict(storage.gen_oid_record()) == records


def test_a_root_that_a_pack_of_4_3_wrote_twice(path: Path) -> None:
    """A base of 4.3 whose first entry has the length of a commit record, and is no older one."""
    oid = int8_to_str(0)
    data = b"\x80\x02cdurus.persistent_dict\nPersistentDict\nq\0."
    data += b"\x80\x02}q\1U\4dataq\2}q\3s.".ljust(_format.BASE_ENTRY_BYTES - 16 - len(data), b"0")
    first = pack_record(oid, data, b"")
    assert len(first) == _format.BASE_ENTRY_BYTES - 4
    last = make_record(oid, [], b"changed during the pack")
    entries = b"".join(len(record).to_bytes(4, "big") + record for record in (first, last))
    index = zlib.compress(pickle.dumps({oid: _format.BASE_START + 4 + len(first)}, 2))
    map_offset = _format.BASE_START + len(entries) + 4
    parts = (b"DFS20\0", map_offset.to_bytes(8, "big"), entries, bytes(4))
    path.write_bytes(b"".join(parts) + len(index).to_bytes(8, "big") + index)
    with FileStorage2(path) as storage:
        assert storage.load(oid) == last
        assert list(storage.gen_damage()) == []
