"""The two twins, side by side: one behaviour in Python and in C."""

from __future__ import annotations

import datetime as dt
import gc
import io
import pickle
import random
import struct
import subprocess
import sys
import textwrap
import tracemalloc
import weakref
import zlib
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from durus import _pure
from durus.error import ForeignObjectError, InvalidOidError, UnknownClassError
from durus.serialize import pack_record, seal

from .twins import find_twins

GHOST, SAVED, UNSAVED = -1, 0, 1

TWINS = find_twins(_pure)


class Kit:
    """What stands on a twin: an object class, and a Connection that remembers its calls."""

    def __init__(self, twin: ModuleType) -> None:
        self.twin = twin

        class Thing(twin.PersistentBase):  # type: ignore[name-defined, misc]
            __slots__ = ("__dict__", "slot")

            def _p_load_state(self) -> None:
                self._p_connection.load(self)

            def _p_set_status_ghost(self) -> None:
                held = twin.clear_state(self, (Thing.__dict__["slot"],))
                self._p_status = GHOST
                del held

        class Connection(twin.ConnectionBase):  # type: ignore[name-defined, misc]
            def __init__(self, size: int = 3) -> None:
                super().__init__(twin.Cache(size))
                self.log: list[str] = []

            def load(self, obj: Thing) -> None:
                self.log.append(f"load {obj._p_oid[-1]}")
                twin.set_state(obj, {"x": obj._p_oid[-1]})
                obj._p_status = SAVED

            def refuse(self) -> None:
                raise RuntimeError("refused")

        self.Thing = Thing
        self.Connection = Connection
        self.shelf = Shelf(twin)

    def ghost(self, connection: Any, number: int) -> Any:
        return connection.cache.get_instance(oid_of(number), self.Thing, connection)


def oid_of(number: int) -> bytes:
    return struct.pack(">Q", number)


@pytest.fixture(params=sorted(TWINS))
def kit(request: pytest.FixtureRequest) -> Kit:
    return Kit(TWINS[request.param])


def test_both_twins_are_here() -> None:
    """The compiled twin was built; without it nothing below compares anything."""
    if "c" not in TWINS:
        pytest.skip("durus._speedups is not built here")
    assert set(TWINS) == {"pure", "c"}


def test_the_twins_export_the_same_names() -> None:
    """Each name that one has the other has, and each class has the same public methods."""
    if "c" not in TWINS:
        pytest.skip("durus._speedups is not built here")
    for name in _pure.__all__:
        ours, theirs = getattr(_pure, name), getattr(TWINS["c"], name)
        assert callable(ours) == callable(theirs)
        if isinstance(ours, type):
            own = {key for key in vars(ours) if not key.startswith("_")}
            assert own <= set(dir(theirs)), name


# -- a model of the cache


class Model(RuleBasedStateMachine):
    """Random operations on a Connection and its Cache, beside a model in plain dictionaries.

    Objects are held by `held` or only by the cache; the model knows which must be alive.
    """

    twin: ModuleType = _pure

    def __init__(self) -> None:
        super().__init__()
        self.kit = Kit(self.twin)
        self.connection = self.kit.Connection()
        self.cache = self.connection.cache
        self.held: dict[int, Any] = {}  # what the program holds
        self.ring: list[int] = []  # numbers of what the cache holds, longest unused first
        self.status: dict[int, int] = {}  # of what is alive
        self.serial: dict[int, int] = {}

    def _is_alive(self, number: int) -> bool:
        return number in self.held or number in self.ring or self._is_changed(number)

    def _is_changed(self, number: int) -> bool:
        return oid_of(number) in self.connection.changed

    def _forget_dead(self) -> None:
        for number in [number for number in self.status if not self._is_alive(number)]:
            del self.status[number], self.serial[number]

    def _note_use(self, number: int) -> None:
        if self.serial[number] != self.connection.transaction_serial:
            self.serial[number] = self.connection.transaction_serial
            if number in self.ring:
                self.ring.remove(number)
            self.ring.append(number)

    @rule(number=st.integers(0, 9))
    def hold(self, number: int) -> None:
        known = self.status.get(number)
        obj = self.kit.ghost(self.connection, number)
        assert obj._p_oid == oid_of(number)
        assert obj._p_connection is self.connection
        assert obj._p_status == (GHOST if known is None else known)
        self.held[number] = obj
        self.status.setdefault(number, GHOST)
        self.serial.setdefault(number, 0)

    @rule(number=st.integers(0, 9))
    def let_go(self, number: int) -> None:
        self.held.pop(number, None)
        self._forget_dead()

    @rule(number=st.integers(0, 9))
    def look_up(self, number: int) -> None:
        found = self.cache.get(oid_of(number))
        assert (found is not None) == self._is_alive(number)
        if number in self.held:
            assert found is self.held[number]

    @rule(number=st.integers(0, 9))
    def read(self, number: int) -> None:
        if number not in self.held:
            return
        loads = len(self.connection.log)
        assert self.held[number].x is not None
        assert (len(self.connection.log) > loads) == (self.status[number] == GHOST)
        if self.status[number] == GHOST:
            self.status[number] = SAVED
        self._note_use(number)

    @rule(number=st.integers(0, 9), slot=st.booleans())
    def write(self, number: int, slot: bool) -> None:
        if number not in self.held:
            return
        setattr(self.held[number], "slot" if slot else "y", [number])
        self.status[number] = UNSAVED
        self._note_use(number)
        assert self._is_changed(number)

    @rule()
    def save(self) -> None:
        for oid, obj in list(self.connection.changed.items()):
            obj._p_status = SAVED
            self.cache.note_use(obj)
            number = oid[-1]
            self.status[number] = SAVED
            if number in self.ring:
                self.ring.remove(number)
            self.ring.append(number)
        self.connection.changed.clear()
        self.connection.transaction_serial += 1
        self._forget_dead()

    @rule(size=st.integers(-1, 5))
    def shrink(self, size: int) -> None:
        self.cache.size = size
        expected = 0
        excess = len(self.ring) - size
        serial = self.connection.transaction_serial
        while excess > 0 and self.ring and self.serial[self.ring[0]] != serial:
            number = self.ring.pop(0)
            excess -= 1
            if self.status[number] == SAVED:
                self.status[number] = GHOST
                expected += 1
        assert self.cache.shrink(serial) == expected
        self._forget_dead()

    @rule(number=st.integers(0, 9))
    def evict(self, number: int) -> None:
        if number in self.held:
            self.held[number]._p_set_status_ghost()
            self.status[number] = GHOST
            self.connection.changed.pop(oid_of(number), None)

    @rule(number=st.integers(0, 9))
    def remove(self, number: int) -> None:
        if self._is_changed(number):
            return
        del self.cache[oid_of(number)]
        if number in self.ring:
            self.ring.remove(number)
        self.held.pop(number, None)
        self._forget_dead()

    @rule(number=st.integers(0, 9), other=st.integers(0, 9))
    def move(self, number: int, other: int) -> None:
        """Put an object under another oid, in place of whatever is there."""
        busy = self._is_changed(number) or self._is_changed(other)
        if number not in self.held or number == other or busy:
            return
        obj = self.held.pop(number)
        self.held.pop(other, None)
        self.cache[oid_of(other)] = obj
        self.held[other] = obj
        self.status[other], self.serial[other] = self.status.pop(number), self.serial.pop(number)
        self.ring = [each for each in self.ring if each not in (number, other)]
        assert obj._p_oid == oid_of(other)

    @rule(number=st.integers(0, 9))
    def take_oid(self, number: int) -> None:
        if number not in self.held or self._is_changed(number):
            return
        obj = self.held.pop(number)
        obj._p_oid = None
        if number in self.ring:
            self.ring.remove(number)
        self._forget_dead()
        assert self.cache.get(oid_of(number)) is None

    @invariant()
    def agrees(self) -> None:
        self._forget_dead()
        alive = sorted(number for number in range(10) if self._is_alive(number))
        found = sorted(obj._p_oid[-1] for obj in self.cache)
        assert found == alive == sorted(self.status)
        assert len(self.cache) == len(alive)
        assert self.cache.count_recent() == len(self.ring)
        for obj in self.cache:
            number = obj._p_oid[-1]
            assert obj._p_status == self.status[number]
            assert obj._p_serial == self.serial[number]


