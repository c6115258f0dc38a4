"""Past states of a FileStorage: all since the last pack, and none that was not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.error import (
    CorruptionError,
    DurusKeyError,
    NotSupportedError,
    StorageClosedError,
    StorageError,
)
from durus.file_storage import FileStorage
from durus.file_storage._file import File
from durus.file_storage._history import History
from durus.serialize import ROOT_OID
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Put = Callable[..., list[bytes]]

ONE, TWO, THREE = (int8_to_str(n) for n in (1, 2, 3))


def _serials(storage: FileStorage) -> list[int]:
    return [serial for serial, _ in storage.gen_commits()]


def _is_there(storage: FileStorage, oid: bytes, serial: int) -> bool:
    try:
        storage.load_as_of(oid, serial)
    except DurusKeyError:
        return False
    return True


def append_without_commit_record(path: Path, *records: bytes) -> None:
    """Write a transaction as Durus 4.3 does."""
    if path.read_bytes().startswith(b"SHELF-1"):
        entries = b"".join(int8_to_str(len(r) + 8) + r[:8] + r for r in records)
        transaction = int8_to_str(len(entries)) + entries
    else:
        transaction = b"".join(len(r).to_bytes(4, "big") + r for r in records) + bytes(4)
    with path.open("ab") as file:
        file.write(transaction)


class _Reads:
    """How many bytes of journals were read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.taken = 0
        read = File.read

        def counted(file: File, offset: int, length: int) -> bytes:
            data = read(file, offset, length)
            if file.path == str(path):
                self.taken += len(data)
            return data

        monkeypatch.setattr(File, "read", counted)

    def of(self, call: Callable[[], object]) -> int:
        """Give how many bytes a call reads."""
        before = self.taken
        call()
        return self.taken - before


def test_history_is_there_when_the_file_is_opened_again(path: Path, put: Put) -> None:
    """Every commit is read by the next opening, with an index file and without one."""
    many = dict.fromkeys(range(1, 1500), b"")
    with FileStorage(path) as storage:
        put(storage, {0: [], **{n: [] for n in many}})
        for n in range(5):
            put(storage, [0, n + 1], b"%d" % n)
        expected = list(storage.gen_commits())
    index = Path(f"{path}.index")
    assert index.exists()
    for _ in range(2):
        for readonly in (True, False):
            with FileStorage(path, readonly=readonly) as storage:
                assert list(storage.gen_commits()) == expected
                for n, (serial, _) in enumerate(expected[1:]):
                    assert storage.load_as_of(ROOT_OID, serial) == make_record(
                        ROOT_OID, payload=b"%d" % n
                    )
                    assert storage.load_as_of(int8_to_str(n + 2), serial) == make_record(
                        int8_to_str(n + 2)
                    )
        index.unlink(missing_ok=True)


def test_a_pack_leaves_what_it_kept_and_what_came_since(path: Path, put: Put) -> None:
    """The packed state is that of the last commit before it; older ones are refused."""
    with FileStorage(path) as storage:
        put(storage, {0: [1], 1: [], 2: []})
        put(storage, [1], b"packed")
        first, packed = storage.gen_commits()
        assert storage.load_as_of(ONE, first[0]) == make_record(ONE)
        storage.pack()
        assert list(storage.gen_commits()) == [packed]
        put(storage, [1], b"since")
        assert _serials(storage) == [packed[0], packed[0] + 1]
        with FileStorage(path, readonly=True) as reader:
            for opened in (storage, reader):
                assert opened.load_as_of(ONE, packed[0]) == make_record(ONE, payload=b"packed")
                assert opened.load_as_of(ONE, packed[0] + 1) == make_record(ONE, payload=b"since")
                assert not _is_there(opened, TWO, packed[0])
                with pytest.raises(StorageError, match="as of commit 1, which is none of the 2"):
                    opened.load_as_of(ONE, first[0])


