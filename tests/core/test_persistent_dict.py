"""PersistentDict does what a dict does, and its changes are noticed."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable, ItemsView, KeysView, Mapping, MutableMapping, ValuesView
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from durus.connection import Connection
from durus.error import ConnectionThreadError
from durus.persistent import GHOST, SAVED, UNSAVED, Persistent, PersistentObject
from durus.persistent_dict import PersistentDict
from durus.storage import MemoryStorage


class Tagged(PersistentDict[Any, Any]):
    """A subclass with attributes, and an `__init__` of its own."""

    def __init__(self, tag: str) -> None:
        super().__init__()
        self.tag = tag


class WithDefault(PersistentDict[str, str]):
    def __missing__(self, key: str) -> str:
        return f"no {key}"


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


def test_it_is_a_mutable_mapping() -> None:
    """It is a MutableMapping, cannot be hashed, and has no `__dict__`; a subclass has one."""
    assert isinstance(PersistentDict(), MutableMapping)
    with pytest.raises(TypeError, match="unhashable"):
        hash(PersistentDict())
    assert not hasattr(PersistentDict(), "__dict__")
    assert Tagged("x").__dict__ == {"tag": "x"}


@pytest.mark.parametrize(
    "make",
    [
        lambda cls: cls(),
        lambda cls: cls({1: 2}),
        lambda cls: cls([(1, 2), [3, 4]]),
        lambda cls: cls(iter([(1, 2)]), a=1),
        lambda cls: cls(a=1, self=2, data=3, items=4),
        lambda cls: cls(PersistentDict(a=1), b=2),
        lambda cls: cls({1: 2}, {3: 4}),
        lambda cls: cls(None),
        lambda cls: cls([1]),
        lambda cls: cls.fromkeys("abca"),
        lambda cls: cls.fromkeys("ab", 1),
        lambda cls: cls.fromkeys([[]]),
    ],
)
def test_it_is_made_of_what_a_dict_is_made_of(make: Callable[[Any], Any]) -> None:
    """The constructor and fromkeys() take and refuse what those of dict do."""
    assert outcome(make, PersistentDict) == outcome(make, dict)


READS: list[Callable[[Any], Any]] = [
    lambda d: d["a"],
    lambda d: d["z"],
    lambda d: d[[]],
    lambda d: d.get("a"),
    lambda d: d.get("z"),
    lambda d: d.get("z", 1),
    lambda d: "a" in d,
    lambda d: [] in d,
    len,
    bool,
    list,
    lambda d: list(reversed(d)),
    lambda d: list(d.keys()),
    lambda d: list(d.values()),
    lambda d: list(d.items()),
    lambda d: list(reversed(d.keys())),
    lambda d: list(reversed(d.values())),
    lambda d: list(reversed(d.items())),
    lambda d: d == {"a": 1, "b": 2, "c": 3},
    lambda d: operator.eq({"a": 1, "b": 2, "c": 3}, d),
    lambda d: d != {},
    lambda d: d == 3,
    lambda d: d < {},
    lambda d: d | {"a": 9, "q": 1},
    lambda d: {"a": 9, "q": 1} | d,
    lambda d: d | [("a", 1)],
    lambda d: d.copy(),
    lambda d: d.keys() & {"a"},
    lambda d: d.keys() | {"q"},
    lambda d: d.keys() == {"a", "b", "c"},
    lambda d: d.items() - {("a", 1)},
    lambda d: ("a", 1) in d.items(),
    lambda d: ("z", 1) in d.items(),
    lambda d: 3 in d.items(),
    lambda d: 3 in d.values(),
    lambda d: "a" in d.keys(),  # noqa: SIM118 - the view is tested
    lambda d: len(d.items()),
    dict,
    lambda d: {**d},
]


@pytest.mark.parametrize("read", READS)
def test_reading_gives_what_a_dict_gives_and_notes_no_change(read: Callable[[Any], Any]) -> None:
    """Reading gives what a dict gives and changes nothing."""
    contents = {"a": 1, "b": 2, "c": 3}
    d = PersistentDict(contents)
    connection = stored(d)
    assert outcome(read, d) == outcome(read, contents)
    assert d._p_status != UNSAVED
    assert not connection.changed


CHANGES: list[Callable[[Any], Any]] = [
    lambda d: operator.setitem(d, "a", 1),
    lambda d: operator.setitem(d, "z", 1),
    lambda d: operator.delitem(d, "a"),
    lambda d: d.clear(),
    lambda d: d.pop("a"),
    lambda d: d.pop("a", 1),
    lambda d: d.popitem(),
    lambda d: d.setdefault("z"),
    lambda d: d.setdefault("z", 5),
    lambda d: d.update(a=1),
    lambda d: d.update({"q": 1}, z=2),
    lambda d: d.update([("q", 1), ["z", 2]]),
    lambda d: d.update(self=1, items=2),
    lambda d: d.update(d),
    lambda d: operator.ior(d, {"q": 1}),
    lambda d: operator.ior(d, [("q", 1)]),
]
NO_CHANGES: list[Callable[[Any], Any]] = [
    lambda d: d.setdefault("a", 5),
    lambda d: d.pop("z", 1),
    lambda d: d.update(),
    lambda d: d.update({}),
    lambda d: operator.ior(d, {}),
]
FAILURES: list[Callable[[Any], Any]] = [
    lambda d: operator.setitem(d, [], 1),
    lambda d: operator.delitem(d, "z"),
    lambda d: operator.delitem(d, []),
    lambda d: d.pop("z"),
    lambda d: d.pop([], 1),
    lambda d: d.setdefault([], 1),
    lambda d: d.update({}, {}),
    lambda d: d.update([("q", 1), ([], 2)]),
    lambda d: d.update([("q", 1), 2]),
    lambda d: operator.ior(d, 3),
]


@pytest.mark.parametrize(
    ("change", "status"),
    [(change, UNSAVED) for change in CHANGES]
    + [(change, SAVED) for change in NO_CHANGES + FAILURES],
)
def test_a_change_is_noted_when_there_is_one(change: Callable[[Any], Any], status: int) -> None:
    """A method does what dict's does, and marks the object as changed exactly if something is."""
    contents: dict[Any, Any] = {"a": 1, "b": 2}
    d = PersistentDict(contents)
    connection = stored(d)
    before = dict(contents)
    result, expected = outcome(change, d), outcome(change, contents)
    assert result == expected or status == SAVED
    if change in FAILURES:
        assert d.data == before
    else:
        assert list(d.items()) == list(contents.items())
    assert d._p_status == status
    connection.abort()
    assert list(d.items()) == list(before.items())