@pytest.mark.parametrize("name", sorted(TWINS))
def test_random_operations(name: str) -> None:
    """Thousands of random operations on objects and cache do what the model says."""
    machine = type(f"Model_{name}", (Model,), {"twin": TWINS[name]})
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine, settings=settings(max_examples=200, stateful_step_count=60)
    )


@pytest.mark.parametrize("name", sorted(TWINS))
def test_random_operations_while_garbage_is_collected(name: str) -> None:
    """The same holds when the garbage collector runs at every turn."""
    machine = type(f"Collected_{name}", (Model,), {"twin": TWINS[name]})
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            machine, settings=settings(max_examples=20, stateful_step_count=60)
        )
    finally:
        gc.set_threshold(*threshold)


def test_many_objects_come_and_go(kit: Kit) -> None:
    """The table grows, is emptied in any order and is used again, and finds what is alive."""
    connection = kit.Connection(0)
    shuffle = random.Random(7)
    alive: dict[int, Any] = {}
    for _ in range(6):
        for _ in range(3000):
            number = shuffle.choice([shuffle.randrange(5000), shuffle.getrandbits(64)])
            alive[number] = kit.ghost(connection, number)
        gone = shuffle.sample(sorted(alive), len(alive) * 2 // 3)
        for number in gone:
            del alive[number]
        assert len(connection.cache) == len(alive)
        assert all(connection.cache.get(oid_of(number)) is alive[number] for number in alive)
        for number in gone[:200]:
            assert connection.cache.get(oid_of(number)) is None
        assert {id(obj) for obj in connection.cache} == {id(obj) for obj in alive.values()}


# -- awkward moments


def test_what_dies_is_not_found(kit: Kit) -> None:
    """While the attributes of an object end, a look-up of its oid finds nothing, or a new ghost."""
    connection = kit.Connection(0)
    found: list[Any] = []

    class Last:
        def __del__(self) -> None:
            found.append(connection.cache.get(oid_of(1)))
            found.append(kit.ghost(connection, 1))

    obj = kit.ghost(connection, 1)
    obj.last = Last()
    connection.changed.clear()
    connection.transaction_serial += 1
    connection.cache.shrink(connection.transaction_serial)
    del obj
    assert found[0] is None
    assert found[1]._p_status == GHOST
    assert connection.cache.get(oid_of(1)) is found[1]


def test_what_dies_is_not_found_by_a_weak_reference(kit: Kit) -> None:
    """A weak reference's callback that looks for the object makes a new ghost of it."""
    connection = kit.Connection(0)
    found: list[Any] = []
    obj = kit.ghost(connection, 1)
    ref = weakref.ref(obj, lambda _: found.append(kit.ghost(connection, 1)))
    del obj
    assert ref() is None
    assert found[0] is connection.cache.get(oid_of(1))
    assert found[0]._p_status == GHOST


def test_an_object_may_come_back_at_its_end(kit: Kit) -> None:
    """An object whose __del__ keeps it stays the object of its oid."""
    kept: list[Any] = []

    class Phoenix(kit.Thing):  # type: ignore[name-defined, misc]
        def __del__(self) -> None:
            kept.append(self)

    connection = kit.Connection(0)
    connection.cache.get_instance(oid_of(1), Phoenix, connection)
    assert len(kept) == 1
    assert connection.cache.get(oid_of(1)) is kept[0]
    assert kept[0].x == 1


def test_an_end_that_uses_the_object(kit: Kit) -> None:
    """A __del__ that reads an attribute of a ghost loads it; the cache then holds the object."""

    class Reader(kit.Thing):  # type: ignore[name-defined, misc]
        def __del__(self) -> None:
            self.x

    connection = kit.Connection(0)
    connection.cache.get_instance(oid_of(1), Reader, connection)
    assert connection.log == ["load 1"]
    assert connection.cache.count_recent() == 1
    connection.transaction_serial += 1
    assert connection.cache.shrink(connection.transaction_serial) == 1
    assert len(connection.cache) == 0


def test_the_same_oid_asked_for_while_an_object_is_made(kit: Kit) -> None:
    """An object that the garbage collector's work makes meanwhile stays the only one."""
    connection = kit.Connection(0)
    made: list[Any] = []
    wanted: list[int] = []

    class Ender:
        def __del__(self) -> None:
            if wanted:
                made.append(kit.ghost(connection, wanted[0]))

    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(200):
            ender = Ender()
            ender.me = ender  # type: ignore[attr-defined]
            wanted[:] = [number]
            del ender
            obj = kit.ghost(connection, number)
            assert connection.cache.get(oid_of(number)) is obj
            assert all(each is obj for each in made)
            wanted.clear()
            made.clear()
    finally:
        gc.set_threshold(*threshold)


def test_an_eviction_that_runs_code(kit: Kit) -> None:
    """What ends because shrink() drops it may use, make, change and shrink."""
    connection = kit.Connection(0)

    class Ender:
        def __init__(self, number: int) -> None:
            self.number = number

        def __del__(self) -> None:
            other = kit.ghost(connection, self.number)
            other.x
            other.y = 1
            connection.cache.shrink(connection.transaction_serial)
            del connection.cache[oid_of(self.number + 1)]

    objects = []
    for number in range(20):
        obj = kit.ghost(connection, number)
        obj.x
        obj.__dict__["ender"] = Ender(number // 2)
        objects.append(obj)
    del obj, objects
    connection.transaction_serial += 1
    connection.cache.shrink(connection.transaction_serial)
    connection.changed.clear()
    connection.transaction_serial += 1
    connection.cache.shrink(connection.transaction_serial)
    gc.collect()
    assert connection.cache.count_recent() <= len(connection.cache)


def test_an_eviction_that_fails(kit: Kit) -> None:
    """What _p_set_status_ghost raises comes out of shrink(); the rest can be shrunk after it."""

    class Stubborn(kit.Thing):  # type: ignore[name-defined, misc]
        def _p_set_status_ghost(self) -> None:
            raise LookupError("no")

    connection = kit.Connection(0)
    for number in range(3):
        klass = Stubborn if number == 1 else kit.Thing
        connection.cache.get_instance(oid_of(number), klass, connection).x
    connection.transaction_serial += 1
    with pytest.raises(LookupError):
        connection.cache.shrink(connection.transaction_serial)
    assert connection.cache.shrink(connection.transaction_serial) == 1
    assert connection.cache.count_recent() == 0


def test_an_object_in_two_caches(kit: Kit) -> None:
    """An object that is put into another cache leaves the first one, ring and all."""
    one, two = kit.Connection(0), kit.Connection(0)
    objects = [kit.ghost(one, number) for number in range(5)]
    for obj in objects:
        obj.x
    moved = objects[2]
    two.cache[oid_of(2)] = moved
    moved._p_connection = two
    two.cache.note_use(moved)
    one.cache.note_use(moved)
    assert one.cache.get(oid_of(2)) is None
    assert (one.cache.count_recent(), two.cache.count_recent()) == (4, 1)
    one.transaction_serial = two.transaction_serial = 9
    assert (one.cache.shrink(9), two.cache.shrink(9)) == (4, 1)
    del objects, obj, moved
    assert (len(one.cache), len(two.cache)) == (0, 0)


def test_an_object_that_takes_the_place_of_another(kit: Kit) -> None:
    """What is displaced in a cache is an object like any other, and not in the cache."""
    connection = kit.Connection(0)
    first, second = kit.ghost(connection, 1), kit.ghost(connection, 2)
    first.x, second.x
    connection.cache[oid_of(1)] = second
    assert connection.cache.get(oid_of(1)) is second
    assert connection.cache.get(oid_of(2)) is None
    assert second._p_oid == oid_of(1)
    connection.cache.note_use(first)
    assert connection.cache.count_recent() == 0
    other = kit.Connection(0)
    other.cache[oid_of(7)] = first
    other.cache.note_use(first)
    assert (other.cache.count_recent(), connection.cache.count_recent()) == (1, 0)
    assert first.x == 1


def test_the_cost_of_an_eviction(kit: Kit) -> None:
    """shrink() looks at what it evicts and one more, however much the cache holds."""
    asked: list[int] = []

    class Counted(kit.Thing):  # type: ignore[name-defined, misc]
        def _p_set_status_ghost(self) -> None:
            asked.append(self._p_oid[-1])
            super()._p_set_status_ghost()

    connection = kit.Connection(0)
    kept = [
        connection.cache.get_instance(oid_of(number), Counted, connection) for number in range(250)
    ]
    for obj in kept:
        obj.x
    connection.transaction_serial += 1
    kept[100].x
    connection.cache.size = 240
    assert connection.cache.shrink(connection.transaction_serial) == 10
    assert asked == list(range(10))
    assert connection.cache.shrink(connection.transaction_serial) == 0
    connection.cache.size = 0
    assert connection.cache.shrink(connection.transaction_serial) == 239
    assert 100 not in asked
    assert [obj._p_status for obj in kept].count(GHOST) == 249


def test_an_eviction_whose_values_use_the_object(kit: Kit) -> None:
    """What an attribute held may use the object when it ends: by then that is a whole ghost."""
    connection = kit.Connection(0)
    seen: list[object] = []

    class Ender:
        def __init__(self, owner: Any) -> None:
            self.owner = weakref.ref(owner)

        def __del__(self) -> None:
            owner = self.owner()
            seen.append((owner._p_status, owner.x))
            owner.y = 1

    obj = kit.ghost(connection, 1)
    obj.x
    for name in ("slot", "other"):
        kit.twin.set_state(obj, {name: Ender(obj)})
    connection.transaction_serial += 1
    assert connection.cache.shrink(connection.transaction_serial) == 1
    assert seen[0] == (GHOST, 1)
    assert seen[1][1] == 1
    assert obj._p_status == UNSAVED
    assert obj.__dict__ == {"x": 1, "y": 1}


def test_unsaved_objects_are_not_evicted(kit: Kit) -> None:
    """shrink() leaves an object with changes as it is."""
    connection = kit.Connection(0)
    obj = kit.ghost(connection, 1)
    obj.y = 5
    connection.transaction_serial += 1
    assert connection.cache.shrink(connection.transaction_serial) == 0
    assert (obj._p_status, obj.y) == (UNSAVED, 5)


def test_protocol_values(kit: Kit) -> None:
    """What `_p_` attributes refuse, they refuse alike."""
    obj = kit.Thing()
    for name, value, error in [
        ("_p_oid", b"short", InvalidOidError),
        ("_p_oid", 5, InvalidOidError),
        ("_p_status", 2, ValueError),
        ("_p_status", "x", TypeError),
        ("_p_serial", "x", TypeError),
        ("_p_connection", 5, TypeError),
    ]:
        with pytest.raises(error):
            setattr(obj, name, value)
    for name in ("_p_oid", "_p_status", "_p_serial", "_p_connection"):
        with pytest.raises(AttributeError):
            delattr(obj, name)


def test_arguments_are_checked(kit: Kit) -> None:
    """The entry points refuse what would harm them."""
    connection = kit.Connection()
    cache = connection.cache
    for call in (
        lambda: cache.get_instance(b"short", kit.Thing, connection),
        lambda: cache.get_instance(oid_of(1), dict, connection),
        lambda: cache.get_instance(oid_of(1), kit.Thing, None),
        lambda: cache.get_instance(oid_of(1), "Thing", connection),
        lambda: cache.get_instance(oid_of(1), kit.Thing()),
        lambda: cache.note_use(5),
        lambda: cache.shrink("x"),
        lambda: cache.__setitem__(b"short", kit.Thing()),
        lambda: cache.__setitem__(oid_of(1), 5),
        lambda: cache.get(5),
        lambda: connection.note_access(5),
        lambda: connection.note_change(None),
        lambda: kit.twin.set_state(5, {}),
        lambda: kit.twin.set_state(kit.Thing(), [1]),
        lambda: kit.twin.clear_state(5, ()),
        lambda: kit.twin.RecordFile(b"abc", 2, 1),
        lambda: kit.twin.RecordFile(b"abc", 0, 4),
        lambda: kit.twin.RecordFile(b"abc", -1, 2),
        lambda: kit.twin.proof_of(b"", b""),
        lambda: kit.twin.proof_of("", b"", b""),
        lambda: kit.twin.split_proven(b""),
        lambda: kit.twin.ReferenceReader(connection)(None),
        lambda: kit.twin.ReferenceWriter(connection, len, ()),
    ):
        if kit.twin is _pure:
            continue  # Python checks as it goes: a wrong argument cannot harm it
        with pytest.raises((TypeError, ValueError, UnpicklingError)):
            call()


# -- threads and transactions


def test_claims(kit: Kit) -> None:
    """The first use makes the thread the owner; a closed or foreign connection is refused."""
    connection = kit.Connection()
    obj = kit.ghost(connection, 1)
    assert connection.owner == 0
    obj.x
    assert connection.owner != 0
    connection.transaction_serial += 1
    connection.owner += 1
    with pytest.raises(RuntimeError, match="refused"):
        obj.x
    with pytest.raises(RuntimeError, match="refused"):
        obj.x = 2
    connection.owner = 0
    connection.transaction_serial = -1
    with pytest.raises(RuntimeError, match="refused"):
        obj.x
    assert not connection.changed


# -- references


def test_references(kit: Kit) -> None:
    """A persistent object becomes (oid, class); oids are collected once, in order, but its own."""
    connection = kit.Connection()
    adopted: list[Any] = []
    writer = kit.twin.ReferenceWriter(connection, lambda: oid_of(99), adopted)
    writer.begin(oid_of(5))
    for number in (7, 2**63, 5, 7, 1):
        obj = kit.ghost(connection, number)
        assert writer(obj) == (oid_of(number), kit.Thing)
    new = kit.Thing()
    assert writer(new) == (oid_of(99), kit.Thing)
    assert adopted == [new]
    assert new._p_oid == oid_of(99)
    assert new._p_connection is connection
    assert connection.cache.get(oid_of(99)) is new
    for other in (None, 5, kit.Thing, kit.twin.PersistentBase, "x"):
        assert writer(other) is None
    assert writer.get_refs() == b"".join(map(oid_of, (1, 7, 99, 2**63)))
    writer.begin(None)
    assert writer.get_refs() == b""
    foreign = kit.ghost(kit.Connection(), 1)
    without_oid = kit.Thing()
    without_oid._p_connection = connection
    for bad in (foreign, without_oid):
        with pytest.raises(ForeignObjectError):
            writer(bad)
    reader = kit.twin.ReferenceReader(connection)
    assert reader((oid_of(7), kit.Thing)) is kit.ghost(connection, 7)


@given(st.lists(st.integers(0, 2**64 - 1)))
def test_references_are_sorted(numbers: list[int]) -> None:
    """Any number of references come out sorted, each once."""
    expected = b"".join(map(oid_of, sorted(set(numbers))))
    for twin in TWINS.values():
        kit = Kit(twin)
        connection = kit.Connection()
        writer = twin.ReferenceWriter(connection, bytes, [])
        writer.begin(None)
        for number in numbers:
            writer(kit.ghost(connection, number))
        assert writer.get_refs() == expected


def test_a_new_object_needs_an_oid(kit: Kit) -> None:
    """An object is not adopted, nor noted as such, if what gives oids refuses or gives another."""
    connection = kit.Connection()
    adopted: list[Any] = []
    for new_oid, error in (
        (lambda: b"short", InvalidOidError),
        (lambda: 1 // 0, ZeroDivisionError),
    ):
        new = kit.Thing()
        writer = kit.twin.ReferenceWriter(connection, new_oid, adopted)
        with pytest.raises(error):
            writer(new)
        assert new._p_oid is None
        assert new._p_connection is None
    assert adopted == []


# -- bytes


@given(
    st.binary(max_size=60),
    st.binary(max_size=60),
    st.lists(st.binary(min_size=8, max_size=8), max_size=3).map(b"".join),
)
def test_records(klass: bytes, state: bytes, refs: bytes) -> None:
    """make_record joins what it is given with a proof, and leaves out the frame of a pickle."""
    framed = b"\x80\x04\x95" + struct.pack("<Q", len(state)) + state
    other = b"\x80\x04\x95" + struct.pack("<Q", len(state) + 1) + state
    for twin in TWINS.values():
        for given_state, kept in (
            (state, state),
            (framed, b"\x80\x04" + state),
            (other, other),
            (framed[:-1], framed[:-1] if state else framed[:10]),
        ):
            record = twin.make_record(oid_of(7), klass, given_state, refs)
            assert record == pack_record(oid_of(7), seal(oid_of(7), klass + kept, refs), refs)


def test_attributes_are_taken(kit: Kit) -> None:
    """get_state gives what is in __dict__ and in slots that are set, in a dict of its own."""
    connection = kit.Connection()
    slots = (kit.Thing.__dict__["slot"],)
    obj = kit.ghost(connection, 3)
    assert kit.twin.get_state(obj, slots) == {"x": 3}
    assert connection.log == ["load 3"]
    assert obj._p_serial == connection.transaction_serial
    obj.slot = 5
    state = kit.twin.get_state(obj, slots)
    assert state == {"x": 3, "slot": 5}
    state["x"] = 4
    assert obj.x == 3

    class Bare(kit.twin.PersistentBase):  # type: ignore[name-defined, misc]
        __slots__ = ("only",)

    bare = Bare()
    bare.only = 1
    assert kit.twin.get_state(bare, (Bare.__dict__["only"],)) == {"only": 1}


@given(st.binary(max_size=100), st.binary(max_size=100), st.binary(max_size=40))
def test_proofs(oid: bytes, body: bytes, refs: bytes) -> None:
    """proof_of is the CRC-32 of zlib over the three."""
    for twin in TWINS.values():
        assert twin.proof_of(oid, body, refs) == zlib.crc32(oid + body + refs)
        parts = memoryview(oid), bytearray(body), refs
        assert twin.proof_of(*parts) == zlib.crc32(oid + body + refs)


@given(st.binary(min_size=8, max_size=8), st.binary(max_size=30), st.integers(0, 3), st.data())
def test_split_proven(oid: bytes, body: bytes, ref_count: int, data: st.DataObject) -> None:
    """It takes apart a record that proves itself, and no other: damaged, cut or another's."""
    sealed, refs = seal(oid, b"\x80\x04c" + body, b"r" * 8 * ref_count), b"r" * 8 * ref_count
    record = pack_record(oid, sealed, refs)
    place = data.draw(st.integers(0, len(record) - 1))
    damaged = bytearray(record)
    damaged[place] ^= data.draw(st.integers(1, 255))
    promises_nothing = pack_record(oid, b"\x80\x02c" + sealed[3:], refs)
    cut = record[:place]
    for twin in TWINS.values():
        assert twin.split_proven(oid, record) == (sealed, refs)
        for other in (bytes(damaged), cut, record + b"\0", promises_nothing, bytearray(record)):
            assert twin.split_proven(oid, other) is None
        for other in (b"", oid[:7], oid + b"\0", bytes(damaged[:8]) if place < 8 else b"another"):
            assert twin.split_proven(other, record) is None
        for length in (0, 3, 6, len(sealed) - 8, len(sealed) + 8, 2**32 - 1):
            lying = oid + (length % 2**32).to_bytes(4, "big") + record[12:]
            assert twin.split_proven(oid, lying) is None


@given(
    st.binary(max_size=60),
    st.data(),
    st.lists(st.tuples(st.sampled_from(["read", "peek", "readline"]), st.integers(-1, 70))),
)
def test_record_files(data: bytes, draw: st.DataObject, calls: list[tuple[str, int]]) -> None:
    """A RecordFile reads what lies between start and end, as a file of these bytes would."""
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, len(data)))
    files = [twin.RecordFile(data, start, end) for twin in TWINS.values()]
    left = data[start:end]
    for name, length in calls:
        if name == "peek":
            expected = left
        elif name == "read":
            expected = left if length < 0 else left[:length]
        else:
            expected = left[: left.find(b"\n") + 1] if b"\n" in left else left
        arguments = () if name == "readline" else (length,)
        assert [getattr(file, name)(*arguments) for file in files] == [expected] * len(files)
        if name != "peek":
            left = left[len(expected) :]


@given(st.dictionaries(st.text(max_size=5) | st.integers(), st.integers(), max_size=8))
def test_states(state: dict[Any, int]) -> None:
    """set_state sets what it is given, and clear_state drops it, whatever the names."""
    for twin in TWINS.values():
        kit = Kit(twin)
        obj = kit.Thing()
        twin.set_state(obj, {**state, "slot": 1, "_p_oid": 5, "__dict__": 6, "__class__": 7})
        expected = {**state, "_p_oid": 5, "__dict__": 6, "__class__": 7}
        expected.pop("slot", None)
        assert obj.__dict__ == expected
        assert obj.slot == 1
        assert obj._p_oid is None
        twin.clear_state(obj, (kit.Thing.__dict__["slot"],))
        assert obj.__dict__ == {}
        assert not hasattr(obj, "slot")


def test_a_state_reaches_no_slot_that_is_not_stored(kit: Kit) -> None:
    """A state that names a slot beginning with `_p_` does not set it."""

    class Remembering(kit.Thing):  # type: ignore[name-defined, misc]
        __slots__ = ("_p_memory",)

    class Slotted(kit.twin.PersistentBase):  # type: ignore[name-defined, misc]
        __slots__ = ("_p_memory",)

    obj = Remembering()
    kit.twin.set_state(obj, {"_p_memory": 5})
    assert obj.__dict__ == {"_p_memory": 5}
    assert not hasattr(obj, "_p_memory")
    with pytest.raises(AttributeError, match="__dict__"):
        kit.twin.set_state(Slotted(), {"_p_memory": 5})


# -- plain states


class Reads:
    """The same data read by the C twin and by an Unpickler."""

    def __init__(self) -> None:
        self.twin = TWINS["c" if "c" in TWINS else "pure"]
        self.calls: list[Any] = []

    def find_class(self, module: str, name: str) -> Any:
        self.calls.append((module, name))
        if name == "refused":
            raise UnknownClassError("refused", name)
        return (module, name)

    def find_object(self, reference: Any) -> Any:
        return ("object", reference)

    def plainly(self, state: bytes) -> Any:
        data = b"\x80\x04cmodule\nName\n." + state + b"prof"
        return self.twin.read_plain_state(data, self.find_class, self.find_object)

    def by_unpickler(self, state: bytes) -> Any:
        class Reader(pickle.Unpickler):
            find_class = staticmethod(self.find_class)  # type: ignore[assignment]
            persistent_load = staticmethod(self.find_object)  # type: ignore[assignment]

        return Reader(io.BytesIO(state)).load()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=40,
)


