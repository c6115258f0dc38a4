"""A file whose end is not whole: torn tails are set aside, damage is reported and repaired."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.error import CorruptionError, DurusKeyError, StorageError, StorageOpenError
from durus.file_storage import FileStorage
from durus.file_storage._commit_record import SYNCED, Commit, pack_commit
from durus.file_storage._shelf import EMPTY_FILE
from durus.serialize import pack_record
from durus.testing import make_record
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage], dict[int, bytes]]
States = list[tuple[int, dict[int, bytes]]]


def _old_record(oid_int: int, state: bytes = b"\x80\x02}q\x01.") -> bytes:
    """Give a record in the form of Durus 4.3."""
    data = b"\x80\x02cdurus.persistent_dict\nPersistentDict\nq\x00." + zlib.compress(state)
    return pack_record(int8_to_str(oid_int), data, b"")


def _old_transaction(*records: bytes) -> bytes:
    """Give a transaction as Durus 4.3 writes it: without a commit record."""
    entries = b"".join(int8_to_str(len(r) + 8) + r[:8] + r for r in records)
    return int8_to_str(len(entries)) + entries


def _torn_files(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.torn-*"))


def test_every_cut_opens_to_the_last_whole_commit(
    path: Path, three_commits: States, put: Put, contents: Contents
) -> None:
    """Cut at any byte, the file opens to what was committed before; the rest is set aside."""
    whole = path.read_bytes()
    for length in range(len(EMPTY_FILE), len(whole)):
        path.write_bytes(whole[:length])
        end, state = ([(len(EMPTY_FILE), {})] + [s for s in three_commits if s[0] <= length])[-1]
        with FileStorage(path, readonly=True) as storage:
            assert contents(storage) == state
        assert path.stat().st_size == length
        with FileStorage(path, durable=False) as storage:
            assert contents(storage) == state
            put(storage, [9])
        with FileStorage(path, readonly=True) as storage:
            assert contents(storage) == state | {9: make_record(int8_to_str(9))}
        aside = {p: p.read_bytes() for p in _torn_files(path)}
        expected = {Path(f"{path}.torn-{end}"): whole[end:length]} if end < length else {}
        assert aside == expected
        for torn in aside:
            torn.unlink()


@pytest.mark.parametrize("tail", [b"\0", bytes(8), bytes(4096), b"\xff" * 40, b"garbage" * 99])
def test_tail_that_is_no_transaction_is_set_aside(
    path: Path,
    three_commits: States,
    tail: bytes,
    contents: Contents,
    warnings_of: Callable[[], list[str]],
) -> None:
    """Zeros and garbage after the last commit are set aside with a warning."""
    end, state = three_commits[-1]
    with path.open("ab") as file:
        file.write(tail)
    with FileStorage(path) as storage:
        assert contents(storage) == state
    assert path.stat().st_size == end
    [torn] = _torn_files(path)
    assert torn.read_bytes() == tail
    [warning] = warnings_of()
    assert str(path) in warning
    assert f"{len(tail)} bytes" in warning
    assert str(torn) in warning


def test_each_torn_tail_is_kept(path: Path, three_commits: States) -> None:
    """A second torn tail at the same offset goes into a file of its own; the same one does not."""
    end = three_commits[-1][0]
    for tail in (b"first", b"second", b"first"):
        with path.open("ab") as file:
            file.write(tail)
        FileStorage(path).close()
    torn = Path(f"{path}.torn-{end}")
    assert {p.name: p.read_bytes() for p in _torn_files(path)} == {
        torn.name: b"first",
        f"{torn.name}-2": b"second",
    }


def test_last_transaction_damaged_inside_is_torn(
    path: Path, three_commits: States, contents: Contents
) -> None:
    """Zeros inside the last transaction, its commit record intact, are what a power cut leaves."""
    whole = path.read_bytes()
    start = three_commits[1][0]
    path.write_bytes(whole[: start + 40] + bytes(16) + whole[start + 56 :])
    with FileStorage(path) as storage:
        assert contents(storage) == three_commits[1][1]


def test_damage_before_a_commit_is_an_error_that_changes_nothing(
    path: Path, tmp_path: Path, three_commits: States
) -> None:
    """Where a later commit is intact, an error names file, offset, objects; nothing is cut."""
    whole = bytearray(path.read_bytes())
    start = three_commits[0][0]
    whole[start + 60] ^= 4
    path.write_bytes(whole)
    for options in ({"readonly": True}, {"readonly": False}):
        with pytest.raises(CorruptionError) as caught:
            FileStorage(path, **options)
        error = caught.value
        assert (error.path, error.offset, error.oid) == (str(path), start, int8_to_str(2))
        for part in (str(path), f"offset {start}", "Objects concerned: 2, 1", "repair=True"):
            assert part in str(error)
    assert path.read_bytes() == whole
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_lost_commit_that_was_not_synced_is_torn(path: Path, put: Put, contents: Contents) -> None:
    """Commits with durable=False prove nothing: damage among them is a torn tail, from there on."""
    lengths = []
    with FileStorage(path, durable=False) as storage:
        for number in range(3):
            put(storage, [number])
            lengths.append(path.stat().st_size)
    whole = path.read_bytes()
    path.write_bytes(whole[: lengths[0]] + bytes(8) + whole[lengths[0] + 8 :])
    with FileStorage(path) as storage:
        assert sorted(contents(storage)) == [0]


def test_synced_commit_after_unsynced_ones_proves_them(path: Path, put: Put) -> None:
    """A durable opening syncs what it finds, so damage before its commits is corruption."""
    with FileStorage(path, durable=False) as storage:
        put(storage, [0])
        start = path.stat().st_size
        put(storage, [1])
    with FileStorage(path) as storage:
        put(storage, [2])
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + bytes(8) + whole[start + 8 :])
    with pytest.raises(CorruptionError, match="commit 3"):
        FileStorage(path)


def test_length_that_lost_a_byte_does_not_split_a_transaction(
    path: Path, put: Put, contents: Contents
) -> None:
    """If a damaged length ends at an entry, what it spans is not taken for a transaction."""
    with FileStorage(path) as storage:
        put(storage, [0])
        start = path.stat().st_size
        first, *_ = put(storage, [1, 2, 3])
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + int8_to_str(len(first) + 16) + whole[start + 8 :])
    with FileStorage(path) as storage:
        assert sorted(contents(storage)) == [0]
    [torn] = _torn_files(path)
    assert torn.name.endswith(f"torn-{start}")


# What Durus 4.3 writes.


def test_transactions_of_durus_4_3_are_taken_as_they_are(
    path: Path, three_commits: States, put: Put, contents: Contents
) -> None:
    """Whole transactions without a commit record count, between ours, and our chain goes on."""
    state = dict(three_commits[-1][1])
    for oid_int in (1, 7):
        with path.open("ab") as file:
            file.write(_old_transaction(_old_record(oid_int)))
        state[oid_int] = _old_record(oid_int)
        with FileStorage(path) as storage:
            assert contents(storage) == state
            description = storage.describe()
            assert description.last_commit_time is None
            assert storage.new_oid() == int8_to_str(max(state) + 1)
            put(storage, [0])
        state[0] = make_record(int8_to_str(0))
    with FileStorage(path, readonly=True) as storage:
        assert contents(storage) == state
        description = storage.describe()
        assert description.transaction_count == 7
        assert description.last_commit_time is not None


def test_empty_transactions_of_durus_4_3_are_passed_over(
    path: Path, three_commits: States, put: Put, contents: Contents
) -> None:
    """Lengths of zero before a whole transaction are empty transactions."""
    with path.open("ab") as file:
        file.write(bytes(24) + _old_transaction(_old_record(5)))
    with FileStorage(path) as storage:
        assert sorted(contents(storage)) == [0, 1, 2, 3, 5]
        put(storage, [6])
    with FileStorage(path) as storage:
        assert sorted(contents(storage)) == [0, 1, 2, 3, 5, 6]


def test_unfinished_transaction_of_durus_4_3_is_torn(
    path: Path, three_commits: States, contents: Contents
) -> None:
    """Entries after a length of zero, which 4.3 writes last, are a torn tail."""
    end, state = three_commits[-1]
    with path.open("ab") as file:
        file.write(bytes(8) + _old_transaction(_old_record(1), _old_record(9))[8:])
    with FileStorage(path) as storage:
        assert contents(storage) == state
    assert path.stat().st_size == end


@pytest.mark.parametrize(
    "left",
    [bytes(8), bytes(24), bytes(8) + int8_to_str(100), bytes(8) + int8_to_str(100) + b"entry"],
    ids=["empty", "three empty ones", "a length", "an entry"],
)
def test_what_our_clients_stored_with_a_server_of_durus_4_3_is_kept(
    path: Path, three_commits: States, contents: Contents, left: bytes
) -> None:
    """Whole transactions of 4.3 with records of our form count, whatever 4.3 began after them."""
    state = dict(three_commits[-1][1])
    state[9] = make_record(int8_to_str(9))
    with path.open("ab") as file:
        file.write(_old_transaction(state[9]))
        end = file.tell()
        file.write(left)
    with FileStorage(path, readonly=True) as storage:
        assert contents(storage) == state
    with FileStorage(path) as storage:
        assert contents(storage) == state
    assert path.stat().st_size == end


def test_damaged_transaction_of_durus_4_3_before_a_whole_one(
    path: Path, three_commits: States
) -> None:
    """Damage that a whole transaction of Durus 4.3 follows is corruption as well."""
    end = three_commits[-1][0]
    damaged = bytearray(_old_transaction(_old_record(1)))
    damaged[9 + 8] ^= 1
    with path.open("ab") as file:
        file.write(damaged + _old_transaction(_old_record(7)))
    with pytest.raises(CorruptionError, match="whole transaction") as caught:
        FileStorage(path)
    assert caught.value.offset == end


# Claims that cannot be true.


@pytest.mark.parametrize("claim", [2**64 - 1, 2**63, 2**40])
@pytest.mark.parametrize("position", [8, 16, 24, 32, 40, 48])
def test_huge_length_takes_no_memory(
    path: Path, three_commits: States, claim: int, position: int
) -> None:
    """A length that nobody could have written is reported or torn off, not believed."""
    whole = path.read_bytes()
    path.write_bytes(whole[:position] + int8_to_str(claim) + whole[position + 8 :])
    with pytest.raises(CorruptionError):
        FileStorage(path)


def test_entry_that_changed_under_an_index_is_reported(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an index leads to something else than the object's entry, `load` says so."""
    monkeypatch.setattr("durus.file_storage._journal._TAIL_AT_CLOSE", 1)
    with FileStorage(path) as storage:
        records = put(storage, range(200), b"x" * 40)
    whole = bytearray(path.read_bytes())
    offset = whole.index(records[100]) - 16
    for position in (offset, offset + 15, offset + 23, offset + 24):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        with FileStorage(path) as storage:
            assert storage.load(int8_to_str(99)) == records[99]
            with pytest.raises(CorruptionError) as caught:
                storage.load(int8_to_str(100))
        assert (caught.value.path, caught.value.offset) == (str(path), offset)
        assert caught.value.oid == int8_to_str(100)


