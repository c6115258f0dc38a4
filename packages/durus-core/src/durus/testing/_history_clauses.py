"""The clauses of the storage contract about past states."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from durus.error import (
    DurusError,
    DurusKeyError,
    InvalidOidError,
    NotSupportedError,
    StorageError,
    StorageReadOnlyError,
)
from durus.serialize import ROOT_OID
from durus.storage import Storage
from durus.testing._suite import Place, Suite, fresh_oids, needs
from durus.testing.records import commit, make_record


class HistoryClauses(Suite):
    """What gen_commits, load_as_of and an opening `at` a commit owe."""

    def test_keeps_history_tells_the_truth(self, place: Place) -> None:
        """Past states are read where `keeps_history` is true, else that is NotSupportedError."""
        storage = place.storage
        if storage.keeps_history:
            serial = _commit(storage, make_record(ROOT_OID))
            assert storage.load_as_of(ROOT_OID, serial) == make_record(ROOT_OID)
            return
        commit(storage, make_record(ROOT_OID))
        with pytest.raises(NotSupportedError):
            list(storage.gen_commits())
        with pytest.raises(NotSupportedError):
            storage.load_as_of(ROOT_OID, 1)
        with pytest.raises(NotSupportedError):
            list(storage.gen_changes(1))

    @needs("keeps_history")
    def test_gen_commits_yields_each_commit_in_its_order(self, place: Place) -> None:
        """`gen_commits` yields ascending serials and aware times, the newest commit last."""
        storage = place.storage
        start = datetime.now(UTC)
        serials = [_commit(storage, make_record(ROOT_OID, payload=b"%d" % n)) for n in range(20)]
        found = list(place.again().gen_commits())
        assert [serial for serial, _ in found] == sorted({serial for serial, _ in found})
        assert [serial for serial, _ in found][-20:] == serials
        # A clock may tick coarsely, and be set back a little.
        assert all(abs(time - start) < timedelta(minutes=10) for _, time in found[-20:])

    @needs("keeps_history")
    def test_load_as_of_gives_what_was_stored_then(self, place: Place) -> None:
        """As of each commit `load_as_of` gives what was overwritten since, and what was not."""
        storage = place.storage
        one, other = fresh_oids(storage, 2)
        changes = [
            [make_record(ROOT_OID, [one]), make_record(one)],
            [make_record(one, payload=b"changed"), make_record(other)],
            [make_record(other, payload=b"changed")],
            [make_record(one, payload=b"again"), make_record(ROOT_OID, [one, other])],
        ]
        states: dict[int, dict[bytes, bytes]] = {}
        newest: dict[bytes, bytes] = {}
        for records in changes:
            serial = _commit(storage, *records)
            newest = newest | {record[:8]: record for record in records}
            states[serial] = newest
        for is_again in (False, True):
            found = place.again() if is_again else storage
            for serial in [*states, *reversed(states)]:
                _check_state(found, serial, states[serial])
            assert {oid: found.load(oid) for oid in newest} == newest

    @needs("keeps_history")
    def test_load_as_of_of_what_was_not_stored_yet_raises_durus_key_error(
        self, place: Place
    ) -> None:
        """As of a commit what came later is not there; DurusKeyError has the oid."""
        storage = place.storage
        later, never = fresh_oids(storage, 2)
        before = _commit(storage, make_record(ROOT_OID))
        after = _commit(storage, make_record(later))
        for oid, serial in ((later, before), (never, before), (never, after)):
            with pytest.raises(DurusKeyError) as caught:
                storage.load_as_of(oid, serial)
            assert caught.value.oid == oid
        assert storage.load_as_of(later, after) == make_record(later)

    @needs("keeps_history")
    def test_load_as_of_refuses_a_serial_that_is_none(self, place: Place) -> None:
        """A serial that `gen_commits` does not yield is a StorageError, however near it is."""
        storage = place.storage
        commit(storage, make_record(ROOT_OID))
        newest = _commit(storage, make_record(ROOT_OID, payload=b"newer"))
        oldest = next(iter(storage.gen_commits()))[0]
        for serial in (newest + 1, oldest - 1, -1, 2**64, -(2**64)):
            with pytest.raises(StorageError):
                storage.load_as_of(ROOT_OID, serial)
                pytest.fail(f"read as of {serial}, of {oldest} to {newest}")

    @needs("keeps_history")
    def test_gen_changes_yields_what_each_commit_stored(self, place: Place) -> None:
        """`gen_changes` yields each object that the commit stored once, as it stored it."""
        storage = place.storage
        one, other = fresh_oids(storage, 2)
        changes = [
            [make_record(ROOT_OID, [one]), make_record(one), make_record(one, payload=b"twice")],
            [make_record(one, payload=b"changed"), make_record(other)],
            [make_record(ROOT_OID, [one])],
            [make_record(one, payload=b"changed")],
        ]
        stored = {
            _commit(storage, *records): {record[:8]: record for record in records}
            for records in changes
        }
        for is_again in (False, True):
            found = place.again() if is_again else storage
            for serial in [*stored, *reversed(stored)]:
                yielded = list(found.gen_changes(serial))
                assert dict(yielded) == stored[serial]
                assert len(yielded) == len(stored[serial])

    @needs("keeps_history")
    def test_gen_changes_refuses_a_serial_that_is_none(self, place: Place) -> None:
        """A serial that `gen_commits` does not yield is a StorageError, not a commit of nothing."""
        storage = place.storage
        newest = _commit(storage, make_record(ROOT_OID))
        oldest = next(iter(storage.gen_commits()))[0]
        for serial in (newest + 1, oldest - 1, -1, 2**64, -(2**64)):
            with pytest.raises(StorageError):
                list(storage.gen_changes(serial))

    @needs("keeps_history")
    def test_load_as_of_refuses_an_oid_that_is_not_eight_bytes(self, place: Place) -> None:
        """`load_as_of` of what is no oid raises InvalidOidError."""
        serial = _commit(place.storage, make_record(ROOT_OID))
        for oid in (b"", b"\0" * 7, b"\0" * 9, None):
            with pytest.raises(InvalidOidError):
                place.storage.load_as_of(oid, serial)  # type: ignore[arg-type]  # that is the point

    @needs("keeps_history")
    def test_history_does_not_show_what_is_not_ended(self, place: Place) -> None:
        """What is stored and not ended is no commit, and is seen as of none."""
        storage = place.storage
        serial = _commit(storage, make_record(ROOT_OID))
        before = list(storage.gen_commits())
        storage.begin()
        storage.store(ROOT_OID, make_record(ROOT_OID, payload=b"pending"))
        assert list(storage.gen_commits()) == before
        assert storage.load_as_of(ROOT_OID, serial) == make_record(ROOT_OID)

    @needs("keeps_history", "can_open_readonly", "is_persistent")
    def test_readonly_storage_gives_past_states(self, place: Place) -> None:
        """A storage that is opened read-only reads the past as the writer does."""
        serials = [_commit(place.storage, make_record(ROOT_OID, payload=b"%d" % n)) for n in (0, 1)]
        expected = list(place.storage.gen_commits())
        place.close()
        storage = place.open(readonly=True)
        assert list(storage.gen_commits()) == expected
        for n, serial in enumerate(serials):
            assert storage.load_as_of(ROOT_OID, serial) == make_record(ROOT_OID, payload=b"%d" % n)

    @needs("keeps_history", "can_pack")
    def test_past_states_that_a_pack_keeps_are_as_they_were(self, place: Place) -> None:
        """After a pack, as of each commit that is left, what the root reached is as it was."""
        storage = place.storage
        kept, removed, new = fresh_oids(storage, 3)
        changes = [
            [make_record(ROOT_OID, [kept, removed]), make_record(kept), make_record(removed)],
            [make_record(kept, payload=b"changed")],
            [make_record(ROOT_OID, [kept])],
        ]
        states: dict[int, dict[bytes, bytes]] = {}
        state: dict[bytes, bytes] = {}

        def commit_all(changes: list[list[bytes]]) -> None:
            nonlocal state
            for records in changes:
                serial = _commit(storage, *records)
                state = state | {record[:8]: record for record in records}
                states[serial] = state

        commit_all(changes)
        storage.pack()
        del state[removed]
        commit_all([[make_record(ROOT_OID, [kept, new]), make_record(new)], [make_record(kept)]])
        for is_again in (False, True):
            found = place.again() if is_again else storage
            left = [serial for serial, _ in found.gen_commits()]
            assert left[-1] == max(states)
            for serial in states.keys() & set(left):
                _check_state(found, serial, states[serial])

    @needs("keeps_history", "can_share")
    def test_history_has_what_other_sessions_committed(self, place: Place) -> None:
        """After a `sync`, another session's commit is one as of which the data can be read."""
        one, other = place.storage, place.session()
        before = _commit(one, make_record(ROOT_OID))
        other.sync()
        after = _commit(other, make_record(ROOT_OID, payload=b"other's"))
        one.sync()
        assert list(one.gen_commits()) == list(other.gen_commits())
        assert one.load_as_of(ROOT_OID, before) == make_record(ROOT_OID)
        assert one.load_as_of(ROOT_OID, after) == make_record(ROOT_OID, payload=b"other's")

    def test_can_open_at_tells_the_truth(self, place: Place) -> None:
        """The class takes `at=` exactly if `can_open_at` is true, and history is kept."""
        commit(place.storage, make_record(ROOT_OID))
        is_possible = place.storage.can_open_at and place.storage.keeps_history
        serial = _newest(place.storage) if is_possible else 1
        place.close()
        if is_possible:
            assert place.open(at=serial).can_open_at
            return
        with pytest.raises((TypeError, DurusError)):
            place.open(at=serial)

    @needs("keeps_history", "can_open_at")
    def test_storage_opened_at_a_commit_gives_the_state_of_then(self, place: Place) -> None:
        """Opened `at` a serial it loads and lists the records of then, and tells of then."""
        storage = place.storage
        one, other = fresh_oids(storage, 2)
        changes = [
            [make_record(ROOT_OID, [one]), make_record(one)],
            [make_record(one, payload=b"changed"), make_record(other)],
            [make_record(ROOT_OID, [one, other]), make_record(other, payload=b"changed")],
        ]
        states: dict[int, dict[bytes, bytes]] = {}
        newest: dict[bytes, bytes] = {}
        for records in changes:
            newest = newest | {record[:8]: record for record in records}
            states[_commit(storage, *records)] = newest
        place.close()
        for serial, state in states.items():
            storage = place.open(at=serial)
            assert dict(storage.gen_oid_record()) == state
            assert {oid: storage.load(oid) for oid in state} == state
            for oid in newest.keys() - state.keys():
                with pytest.raises(DurusKeyError):
                    storage.load(oid)
            assert storage.describe().as_of == serial == _newest(storage)
            assert storage.describe().object_count in {None, len(state)}
            assert storage.load_as_of(ROOT_OID, min(states)) == states[min(states)][ROOT_OID]
            place.close()

    @needs("keeps_history", "can_open_at")
    def test_storage_opened_at_a_time_gives_the_last_commit_before(self, place: Place) -> None:
        """Opened `at` a time, or the text of one, it is as of the last commit made by then."""
        storage = place.storage
        for n in range(3):
            commit(storage, make_record(ROOT_OID, payload=b"%d" % n))
        commits = list(storage.gen_commits())
        place.close()
        far = timedelta(days=1)
        for time in [*(time for _, time in commits), max(time for _, time in commits) + far]:
            expected = max(serial for serial, other in commits if other <= time)
            for at in (time, time.isoformat(), time.astimezone().replace(tzinfo=None)):
                assert place.open(at=at).describe().as_of == expected
                place.close()
        with pytest.raises(StorageError):
            place.open(at=min(time for _, time in commits) - far)

    @needs("keeps_history", "can_open_at")
    def test_storage_opened_at_what_is_no_commit_is_refused(self, place: Place) -> None:
        """No other state is opened in place of a serial that `gen_commits` does not yield."""
        storage = place.storage
        commit(storage, make_record(ROOT_OID))
        newest = _commit(storage, make_record(ROOT_OID, payload=b"newer"))
        oldest = next(iter(storage.gen_commits()))[0]
        place.close()
        for serial in (newest + 1, oldest - 1, -1, 2**64, "yesterday"):
            with pytest.raises((StorageError, ValueError)):
                place.open(at=serial)
                pytest.fail(f"opened as of {serial}, of {oldest} to {newest}")

    @needs("keeps_history", "can_open_at")
    def test_storage_opened_at_a_commit_knows_no_later_one(self, place: Place) -> None:
        """`gen_changes` tells of the commit that it was opened `at`, and refuses the one after."""
        storage = place.storage
        serial = _commit(storage, make_record(ROOT_OID))
        later = _commit(storage, make_record(ROOT_OID, payload=b"newer"))
        place.close()
        storage = place.open(at=serial)
        assert dict(storage.gen_changes(serial)) == {ROOT_OID: make_record(ROOT_OID)}
        with pytest.raises(StorageError):
            list(storage.gen_changes(later))

    @needs("keeps_history", "can_open_at")
    def test_storage_opened_at_a_commit_stays_there(self, place: Place) -> None:
        """It refuses every write with StorageReadOnlyError, and its `sync` has no news."""
        storage = place.storage
        serial = _commit(storage, make_record(ROOT_OID))
        commit(storage, make_record(ROOT_OID, payload=b"newer"))
        can_pack = storage.can_pack
        place.close()
        storage = place.open(at=serial)
        writes: list[Callable[[], object]] = [storage.begin, storage.new_oid]
        if can_pack:
            writes += [storage.pack, lambda: list(storage.get_packer())]
        for write in writes:
            with pytest.raises(StorageReadOnlyError):
                write()
        assert storage.sync() == []
        assert storage.load(ROOT_OID) == make_record(ROOT_OID)


def _newest(storage: Storage) -> int:
    """Give the serial of the last commit."""
    return list(storage.gen_commits())[-1][0]


def _commit(storage: Storage, *records: bytes) -> int:
    """Commit records; give the serial of the commit."""
    commit(storage, *records)
    return _newest(storage)


def _check_state(storage: Storage, serial: int, state: dict[bytes, bytes]) -> None:
    """Compare what is read as of a commit with what was stored then."""
    for oid, record in state.items():
        assert storage.load_as_of(oid, serial) == record