def test_commits_during_a_pack_can_be_read_after_it(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each keeps its serial, its time, and its state as far as the root reached it."""
    monkeypatch.setattr("durus.file_storage._packer._STEP_S", -1)
    with FileStorage(path) as storage:
        put(storage, {0: [1, 2], 1: [], 2: [], 3: []})
        states = {}
        for number, _ in enumerate(storage.get_packer()):
            # One that was garbage when the pack began comes back.
            put(storage, {0: [1, 2, 3] if number > 2 else [1, 2], 1: []}, b"%d" % number)
            pair = list(storage.gen_commits())[-1]
            states[pair] = (number, storage.load(ROOT_OID), storage.load(ONE))
        assert list(states) == list(storage.gen_commits())[-len(states) :]
        for (serial, _), (number, root, one) in states.items():
            assert storage.load_as_of(ROOT_OID, serial) == root
            assert storage.load_as_of(ONE, serial) == one
            assert storage.load_as_of(TWO, serial) == make_record(TWO, payload=b"")
            if number > 2:
                assert storage.load_as_of(THREE, serial) == make_record(THREE)


def test_a_pack_without_a_map_leaves_the_state_of_its_commit(path: Path, put: Put) -> None:
    """Oids too far apart for a map are packed into a transaction: it is that commit."""
    far = 2**62
    with FileStorage(path) as storage:
        put(storage, {0: [far], far: []})
        put(storage, [far], b"packed")
        last = list(storage.gen_commits())[-1]
        storage.pack()
        assert list(storage.gen_commits())[-1:] == [last]
        put(storage, [far], b"since")
        oid = int8_to_str(far)
        assert storage.load_as_of(oid, last[0]) == make_record(oid, payload=b"packed")
        assert storage.load_as_of(oid, last[0] + 1) == make_record(oid, payload=b"since")


def test_what_has_no_commit_record_belongs_to_the_next_commit(path: Path, put: Put) -> None:
    """What Durus 4.3 wrote is seen as of no commit before it, and as of all after it."""
    with FileStorage(path) as storage:
        put(storage, [0, 1, 2])
    theirs = [make_record(oid, payload=b"theirs") for oid in (ONE, TWO, THREE)]
    again = make_record(ONE, payload=b"theirs, later")
    append_without_commit_record(path, theirs[2])
    append_without_commit_record(path, theirs[0], theirs[1], again)
    with FileStorage(path, readonly=True) as storage:
        [before] = _serials(storage)
        assert storage.load_as_of(ONE, before) == make_record(ONE)
        assert storage.load_as_of(TWO, before) == make_record(TWO)
        assert not _is_there(storage, THREE, before)
        assert storage.load(ONE) == again
    with FileStorage(path) as storage:
        put(storage, [0])
        put(storage, [1, 2, 3], b"ours")
        assert _serials(storage) == [before, before + 1, before + 2]
        for oid, record in ((ONE, again), (TWO, theirs[1]), (THREE, theirs[2])):
            assert storage.load_as_of(oid, before + 1) == record
            assert storage.load_as_of(oid, before + 2) == make_record(oid, payload=b"ours")
        for oid in (ONE, TWO):
            assert storage.load_as_of(oid, before) == make_record(oid)
        assert not _is_there(storage, THREE, before)


def test_a_packed_state_has_a_commit_of_its_own(path: Path, put: Put) -> None:
    """What Durus 4.3 wrote last is not packed as if it were the state of the commit before it."""
    with FileStorage(path) as storage:
        put(storage, {0: [1], 1: []})
        [(before, _)] = storage.gen_commits()
    append_without_commit_record(path, make_record(ONE, payload=b"theirs"))
    with FileStorage(path) as storage:
        storage.pack()
        [(packed, time)] = storage.gen_commits()
        assert packed == before + 1
        assert storage.describe().last_commit_time == time
        assert storage.load_as_of(ONE, packed) == make_record(ONE, payload=b"theirs")
        with pytest.raises(StorageError, match="as of commit"):
            storage.load_as_of(ONE, before)


def test_reader_is_told_what_was_packed_with_no_commit_record(path: Path, put: Put) -> None:
    """A reader that missed what Durus 4.3 wrote, and then a pack, takes nothing for unchanged."""
    with FileStorage(path) as storage:
        put(storage, {0: [1], 1: []})
    with FileStorage(path, readonly=True) as reader:
        append_without_commit_record(path, make_record(ONE, payload=b"theirs"))
        with FileStorage(path) as storage:
            storage.pack()
        assert ONE in reader.sync()
        assert reader.load(ONE) == make_record(ONE, payload=b"theirs")


def test_a_file_without_our_commits_has_no_past(path: Path, put: Put) -> None:
    """In a new file, and one that only Durus 4.3 wrote, there is none until we commit."""
    with FileStorage(path) as storage:
        assert list(storage.gen_commits()) == []
        with pytest.raises(StorageError, match="none of the 0"):
            storage.load_as_of(ROOT_OID, 0)
    append_without_commit_record(path, make_record(ROOT_OID, payload=b"theirs"))
    with FileStorage(path) as storage:
        assert list(storage.gen_commits()) == []
        put(storage, [1])
        [(serial, _)] = storage.gen_commits()
        assert storage.load_as_of(ROOT_OID, serial) == make_record(ROOT_OID, payload=b"theirs")


@pytest.mark.parametrize("readonly", [True, False])
def test_a_torn_tail_is_no_commit(path: Path, put: Put, readonly: bool) -> None:
    """Of a commit that was never acknowledged the history knows nothing."""
    with FileStorage(path) as storage:
        put(storage, [0, 1])
        put(storage, [1], b"second")
        expected = list(storage.gen_commits())
        end = path.stat().st_size
        put(storage, [1], b"torn")
    whole = path.read_bytes()
    for length in range(end, len(whole), 7):
        path.write_bytes(whole[:length])
        with FileStorage(path, readonly=readonly) as storage:
            assert list(storage.gen_commits()) == expected
            for (serial, _), payload in zip(expected, (b"", b"second"), strict=True):
                assert storage.load_as_of(ONE, serial) == make_record(ONE, payload=payload)
            with pytest.raises(StorageError):
                storage.load_as_of(ONE, expected[-1][0] + 1)


def test_a_reader_has_the_past_up_to_what_it_sees(path: Path) -> None:
    """A reader beside another process's writer gets its commits, and its packs, with `sync`."""
    program = (
        "import sys\n"
        "from durus.backends import open_storage\n"
        "from durus.testing.records import commit, make_record\n"
        "with open_storage(sys.argv[1]) as storage:\n"
        "    for line in sys.stdin:\n"
        "        if line == 'pack\\n':\n"
        "            storage.pack()\n"
        "        else:\n"
        "            commit(storage, make_record(bytes(8), payload=line.strip().encode()))\n"
        "        print('done', flush=True)\n"
    )
    with FileStorage(path) as storage:
        commit(storage, make_record(ROOT_OID))
    command = [sys.executable, "-c", program, str(path)]
    pipe = subprocess.PIPE
    with (
        FileStorage(path, readonly=True) as reader,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as writer,
    ):
        assert writer.stdin is not None
        assert writer.stdout is not None

        def have_done(line: str) -> None:
            assert writer.stdin is not None
            assert writer.stdout is not None
            print(line, file=writer.stdin, flush=True)
            assert writer.stdout.readline() == "done\n"

        for line in ("one", "two"):
            have_done(line)
        assert len(_serials(reader)) == 1
        reader.sync()
        first, one, two = _serials(reader)
        have_done("pack")
        have_done("three")
        payloads = {first: b"", one: b"one", two: b"two"}
        for serial, payload in payloads.items():
            assert reader.load_as_of(ROOT_OID, serial) == make_record(ROOT_OID, payload=payload)
        reader.sync()
        assert _serials(reader) == [two, two + 1]
        assert reader.load_as_of(ROOT_OID, two) == make_record(ROOT_OID, payload=b"two")
        assert reader.load_as_of(ROOT_OID, two + 1) == make_record(ROOT_OID, payload=b"three")
        with pytest.raises(StorageError):
            reader.load_as_of(ROOT_OID, one)


def test_what_is_read_serves_later_calls(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commits are walked once, records of the past are searched for once, and no more."""
    with FileStorage(path) as storage:
        put(storage, [0, 1, 2], bytes(100_000))
        for n in range(20):
            put(storage, [1], b"%d" % n * 10_000)
    with FileStorage(path) as storage:
        reads = _Reads(monkeypatch, path)
        assert reads.of(lambda: list(storage.gen_commits())) < 100 * 21
        assert reads.of(lambda: list(storage.gen_commits())) == 0
        serials = _serials(storage)
        unchanged = reads.of(lambda: storage.load_as_of(TWO, serials[3]))
        assert 100_000 < unchanged < 2 * 100_000
        storage.load_as_of(ONE, serials[-2])
        for serial in reversed(serials[1:-1]):
            assert reads.of(lambda serial=serial: storage.load_as_of(ONE, serial)) < 150_000
        put(storage, [1], b"newest")
        assert reads.of(lambda: list(storage.gen_commits())) < 100
        expected = make_record(ONE, payload=b"19" * 10_000)
        assert storage.load_as_of(ONE, serials[-1]) == expected


def test_iterating_over_commits_goes_on_through_commits_and_packs(path: Path, put: Put) -> None:
    """`gen_commits` is of the moment of the call, whatever is done meanwhile."""
    with FileStorage(path) as storage:
        put(storage, [0])
        put(storage, [0])
        expected = list(storage.gen_commits())
        commits = storage.gen_commits()
        found = [next(commits)]
        put(storage, [0])
        storage.pack()
        found += commits
        assert found == expected
    with pytest.raises(StorageClosedError):
        storage.gen_commits()


def _damage(path: Path, old: bytes, new: bytes) -> None:
    """Change bytes that are in the file once."""
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_damage_in_the_past_is_reported(path: Path, put: Put) -> None:
    """Records that do not prove themselves, or commits that lead nowhere, are a CorruptionError."""
    with FileStorage(path) as storage:
        put(storage, [0, 1], b"first")
        put(storage, [1], b"the second")
        put(storage, [1], b"third")
        [first, second, third] = _serials(storage)
    with FileStorage(path, readonly=True) as storage:
        _damage(path, b"the second", b"the sec0nd")
        assert storage.load_as_of(ONE, third) == make_record(ONE, payload=b"third")
        assert storage.load_as_of(ONE, first) == make_record(ONE, payload=b"first")
        for _ in range(2):
            with pytest.raises(CorruptionError, match="does not agree with its commit record"):
                storage.load_as_of(ONE, second)
    _damage(path, b"the sec0nd", b"the second")
    with FileStorage(path, readonly=True) as storage:
        assert storage.load_as_of(ONE, second) == make_record(ONE, payload=b"the second")
    with FileStorage(path, readonly=True) as storage:
        offset = storage._journal.tip.commit_offset
        commit = storage._journal.format.read_commit(storage._journal.file, offset)
        assert commit is not None
        data = bytearray(path.read_bytes())
        data[commit.previous + 30] ^= 1
        path.write_bytes(data)
        for _ in range(2):
            with pytest.raises(CorruptionError, match=f"no record of commit {second}"):
                storage.gen_commits()


def test_a_repaired_file_has_the_commits_that_it_kept(path: Path, put: Put) -> None:
    """What is saved of a damaged base is no commit; those after it are read with what is left."""
    with FileStorage(path) as storage:
        put(storage, {0: [1, 2], 1: [], 2: []}, b"packed")
        put(storage, {2: []}, b"packed and lost")
        storage.pack()
        put(storage, [1], b"second")
        put(storage, [1], b"third")
    _damage(path, b"packed and lost", b"packed and l0st")
    with FileStorage(path, repair=True) as storage:
        second, third = _serials(storage)
        for serial, payload in ((second, b"second"), (third, b"third")):
            assert storage.load_as_of(ONE, serial) == make_record(ONE, payload=payload)
            assert storage.load_as_of(ROOT_OID, serial) == storage.load(ROOT_OID)
            assert not _is_there(storage, TWO, serial)


@pytest.mark.parametrize("lie", [{"serial": 1}, {"previous": 1 << 40}, {"previous": 0}])
def test_commit_records_that_do_not_lead_to_each_other_are_reported(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch, lie: dict[str, int]
) -> None:
    """Neither a wrong serial nor a wrong place of the one before is taken for the truth."""
    with FileStorage(path) as storage:
        put(storage, [0])
        put(storage, [0])
        assert len(_serials(storage)) == 2
        for _ in range(3):
            put(storage, [0])
        format = storage._journal.format
        offset = storage._journal.tip.commit_offset
        last = format.read_commit(storage._journal.file, offset)
        assert last is not None

        def read_commit(file: File, offset: int) -> object:
            commit = type(format).read_commit(format, file, offset)
            return commit._replace(**lie) if commit and offset == last.previous else commit

        monkeypatch.setattr(format, "read_commit", read_commit, raising=False)
        with pytest.raises(CorruptionError, match=f"no record of commit {last.serial - 1}"):
            storage.gen_commits()


def test_an_error_while_the_past_is_read_spoils_nothing(
    path: Path, put: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When there is no room for what was found, the same call later gives the same as ever."""
    from durus.file_storage._marks import Marks

    calls = 0
    set_mark = Marks.set

    def fail_sometimes(marks: Marks, oid_int: int, offset: int) -> None:
        nonlocal calls
        calls += 1
        if calls in {2, 5, 10}:
            raise OSError(28, "no space left on the device")
        set_mark(marks, oid_int, offset)

    with FileStorage(path) as storage:
        for n, numbers in enumerate([[0, 1, 2], [3, 4, 0, 1, 2], [0, 1, 2]]):
            put(storage, numbers, b"%d" % n)
        serials = _serials(storage)
        put(storage, range(5), b"last")
        monkeypatch.setattr(Marks, "set", fail_sometimes)
        for _ in range(3):
            with pytest.raises(StorageError, match="no space left"):
                storage.load_as_of(ONE, serials[-1])
        for n, serial in enumerate(serials):
            for oid in (ROOT_OID, ONE, TWO):
                assert storage.load_as_of(oid, serial) == make_record(oid, payload=b"%d" % n)
        assert [_is_there(storage, THREE, serial) for serial in serials] == [False, True, True]


def test_a_temporary_file_has_a_past(put: Put) -> None:
    """Without a name it is the same."""
    with FileStorage() as storage:
        put(storage, [0])
        put(storage, [0], b"again")
        first, second = _serials(storage)
        assert storage.load_as_of(ROOT_OID, first) == make_record(ROOT_OID)
        storage.pack()
        assert _serials(storage) == [second]


def test_what_is_kept_in_memory(path: Path, put: Put) -> None:
    """One number for each entry that took another's place, and one for that; two for a commit."""
    with FileStorage(path) as storage:
        put(storage, range(100))
        for _ in range(10):
            put(storage, [1, 2, 3])
        serials = _serials(storage)
        put(storage, [1, 2, 3])
        storage.load_as_of(ONE, serials[-1])
        history = storage._past()
        assert isinstance(history, History)
        arrays = [history._ends, history._times_us, history._entries, history._entries_before]
        assert [len(each) for each in arrays] == [12, 12, 30, 30]
        assert {each.itemsize for each in arrays} == {8}


def _changes(storage: FileStorage, serial: int) -> dict[int, bytes]:
    found = dict(storage.gen_changes(serial))
    return {int.from_bytes(oid, "big"): record for oid, record in found.items()}


@pytest.mark.parametrize("far", [3, 2**62])
def test_a_pack_forgets_what_its_last_commit_stored(path: Path, put: Put, far: int) -> None:
    """The packed state does not tell it, with a map or without; later commits tell theirs."""
    with FileStorage(path) as storage:
        put(storage, {0: [1, far], 1: [], far: []})
        put(storage, [1], b"packed")
        storage.pack()
        put(storage, {0: [far], far: []}, b"since")
        with FileStorage(path, readonly=True) as reader:
            for opened in (storage, reader):
                packed, since = _serials(opened)
                with pytest.raises(NotSupportedError, match="was packed, or repaired, at commit 2"):
                    _changes(opened, packed)
                assert set(_changes(opened, since)) == {0, far}
                assert _changes(opened, since)[far] == make_record(
                    int8_to_str(far), payload=b"since"
                )


def test_what_4_3_wrote_is_a_change_of_the_next_commit(path: Path, put: Put) -> None:
    """Its transactions have no commit record; the last record of an object is the one told."""
    with FileStorage(path) as storage:
        put(storage, [0, 1])
    for payload in (b"4.3", b"4.3 again"):
        append_without_commit_record(path, make_record(ONE, payload=payload))
    with FileStorage(path) as storage:
        put(storage, [2])
        first, second = _serials(storage)
        assert set(_changes(storage, first)) == {0, 1}
        assert _changes(storage, second) == {
            1: make_record(ONE, payload=b"4.3 again"),
            2: make_record(TWO, payload=b""),
        }


def test_damage_in_a_commit_is_told_with_its_changes(path: Path, put: Put) -> None:
    """A changed byte in a past transaction is CorruptionError; the others are told as before."""
    with FileStorage(path) as storage:
        for payload in (b"first", b"second", b"third"):
            put(storage, [0, 1], payload)
        content = bytearray(path.read_bytes())
        content[content.index(b"second")] ^= 1
        path.write_bytes(content)
        one, two, three = _serials(storage)
        with pytest.raises(CorruptionError):
            _changes(storage, two)
        assert set(_changes(storage, one)) == set(_changes(storage, three)) == {0, 1}


def test_where_commits_end(path: Path, put: Put) -> None:
    """A file that is cut where a commit ends is the file as of that commit, packed or not."""
    with FileStorage(path) as storage:
        for n in range(3):
            put(storage, {0: [1], 1: []}, b"%d" % n)
        storage.pack()
        for n in range(3):
            put(storage, [1], b"later %d" % n)
        ends = list(storage.gen_commit_ends())
        assert [(serial, time) for serial, time, _ in reversed(ends)] == [*storage.gen_commits()]
        assert ends[0][2] == storage.describe().size_bytes
        expected = {serial: storage.load_as_of(ONE, serial) for serial, _, _ in ends}
        copies = {serial: b"".join(storage.gen_bytes(0, end)) for serial, _, end in ends}
    for serial, data in copies.items():
        cut = path.with_name("cut.durus")
        cut.write_bytes(data)
        with FileStorage(cut, readonly=True) as storage:
            assert storage.describe().size_bytes == len(data)
            assert storage.load(ONE) == expected[serial]
            assert _serials(storage)[-1] == serial


def test_bytes_that_are_not_there(path: Path, put: Put) -> None:
    """Of a file that was cut short meanwhile an error tells, never fewer bytes."""
    with FileStorage(path) as storage:
        put(storage, [0])
        end = next(storage.gen_commit_ends())[2]
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(CorruptionError, match="the end of the file"):
            list(storage.gen_bytes(0, end))
    with pytest.raises(StorageClosedError):
        list(storage.gen_bytes(0, end))
    with pytest.raises(StorageClosedError):
        list(storage.gen_commit_ends())