@given(PLAIN)
def test_plain_states(value: Any) -> None:
    """What is read plainly is what an Unpickler reads, types and shared parts included."""
    reads = Reads()
    pickled = pickle.dumps([value, value, {"again": value}], 4)
    state = pickled[:2] + pickled[11:] if pickled[2] == 0x95 else pickled
    found = reads.plainly(state)
    if found is NotImplemented:
        return
    expected = reads.by_unpickler(state)
    assert repr(found) == repr(expected)
    assert (found[0] is found[1]) is (expected[0] is expected[1])
    assert pickle.dumps(found, 4) == pickle.dumps(expected, 4)


def test_usual_states_are_plain() -> None:
    """Attributes of the usual types, and references to objects, need no Unpickler."""
    if "c" not in TWINS:
        pytest.skip("durus._speedups is not built here")
    reads = Reads()
    reference = b"C\x08" + oid_of(5) + b"\x94\x8c\x01m\x94\x8c\x01n\x94\x93\x94\x86\x94Q"
    for state, value in (
        (b"\x80\x04}\x94\x8c\x01a\x94K\x01s.", {"a": 1}),
        (b"\x80\x04]\x94(" + reference + b"h\x05Qe.", [("object", (oid_of(5), ("m", "n")))] * 2),
        (b"\x80\x04(J\xff\xff\xff\xffM\x00\x01\x8a\x08" + b"\xff" * 7 + b"\x7ft.", None),
    ):
        found = reads.plainly(state)
        assert found == reads.by_unpickler(state)
        assert found is not NotImplemented
        assert value is None or found == value
    assert reads.calls[0] == ("m", "n")


