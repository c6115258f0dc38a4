"""Scripts whose results must be the same under Durus 4.3 and under ours.

Each function whose name begins with `clause_` is one: it takes an empty directory and gives JSON
values. An exception that is part of a result is shown with the names of all its classes: those of
4.3 must be among ours, so that `except` clauses written for 4.3 still catch.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from compat_model import (
    Employee,
    Loose,
    Mixed,
    Person,
    Plain,
    Point,
    Point3,
    Registry,
    Shelf,
    Vault,
)

from durus.btree import BNode4, BTree
from durus.connection import ROOT_OID, Connection, gen_every_instance, touch_every_reference
from durus.error import ConflictError
from durus.file_storage import FileStorage, TempFileStorage
from durus.file_storage2 import FileStorage2
from durus.persistent import (
    GHOST,
    SAVED,
    UNSAVED,
    ComputedAttribute,
    Persistent,
    PersistentBase,
    PersistentObject,
)
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet
from durus.serialize import ObjectReader, ObjectWriter, pack_record, split_oids, unpack_record
from durus.storage import (
    MemoryStorage,
    Storage,
    gen_oid_class,
    gen_referring_oid_record,
    get_census,
    get_reference_index,
)
from durus.utils import int8_to_str, str_to_int8

# The first bytes of the file are those of any FileStorage.
FILE_STORAGES: list[type[Any]] = [FileStorage, FileStorage2]


def show(value: Any) -> Any:
    """Give a JSON value that says what `value` is, without loading a persistent object."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if isinstance(value, PersistentBase):
        return ["persistent", type(value).__name__]
    if isinstance(value, type):
        return ["class", value.__name__]
    if isinstance(value, dict):
        return ["dict", [[show(key), show(member)] for key, member in value.items()]]
    if isinstance(value, (set, frozenset)):
        return [type(value).__name__, sorted((show(member) for member in value), key=repr)]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [show(member) for member in value]]
    if isinstance(value, Iterator):
        return ["iterated", [show(member) for member in value]]
    if isinstance(value, Iterable):
        return ["iterable", [show(member) for member in value]]
    return ["other", repr(value) if isinstance(value, float) else type(value).__name__]


def outcome(function: Callable[[], Any]) -> Any:
    """Give what a call returns, or the classes of what it raises."""
    try:
        return {"returns": show(function())}
    except Exception as error:  # noqa: BLE001 - it is the result
        return {"raises": [cls.__name__ for cls in type(error).__mro__[:-2]]}


def memory() -> Connection:
    return Connection(MemoryStorage())


def stored(obj: Any) -> tuple[Connection, Any]:
    """Commit an object and give it as a ghost of a new connection."""
    storage = MemoryStorage()
    connection = Connection(storage)
    connection.get_root()["it"] = obj
    connection.commit()
    again = Connection(storage)
    return again, again.get_root()["it"]


def status(obj: Any) -> int:
    found: int = obj._p_status
    return found


# -- the states of an object -------------------------------------------------------------------


def clause_constants(directory: str) -> Any:
    """The states have the numbers of 4.3."""
    return [GHOST, SAVED, UNSAVED, show(ROOT_OID)]


def clause_a_new_object(directory: str) -> Any:
    """A new object is unsaved and has neither oid nor connection."""
    objects: list[Any] = [
        Person("x"),
        Point(),
        Loose(),
        PersistentDict(),
        PersistentList(),
        PersistentSet(),
        BTree(),
    ]
    return [
        [
            status(obj),
            obj._p_oid,
            obj._p_connection,
            obj._p_serial,
            obj._p_is_ghost(),
            obj._p_is_saved(),
            obj._p_is_unsaved(),
        ]
        for obj in objects
    ]


def clause_states_through_a_life(directory: str) -> Any:
    """New, committed, changed, aborted, loaded, changed, committed, evicted by hand."""
    connection = memory()
    person = Person("Ada")
    seen = [status(person)]
    connection.get_root()["person"] = person
    seen.append(status(person))
    connection.commit()
    seen.append([status(person), str_to_int8(person._p_oid), person._p_connection is connection])
    person.name = "Grace"
    seen.append(status(person))
    connection.abort()
    seen.append([status(person), person.name, status(person)])
    del person.name
    seen.append([status(person), hasattr(person, "name")])
    connection.commit()
    seen.append([status(person), vars(person)])
    person._p_set_status_ghost()
    seen.append([status(person), vars(person), status(person)])
    return seen


