"""Persistent objects: when they load, when they are changed, and what of them is stored."""

from __future__ import annotations

import copy
import dataclasses
import functools
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, ClassVar, Generic, Self, TypeVar

import pytest

from durus.connection import Connection
from durus.error import (
    ConnectionClosedError,
    ConnectionStateError,
    CorruptRecordError,
    InvalidOidError,
)
from durus.persistent import (
    GHOST,
    SAVED,
    UNSAVED,
    ComputedAttribute,
    ConnectionBase,
    Persistent,
    PersistentBase,
    PersistentObject,
)
from durus.persistent_dict import PersistentDict
from durus.storage import MemoryStorage

T = TypeVar("T")


class Plain(Persistent):
    """An ordinary class."""

    colour = "grey"

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


class Slotted(PersistentObject):
    __slots__ = ("a", "b")


class PrivateSlot(PersistentObject):
    __slots__ = ("__secret",)

    def __init__(self, secret: object) -> None:
        self.__secret = secret

    def tell(self) -> object:
        return self.__secret


class PrivateSlotAgain(PrivateSlot):
    __slots__ = ("__secret",)

    def __init__(self, secret: object, own: object) -> None:
        super().__init__(secret)
        self.__secret = own

    def tell_own(self) -> object:
        return self.__secret


class SlotAndDict(Persistent):
    __slots__ = ("in_slot",)


class SlotTwice(Slotted):
    __slots__ = ("a",)


@dataclasses.dataclass
class Data(Persistent):
    x: int
    y: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class SlottedData(Persistent):
    x: int
    y: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True, weakref_slot=True)
class WeakSlottedData(Persistent):
    x: int
    y: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class FrozenData(Persistent):
    x: int
    y: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlottedData(Persistent):
    x: int
    y: list[int] = dataclasses.field(default_factory=list)


class Thawed(Plain):
    """Its fields are set past its own __setattr__, as a frozen class does."""

    def __init__(self, x: int) -> None:
        object.__setattr__(self, "x", x)

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("frozen")


class WithProperty(Persistent):
    def __init__(self, size: int) -> None:
        self.__dict__["size"] = size

    @property
    def size(self) -> str:
        return f"{self.__dict__['size']} m"


class Mixin:
    def greet(self) -> str:
        return f"I am {self.name}"  # type: ignore[attr-defined]


class Mixed(Mixin, Persistent):
    def __init__(self, name: str) -> None:
        self.name = name


class Mapping(Persistent, MutableMapping[str, int]):
    def __init__(self) -> None:
        self.data: dict[str, int] = {}

    def __getitem__(self, key: str) -> int:
        return self.data[key]

    def __setitem__(self, key: str, value: int) -> None:
        self.data[key] = value
        self._p_note_change()

    def __delitem__(self, key: str) -> None:
        del self.data[key]
        self._p_note_change()

    def __iter__(self) -> Iterator[str]:
        return iter(self.data)

    def __len__(self) -> int:
        return len(self.data)


class Box(Persistent, Generic[T]):
    def __init__(self, content: T) -> None:
        self.content = content


class Outer:
    class Inner(Persistent):
        """A class inside a class."""


class Left(Persistent):
    left = "none"


class Right(Persistent):
    right = "none"


class Both(Left, Right):
    pass


class Computing(Persistent):
    def __getattr__(self, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return f"computed {name}"


class Watching(Persistent):
    seen: ClassVar[list[str]] = []

    def __getattribute__(self, name: str) -> Any:
        Watching.seen.append(name)
        return super().__getattribute__(name)


class Shouting(Persistent):
    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.upper() if isinstance(value, str) else value)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name.lower())


class Counting(Persistent):
    def __init__(self) -> None:
        self.changes = 0

    def _p_note_change(self) -> None:
        super()._p_note_change()
        self.__dict__["changes"] = self.__dict__.get("changes", 0) + 1


class Transient(Persistent):
    """Loads what is never stored."""

    def __getstate__(self) -> None:
        return None

    def _p_load_state(self) -> None:
        super()._p_load_state()
        self.__dict__["fresh"] = True