@given(PLAIN, st.integers(0, 200), st.integers(0, 255), st.integers(0, 200))
def test_damaged_states_are_not_plain(value: Any, place: int, byte: int, length: int) -> None:
    """A state with another byte or without its end gives what an Unpickler gives, or nothing."""
    reads = Reads()
    pickled = pickle.dumps(value, 4)
    state = bytearray(pickled[:2] + pickled[11:] if pickled[2] == 0x95 else pickled)
    state[2 + place % (len(state) - 2)] = byte
    for damaged in (bytes(state), bytes(state[: 2 + length % len(state)])):
        found = reads.plainly(damaged)
        if found is not NotImplemented:
            assert repr(found) == repr(reads.by_unpickler(damaged))


def test_what_refuses_is_left_to_an_unpickler() -> None:
    """An error while a state is read plainly is none yet: an Unpickler will say what is wrong."""
    reads = Reads()
    for state in (
        b"\x80\x04\x8c\x01m\x8c\x07refused\x93.",
        b"\x80\x04}]K\x01s.",
        b"\x80\x04\x8c\x01\xff.",
        b"\x80\x04K\x01(K\x02\x86.",
        b"\x80\x04h\x00.",
        b"\x80\x04.",
        b"\x80\x04" + b"(" * 100 + b"t" * 100 + b".",
        b"\x80\x02}.",
        b"",
    ):
        assert reads.plainly(state) is NotImplemented
    assert reads.twin.read_plain_state(b"", len, len) is NotImplemented
    assert reads.twin.read_plain_state(b"\x80\x04c\n", len, len) is NotImplemented
    if "c" in TWINS:
        with pytest.raises(TypeError):
            reads.twin.read_plain_state("", len, len)