@pytest.mark.parametrize("change", CHANGES)
def test_a_refused_change_changes_nothing(change: Callable[[Any], Any]) -> None:
    """A thread that may not use the Connection changes nothing."""
    d = PersistentDict(a=1, b=2)
    connection = stored(d)
    assert d["a"] == 1
    refused = []

    def intrude() -> None:
        try:
            change(d)
        except ConnectionThreadError as error:
            refused.append(error)

    intruder = Thread(target=intrude)
    intruder.start()
    intruder.join()
    assert refused
    assert d.data == {"a": 1, "b": 2}
    assert not connection.changed


def test_clear_and_popitem_of_an_empty_dict() -> None:
    """Clearing what is empty changes nothing; popitem() raises KeyError."""
    d = PersistentDict[str, int]()
    stored(d)
    d.clear()
    with pytest.raises(KeyError):
        d.popitem()
    assert d._p_status == SAVED


def test_missing_is_called_as_in_dict() -> None:
    """`__missing__` gives what `[]` does not find, and nothing else asks it."""
    d = WithDefault(a="here")
    assert d["a"] == "here"
    assert d["x"] == "no x"
    assert d.get("x") is None
    assert "x" not in d
    assert ("x", "no x") not in d.items()
    assert d.pop("x", "default") == "default"


