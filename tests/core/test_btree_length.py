"""The length of a BTree is counted once, and is right whatever happens to the tree afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import pytest

from durus import btree
from durus.btree import BNode, BNode16, BTree
from durus.connection import Connection
from durus.error import ConflictError, DurusKeyError, ReadConflictError, WriteConflictError
from durus.persistent_dict import PersistentDict
from durus.storage import Storage
from durus.utils import int8_to_str


class Hub:
    """Records that several sessions share, and an oid for each new object."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.sessions: list[Session] = []
        self.next_oid_int = 0


class Session(Storage):
    """One caller's view of a Hub: what others have committed is stale until the next sync."""

    is_persistent = False

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._stale: set[bytes] = set()
        self._pending: dict[bytes, bytes] = {}
        hub.sessions.append(self)

    def load(self, oid: bytes) -> bytes:
        if oid in self._stale:
            raise ReadConflictError([oid])
        try:
            return self._hub.records[oid]
        except KeyError:
            raise DurusKeyError(oid) from None

    def begin(self) -> None:
        self._pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        self._pending[oid] = record

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        stale = self.sync()
        if stale and handle_invalidations:
            handle_invalidations(stale)
        self._hub.records.update(self._pending)
        for session in self._hub.sessions:
            if session is not self:
                session._stale.update(self._pending)

    def sync(self) -> list[bytes]:
        stale, self._stale = sorted(self._stale), set()
        return stale

    def new_oid(self) -> bytes:
        self._hub.next_oid_int += 1
        return int8_to_str(self._hub.next_oid_int - 1)


class Walks:
    """How often the nodes of a tree were walked to count its items."""

    def __init__(self) -> None:
        self.count = 0


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> Walks:
    """Count the walks."""
    walks = Walks()
    original = btree._btree_nodes.walk

    def walk(root: btree._btree_nodes.Node) -> Iterable[btree._btree_nodes.Node]:
        walks.count += 1
        return original(root)

    monkeypatch.setattr("durus._btree_nodes.walk", walk)
    return walks


def two_sessions(keys: Iterable[int] = range(100), cache_size: int = 10**6) -> list[Connection]:
    """Give two Connections to a root with a tree "x" and a dict "y"."""
    hub = Hub()
    connection = Connection(Session(hub), cache_size)
    tree = BTree[int, int](BNode)
    for key in keys:
        tree[key] = -key
    connection.get_root().update(x=tree, y=PersistentDict())
    connection.commit()
    other = Connection(Session(hub), cache_size)
    for each in (connection, other):
        each.abort()
    return [connection, other]


def test_the_length_is_counted_once(walks: Walks) -> None:
    """The first len() walks; it then stays known through changes, commits and transactions."""
    connection, _ = two_sessions()
    tree = connection.get_root()["x"]
    assert len(tree) == 100
    loads = connection.get_load_count()
    for key in range(100, 200):
        tree[key] = 0
        assert len(tree) == key + 1
        if key % 10 == 0:
            connection.commit()
    for key in range(150):
        del tree[key]
        tree[199] = 0
        assert len(tree) == 199 - key
    connection.commit()
    connection.abort()
    assert len(tree) == 50
    assert tree.root.get_count() == 50
    assert walks.count == 2  # the second is that of get_count()
    assert connection.get_load_count() == loads


def test_a_new_tree_is_counted_once_before_and_once_after_its_first_commit(walks: Walks) -> None:
    """A tree has another length to know once its nodes are stored."""
    connection, _ = two_sessions()
    tree = connection.get_root()["z"] = BTree[int, int]()
    for key in range(100):
        tree[key] = 0
        assert len(tree) == key + 1
    connection.commit()
    for key in range(100, 200):
        tree[key] = 0
        assert len(tree) == key + 1
    connection.commit()
    assert len(tree) == 200
    assert walks.count == 2


def test_an_abort_takes_the_length_back() -> None:
    """After an abort the length is that of the last commit, in old nodes and in new ones."""
    connection, _ = two_sessions()
    tree = connection.get_root()["x"]
    for count in (0, 1, 50, 100):
        assert len(tree) == 100
        for key in range(count):
            del tree[key]
        assert len(tree) == 100 - count
        connection.abort()
        assert len(tree) == 100
        for key in range(100, 100 + count):
            tree[key] = 0
        assert len(tree) == 100 + count
        connection.abort()
        assert len(tree) == 100
    tree.clear()
    assert len(tree) == 0
    connection.abort()
    assert len(tree) == 100
    tree.set_bnode_minimum_degree(16)
    tree[1000] = 0
    assert len(tree) == 101
    connection.abort()
    assert len(tree) == 100


def test_an_abort_of_other_changes_keeps_the_length_known(walks: Walks) -> None:
    """Only what concerns the tree makes it count again."""
    connection, _ = two_sessions()
    tree = connection.get_root()["x"]
    assert len(tree) == 100
    connection.get_root()["y"]["a"] = 1
    connection.abort()
    assert len(tree) == 100
    assert walks.count == 1


@pytest.mark.parametrize("cache_size", [0, 10**6])
def test_the_commit_of_another_session_changes_the_length(cache_size: int) -> None:
    """What others add, remove, clear or build anew is seen, in nodes that are in memory or not."""
    connection, other = two_sessions(cache_size=cache_size)
    tree, others = (each.get_root()["x"] for each in (connection, other))
    assert len(tree) == 100
    changes: list[Callable[[], object]] = [
        lambda: others.add(1000),
        lambda: others.pop(3),
        lambda: [others.pop(key) for key in range(20, 60)],
        lambda: others.update((key, 0) for key in range(2000, 2100)),
        lambda: others.set_bnode_minimum_degree(16),
        lambda: others.add(3000),
        others.clear,
        lambda: others.update({1: 1}),
    ]
    for change in changes:
        change()
        other.commit()
        connection.abort()
        assert len(tree) == len(list(tree.items())) == len(others)
        connection.abort()


