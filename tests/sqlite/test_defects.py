"""What was wrong with SqliteStorage in Durus 4.3, a test for each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from durus.connection import Connection
from durus.error import ConflictError, DurusKeyError, StorageReadOnlyError
from durus.persistent_dict import PersistentDict
from durus.serialize import ROOT_OID
from durus.sqlite_storage import SqliteStorage
from durus.storage import gen_oid_class, get_census, get_reference_index
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Open = Callable[..., SqliteStorage]


def test_no_oid_is_handed_out_again_after_a_reopen(path: Path) -> None:
    """4.3 gave the oid of the last stored object to the next one, after each reopening."""
    for n in range(5):
        with Connection(SqliteStorage(path)) as connection:
            connection.get_root()[n] = PersistentDict(number=n)
            connection.commit()
    with Connection(SqliteStorage(path)) as connection:
        root = connection.get_root()
        assert [root[n]["number"] for n in range(5)] == list(range(5))
        assert len({root[n]._p_oid for n in range(5)}) == 5


def test_an_oid_is_not_handed_out_again_after_its_object_is_packed(path: Path) -> None:
    """An oid that was in use once is never another object's, over reopenings and packs."""
    used = set()
    for _ in range(4):
        with Connection(SqliteStorage(path)) as connection:
            root = connection.get_root()
            root["only"] = PersistentDict()
            connection.commit()
            assert root["only"]._p_oid not in used
            used.add(root["only"]._p_oid)
            del root["only"]
            connection.commit()
            connection.pack()


def test_an_oid_that_somebody_chose_is_not_handed_out(path: Path, open_here: Open) -> None:
    """What is stored under an oid that was promised already, as 4.3 does, is passed over."""
    storage = open_here()
    first = int.from_bytes(storage.new_oid(), "big")
    commit(storage, make_record(int8_to_str(first + 1)))
    db = sqlite3.connect(path)
    db.execute("INSERT INTO objects (id, data, refs) VALUES (?, x'00', x'')", (first + 3,))
    db.commit()
    db.close()
    assert storage.sync() == [int8_to_str(first + 3)]
    given = {storage.new_oid() for _ in range(50)}
    assert given.isdisjoint(oid for oid, _ in storage.gen_oid_record())


def test_an_oid_that_was_given_and_is_stored_by_another_is_void(
    path: Path, open_here: Open
) -> None:
    """Where 4.3 stored under an oid that a session was given, `sync` says that all is void."""
    storage = open_here()
    given = storage.new_oid()
    db = sqlite3.connect(path)
    db.execute("INSERT INTO objects (id, data, refs) VALUES (?, x'00', x'')", (given[-1],))
    db.commit()
    db.close()
    with pytest.raises(ConflictError):
        commit(storage, make_record(given))
    assert storage.sync() is None
    assert storage.load(given)[12:] == b"\0"
    assert storage.new_oid() != given


def test_all_records_can_be_walked(open_here: Open) -> None:
    """`gen_oid_record()` without a start, and what stands on it, raised in 4.3."""
    storage = open_here()
    with Connection(storage) as connection:
        root = connection.get_root()
        root["a"] = PersistentDict()
        connection.commit()
        oids = {ROOT_OID, root["a"]._p_oid}
        assert {oid for oid, _ in storage.gen_oid_record()} == oids
        assert {oid for oid, _ in gen_oid_class(storage, "PersistentDict")} == oids
        assert get_census(storage) == {b"PersistentDict": 2}
        assert get_reference_index(storage) == {root["a"]._p_oid: [ROOT_OID]}


def test_read_only_is_kept(path: Path, open_here: Open) -> None:
    """4.3 took `readonly` and wrote all the same."""
    commit(open_here(), make_record(ROOT_OID))
    before = path.read_bytes()
    storage = open_here(readonly=True)
    assert storage.readonly
    with pytest.raises(StorageReadOnlyError):
        storage.begin()
    with pytest.raises(StorageReadOnlyError):
        storage.pack()
    assert path.read_bytes() == before


def test_a_fresh_file_has_no_root_and_says_so(open_here: Open) -> None:
    """The root of a fresh database is missing like any other object: a DurusKeyError."""
    with pytest.raises(DurusKeyError) as caught:
        open_here().load(ROOT_OID)
    assert caught.value.oid == ROOT_OID


def test_pack_beside_commits(open_here: Open) -> None:
    """What is committed between the steps of a pack stays; 4.3 removed it."""
    storage = open_here()
    with Connection(storage) as connection:
        root = connection.get_root()
        for n in range(3000):
            root[n] = PersistentDict()
        connection.commit()
        for n, _ in enumerate(storage.get_packer()):
            root["new", n] = PersistentDict(number=n)
            connection.commit()
        connection.abort()
        connection.cache.shrink(-1)
        found = [key for key in root if isinstance(key, tuple)]
        assert found
        assert all(Connection(open_here()).get_root()[key]["number"] == key[1] for key in found)


def test_records_are_bytes(open_here: Open) -> None:
    """Whatever SQLite gives, `load`, `bulk_load` and the walks give bytes."""
    storage = open_here()
    commit(storage, make_record(ROOT_OID))
    found = [storage.load(ROOT_OID), *storage.bulk_load([ROOT_OID])]
    found += [record for _, record in storage.gen_oid_record()]
    assert {type(record) for record in found} == {bytes}
    assert set(found) == {make_record(ROOT_OID)}