def test_missing_is_not_called_for_the_error_of_a_key() -> None:
    """A KeyError that comparing keys raises is not taken for a missing key."""

    class Bad:
        def __hash__(self) -> int:
            return hash("a")

        def __eq__(self, other: object) -> bool:
            raise KeyError("bad")

    with pytest.raises(KeyError, match="bad"):
        WithDefault(a="here")[Bad()]  # type: ignore[index]


def test_the_names_of_43() -> None:
    """has_key, iterkeys, itervalues, iteritems, data and data_is are there."""
    d = PersistentDict(a=1, b=2)
    assert d.has_key("a")
    assert not d.has_key("z")
    assert list(d.iterkeys()) == ["a", "b"]
    assert list(d.itervalues()) == [1, 2]
    assert next(d.iteritems()) == ("a", 1)
    assert d.data == {"a": 1, "b": 2}
    assert PersistentDict.data_is is dict
    assert d.get("z", failobj=3) == 3
    assert d.setdefault("z", failobj=3) == 3


def test_views_are_live() -> None:
    """keys(), values() and items() are views of the present contents."""
    d = PersistentDict(a=1)
    keys, values, items = d.keys(), d.values(), d.items()
    assert isinstance(keys, KeysView)
    assert isinstance(values, ValuesView)
    assert isinstance(items, ItemsView)
    d["b"] = 2
    assert list(keys) == ["a", "b"]
    assert list(values) == [1, 2]
    assert list(items) == [("a", 1), ("b", 2)]
    assert len(keys) == len(values) == len(items) == 2


def test_views_read_like_lists() -> None:
    """What 4.3's programs do with the lists that it gave works with the views."""
    d = PersistentDict(b=1, a=2)
    assert d.keys()[0] == "b"
    assert d.keys()[-1] == "a"
    assert d.values()[1] == 2
    assert d.items()[:1] == [("b", 1)]
    assert d.keys() == ["b", "a"]
    assert d.values() == [1, 2]
    assert d.items() != [("b", 1)]
    assert sorted(d.keys()) == ["a", "b"]
    assert str(d.keys()) == "DictKeys(['b', 'a'])"
    for index in (2, -3):
        with pytest.raises(IndexError):
            d.values()[index]
    for key in d.keys():  # noqa: SIM118 - the view is tested
        del d[key]
    assert not d


def test_a_copy_has_its_own_contents() -> None:
    """copy(), copy.copy() and `|` keep class and attributes and share no dict."""
    d = Tagged("red")
    d["a"] = [1]
    for other in (d.copy(), copy.copy(d), d | {}, {} | d):
        assert type(other) is Tagged
        assert other.tag == "red"
        assert other._p_oid is None
        other["b"] = 2
        assert d.data == {"a": [1]}
        assert other["a"] is d["a"]
    deep = copy.deepcopy(d)
    assert deep["a"] == [1]
    assert deep["a"] is not d["a"]
    again = pickle.loads(pickle.dumps(d))
    assert (again.tag, again.data) == ("red", {"a": [1]})


def test_it_compares_with_every_mapping() -> None:
    """It equals a mapping with the same items, of whatever class."""

    class Odd(Mapping[str, int]):
        def __getitem__(self, key: str) -> int:
            return {"a": 1}[key]

        def __iter__(self) -> Any:
            return iter("a")

        def __len__(self) -> int:
            return 1

    assert PersistentDict(a=1) == Odd()
    assert Odd() == PersistentDict(a=1)
    assert PersistentDict(a=1) == Tagged("x") | {"a": 1}
    assert PersistentDict(a=1) != PersistentDict(a=2)
    assert PersistentDict() != []