# Repair.


def test_repair_of_a_whole_file_changes_nothing(
    path: Path, tmp_path: Path, three_commits: States, contents: Contents
) -> None:
    """With repair=True a whole file opens as ever."""
    whole = path.read_bytes()
    with FileStorage(path, repair=True) as storage:
        assert contents(storage) == three_commits[-1][1]
    assert path.read_bytes() == whole
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_repair_sets_a_torn_tail_aside_as_ever(
    path: Path, three_commits: States, contents: Contents
) -> None:
    """A torn tail is no damage to a repair."""
    with path.open("ab") as file:
        file.write(b"half a commit")
    with FileStorage(path, repair=True) as storage:
        assert contents(storage) == three_commits[-1][1]
    assert len(_torn_files(path)) == 1


def test_repair_keeps_the_transactions_that_prove_themselves(
    path: Path,
    three_commits: States,
    put: Put,
    contents: Contents,
    warnings_of: Callable[[], list[str]],
) -> None:
    """Without the damaged transaction the others are there, in order, and can be added to."""
    damaged = bytearray(path.read_bytes())
    start, end = three_commits[0][0], three_commits[1][0]
    damaged[start + 60] ^= 4
    path.write_bytes(damaged)
    expected = three_commits[0][1] | {
        n: record for n, record in three_commits[2][1].items() if n in (0, 3)
    }
    with FileStorage(path, repair=True) as storage:
        assert contents(storage) == expected
        put(storage, [4])
    assert Path(f"{path}.damaged").read_bytes() == damaged
    assert any(f"bytes {start} to {end}" in warning for warning in warnings_of())
    with FileStorage(path) as storage:
        assert contents(storage) == expected | {4: make_record(int8_to_str(4))}
        storage.pack()


