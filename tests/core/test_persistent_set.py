"""PersistentSet does what a set does, and its changes are noticed."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable, MutableSet
from threading import Thread
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from durus.connection import Connection
from durus.error import ConnectionThreadError
from durus.persistent import GHOST, SAVED, UNSAVED, PersistentObject
from durus.persistent_set import PersistentSet
from durus.storage import MemoryStorage


class Tagged(PersistentSet[Any]):
    """A subclass with attributes, and an `__init__` of its own."""

    def __init__(self, tag: str) -> None:
        super().__init__()
        self.tag = tag


def stored(obj: PersistentObject) -> Connection:
    """Commit `obj` as the root's "x", and make it a ghost."""
    connection = Connection(MemoryStorage())
    connection.get_root()["x"] = obj
    connection.commit()
    obj._p_set_status_ghost()
    return connection


def outcome(call: Callable[[Any], Any], argument: Any) -> Any:
    """Give what a call returns, or the type of what it raises."""
    try:
        return call(argument)
    except (KeyError, TypeError, ValueError) as error:
        return type(error)


def test_it_is_a_mutable_set() -> None:
    """It is a MutableSet, cannot be hashed, and has no `__dict__`; a subclass has one."""
    assert isinstance(PersistentSet(), MutableSet)
    with pytest.raises(TypeError, match="unhashable"):
        hash(PersistentSet())
    assert not hasattr(PersistentSet(), "__dict__")
    assert Tagged("x").__dict__ == {"tag": "x"}
    assert PersistentSet.s_is is set
    assert PersistentSet([1]).s == {1}


@pytest.mark.parametrize("args", [(), ([1, 2, 1],), ("ab",), (3,), ([[]],), ([1], [2])])
def test_it_is_made_of_what_a_set_is_made_of(args: tuple[Any, ...]) -> None:
    """The constructor takes and refuses what that of set does."""
    assert outcome(lambda cls: cls(*args), PersistentSet) == outcome(lambda cls: cls(*args), set)
    assert PersistentSet(PersistentSet([1])) == {1}


OTHERS: list[Any] = [
    set(),
    {1},
    {1, 2, 3},
    {1, 9},
    frozenset({1, 9}),
    {1: 2}.keys(),
    [1, 9],
    "ab",
    3,
]
OPERATORS = [
    operator.or_, operator.and_, operator.sub, operator.xor,
    operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne,
]  # fmt: skip


@pytest.mark.parametrize("other", OTHERS, ids=repr)
@pytest.mark.parametrize("operation", OPERATORS)
def test_operators_give_what_those_of_set_give(operation: Any, other: Any) -> None:
    """An operator takes sets of any kind on either side, and refuses what is no set."""
    contents = {1, 2, 3}
    x = PersistentSet(contents)
    connection = stored(x)
    assert outcome(lambda s: operation(s, other), x) == outcome(
        lambda s: operation(s, other), contents
    )
    # The view of a dict's keys takes any iterable on its right.
    assert outcome(lambda s: operation(other, s), x) == outcome(
        lambda s: operation(other, s), contents
    )
    assert outcome(lambda s: operation(s, PersistentSet(other)), x) == outcome(
        lambda s: operation(s, set(other)), contents
    )
    assert not connection.changed


NAMED = [
    "union", "intersection", "difference", "symmetric_difference",
    "isdisjoint", "issubset", "issuperset",
]  # fmt: skip


@pytest.mark.parametrize(
    "others", [(), ([1, 9],), ("ab",), ([1], [2, 7]), ({1: 2},), (3,), ([[]],)]
)
@pytest.mark.parametrize("name", NAMED)
def test_named_methods_take_iterables_as_those_of_set(name: str, others: tuple[Any, ...]) -> None:
    """The methods with names take any iterables, as many as those of set take."""
    contents = {1, 2, 3}
    x = PersistentSet(contents)
    connection = stored(x)
    assert outcome(lambda s: getattr(s, name)(*others), x) == outcome(
        lambda s: getattr(s, name)(*others), contents
    )
    assert not connection.changed


CHANGES: list[Callable[[Any], Any]] = [
    lambda s: s.add(9),
    lambda s: s.remove(1),
    lambda s: s.discard(1),
    lambda s: s.pop(),
    lambda s: s.clear(),
    lambda s: s.update([1, 9], "ab"),
    lambda s: s.intersection_update([1], [1, 2]),
    lambda s: s.difference_update([1], [2, 7]),
    lambda s: s.difference_update(s),
    lambda s: s.symmetric_difference_update([1, 9]),
    lambda s: s.symmetric_difference_update(s),
    lambda s: operator.ior(s, {9}),
    lambda s: operator.iand(s, {1}),
    lambda s: operator.isub(s, {1}),
    lambda s: operator.ixor(s, {1, 9}),
    lambda s: operator.isub(s, s),
    lambda s: operator.ixor(s, s),
]
NO_CHANGES: list[Callable[[Any], Any]] = [
    lambda s: s.add(1),
    lambda s: s.discard(9),
    lambda s: s.update(),
    lambda s: s.update([1, 2]),
    lambda s: s.intersection_update(),
    lambda s: s.intersection_update([1, 2, 3, 4]),
    lambda s: s.difference_update([9]),
    lambda s: s.symmetric_difference_update([]),
    lambda s: operator.ior(s, s),
    lambda s: operator.iand(s, s),
]
FAILURES: list[Callable[[Any], Any]] = [
    lambda s: s.add([]),
    lambda s: s.remove(9),
    lambda s: s.remove([]),
    lambda s: s.discard([]),
    lambda s: s.update([9], 3),
    lambda s: s.update([9, []]),
    lambda s: s.intersection_update(3),
    lambda s: s.difference_update([1], 3),
    lambda s: s.symmetric_difference_update(3),
    lambda s: operator.ior(s, [9]),
    lambda s: operator.iand(s, [9]),
    lambda s: operator.isub(s, [9]),
    lambda s: operator.ixor(s, [9]),
]


