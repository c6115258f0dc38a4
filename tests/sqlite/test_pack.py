"""Pack: in small steps, beside commits of other processes, and with the space given back.

Cases:
    what is garbage goes, in steps that each hold the lock for little; the file shrinks
    commits of others between and during the steps; what they revive, write and are told
    packs at once, packs that are dropped, a log that is cut meanwhile
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from durus.connection import Connection
from durus.database import Database
from durus.error import (
    ConflictError,
    DurusKeyError,
    StorageClosedError,
    WriteConflictError,
)
from durus.persistent_dict import PersistentDict
from durus.serialize import ROOT_OID
from durus.sqlite_storage import SqliteStorage, _packer
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Open = Callable[..., SqliteStorage]
Start = Callable[[str], "subprocess.Popen[bytes]"]


def oid(number: int) -> bytes:
    return int8_to_str(number)


def put(storage: SqliteStorage, graph: dict[int, list[int]], payload: bytes = b"") -> None:
    commit(storage, *(make_record(oid(n), map(oid, refs), payload) for n, refs in graph.items()))


def numbers_in(storage: SqliteStorage) -> set[int]:
    return {int.from_bytes(each, "big") for each, _ in storage.gen_oid_record()}


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a pack of a few objects take many steps."""
    monkeypatch.setattr(_packer, "_MARKS_A_STEP", 3)
    monkeypatch.setattr(_packer, "_REMOVALS_A_STEP", 2)


def test_the_space_is_given_back(path: Path, open_here: Open) -> None:
    """After a pack and a close the file is about as long as what is left needs."""
    storage = open_here()
    put(storage, {0: [1], 1: []})
    kept_bytes = path.stat().st_size
    put(storage, {n: [] for n in range(2, 3000)}, b"x" * 1000)
    storage.sync()
    storage.pack()
    storage.close()
    assert path.stat().st_size < kept_bytes + 200_000
    with SqliteStorage(path) as again:
        assert numbers_in(again) == {0, 1}
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_no_step_takes_the_lock_for_long(path: Path, open_here: Open) -> None:
    """Each step removes a bounded number of records, and others commit between any two."""
    storage, other = open_here(), open_here(lock_timeout_s=0.0)
    put(storage, {0: [], **{n: [] for n in range(1, 3000)}})
    other.sync()
    left = [len(numbers_in(other))]
    for n, _ in enumerate(storage.get_packer()):
        other.sync()
        commit(other, make_record(ROOT_OID, payload=b"%d" % n))
        left.append(len(numbers_in(other)))
    steps = [before - after for before, after in pairwise(left)]
    assert left[-1] == 1
    assert max(steps) <= _packer._REMOVALS_A_STEP


@pytest.mark.parametrize("seed", range(8))
def test_commits_of_others_beside_a_pack(
    path: Path, open_here: Open, small_steps: None, seed: int
) -> None:
    """At random moments others move references about: what the root reaches is never removed.

    Whoever refers to what is gone is told so, or the commit is refused.
    """
    chance = Random(seed)
    storage, other = open_here(), open_here()
    nodes = range(1, 40)
    graph = {0: [*range(1, 10)], **{n: [n + 1] for n in nodes}, 40: []}
    put(storage, graph)
    other.sync()
    seen = set(graph)
    for _ in storage.get_packer():
        for _ in range(chance.randrange(3)):
            # From what this session has seen, which may be old.
            node, target = chance.randrange(10), chance.choice(sorted(seen))
            changed = {**graph, node: [target, *graph.get(node, [])[: chance.randrange(9)]]}
            told: set[bytes] = set()
            other.begin()
            record = make_record(oid(node), map(oid, changed[node]), b"%d" % chance.randrange(99))
            other.store(oid(node), record)
            try:
                other.end(told.update)
            except ConflictError:
                other.sync()
            else:
                if node not in seen:
                    continue
                graph = changed
            seen = numbers_in(other)
    other.sync()
    records = dict(other.gen_oid_record())
    waiting, reached = [ROOT_OID], set()
    while waiting:
        each = waiting.pop()
        if each in reached:
            continue
        reached.add(each)
        refs = records[each][-8 * len(graph[int.from_bytes(each, "big")]) :]
        found = {oid(n) for n in graph[int.from_bytes(each, "big")]} - {each}
        assert found <= records.keys(), f"{each.hex()} refers to what is gone"
        assert all(ref in refs for ref in found)
        waiting += found