def test_repr_shows_the_beginning_and_loads_nothing() -> None:
    """A ghost is named only; contents are shown without an access, briefly, and cycles end."""
    d = PersistentDict[Any, Any](a=1)
    connection = stored(d)
    assert repr(d) == "<PersistentDict 1>"
    assert d._p_status == GHOST
    assert d["a"] == 1
    connection.abort()
    serial = d._p_serial
    assert repr(d) == "<PersistentDict 1 {'a': 1}>"
    assert d._p_serial == serial
    d["self"] = [d]
    assert repr(d) == "<PersistentDict 1 {'a': 1, 'self': [<PersistentDict 1>]}>"
    d.update((n, n) for n in range(1000))
    assert len(repr(d)) < 2000
    assert repr(d).endswith(", ...}>")
    nested: list[Any] = []
    for _ in range(10):
        nested = [nested, {1: nested}]
    assert len(repr(PersistentDict(x=nested))) < 1000
    assert repr(PersistentObject.__new__(PersistentDict))


def test_the_state_is_as_in_43() -> None:
    """What is stored is a dict of data, and of the attributes of a subclass."""
    assert PersistentDict(a=1).__getstate__() == {"data": {"a": 1}}
    assert Tagged("x").__getstate__() == {"data": {}, "tag": "x"}


def test_it_is_subscriptable_and_can_be_subclassed_so() -> None:
    """PersistentDict[str, int] is an alias, and a base class."""

    class Named(PersistentDict[str, int]):
        pass

    assert Named(a=1)["a"] == 1
    assert PersistentDict[str, int](a=1) == {"a": 1}


class Key(Persistent):
    pass


def test_persistent_objects_are_keys() -> None:
    """A Persistent object is a key by its identity, also after a load."""
    key = Key()
    d = PersistentDict({key: 1})
    stored(d)
    assert d[key] == 1


@given(st.dictionaries(st.integers(0, 9), st.text()), st.dictionaries(st.integers(0, 9), st.text()))
def test_joining_keeps_order_and_keys(first: dict[int, str], second: dict[int, str]) -> None:
    """`|` and update() give the items, and the order, that they give for dicts."""
    assert list((PersistentDict(first) | second).items()) == list((first | second).items())
    assert list((first | PersistentDict(second)).items()) == list((first | second).items())


class DictMachine(RuleBasedStateMachine):
    """A PersistentDict beside a dict, with commits, aborts and ghosts."""

    keys = st.integers(0, 8)

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[int, int] = {}
        self.committed: dict[int, int] = {}
        self.d = PersistentDict[int, int]()
        self.connection = stored(self.d)

    @rule(key=keys, value=st.integers())
    def set(self, key: int, value: int) -> None:
        self.d[key] = self.model[key] = value

    @rule(key=keys)
    def delete(self, key: int) -> None:
        assert outcome(lambda d: operator.delitem(d, key), self.d) == outcome(
            lambda d: operator.delitem(d, key), self.model
        )

    @rule(key=keys, value=st.integers())
    def setdefault(self, key: int, value: int) -> None:
        assert self.d.setdefault(key, value) == self.model.setdefault(key, value)

    @rule(new=st.dictionaries(keys, st.integers()))
    def update(self, new: dict[int, int]) -> None:
        self.d.update(new)
        self.model.update(new)

    @rule()
    def popitem(self) -> None:
        assert outcome(dict.popitem, self.model) == outcome(PersistentDict.popitem, self.d)

    @rule()
    def commit(self) -> None:
        self.connection.commit()
        self.committed = dict(self.model)

    @rule()
    def abort(self) -> None:
        self.connection.abort()
        self.model = dict(self.committed)

    @rule()
    def forget(self) -> None:
        if self.d._p_status == SAVED:
            self.d._p_set_status_ghost()

    @invariant()
    def same(self) -> None:
        assert list(self.d.items()) == list(self.model.items())
        assert len(self.d) == len(self.model)


TestDictMachine = DictMachine.TestCase
