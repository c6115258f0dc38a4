"""PersistentList does what a list does, and its changes are noticed."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable, MutableSequence
from threading import Thread
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from durus.connection import Connection
from durus.error import ConnectionThreadError
from durus.persistent import GHOST, SAVED, UNSAVED, PersistentObject
from durus.persistent_list import PersistentList
from durus.storage import MemoryStorage


class Tagged(PersistentList[Any]):
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
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return type(error)


def test_it_is_a_mutable_sequence() -> None:
    """It is a MutableSequence, cannot be hashed, and has no `__dict__`; a subclass has one."""
    assert isinstance(PersistentList(), MutableSequence)
    with pytest.raises(TypeError, match="unhashable"):
        hash(PersistentList())
    assert not hasattr(PersistentList(), "__dict__")
    assert Tagged("x").__dict__ == {"tag": "x"}
    assert PersistentList.data_is is list


@pytest.mark.parametrize("args", [(), ([1, 2],), ("ab",), (iter([1]),), (3,), ([1], [2]), ([[]],)])
def test_it_is_made_of_what_a_list_is_made_of(args: tuple[Any, ...]) -> None:
    """The constructor takes and refuses what that of list does."""
    args = copy.deepcopy(args)
    again = copy.deepcopy(args)
    assert outcome(lambda cls: cls(*args), PersistentList) == outcome(lambda cls: cls(*again), list)
    assert PersistentList(PersistentList([1])) == [1]


READS: list[Callable[[Any], Any]] = [
    lambda x: x[0],
    lambda x: x[-1],
    lambda x: x[9],
    lambda x: x["a"],
    lambda x: x[True],
    lambda x: x[1:],
    lambda x: x[::-2],
    lambda x: x[::0],
    lambda x: 1 in x,
    lambda x: "a" in x,
    len,
    bool,
    list,
    lambda x: list(reversed(x)),
    lambda x: x.count(1),
    lambda x: x.index(1),
    lambda x: x.index(1, 1),
    lambda x: x.index(1, 1, 2),
    lambda x: x.index(1, -1),
    lambda x: x.index(9),
    lambda x: x.copy(),
    lambda x: operator.add(x, [5]),
    lambda x: x + 5,
    lambda x: operator.add([5], x),
    lambda x: x * 2,
    lambda x: 2 * x,
    lambda x: x * -1,
    lambda x: x * "a",
    lambda x: x == [3, 1, 2, 1],
    lambda x: operator.eq([3, 1, 2, 1], x),
    lambda x: x != [3],
    lambda x: x == (3, 1, 2, 1),
    lambda x: x < [3, 2],
    lambda x: x <= [3, 1, 2, 1],
    lambda x: x > [3, 2],
    lambda x: operator.gt([3, 2], x),
    lambda x: x >= [],
    lambda x: x < (1,),
    lambda x: x < 1,
    sorted,
    lambda x: [*x],
]


@pytest.mark.parametrize("read", READS)
def test_reading_gives_what_a_list_gives_and_notes_no_change(read: Callable[[Any], Any]) -> None:
    """Reading gives what a list gives and changes nothing."""
    contents = [3, 1, 2, 1]
    x = PersistentList(contents)
    connection = stored(x)
    assert outcome(read, x) == outcome(read, contents)
    assert x._p_status != UNSAVED
    assert not connection.changed


CHANGES: list[Callable[[Any], Any]] = [
    lambda x: operator.setitem(x, 0, 9),
    lambda x: operator.setitem(x, -1, 9),
    lambda x: operator.setitem(x, slice(1, 2), [7, 8, 9]),
    lambda x: operator.setitem(x, slice(1, 2), iter([7])),
    lambda x: operator.setitem(x, slice(None, None, 2), "ab"),
    lambda x: operator.setitem(x, slice(2, 1), x),
    lambda x: operator.delitem(x, 0),
    lambda x: operator.delitem(x, slice(None, None, 2)),
    lambda x: x.append([]),
    lambda x: x.insert(0, 5),
    lambda x: x.insert(99, 5),
    lambda x: x.insert(-99, 5),
    lambda x: x.extend([5]),
    lambda x: x.extend(iter("ab")),
    lambda x: x.extend(x),
    lambda x: x.pop(),
    lambda x: x.pop(0),
    lambda x: x.pop(-4),
    lambda x: x.remove(1),
    lambda x: x.clear(),
    lambda x: x.reverse(),
    lambda x: x.sort(),
    lambda x: x.sort(reverse=True),
    lambda x: x.sort(key=lambda y: -y, reverse=True),
    lambda x: operator.iadd(x, (5, 6)),
    lambda x: operator.iadd(x, x),
    lambda x: operator.imul(x, 3),
    lambda x: operator.imul(x, 0),
    lambda x: operator.imul(x, -1),
]
NO_CHANGES: list[Callable[[Any], Any]] = [
    lambda x: x.extend([]),
    lambda x: operator.iadd(x, ()),
    lambda x: operator.imul(x, 1),
    lambda x: operator.delitem(x, slice(2, 1)),
]
FAILURES: list[Callable[[Any], Any]] = [
    lambda x: operator.setitem(x, 9, 9),
    lambda x: operator.setitem(x, "a", 9),
    lambda x: operator.setitem(x, slice(1), 9),
    lambda x: operator.setitem(x, slice(None, None, 2), [1]),
    lambda x: operator.setitem(x, slice("a"), [1]),
    lambda x: operator.setitem(x, slice(None, None, 0), [1]),
    lambda x: operator.delitem(x, 9),
    lambda x: operator.delitem(x, "a"),
    lambda x: operator.delitem(x, slice("a")),
    lambda x: x.insert("a", 5),
    lambda x: x.extend(5),
    lambda x: x.extend(1 // y for y in (1, 0)),
    lambda x: x.pop(9),
    lambda x: x.pop("a"),
    lambda x: x.remove(9),
    lambda x: x.sort(key=lambda y: "a" if y == 2 else y),
    lambda x: x.sort(key=3),
    lambda x: operator.iadd(x, 5),
    lambda x: operator.imul(x, "a"),
]


@pytest.mark.parametrize(
    ("change", "status"),
    [(change, UNSAVED) for change in CHANGES]
    + [(change, SAVED) for change in NO_CHANGES + FAILURES],
)
def test_a_change_is_noted_when_there_is_one(change: Callable[[Any], Any], status: int) -> None:
    """A method does what list's does, and marks the object as changed exactly if something is."""
    contents: list[Any] = [3, 1, 2, 1]
    x = PersistentList(contents)
    connection = stored(x)
    len(x)
    before = list(contents)
    try:
        result = outcome(change, x)
    except ZeroDivisionError:
        result = ZeroDivisionError
    if change in FAILURES:
        assert issubclass(result, Exception)
        assert x.data == before
    else:
        assert result == outcome(change, contents)
        assert x.data == contents
    assert x._p_status == status
    connection.abort()
    assert x.data == before