@pytest.mark.parametrize(
    ("change", "status"),
    [(change, UNSAVED) for change in CHANGES]
    + [(change, SAVED) for change in NO_CHANGES + FAILURES],
)
def test_a_change_is_noted_when_there_is_one(change: Callable[[Any], Any], status: int) -> None:
    """A method does what set's does, and marks the object as changed exactly if something is."""
    contents: set[Any] = {1, 2, 3}
    x = PersistentSet(contents)
    connection = stored(x)
    len(x)
    assert outcome(change, x) == outcome(change, contents)
    assert x.s == ({1, 2, 3} if change in FAILURES else contents)
    assert x._p_status == status
    connection.abort()
    assert x == {1, 2, 3}


@pytest.mark.parametrize("change", CHANGES)
def test_a_refused_change_changes_nothing(change: Callable[[Any], Any]) -> None:
    """A thread that may not use the Connection changes nothing."""
    x = PersistentSet([1, 2, 3])
    connection = stored(x)
    assert 1 in x
    refused = []

    def intrude() -> None:
        try:
            change(x)
        except ConnectionThreadError as error:
            refused.append(error)

    intruder = Thread(target=intrude)
    intruder.start()
    intruder.join()
    assert refused
    assert x.s == {1, 2, 3}
    assert not connection.changed


def test_clear_and_pop_of_an_empty_set() -> None:
    """Clearing what is empty changes nothing; pop() raises KeyError."""
    x = PersistentSet[int]()
    stored(x)
    x.clear()
    with pytest.raises(KeyError):
        x.pop()
    assert x._p_status == SAVED


def test_a_set_is_found_as_a_frozenset() -> None:
    """`in`, remove() and discard() take a set for the frozenset that equals it, as those of set."""
    x = PersistentSet([frozenset({1}), frozenset({2})])
    assert {1} in x
    x.discard({1})
    x.remove({2})
    assert not x


def test_what_is_made_from_a_set_is_of_its_class() -> None:
    """Results have the class and the attributes, and share nothing with the set."""
    x = Tagged("red")
    x |= {1, 2}
    same = (x | set(), set() | x, x - set(), x & {1, 2}, x.copy(), copy.copy(x), x ^ set())
    for other in same:
        assert type(other) is Tagged
        assert (other.tag, other.s) == ("red", {1, 2})
        assert other._p_oid is None
        other.add(3)
        assert x.s == {1, 2}
    assert type({1, 5} - x) is Tagged
    assert pickle.loads(pickle.dumps(x)).s == {1, 2}


def test_repr_shows_the_beginning_and_loads_nothing() -> None:
    """A ghost is named only; contents are shown as Durus 4.3 shows them, but briefly."""
    x = PersistentSet[Any]([1])
    connection = stored(x)
    assert repr(x) == "<PersistentSet 1>"
    assert x._p_status == GHOST
    assert 1 in x
    connection.abort()
    assert repr(x) == "<PersistentSet 1 [1]>"
    assert len(repr(PersistentSet(range(10**5)))) < 1000


def test_the_state_is_as_in_43() -> None:
    """What is stored is a set under "s", and the attributes of a subclass."""
    assert PersistentSet([1]).__getstate__() == {"s": {1}}
    assert Tagged("x").__getstate__() == {"s": set(), "tag": "x"}


class SetMachine(RuleBasedStateMachine):
    """A PersistentSet beside a set, with commits, aborts and ghosts."""

    items = st.integers(0, 9)
    sets = st.sets(items)

    def __init__(self) -> None:
        super().__init__()
        self.model: set[int] = set()
        self.committed: set[int] = set()
        self.x = PersistentSet[int]()
        self.connection = stored(self.x)

    def both(self, call: Callable[[Any], Any]) -> None:
        assert outcome(call, self.x) == outcome(call, self.model)

    @rule(item=items)
    def add(self, item: int) -> None:
        self.both(lambda s: s.add(item))

    @rule(item=items)
    def remove(self, item: int) -> None:
        self.both(lambda s: s.remove(item))

    @rule(item=items)
    def discard(self, item: int) -> None:
        self.both(lambda s: s.discard(item))

    @rule(other=sets, operation=st.sampled_from([operator.or_, operator.and_, operator.sub]))
    def operate(self, other: set[int], operation: Any) -> None:
        self.both(lambda s: operation(s, other))
        self.both(lambda s: operation(other, s))

    @rule(
        other=sets,
        operation=st.sampled_from([operator.ior, operator.iand, operator.isub, operator.ixor]),
    )
    def operate_in_place(self, other: set[int], operation: Any) -> None:
        self.both(lambda s: operation(s, other))

    @rule()
    def commit(self) -> None:
        self.connection.commit()
        self.committed = set(self.model)

    @rule()
    def abort(self) -> None:
        self.connection.abort()
        self.model = set(self.committed)

    @rule()
    def forget(self) -> None:
        if self.x._p_status == SAVED:
            self.x._p_set_status_ghost()

    @invariant()
    def same(self) -> None:
        assert self.x.s == self.model


TestSetMachine = SetMachine.TestCase