def clause_what_loads_a_ghost(directory: str) -> Any:
    """`_p_*`, `__repr__`, `__class__` and `__setstate__` load nothing; other attributes do."""
    touches: dict[str, Callable[[Any], Any]] = {
        "_p_oid": lambda obj: obj._p_oid,
        "_p_status": lambda obj: obj._p_status,
        "_p_serial": lambda obj: obj._p_serial,
        "_p_connection": lambda obj: obj._p_connection,
        "_p_is_ghost": lambda obj: obj._p_is_ghost(),
        "_p_format_oid": lambda obj: obj._p_format_oid(),
        "_p_missing": lambda obj: getattr(obj, "_p_missing", None),
        "hasattr _p_": lambda obj: hasattr(obj, "_p_jar"),
        "repr": repr,
        "str": str,
        "format": lambda obj: f"{obj}",
        "__repr__": lambda obj: obj.__repr__,
        "__class__": lambda obj: obj.__class__,
        "isinstance": lambda obj: isinstance(obj, Person),
        "isinstance of another": lambda obj: isinstance(obj, PersistentDict),
        "type": type,
        "id": lambda obj: id(obj) and None,
        "hash": lambda obj: hash(obj) and None,
        "is": lambda obj: obj is None,
        "==": lambda obj: obj == 1,
        "bool": bool,
        "__setstate__": lambda obj: obj.__setstate__,
        "__getstate__": lambda obj: obj.__getstate__,
        "__dict__": lambda obj: obj.__dict__,
        "vars": vars,
        "__doc__": lambda obj: obj.__doc__,
        "__eq__": lambda obj: obj.__eq__,
        "__str__": lambda obj: obj.__str__,
        "__slots__": lambda obj: getattr(obj, "__slots__", None),
        "__init__": lambda obj: obj.__init__,
        "__len__": lambda obj: getattr(obj, "__len__", None),
        "name": lambda obj: obj.name,
        "title": lambda obj: obj.title,
        "missing": lambda obj: getattr(obj, "missing", None),
        "hasattr": lambda obj: hasattr(obj, "name"),
        "dir": dir,
        "set": lambda obj: setattr(obj, "name", "changed"),
        "set new": lambda obj: setattr(obj, "new", 1),
        "del": lambda obj: delattr(obj, "name"),
        "_p_note_change": lambda obj: obj._p_note_change(),
        "_p_load_state": lambda obj: obj._p_load_state(),
        "_p_set_status_saved": lambda obj: obj._p_set_status_saved(),
        "_p_set_status_unsaved": lambda obj: obj._p_set_status_unsaved(),
        "_p_set_status_ghost": lambda obj: obj._p_set_status_ghost(),
    }
    results = {}
    for name, touch in touches.items():
        connection, person = stored(Person("Ada"))
        before = connection.get_load_count()
        touch(person)
        results[name] = [
            status(person),
            connection.get_load_count() - before,
            person._p_serial == connection.transaction_serial,
            [status(member) for member in (connection.get_root(),)],
        ]
    return results


def clause_what_loads_a_ghost_with_slots(directory: str) -> Any:
    """The same for an object with slots."""
    touches: dict[str, Callable[[Any], Any]] = {
        "_p_oid": lambda obj: obj._p_oid,
        "repr": repr,
        "__class__": lambda obj: obj.__class__,
        "x": lambda obj: obj.x,
        "unset": lambda obj: getattr(obj, "y", "unset"),
        "set": lambda obj: setattr(obj, "x", 5),
        "set unset": lambda obj: setattr(obj, "y", 5),
        "no such slot": lambda obj: outcome(lambda: setattr(obj, "q", 5)),
        "del": lambda obj: delattr(obj, "x"),
        "del unset": lambda obj: outcome(lambda: delattr(obj, "y")),
    }
    results = {}
    for name, touch in touches.items():
        point = Point()
        point.x = [1]
        _, ghost = stored(point)
        results[name] = [show(touch(ghost)) if name != "repr" else None, status(ghost)]
    return results


def clause_access_of_a_saved_object_counts(directory: str) -> Any:
    """An access marks the object as used in this transaction; `_p_*` and repr do not."""
    connection, person = stored(Person("Ada"))
    seen = []
    for touch in (repr, lambda obj: obj._p_oid, lambda obj: obj.__class__, lambda obj: obj.name):
        for _ in range(2):
            person.name
            connection.commit()
            before = person._p_serial == connection.transaction_serial
            touch(person)
            seen.append([before, person._p_serial == connection.transaction_serial])
    return seen


def clause_in_place_changes_are_not_noticed(directory: str) -> Any:
    """A change inside a plain container counts only after `_p_note_change()`."""
    connection, person = stored(Person("Ada", letters=["a"]))
    person.letters.append("b")
    seen = [status(person), show(person.letters)]
    connection.abort()
    seen += [status(person), show(person.letters)]
    person._p_note_change()
    seen += [status(person), show(person.letters)]
    connection.abort()
    seen += [status(person), show(person.letters)]
    return seen


