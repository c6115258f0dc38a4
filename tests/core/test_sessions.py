"""Sessions over one storage: snapshots, validation, shared syncs, bounded memory."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ClassVar

import pytest

from durus.error import (
    ConflictError,
    DurusKeyError,
    ReadConflictError,
    StorageClosedError,
    StorageError,
    StorageTransactionError,
    StorageWriteError,
    UnissuedOidError,
    WriteConflictError,
)
from durus.serialize import ROOT_OID
from durus.sessions import Session, SharedStorage
from durus.storage import MemoryStorage, Storage
from durus.testing import StorageTests, commit, make_record
from durus.utils import int8_to_str

A, B, C, D = map(int8_to_str, range(1, 5))
LAST = make_record(D, payload=b"the last of them")


class WaitingStorage(MemoryStorage):
    """A storage whose `end` waits until it may go on, and counts how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = 0
        self.is_in_end = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.failures: list[BaseException] = []

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        self.ends += 1
        self.is_in_end.set()
        assert self.may_go_on.wait(60)
        if self.failures:
            self.begin()
            raise self.failures.pop()
        super().end(handle_invalidations)


class Plain(WaitingStorage):
    """The same, which may not be asked for records while it is in `end`."""

    can_load_meanwhile = False


class TestSharedMemoryStorage(StorageTests):
    @pytest.fixture
    def open_storage(self) -> Callable[..., Storage]:
        return lambda: SharedStorage(MemoryStorage()).new_session()


class TestStrictlySharedMemoryStorage(StorageTests):
    gaps: ClassVar[dict[str, str]] = {
        "test_new_oid_gives_none_that_is_stored": "an oid that nobody was given is not stored",
        "test_new_oid_gives_none_that_is_pending": "nor is it ever committed",
        "test_oids_need_not_be_dense": "nor are others than those that were given",
    }

    @pytest.fixture
    def open_storage(self) -> Callable[..., Storage]:
        return lambda: SharedStorage(MemoryStorage(), strict=True).new_session()


@pytest.fixture
def storage() -> WaitingStorage:
    """A storage that holds A and B."""
    storage = WaitingStorage()
    commit(storage, make_record(A), make_record(B))
    storage.ends = 0
    storage.is_in_end.clear()
    return storage


@pytest.fixture
def shared(storage: WaitingStorage) -> SharedStorage:
    """The same storage, shared."""
    return SharedStorage(storage)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """Threads, which have ended when the test has."""
    with ThreadPoolExecutor(8) as threads:
        yield threads


def new(payload: bytes, oid: bytes = A) -> bytes:
    """Make a record to tell from others by its payload."""
    return make_record(oid, payload=payload)


# Snapshots


def test_a_snapshot_stays_through_many_commits(shared: SharedStorage) -> None:
    """A session reads the state of its last sync, whatever was committed and created since."""
    reader, writer = shared.new_session(), shared.new_session()
    for n in range(10):
        commit(writer, new(b"%d" % n), make_record(C, payload=b"%d" % n))
    assert reader.load(A) == make_record(A)
    with pytest.raises(DurusKeyError):
        reader.load(C)
    assert set(reader.sync() or ()) == {A, C}
    assert reader.load(A) == new(b"9")


def test_snapshots_of_different_times_are_kept_side_by_side(shared: SharedStorage) -> None:
    """Each of several sessions reads the state at which it began."""
    writer = shared.new_session()
    readers = []
    for n in range(5):
        commit(writer, new(b"%d" % n))
        readers.append(shared.new_session())
    assert [reader.load(A) for reader in readers] == [new(b"%d" % n) for n in range(5)]


def test_a_session_sees_its_own_commit_at_once(shared: SharedStorage) -> None:
    """After `end`, `load` gives what was committed, without a sync."""
    one, _ = shared.new_session(), shared.new_session()
    commit(one, new(b"mine"))
    assert one.load(A) == new(b"mine")
    assert one.sync() == []


def test_a_snapshot_beyond_the_byte_limit_is_a_read_conflict(storage: WaitingStorage) -> None:
    """What was overwritten beyond `history_bytes` is forgotten, the oldest first, and said so."""
    shared = SharedStorage(storage, history_bytes=3000)
    early, writer = shared.new_session(), shared.new_session()
    commit(writer, new(b"1" * 1000))
    late = shared.new_session()
    for _ in range(2):
        commit(writer, new(b"2" * 1000))
    late.sync()
    for _ in range(3):
        commit(writer, new(b"3" * 1000))
    with pytest.raises(ReadConflictError):
        early.load(A)
    assert early.load(B) == make_record(B)
    early.sync()
    assert early.load(A) == new(b"3" * 1000)