def test_an_interrupt_goes_on() -> None:
    """A KeyboardInterrupt while a class is looked for is not swallowed."""
    if "c" not in TWINS:
        pytest.skip("durus._speedups is not built here")

    def interrupt(module: str, name: str) -> Any:
        raise KeyboardInterrupt

    data = b"\x80\x04cm\nn\n.\x80\x04\x8c\x01m\x8c\x01n\x93.prof"
    with pytest.raises(KeyboardInterrupt):
        TWINS["c"].read_plain_state(data, interrupt, len)


# -- records of plain objects

NAME = st.text(min_size=1, max_size=3)
SHARED = [b"", b"bytes", "", "x", "text", "a longer text " * 30, "\ud800", 2**40]
SCALAR = (
    st.sampled_from(SHARED)
    | st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=300)
    | st.binary(max_size=300)
    | st.integers()
    | st.sampled_from(
        [sign * 2**bits + off for bits in range(66) for sign in (1, -1) for off in (-1, 0)]
    )
)


@given(st.dictionaries(NAME, SCALAR, max_size=8))
def test_plain_records(state: dict[str, object]) -> None:
    """The record of a plain object is, byte for byte, the one that a pickler leads to, or none."""
    for twin in TWINS.values():
        kit = Kit(twin)
        obj = kit.ghost(kit.Connection(), 7)
        obj.slot = state
        twin.set_state(obj, state)
        found = twin.make_plain_record(obj, b"klass", ())
        pickled = pickle.dumps(obj.__dict__, 4)
        assert found in (None, twin.make_record(oid_of(7), b"klass", pickled, b""))