def test_what_is_committed_while_the_lock_is_waited_for_counts(
    open_here: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference that comes between the last mark and the removal saves its object."""
    storage, other = open_here(), open_here()
    put(storage, {0: [1], 1: [], 2: [3], 3: []})
    other.sync()
    remove = _packer.Packer._remove

    def remove_late(self: _packer.Packer, db: sqlite3.Connection, garbage: list[int]) -> bool:
        if 2 in numbers_in(other) and other.load(ROOT_OID) == make_record(ROOT_OID, [oid(1)]):
            put(other, {0: [1, 2]})
        return remove(self, db, garbage)

    monkeypatch.setattr(_packer.Packer, "_remove", remove_late)
    storage.pack()
    assert numbers_in(open_here()) == {0, 1, 2, 3}


def test_a_reference_to_what_is_gone_is_refused(open_here: Open) -> None:
    """Who holds an object that a pack removed, and refers to it, gets a conflict."""
    storage, other = open_here(), open_here()
    put(storage, {0: [], 1: []})
    other.sync()
    storage.pack()
    with pytest.raises(WriteConflictError) as caught:
        put(other, {0: [1]})
    assert caught.value.oids == [oid(1)]
    assert sorted(other.sync() or ()) == [oid(1)]


def test_a_snapshot_outlives_a_pack(open_here: Open) -> None:
    """Who reads an older state reads all of it, until it syncs."""
    storage, reader = open_here(), open_here()
    put(storage, {0: [1], 1: [2], 2: []})
    reader.sync()
    put(storage, {0: []})
    storage.pack()
    assert numbers_in(reader) == {0, 1, 2}
    reader.sync()
    assert numbers_in(reader) == {0}


def test_two_packs_at_once(open_here: Open, small_steps: None) -> None:
    """Packs that go on at the same time remove what is garbage, once, and nothing else."""
    storage, other = open_here(), open_here()
    put(storage, {0: [*range(1, 20)], **{n: [] for n in range(1, 60)}})
    one, two = iter(storage.get_packer()), iter(other.get_packer())
    going = [one, two]
    while going:
        going = [each for each in going if next(each, None) is not None]
    storage.sync()
    assert numbers_in(storage) == set(range(20))


def test_a_pack_whose_log_is_cut(
    open_here: Open, small_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that is overtaken by more commits than the log holds begins to mark again."""
    monkeypatch.setattr("durus.sqlite_storage._schema.LARGEST_LOG", 50)
    storage, other = open_here(), open_here()
    put(storage, {0: [*range(1, 10)], **{n: [] for n in range(1, 30)}})
    other.sync()
    packer = iter(storage.get_packer())
    next(packer)
    next(packer)
    put(other, {0: [*range(1, 10), 40], 40: [41], 41: [25]})
    for n in range(400):
        put(other, {9: []}, b"%d" % n)
    for _ in packer:
        pass
    storage.sync()
    assert numbers_in(storage) == {*range(10), 25, 40, 41}


def test_a_pack_while_another_process_commits(path: Path, open_here: Open, start: Start) -> None:
    """Packs again and again, while another process commits: none waits for long, all is kept."""
    with Connection(open_here()) as connection:
        connection.get_root()["n"] = PersistentDict(count=0)
        connection.commit()
    other = start(
        "from durus.connection import Connection\n"
        "from durus.persistent_dict import PersistentDict\n"
        "with Connection(SqliteStorage(path, lock_timeout_s=5)) as connection:\n"
        "    root = connection.get_root()\n"
        "    for n in range(300):\n"
        "        root['n'] = PersistentDict(count=root['n']['count'] + 1)\n"
        "        connection.commit()\n"
        "say('done')\n"
    )
    with Database(SqliteStorage(path)) as database:
        while other.poll() is None:
            database.pack()
        assert other.returncode == 0
        database.pack()
        with database.transaction() as root:
            assert root["n"]["count"] == 300
            storage = database.connection().get_storage()
            assert len(dict(storage.gen_oid_record())) == 2


def test_a_database_of_durus_43_shrinks_too(path: Path) -> None:
    """A database that 4.3 made gives space back to the system as well."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE objects (id integer primary key, data blob, refs blob)")
        record = make_record(oid(0))
        rows = [(0, record[12:], b""), *((n, bytes(1000), b"") for n in range(1, 2000))]
        db.executemany("INSERT INTO objects VALUES (?, ?, ?)", rows)
        db.commit()
    before = path.stat().st_size
    with SqliteStorage(path) as storage:
        storage.pack()
    assert path.stat().st_size < before / 10


def test_a_closed_session_ends_its_pack(open_here: Open, small_steps: None) -> None:
    """A pack does not go on when its session was closed, and others may pack."""
    storage = open_here()
    put(storage, {0: [1], 1: [], 2: [], 3: []})
    packer = iter(storage.get_packer())
    next(packer)
    storage.close()
    with pytest.raises(StorageClosedError):
        next(packer)
    other = open_here()
    other.pack()
    assert numbers_in(other) == {0, 1}


def test_what_the_packer_itself_sees(open_here: Open) -> None:
    """The session that asked for a pack sees at once what it removed, and its `sync` says it."""
    storage = open_here()
    put(storage, {0: [], 1: [], 2: []})
    assert storage.load(oid(1)) == make_record(oid(1))
    storage.pack()
    with pytest.raises(DurusKeyError):
        storage.load(oid(1))
    assert sorted(storage.sync() or ()) == [oid(1), oid(2)]
    assert os.path.exists(storage.get_filename())