@pytest.mark.parametrize("change", CHANGES)
def test_a_refused_change_changes_nothing(change: Callable[[Any], Any]) -> None:
    """A thread that may not use the Connection changes nothing."""
    x = PersistentList([3, 1, 2, 1])
    connection = stored(x)
    assert x[0] == 3
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
    assert x.data == [3, 1, 2, 1]
    assert not connection.changed


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.clear(),
        lambda x: x.reverse(),
        lambda x: x.sort(),
        lambda x: operator.imul(x, 3),
        lambda x: outcome(lambda y: y.pop(), x),
    ],
)
def test_an_empty_list_does_not_change(change: Callable[[Any], Any]) -> None:
    """What changes nothing in an empty list leaves it saved."""
    x = PersistentList[int]()
    stored(x)
    change(x)
    assert x == []
    assert x._p_status == SAVED


def test_slices_sums_and_products_are_of_the_same_class() -> None:
    """What is made from a list has its class and attributes, and shares nothing with it."""
    x = Tagged("red")
    x += [1, 2]
    for other in (
        x[:],
        operator.add(x, []),
        operator.add([], x),
        x * 1,
        1 * x,
        x.copy(),
        copy.copy(x),
    ):
        assert type(other) is Tagged
        assert (other.tag, other.data) == ("red", [1, 2])
        assert other._p_oid is None
        other.append(3)
        assert x.data == [1, 2]
    assert x[1:] == [2]
    assert pickle.loads(pickle.dumps(x)).data == [1, 2]
    assert copy.deepcopy(x).tag == "red"