def test_usual_objects_need_no_pickler() -> None:
    """Numbers and short texts, in slots as well, are written at once; nothing else is."""
    if "c" not in TWINS:
        pytest.skip("durus._speedups is not built here")
    kit = Kit(TWINS["c"])
    slots = (kit.Thing.__dict__["slot"],)
    obj = kit.ghost(kit.Connection(), 7)
    twin = kit.twin
    twin.set_state(obj, {"x": 1, "text": "x", "float": 1.5, "none": None, "slot": "text"})
    obj._p_status = SAVED
    pickled = pickle.dumps(twin.get_state(obj, slots), 4)
    expected = twin.make_record(oid_of(7), b"klass", pickled, b"")
    assert twin.make_plain_record(obj, b"klass", slots) == expected
    assert obj._p_serial == obj._p_connection.transaction_serial
    many = {f"name {number}": number for number in range(33)}
    for other in ([], {}, (), obj, 2**64, "long" * 1000, int):
        obj.slot = other
        assert twin.make_plain_record(obj, b"klass", slots) is None
    obj.slot = None
    twin.set_state(obj, many)
    assert twin.make_plain_record(obj, b"klass", slots) is None
    assert twin.make_plain_record(kit.Thing(), b"klass", slots) is None


# -- objects from records


class Shelf:
    """A PlainReader of a twin with one Connection, and a class whose objects it reads."""

    def __init__(self, twin: ModuleType) -> None:
        class Item(twin.PersistentBase):  # type: ignore[name-defined, misc]
            __slots__ = ("__dict__", "slot")

            def __setstate__(self, state: Any) -> None:
                twin.set_state(self, state)

        self.Item = Item
        self.connection = twin.ConnectionBase(twin.Cache(10))
        self.cache = self.connection.cache
        self.reader = twin.PlainReader(
            self.connection,
            self.find_class,
            twin.ReferenceReader(self.connection),
            {Item.__setstate__},
        )
        self.reader.classes[b"\x80\x04cm\nItem\n."] = Item

    def find_class(self, module: str, name: str) -> Any:
        if name == "stopped":
            raise KeyboardInterrupt
        return {"Item": self.Item}[name]

    def ghost(self, number: int, klass: Any = None) -> Any:
        return self.cache.get_instance(oid_of(number), klass or self.Item, self.connection)