class Compact(Persistent):
    """A state that is not a dict, and a __setstate__ that sets attributes in the plain way."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __getstate__(self) -> tuple[int, int]:
        return self.x, self.y

    def __setstate__(self, state: tuple[int, int]) -> None:
        self.x, self.y = state


class Equal(Persistent):
    """Equality without a hash."""

    def __init__(self, x: int) -> None:
        self.x = x

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Equal) and self.x == other.x

    __hash__ = None  # type: ignore[assignment]


class Lazy(Persistent):
    def __init__(self, n: int) -> None:
        self.n = n

    @functools.cached_property
    def square(self) -> int:
        return self.n * self.n


class NeverInitialised(Persistent):
    made = 0

    def __init__(self, x: int) -> None:
        NeverInitialised.made += 1
        self.x = x


class NeedsArguments(Persistent):
    def __new__(cls, name: str) -> Self:
        self = super().__new__(cls)
        self.name = name
        return self


class Reporting(Persistent):
    reports: ClassVar[list[str]] = []

    def __repr__(self) -> str:
        return f"Reporting({self.x!r})"

    def __del__(self) -> None:
        Reporting.reports.append(f"gone {self.x}")


@pytest.fixture
def connection() -> Connection:
    return Connection(MemoryStorage())


def store(connection: Connection, obj: Any) -> Any:
    """Commit `obj` under the root, and give it as a ghost."""
    connection.get_root()["obj"] = obj
    connection.commit()
    obj._p_set_status_ghost()
    return obj


def elsewhere(connection: Connection, obj: Any) -> Any:
    """Commit `obj`, and give what another connection loads under its oid."""
    connection.get_root()["obj"] = obj
    connection.commit()
    return Connection(connection.get_storage()).get(obj._p_oid)


# -- states


def test_a_new_object_is_unsaved_without_oid_and_connection() -> None:
    """A new object belongs to no connection and is to be stored."""
    obj = Plain()
    assert (obj._p_status, obj._p_oid, obj._p_connection, obj._p_serial) == (UNSAVED, None, None, 0)
    assert obj._p_is_unsaved()
    assert not obj._p_is_ghost()
    assert not obj._p_is_saved()


def test_a_commit_saves_and_a_change_unsaves(connection: Connection) -> None:
    """A commit makes an object saved, the first change after it unsaved."""
    obj = Plain(x=1)
    connection.get_root()["obj"] = obj
    connection.commit()
    assert obj._p_status == SAVED
    assert obj._p_connection is connection
    obj.x = 2
    assert obj._p_status == UNSAVED
    connection.commit()
    assert obj._p_status == SAVED


@pytest.mark.parametrize(
    "touch",
    [
        lambda obj: obj._p_oid,
        lambda obj: obj._p_status,
        lambda obj: obj._p_connection,
        lambda obj: obj._p_serial,
        lambda obj: obj._p_is_ghost(),
        lambda obj: obj._p_is_saved(),
        lambda obj: obj._p_is_unsaved(),
        lambda obj: obj._p_format_oid(),
        lambda obj: list(obj._p_gen_data_slots()),
        lambda obj: obj.__class__,
        lambda obj: obj.__repr__,
        lambda obj: obj.__setstate__,
        lambda obj: obj._p_set_status_ghost(),
        repr,
        str,
        type,
        hash,
        bool,
        weakref.ref,
        lambda obj: isinstance(obj, (Plain, dict)),
        lambda obj: obj == 1,
        lambda obj: obj in [1, 2, obj],
        lambda obj: {obj: 1}[obj],
    ],
)
def test_what_loads_nothing(connection: Connection, touch: Callable[[Any], object]) -> None:
    """`_p_` names, __class__, __repr__, __setstate__ and what Python asks of the type alone."""
    obj = store(connection, Plain(x=1))
    connection.commit()
    touch(obj)
    assert obj._p_status == GHOST
    assert obj._p_serial < connection.transaction_serial


@pytest.mark.parametrize(
    "touch",
    [
        lambda obj: obj.x,
        lambda obj: obj.colour,
        lambda obj: getattr(obj, "missing", None),
        lambda obj: hasattr(obj, "missing"),
        lambda obj: obj.__dict__,
        vars,
        dir,
        lambda obj: obj.__init__,
        lambda obj: obj.__getstate__(),
        lambda obj: obj.__doc__,
        lambda obj: obj.__reduce_ex__(4),
        lambda obj: obj.__setattr__,
        copy.copy,
        pickle.dumps,
    ],
)
def test_what_loads(connection: Connection, touch: Callable[[Any], object]) -> None:
    """Every other attribute loads a ghost and counts as an access, whether it is there or not."""
    obj = store(connection, Plain(x=1))
    connection.commit()
    touch(obj)
    assert obj._p_status == SAVED
    assert obj._p_serial == connection.transaction_serial


@pytest.mark.parametrize(
    "change",
    [
        lambda obj: setattr(obj, "x", 2),
        lambda obj: setattr(obj, "new", 2),
        lambda obj: setattr(obj, "colour", "red"),
        lambda obj: delattr(obj, "x"),
        lambda obj: obj._p_note_change(),
        lambda obj: obj._p_set_status_unsaved(),
        lambda obj: setattr(obj, "__class__", Left),
        lambda obj: setattr(obj, "__dict__", {"z": 1}),
    ],
)
@pytest.mark.parametrize("is_ghost", [True, False])
def test_what_changes(
    connection: Connection, change: Callable[[Any], object], is_ghost: bool
) -> None:
    """Setting or deleting any attribute loads, counts as an access and is stored by a commit."""
    obj = store(connection, Plain(x=1, kept=5))
    if not is_ghost:
        obj.x
    connection.commit()
    change(obj)
    assert obj._p_status == UNSAVED
    assert obj._p_serial == connection.transaction_serial
    assert list(connection.changed) == [obj._p_oid]
    expected = dict(obj.__dict__)
    connection.commit()
    obj._p_set_status_ghost()
    assert obj.__dict__ == expected


def test_a_change_that_fails_is_a_change(connection: Connection) -> None:
    """Deleting an attribute that is not there is an AttributeError."""
    obj = store(connection, Plain(x=1))
    with pytest.raises(AttributeError):
        del obj.missing
    assert obj.x == 1


def test_changes_in_place_are_not_seen(connection: Connection) -> None:
    """What happens inside a plain list is not noted, and is lost when the object is evicted."""
    obj = store(connection, Plain(items=[1]))
    obj.items.append(2)
    assert obj._p_status == SAVED
    connection.commit()
    obj._p_set_status_ghost()
    assert obj.items == [1]


def test_init_is_not_called_on_load(connection: Connection) -> None:
    """Loading makes the object without __init__."""
    NeverInitialised.made = 0
    assert elsewhere(connection, NeverInitialised(3)).x == 3
    assert NeverInitialised.made == 1


def test_new_is_not_called_on_load(connection: Connection) -> None:
    """Loading calls no __new__ of the class either, whatever arguments that needs."""
    assert elsewhere(connection, NeedsArguments("n")).name == "n"


def test_identity(connection: Connection) -> None:
    """The same oid is the same object, however it was reached."""
    shared = Plain()
    connection.get_root()["one"] = Plain(other=shared)
    connection.get_root()["two"] = Plain(other=shared)
    connection.commit()
    other = Connection(connection.get_storage())
    found = other.get(shared._p_oid)
    assert other.get_root()["one"].other is found
    assert other.get_root()["two"].other is found


def test_a_ghost_has_no_attributes(connection: Connection) -> None:
    """Becoming a ghost drops what the attributes held, slots and __dict__."""
    held = Plain()
    alive = weakref.ref(held)
    obj = SlotAndDict()
    obj.in_slot = [held]
    obj.in_dict = [held]
    connection.get_root()["obj"] = obj
    connection.commit()
    held._p_oid
    connection.get_cache().size = 0
    connection.commit()
    del held
    gc.collect()
    assert alive() is None
    assert obj.in_slot[0] is obj.in_dict[0]


def test_abort_leaves_new_objects_alone(connection: Connection) -> None:
    """An object that was never stored keeps its attributes when the transaction is aborted."""
    obj = Plain(x=1)
    connection.get_root()["obj"] = obj
    connection.abort()
    assert obj.x == 1
    assert obj._p_status == UNSAVED
    assert "obj" not in connection.get_root()


def test_abort_makes_ghosts_of_changed_objects(connection: Connection) -> None:
    """A stored object has its stored attributes again after an abort."""
    obj = store(connection, Plain(x=1))
    obj.x = 2
    obj.y = 3
    connection.abort()
    assert obj._p_status == GHOST
    assert obj.__dict__ == {"x": 1}


# -- the `_p_` protocol itself


@pytest.mark.parametrize("oid", [b"", b"1234567", b"123456789", 5, "12345678", bytearray(8), True])
def test_an_oid_is_eight_bytes(oid: object) -> None:
    """`_p_oid` takes 8 bytes or None, and says so."""
    obj = Plain()
    with pytest.raises(InvalidOidError, match="an oid is 8 bytes"):
        obj._p_oid = oid
    obj._p_oid = b"12345678"
    obj._p_oid = None
    assert obj._p_oid is None


def test_protocol_values_are_checked() -> None:
    """Status, serial and connection refuse what they cannot be."""
    obj = Plain()
    for name, value, error in [
        ("_p_status", "x", TypeError),
        ("_p_status", 2, ValueError),
        ("_p_status", -2, ValueError),
        ("_p_serial", None, TypeError),
        ("_p_connection", obj, TypeError),
    ]:
        with pytest.raises(error):
            setattr(obj, name, value)
    for name in ("_p_oid", "_p_status", "_p_serial", "_p_connection"):
        with pytest.raises(AttributeError):
            delattr(obj, name)
    assert (obj._p_status, obj._p_oid, obj._p_connection, obj._p_serial) == (UNSAVED, None, None, 0)


def test_other_protocol_names_are_plain_attributes(connection: Connection) -> None:
    """Any name that begins with `_p_`, in any script, loads nothing and notes nothing."""
    obj = store(connection, Plain(x=1))
    obj._p_mine = 1
    obj._p_λ = 2
    assert obj._p_mine == 1
    assert obj._p_λ == 2
    assert obj._p_status == GHOST
    del obj._p_mine
    assert obj._p_status == GHOST


def test_names_are_strings() -> None:
    """A name that is no str is a TypeError."""
    obj = Plain()
    for call in (
        lambda: getattr(obj, 1),  # type: ignore[call-overload]
        lambda: setattr(obj, 1, 2),  # type: ignore[call-overload]
        lambda: delattr(obj, 1),  # type: ignore[call-overload]
        lambda: obj.__setattr__(1, 2),  # type: ignore[arg-type]
        lambda: obj.__delattr__(1),  # type: ignore[arg-type]
        lambda: obj.__setattr__("a"),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError):
            call()


def test_repr_of_stored_and_new(connection: Connection) -> None:
    """The default repr gives class and oid, or the address of a new object."""
    obj = Plain()
    assert repr(obj) == f"<Plain @{id(obj):x}>"
    store(connection, obj)
    assert repr(obj) == f"<Plain {int.from_bytes(obj._p_oid, 'big')}>"


# -- what is stored


@pytest.mark.parametrize("cls", [Data, SlottedData, WeakSlottedData, FrozenData, FrozenSlottedData])
def test_dataclasses_keep_every_field(connection: Connection, cls: Callable[..., Any]) -> None:
    """A dataclass of any kind stores all fields and loads them."""
    found = elsewhere(connection, cls(1, [2, 3]))
    assert found == cls(1, [2, 3])
    assert found._p_status == SAVED


@pytest.mark.parametrize("cls", [Data, SlottedData, WeakSlottedData])
def test_fields_of_dataclasses_are_watched(connection: Connection, cls: Callable[..., Any]) -> None:
    """Setting a field of a dataclass is a change."""
    obj = store(connection, cls(1))
    obj.x = 2
    assert obj._p_status == UNSAVED
    connection.commit()
    obj._p_set_status_ghost()
    assert obj.x == 2


@pytest.mark.parametrize("cls", [FrozenData, FrozenSlottedData])
def test_frozen_dataclasses_stay_frozen(connection: Connection, cls: Callable[..., Any]) -> None:
    """A frozen dataclass refuses changes, loaded or not, and hashes by its fields."""
    obj = store(connection, cls(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        obj.x = 2
    assert obj.x == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        del obj.x
    assert dataclasses.replace(obj, x=5).x == 5


def test_classes_frozen_by_hand(connection: Connection) -> None:
    """A class may set past its own __setattr__; ordinary classes above and beside it still note."""
    before = Plain(x=1)
    assert elsewhere(connection, Thawed(7)).x == 7
    after = Plain(x=1)
    for obj in (before, after):
        store(connection, obj)
        obj.x = 2
        assert obj._p_status == UNSAVED
    with pytest.raises(TypeError, match="frozen"):
        Thawed(1).x = 2


@pytest.fixture
def attrs() -> Any:
    return pytest.importorskip(
        "attrs", minversion="24.1", reason="attrs is not among what durus-core asks for"
    )


def _attrs_class(name: str, **options: Any) -> type:
    """Make a class with attrs that is found under its name."""
    import attrs

    cls = attrs.define(type(name, (Persistent,), {"__annotations__": {"x": int, "y": list}}))
    if options:
        body = {
            "__annotations__": {"x": int, "y": list},
            "x": attrs.field(converter=int),
            "y": attrs.field(factory=list),
        }
        cls = attrs.define(**options)(type(name, (Persistent,), body))
    cls.__module__ = __name__
    globals()[name] = cls
    return cls


@pytest.mark.parametrize("slots", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_attrs_classes_keep_every_field(
    attrs: Any, connection: Connection, slots: bool, frozen: bool
) -> None:
    """A class of attrs stores all fields and loads them."""
    cls = _attrs_class(f"Attrs{slots:d}{frozen:d}", slots=slots, frozen=frozen)
    assert elsewhere(connection, cls("1", [2])) == cls(1, [2])


def test_attrs_classes_keep_other_attributes(attrs: Any, connection: Connection) -> None:
    """What attrs does not know of is stored too."""
    obj = _attrs_class("AttrsPlain")(1, [2])
    obj.z = 3
    found = elsewhere(connection, obj)
    assert (found.x, found.y, found.z) == (1, [2], 3)


@pytest.mark.parametrize("slots", [True, False])
def test_attrs_fields_with_converters_are_watched(
    attrs: Any, connection: Connection, slots: bool
) -> None:
    """Setting a field that has a converter is a change, in subclasses of any kind too."""
    cls = _attrs_class(f"AttrsConverted{slots:d}", slots=slots)
    body = {"__annotations__": {"z": int}, "z": 0, "__module__": __name__}
    sub = attrs.define(slots=slots)(type(f"AttrsSub{slots:d}", (cls,), dict(body)))
    plain = type(f"AttrsPlainSub{slots:d}", (cls,), {"__module__": __name__})
    for each in (cls, sub, plain):
        globals()[each.__name__] = each
        obj = store(connection, each(1))
        obj.x = "2"
        assert obj._p_status == UNSAVED
        assert obj.y == []
        connection.commit()
        obj._p_set_status_ghost()
        assert obj.x == 2 or each is sub


def test_slots_are_stored(connection: Connection) -> None:
    """PersistentObject stores the slots that are set, and no others."""
    obj = Slotted()
    obj.a = 1
    assert obj.__getstate__() == {"a": 1}
    found = elsewhere(connection, obj)
    assert found.a == 1
    assert not hasattr(found, "b")
    with pytest.raises(AttributeError):
        found.c = 1


def test_private_slots_are_stored(connection: Connection) -> None:
    """Slots with two leading underscores are stored, those of a subclass apart."""
    found = elsewhere(connection, PrivateSlotAgain(1, 2))
    assert (found.tell(), found.tell_own()) == (1, 2)


def test_slots_beside_a_dict_are_stored(connection: Connection) -> None:
    """A subclass of Persistent may have slots: they and the other attributes are stored."""
    obj = SlotAndDict()
    obj.in_slot, obj.in_dict = 1, 2
    found = elsewhere(connection, obj)
    assert (found.in_slot, found.in_dict) == (1, 2)
    assert "in_slot" not in found.__dict__


def test_a_slot_that_a_base_class_has_too(connection: Connection) -> None:
    """Of two slots of one name the one that the attribute means is stored."""
    obj = SlotTwice()
    obj.a, obj.b = 1, 2
    Slotted.__dict__["a"].__set__(obj, "hidden")
    found = elsewhere(connection, obj)
    assert (found.a, found.b) == (1, 2)


def test_a_property_may_shadow_a_stored_name(connection: Connection) -> None:
    """A stored name that is a property of the class lands in __dict__; no setter is called."""
    assert elsewhere(connection, WithProperty(3)).size == "3 m"


def test_class_attributes_are_defaults(connection: Connection) -> None:
    """A class attribute is not stored; a new default reaches old objects."""
    found = elsewhere(connection, Plain(x=1))
    assert found.colour == "grey"
    assert "colour" not in found.__dict__


def test_a_mixin_may_come_first(connection: Connection) -> None:
    """`class S(Mixin, Persistent)` works as `class S(Persistent, Mixin)` does."""
    obj = store(connection, Mixed("sue"))
    assert obj.greet() == "I am sue"
    obj.name = "bob"
    assert obj._p_status == UNSAVED


def test_abstract_base_classes(connection: Connection) -> None:
    """Persistent goes with MutableMapping; asking for the kind loads nothing."""
    obj = Mapping()
    obj["a"] = 1
    store(connection, obj)
    assert isinstance(obj, MutableMapping)
    assert obj._p_status == GHOST
    assert dict(obj) == {"a": 1}
    obj.update(b=2)
    connection.commit()
    obj._p_set_status_ghost()
    assert dict(obj) == {"a": 1, "b": 2}


def test_generic_classes(connection: Connection) -> None:
    """What `Box[int](...)` adds to an object is not stored: it says how it was made."""
    obj = Box[int](3)
    found = elsewhere(connection, obj)
    assert found.__dict__ == {"content": 3}
    assert elsewhere(connection, PersistentDict[str, int](a=1)) == {"a": 1}


def test_nested_classes(connection: Connection) -> None:
    """A class inside a class is stored under its dotted name."""
    obj = Outer.Inner()
    obj.x = 1
    found = elsewhere(connection, obj)
    assert type(found) is Outer.Inner
    assert found.x == 1


def test_multiple_inheritance(connection: Connection) -> None:
    """Two persistent bases make one persistent class."""
    obj = Both()
    obj.left = 1
    found = elsewhere(connection, obj)
    assert (found.left, found.right) == (1, "none")


def test_states_of_any_form(connection: Connection) -> None:
    """__getstate__ may give anything that __setstate__ takes, which may set attributes."""
    found = elsewhere(connection, Compact(1, 2))
    assert (found.x, found.y) == (1, 2)
    assert found._p_status == SAVED
    assert not found._p_connection.changed


def test_a_state_that_does_not_fit_the_class() -> None:
    """The __setstate__ that every class has takes a dict or None, and says so."""
    obj = Plain()
    obj.__setstate__(None)
    with pytest.raises(TypeError, match=r"state of a Plain is a dict, got \[1\]"):
        obj.__setstate__([1])


def test_cached_properties_work(connection: Connection) -> None:
    """functools.cached_property keeps its value in __dict__, without a change."""
    obj = store(connection, Lazy(4))
    assert obj.square == 16
    assert obj.__dict__["square"] == 16
    assert obj._p_status == SAVED


def test_a_state_may_not_name_the_protocol(connection: Connection) -> None:
    """A stored state that names `_p_oid` and its kin does not reach them."""
    obj = store(connection, Plain(x=1))
    obj.__setstate__({"_p_oid": b"evil", "_p_status": 1, "_p_connection": 3, "x": 2})
    assert obj._p_status == GHOST
    assert obj._p_connection is connection
    assert obj._p_oid != b"evil"


def test_an_object_may_change_its_class(connection: Connection) -> None:
    """Setting __class__ is a change; whoever refers to the object has to be stored anew too."""
    obj = store(connection, Left())
    obj.x = 1
    obj.__class__ = Right  # type: ignore[assignment]
    connection.get_root()._p_note_change()
    connection.commit()
    found = Connection(connection.get_storage()).get(obj._p_oid)
    assert type(found) is Right
    assert found.x == 1


# -- classes that interfere


def test_getattr_of_the_class_is_asked_after_loading(connection: Connection) -> None:
    """A class's __getattr__ is asked only for what the loaded object lacks."""
    obj = Computing()
    obj.x = 1
    store(connection, obj)
    assert obj.x == 1
    obj._p_set_status_ghost()
    assert obj.y == "computed y"
    assert obj._p_status == SAVED