def test_a_snapshot_outlives_a_pack(storage: WaitingStorage) -> None:
    """What only an older snapshot reaches is there for it after a pack, however far down it is."""
    commit(storage, make_record(ROOT_OID, [A]), make_record(A, [B, C]), make_record(C, [D]), LAST)
    shared = SharedStorage(storage)
    early, writer = shared.new_session(), shared.new_session()
    commit(writer, make_record(ROOT_OID, [B]))
    late = shared.new_session()
    writer.pack()
    assert [early.load(oid) for oid in (A, C, D)] == [
        make_record(A, [B, C]),
        make_record(C, [D]),
        LAST,
    ]
    for session in (early, late, writer):
        assert {A, C, D} <= set(session.sync() or ())
        with pytest.raises(DurusKeyError):
            session.load(D)


def test_what_a_snapshot_keeps_outlives_a_second_pack(storage: WaitingStorage) -> None:
    """What one pack left to a snapshot still reaches what a later pack removes."""
    commit(storage, make_record(ROOT_OID, [A, B]), make_record(A, [B]))
    shared = SharedStorage(storage)
    early, writer = shared.new_session(), shared.new_session()
    commit(writer, make_record(ROOT_OID, [B]))
    writer.pack()
    commit(writer, make_record(ROOT_OID))
    writer.pack()
    assert early.load(ROOT_OID) == make_record(ROOT_OID, [A, B])
    assert early.load(A) == make_record(A, [B])
    assert early.load(B) == make_record(B)


def test_a_pack_leaves_to_snapshots_what_there_is_room_for(storage: WaitingStorage) -> None:
    """Beyond `history_bytes` an old snapshot gets a read conflict, never a missing object."""
    large = make_record(A, payload=b"x" * 5000)
    commit(storage, make_record(ROOT_OID, [A]), large)
    shared = SharedStorage(storage, history_bytes=3000)
    early, writer = shared.new_session(), shared.new_session()
    commit(writer, make_record(ROOT_OID))
    writer.pack()
    with pytest.raises(ReadConflictError):
        early.load(A)


def test_what_is_referred_to_again_before_it_is_removed_stays(storage: WaitingStorage) -> None:
    """A commit between the steps of a pack may bring back what was garbage when it began."""
    commit(storage, make_record(ROOT_OID, [A]))
    shared = SharedStorage(storage)
    early, writer = shared.new_session(), shared.new_session()
    commit(writer, make_record(ROOT_OID))
    packer = iter(writer.get_packer())
    next(packer)
    early.sync()
    commit(early, make_record(ROOT_OID, [A]))
    for _ in packer:
        pass
    assert early.load(A) == make_record(A)
    assert B in set(early.sync() or ())


def test_a_session_that_slept_too_long_is_told_that_all_may_have_changed(
    storage: WaitingStorage,
) -> None:
    """Beyond `log_oids`, `load` and `end` conflict, `sync` gives None, and then all is well."""
    shared = SharedStorage(storage, log_oids=10)
    sleeper, writer = shared.new_session(), shared.new_session()
    for n in range(11):
        commit(writer, new(b"%d" % n))
    with pytest.raises(ReadConflictError):
        sleeper.load(B)
    with pytest.raises(ConflictError):
        commit(sleeper, make_record(B, payload=b"mine"))
    assert sleeper.sync() is None
    assert sleeper.load(A) == new(b"10")
    commit(sleeper, make_record(B, payload=b"mine"))


def test_a_sleeping_session_costs_bounded_memory(storage: WaitingStorage) -> None:
    """However much is committed while a session sleeps, what is kept for it has a limit."""
    shared = SharedStorage(storage, log_oids=100, history_bytes=10_000)
    sleeper, writer = shared.new_session(), shared.new_session()
    for n in range(1000):
        commit(writer, new(b"%d" % n * 100))
    log = shared._log
    assert sum(len(logged.oids) for logged in log._commits) <= 100
    assert sum(logged.size_bytes for logged in log._with_records) <= 10_000
    assert len(log._by_oid) == 1
    sleeper.close()
    assert not log._commits


