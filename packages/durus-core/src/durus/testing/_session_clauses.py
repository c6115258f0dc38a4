"""The clauses of the storage contract about several sessions over the same data."""

from __future__ import annotations

from contextlib import suppress

import pytest

from durus.error import (
    ConflictError,
    NotSupportedError,
    ReadConflictError,
    StorageTransactionError,
)
from durus.storage import Storage
from durus.testing._suite import Place, Suite, fresh_oids, is_stored, needs
from durus.testing.records import commit, make_record


class SessionClauses(Suite):
    """What new_session, sync and end owe to callers that share the data."""

    def test_can_share_tells_the_truth(self, place: Place) -> None:
        """`new_session` works where `can_share` is true, else raises NotSupportedError."""
        if place.storage.can_share:
            session = place.session()
            assert isinstance(session, Storage)
            assert session is not place.storage
            return
        with pytest.raises(NotSupportedError):
            place.storage.new_session()

    @needs("can_share")
    def test_new_session_sees_what_is_committed(self, place: Place) -> None:
        """A new session begins with the newest committed state, whichever session it comes from."""
        [oid] = fresh_oids(place.storage, 1)
        commit(place.storage, make_record(oid))
        session = place.session()
        assert is_stored(session, make_record(oid))
        commit(session, make_record(oid, payload=b"newer"))
        assert is_stored(place.session(), make_record(oid, payload=b"newer"))

    @needs("can_share")
    def test_sessions_have_transactions_of_their_own(self, place: Place) -> None:
        """Two sessions' transactions are open at once, and each commits what is its own."""
        one, other = place.storage, place.session()
        [oid_1], [oid_2] = fresh_oids(one, 1), fresh_oids(other, 1)
        one.begin()
        one.store(oid_1, make_record(oid_1))
        other.begin()
        other.store(oid_2, make_record(oid_2))
        other.end()
        third = place.session()
        assert is_stored(third, make_record(oid_2))
        assert not is_stored(third, make_record(oid_1))
        with pytest.raises(StorageTransactionError):
            other.end()
        one.end()
        third.sync()
        assert is_stored(third, make_record(oid_1))

    @needs("can_share")
    def test_session_reads_one_state_until_it_syncs(self, place: Place) -> None:
        """Before `sync`, `load` gives the record as it was, or raises ReadConflictError."""
        one, other = place.storage, place.session()
        [oid] = fresh_oids(one, 1)
        old, new = make_record(oid, payload=b"old"), make_record(oid, payload=b"new")
        commit(one, old)
        other.sync()
        commit(one, new)
        with suppress(ReadConflictError):
            assert other.load(oid) == old
        other.sync()
        assert other.load(oid) == new

    @needs("can_share")
    def test_sync_reports_what_other_sessions_changed(self, place: Place) -> None:
        """`sync` gives each oid that others changed since the last one, once, and no other."""
        one, other = place.storage, place.session()
        changed, untouched = fresh_oids(one, 2)
        commit(one, make_record(changed), make_record(untouched))
        other.sync()
        for payload in (b"first", b"second"):
            commit(one, make_record(changed, payload=payload))
        assert other.sync() == [changed]
        assert other.sync() == []
        assert one.sync() == []

    @needs("can_share")
    def test_end_tells_its_handler_what_others_changed(self, place: Place) -> None:
        """`end` gives its handler what was loaded and has changed, and commits if it returns."""
        one, other = place.storage, place.session()
        theirs, ours = fresh_oids(one, 2)
        commit(one, make_record(theirs), make_record(ours))
        other.sync()
        other.load(theirs)
        commit(one, make_record(theirs, payload=b"changed"))
        told: list[bytes] = []
        other.begin()
        other.store(ours, make_record(ours, payload=b"changed"))
        other.end(told.extend)
        assert told == [theirs]
        assert other.sync() == []
        one.sync()
        assert one.load(ours) == make_record(ours, payload=b"changed")

    @needs("can_share")
    def test_end_that_its_handler_refuses_keeps_nothing(self, place: Place) -> None:
        """What the handler raises passes through, nothing is committed, and a retry succeeds."""
        one, other = place.storage, place.session()
        theirs, ours = fresh_oids(one, 2)
        commit(one, make_record(theirs), make_record(ours))
        other.sync()
        other.load(theirs)
        commit(one, make_record(theirs, payload=b"changed"))
        other.begin()
        other.store(ours, make_record(ours, payload=b"refused"))
        with pytest.raises(ConflictError):
            other.end(_conflict)
        with pytest.raises(StorageTransactionError):
            other.end()
        one.sync()
        assert one.load(ours) == make_record(ours)
        other.sync()
        commit(other, make_record(ours, payload=b"again"))
        one.sync()
        assert one.load(ours) == make_record(ours, payload=b"again")

    @needs("can_share")
    def test_end_does_not_overwrite_what_another_session_changed(self, place: Place) -> None:
        """`end` of a record that others changed since the last `sync` raises ConflictError."""
        one, other = place.storage, place.session()
        [oid] = fresh_oids(one, 1)
        commit(one, make_record(oid))
        other.sync()
        theirs = make_record(oid, payload=b"theirs")
        commit(one, theirs)
        with pytest.raises(ConflictError):
            commit(other, make_record(oid, payload=b"ours"))
        assert is_stored(place.session(), theirs)
        other.sync()
        commit(other, make_record(oid, payload=b"ours"))
        assert is_stored(place.session(), make_record(oid, payload=b"ours"))

    @needs("can_share")
    def test_new_oid_gives_none_that_is_promised_to_another_session(self, place: Place) -> None:
        """No two sessions are given the same oid, though neither has stored it yet."""
        one, other = place.storage, place.session()
        given = [session.new_oid() for _ in range(100) for session in (one, other)]
        third = place.session()
        given += [third.new_oid() for _ in range(50)]
        assert len(set(given)) == len(given)

    @needs("can_share")
    def test_closing_a_session_leaves_the_others(self, place: Place) -> None:
        """A session that is closed takes nothing from the others, not even their transactions."""
        one, other = place.storage, place.session()
        [oid] = fresh_oids(one, 1)
        one.begin()
        one.store(oid, make_record(oid))
        other.close()
        one.end()
        assert is_stored(one, make_record(oid))
        assert is_stored(place.session(), make_record(oid))


def _conflict(oids: list[bytes]) -> None:
    raise ConflictError(oids)