def test_getattribute_of_the_class(connection: Connection) -> None:
    """A class's __getattribute__ sees the names, and loading still happens."""
    obj = Watching()
    obj.x = 1
    store(connection, obj)
    Watching.seen.clear()
    assert obj.x == 1
    assert "x" in Watching.seen


def test_setattr_of_the_class(connection: Connection) -> None:
    """A class's __setattr__ and __delattr__ that go on to ours note changes."""
    obj = Shouting()
    obj.x = "quiet"
    store(connection, obj)
    obj.y = "loud"
    assert obj._p_status == UNSAVED
    assert (obj.x, obj.y) == ("QUIET", "LOUD")
    connection.commit()
    del obj.X
    assert obj._p_status == UNSAVED
    assert not hasattr(obj, "x")


def test_a_setattr_that_comes_later(connection: Connection) -> None:
    """A __setattr__ that a class is given, and loses again, after it was used takes effect."""
    obj = store(connection, Left())
    obj.x = 1

    def set_twice(self: Left, name: str, value: object) -> None:
        super(Left, self).__setattr__(name, [value, value])

    Left.__setattr__ = set_twice  # type: ignore[method-assign, assignment]
    try:
        obj.x = 2
        Both().x = 3
        assert obj.x == [2, 2]
    finally:
        del Left.__setattr__
    connection.commit()
    obj.x = 4
    assert obj.x == 4
    assert obj._p_status == UNSAVED
    both = Both()
    both.x = 5
    assert both.x == 5