def test_the_commit_of_another_session_to_other_objects_keeps_the_length_known(
    walks: Walks,
) -> None:
    """Only what concerns the tree makes it count again."""
    connection, other = two_sessions()
    tree = connection.get_root()["x"]
    assert len(tree) == 100
    other.get_root()["y"]["a"] = 1
    other.commit()
    connection.abort()
    assert connection.get_root()["y"]["a"] == 1
    assert len(tree) == 100
    assert walks.count == 1


def test_asking_for_the_length_reads_the_whole_tree() -> None:
    """A transaction that used a known length conflicts with a change of any leaf."""
    connection, other = two_sessions()
    tree = connection.get_root()["x"]
    assert len(tree) == 100
    connection.commit()
    for change in (lambda: other.get_root()["x"].add(1000), lambda: other.get_root()["x"].pop(0)):
        connection.get_root()["y"]["count"] = len(tree)
        change()
        other.commit()
        with pytest.raises(WriteConflictError) as caught:
            connection.commit()
        assert caught.value.oids
        connection.abort()
        assert len(tree) == len(list(tree.items()))
        connection.abort()
        other.abort()


def test_asking_for_the_length_conflicts_with_nothing_else() -> None:
    """Changes of other objects, and lengths that this transaction did not ask for, do no harm."""
    connection, other = two_sessions()
    tree = connection.get_root()["x"]
    assert len(tree) == 100
    connection.commit()
    other.get_root()["x"].add(1000)
    other.commit()
    connection.get_root()["y"]["a"] = 1
    connection.commit()
    connection.get_root()["y"]["count"] = len(tree)
    assert len(tree) == 101
    other.get_root()["z"] = 1
    other.commit()
    with pytest.raises(WriteConflictError):  # the root was read
        connection.commit()


def test_a_transaction_that_only_reads_the_length_never_conflicts() -> None:
    """Without changes a commit moves on, and the new length is seen."""
    connection, other = two_sessions()
    tree = connection.get_root()["x"]
    assert len(tree) == 100
    other.get_root()["x"].add(1000)
    other.commit()
    assert len(tree) == 100
    connection.commit()
    assert len(tree) == 101


def test_different_leaves_never_conflict() -> None:
    """Two sessions that change keys in different leaves both commit, and both lengths are right."""
    connection, other = two_sessions(range(0, 1000, 10))
    trees = [each.get_root()["x"] for each in (connection, other)]
    for tree in trees:
        assert len(tree) == 100
    connection.commit()
    other.commit()
    trees[0][20] = "set"
    trees[1][980] = "set"
    connection.commit()
    other.commit()
    connection.abort()
    # Leaves of two neighbouring keys have room for one more each.
    trees[0].set_bnode_minimum_degree(16)
    connection.commit()
    other.commit()
    trees[0][5] = 0
    trees[1][995] = 0
    del trees[1][990]
    connection.commit()
    other.commit()
    connection.commit()
    for tree in trees:
        assert len(tree) == len(list(tree.items())) == 101


def test_direct_use_of_nodes_changes_the_length() -> None:
    """Items that are added to or removed from the nodes themselves are counted."""
    connection, _ = two_sessions()
    tree = connection.get_root()["x"]
    assert len(tree) == 100
    tree.root.insert_item((1000, 0))
    assert len(tree) == 101
    tree.root.delete(3)
    assert len(tree) == 100
    tree.root = BNode16()
    assert len(tree) == 0


def test_a_failed_commit_keeps_the_length() -> None:
    """What could not be committed is still there, and counted."""
    connection, _ = two_sessions()
    tree = connection.get_root()["x"]
    assert len(tree) == 100
    for key in range(100, 150):
        tree[key] = 0
    tree[99] = lambda: None
    with pytest.raises(TypeError):
        connection.commit()
    assert len(tree) == 150
    tree[99] = 0
    connection.commit()
    assert len(tree) == 150


def test_a_length_of_a_ghost_is_right() -> None:
    """Ghosts of the tree and of its nodes change nothing."""
    connection, _ = two_sessions()
    tree = connection.get_root()["x"]
    assert len(tree) == 100
    nodes = list(btree._btree_nodes.walk(tree.root))
    for obj in [tree, *nodes]:
        obj._p_set_status_ghost()
    assert len(tree) == 100
    tree[100] = 0
    assert len(tree) == 101


@pytest.mark.parametrize("seed", range(12))
def test_sessions_at_random(seed: int) -> None:
    """Whatever two sessions do in turn, each sees the length of the tree that it sees."""
    rng = random.Random(seed)
    sessions = two_sessions(range(0, 60, 2), cache_size=rng.choice([0, 10, 10**6]))
    for _ in range(400):
        connection = rng.choice(sessions)
        tree = connection.get_root()["x"]
        try:
            for _ in range(rng.choice([0, 1, 1, 5])):
                key = rng.randrange(60)
                if rng.random() < 0.5:
                    tree[key] = rng.random()
                else:
                    tree.pop(key, None)
                if rng.random() < 0.2:
                    assert len(tree) == len(list(tree.items()))
            end = rng.random()
            if end < 0.5:
                connection.commit()
            elif end < 0.7:
                connection.abort()
            if rng.random() < 0.5:
                assert len(tree) == len(list(tree.items()))
        except ConflictError:
            connection.abort()
    for connection in sessions:
        connection.abort()
        tree = connection.get_root()["x"]
        assert len(tree) == len(list(tree.items()))