def test_repair_mends_a_length(path: Path, three_commits: States, contents: Contents) -> None:
    """If a length alone is damaged, its transaction still proves itself."""
    whole = path.read_bytes()
    start = three_commits[0][0]
    path.write_bytes(whole[:start] + int8_to_str(77) + whole[start + 8 :])
    with FileStorage(path, repair=True) as storage:
        assert contents(storage) == three_commits[-1][1]


@pytest.mark.parametrize("position", [8, 16, 20, 60, 100, 400, -50, -30, -20, -10, -1])
def test_repair_of_a_base_keeps_its_other_objects(
    path: Path, put: Put, contents: Contents, position: int
) -> None:
    """Of a base that is damaged, or its map, every record that proves itself is kept."""
    with FileStorage(path) as storage:
        records = put(storage, {0: [1, 2, 3], **{n: [] for n in range(1, 4)}})
        storage.pack()
        size = path.stat().st_size
        put(storage, [9])
    path.with_name(f"{path.name}.index").unlink()
    damaged = bytearray(path.read_bytes())
    damaged[position + (size if position < 0 else 0)] ^= 0x10
    path.write_bytes(damaged)
    with FileStorage(path, repair=True) as storage:
        found = contents(storage)
        assert found.pop(9) == make_record(int8_to_str(9))
        expected = {int.from_bytes(record[:8], "big"): record for record in records}
        assert found.items() <= expected.items()
        assert len(found) >= 3
        with pytest.raises(DurusKeyError):
            storage.load(int8_to_str(8))
    assert Path(f"{path}.damaged").read_bytes() == damaged