def test_a_sum_takes_any_iterable() -> None:
    """`+` takes what extend() takes, as in Durus 4.3."""
    assert operator.add(PersistentList([1]), (2,)) == [1, 2]
    assert operator.add((0,), PersistentList([1])) == [0, 1]


def test_sort_is_stable_and_sees_no_half() -> None:
    """Equal items keep their order, and a failing comparison leaves the old one."""
    x = PersistentList([(1, "b"), (0, "x"), (1, "a")])
    x.sort(key=operator.itemgetter(0))
    assert x == [(0, "x"), (1, "b"), (1, "a")]


def test_the_names_of_43() -> None:
    """The slice methods of Python 2 are still there."""
    x = PersistentList([1, 2, 3])
    assert x.__getslice__(-5, 2) == [1, 2]
    x.__setslice__(0, 1, [8, 9])
    x.__delslice__(2, 99)
    assert x == [8, 9]


def test_repr_shows_the_beginning_and_loads_nothing() -> None:
    """A ghost is named only; contents are shown briefly, and cycles end."""
    x = PersistentList[Any]([1])
    stored(x)
    assert repr(x) == "<PersistentList 1>"
    assert x._p_status == GHOST
    x.append(x)
    assert repr(x) == "<PersistentList 1 [1, <PersistentList 1>]>"
    assert len(repr(PersistentList(range(10**6)))) < 1000


def test_the_state_is_as_in_43() -> None:
    """What is stored is a list of data, and the attributes of a subclass."""
    assert PersistentList([1]).__getstate__() == {"data": [1]}
    assert Tagged("x").__getstate__() == {"data": [], "tag": "x"}


class ListMachine(RuleBasedStateMachine):
    """A PersistentList beside a list, with commits, aborts and ghosts."""

    indexes = st.integers(-5, 5)
    slices = st.builds(slice, indexes, indexes, st.sampled_from([None, 1, 2, -1, -3]))
    items = st.lists(st.integers(0, 5), max_size=4)

    def __init__(self) -> None:
        super().__init__()
        self.model: list[int] = []
        self.committed: list[int] = []
        self.x = PersistentList[int]()
        self.connection = stored(self.x)

    def both(self, call: Callable[[Any], Any]) -> None:
        assert outcome(call, self.x) == outcome(call, self.model)

    @rule(i=indexes | slices)
    def get(self, i: Any) -> None:
        self.both(lambda x: x[i])

    @rule(i=indexes, item=st.integers())
    def set(self, i: int, item: int) -> None:
        self.both(lambda x: operator.setitem(x, i, item))

    @rule(i=slices, items=items)
    def set_slice(self, i: slice, items: list[int]) -> None:
        self.both(lambda x: operator.setitem(x, i, items))

    @rule(i=indexes | slices)
    def delete(self, i: Any) -> None:
        self.both(lambda x: operator.delitem(x, i))

    @rule(i=indexes, item=st.integers(0, 5))
    def insert(self, i: int, item: int) -> None:
        self.both(lambda x: x.insert(i, item))

    @rule(items=items)
    def extend(self, items: list[int]) -> None:
        self.both(lambda x: x.extend(items))

    @rule(i=indexes)
    def pop(self, i: int) -> None:
        self.both(lambda x: x.pop(i))

    @rule(item=st.integers(0, 5))
    def remove(self, item: int) -> None:
        self.both(lambda x: x.remove(item))

    @rule(reverse=st.booleans())
    def sort(self, reverse: bool) -> None:
        self.both(lambda x: x.sort(reverse=reverse))

    @rule()
    def reverse(self) -> None:
        self.both(lambda x: x.reverse())

    @precondition(lambda self: len(self.model) < 50)
    @rule(n=st.integers(-1, 3))
    def multiply(self, n: int) -> None:
        self.x *= n
        self.model *= n

    @rule()
    def commit(self) -> None:
        self.connection.commit()
        self.committed = list(self.model)

    @rule()
    def abort(self) -> None:
        self.connection.abort()
        self.model = list(self.committed)

    @rule()
    def forget(self) -> None:
        if self.x._p_status == SAVED:
            self.x._p_set_status_ghost()

    @invariant()
    def same(self) -> None:
        assert self.x.data == self.model


TestListMachine = ListMachine.TestCase
