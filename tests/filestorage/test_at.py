"""A FileStorage that is opened as of a past commit: the state of then, whatever goes on since."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from durus.backends import open_storage
from durus.connection import Connection
from durus.database import Database
from durus.error import (
    BackendError,
    CorruptionError,
    StorageError,
    StorageMissingError,
    StorageOpenError,
    StorageReadOnlyError,
    StorageWriteError,
)
from durus.file_storage import FileStorage
from durus.file_storage._file import File
from durus.serialize import ROOT_OID
from durus.testing import make_record
from durus.utils import int8_to_str

from .test_history import append_without_commit_record

Put = Callable[..., list[bytes]]
Contents = Callable[[FileStorage], dict[int, bytes]]
States = dict[int, dict[int, bytes]]

ONE = int8_to_str(1)


@pytest.fixture
def states(path: Path, put: Put) -> States:
    """Make a database of five commits; give what is stored after each, by serial."""
    states: States = {}
    state: dict[int, bytes] = {}
    with FileStorage(path) as storage:
        for number, graph in enumerate(
            [{0: [1, 2], 1: [], 2: []}, {1: [], 3: []}, {0: [1], 4: []}, {2: [1]}, {0: [3], 1: []}]
        ):
            records = put(storage, graph, b"%d" % number)
            state = state | {int.from_bytes(record[:8], "big"): record for record in records}
            states[list(storage.gen_commits())[-1][0]] = state
    return states


def test_each_commit_can_be_opened(path: Path, states: States, contents: Contents) -> None:
    """By its serial or its time it gives what was stored then: not more, not less."""
    with FileStorage(path) as storage:
        commits = list(storage.gen_commits())
    assert [serial for serial, _ in commits] == list(states)
    for serial, time in commits:
        for at in (serial, str(serial), time, time.isoformat()):
            with FileStorage(path, at=at) as past:
                assert contents(past) == states[serial]
                assert list(past.gen_commits()) == commits[:serial]


def test_describe_tells_of_then(path: Path, states: States) -> None:
    """Length, objects, transactions and the last commit are those of then."""
    with FileStorage(path) as storage:
        assert storage.describe().as_of is None
        for number, (serial, time) in enumerate(storage.gen_commits(), 1):
            with FileStorage(path, at=serial) as past:
                told = past.describe()
            assert (told.as_of, told.last_commit_time) == (serial, time)
            assert (told.transaction_count, told.object_count) == (number, len(states[serial]))
            assert told.size_bytes is not None
            assert (told.size_bytes < path.stat().st_size) == (number < 5)


@pytest.mark.parametrize("is_open", [True, False])
def test_what_comes_later_is_not_seen(
    path: Path, put: Put, states: States, contents: Contents, is_open: bool
) -> None:
    """Commits and packs of a writer, before and after the opening, change nothing that is read."""
    with FileStorage(path) as storage:
        pasts = {serial: FileStorage(path, at=serial) for serial in states} if is_open else {}
        put(storage, [0, 1, 9], b"later")
        pasts = pasts or {serial: FileStorage(path, at=serial) for serial in states}
        for change in (lambda: put(storage, [0], b"again"), storage.pack, storage.pack):
            change()
            for serial, past in pasts.items():
                assert past.sync() == []
                assert contents(past) == states[serial]
    for past in pasts.values():
        past.close()


def test_the_index_file_serves_where_it_is_no_later(
    path: Path, put: Put, contents: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the index covers is not read again to open a later commit; an earlier one does."""
    with FileStorage(path) as storage:
        put(storage, range(2000))
        put(storage, [1, 2], b"indexed")
    index = Path(f"{path}.index")
    assert index.exists()
    with FileStorage(path) as storage:
        put(storage, [2, 3], b"since")
        put(storage, [3, 2001], b"newest")
        serials = [serial for serial, _ in storage.gen_commits()]
        newest = contents(storage)
    expected: States = {serials[3]: newest}
    for serial, oids, before in ((2, [3, 2001], b"since"), (1, [2, 3], b""), (0, [1, 2], b"")):
        was = {n: make_record(int8_to_str(n), payload=before) for n in oids if n < 2000}
        expected[serials[serial]] = {**expected[serials[serial + 1]], **was}
        expected[serials[serial]].pop(2001, None)
    expected[serials[1]][2] = make_record(int8_to_str(2), payload=b"indexed")
    taken: list[int] = []
    read = File.read

    def counted(file: File, offset: int, length: int) -> bytes:
        data = read(file, offset, length)
        if file.path == str(path):
            taken.append(len(data))
        return data

    monkeypatch.setattr(File, "read", counted)
    for is_there in (True, False):
        for n, serial in enumerate(serials):
            taken.clear()
            with FileStorage(path, at=serial) as past:
                uses_index = sum(taken) < 60_000
                assert uses_index == (is_there and n > 0)
                assert contents(past) == expected[serial]
        index.unlink(missing_ok=True)