def test_note_change_of_the_class(connection: Connection) -> None:
    """A class's _p_note_change is called for each attribute that is set or deleted."""
    obj = Counting()
    store(connection, obj)
    start = obj.changes
    obj.a = 1
    del obj.a
    assert obj.changes == start + 2
    assert obj._p_status == UNSAVED


def test_load_state_of_the_class(connection: Connection) -> None:
    """A class's _p_load_state may add what is never stored."""
    obj = store(connection, Transient())
    assert obj.fresh
    assert obj._p_status == SAVED


def test_equality_without_a_hash(connection: Connection) -> None:
    """A class whose objects compare by value and have no hash is stored like any other."""
    first, second = Equal(1), Equal(1)
    connection.get_root()["pair"] = [first, second]
    connection.commit()
    other = Connection(connection.get_storage())
    one, two = other.get_root()["pair"]
    assert one is not two
    assert one == two
    with pytest.raises(TypeError):
        hash(one)


def test_an_end_that_looks_at_the_object(connection: Connection) -> None:
    """A __del__ may use the attributes of a ghost: they are loaded for it."""
    Reporting.reports.clear()
    obj = Reporting()
    obj.x = 7
    store(connection, obj)
    connection.get_root()._p_set_status_ghost()
    connection.set_cache_size(0)
    connection.commit()
    del obj
    gc.collect()
    connection.commit()
    assert Reporting.reports == ["gone 7"]
    assert connection.get_root()["obj"].x == 7


