"""The pictures of the DFS20 file tell the truth, and what is packed can be followed in it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.file_storage._commit_record import BASE, SYNCED, UNSYNCED, Commit
from durus.file_storage._file import open_file
from durus.file_storage2 import FileStorage2, _format
from durus.file_storage2._commit_record import pack_commit, parse_commit
from durus.file_storage2._format import DFS20
from durus.serialize import check_proof, extract_class_path, unpack_record
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
