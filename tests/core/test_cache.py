"""What a Connection keeps in memory, and in which order it lets go."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durus.connection import Connection
from durus.persistent import GHOST, SAVED, UNSAVED, Persistent
from durus.storage import MemoryStorage


class Thing(Persistent):
    def __init__(self, n: int = 0) -> None:
        self.n = n


@pytest.fixture
def connection() -> Connection:
    """Hold twenty things in a cache of five; none was used in this transaction."""
    first = Connection(MemoryStorage())
    first.get_root()["things"] = [Thing(n) for n in range(20)]
    first.commit()
    return Connection(first.get_storage(), cache_size=5)


def things(connection: Connection) -> list[Any]:
    found: list[Any] = connection.get_root()["things"]
    return found


def statuses(objects: list[Any]) -> list[int]:
    return [obj._p_status for obj in objects]


def test_size(connection: Connection) -> None:
    """The size is what was asked for, and can be changed."""
    assert connection.get_cache_size() == 5
    connection.set_cache_size(7)
    assert connection.get_cache_size() == 7
    assert Connection(MemoryStorage()).get_cache_size() == 100_000


def test_a_transaction_ends_with_an_eviction(connection: Connection) -> None:
    """After a commit or an abort at most so many loaded objects are kept, the last used ones."""
    for end in (connection.commit, connection.abort):
        objects = things(connection)
        for obj in objects:
            obj.n
        end()
        assert statuses(objects) == [GHOST] * 15 + [SAVED] * 5
        assert connection.get_cache().count_recent() == 5


def test_the_order_of_the_last_use(connection: Connection) -> None:
    """The longest unused go first, whenever they were loaded."""
    connection.set_cache_size(100)
    objects = things(connection)
    order = list(range(20))
    random.Random(3).shuffle(order)
    for number in order:
        objects[number].n
        connection.commit()
    objects[order[0]].n
    connection.commit()
    connection.set_cache_size(4)
    connection.shrink_cache()
    kept = {obj.n for obj in objects if obj._p_status == SAVED}
    assert kept == {order[0], *order[-3:]}


def test_a_use_within_a_transaction_is_one_use(connection: Connection) -> None:
    """The order is that of the first use in the last transaction that used an object."""
    connection.set_cache_size(100)
    objects = things(connection)
    for number in (3, 1, 2, 3, 3):
        objects[number].n
    connection.commit()
    connection.set_cache_size(2)
    connection.shrink_cache()
    assert statuses(objects[:4]) == [GHOST, SAVED, SAVED, GHOST]


def test_what_is_in_use_stays(connection: Connection) -> None:
    """shrink_cache() in a transaction evicts nothing that the transaction has used."""
    objects = things(connection)
    for obj in objects:
        obj.n
    connection.shrink_cache()
    assert statuses(objects) == [SAVED] * 20
    connection.commit()
    objects[0].n
    connection.set_cache_size(0)
    connection.shrink_cache()
    assert statuses(objects) == [SAVED] + [GHOST] * 19


def test_what_is_changed_stays(connection: Connection) -> None:
    """Changes are never evicted, neither by shrink_cache() nor by a commit that fails."""
    objects = things(connection)
    for obj in objects:
        obj.n = -1
    connection.set_cache_size(0)
    connection.shrink_cache()
    assert statuses(objects) == [UNSAVED] * 20
    connection.commit()
    assert statuses(objects) == [GHOST] * 20
    assert {obj.n for obj in objects} == {-1}


def test_what_is_changed_is_kept_alive(connection: Connection) -> None:
    """A changed object that the program has let go of is stored all the same."""
    things(connection)[3].n = 99
    connection.get_root()._p_set_status_ghost()
    gc.collect()
    connection.commit()
    assert Connection(connection.get_storage()).get_root()["things"][3].n == 99


def test_what_was_committed_can_be_evicted(connection: Connection) -> None:
    """New and changed objects take their place in the cache when they are committed."""
    root = connection.get_root()
    root["more"] = more = [Thing(n) for n in range(10)]
    connection.commit()
    assert statuses(more).count(SAVED) <= 5
    assert connection.get_cache().count_recent() == 5
    connection.set_cache_size(0)
    connection.commit()
    assert connection.get_cache().count_recent() == 0
    assert [obj.n for obj in more] == list(range(10))


def test_ghosts_are_not_kept(connection: Connection) -> None:
    """An object that nobody holds goes when it is evicted, and only then."""
    refs = [weakref.ref(obj) for obj in things(connection)]
    for obj in things(connection):
        obj.n
    del obj
    gc.collect()
    assert all(ref() for ref in refs)
    assert connection.get_cache_count() == 21
    connection.get_root()._p_set_status_ghost()
    connection.commit()
    gc.collect()
    assert sum(ref() is not None for ref in refs) == 5
    assert connection.get_cache_count() == 6


def test_eviction_changes_no_count_of_loads(connection: Connection) -> None:
    """Each load is counted; what is in memory is not loaded again."""
    start = connection.get_load_count()
    for _ in range(3):
        things(connection)[7].n
        connection.commit()
    assert connection.get_load_count() == start + 1


def test_a_size_of_zero(connection: Connection) -> None:
    """A cache that keeps nothing loads everything anew in each transaction, the root too."""
    connection.set_cache_size(0)
    for turn in range(3):
        for obj in things(connection):
            obj.n += 1
        connection.commit()
        assert connection.get_cache().count_recent() == 0
        assert [obj.n for obj in things(connection)] == [n + turn + 1 for n in range(20)]
        connection.abort()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("rrwwcax+"), st.integers(0, 11)), max_size=60))
def test_random_programs(steps: list[tuple[str, int]]) -> None:
    """Whatever is read, changed, committed, aborted and evicted, a plain dict says the same."""
    storage = MemoryStorage()
    connection = Connection(storage, cache_size=3)
    root = connection.get_root()
    for number in range(12):
        root[number] = Thing(number)
    connection.commit()
    committed = {number: number for number in range(12)}
    current = dict(committed)
    for step, number in steps:
        if step == "r":
            assert root[number].n == current[number]
        elif step == "w":
            root[number].n += 1
            current[number] += 1
        elif step == "+":
            root[number] = Thing(current[number])
        elif step == "x":
            connection.set_cache_size(number // 2)
            connection.shrink_cache()
            gc.collect(0)
        elif step == "c":
            connection.commit()
            committed = dict(current)
        else:
            connection.abort()
            current = dict(committed)
    assert {key: thing.n for key, thing in root.items()} == current
    connection.commit()
    found = Connection(storage).get_root()
    assert {key: thing.n for key, thing in found.items()} == current
