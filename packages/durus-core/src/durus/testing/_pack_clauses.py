"""The clauses of the storage contract about pack."""

from __future__ import annotations

from contextlib import suppress

import pytest

from durus.error import ConflictError, DurusKeyError, NotSupportedError, StorageTransactionError
from durus.serialize import ROOT_OID
from durus.testing._suite import Place, Suite, commit_graph, fresh_oids, is_stored, needs
from durus.testing.records import commit, make_record


class PackClauses(Suite):
    """What pack and get_packer owe to a storage's users."""

    def test_can_pack_tells_the_truth(self, place: Place) -> None:
        """`pack` and `get_packer` work where `can_pack` is true, else raise NotSupportedError."""
        commit(place.storage, make_record(ROOT_OID))
        if place.storage.can_pack:
            place.storage.pack()
            list(place.storage.get_packer())
            return
        with pytest.raises(NotSupportedError):
            place.storage.pack()
        with pytest.raises(NotSupportedError):
            list(place.storage.get_packer())

    @needs("can_pack")
    def test_pack_keeps_what_the_root_reaches(self, place: Place) -> None:
        """`pack` keeps every record that the root reaches, cycles included, byte for byte."""
        records = commit_graph(place.storage, {0: [1, 2], 1: [3], 2: [2], 3: [1, 4], 4: [0]})
        place.storage.pack()
        assert all(is_stored(place.storage, record) for record in records.values())
        found = place.again()
        assert all(is_stored(found, record) for record in records.values())

    @needs("can_pack")
    def test_pack_removes_what_the_root_does_not_reach(self, place: Place) -> None:
        """After `pack`, `load` of garbage raises DurusKeyError and no walk yields it."""
        records = commit_graph(place.storage, {0: [1], 1: [], 2: [1], 3: []})
        place.storage.pack()
        assert not is_stored(place.storage, records[2])
        found = place.again()
        assert dict(found.gen_oid_record()).keys() == {records[0][:8], records[1][:8]}
        for node in (2, 3):
            assert not is_stored(found, records[node])

    @needs("can_pack")
    def test_pack_removes_a_cycle_that_the_root_does_not_reach(self, place: Place) -> None:
        """Garbage that refers to itself, or to each other, is garbage."""
        records = commit_graph(place.storage, {0: [], 1: [2], 2: [3], 3: [1], 4: [4, 0]})
        place.storage.pack()
        found = place.again()
        assert is_stored(found, records[0])
        assert not any(is_stored(found, records[node]) for node in (1, 2, 3, 4))

    @needs("can_pack")
    def test_pack_judges_by_the_newest_records(self, place: Place) -> None:
        """What only overwritten records referred to is garbage; what new ones refer to is not."""
        storage = place.storage
        records = commit_graph(storage, {0: [1], 1: [], 2: []})
        commit(storage, make_record(ROOT_OID, [records[2][:8]]))
        storage.pack()
        found = place.again()
        assert is_stored(found, records[2])
        assert not is_stored(found, records[1])

    @needs("can_pack")
    def test_pack_without_a_root_removes_nothing(self, place: Place) -> None:
        """`pack` of a storage that is empty, or has no root yet, leaves it as it is."""
        storage = place.storage
        storage.pack()
        [oid] = fresh_oids(storage, 1)
        commit(storage, make_record(oid))
        storage.pack()
        assert is_stored(place.again(), make_record(oid))

    @needs("can_pack")
    def test_pack_again_changes_nothing(self, place: Place) -> None:
        """A second `pack` keeps what the first one kept."""
        records = commit_graph(place.storage, {0: [1], 1: [0], 2: []})
        place.storage.pack()
        place.storage.pack()
        found = place.again()
        assert is_stored(found, records[0])
        assert is_stored(found, records[1])

    @needs("can_pack")
    def test_commit_after_a_pack_is_kept(self, place: Place) -> None:
        """What is committed after a `pack` is there after reopening, and on top of what it kept."""
        storage = place.storage
        records = commit_graph(storage, {0: [1], 1: [], 2: []})
        storage.pack()
        [oid] = fresh_oids(storage, 1)
        root = make_record(ROOT_OID, [oid, records[1][:8]])
        commit(storage, root, make_record(oid))
        found = place.again()
        assert all(is_stored(found, record) for record in (root, make_record(oid), records[1]))

    @needs("can_pack")
    def test_pack_gives_no_promised_oid_again(self, place: Place) -> None:
        """An oid that was given before a `pack` is not given after it, used or not."""
        storage = place.storage
        commit(storage, make_record(ROOT_OID))
        promised = set(fresh_oids(storage, 20))
        for oid in sorted(promised)[::4]:
            commit(storage, make_record(oid))
        storage.pack()
        assert promised.isdisjoint(storage.new_oid() for _ in range(100))

    @needs("can_pack")
    def test_pack_keeps_what_is_committed_between_its_steps(self, place: Place) -> None:
        """What is committed after any step of the packer, and reachable in the end, stays."""
        storage = place.storage
        records = commit_graph(storage, {0: [*range(1, 60)], **{n: [] for n in range(1, 80)}})
        kept = [records[n][:8] for n in range(1, 60)]
        for _ in storage.get_packer():
            [oid] = fresh_oids(storage, 1)
            kept.append(oid)
            commit(storage, make_record(oid), make_record(ROOT_OID, kept))
        found = place.again()
        assert is_stored(found, make_record(ROOT_OID, kept))
        assert list(found.bulk_load(kept[59:])) == [make_record(oid) for oid in kept[59:]]
        assert list(found.bulk_load(kept[:59])) == [records[n] for n in range(1, 60)]

    @needs("can_pack")
    def test_pack_keeps_garbage_that_a_commit_reaches_again(self, place: Place) -> None:
        """A commit between steps that refers to garbage is told that it is gone, or keeps it."""
        storage = place.storage
        graph = {0: [*range(1, 60)], **{n: [] for n in range(1, 60)}, 60: [61], 61: []}
        records = commit_graph(storage, graph)
        revived = [records[60][:8], records[61][:8]]
        packer = iter(storage.get_packer())
        next(packer, None)
        told: set[bytes] = set()

        def refuse_if_gone(oids: list[bytes]) -> None:
            told.update(oids)
            if not told.isdisjoint(revived):
                raise ConflictError(oids)

        storage.begin()
        storage.store(ROOT_OID, make_record(ROOT_OID, [revived[0]]))
        with suppress(ConflictError):
            storage.end(refuse_if_gone)
        for _ in packer:
            pass
        found = place.again()
        for node in (60, 61):
            assert records[node][:8] in told or is_stored(found, records[node])

    @needs("can_pack")
    def test_pack_serves_loads_between_its_steps(self, place: Place) -> None:
        """At every step of the packer, what the root reaches is loaded as ever."""
        storage = place.storage
        records = commit_graph(storage, {0: [*range(1, 60)], **{n: [] for n in range(1, 70)}})
        oids = [records[n][:8] for n in range(60)]
        for _ in storage.get_packer():
            assert list(storage.bulk_load(oids)) == [records[n] for n in range(60)]

    @needs("can_pack")
    def test_packer_that_is_dropped_leaves_what_the_root_reaches(self, place: Place) -> None:
        """After a packer is dropped at its first step, loads, commits and another pack go on."""
        storage = place.storage
        records = commit_graph(storage, {0: [*range(1, 60)], **{n: [] for n in range(1, 70)}})
        packer = iter(storage.get_packer())
        next(packer, None)
        del packer
        changed = make_record(records[1][:8], payload=b"changed")
        commit(storage, changed)
        assert all(is_stored(storage, records[n]) for n in range(2, 60))
        storage.pack()
        found = place.again()
        assert is_stored(found, changed)
        assert all(is_stored(found, records[n]) for n in (0, *range(2, 60)))
        assert not any(is_stored(found, records[n]) for n in range(60, 70))

    @needs("can_pack")
    def test_sync_reports_what_a_pack_removed(self, place: Place) -> None:
        """The `sync` after a `pack` gives each oid that it removed, once."""
        storage = place.storage
        records = commit_graph(storage, {0: [1], 1: [], 2: [3], 3: []})
        storage.sync()
        storage.pack()
        reported = storage.sync()
        assert reported is not None
        assert sorted(reported) == sorted(records[node][:8] for node in (2, 3))
        assert storage.sync() == []

    @needs("can_pack")
    def test_end_tells_its_handler_what_a_pack_removed(self, place: Place) -> None:
        """`end` gives its handler, which may refuse, the oids that a `pack` removed."""
        storage = place.storage
        records = commit_graph(storage, {0: [1], 1: [], 2: []})
        storage.sync()
        storage.pack()
        storage.begin()
        storage.store(ROOT_OID, make_record(ROOT_OID, [records[2][:8]]))
        with pytest.raises(_Refusal) as caught:
            storage.end(_refuse)
        assert caught.value.oids == [records[2][:8]]
        with pytest.raises(StorageTransactionError):
            storage.end()
        storage.sync()
        assert is_stored(storage, records[0])
        [garbage] = fresh_oids(storage, 1)
        commit(storage, make_record(garbage))
        storage.pack()
        told: list[bytes] = []
        storage.begin()
        storage.store(records[1][:8], make_record(records[1][:8], payload=b"changed"))
        storage.end(told.extend)
        assert told == [garbage]
        assert storage.sync() == []
        found = place.again()
        assert is_stored(found, records[0])
        assert is_stored(found, make_record(records[1][:8], payload=b"changed"))

    @needs("can_pack", "can_share")
    def test_pack_reports_to_every_session(self, place: Place) -> None:
        """Each session's `sync` reports what a `pack`, asked for by any of them, removed."""
        storage, other = place.storage, place.session()
        records = commit_graph(storage, {0: [], 1: []})
        other.sync()
        storage.pack()
        assert other.sync() == [records[1][:8]]
        with pytest.raises(DurusKeyError):
            other.load(records[1][:8])


class _Refusal(Exception):
    def __init__(self, oids: list[bytes]) -> None:
        super().__init__(oids)
        self.oids = oids


def _refuse(oids: list[bytes]) -> None:
    raise _Refusal(oids)
