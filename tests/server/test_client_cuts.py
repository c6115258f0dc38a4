"""A connection that is cut, at every byte of a request and of its reply.

Nothing is a success that is not one, no answer is taken for another's, and a commit counts as
unknown exactly where the client cannot know.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import CommitUnknownError, StorageDisconnectedError, WriteConflictError
from durus.storage import MemoryStorage, Storage
from durus.storage_server import Limits
from durus.testing import commit
from durus.utils import int8_to_str

from .peers import record, serving
from .proxies import Direction, Proxy

DIRECTIONS: list[Direction] = ["request", "reply"]

CHILDREN = range(1, 40)


class Rig:
    """A server, one client behind a proxy, and one that is not."""

    def __init__(self, proxy: Proxy, other: ClientStorage) -> None:
        self.proxy = proxy
        self.other = other
        self.client = ClientStorage(address=proxy.path)
        self.commits = 0

    def close(self) -> None:
        self.client.close()
        self.other.close()

    def measure(self, direction: Direction, action: Callable[[], object]) -> int:
        """Give how many bytes an action of a new client takes in a direction."""
        self.renew()
        before = self.proxy.newest.counts[direction]
        action()
        return self.proxy.newest.counts[direction] - before

    def renew(self) -> None:
        """Make a new client, so that each try begins alike."""
        self.client.close()
        self.client = ClientStorage(address=self.proxy.path)

    def cut(self, direction: Direction, after_bytes: int) -> None:
        self.renew()
        self.proxy.newest.cut(direction, after_bytes)

    def make_change(self, number: int) -> bytes:
        """Make a new record of an object."""
        self.commits += 1
        return record(number, payload=b"%06d" % self.commits)

    def is_stored(self, changed: bytes) -> bool:
        """Tell, as the other client sees it, whether a commit was done."""
        self.other.sync()
        return self.other.load(changed[:8]) == changed


@pytest.fixture(params=[1, 2], ids=["protocol-1", "protocol-2"])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    storage = MemoryStorage()
    commit(storage, record(0, [*CHILDREN]), *(record(number) for number in CHILDREN))
    with (
        serving(tmp_path, storage, limits=Limits(pack_pause_s=0.0)) as server,
        Proxy(str(tmp_path / "p"), server.address, is_old=request.param == 1) as proxy,
    ):
        rig = Rig(proxy, ClientStorage(address=server.address))
        yield rig
        rig.close()


def load(storage: Storage) -> object:
    return storage.load(int8_to_str(1))


def load_with_read_ahead(storage: Storage) -> object:
    return storage.load(bytes(8)), storage.load(int8_to_str(1)), storage.load(int8_to_str(39))


def load_many(storage: Storage) -> object:
    return list(storage.bulk_load([int8_to_str(1), bytes(8)]))


def take_an_oid(storage: Storage) -> object:
    return len(storage.new_oid())


def pack(storage: Storage) -> object:
    return storage.pack()


def walk(storage: Storage) -> object:
    return sorted(storage.gen_oid_record())


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "ask",
    [load, load_with_read_ahead, load_many, take_an_oid, pack, walk],
    ids=lambda f: f.__name__,
)
def test_a_request_that_is_cut_is_lost_and_told(
    rig: Rig, ask: Callable[[Storage], object], direction: Direction
) -> None:
    """Cut at any byte, a request says that the server was lost; after `sync()` all is as it was."""
    expected = ask(rig.client)
    size = rig.measure(direction, lambda: ask(rig.client))
    if ask is pack:
        # How often it tells of its progress depends on the time that it takes.
        size = min(size, 9)
    for after_bytes in {*range(0, size, max(1, size // 100)), size - 1}:
        rig.cut(direction, after_bytes)
        with pytest.raises(StorageDisconnectedError):
            ask(rig.client)
        with pytest.raises(StorageDisconnectedError):
            ask(rig.client)
        assert rig.client.sync() is None
        assert ask(rig.client) == expected


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_sync_that_is_cut_knows_nothing(rig: Rig, direction: Direction) -> None:
    """Cut at any byte, `sync()` connects again and says that it cannot tell what has changed."""

    def sync() -> object:
        commit(rig.other, rig.make_change(1))
        return rig.client.sync()

    for after_bytes in range(rig.measure(direction, sync)):
        rig.cut(direction, after_bytes)
        changed = rig.make_change(1)
        commit(rig.other, changed)
        assert rig.client.sync() is None
        assert rig.client.load(changed[:8]) == changed


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_connecting_that_is_cut_is_no_connection(rig: Rig, direction: Direction) -> None:
    """Cut at any byte of the greeting, a new client says that there is no server."""
    rig.renew()
    for after_bytes in range(rig.proxy.newest.counts[direction]):
        rig.proxy.cut_next(direction, after_bytes)
        with pytest.raises(StorageDisconnectedError):
            ClientStorage(address=rig.proxy.path)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_commit_that_is_cut_is_told_as_what_it_is(rig: Rig, direction: Direction) -> None:
    """A commit that is cut is never a success, is unknown once all was sent, and else not done."""
    size = rig.measure(direction, lambda: commit(rig.client, rig.make_change(1)))
    unknown = []
    for after_bytes in range(size):
        rig.cut(direction, after_bytes)
        changed = rig.make_change(1)
        with pytest.raises((StorageDisconnectedError, CommitUnknownError)) as caught:
            commit(rig.client, changed)
        is_unknown = isinstance(caught.value, CommitUnknownError)
        if is_unknown:
            unknown.append(after_bytes)
        with pytest.raises(StorageDisconnectedError):
            rig.client.load(changed[:8])
        # The server had it all if it was about to answer.
        assert rig.is_stored(changed) is (is_unknown and direction == "reply")
        assert rig.client.sync() is None
        assert rig.is_stored(rig.client.load(changed[:8]))
    # In protocol 1 the records are sent when the answer to `C` has come.
    known = {"request": 1, "reply": 4}[direction] if rig.proxy.is_old else 0
    assert unknown == [*range(known, size)]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_commit_that_is_cut_while_it_is_asked_about_is_told_as_what_it_is(
    rig: Rig, direction: Direction
) -> None:
    """The same where the server tells of stale objects in the middle of the commit."""
    told: list[bytes] = []

    def prepare() -> bytes:
        """Have another client change what this one has loaded."""
        rig.client.load(int8_to_str(2))
        commit(rig.other, rig.make_change(2))
        return rig.make_change(1)

    def end(changed: bytes) -> None:
        told.clear()
        rig.client.begin()
        rig.client.store(changed[:8], changed)
        rig.client.end(told.extend)

    rig.renew()
    changed = prepare()
    before = rig.proxy.newest.counts[direction]
    end(changed)
    size = rig.proxy.newest.counts[direction] - before
    assert told == [int8_to_str(2)]
    for after_bytes in range(size):
        rig.renew()
        changed = prepare()
        rig.proxy.newest.cut(direction, after_bytes)
        with pytest.raises((StorageDisconnectedError, CommitUnknownError)) as caught:
            end(changed)
        if isinstance(caught.value, StorageDisconnectedError):
            assert rig.proxy.is_old
            assert not rig.is_stored(changed)
        elif direction == "request":
            assert not rig.is_stored(changed)
        else:
            # Of protocol 2, the question is told; then the outcome is lost.
            assert rig.is_stored(changed) is bool(told)
        assert rig.client.sync() is None
        assert rig.is_stored(rig.client.load(changed[:8]))


def test_a_conflict_is_told_though_the_connection_is_cut_with_it(rig: Rig) -> None:
    """Who finds a conflict is told of it, not of the connection that was lost while giving up."""
    rig.client.load(int8_to_str(2))
    commit(rig.other, rig.make_change(2))
    changed = rig.make_change(1)

    def refuse(oids: list[bytes]) -> None:
        rig.proxy.newest.end()
        raise WriteConflictError(oids)

    rig.client.begin()
    rig.client.store(changed[:8], changed)
    with pytest.raises(WriteConflictError):
        rig.client.end(refuse)
    assert not rig.is_stored(changed)
    assert rig.client.sync() is None
    assert rig.client.load(changed[:8]) == rig.other.load(changed[:8])


@pytest.mark.parametrize("is_old", [True, False], ids=["protocol-1", "protocol-2"])
def test_a_connection_goes_on_after_an_unknown_commit(tmp_path: Path, is_old: bool) -> None:
    """A Connection says that the outcome is unknown, and after `abort()` shows what it is."""
    with (
        serving(tmp_path) as server,
        Proxy(str(tmp_path / "p"), server.address, is_old=is_old) as proxy,
        ClientStorage(address=proxy.path) as client,
    ):
        connection = Connection(client)
        root = connection.get_root()
        root["n"] = 0
        connection.commit()
        for after_bytes in range(4, 50):
            root["n"] += 1
            proxy.newest.cut("request", after_bytes)
            with pytest.raises(CommitUnknownError):
                connection.commit()
            connection.abort()
            assert root["n"] == after_bytes - 4
            root["n"] += 1
            connection.commit()
        root["n"] += 1
        # In protocol 1 the stale oids come first, and they are told in a u32 and no more.
        proxy.newest.cut("reply", 4 if is_old else 0)
        with pytest.raises(CommitUnknownError):
            connection.commit()
        connection.abort()
        assert root["n"] == 47