def test_a_damaged_index_is_made_again_up_to_then(path: Path, put: Put, contents: Contents) -> None:
    """A page that does not agree with its CRC does not bring the newest state back."""
    with FileStorage(path) as storage:
        put(storage, range(1500))
        state = contents(storage)
        [(serial, _)] = storage.gen_commits()
    with FileStorage(path) as storage:
        put(storage, [1], b"later")
    index = Path(f"{path}.index")
    data = bytearray(index.read_bytes())
    data[200] ^= 1
    index.write_bytes(data)
    with FileStorage(path, at=serial) as past:
        assert contents(past) == state


def test_a_pack_forgets_what_was_before(path: Path, put: Put, contents: Contents) -> None:
    """The packed state is that of the last commit before it; older ones are refused, clearly."""
    with FileStorage(path) as storage:
        put(storage, {0: [1], 1: [], 2: []})
        put(storage, [1], b"packed")
        (first, early), (packed, _) = storage.gen_commits()
        storage.pack()
        put(storage, [1, 3], b"since")
        for at in (first, early):
            with pytest.raises(StorageOpenError, match=rf"goes from commit {packed} .* to commit"):
                FileStorage(path, at=at)
        with FileStorage(path, at=packed) as past:
            assert contents(past) == {
                0: make_record(ROOT_OID, [ONE]),
                1: make_record(ONE, payload=b"packed"),
            }
            assert past.describe().transaction_count == 0
        with FileStorage(path, at=packed + 1) as past:
            assert contents(past) == contents(storage)


def test_what_durus_43_wrote_belongs_to_the_next_commit(
    path: Path, put: Put, contents: Contents
) -> None:
    """It has neither serial nor time: it is not seen before the commit that follows it."""
    theirs = make_record(ONE, payload=b"theirs")
    with FileStorage(path) as storage:
        put(storage, [0, 1])
        before = contents(storage)
        [(serial, time)] = storage.gen_commits()
    append_without_commit_record(path, theirs)
    for at in (serial, time + timedelta(days=1)):
        with FileStorage(path, at=at) as past:
            assert contents(past) == before
    with FileStorage(path) as storage:
        put(storage, [0], b"ours")
        now = contents(storage)
    assert now[1] == theirs
    with FileStorage(path, at=serial) as past:
        assert contents(past) == before
    with FileStorage(path, at=serial + 1) as past:
        assert contents(past) == now


def test_a_file_without_our_commits_has_no_past(path: Path) -> None:
    """That is so in a new file, and in one that only Durus 4.3 wrote; the error says it."""
    FileStorage(path).close()
    for _ in range(2):
        for at in (0, 1, "2026-11-28"):
            with pytest.raises(StorageOpenError, match="found no commit with a serial and a time"):
                FileStorage(path, at=at)
        append_without_commit_record(path, make_record(ROOT_OID))