def item_record(number: int, state: object, klass: bytes = b"m\nItem") -> bytes:
    oid = oid_of(number)
    pickled = pickle.dumps(state, 4)
    pickled = pickled[:2] + pickled[11:] if pickled[2] == 0x95 else pickled
    return pack_record(oid, seal(oid, b"\x80\x04c" + klass + b"\n." + pickled, b""), b"")


def test_usual_records_become_objects_at_once() -> None:
    """A record becomes a saved object, or loads a ghost: in use, and not yet in a transaction."""
    if "c" not in TWINS:
        pytest.skip("durus._speedups is not built here")
    shelf = Shelf(TWINS["c"])
    first = shelf.reader.get(oid_of(1), item_record(1, {"x": 5, "slot": [6], 7: 8}))
    assert type(first) is shelf.Item
    assert first is shelf.cache.get(oid_of(1))
    second = shelf.ghost(2)
    assert shelf.reader.load(second, item_record(2, None)) is True
    for obj in (first, second):
        assert obj._p_connection is shelf.connection
        assert (obj._p_status, obj._p_serial) == (SAVED, 0)
    assert (first.__dict__, first.slot) == ({"x": 5, 7: 8}, [6])
    assert second.__dict__ == {}
    assert shelf.cache.count_recent() == shelf.reader.load_count == 2
    assert not shelf.connection.changed


def test_unusual_records_are_left_alone(kit: Kit) -> None:
    """Where anything is unusual the object stays a ghost, and nothing is counted or made."""
    shelf = Shelf(kit.twin)
    good = item_record(1, {"x": 5})

    class Other(shelf.Item):  # type: ignore[name-defined, misc]
        def __setstate__(self, state: Any) -> None:
            raise AssertionError

    class Slotted(kit.twin.PersistentBase):  # type: ignore[name-defined, misc]
        __slots__ = ()
        __setstate__ = shelf.Item.__setstate__

    others = {b"m\nOther": Other, b"m\nSlotted": Slotted, b"m\ndict": dict}
    for name, klass in others.items():
        shelf.reader.classes[b"\x80\x04c" + name + b"\n."] = klass
    damaged = [
        good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :] for place in range(len(good))
    ]
    cut = [good[:length] for length in range(len(good))]
    records = [
        *damaged,
        *cut,
        bytearray(good),
        pack_record(oid_of(1), b"\x80\x02cm\nItem\nq\x00.\x80\x04}.", b""),
        pack_record(oid_of(1), seal(oid_of(1), b"\x80\x04cm\nItem", b""), b""),
        item_record(1, {"_count": 5}),
        item_record(1, {"x": {1, 2}}),
        item_record(1, [5]),
    ]
    for record in records:
        obj = shelf.ghost(1)
        assert shelf.reader.load(obj, record) is False
        assert obj._p_status == GHOST
        del obj
        assert shelf.reader.get(oid_of(1), record) is None
    for name, klass in others.items():
        assert shelf.reader.get(oid_of(1), item_record(1, {"x": 5}, name)) is None
        if klass is not dict:
            obj = shelf.ghost(1, klass)
            assert shelf.reader.load(obj, item_record(1, {"x": 5}, name)) is False
            assert obj._p_status == GHOST
            del obj
    assert shelf.reader.get(oid_of(1), item_record(1, {}, b"m\nnew")) is None
    assert shelf.reader.get(b"short", good) is None
    assert shelf.reader.load(shelf.Item(), good) is False
    assert len(shelf.cache) == shelf.cache.count_recent() == shelf.reader.load_count == 0


def test_an_interrupt_leaves_a_ghost() -> None:
    """A KeyboardInterrupt while an object is made at once goes on, and nothing was done."""
    if "c" not in TWINS:
        pytest.skip("durus._speedups is not built here")
    shelf = Shelf(TWINS["c"])
    state = b"\x80\x04}\x8c\x01x\x8c\x01m\x8c\x07stopped\x93s."
    record = pack_record(oid_of(1), seal(oid_of(1), b"\x80\x04cm\nItem\n." + state, b""), b"")
    obj = shelf.ghost(1)
    with pytest.raises(KeyboardInterrupt):
        shelf.reader.load(obj, record)
    assert obj._p_status == GHOST
    del obj
    with pytest.raises(KeyboardInterrupt):
        shelf.reader.get(oid_of(1), record)
    assert len(shelf.cache) == 0


# -- memory