class Missing(Persistent):
    """Its __setstate__ asks for what is not there."""

    def __setstate__(self, state: Any) -> None:
        state.no_such_attribute


def test_an_attribute_error_while_loading(connection: Connection) -> None:
    """What goes wrong while an object loads does not look as if an attribute were missing."""
    obj = store(connection, Missing())
    for ask in (lambda: obj.x, lambda: hasattr(obj, "x"), lambda: getattr(obj, "x", None)):
        with pytest.raises(CorruptRecordError, match="does not fit its class") as caught:
            ask()
        assert caught.value.oid == obj._p_oid
        assert isinstance(caught.value.__cause__, AttributeError)
        assert obj._p_status == GHOST


def test_a_ghost_that_belongs_to_nobody() -> None:
    """A new object that was made a ghost says that nothing of it is stored."""
    obj = Plain(x=1)
    obj._p_set_status_ghost()
    with pytest.raises(ConnectionStateError, match="<Plain @"):
        hasattr(obj, "x")
    with pytest.raises(ConnectionStateError):
        obj.x = 1


# -- copies, weak references, garbage


def test_weak_references(connection: Connection) -> None:
    """A weak reference to a persistent object dies with it and calls back once."""
    obj = store(connection, Plain(x=1))
    calls: list[object] = []
    ref = weakref.ref(obj, calls.append)
    connection.set_cache_size(0)
    connection.get_root()._p_set_status_ghost()
    connection.commit()
    assert ref() is obj
    del obj
    gc.collect()
    assert ref() is None
    assert calls == [ref]