def test_nothing_is_kept_for_sessions_that_are_up_to_date(shared: SharedStorage) -> None:
    """The log holds nothing that every session sees."""
    one, other = shared.new_session(), shared.new_session()
    for n in range(10):
        commit(one, new(b"%d" % n))
        other.sync()
    assert not shared._log._commits
    assert not shared._log._by_oid


def test_nothing_is_kept_for_sessions_that_left_before_their_commit(
    shared: SharedStorage,
) -> None:
    """What a session commits that is closed meanwhile stays in the log for nobody."""
    for n in range(3):
        session = shared.new_session()
        session.begin()
        session.store(A, new(b"%d" % n))
        session.submit(None, [].append)
        session.close()
        shared.flush()
    assert not shared._log._commits
    assert shared.new_session().load(A) == new(b"2")


def test_a_session_made_while_a_commit_waits_never_conflicts(shared: SharedStorage) -> None:
    """A snapshot that begins between the validation of a commit and its writing is readable."""
    one = shared.new_session()
    outcome: list[BaseException | None] = []
    one.begin()
    one.store(A, new(b"waits"))
    one.submit(None, outcome.append)
    reader = shared.new_session()
    seen = reader.load(A)
    shared.flush()
    assert outcome == [None]
    assert reader.load(A) == seen


def test_an_empty_commit_hears_of_what_comes_while_it_is_told(shared: SharedStorage) -> None:
    """What others commit during the handler is told too, and then the session sees all of it."""
    one, other = shared.new_session(), shared.new_session()
    commit(other, new(b"before"))
    told: list[list[bytes]] = []

    def handle(stale: list[bytes]) -> None:
        told.append(stale)
        if stale == [A]:
            commit(other, make_record(B, payload=b"1"))
            commit(other, make_record(B, payload=b"2"))

    one.begin()
    one.end(handle)
    assert told == [[A], [B]]
    assert one.load(B) == make_record(B, payload=b"2")
    assert one.sync() == []


# Validation


def test_the_handler_hears_of_commits_that_are_still_being_written(
    storage: WaitingStorage, shared: SharedStorage, threads: ThreadPoolExecutor
) -> None:
    """What a commit that waits for the disk changes is stale for those behind it."""
    one, other, third = (shared.new_session() for _ in range(3))
    storage.may_go_on.clear()
    first = threads.submit(commit, one, new(b"first"))
    assert storage.is_in_end.wait(60)
    told: list[bytes] = []
    other.begin()
    other.store(B, make_record(B, payload=b"second"))
    second = threads.submit(other.end, told.extend)
    with pytest.raises(ConflictError):
        commit(third, new(b"third"))
    storage.may_go_on.set()
    first.result()
    second.result()
    assert told == [A]
    assert other.load(A) == new(b"first")


def test_a_reference_to_what_a_pack_removed_is_a_conflict(shared: SharedStorage) -> None:
    """A commit that refers to an object which a pack removed meanwhile stores nothing."""
    one, other = shared.new_session(), shared.new_session()
    commit(one, make_record(ROOT_OID, [A]), make_record(C))
    other.sync()
    other.load(C)
    shared.new_session().pack()
    with pytest.raises(WriteConflictError) as caught:
        commit(other, make_record(ROOT_OID, [A, C]))
    assert caught.value.oids == [C]
    assert set(other.sync() or ()) == {B, C}


def test_what_was_removed_is_told_from_what_was_stored_again(shared: SharedStorage) -> None:
    """For a caller that knows what a pack removed, and to whom it is no conflict."""
    session, other, third = (shared.new_session() for _ in range(3))
    other.pack()
    commit(other, new(b"again", A), make_record(ROOT_OID, [A]))
    other.begin()
    other.store(B, new(b"again", B))
    outcome: list[BaseException | None] = []
    other.submit(None, outcome.append)
    assert session.only_removed([A, B, C, ROOT_OID]) == set()
    commit(third, make_record(C))
    third.pack()
    assert session.only_removed([A, B, C, ROOT_OID]) == set()
    assert outcome == [None]
    assert third.only_removed([A, B, C, ROOT_OID]) == {B, C}
    third.begin()
    third.store(B, make_record(B, [C]))
    assert third.only_removed([B, C]) == set()


