"""A DFS20 file whose end is not whole: what is torn is set aside, damage reported and repaired."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.error import CorruptionError
from durus.file_storage2 import FileStorage2
from durus.file_storage2._format import DFS20
from durus.serialize import pack_record
from durus.testing import make_record
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage2], dict[int, bytes]]
States = list[tuple[int, dict[int, bytes]]]

EMPTY = DFS20.empty_file


@pytest.fixture
def commits(path: Path, put: Put) -> States:
    """Make a database of three commits; give its length and contents after each."""
    states: States = []
    state: dict[int, bytes] = {}
    with FileStorage2(path) as storage:
        for number, graph in enumerate([{0: [1, 2], 1: []}, {2: [1], 1: []}, {0: [2], 3: []}]):
            records = put(storage, graph, b"%d" % number)
            state = state | {int.from_bytes(record[:8], "big"): record for record in records}
            states.append((path.stat().st_size, state))
    return states


def old_record(oid_int: int, state: bytes = b"\x80\x02}q\x01.") -> bytes:
    """Give a record in the form of Durus 4.3."""
    data = b"\x80\x02cdurus.persistent_dict\nPersistentDict\nq\x00." + zlib.compress(state)
    return pack_record(int8_to_str(oid_int), data, b"")


def old_transaction(*records: bytes) -> bytes:
    """Give a transaction as Durus 4.3 writes it: without a commit record."""
    entries = b"".join(len(record).to_bytes(4, "big") + record for record in records)
    return entries + bytes(4)


def test_every_cut_opens_to_the_last_whole_commit(
    path: Path, commits: States, put: Put, contents: Contents
) -> None:
    """Cut at any byte, the file opens to what was committed before; the rest is set aside."""
    whole = path.read_bytes()
    for length in range(len(EMPTY), len(whole)):
        path.write_bytes(whole[:length])
        end, state = ([(len(EMPTY), {})] + [s for s in commits if s[0] <= length])[-1]
        with FileStorage2(path, readonly=True) as storage:
            assert contents(storage) == state
        assert path.stat().st_size == length
        with FileStorage2(path, durable=False) as storage:
            assert contents(storage) == state
            put(storage, [9])
        with FileStorage2(path, readonly=True) as storage:
            assert contents(storage) == state | {9: make_record(int8_to_str(9))}
        aside = {p: p.read_bytes() for p in path.parent.glob("*.torn-*")}
        expected = {Path(f"{path}.torn-{end}"): whole[end:length]} if end < length else {}
        assert aside == expected
        for torn in aside:
            torn.unlink()


def test_every_zeroed_part_of_the_last_commit_is_torn(
    path: Path, commits: States, contents: Contents
) -> None:
    """A block that did not reach the disk reads as terminators; only whole transactions count."""
    whole = path.read_bytes()
    start = commits[-2][0]
    for first in range(start, len(whole), 3):
        for last in range(first + 4, len(whole), 7):
            if whole[first:last].strip(b"\0"):
                path.write_bytes(whole[:first] + bytes(last - first) + whole[last:])
                with FileStorage2(path, readonly=True) as storage:
                    assert contents(storage) == commits[-2][1]


def test_zeros_where_entries_begin_are_no_end_of_a_transaction(
    path: Path, put: Put, contents: Contents
) -> None:
    """What remains after zeros in place of the commit record is no transaction of Durus 4.3."""
    with FileStorage2(path) as storage:
        [record] = put(storage, [0], b"first")
        start = path.stat().st_size
        put(storage, [0, 1, 2], b"second")
    whole = path.read_bytes()
    for stop in range(start + 82, len(whole), 1):
        path.write_bytes(whole[:start] + bytes(stop - start) + whole[stop:])
        with FileStorage2(path, readonly=True) as storage:
            assert contents(storage) == {0: record}


def test_damage_before_a_commit_is_an_error_that_changes_nothing(
    path: Path, commits: States
) -> None:
    """Any byte changed in what other commits follow is told, with its place."""
    whole = path.read_bytes()
    start, end = commits[0][0], commits[1][0]
    for position in range(start, end):
        damaged = bytearray(whole)
        damaged[position] ^= 0x20
        path.write_bytes(damaged)
        with pytest.raises(CorruptionError) as caught:
            FileStorage2(path)
        assert caught.value.offset == start
        assert path.read_bytes() == damaged


def test_repair_keeps_the_transactions_that_prove_themselves(
    path: Path, commits: States, contents: Contents
) -> None:
    """What is whole after the damage is kept, and the damaged file too."""
    damaged = bytearray(path.read_bytes())
    damaged[commits[0][0] + 100] ^= 1
    path.write_bytes(damaged)
    with FileStorage2(path, repair=True) as storage:
        assert contents(storage) == commits[0][1] | {n: commits[2][1][n] for n in (0, 3)}
    assert path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    FileStorage2(path).close()


def test_transactions_of_durus_4_3_are_taken_as_they_are(
    path: Path, commits: States, put: Put, contents: Contents
) -> None:
    """A later entry counts, in a transaction too; ours go on after it."""
    old = [old_record(1), old_record(8, b"\x80\x02}q\x02."), old_record(8)]
    with path.open("ab") as file:
        file.write(old_transaction(*old) + bytes(8) + old_transaction(old_record(2)))
    expected = commits[-1][1] | {1: old[0], 8: old[2], 2: old_record(2)}
    with FileStorage2(path) as storage:
        assert contents(storage) == expected
        [record] = put(storage, [4])
    with FileStorage2(path) as storage:
        assert contents(storage) == expected | {4: record}
        storage.pack()
        assert contents(storage).keys() == {0, 2}


def test_unfinished_transaction_of_durus_4_3_is_torn(
    path: Path, commits: States, contents: Contents
) -> None:
    """Without its terminator it was not acknowledged."""
    whole = path.read_bytes()
    added = old_transaction(old_record(1), old_record(2))
    for length in range(1, len(added) - 3):
        path.write_bytes(whole + added[:length])
        with FileStorage2(path, readonly=True) as storage:
            assert contents(storage) == commits[-1][1]


def test_damaged_transaction_of_durus_4_3_before_a_whole_one(path: Path, commits: States) -> None:
    """A whole transaction that follows shows that the damaged one had been there."""
    whole = path.read_bytes()
    damaged = bytearray(old_transaction(old_record(1), old_record(2)))
    damaged[3] ^= 0x40
    path.write_bytes(whole + damaged + old_transaction(old_record(3)))
    with pytest.raises(CorruptionError) as caught:
        FileStorage2(path)
    assert caught.value.offset == commits[-1][0]


def test_long_run_of_zeros_in_the_middle_is_passed_over(
    path: Path, commits: States, contents: Contents
) -> None:
    """Durus 4.3 goes on after zeros that a crash left: they are empty transactions."""
    with path.open("ab") as file:
        file.write(bytes(4_000_000) + old_transaction(old_record(5)))
    with FileStorage2(path) as storage:
        assert contents(storage) == commits[-1][1] | {5: old_record(5)}


def test_zeros_at_the_end_are_torn(path: Path, commits: States, contents: Contents) -> None:
    """Zeros to the end of the file are no transactions."""
    end = commits[-1][0]
    for length in (1, 3, 4, 5, 8, 4096):
        with path.open("ab") as file:
            file.write(bytes(length))
        with FileStorage2(path) as storage:
            assert contents(storage) == commits[-1][1]
        assert path.stat().st_size == end
        [torn] = path.parent.glob("*.torn-*")
        assert torn.read_bytes() == bytes(length)
        torn.unlink()


def test_oid_that_changed_is_noticed_by_a_walk(path: Path, put: Put, contents: Contents) -> None:
    """Damage that an index spares the opening to look at does not hide an object from a walk."""
    with FileStorage2(path) as storage:
        put(storage, {n: [n + 1] for n in range(3)} | {3: []})
        storage.pack()
    raw = bytearray(path.read_bytes())
    position = raw.index(make_record(int8_to_str(2), [int8_to_str(3)])) + 7
    for oid_int in (1, 9):
        raw[position] = oid_int
        path.write_bytes(raw)
        with FileStorage2(path) as storage, pytest.raises(CorruptionError):
            contents(storage)