def test_copies(connection: Connection) -> None:
    """copy gives a new object with the same attributes; it has no oid."""
    obj = store(connection, Plain(x=[1]))
    made = copy.copy(obj)
    assert made.x is obj.x
    assert (made._p_oid, made._p_connection, made._p_status) == (None, None, UNSAVED)


def test_deep_copies(connection: Connection) -> None:
    """deepcopy copies persistent objects inside too, cycles included, all without oids."""
    obj = Plain(x=[1], child=Plain())
    obj.child.parent = obj
    store(connection, obj)
    made = copy.deepcopy(obj)
    assert made.x == [1]
    assert made.x is not obj.x
    assert made.child is not obj.child
    assert made.child.parent is made
    assert made.child._p_oid is None


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "make", [lambda: Plain(x=1), lambda: Data(1), lambda: FrozenSlottedData(1), Slotted]
)
def test_pickles_outside_of_a_connection(
    connection: Connection, make: Callable[[], Any], protocol: int
) -> None:
    """An object pickles by itself, for a queue or a cache, and comes out new."""
    obj = store(connection, make())
    made = pickle.loads(pickle.dumps(obj, protocol))
    assert type(made) is type(obj)
    assert made.__getstate__() == obj.__getstate__()
    assert made._p_oid is None


def test_cycles_are_collected() -> None:
    """New objects that refer to each other are garbage like any others."""
    obj = Plain()
    obj.child = Plain(parent=obj)
    alive = weakref.ref(obj)
    del obj
    gc.collect()
    assert alive() is None


