"""Scripts with several clients of one server, whose results must not depend on the versions.

Each function takes another one that opens one more ClientStorage at an empty database, and gives
JSON values. Those storages are closed after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from compat_behaviour import outcome, show, status
from compat_corpus import big_bytes
from compat_model import Person

from durus.btree import BTree
from durus.connection import ROOT_OID, Connection, gen_every_instance
from durus.error import ConflictError
from durus.persistent_dict import PersistentDict
from durus.storage import get_census
from durus.utils import int8_to_str, str_to_int8

Open = Callable[[], Any]


def _pair(open_storage: Open, *holders: str) -> tuple[Connection, Connection]:
    """Give two clients that have both read all of a root with these PersistentDicts."""
    one = Connection(open_storage())
    for holder in holders:
        one.get_root()[holder] = PersistentDict(n=0)
    one.commit()
    two = Connection(open_storage())
    for connection in (one, two):
        _read(connection)
    return one, two


def _read(connection: Connection) -> Any:
    """Read everything, which counts for the transaction."""
    root = connection.get_root()
    return sorted([key, sorted(holder.items())] for key, holder in root.items())


def commit(connection: Connection) -> Any:
    """Commit; give "committed", or the kind of conflict and the names of what it is about.

    The names are those in the root, which is not read for this; oids differ between servers.
    """
    try:
        connection.commit()
    except ConflictError as error:
        root = connection.get_root()
        members = root.__getstate__()["data"] if not root._p_is_ghost() else {}
        names = {getattr(member, "_p_oid", None): name for name, member in members.items()}
        return [type(error).__name__, sorted(names.get(oid, "another") for oid in error.oids or ())]
    return "committed"


def commits_are_seen_after_a_boundary(open_storage: Open) -> Any:
    """What one client commits, the other sees after its next commit or abort, not before."""
    one, two = _pair(open_storage, "a", "b")
    seen = []
    for step, end in enumerate([two.abort, two.commit, two.abort, two.commit]):
        one.get_root()["ab"[step % 2]]["n"] = step + 1
        one.commit()
        seen.append(_read(two))
        end()
        seen.append([status(two.get_root()[key]) for key in "ab"])
        seen.append(_read(two))
    return seen


def an_abort_is_seen_by_nobody(open_storage: Open) -> Any:
    """What is aborted is gone for the client itself, and was never there for the other."""
    one, two = _pair(open_storage, "a")
    one.get_root()["a"]["n"] = 1
    one.get_root()["new"] = PersistentDict()
    one.abort()
    two.abort()
    return [_read(one), _read(two), commit(one), commit(two)]


def a_write_conflict(open_storage: Open) -> Any:
    """Who commits second a change of what both changed is told of the object; it can try again."""
    one, two = _pair(open_storage, "a", "b")
    for number, connection in enumerate((one, two)):
        connection.get_root()["a"]["n"] = number + 1
    first, second = commit(one), commit(two)
    two.abort()
    seen = _read(two)
    two.get_root()["a"]["n"] += 10
    third = commit(two)
    one.abort()
    return [first, second, seen, third, _read(one)]


def a_conflict_about_several_objects(open_storage: Open) -> Any:
    """The oids of a conflict are those that were read and have changed, and no others."""
    one, two = _pair(open_storage, "a", "b", "c", "d")
    two.abort()
    for key in "abc":
        one.get_root()[key]["n"] = 1
    one.commit()
    two.get_root()["a"]["n"], two.get_root()["b"]["n"]
    two.get_root()["d"]["n"] = 2
    return commit(two)


def write_skew_is_a_conflict(open_storage: Open) -> Any:
    """Each reads what the other changes: the second is refused."""
    one, two = _pair(open_storage, "a", "b")
    one.get_root()["a"]["n"] = two.get_root()["a"]["n"] + 1
    two.get_root()["b"]["n"] = two.get_root()["a"]["n"] + 1
    return [commit(one), commit(two)]


def disjoint_writes_do_not_conflict(open_storage: Open) -> Any:
    """Clients that read and change different objects commit at the same time, again and again."""
    one, two = _pair(open_storage, "a", "b")
    one.abort()
    two.abort()
    outcomes = []
    for step in range(5):
        one.get_root()["a"]["n"] = step
        two.get_root()["b"]["n"] = -step
        outcomes += [commit(one), commit(two)]
    one.abort()
    return [outcomes, _read(one)]


def leaves_of_a_tree_do_not_conflict(open_storage: Open) -> Any:
    """Different leaves of a BTree are different objects; one leaf is one."""
    one = Connection(open_storage())
    tree = one.get_root()["tree"] = BTree()
    for key in range(1000):
        tree[key] = key
    one.commit()
    two = Connection(open_storage())
    outcomes = []
    for low, high in [(0, 999), (1, 998), (500, 3)]:
        one.get_root()["tree"][low] = -low
        two.get_root()["tree"][high] = -high
        outcomes += [commit(one), commit(two)]
    one.get_root()["tree"][0] = "one"
    two.get_root()["tree"][0] = "two"
    outcomes += [commit(one), commit(two)]
    two.abort()
    return [outcomes, [two.get_root()["tree"][key] for key in (0, 1, 3, 500, 998, 999)]]


def a_commit_without_changes_never_fails(open_storage: Open) -> Any:
    """Whatever was read, and whatever changed meanwhile."""
    one, two = _pair(open_storage, "a")
    one.get_root()["a"]["n"] = 1
    one.commit()
    return [_read(two), commit(two), _read(two)]


def new_objects_after_a_conflict(open_storage: Open) -> Any:
    """They have neither oid nor connection, and are stored when the commit is tried again."""
    one, two = _pair(open_storage, "a")
    person = Person("new", friends=[Person("newer")])
    for number, connection in enumerate((one, two)):
        connection.get_root()["a"]["n"] = number
    two.get_root()["a"]["new"] = person
    outcomes = [commit(one), commit(two)]
    seen = [show(person._p_oid), person._p_connection is None, person.name]
    two.abort()
    two.get_root()["a"]["new"] = person
    outcomes.append(commit(two))
    one.abort()
    again = one.get_root()["a"]["new"]
    return [outcomes, seen, again.name, again.friends[0].name, person._p_connection is two]


def reading_both_sides_of_a_commit(open_storage: Open) -> Any:
    """Nobody reads one object as before a commit of others and another one as after it."""
    one = Connection(open_storage())
    for holder in "ab":
        one.get_root()[holder] = PersistentDict(n=0)
    one.commit()
    two = Connection(open_storage())
    before = two.get_root()["a"]["n"]
    for holder in "ab":
        one.get_root()[holder]["n"] = 1
    one.commit()
    found = outcome(lambda: two.get_root()["b"]["n"])
    two.abort()
    return [before, found, _read(two)]


def what_nobody_has_read_yet_is_new(open_storage: Open) -> Any:
    """At a boundary everything is as of now, what was never loaded included."""
    one = Connection(open_storage())
    for holder in "ab":
        one.get_root()[holder] = PersistentDict(n=0)
    one.commit()
    two = Connection(open_storage())
    seen = [two.get_root()["a"]["n"]]
    for step in range(1, 4):
        for holder in "ab":
            one.get_root()[holder]["n"] = step
        one.commit()
        two.abort()
        seen.append([two.get_root()["b"]["n"], two.get_root()["a"]["n"]])
    return seen


def sync_tells_what_others_changed(open_storage: Open) -> Any:
    """The oids of others' commits, once each; of one's own none."""
    one, two = _pair(open_storage, "a", "b")
    names = {one.get_root()[key]._p_oid: key for key in "ab"}
    seen = []
    for connection in (one, two):
        connection.get_storage().sync()
    for changed in ("a", "b", "ab"):
        for key in changed:
            one.get_root()[key]["n"] += 1
            one.commit()
        told = [connection.get_storage().sync() for connection in (two, two, one)]
        seen.append([sorted(names.get(oid, "another") for oid in oids) for oids in told])
    return seen


def the_root_is_made_once(open_storage: Open) -> Any:
    """The first client makes it at once; it is object 0, and the next client finds it."""
    one, two = Connection(open_storage()), Connection(open_storage())
    return [
        [str_to_int8(each.get_root()._p_oid), type(each.get_root()).__name__] for each in (one, two)
    ]


def an_unknown_oid(open_storage: Open) -> Any:
    """It is a KeyError of the storage and None of the connection, and the client goes on."""
    connection = Connection(open_storage())
    storage = connection.get_storage()
    found = [outcome(lambda: storage.load(int8_to_str(12345))), connection.get(12345)]
    connection.get_root()["x"] = 1
    connection.commit()
    return [*found, show(sorted(connection.get_root().items())), connection.get(0) is not None]


def bulk_loads(open_storage: Open) -> Any:
    """Records come in the order asked for, each as `load` gives it, 1,000 at once and none too."""
    connection = Connection(open_storage())
    root = connection.get_root()
    root["people"] = [Person(f"p{number}") for number in range(1000)]
    connection.commit()
    storage = open_storage()
    oids = [person._p_oid for person in root["people"]]
    orders = [oids, oids[::-1], oids[:1], [], [oids[3]] * 3, [ROOT_OID, *oids[5:9]]]
    loaded = [list(storage.bulk_load(order)) for order in orders]
    return [
        [len(records) for records in loaded],
        [
            [record[:8] for record in records] == list(order)
            for order, records in zip(orders, loaded, strict=True)
        ],
        loaded[0] == [storage.load(oid) for oid in oids],
    ]


def a_bulk_load_that_misses_one(open_storage: Open) -> Any:
    """Whatever else was asked for, it is a KeyError."""
    connection = Connection(open_storage())
    connection.get_root()["people"] = people = [Person(f"p{number}") for number in range(10)]
    connection.commit()
    oids = [person._p_oid for person in people]
    return outcome(lambda: list(open_storage().bulk_load([*oids, int8_to_str(12345)])))


def a_client_goes_on_after_a_bulk_load_that_misses_some(open_storage: Open) -> Any:
    """Whatever the missing ones are followed by, the next answers are those to the next requests.

    In 4.3's client the answers that were not taken come as those to the next requests.
    """
    connection = Connection(open_storage())
    connection.get_root()["people"] = people = [Person(f"p{number}") for number in range(10)]
    connection.commit()
    storage = connection.get_storage()
    oids = [person._p_oid for person in people]
    missing = int8_to_str(12345)
    seen = []
    for order in ([missing], [missing, *oids], [*oids[:5], missing, *oids[5:], missing]):
        seen.append("raises" in outcome(lambda order=order: list(storage.bulk_load(order))))
        seen.append([storage.load(oid)[:8] == oid for oid in oids])
        seen.append(len(storage.sync()))
    connection.get_root()["n"] = 1
    connection.commit()
    return [seen, show(sorted(Connection(open_storage()).get_root()))]


def new_oids_are_never_given_twice(open_storage: Open) -> Any:
    """Three clients take 700 oids each, in turns; what they store meanwhile has others."""
    connection = Connection(open_storage())
    storages = [connection.get_storage(), open_storage(), open_storage()]
    given = [storage.new_oid() for _ in range(700) for storage in storages]
    connection.get_root()["people"] = people = [Person(f"p{number}") for number in range(100)]
    connection.commit()
    given += [person._p_oid for person in people]
    return [len(given), len(set(given)), ROOT_OID in given]


def many_new_objects_in_one_commit(open_storage: Open) -> Any:
    """Two clients make 1,500 objects each, more than come in any batch of oids."""
    clients = [Connection(open_storage()) for _ in range(2)]
    for number, connection in enumerate(clients):
        people = [Person(f"p{number}", number=count) for count in range(1500)]
        connection.get_root()[number] = PersistentDict(people=people)
    outcomes = [commit(connection) for connection in clients]
    clients[1].abort()
    clients[1].get_root()[1] = PersistentDict(people=[Person("p", number=n) for n in range(1500)])
    outcomes.append(commit(clients[1]))
    found = list(gen_every_instance(Connection(open_storage()), Person))
    numbers = sorted(person.number for person in found)
    return [outcomes, len(found), numbers == sorted([*range(1500), *range(1500)])]


def a_big_object(open_storage: Open) -> Any:
    """5 MB that no compression shortens go to the server and come back, and so does a change."""
    one = Connection(open_storage())
    one.get_root()["big"] = Person("big", payload=big_bytes(1, 5_000_000))
    one.commit()
    two = Connection(open_storage())
    seen = [two.get_root()["big"].payload == big_bytes(1, 5_000_000)]
    two.get_root()["big"].payload = big_bytes(2, 5_000_001)
    two.commit()
    one.abort()
    return [*seen, one.get_root()["big"].payload == big_bytes(2, 5_000_001)]


def a_pack_through_the_wire(open_storage: Open) -> Any:
    """Garbage goes; what is reachable stays, for clients that had it and for those that come."""
    one, two = _pair(open_storage, "a", "b", "c")
    one.get_root()["people"] = PersistentDict((n, Person(f"p{n}")) for n in range(50))
    one.commit()
    two.abort()
    census = [_census(one)]
    for number in range(0, 50, 2):
        del one.get_root()["people"][number]
    one.commit()
    one.pack()
    census.append(_census(one))
    two.abort()
    census.append(_census(two))
    names = [person.name for person in two.get_root()["people"].values()]
    two.get_root()["a"]["n"] = 7
    outcomes = [commit(two)]
    one.abort()
    one.get_root()["a"]["n"] += 1
    outcomes.append(commit(one))
    three = Connection(open_storage())
    return [census, names, outcomes, three.get_root()["a"]["n"], _census(three)]


def _census(connection: Connection) -> Any:
    census = get_census(connection.get_storage())
    return sorted([name.decode(), count] for name, count in census.items())


def objects_that_a_pack_removed(open_storage: Open) -> Any:
    """Who still has one, by a reference of the program, finds that out when it touches it."""
    one, two = _pair(open_storage, "a", "b")
    gone = two.get_root()["a"]
    del one.get_root()["a"]
    one.commit()
    two.abort()
    two.get_root()["b"]["n"]
    one.pack()
    two.abort()
    found = [status(gone), outcome(lambda: gone["n"])]
    two.abort()
    return [*found, _read(two), commit(two)]


def a_client_that_leaves(open_storage: Open) -> Any:
    """What it committed stays, what it did not is gone, and the others go on."""
    one, two = _pair(open_storage, "a", "b")
    one.get_root()["a"]["n"] = 1
    one.commit()
    one.get_root()["b"]["n"] = 1
    storage = one.get_storage()
    storage.close()
    two.abort()
    seen = [_read(two)]
    two.get_root()["b"]["n"] = 2
    seen.append(commit(two))
    return [seen, _read(Connection(open_storage()))]


def a_long_queue_of_news(open_storage: Open) -> Any:
    """A client that did nothing while others committed 300 times sees the last of it."""
    one, two = _pair(open_storage, "a")
    for step in range(300):
        one.get_root()["a"][f"{step % 7}"] = step
        one.get_root()["new"] = PersistentDict(step=step)
        one.commit()
    before = sorted(two.get_root()["a"].items())
    two.abort()
    return [before, _read(two)]


SAME_EVERYWHERE = [
    commits_are_seen_after_a_boundary,
    an_abort_is_seen_by_nobody,
    a_write_conflict,
    a_conflict_about_several_objects,
    write_skew_is_a_conflict,
    disjoint_writes_do_not_conflict,
    leaves_of_a_tree_do_not_conflict,
    a_commit_without_changes_never_fails,
    new_objects_after_a_conflict,
    what_nobody_has_read_yet_is_new,
    sync_tells_what_others_changed,
    the_root_is_made_once,
    an_unknown_oid,
    bulk_loads,
    a_bulk_load_that_misses_one,
    new_oids_are_never_given_twice,
    many_new_objects_in_one_commit,
    a_big_object,
    a_pack_through_the_wire,
    a_client_that_leaves,
    a_long_queue_of_news,
]