def test_a_torn_tail_is_no_commit(path: Path, states: States, contents: Contents) -> None:
    """What was never acknowledged is opened by no serial, and changes nothing before it."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    *kept, torn = states
    for serial in kept:
        with FileStorage(path, at=serial) as past:
            assert contents(past) == states[serial]
    with pytest.raises(StorageOpenError, match=f"to commit {kept[-1]} "):
        FileStorage(path, at=torn)
    assert path.read_bytes() == whole[:-9]


def test_a_connection_reads_and_does_not_write(path: Path) -> None:
    """Objects are those of then; a commit of changes says that it is read-only."""
    with Connection(FileStorage(path)) as connection:
        root = connection.get_root()
        for n in range(3):
            root["n"] = n
            root[f"only {n}"] = n
            connection.commit()
        serials = [serial for serial, _ in connection.get_storage().gen_commits()][-3:]
        for n, serial in enumerate(serials):
            with Connection(FileStorage(path, at=serial)) as past:
                then = past.get_root()
                assert then["n"] == n
                assert set(then) == {"n", *(f"only {m}" for m in range(n + 1))}
                root["n"] = -1
                connection.commit()
                past.abort()
                assert then["n"] == n
                then["n"] = 100
                with pytest.raises(StorageReadOnlyError):
                    past.commit()
        assert root["n"] == -1
    with Database(FileStorage(path, at=serials[0])) as database, database.transaction() as then:
        assert then["n"] == 0


def test_a_copy_is_a_database_of_then(path: Path, states: States, contents: Contents) -> None:
    """It opens for writing, and goes on from the commit that was copied."""
    for serial, state in states.items():
        copy = path.with_name(f"copy-{serial}.durus")
        with FileStorage(path, at=serial) as past:
            past.copy(copy)
        with FileStorage(copy) as storage:
            assert contents(storage) == state
            assert list(storage.gen_commits())[-1][0] == serial


def test_nothing_is_written(path: Path, states: States) -> None:
    """Not to the file, nor beside it; and writes are refused."""
    before = {each: each.read_bytes() for each in path.parent.iterdir()}
    for serial in states:
        with FileStorage(path, at=serial) as past:
            assert past.readonly
            for write in (past.begin, past.new_oid, past.pack, past.get_packer):
                with pytest.raises(StorageReadOnlyError):
                    write()
    assert {each: each.read_bytes() for each in path.parent.iterdir()} == before


def test_what_cannot_be_opened_so(path: Path, put: Put) -> None:
    """There is no past of a file that is not there, of a temporary one, and under repair."""
    with pytest.raises(StorageMissingError):
        FileStorage(path, at=1)
    assert not path.exists()
    with pytest.raises(StorageOpenError, match="temporary file as of a past commit"):
        FileStorage(at=1)
    with FileStorage(path) as storage:
        put(storage, [0])
    with pytest.raises(StorageOpenError, match=r"tried to repair .* as of 1"):
        FileStorage(path, repair=True, at=1)


def test_damage_is_told(path: Path, states: States) -> None:
    """A journal that is damaged is opened as of no commit."""
    data = path.read_bytes()
    middle = data.index(states[2][3])
    path.write_bytes(data[:middle] + b"\xff" * 8 + data[middle + 8 :])
    for serial in states:
        with pytest.raises(CorruptionError):
            FileStorage(path, at=serial)


def test_a_system_that_does_not_let_us_read(
    path: Path, states: States, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it fails, the error names the file; nothing else is opened in its place."""
    read = File.read
    left = 0

    def fails(file: File, offset: int, length: int) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(5, "Input/output error")
        return read(file, offset, length)

    monkeypatch.setattr(File, "read", fails)
    errors: list[str] = []
    past = None
    while past is None:
        left = len(errors)
        try:
            past = FileStorage(path, at=2)
        except (StorageOpenError, CorruptionError) as error:
            errors.append(str(error))
    assert past.describe().as_of == 2
    past.close()
    assert len(errors) > 5
    assert [text for text in errors if str(path) not in text] == []


def test_a_commit_that_is_taken_back(path: Path, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened while its writer syncs it, which fails, it is not read on as if it had been made."""
    pasts: list[FileStorage] = []

    def fails(file: File) -> None:
        pasts.append(FileStorage(path, at=2))
        raise OSError(5, "Input/output error")

    with FileStorage(path) as storage:
        put(storage, [0])
        with monkeypatch.context() as patched, pytest.raises(StorageWriteError):
            patched.setattr(File, "sync", fails)
            put(storage, [0], b"never")
    [past] = pasts
    for _ in range(2):
        with pytest.raises(StorageError, match="as of commit 2, which could not be synced"):
            past.sync()
        with FileStorage(path) as storage:
            put(storage, [0], b"another")
    past.close()


def test_a_url_says_it_too(path: Path, states: States, contents: Contents) -> None:
    """As `?at=`, with a serial or a time; what is neither is refused."""
    with FileStorage(path) as storage:
        scheme = "file2" if storage.describe().format == "DFS20" else "file"
        commits = list(storage.gen_commits())
    for serial, time in commits:
        for at in (serial, time.isoformat(), time.astimezone().replace(tzinfo=None).isoformat()):
            with open_storage(f"{scheme}:{path}?at={at}") as past:
                assert isinstance(past, FileStorage)
                assert contents(past) == states[serial]
    with open_storage(path, at=commits[0][1]) as past:
        assert past.describe().as_of == commits[0][0]
    with pytest.raises(BackendError, match="got 'tomorrow'"):
        open_storage(f"{scheme}:{path}?at=tomorrow")
    with pytest.raises(StorageOpenError, match="as of commit 77"):
        open_storage(f"{scheme}:{path}?at=77")


def test_oids_too_far_apart_for_a_map(path: Path, put: Put, contents: Contents) -> None:
    """A packed state without a map is that of its commit as well."""
    far = 2**62
    with FileStorage(path) as storage:
        put(storage, {0: [far], far: []})
        storage.pack()
        [*_, (packed, time)] = storage.gen_commits()
        state = contents(storage)
        put(storage, [far], b"since")
    for at in (packed, time):
        with FileStorage(path, at=at) as past:
            assert contents(past) == state
    assert isinstance(time, datetime)