def test_stored_cycles_are_collected(connection: Connection) -> None:
    """Stored objects that refer to each other go once they are evicted."""
    obj = Plain()
    obj.child = Plain(parent=obj)
    store(connection, obj)
    alive = weakref.ref(obj)
    obj.child.parent
    connection.get_root()._p_set_status_ghost()
    connection.set_cache_size(0)
    connection.commit()
    del obj
    gc.collect()
    assert alive() is None


def test_a_connection_is_collected_with_its_objects() -> None:
    """A connection that nobody holds goes, with all it has loaded and changed."""
    connection = Connection(MemoryStorage())
    obj = store(connection, Plain(x=1))
    obj.x = 2
    alive = [weakref.ref(connection), weakref.ref(obj)]
    del connection, obj
    gc.collect()
    assert [ref() for ref in alive] == [None, None]


def test_an_object_keeps_its_connection() -> None:
    """An object that outlives every other mention of its connection still loads."""
    obj = store(Connection(MemoryStorage()), Plain(x=1))
    gc.collect()
    assert obj.x == 1
    obj.x = 2
    obj._p_connection.commit()
    obj._p_set_status_ghost()
    assert obj.x == 2


def test_an_object_of_a_closed_connection() -> None:
    """After close() an object says that its connection is closed, ghost or loaded."""
    connection = Connection(MemoryStorage())
    obj, ghost = Plain(x=1), Plain(x=2)
    connection.get_root()["pair"] = obj, ghost
    connection.commit()
    ghost._p_set_status_ghost()
    connection.close()
    for each in (obj, ghost):
        with pytest.raises(ConnectionClosedError):
            each.x
        with pytest.raises(ConnectionClosedError):
            each.x = 3
    assert repr(obj).startswith("<Plain")