def clause_init_is_not_called_on_load(directory: str) -> Any:
    """Loading sets the state; `__init__` ran once, when the object was made."""
    calls = []
    original = Person.__init__

    def counting(self: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(args)
        original(self, *args, **kwargs)

    Person.__init__ = counting
    try:
        _, person = stored(Person("Ada"))
        return [person.name, len(calls)]
    finally:
        Person.__init__ = original


def clause_setstate_and_getstate(directory: str) -> Any:
    """What a class's own `__getstate__` gives is stored, and comes back to its `__setstate__`."""
    connection, vault = stored(Vault("sesame"))
    seen: list[Any] = [vault.secret, vault.opened, status(vault), show(vault.__getstate__())]
    vault.opened = 7
    connection.commit()
    seen += [vault.opened, status(vault)]
    vault._p_set_status_ghost()
    return [*seen, vault.opened]


def clause_getstate_of_each_kind(directory: str) -> Any:
    """The states that are stored have the shapes of 4.3."""
    point, unset, deep = Point(), Point(), Point3()
    point.x, deep.y, deep.z = 1, 2, 3
    loose = Loose()
    loose.anything = 1
    registry = Registry({"a": 1})
    tree = BTree(BNode4)
    tree["key"] = "value"
    objects = [
        Person("Ada"),
        point,
        unset,
        deep,
        loose,
        Mixed(1),
        Shelf(),
        PersistentDict(a=1),
        PersistentList([1]),
        PersistentSet([1]),
        registry,
        tree,
        tree.root,
        ComputedAttribute(),
        Employee("Bob", [1]).total,
    ]
    states = [obj.__getstate__() for obj in objects]
    # In which order the slots stand is nobody's business.
    return [show(dict(sorted(s.items())) if isinstance(s, dict) else s) for s in states]


def clause_setstate_replaces_or_adds(directory: str) -> Any:
    """`__setstate__` on a live object, with an empty state, a new one and a partial one."""
    person = Person("Ada", born=1815)
    point = Point()
    point.x = 1
    seen: list[Any] = []
    for obj, states in (
        (person, [{"name": "Grace"}, {}, {"x": 1, "name": "Eve"}]),
        (point, [{"y": 2}, {}, {"x": 3}]),
    ):
        for state in states:
            obj.__setstate__(state)
            seen.append(show(dict(sorted(obj.__getstate__().items()))))
    return seen


def clause_set_status_by_hand(directory: str) -> Any:
    """`_p_set_status_*` on a saved object, and what a commit then stores."""
    connection, person = stored(Person("Ada"))
    person.name
    person._p_set_status_unsaved()
    seen: list[Any] = [status(person)]
    connection.commit()
    seen.append(status(person))
    person.name = "Grace"
    person._p_set_status_saved()
    seen.append([status(person), person.name])
    person._p_set_status_ghost()
    seen.append([status(person), "name" in vars(person)])
    return seen


def clause_a_change_that_is_made_a_ghost_is_forgotten(directory: str) -> Any:
    """`_p_set_status_ghost()` on a changed object gives up its change."""
    _, person = stored(Person("Ada"))
    person.name = "Grace"
    person._p_set_status_ghost()
    return [status(person), person.name, status(person)]


def clause_computed_attribute(directory: str) -> Any:
    """A ComputedAttribute computes once, stores nothing, and computes anew after `invalidate()`."""
    connection, employee = stored(Employee("Bob", [1, 2]))
    calls: list[int] = []

    def compute() -> int:
        calls.append(1)
        return sum(employee.wages)

    seen: list[Any] = [employee.total.get(compute), employee.total.get(compute), len(calls)]
    seen.append([status(employee), status(employee.total)])
    employee.wages = [5]
    seen.append([employee.total.get(compute), len(calls)])
    employee.total.invalidate()
    seen.append([status(employee.total), employee.total.get(compute), len(calls)])
    connection.commit()
    seen.append([status(employee.total), employee.total.get(compute), len(calls)])
    connection.abort()
    employee.total._p_set_status_ghost()
    seen.append([status(employee.total), employee.total.get(compute), status(employee.total)])
    return seen


def clause_classes_and_metaclasses(directory: str) -> Any:
    """Persistent has the metaclass `type`, and the bases that programs ask for."""
    from collections.abc import MutableMapping, MutableSequence, MutableSet

    instance = Mixed(2)
    return [
        type(Persistent) is type,
        type(PersistentObject) is type,
        type(PersistentBase) is type,
        issubclass(Persistent, PersistentObject) and issubclass(PersistentObject, PersistentBase),
        isinstance(PersistentDict(), MutableMapping),
        isinstance(PersistentList(), MutableSequence),
        isinstance(PersistentSet(), MutableSet),
        isinstance(BTree(), MutableMapping),
        isinstance(Shelf(), MutableMapping),
        isinstance(instance, Plain) and instance.twice() == 4,
        [issubclass(kind, dict) for kind in (PersistentDict, Registry, BTree)],
        hasattr(PersistentObject(), "__dict__"),
        hasattr(Persistent(), "__dict__"),
        hasattr(Point(), "__dict__"),
        hasattr(PersistentDict(), "__dict__"),
        hasattr(Registry(), "__dict__"),
    ]


def clause_attributes_that_begin_with_p(directory: str) -> Any:
    """An attribute `_p_...` of the application's own is no change."""
    connection, person = stored(Person("Ada"))
    person.name
    person._p_mine = 1
    seen: list[Any] = [status(person), person._p_mine]
    person._v_mine = 2
    seen.append(status(person))
    connection.commit()
    again = Connection(connection.get_storage()).get_root()["it"]
    return [*seen, sorted(vars(again))]


def clause_protocol_attributes_are_checked(directory: str) -> Any:
    """`_p_oid` and its kin take only what they are for."""
    person = Person("Ada")
    return [
        outcome(lambda: setattr(person, "_p_connection", 1)),
        outcome(lambda: setattr(person, "_p_status", "ghost")),
        outcome(lambda: setattr(person, "_p_serial", "1")),
        outcome(lambda: setattr(person, "_p_oid", 1.5)),
        outcome(lambda: setattr(person, "_p_oid", b"12345678")),
        outcome(lambda: setattr(person, "_p_oid", None)),
        outcome(lambda: setattr(person, "_p_connection", None)),
    ]


def clause_copies(directory: str) -> Any:
    """`copy.copy` of containers, and their own `copy()`."""
    dictionary = PersistentDict(a=[1])
    members = PersistentSet([1, 2])
    registry = Registry(a=1)
    results = []
    for copied, original in (
        (dictionary.copy(), dictionary),
        (copy.copy(dictionary), dictionary),
        (members.copy(), members),
        (registry.copy(), registry),
        (copy.copy(PersistentList([1])), None),
    ):
        results.append(
            [type(copied).__name__, show(copied), copied is original, copied == original]
        )
    results.append(dictionary.copy()["a"] is dictionary["a"])
    return results


# -- the connection ----------------------------------------------------------------------------


def clause_the_root_is_made_at_once(directory: str) -> Any:
    """Making a Connection on an empty storage makes and commits the root."""
    storage = MemoryStorage()
    connection = Connection(storage)
    root = connection.get_root()
    return [
        type(root).__name__,
        str_to_int8(root._p_oid),
        [str_to_int8(oid) for oid, _ in storage.gen_oid_record()],
        len(root),
        connection.get_root() is root,
        connection[ROOT_OID] is root,
        Connection(MemoryStorage(), root_class=Person.__mro__[1]).get_root().__class__.__name__,
        type(Connection(MemoryStorage(), 10, BTree).get_root()).__name__,
        connection.get_storage() is storage,
    ]


def clause_a_str_is_a_file(directory: str) -> Any:
    """`Connection("name")` opens a FileStorage of that name."""
    path = os.path.join(directory, "by-name.durus")
    connection = Connection(path)
    connection.get_root()["x"] = 1
    connection.commit()
    storage: Any = connection.get_storage()
    seen = [type(storage).__name__, storage.get_filename() == path]
    storage.close()
    storage = FileStorage(path)
    seen.append(Connection(storage).get_root()["x"])
    storage.close()
    return seen


def clause_get(directory: str) -> Any:
    """`get` takes an oid as a number or as bytes, and gives the one object of it, or None."""
    connection = memory()
    root = connection.get_root()
    root["person"] = person = Person("Ada")
    connection.commit()
    again = Connection(connection.get_storage())
    same = again.get(1)
    return [
        connection.get(0) is root,
        connection.get(1) is person,
        connection.get(ROOT_OID) is root,
        connection.get(int8_to_str(1)) is person,
        connection[int8_to_str(1)] is person,
        connection.get(2),
        connection.get(int8_to_str(77)),
        connection.get(2**64 - 2),
        status(same),
        same is again.get_root()["person"],
        same is again.get(int8_to_str(1)),
        same is person,
    ]


def clause_identity_by_oid(directory: str) -> Any:
    """An oid is one object in memory, however it is reached, for as long as it lives."""
    person = Person("Ada")
    person.me = person
    connection, again = stored({"a": person, "b": [person], person: "key"})
    return [
        again["a"] is again["b"][0],
        again["a"] is again["a"].me,
        again["a"] in again,
        again["a"] is connection.get(again["a"]._p_oid),
    ]


def clause_transaction_serial(directory: str) -> Any:
    """It grows by one with each commit or abort, whether or not there are changes."""
    connection = memory()
    start = connection.get_transaction_serial()
    seen = [start, connection.transaction_serial == start]
    connection.commit()
    seen.append(connection.transaction_serial - start)
    connection.abort()
    seen.append(connection.transaction_serial - start)
    connection.get_root()["x"] = 1
    connection.commit()
    seen.append(connection.transaction_serial - start)
    connection.get_root()["x"] = 2
    connection.abort()
    seen.append(connection.transaction_serial - start)
    connection.pack()
    seen.append(connection.transaction_serial - start)
    reopened = Connection(connection.get_storage())
    return [*seen, reopened.transaction_serial]


def clause_abort(directory: str) -> Any:
    """It takes back the changes of stored objects; those never stored keep their attributes."""
    connection = memory()
    root = connection.get_root()
    root["old"] = old = Person("old")
    connection.commit()
    new = Person("new")
    old.name, old.new = "changed", new
    root["new"] = new
    connection.abort()
    return [
        status(old),
        status(new),
        new.name,
        new._p_oid,
        new._p_connection,
        old.name,
        hasattr(old, "new"),
        "new" in root,
        status(root),
    ]


def clause_commit_stores_what_is_reachable(directory: str) -> Any:
    """New objects that a changed one reaches are stored, through plain containers too."""
    connection = memory()
    chain = last = Person("0")
    for number in range(1, 5):
        last.next = [{"here": (Person(str(number)),)}]
        last = last.next[0]["here"][0]
    lost = Person("lost")
    connection.get_root()["chain"] = chain
    connection.commit()
    names = sorted(obj.name for obj in gen_every_instance(connection, Person))
    return [names, lost._p_oid, status(lost), status(last), last._p_oid is not None]


def clause_an_unreachable_change_is_stored(directory: str) -> Any:
    """A stored object that was changed is stored even if the same commit unlinks it."""
    connection, person = stored(Person("Ada"))
    person.name = "Grace"
    del connection.get_root()["it"]
    connection.commit()
    return Connection(connection.get_storage()).get(1).name


def clause_an_object_of_another_connection(directory: str) -> Any:
    """A reference to it is a ValueError, and the commit can be given up."""
    one, two = memory(), memory()
    one.get_root()["person"] = Person("Ada")
    one.commit()
    two.get_root()["stranger"] = one.get_root()["person"]
    result = outcome(two.commit)
    two.abort()
    return [result, "stranger" in two.get_root(), status(one.get_root()["person"])]


def clause_failed_commit_leaves_changes(directory: str) -> Any:
    """After a commit that could not pickle, the objects are still unsaved."""
    connection = memory()
    root = connection.get_root()
    root["bad"] = lambda: None
    result = outcome(connection.commit)
    return ["raises" in result, status(root), "bad" in root]


def clause_cache_methods(directory: str) -> Any:
    """The sizes and counts that programs watch."""
    connection = Connection(MemoryStorage(), 50)
    seen: list[Any] = [connection.get_cache_size()]
    connection.set_cache_size(20)
    seen.append(connection.get_cache_size())
    root = connection.get_root()
    for number in range(100):
        root[number] = Person(str(number))
    connection.commit()
    seen.append(sorted({status(person) for person in root.values()}))
    connection.commit()
    connection.commit()
    connection.shrink_cache()
    ghosts = sum(person._p_is_ghost() for person in root.values())
    return [*seen, ghosts >= 70, outcome(lambda: connection.set_cache_size(0))]


def clause_unsaved_objects_are_not_evicted(directory: str) -> Any:
    """Shrinking the cache never takes what this transaction changed or used."""
    connection = Connection(MemoryStorage(), 1)
    root = connection.get_root()
    for number in range(10):
        root[number] = Person(str(number))
    connection.commit()
    for number in range(5):
        root[number].name = "changed"
    for number in range(5, 8):
        root[number].name
    connection.shrink_cache()
    return [status(root[number]) for number in range(8)]


def clause_load_count(directory: str) -> Any:
    """Each state that is unpickled counts one."""
    connection, people = stored([Person("a"), Person("b")])
    start = connection.get_load_count()
    people[0].name
    people[0].name
    first = connection.get_load_count() - start
    people[1].name
    return [first, connection.get_load_count() - start]


def clause_stored_pickle(directory: str) -> Any:
    """`get_stored_pickle` gives the data of the record; a missing oid is a KeyError."""
    connection, _ = stored(Person("Ada"))
    data = connection.get_stored_pickle(int8_to_str(1))
    state = ObjectReader(connection).get_state(data)
    ghost = ObjectReader(connection).get_ghost(data)
    return [
        show(state),
        type(ghost).__name__,
        status(ghost),
        data == unpack_record(connection.get_storage().load(int8_to_str(1)))[1],
        outcome(lambda: connection.get_stored_pickle(int8_to_str(99))),
    ]


def clause_missing_oids(directory: str) -> Any:
    """A missing oid is a KeyError of every storage, and None of every connection."""
    results: list[Any] = []
    missing = int8_to_str(12345)
    for storage in _each_storage(directory):
        connection = Connection(storage)
        results.append([outcome(lambda storage=storage: storage.load(missing))])
        results.append(connection.get(missing))
        storage.close()
    return results


def clause_crawler(directory: str) -> Any:
    """The crawler gives every reachable object once, loaded, and nothing of the garbage."""
    connection, _ = stored([Person("a"), PersistentList([Person("b")]), Person("c")])
    found = list(connection.get_crawler())
    inner = list(connection.get_crawler(start_oid=int8_to_str(2)))
    return [
        sorted([type(obj).__name__, status(obj)] for obj in found),
        sorted(type(obj).__name__ for obj in inner),
        len(list(connection.get_crawler(batch_size=1))),
    ]


def clause_instances_of_classes(directory: str) -> Any:
    """`gen_every_instance` gives the objects of classes and of their subclasses."""
    connection, _ = stored([Person("a"), Registry(), PersistentDict(), Point3(), BTree()])

    def names(*classes: type) -> list[str]:
        return sorted(type(obj).__name__ for obj in gen_every_instance(connection, *classes))

    return [
        names(Person),
        names(PersistentDict),
        names(Point),
        names(Person, BTree),
        names(PersistentObject),
    ]


def clause_touch_every_reference(directory: str) -> Any:
    """The objects whose records mention a word are changed, so that a commit stores them anew."""
    results = []
    for word in ("Person", "Registry", "nobody", "Ada", "xyzzy"):
        connection, _ = stored([Person("Ada"), Registry(), PersistentList([Person("b")])])
        touch_every_reference(connection, word)
        results.append(sorted(str_to_int8(oid) for oid in connection.changed))
    return results


def clause_walks_of_a_storage(directory: str) -> Any:
    """The walks of durus.storage on a graph with garbage."""
    results = []
    for storage in _each_storage(directory):
        connection = Connection(storage)
        root = connection.get_root()
        root["list"] = PersistentList([Person("a"), Person("b")])
        connection.commit()
        root["list"] = root["list"][0]
        connection.commit()
        index = get_reference_index(storage)
        results.append(
            [
                _without_commit_records(get_census(storage)),
                sorted(
                    [str_to_int8(oid), name.decode()]
                    for oid, name in gen_oid_class(storage, b"Person", b"PersistentDict")
                ),
                sorted([str_to_int8(oid), len(referrers)] for oid, referrers in index.items()),
                sorted(
                    str_to_int8(oid) for oid, _ in gen_referring_oid_record(storage, int8_to_str(2))
                ),
                sorted(str_to_int8(oid) for oid, _ in storage.gen_oid_record(start_oid=ROOT_OID)),
            ]
        )
        storage.close()
    return results


# -- storages ----------------------------------------------------------------------------------


def clause_garbage_is_listed(directory: str) -> Any:
    """The file storages' `gen_oid_record()` without a start includes garbage, until a pack."""
    results: list[Any] = []
    for storage in _each_file_storage(directory):
        connection = Connection(storage)
        connection.get_root()["x"] = Person("garbage")
        connection.commit()
        del connection.get_root()["x"]
        connection.commit()
        for _ in range(2):
            results.append(sorted(str_to_int8(oid) for oid, _ in storage.gen_oid_record()))
            connection.pack()
        storage.close()
    return results


def clause_new_oids_across_packs(directory: str) -> Any:
    """An oid that was handed out is not handed out again, not even after a pack."""
    results: list[Any] = []
    for storage in _each_file_storage(directory):
        connection = Connection(storage)
        handed = [storage.new_oid() for _ in range(3)]
        connection.get_root()["x"] = Person("garbage")
        connection.commit()
        del connection.get_root()["x"]
        connection.commit()
        connection.pack()
        after = [storage.new_oid() for _ in range(6)]
        stored_oids = {oid for oid, _ in storage.gen_oid_record()}
        results.append([len(set(handed + after)), bool(stored_oids & set(handed + after))])
        storage.close()
    return results


def clause_objects_that_a_pack_removed(directory: str) -> Any:
    """In the transaction after the pack they are ghosts, and an access is a ReadConflictError."""
    storage = FileStorage(os.path.join(directory, "packed.durus"))
    connection = Connection(storage)
    root = connection.get_root()
    root["person"] = person = Person("removed")
    root["kept"] = kept = Person("kept")
    connection.commit()
    del root["person"]
    connection.commit()
    connection.pack()
    connection.abort()
    seen = [status(person), outcome(lambda: person.name), kept.name]
    connection.abort()
    return [*seen, status(person), kept.name]


def clause_two_storages_on_one_file(directory: str) -> Any:
    """The second that would write is refused with an OSError; one that reads is not."""
    results = []
    for kind in FILE_STORAGES:
        path = os.path.join(directory, kind.__name__)
        writer = kind(path)
        Connection(writer)
        results.append(outcome(lambda kind=kind, path=path: kind(path)))
        reader = kind(path, readonly=True)
        results.append(len(list(reader.gen_oid_record())) > 0)
        reader.close()
        writer.close()
        results.append(type(kind(path)).__name__)
    return results


def clause_writing_to_a_read_only_storage(directory: str) -> Any:
    """A commit of changes to a storage that was opened read-only is refused."""
    results = []
    for kind in FILE_STORAGES:
        path = os.path.join(directory, kind.__name__)
        storage = kind(path)
        Connection(storage)
        storage.close()
        readonly = kind(path, readonly=True)
        connection = Connection(readonly)
        connection.get_root()["x"] = 1
        results.append("raises" in outcome(connection.commit))
        results.append(
            "raises" in outcome(lambda kind=kind, path=path: kind(f"{path}-no", readonly=True))
        )
        readonly.close()
    return results


def clause_temporary_files(directory: str) -> Any:
    """Without a name a storage keeps its records in a file that goes with it."""
    results = []
    for storage in (FileStorage(), TempFileStorage(), FileStorage2()):
        connection = Connection(storage)
        connection.get_root()["x"] = 1
        connection.commit()
        if isinstance(storage, FileStorage):  # 4.3 does not pack a temporary FileStorage2
            connection.pack()
        results.append(Connection(storage).get_root()["x"])
        storage.close()
    return results


def clause_names_of_files(directory: str) -> Any:
    """`get_filename`, and the file that a pack leaves beside."""
    results: list[Any] = []
    for kind in FILE_STORAGES:
        path = os.path.join(directory, kind.__name__)
        storage = kind(path)
        connection = Connection(storage)
        connection.get_root()["x"] = 1
        connection.commit()
        connection.pack()
        results.append([storage.get_filename() == path, os.path.exists(f"{path}.prepack")])
        results.append(os.path.exists(f"{path}.pack"))
        storage.close()
    return results


def clause_packing_in_steps(directory: str) -> Any:
    """Commits may go on between the steps of a pack, and are kept."""
    results = []
    for storage in _each_file_storage(directory):
        connection = Connection(storage)
        root = connection.get_root()
        root["people"] = PersistentList(Person(str(number)) for number in range(100))
        connection.commit()
        for number, _ in enumerate(storage.get_packer()):
            root[f"during {number}"] = Person(f"during {number}")
            root["people"].append(Person(f"appended {number}"))
            connection.commit()
        root["after"] = Person("after")
        connection.commit()
        again = Connection(storage).get_root()
        expected = {key: getattr(value, "name", None) for key, value in root.items()}
        found = {key: getattr(value, "name", None) for key, value in again.items()}
        results.append([found == expected, len(again["people"]) == len(root["people"])])
        storage.close()
    return results


def clause_a_storage_of_the_applications_own(directory: str) -> Any:
    """A subclass of Storage with the six methods of 4.3 serves a Connection."""
    storage = SharedStorage(SharedRecords())
    connection = Connection(storage)
    connection.get_root()["x"] = Person("Ada")
    connection.commit()
    return [
        Connection(storage).get_root()["x"].name,
        sorted(str_to_int8(oid) for oid, _ in storage.gen_oid_record()),
        [str_to_int8(unpack_record(record)[0]) for record in storage.bulk_load([ROOT_OID])],
    ]


def clause_records_by_hand(directory: str) -> Any:
    """pack_record, unpack_record and split_oids take and give what they did."""
    oid, refs = int8_to_str(7), int8_to_str(1) + int8_to_str(2)
    record = pack_record(oid, b"data", refs)
    return [
        show(record),
        show(list(unpack_record(record))),
        show(list(split_oids(refs))),
        show(list(split_oids(b""))),
    ]


def clause_object_writer(directory: str) -> Any:
    """`ObjectWriter.get_state` gives data and references, which ObjectReader takes."""
    connection, person = stored(Person("Ada", friend=PersistentDict(), me=None))
    person.me = person
    writer = ObjectWriter(connection)
    data, refs = writer.get_state(person)
    writer.close()
    return [
        [str_to_int8(oid) for oid in split_oids(refs)],
        show(ObjectReader(connection).get_state(data)),
        type(ObjectReader(connection).get_ghost(data)).__name__,
    ]


# -- conflicts ---------------------------------------------------------------------------------


class SharedRecords:
    """What several SharedStorages share: the records and who has yet to hear of which oids."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.last_oid = -1
        self.sessions: list[SharedStorage] = []


class SharedStorage(Storage):
    """One session on shared records, as simple as 4.3's server and client together."""

    can_pack = False

    def __init__(self, shared: SharedRecords) -> None:
        self._shared = shared
        self._invalid: set[bytes] = set()
        self._pending: dict[bytes, bytes] = {}
        shared.sessions.append(self)

    def load(self, oid: bytes) -> bytes:
        from durus.error import DurusKeyError, ReadConflictError

        if oid in self._invalid:
            raise ReadConflictError([oid])
        if oid not in self._shared.records:
            raise DurusKeyError(oid)
        return self._shared.records[oid]

    def begin(self) -> None:
        self._pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        self._pending[oid] = record

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        if self._invalid and handle_invalidations is not None:
            handle_invalidations(list(self._invalid))
        self._invalid.clear()
        self._shared.records.update(self._pending)
        for session in self._shared.sessions:
            if session is not self:
                session._invalid.update(self._pending)
        self._pending = {}

    def sync(self) -> list[bytes]:
        invalid = sorted(self._invalid)
        self._invalid.clear()
        return invalid

    def new_oid(self) -> bytes:
        self._shared.last_oid += 1
        return int8_to_str(self._shared.last_oid)

    def close(self) -> None:
        self._shared.sessions.remove(self)


def _two_connections() -> tuple[Connection, Connection]:
    shared = SharedRecords()
    one = Connection(SharedStorage(shared))
    root = one.get_root()
    root["a"], root["b"] = Person("a"), Person("b")
    root["tree"] = BTree(BNode4)
    for key in range(60):
        root["tree"][key] = key
    one.commit()
    two = Connection(SharedStorage(shared))
    for connection in (one, two):
        connection.abort()
    return one, two


def _conflict(function: Callable[[], Any]) -> Any:
    try:
        function()
    except ConflictError as error:
        names = [cls.__name__ for cls in type(error).__mro__[:-2]]
        return {"raises": names, "oids": sorted(str_to_int8(oid) for oid in error.oids)}
    return "no conflict"


def clause_write_conflict_on_a_used_object(directory: str) -> Any:
    """A commit of changes by one that read what another changed is a WriteConflictError."""
    one, two = _two_connections()
    two.get_root()["a"].name
    two.get_root()["b"].name = "changed by two"
    one.get_root()["a"].name = "changed by one"
    one.commit()
    seen = [_conflict(two.commit)]
    two.abort()
    seen.append([two.get_root()["a"].name, two.get_root()["b"].name])
    two.get_root()["b"].name = "again"
    seen.append([_conflict(two.commit), two.get_root()["b"].name])
    return seen


def clause_write_conflict_on_a_changed_object(directory: str) -> Any:
    """Two that change the same object: the second is refused."""
    one, two = _two_connections()
    one.get_root()["a"].name = "one"
    two.get_root()["a"].name = "two"
    one.commit()
    seen = [_conflict(two.commit)]
    two.abort()
    return [*seen, two.get_root()["a"].name]


def clause_a_loaded_object_that_was_not_used_is_no_conflict(directory: str) -> Any:
    """Only access in this transaction counts, not that the object is in memory."""
    one, two = _two_connections()
    held = two.get_root()["a"]
    held.name
    two.commit()
    one.get_root()["a"].name = "one"
    one.commit()
    two.get_root()["b"].name = "two"
    return [_conflict(two.commit), status(held), held.name]


def clause_a_commit_without_changes_never_fails(directory: str) -> Any:
    """Reading only, a transaction ends well whatever others did, and sees the new state."""
    one, two = _two_connections()
    two.get_root()["a"].name
    one.get_root()["a"].name = "one"
    one.commit()
    return [_conflict(two.commit), two.get_root()["a"].name]


def clause_new_objects_after_a_conflict(directory: str) -> Any:
    """They have neither oid nor connection, keep their attributes, and can be committed later."""
    one, two = _two_connections()
    new = Person("new", inner=PersistentDict(x=Person("inner")))
    two.get_root()["a"].name
    two.get_root()["b"].new = new
    one.get_root()["a"].name = "one"
    one.commit()
    seen = [
        _conflict(two.commit),
        new._p_oid,
        new._p_connection,
        new.inner._p_oid,
        new.inner._p_connection,
        status(new),
        new.name,
    ]
    two.abort()
    two.get_root()["b"].new = new
    seen.append(_conflict(two.commit))
    one.abort()
    return [*seen, one.get_root()["b"].new.inner["x"].name]


def clause_disjoint_writes_never_conflict(directory: str) -> Any:
    """Two that read and change different objects both commit."""
    one, two = _two_connections()
    a, b = one.get_root()["a"], two.get_root()["b"]
    for connection in (one, two):
        connection.commit()
    a.name = "one"
    b.name = "two"
    seen = [_conflict(one.commit), _conflict(two.commit)]
    one.abort()
    return [*seen, one.get_root()["a"].name, one.get_root()["b"].name]


def clause_different_leaves_of_a_tree_never_conflict(directory: str) -> Any:
    """Changes of values in different leaves of a BTree both commit."""
    one, two = _two_connections()
    one.get_root()["tree"][1] = "one"
    two.get_root()["tree"][58] = "two"
    seen = [_conflict(one.commit), _conflict(two.commit)]
    one.abort()
    return [*seen, one.get_root()["tree"][1], one.get_root()["tree"][58]]


def clause_read_conflict(directory: str) -> Any:
    """To load what another changed, after using something else that it changed, is a conflict."""
    one, two = _two_connections()
    two.get_root()["a"].name
    ghost = two.get_root()["b"]
    one.get_root()["a"].name = "one"
    one.get_root()["b"].name = "one"
    one.commit()
    seen = [_conflict(lambda: ghost.name)]
    two.abort()
    return [*seen, ghost.name, two.get_root()["a"].name]


def clause_read_of_a_changed_object_alone_is_no_conflict(directory: str) -> Any:
    """To load what another changed is fine while nothing that this transaction used has changed."""
    one, two = _two_connections()
    ghost = two.get_root()["b"]
    two.commit()
    one.get_root()["b"].name = "one"
    one.commit()
    return [_conflict(lambda: ghost.name), ghost.name]


def clause_abort_sees_what_others_committed(directory: str) -> Any:
    """After `abort()` the objects that others changed are loaded anew."""
    one, two = _two_connections()
    seen = [two.get_root()["a"].name]
    one.get_root()["a"].name = "one"
    one.commit()
    seen.append(two.get_root()["a"].name)
    two.abort()
    return [*seen, status(two.get_root()["a"]), two.get_root()["a"].name]


def clause_computed_attributes_of_two_connections(directory: str) -> Any:
    """`invalidate()` and a commit reach the other connection at its next transaction."""
    one, two = _two_connections()
    one.get_root()["a"].total = ComputedAttribute()
    one.commit()
    two.abort()
    seen = [two.get_root()["a"].total.get(lambda: "old")]
    two.commit()
    one.get_root()["a"].total.invalidate()
    one.commit()
    seen.append(two.get_root()["a"].total.get(lambda: "new"))
    two.abort()
    return [*seen, two.get_root()["a"].total.get(lambda: "new")]


# -- helpers -----------------------------------------------------------------------------------


def _each_file_storage(directory: str) -> Iterator[Any]:
    for kind in FILE_STORAGES:
        yield kind(os.path.join(directory, f"{kind.__name__}.each"))


def _each_storage(directory: str) -> Iterator[Any]:
    yield MemoryStorage()
    yield from _each_file_storage(directory)


def _without_commit_records(census: dict[bytes, int]) -> list[Any]:
    return sorted([name.decode(), count] for name, count in census.items())