def test_of_a_storage_that_others_write_to_nothing_counts_as_only_removed(
    storage: WaitingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they stored and what a pack removed come as the same news."""
    monkeypatch.setattr(storage, "can_share", True)
    shared = SharedStorage(storage)
    session = shared.new_session()
    shared.new_session().pack()
    assert session.only_removed([A, B]) == set()


def test_a_snapshot_is_told_of_what_a_step_of_a_pack_removed(shared: SharedStorage) -> None:
    """Between two steps of a pack what is gone is a conflict for an older view, never unknown."""
    one, other = shared.new_session(), shared.new_session()
    commit(one, make_record(ROOT_OID, [C]), make_record(C))
    other.sync()
    commit(one, make_record(ROOT_OID))
    packer = one.get_packer()
    while True:
        is_last = next(packer, None) is None
        with suppress(ReadConflictError):
            assert other.load(C) == make_record(C)
        if is_last:
            break


def test_what_is_queued_is_written_before_a_step_of_a_pack(shared: SharedStorage) -> None:
    """A pack takes nothing away from a commit that was validated before its step."""
    one, other = shared.new_session(), shared.new_session()
    commit(one, make_record(ROOT_OID, [A]), make_record(C))
    other.sync()
    outcome: list[BaseException | None] = []
    other.begin()
    other.store(ROOT_OID, make_record(ROOT_OID, [A, C]))
    other.submit(None, outcome.append)
    one.pack()
    assert outcome == [None]
    assert one.new_session().load(C) == make_record(C)


def test_a_pack_that_nobody_holds_any_more_stops_nobody(
    storage: WaitingStorage, shared: SharedStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that was dropped may be collected in the midst of a commit; the next one begins."""
    session = shared.new_session()
    commit(session, make_record(ROOT_OID, [A]))
    closed = []

    def get_packer() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    monkeypatch.setattr(storage, "get_packer", get_packer)
    cycle: list[object] = [shared.get_packer()]
    next(cycle[0])  # type: ignore[call-overload] # a packer
    cycle.append(cycle)
    del cycle

    def end(handle: object = None) -> None:
        gc.collect()
        MemoryStorage.end(storage)

    monkeypatch.setattr(storage, "end", end)
    with ThreadPoolExecutor(1) as thread:
        thread.submit(commit, session, new(b"new")).result(60)
        assert thread.submit(list, shared.get_packer()).result(60) == [*range(10)]
    assert closed == [True, True]


class TestStrict:
    """What a shared storage that trusts no session refuses."""

    @pytest.fixture
    def shared(self, storage: WaitingStorage) -> SharedStorage:
        return SharedStorage(storage, strict=True)

    def test_an_oid_that_was_not_given_is_refused(self, shared: SharedStorage) -> None:
        """Nothing of a commit is stored that has an oid nobody gave to its session."""
        one, other = shared.new_session(), shared.new_session()
        given = other.new_oids(2)[1]
        for oid in (int8_to_str(77), given):
            with pytest.raises(UnissuedOidError) as caught:
                commit(one, new(b"changed"), make_record(oid))
            assert caught.value.oid == oid
        assert one.load(A) == make_record(A)
        commit(other, make_record(given))

    def test_a_reference_to_nothing_is_a_conflict(self, shared: SharedStorage) -> None:
        """A commit may refer to what is stored and to itself, and to nothing else."""
        session = shared.new_session()
        mine, unused = session.new_oids(2)
        commit(session, make_record(mine, [A, mine]), make_record(A, [mine]))
        with pytest.raises(WriteConflictError) as caught:
            commit(session, make_record(A, [mine, unused]))
        assert caught.value.oids == [unused]

    def test_a_reference_that_was_stored_over_counts_no_more(self, shared: SharedStorage) -> None:
        """Only the last record of an object in a transaction must refer to what is there."""
        session = shared.new_session()
        commit(session, make_record(A, [int8_to_str(77)]), make_record(A, [B]))
        assert session.load(A) == make_record(A, [B])

    def test_a_sync_within_a_transaction_loses_no_overwritten_record(
        self, shared: SharedStorage
    ) -> None:
        """What others read of before the commit is what was there at the commit."""
        one, other, reader = (shared.new_session() for _ in range(3))
        one.begin()
        one.store(A, new(b"late"))
        commit(other, new(b"early"))
        assert one.sync() == [A]
        reader.sync()
        one.end()
        assert reader.load(A) == new(b"early")
        assert one.load(A) == new(b"late")

    def test_what_a_pack_removed_is_not_referred_to(
        self, storage: WaitingStorage, shared: SharedStorage
    ) -> None:
        """Though it was there when the record that refers to it was stored."""
        commit(storage, make_record(ROOT_OID, [A, B]))
        session, other = shared.new_session(), shared.new_session()
        [lost] = other.new_oids(1)
        commit(other, make_record(lost))
        session.sync()
        session.begin()
        session.store(A, make_record(A, [lost]))
        for _ in shared.get_packer():
            pass
        with pytest.raises(WriteConflictError) as caught:
            session.end()
        assert caught.value.oids == [lost]

    def test_what_a_pack_removed_is_a_conflict_to_store(
        self, storage: WaitingStorage, shared: SharedStorage
    ) -> None:
        """Not an oid that was never given: its session may try again, with what is there now."""
        commit(storage, make_record(ROOT_OID, [A, B]))
        session, other = shared.new_session(), shared.new_session()
        commit(other, make_record(ROOT_OID, [B]))
        for _ in shared.get_packer():
            pass
        with pytest.raises(WriteConflictError):
            commit(session, new(b"changed"))
        session.sync()
        with pytest.raises(UnissuedOidError):
            commit(session, new(b"changed"))

    def test_overwritten_records_of_a_transaction_take_bounded_memory(
        self, storage: WaitingStorage
    ) -> None:
        """Beyond what is kept for snapshots they are not kept for the commit either."""
        commit(storage, make_record(A, payload=b"x" * 1000), make_record(B, payload=b"x" * 1000))
        shared = SharedStorage(storage, strict=True, history_bytes=1500)
        session, reader = shared.new_session(), shared.new_session()
        session.begin()
        session.store(A, new(b"1"))
        assert session.open_bytes() > 1000
        session.store(B, make_record(B))
        assert session.open_bytes() < 1000
        session.end()
        with pytest.raises(ReadConflictError):
            reader.load(A)

    def test_a_transaction_that_was_refused_is_open_still(self, shared: SharedStorage) -> None:
        """After submit() has raised, the same transaction may be submitted again."""
        session, other = shared.new_session(), shared.new_session()

        def refuse(stale: list[bytes]) -> None:
            raise ConflictError(stale)

        commit(other, make_record(B, payload=b"news"))
        session.begin()
        session.store(A, new(b"stored once"))
        with pytest.raises(ConflictError):
            session.submit(refuse, [].append)
        assert list(session.open_oids()) == [A]
        outcome: list[BaseException | None] = []
        session.submit(None, outcome.append)
        shared.flush()
        assert outcome == [None]
        assert session.load(A) == new(b"stored once")

    def test_oids_that_a_session_did_not_use_go_to_others(self, shared: SharedStorage) -> None:
        """What a closed session was given and did not store is given again, what it did is not."""
        one = shared.new_session()
        given = one.new_oids(5)
        commit(one, make_record(given[1]))
        one.close()
        assert shared.new_session().new_oids(4) == [given[0], *given[2:]]

    def test_a_commit_that_failed_can_be_tried_again(
        self, storage: WaitingStorage, shared: SharedStorage
    ) -> None:
        """New oids of a commit that the storage refused are still those of its session."""
        session, other = shared.new_session(), shared.new_session()
        mine = session.new_oids(3)
        storage.failures = [StorageWriteError("disk full")]
        with pytest.raises(StorageWriteError):
            commit(session, *map(make_record, mine))
        commit(session, *map(make_record, mine))
        assert not set(mine).intersection(other.new_oids(10))

    def test_oids_of_a_failed_commit_of_a_session_that_left_go_to_others(
        self, storage: WaitingStorage, shared: SharedStorage
    ) -> None:
        """They are neither lost nor the closed session's."""
        session = shared.new_session()
        given = session.new_oids(2)
        session.begin()
        session.store(given[1], make_record(given[1]))
        session.submit(None, [].append)
        session.close()
        storage.failures = [StorageWriteError("disk full")]
        shared.flush()
        assert shared.new_session().new_oids(2) == given

    def test_the_storage_keeps_no_room_for_oids_that_nobody_used(
        self, storage: WaitingStorage, shared: SharedStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many oids sessions take, the storage itself gives out one."""
        asked = []

        def new_oid() -> bytes:
            asked.append(True)
            return MemoryStorage.new_oid(storage)

        monkeypatch.setattr(storage, "new_oid", new_oid)
        given = [oid for _ in range(3) for oid in shared.new_session().new_oids(1000)]
        assert len(set(given)) == 3000
        assert len(asked) == 1
        for oid in given:
            with pytest.raises(DurusKeyError):
                storage.load(oid)

    def test_an_oid_that_is_stored_already_is_not_given(
        self, storage: WaitingStorage, shared: SharedStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The storage may give out low oids that lie between those in use."""
        monkeypatch.setattr(storage, "new_oid", lambda: int8_to_str(3))
        commit(storage, *(make_record(int8_to_str(number)) for number in (4, 6)))
        assert shared.new_session().new_oids(3) == [int8_to_str(number) for number in (3, 5, 7)]

    def test_the_oid_of_the_root_is_not_given_once_it_is_stored(self) -> None:
        """Once the root is stored, by whomever, its oid is not among those that are given again."""
        shared = SharedStorage(MemoryStorage(), strict=True)
        one, other = shared.new_session(), shared.new_session()
        assert one.new_oid() == ROOT_OID
        commit(other, make_record(ROOT_OID))
        one.close()
        assert ROOT_OID not in other.new_oids(3)

    def test_a_session_cannot_take_oids_without_end(self, shared: SharedStorage) -> None:
        """How many unused oids one session holds is limited, and the others are not concerned."""
        greedy, other = shared.new_session(), shared.new_session()
        with pytest.raises(StorageError, match="not used yet"):
            greedy.new_oids(1 << 23)
        commit(other, make_record(other.new_oid()))


# Shared syncs


def test_commits_that_wait_together_share_one_sync(
    storage: WaitingStorage, shared: SharedStorage, threads: ThreadPoolExecutor
) -> None:
    """While one commit is on its way to the disk others gather, and go there together."""
    sessions = [shared.new_session() for _ in range(6)]
    oids = [session.new_oid() for session in sessions]
    storage.may_go_on.clear()
    first = threads.submit(commit, sessions[0], make_record(oids[0]))
    assert storage.is_in_end.wait(60)
    rest = []
    for session, oid in zip(sessions[1:], oids[1:], strict=True):
        session.begin()
        session.store(oid, make_record(oid))
        session.submit(None, rest.append)
    storage.may_go_on.set()
    first.result()
    shared.flush()
    assert rest == [None] * 5
    assert storage.ends == 2
    assert all(storage.load(oid) == make_record(oid) for oid in oids)


def test_nobody_sees_a_commit_before_it_is_durable(
    storage: WaitingStorage, shared: SharedStorage, threads: ThreadPoolExecutor
) -> None:
    """While the storage is in `end`, others load the record of before, even after a sync."""
    one, other = shared.new_session(), shared.new_session()
    storage.may_go_on.clear()
    first = threads.submit(commit, one, new(b"on its way"))
    assert storage.is_in_end.wait(60)
    assert other.sync() == []
    assert other.load(A) == make_record(A)
    assert other.load(B) == make_record(B)
    storage.may_go_on.set()
    first.result()
    assert other.load(A) == make_record(A)
    assert other.sync() == [A]
    assert other.load(A) == new(b"on its way")


def test_a_storage_that_cannot_load_meanwhile_is_not_asked_to(threads: ThreadPoolExecutor) -> None:
    """Loads wait for the `end` of a storage that does not declare `can_load_meanwhile`."""
    storage = Plain()
    commit(storage, make_record(A))
    shared = SharedStorage(storage)
    one, other = shared.new_session(), shared.new_session()
    storage.is_in_end.clear()
    storage.may_go_on.clear()
    first = threads.submit(commit, one, new(b"new"))
    assert storage.is_in_end.wait(60)
    loading = threads.submit(other.load, A)
    storage.may_go_on.set()
    first.result()
    assert loading.result() == make_record(A)


def test_one_bad_commit_does_not_fail_the_others(
    storage: WaitingStorage, shared: SharedStorage
) -> None:
    """If the storage refuses what it was given together, each is tried alone."""
    sessions = [shared.new_session() for _ in range(3)]
    outcomes: dict[int, BaseException | None] = {}
    for n, session in enumerate(sessions):
        oid = session.new_oid()
        session.begin()
        session.store(oid, make_record(oid))
        session.submit(None, lambda error, n=n: outcomes.__setitem__(n, error))
    # The first is for all together, the second for the first alone.
    storage.failures = [StorageWriteError("alone"), StorageWriteError("together")]
    shared.flush()
    assert str(outcomes[0]) == "alone"
    assert outcomes[1] is outcomes[2] is None


def test_an_interrupt_leaves_no_commit_without_an_outcome(
    storage: WaitingStorage, shared: SharedStorage
) -> None:
    """When Ctrl-C comes while commits are tried one by one, those behind it failed as well."""
    sessions = [shared.new_session() for _ in range(3)]
    outcomes: dict[int, BaseException | None] = {}
    for n, session in enumerate(sessions):
        oid = session.new_oid()
        session.begin()
        session.store(oid, make_record(oid))
        session.submit(None, lambda error, n=n: outcomes.__setitem__(n, error))
    storage.failures = [KeyboardInterrupt(), StorageWriteError("together")]
    with pytest.raises(KeyboardInterrupt):
        shared.flush()
    assert [*map(type, outcomes.values())] == [StorageTransactionError] * 3
    for session in sessions:
        commit(session, make_record(session.new_oid()))


def test_a_failed_commit_leaves_everything_as_it_was(
    storage: WaitingStorage, shared: SharedStorage
) -> None:
    """After the storage refused, nothing has changed for anybody and the next commit works."""
    one, other = shared.new_session(), shared.new_session()
    storage.failures = [StorageWriteError("disk full")]
    with pytest.raises(StorageWriteError):
        commit(one, new(b"lost"))
    assert other.sync() == []
    assert one.load(A) == other.load(A) == make_record(A)
    commit(other, new(b"kept"))
    assert one.sync() == [A]


@pytest.mark.parametrize("is_stored", [False, True])
def test_an_interrupt_while_writing_leaves_what_the_storage_has(
    storage: WaitingStorage, shared: SharedStorage, is_stored: bool
) -> None:
    """After Ctrl-C inside `end` the sessions see what is stored, be that before or after."""
    one, other = shared.new_session(), shared.new_session()
    storage.failures = [KeyboardInterrupt()]
    if is_stored:
        storage.begin = storage.sync  # type: ignore[method-assign]  # the transaction goes through
        MemoryStorage.begin(storage)

        def end(handle: object = None) -> None:
            MemoryStorage.end(storage)
            raise KeyboardInterrupt

        storage.end = end  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        commit(one, new(b"new"))
    assert other.sync() == ([A] if is_stored else [])
    assert other.load(A) == (new(b"new") if is_stored else make_record(A))


# Life cycle


def test_a_closed_storage_ends_its_sessions(shared: SharedStorage) -> None:
    """After `close()` every call of every session says so, and what was queued is in."""
    session = shared.new_session()
    outcome: list[BaseException | None] = []
    session.begin()
    session.store(A, new(b"queued"))
    session.submit(None, outcome.append)
    shared.close()
    shared.close()
    assert outcome == [None]
    for call in (session.sync, session.begin, session.new_oid, session.new_session):
        with pytest.raises(StorageClosedError):
            call()
    with pytest.raises(StorageClosedError):
        session.load(A)


def test_many_threads_increment_one_number(threads: ThreadPoolExecutor) -> None:
    """Of increments that race, each is either counted or refused as a conflict."""
    shared = SharedStorage(MemoryStorage())
    commit(shared.new_session(), new(b"0"))

    def increment(session: Session) -> int:
        done = 0
        for _ in range(100):
            session.sync()
            number = int(_payload(session.load(A)))
            with suppress(ConflictError):
                commit(session, new(b"%d" % (number + 1)))
                done += 1
        return done

    sessions = [shared.new_session() for _ in range(8)]
    done = sum(threads.map(increment, sessions))
    assert int(_payload(shared.new_session().load(A))) == done
    assert done >= 100


def _payload(record: bytes) -> bytes:
    return next(b"%d" % n for n in range(1000) if record == new(b"%d" % n))


def test_what_several_sessions_load_is_asked_for_once() -> None:
    """The storage is asked again when it was changed, and for a lone session each time."""
    storage = Counting()
    commit(storage, make_record(A), make_record(B))
    shared = SharedStorage(storage)
    one = shared.new_session()
    for loads in (1, 2):
        assert one.load(A) == make_record(A)
        assert storage.loads == loads
    other = shared.new_session()
    for session in (one, other, one, other):
        assert session.load(A) == make_record(A)
    assert storage.loads == 3
    commit(one, new(b"changed"))
    loads = storage.loads
    assert other.load(A) == make_record(A)
    other.sync()
    for session in (one, other, one, other):
        assert session.load(A) == new(b"changed")
    assert storage.loads == loads + 1


def test_a_storage_that_is_followed_tells_its_sessions() -> None:
    """What another process writes to the storage beneath is news for every session."""
    storage = Followed()
    shared = SharedStorage(storage)
    one, other = shared.new_session(), shared.new_session()
    storage.news = [A]
    assert one.sync() == [A]
    with pytest.raises(ReadConflictError):
        other.load(A)
    assert other.sync() == [A]


def test_a_storage_that_lost_track_loses_that_of_its_sessions() -> None:
    """When all may have changed beneath, each session is told so before it reads or commits."""
    storage = Followed()
    shared = SharedStorage(storage, strict=True)
    one, other = shared.new_session(), shared.new_session()
    void = other.new_oids(2)[1]
    storage.news = None
    assert one.sync() is None
    assert one.load(A) == make_record(A)
    with pytest.raises(ReadConflictError):
        other.load(A)
    with pytest.raises(WriteConflictError):
        commit(other, new(b"changed"))
    assert other.sync() is None
    assert other.sync() == []
    with pytest.raises(UnissuedOidError):
        commit(other, make_record(void))
    commit(other, new(b"changed"))
    assert one.sync() == [A]


def test_news_of_the_storage_do_not_overtake_a_commit() -> None:
    """A session that hears of what another process wrote hears of the commit before it too."""
    storage = Followed()
    shared = SharedStorage(storage)
    one, other, third = (shared.new_session() for _ in range(3))
    one.begin()
    one.store(A, new(b"one"))
    one.submit(None, [].append)
    storage.news = [B]
    told = set(other.sync() or ())
    shared.flush()
    told.update(other.sync() or ())
    assert told == set(third.sync() or ()) == {A, B}
    assert other.load(A) == new(b"one")


class Followed(MemoryStorage):
    """A storage that somebody else writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.news: list[bytes] | None = []
        commit(self, make_record(A))

    def sync(self) -> list[bytes] | None:  # type: ignore[override]  # it may lose track
        news, self.news = self.news, []
        return news


def test_a_session_is_a_storage(shared: SharedStorage) -> None:
    """A session has the abilities of the storage beneath, and shares by itself."""
    session: Storage = shared.new_session()
    assert (session.can_pack, session.can_share, session.is_persistent) == (True, True, False)


class Counting(MemoryStorage):
    """A storage that counts how often it was asked for a record."""

    loads = 0

    def load(self, oid: bytes) -> bytes:
        self.loads += 1
        return super().load(oid)


def test_what_a_record_overwrites_is_looked_up_once_after_the_session_moved() -> None:
    """A transaction that was begun before the session moved is looked at as it comes, not again.

    It begins as soon as the one before was handed on, and a commit moves its session.
    """
    storage = Counting()
    shared = SharedStorage(storage, strict=True)
    session = shared.new_session()
    session.begin()
    for payload in (b"first", b"second"):
        session.store(ROOT_OID, make_record(ROOT_OID, [], payload))
        before = storage.loads
        session.submit(None, lambda error: None)
        assert storage.loads == before
        session.begin()
        shared.flush()


def test_what_came_before_the_session_moved_is_looked_up_again_step_by_step() -> None:
    """A transaction of many records keeps others waiting for a few of them at a time."""
    storage = Counting()
    shared = SharedStorage(storage, strict=True)
    mine, other = shared.new_session(), shared.new_session()
    commit(other, make_record(ROOT_OID))
    mine.sync()
    oids = mine.new_oids(5)
    mine.begin()
    for oid in oids:
        mine.store(oid, make_record(oid))
    commit(other, make_record(ROOT_OID, [], b"news"))
    assert mine.examine(2)
    mine.sync()
    before = storage.loads
    steps = []
    while not mine.examine(2):
        steps.append(storage.loads - before)
    assert steps == [2, 4]
    assert storage.loads - before == 5
    mine.end()
    assert storage.loads - before == 5
    assert storage.load(oids[4]) == make_record(oids[4])