def test_long_chains_are_stored_and_freed(connection: Connection) -> None:
    """A chain of objects longer than any stack is stored, walked and freed."""
    head = None
    for _ in range(20_000):
        head = Plain(next=head)
    connection.get_root()["head"] = head
    connection.commit()
    count, step = 0, head
    while step is not None:
        count, step = count + 1, step.next
    assert count == 20_000
    del head
    connection.get_root()["head"] = None
    connection.set_cache_size(0)
    connection.commit()
    gc.collect()
    assert connection.get_cache_count() == 1


# -- ComputedAttribute


def test_a_computed_attribute_is_computed_once(connection: Connection) -> None:
    """The value is computed when asked for, kept, and neither stored nor a change."""
    calls: list[int] = []

    def compute() -> int:
        calls.append(1)
        return 5

    obj = ComputedAttribute()
    connection.get_root()["c"] = obj
    connection.commit()
    assert [obj.get(compute), obj.get(compute)] == [5, 5]
    assert len(calls) == 1
    assert not connection.changed
    assert Connection(connection.get_storage()).get_root()["c"].get(compute) == 5
    assert len(calls) == 2


def test_invalidate_makes_others_compute_anew(connection: Connection) -> None:
    """invalidate() forgets the value here, and is stored so that others learn of it."""
    obj = ComputedAttribute()
    connection.get_root()["c"] = obj
    connection.commit()
    assert obj.get(lambda: 1) == 1
    obj.invalidate()
    assert list(connection.changed) == [obj._p_oid]
    assert obj.get(lambda: 2) == 2
    connection.commit()
    obj.invalidate()
    obj.invalidate()


def test_a_computation_that_fails_keeps_nothing(connection: Connection) -> None:
    """What the computation raises passes through, and the next one is tried."""
    obj = store(connection, ComputedAttribute())
    with pytest.raises(ZeroDivisionError):
        obj.get(lambda: 1 // 0)
    with pytest.raises(AttributeError):
        obj.get(lambda: None.missing)  # type: ignore[attr-defined]
    assert obj.get(lambda: 3) == 3


# -- the bases


def test_bases_can_be_made_directly() -> None:
    """The bare classes can be made, used and dropped."""
    for cls in (Persistent, PersistentObject, PersistentBase):
        obj = cls()
        assert obj._p_status == UNSAVED
        with pytest.raises(AttributeError):
            obj.missing  # type: ignore[union-attr]
    assert issubclass(Connection, ConnectionBase)


def test_layouts_that_cannot_be_joined() -> None:
    """A persistent class cannot be a dict as well; Python says so."""
    with pytest.raises(TypeError):
        type("Bad", (Persistent, dict), {})