def work(kit: Kit) -> None:
    """Use all of a twin once, and let go of it."""
    connection = kit.Connection(5)
    objects = [kit.ghost(connection, number) for number in range(50)]
    for obj in objects:
        obj.x
        obj.y = [obj]
        del obj.y
        obj.slot = obj
        getattr(obj, "missing", None)
        weakref.ref(obj)
    writer = kit.twin.ReferenceWriter(connection, bytes, [])
    writer.begin(oid_of(1))
    pairs = [writer(obj) for obj in objects]
    writer.get_refs()
    reader = kit.twin.ReferenceReader(connection)
    assert [reader(pair) for pair in pairs] == objects
    for bad in (None, (1, 2), (oid_of(1), dict)):
        with pytest.raises(Exception, match="a reference"):
            reader(bad)
    for obj in objects[::2]:
        obj._p_status = SAVED
        obj._p_oid = None
    connection.changed.clear()
    connection.transaction_serial += 1
    connection.cache.shrink(connection.transaction_serial)
    file = kit.twin.RecordFile(b"abc\ndef", 0, 7)
    file.readline(), file.peek(1), file.read(-1)
    kit.twin.proof_of(b"1", b"2", b"3")
    for plain in ([1, "a", {"b": (2.5, b"c")}] * 30, {"x": dt.date(2020, 1, 1)}):
        pickled = pickle.dumps(plain, 4)
        data = b"\x80\x04cm\nn\n.\x80\x04" + pickled[11:] + b"prof"
        kit.twin.read_plain_state(data, lambda *_: dt.date, len)
    kit.twin.make_record(oid_of(1), b"class", b"state", b"")
    kit.twin.get_state(objects[1], (kit.Thing.__dict__["slot"],))
    for value in ("a text", "\ud800", [], 2.5, 2**40):
        objects[2].x = value
        kit.twin.make_plain_record(objects[2], b"class", ())
    objects[2]._p_status = SAVED
    fresh = kit.Thing()
    kit.twin.ReferenceWriter(connection, lambda: oid_of(60), [])(fresh)
    record = pack_record(oid_of(1), seal(oid_of(1), b"\x80\x04c", b""), b"")
    assert kit.twin.split_proven(oid_of(1), record)
    assert kit.twin.split_proven(oid_of(2), record) is None
    shelf = kit.shelf
    for state in ({"x": [1]}, {"_count": 1}, {"x": {1}}, 5, None):
        shelf.reader.get(oid_of(1), item_record(1, state))
        shelf.reader.load(shelf.ghost(2), item_record(2, state))
        shelf.reader.load(shelf.ghost(3), item_record(2, state))
    with pytest.raises(InvalidOidError):
        objects[0]._p_oid = b"x"


def test_nothing_is_leaked(kit: Kit) -> None:
    """However often everything is used, as many objects and bytes are left as before."""
    for _ in range(3):
        work(kit)
    gc.collect()
    tracemalloc.start()
    try:
        work(kit)
        gc.collect()
        objects, memory = len(gc.get_objects()), tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            work(kit)
        gc.collect()
        more_objects = len(gc.get_objects()) - objects
        more_memory = tracemalloc.get_traced_memory()[0] - memory
    finally:
        tracemalloc.stop()
    assert more_objects < 20
    assert more_memory < 20_000


def test_counts_of_references(kit: Kit) -> None:
    """Objects, classes and connections have as many references after use as before."""
    connection = kit.Connection()
    obj = kit.ghost(connection, 1)
    obj.x
    value = ["a value of its own"]
    watched = (obj, connection, connection.cache, kit.Thing, value, None)
    name = "an attribute " + str(id(obj))

    def use() -> None:
        for _ in range(100):
            setattr(obj, name, value)
            getattr(obj, name)
            delattr(obj, name)
            obj.slot = value
            del obj.slot
            obj.__setattr__(name, value)
            obj.__delattr__(name)
            obj._p_note_change()
            obj._p_connection = connection
            kit.ghost(connection, 1)
            kit.ghost(connection, 2)
            connection.cache.get(oid_of(1))
            connection.cache.note_use(obj)
            list(connection.cache)
            kit.twin.set_state(obj, {name: value})
            delattr(obj, name)
            obj._p_oid, obj._p_status, obj._p_serial, obj._p_connection

    use()
    before = [sys.getrefcount(each) for each in watched]
    use()
    after = [sys.getrefcount(each) for each in watched]
    assert [b - a for a, b in zip(before, after, strict=True)][:5] == [0] * 5


SHUTDOWN = """
    import sys, weakref
    from durus.connection import Connection
    from durus.persistent import Persistent
    from durus.storage import MemoryStorage

    class Thing(Persistent):
        def __del__(self):
            try:
                self.x
                self._p_connection.get(0)
            except Exception:
                pass

    connection = Connection(MemoryStorage())
    root = connection.get_root()
    things = [Thing() for _ in range(100)]
    for n, thing in enumerate(things):
        thing.x = n
        thing.next = things[n - 1]
        thing.ref = None
    root["things"] = things
    connection.commit()
    connection.set_cache_size(10)
    connection.commit()
    refs = [weakref.ref(thing, lambda _: connection.get(1)) for thing in things[:50]]
    things[3].x
    things[4].x = 5
    sys.loop = [connection, things]
    sys.loop.append(sys.loop)
    {end}
    print("end")
"""


@pytest.mark.parametrize(
    "end", ["", "del connection, root, things, thing", "import gc; gc.disable()"]
)
@pytest.mark.parametrize("mode", [[], ["-X", "dev"]])
def test_a_process_ends_well(end: str, mode: list[str]) -> None:
    """A process that ends with open connections and objects that speak up at their end is fine."""
    code = textwrap.dedent(SHUTDOWN).format(end=end)
    done = subprocess.run(
        [sys.executable, *mode, "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


@pytest.mark.skipif("c" not in TWINS, reason="durus._speedups is not built here")
@pytest.mark.skipif(sys.version_info >= (3, 13), reason="it keeps no values inline")
def test_states_of_many_ghosts_are_small() -> None:
    """However many ghosts are made before the first of them is loaded, none has a dict of its own.

    A dict that shares no names with others takes 270 bytes here.
    """
    kit = Kit(TWINS["c"])
    connection = kit.Connection()
    count = 500
    state = {"a": None, "b": None, "c": None, "d": None}

    def make(first: int) -> list[Any]:
        return [kit.ghost(connection, number) for number in range(first, first + count)]

    used = []
    for first in (1, count + 1):
        things = make(first)
        tracemalloc.start()
        for thing in things:
            kit.twin.set_state(thing, state)
        used.append(tracemalloc.get_traced_memory()[0] / count)
        tracemalloc.stop()
    assert used[0] < 200
    assert used[1] < 10