def test_every_damaged_file_is_kept(path: Path, three_commits: States) -> None:
    """A second repair keeps what it found under another name than the first."""
    for number in (1, 2):
        damaged = bytearray(path.read_bytes())
        damaged[len(EMPTY_FILE) + 60] ^= number
        path.write_bytes(damaged)
        FileStorage(path, repair=True).close()
        if number == 1:
            with FileStorage(path) as storage:
                storage.begin()
                storage.store(int8_to_str(1), make_record(int8_to_str(1)))
                storage.end()
    assert Path(f"{path}.damaged").exists()
    assert Path(f"{path}.damaged-2").exists()


def test_repair_that_was_interrupted_is_done_again(path: Path, three_commits: States) -> None:
    """If the damaged file has its second name already, it gets no third."""
    damaged = bytearray(path.read_bytes())
    damaged[len(EMPTY_FILE) + 60] ^= 1
    path.write_bytes(damaged)
    Path(f"{path}.damaged").hardlink_to(path)
    FileStorage(path, repair=True).close()
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, f"{path.name}.damaged"]
    assert Path(f"{path}.damaged").read_bytes() == damaged


def test_repair_needs_to_write(path: Path, three_commits: States) -> None:
    """A repair of what is opened read-only is refused."""
    with pytest.raises(StorageOpenError, match="read-only"):
        FileStorage(path, readonly=True, repair=True)


@given(data=st.data())
def test_repair_of_anything_opens_or_says_why(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """However the file is mangled, a repair gives a storage that opens, or a StorageError."""
    path = tmp_path_factory.mktemp("mangled") / "app.durus"
    with FileStorage(path, durable=False) as storage:
        for number in range(4):
            storage.begin()
            for n in (0, number):
                record = make_record(int8_to_str(n), payload=b"%d" % number)
                storage.store(int8_to_str(n), record)
            storage.end()
            if number == 1:
                storage.pack()
    mangled = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(8, len(mangled)))
        cut = data.draw(st.integers(0, 40))
        mangled[at : at + cut] = data.draw(st.binary(max_size=40))
    path.write_bytes(mangled)
    try:
        with FileStorage(path, repair=True, durable=False) as storage:
            list(storage.gen_oid_record())
    except StorageError:
        return
    with FileStorage(path, durable=False) as storage:
        list(storage.gen_oid_record())


def test_commit_record_alone_is_no_proof_of_another_history(
    path: Path, three_commits: States, contents: Contents
) -> None:
    """A commit record of an earlier serial in a torn tail, as in a stored file, is nothing."""
    end, state = three_commits[-1]
    embedded = pack_commit(Commit(SYNCED, 1, 2, 3, 0))
    with path.open("ab") as file:
        file.write(int8_to_str(10_000) + b"some object that holds " + embedded + b" and is torn")
    with FileStorage(path) as storage:
        assert contents(storage) == state
    assert path.stat().st_size == end
