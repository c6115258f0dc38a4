"""The storage contract, one test for each clause.

A back-end's tests subclass `StorageTests` and define one fixture, `open_storage`: a callable that
opens the same data at each call. Its class declares its abilities (`can_pack`, `can_share`,
`can_open_readonly`, `is_persistent`, `can_load_meanwhile`, `keeps_history`, `can_open_at`), and the
suite checks each both ways: what is declared works, and what is not declared is refused. A clause
that the back-end breaks is named in `gaps` with the reason::

    class TestMyStorage(StorageTests):
        gaps = {"test_large_record_comes_back_whole": "the server takes 1 MB at most"}

        @pytest.fixture
        def open_storage(self, tmp_path):
            return partial(MyStorage, tmp_path / "data")

The suite calls public methods alone, and looks at what was written through another opening. How
many clauses ran is said at the end of the run; one that was left out and is no gap turns it red.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from durus.error import (
    CorruptRecordError,
    DurusError,
    DurusKeyError,
    InvalidOidError,
    StorageClosedError,
    StorageReadOnlyError,
    StorageTransactionError,
)
from durus.serialize import ROOT_OID
from durus.storage import Storage, StorageDescription
from durus.testing._history_clauses import HistoryClauses
from durus.testing._pack_clauses import PackClauses
from durus.testing._session_clauses import SessionClauses
from durus.testing._suite import Place, clauses, commit_graph, fresh_oids, is_stored, needs
from durus.testing.records import commit, make_record, malformed_records
from durus.utils import int8_to_str

__all__ = ["Place", "StorageTests", "clauses"]

_LARGE_BYTES = 5_000_000
_NOT_OIDS = (b"", b"\0" * 7, b"\0" * 9, "\0" * 8, 0, None)


class _TransactionClauses:
    """What begin, store and end owe."""

    def test_load_gives_the_committed_record(self, place: Place) -> None:
        """`load` gives what was committed, byte for byte, in a later opening too."""
        [oid] = fresh_oids(place.storage, 1)
        record = make_record(oid, payload=b"kept")
        commit(place.storage, record)
        assert place.storage.load(oid) == record
        found = place.again().load(oid)
        assert isinstance(found, bytes)
        assert found == record

    def test_load_of_an_unknown_oid_raises_durus_key_error(self, place: Place) -> None:
        """`load` of an oid that is not stored raises DurusKeyError, which has the oid."""
        commit(place.storage, make_record(ROOT_OID))
        [oid] = fresh_oids(place.storage, 1)
        with pytest.raises(DurusKeyError) as caught:
            place.storage.load(oid)
        assert caught.value.oid == oid

    def test_load_refuses_an_oid_that_is_not_eight_bytes(self, place: Place) -> None:
        """`load` of what is no oid raises InvalidOidError."""
        for oid in _NOT_OIDS:
            with pytest.raises(InvalidOidError):
                place.storage.load(oid)  # type: ignore[arg-type]  # that is the point

    @needs("can_load_meanwhile")
    def test_load_works_while_another_thread_is_in_end(self, place: Place) -> None:
        """While one thread commits, `load` in another gives the record of before or of after."""
        storage = place.storage
        [oid] = fresh_oids(storage, 1)
        records = [make_record(oid, payload=b"%d" % n) for n in range(100)]
        commit(storage, records[0])

        def commit_all() -> None:
            for record in records:
                commit(storage, record)

        with ThreadPoolExecutor(1) as threads:
            committer = threads.submit(commit_all)
            found = [storage.load(oid)]
            while not committer.done():
                found.append(storage.load(oid))
        committer.result()
        places = [records.index(record) for record in found[1:]]
        assert places == sorted(places)
        assert storage.load(oid) == records[-1]

    def test_load_does_not_see_what_is_not_ended(self, place: Place) -> None:
        """Within a transaction `load` gives the committed record, not the pending one."""
        storage = place.storage
        new_oid, oid = fresh_oids(storage, 2)
        committed = make_record(oid, payload=b"committed")
        commit(storage, committed)
        storage.begin()
        storage.store(oid, make_record(oid, payload=b"pending"))
        storage.store(new_oid, make_record(new_oid))
        assert storage.load(oid) == committed
        with pytest.raises(DurusKeyError):
            storage.load(new_oid)

    def test_begin_forgets_what_was_pending(self, place: Place) -> None:
        """A second `begin` forgets what was stored since the first."""
        storage = place.storage
        forgotten, kept = (make_record(oid) for oid in fresh_oids(storage, 2))
        storage.begin()
        storage.store(forgotten[:8], forgotten)
        commit(storage, kept)
        found = place.again()
        assert is_stored(found, kept)
        assert not is_stored(found, forgotten)

    def test_store_without_begin_raises(self, place: Place) -> None:
        """`store` outside a transaction raises StorageTransactionError, after an `end` too."""
        storage = place.storage
        first, second = (make_record(oid) for oid in fresh_oids(storage, 2))
        with pytest.raises(StorageTransactionError):
            storage.store(first[:8], first)
        commit(storage, first)
        with pytest.raises(StorageTransactionError):
            storage.store(second[:8], second)

    def test_store_refuses_an_oid_that_is_not_eight_bytes(self, place: Place) -> None:
        """`store` under what is no oid raises InvalidOidError."""
        place.storage.begin()
        for oid in _NOT_OIDS:
            with pytest.raises(InvalidOidError):
                place.storage.store(oid, make_record(ROOT_OID))  # type: ignore[arg-type]  # as above

    def test_store_refuses_the_record_of_another_oid(self, place: Place) -> None:
        """`store` of a record that starts with another oid raises CorruptRecordError."""
        one, other = fresh_oids(place.storage, 2)
        place.storage.begin()
        with pytest.raises(CorruptRecordError):
            place.storage.store(one, make_record(other))

    def test_store_refuses_a_malformed_record(self, place: Place) -> None:
        """`store` of a record whose lengths do not fit raises CorruptRecordError."""
        [oid] = fresh_oids(place.storage, 1)
        place.storage.begin()
        for flaw, record in malformed_records(oid).items():
            with pytest.raises(CorruptRecordError):
                place.storage.store(oid, record)
                pytest.fail(f"stored a malformed record: {flaw}")

    def test_store_of_one_oid_twice_keeps_the_later(self, place: Place) -> None:
        """Of two records that a transaction stores under one oid, the later is kept."""
        [oid] = fresh_oids(place.storage, 1)
        later = make_record(oid, payload=b"later")
        commit(place.storage, make_record(oid, payload=b"earlier, and longer"), later)
        assert place.again().load(oid) == later

    def test_refused_record_keeps_nothing_of_its_transaction(self, place: Place) -> None:
        """A transaction given up in the middle, at a bad record, leaves nothing to the next one."""
        storage = place.storage
        before, bad, after = fresh_oids(storage, 3)
        old, new = make_record(before, payload=b"old"), make_record(before, payload=b"new")
        commit(storage, old)
        storage.begin()
        storage.store(before, new)
        with pytest.raises(CorruptRecordError):
            storage.store(bad, b"no record")
        commit(storage, make_record(after))
        found = place.again()
        assert found.load(before) == old
        assert is_stored(found, make_record(after))

    def test_end_without_begin_raises(self, place: Place) -> None:
        """`end` outside a transaction raises StorageTransactionError, after an `end` too."""
        with pytest.raises(StorageTransactionError):
            place.storage.end()
        commit(place.storage, make_record(ROOT_OID))
        with pytest.raises(StorageTransactionError):
            place.storage.end()

    def test_end_keeps_every_record_of_the_transaction(self, place: Place) -> None:
        """A transaction of many records of many sizes is kept whole."""
        oids = fresh_oids(place.storage, 2000)
        records = [make_record(oid, payload=b"x" * (7 * n % 500)) for n, oid in enumerate(oids)]
        commit(place.storage, *records)
        assert list(place.again().bulk_load(oids)) == records

    def test_end_leaves_other_records_as_they_were(self, place: Place) -> None:
        """A transaction replaces what it stores, and only that."""
        one, other = fresh_oids(place.storage, 2)
        commit(place.storage, make_record(one, payload=b"one"), make_record(other))
        changed = make_record(other, payload=b"changed")
        commit(place.storage, changed)
        found = place.again()
        assert found.load(one) == make_record(one, payload=b"one")
        assert found.load(other) == changed

    def test_end_of_an_empty_transaction_changes_nothing(self, place: Place) -> None:
        """A transaction without records commits, and what is stored stays."""
        record = make_record(ROOT_OID, payload=b"stays")
        commit(place.storage, record)
        commit(place.storage)
        with pytest.raises(StorageTransactionError):
            place.storage.end()
        assert place.again().load(ROOT_OID) == record

    def test_end_calls_no_handler_without_invalidations(self, place: Place) -> None:
        """`end` calls its handler only when there is something to tell."""
        told: list[list[bytes]] = []
        storage = place.storage
        commit(storage, make_record(ROOT_OID))
        storage.begin()
        storage.store(ROOT_OID, make_record(ROOT_OID, payload=b"own change"))
        storage.end(told.append)
        assert told == []

    def test_commits_follow_each_other(self, place: Place) -> None:
        """Of many transactions, each on top of the one before, all stay and the last one wins."""
        oids = fresh_oids(place.storage, 30)
        for n, oid in enumerate(oids):
            commit(place.storage, make_record(oid), make_record(ROOT_OID, payload=b"%d" % n))
        found = place.again()
        assert all(is_stored(found, make_record(oid)) for oid in oids)
        assert found.load(ROOT_OID) == make_record(ROOT_OID, payload=b"29")

    def test_large_record_comes_back_whole(self, place: Place) -> None:
        """A record of 5 MB that does not compress is kept, beside small ones."""
        large, small = fresh_oids(place.storage, 2)
        record = make_record(large, payload=Random(5).randbytes(_LARGE_BYTES))  # noqa: S311 - no secret
        commit(place.storage, record, make_record(small))
        found = place.again()
        assert found.load(large) == record
        assert is_stored(found, make_record(small))

    def test_oids_need_not_be_dense(self, place: Place) -> None:
        """Records under any oids are kept, as when a conversion brings them, and no others."""
        records = [make_record(int8_to_str(n)) for n in (0, 5, 6, 1000, 40_000)]
        commit(place.storage, *records)
        found = place.again()
        assert all(is_stored(found, record) for record in records)
        for oid_int in (1, 7, 999, 39_999, 40_001, 2**40):
            assert not is_stored(found, make_record(int8_to_str(oid_int)))

    def test_sync_without_news_gives_an_empty_list(self, place: Place) -> None:
        """`sync` gives a list, and does not report what this storage committed itself."""
        assert place.storage.sync() == []
        commit(place.storage, make_record(ROOT_OID))
        assert place.storage.sync() == []


class _OidClauses:
    """What new_oid owes."""

    def test_new_oid_gives_each_oid_once(self, place: Place) -> None:
        """`new_oid` gives 8 bytes, and none twice, whatever becomes of those that it gave."""
        storage = place.storage
        given = [storage.new_oid() for _ in range(50)]
        storage.begin()
        storage.store(given[-1], make_record(given[-1]))
        storage.begin()
        given += [storage.new_oid() for _ in range(50)]
        commit(storage, make_record(given[7]))
        given += [storage.new_oid() for _ in range(50)]
        assert all(isinstance(oid, bytes) and len(oid) == 8 for oid in given)
        assert len(set(given)) == len(given)

    def test_new_oid_gives_none_that_is_stored(self, place: Place) -> None:
        """`new_oid` passes over every stored oid, whoever chose it."""
        stored = {int8_to_str(n) for n in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144)}
        commit(place.storage, *(make_record(oid) for oid in stored))
        assert stored.isdisjoint(place.storage.new_oid() for _ in range(200))

    def test_new_oid_gives_none_that_is_stored_after_reopening(self, place: Place) -> None:
        """`new_oid` passes over every stored oid when the data is opened again."""
        oids = fresh_oids(place.storage, 20)
        stored = {*oids[::2], ROOT_OID}
        commit(place.storage, *(make_record(oid) for oid in stored))
        found = place.again()
        assert stored.isdisjoint(found.new_oid() for _ in range(100))

    def test_new_oid_gives_none_that_is_pending(self, place: Place) -> None:
        """`new_oid` passes over every oid of the open transaction, whoever chose it."""
        pending = {int8_to_str(n) for n in range(0, 60, 3)}
        place.storage.begin()
        for oid in pending:
            place.storage.store(oid, make_record(oid))
        assert pending.isdisjoint(place.storage.new_oid() for _ in range(100))


class _WalkClauses:
    """What bulk_load and gen_oid_record owe."""

    def test_bulk_load_yields_records_in_the_order_asked(self, place: Place) -> None:
        """`bulk_load` takes any iterable and yields a record for each oid, repeated ones too."""
        oids = fresh_oids(place.storage, 40)
        commit(place.storage, *map(make_record, oids))
        asked = [*reversed(oids), oids[3], oids[3], oids[0]]
        found = place.again()
        assert list(found.bulk_load(oid for oid in asked)) == [make_record(oid) for oid in asked]
        assert list(found.bulk_load([])) == []

    def test_bulk_load_raises_on_reaching_an_unknown_oid(self, place: Place) -> None:
        """`bulk_load` yields what stands before an unknown oid, raises there, and harms nothing."""
        storage = place.storage
        one, other, unknown = fresh_oids(storage, 3)
        commit(storage, make_record(one), make_record(other))
        found = []
        with pytest.raises(DurusKeyError) as caught:
            for record in storage.bulk_load([one, other, unknown, one]):
                found.append(record)  # noqa: PERF402 - what came before the error counts
        assert caught.value.oid == unknown
        assert found == [make_record(one), make_record(other)]
        assert storage.load(other) == make_record(other)

    def test_walks_refuse_an_oid_that_is_not_eight_bytes(self, place: Place) -> None:
        """`bulk_load` of what is no oid, and `gen_oid_record` from it, raise InvalidOidError."""
        commit(place.storage, make_record(ROOT_OID))
        for oid in (b"\0" * 7, b"\0" * 9):
            with pytest.raises(InvalidOidError):
                list(place.storage.bulk_load([ROOT_OID, oid]))
            with pytest.raises(InvalidOidError):
                list(place.storage.gen_oid_record(oid))

    def test_gen_oid_record_yields_every_reachable_record_once(self, place: Place) -> None:
        """Without a start, `gen_oid_record` yields all that the root reaches, and nothing twice."""
        records = commit_graph(place.storage, {0: [1, 2], 1: [3], 2: [3, 0], 3: [1], 4: [4]})
        pairs = list(place.again().gen_oid_record())
        expected = {record[:8]: record for record in records.values()}
        garbage = records[4][:8]
        found = dict(pairs)
        assert len(found) == len(pairs)
        assert {**found, garbage: records[4]} == expected

    def test_gen_oid_record_from_a_start_yields_what_it_reaches(self, place: Place) -> None:
        """With a start, `gen_oid_record` yields that and what it reaches, and nothing twice."""
        records = commit_graph(place.storage, {0: [1], 1: [2, 3], 2: [3], 3: [1], 4: [1]})
        pairs = list(place.again().gen_oid_record(records[1][:8]))
        assert sorted(pairs) == sorted((records[n][:8], records[n]) for n in (1, 2, 3))

    def test_gen_oid_record_is_the_same_for_every_batch_size(self, place: Place) -> None:
        """`batch_size` changes how many records are asked for at once, not what is yielded."""
        records = commit_graph(place.storage, {0: [*range(1, 12)], **{n: [] for n in range(1, 12)}})
        expected = sorted((record[:8], record) for record in records.values())
        for batch_size in (1, 2, 11, 1000):
            found = place.storage.gen_oid_record(ROOT_OID, batch_size=batch_size)
            assert sorted(found) == expected

    def test_gen_oid_record_of_an_empty_storage_yields_nothing(self, place: Place) -> None:
        """Without a start and without records, `gen_oid_record` yields nothing."""
        assert list(place.storage.gen_oid_record()) == []

    def test_gen_oid_record_from_an_unknown_oid_raises(self, place: Place) -> None:
        """`gen_oid_record` from an oid that is not stored raises DurusKeyError."""
        commit(place.storage, make_record(ROOT_OID))
        [unknown] = fresh_oids(place.storage, 1)
        with pytest.raises(DurusKeyError):
            list(place.storage.gen_oid_record(unknown))


class _OpeningClauses:
    """What opening and closing owe, and the abilities that show there."""

    def test_is_persistent_tells_the_truth(self, place: Place) -> None:
        """What was committed is there after reopening exactly if `is_persistent` is true."""
        record = make_record(ROOT_OID)
        commit(place.storage, record)
        is_persistent = place.storage.is_persistent
        assert is_stored(place.reopen(), record) == is_persistent

    def test_can_open_readonly_tells_the_truth(self, place: Place) -> None:
        """The class takes `readonly=True` exactly if `can_open_readonly` is true."""
        commit(place.storage, make_record(ROOT_OID))
        can_open_readonly = place.storage.can_open_readonly
        place.close()
        if can_open_readonly:
            assert place.open(readonly=True).can_open_readonly
            return
        with pytest.raises((TypeError, DurusError)):
            place.open(readonly=True)

    @needs("can_open_readonly", "is_persistent")
    def test_readonly_storage_gives_what_is_committed(self, place: Place) -> None:
        """A storage opened read-only loads, walks and syncs."""
        records = commit_graph(place.storage, {0: [1], 1: []})
        place.close()
        storage = place.open(readonly=True)
        expected = sorted((record[:8], record) for record in records.values())
        assert sorted(storage.gen_oid_record(ROOT_OID)) == expected
        assert storage.sync() == []

    @needs("can_open_readonly")
    def test_readonly_storage_refuses_every_write(self, place: Place) -> None:
        """Opened read-only, whatever would change data raises StorageReadOnlyError."""
        commit_graph(place.storage, {0: [], 1: []})
        can_pack = place.storage.can_pack
        place.close()
        storage = place.open(readonly=True)
        writes: list[Callable[[], object]] = [storage.begin, storage.new_oid]
        if can_pack:
            writes += [storage.pack, lambda: list(storage.get_packer())]
        for write in writes:
            with pytest.raises(StorageReadOnlyError):
                write()

    def test_describe_tells_what_is_true(self, place: Place) -> None:
        """What `describe` tells is so: objects, commits and the time of the last one."""
        storage = place.storage
        before, start = storage.describe(), datetime.now(UTC)
        commit(storage, make_record(ROOT_OID))
        commit(storage, make_record(ROOT_OID, payload=b"again"))
        after = storage.describe()
        assert isinstance(after, StorageDescription)
        assert after.object_count in {None, 1}
        if after.transaction_count is not None:
            assert after.transaction_count - (before.transaction_count or 0) == 2
        if after.last_commit_time is not None:
            # A clock may tick coarsely, and be set back a little.
            assert abs(after.last_commit_time - start) < timedelta(minutes=10)

    def test_gen_damage_finds_nothing_in_what_is_whole(self, place: Place) -> None:
        """`gen_damage` yields nothing where nothing is damaged, garbage included, and changes none.

        Not of an empty storage, nor within a transaction, after a pack, or in another opening.
        """
        storage = place.storage
        _check_whole(storage)
        garbage, kept = fresh_oids(storage, 2)
        commit_graph(storage, {0: []})
        commit(storage, make_record(garbage), make_record(kept), make_record(ROOT_OID, [kept]))
        commit(storage, make_record(kept, payload=b"changed"))
        _check_whole(storage)
        pending = make_record(kept, payload=b"pending")
        storage.begin()
        storage.store(kept, pending)
        _check_whole(storage)
        storage.end()
        assert is_stored(storage, pending)
        _check_whole(place.again())
        if storage.can_pack:
            place.storage.pack()
            _check_whole(place.storage)
            _check_whole(place.again())
        if place.storage.can_open_readonly and place.storage.is_persistent:
            place.close()
            _check_whole(place.open(readonly=True))

    def test_close_drops_the_open_transaction(self, place: Place) -> None:
        """What was stored and not ended when the storage was closed is gone."""
        [oid] = fresh_oids(place.storage, 1)
        place.storage.begin()
        place.storage.store(oid, make_record(oid))
        assert not is_stored(place.reopen(), make_record(oid))

    def test_close_twice_does_nothing(self, place: Place) -> None:
        """A second `close` does nothing, and the data stays as it was."""
        storage = place.storage
        record = make_record(ROOT_OID)
        commit(storage, record)
        storage.close()
        storage.close()
        if storage.is_persistent:
            assert is_stored(place.reopen(), record)

    def test_use_after_close_raises_storage_closed_error(self, place: Place) -> None:
        """After `close`, every other call raises StorageClosedError."""
        storage = place.storage
        record = make_record(ROOT_OID)
        commit(storage, record)
        storage.begin()
        calls = _calls(storage, record)
        storage.close()
        for call in calls:
            with pytest.raises(StorageClosedError):
                call()

    def test_with_statement_closes(self, place: Place) -> None:
        """A storage is a context manager that gives itself and closes at the end."""
        with place.storage as storage:
            assert storage is place.storage
            storage.sync()
        with pytest.raises(StorageClosedError):
            storage.sync()


class StorageTests(
    _OpeningClauses,
    _WalkClauses,
    _OidClauses,
    SessionClauses,
    HistoryClauses,
    PackClauses,
    _TransactionClauses,
):
    """Every clause of the storage contract. Subclass it and define the fixture `open_storage`.

    Attributes:
        gaps: the clauses that the storage is known to break: test name to reason.
    """


def _check_whole(storage: Storage) -> None:
    """Have a storage look for damage, of which there is none."""
    before = sorted(storage.gen_oid_record())
    assert list(storage.gen_damage()) == []
    assert sorted(storage.gen_oid_record()) == before


def _calls(storage: Storage, record: bytes) -> list[Callable[[], object]]:
    """Give a call of every method that a storage must refuse once it is closed."""
    calls: list[Callable[[], object]] = [
        lambda: storage.load(ROOT_OID),
        storage.begin,
        lambda: storage.store(ROOT_OID, record),
        storage.end,
        storage.sync,
        storage.new_oid,
        lambda: list(storage.bulk_load([ROOT_OID])),
        lambda: list(storage.gen_oid_record()),
        lambda: list(storage.gen_oid_record(ROOT_OID)),
    ]
    if storage.can_pack:
        calls += [storage.pack, lambda: list(storage.get_packer())]
    if storage.can_share:
        calls.append(storage.new_session)
    if storage.keeps_history:
        calls += [
            lambda: list(storage.gen_commits()),
            lambda: storage.load_as_of(ROOT_OID, 1),
            lambda: list(storage.gen_changes(1)),
        ]
    if type(storage).gen_damage is not Storage.gen_damage:
        calls.append(lambda: list(storage.gen_damage()))
    return calls
