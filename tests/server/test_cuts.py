"""A whole session that is cut at every byte, and a server that is killed in the midst of it.

What single requests do when they are cut is in test_client_cuts.py. Here one request follows the
other, so that what the first left behind on either side meets the next.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import pytest

from durus.client_storage import ClientStorage
from durus.error import CommitUnknownError, StorageDisconnectedError
from durus.file_storage import FileStorage
from durus.serialize import split_oids, unpack_record
from durus.storage import MemoryStorage, Storage
from durus.storage_server import Limits
from durus.testing import commit
from durus.utils import int8_to_str, str_to_int8

from .peers import ServerProcess, record, serving
from .proxies import Direction, Proxy

# Every session packs.
LIMITS = Limits(pack_pause_s=0.0)

DIRECTIONS: list[Direction] = ["request", "reply"]
PROTOCOLS = pytest.mark.parametrize("is_old", [True, False], ids=["protocol-1", "protocol-2"])

# A sample here, every byte in the environment `isolation`.
CUT_STEP = int(os.environ.get("DURUS_CUT_STEP", "5"))

# How many of the server's processes are killed in a session of each protocol.
KILLS = int(os.environ.get("DURUS_KILLS", "6"))


class LostInSyncError(Exception):
    """A sync() lost the server and found it again, and says so by knowing nothing."""


class Session:
    """What a client does from its first byte to its last, and what must come of it.

    Objects 1 to 4 are there; the root refers to them, and to the newest of those that are made.

    Attributes:
        expected: the records of all objects as they are, if the outcome of no commit is open.
        attempt: the records that a commit under way is about.
    """

    def __init__(self, path: str, other: Storage) -> None:
        self.path = path
        self.other = other
        self.expected = {number: record(number) for number in range(1, 5)}
        self.expected[0] = record(0, [1, 2, 3, 4])
        self.attempt: dict[int, bytes] = {}
        self._count = 0
        commit(other, *self.expected.values())

    def play(self) -> None:
        """Do everything once."""
        client = ClientStorage(address=self.path)
        try:
            self._play(client)
        except (StorageDisconnectedError, CommitUnknownError):
            assert client.sync() is None
            self.use_again(client)
            raise
        except LostInSyncError:
            self.use_again(client)
            raise
        finally:
            client.close()

    def _play(self, client: ClientStorage) -> None:
        assert client.load(int8_to_str(0)) == self.expected[0]
        assert client.load(int8_to_str(2)) == self.expected[2]
        oids = [int8_to_str(number) for number in (1, 3, 4)]
        assert [*client.bulk_load(oids)] == [self.expected[number] for number in (1, 3, 4)]
        self.commit(client, self.change(1))
        new = str_to_int8(client.new_oid())
        self.commit(
            client, record(0, [1, 2, 3, 4, new]), record(new), self.change(2), self.change(3)
        )
        # The server asks about this one, as object 4 was loaded.
        self.change_by_other(4)
        self.commit(client, self.change(1))
        self.sync(client)
        self.change_by_other(3)
        assert self.sync(client) == [int8_to_str(3)]
        assert client.load(int8_to_str(3)) == self.expected[3]
        client.pack()
        self.commit(client, self.change(3))

    def use_again(self, client: ClientStorage) -> None:
        """Go on with a client that is connected again, as by abort() of a Connection."""
        self.settle()
        assert client.sync() is not None
        assert client.load(int8_to_str(1)) == self.expected[1]
        self.commit(client, self.change(1))

    def change(self, number: int) -> bytes:
        self._count += 1
        return record(number, payload=b"%06d" % self._count)

    def change_by_other(self, number: int) -> None:
        self.commit(self.other, self.change(number))
        self.other.sync()

    def sync(self, client: ClientStorage) -> list[bytes]:
        stale = client.sync()
        if stale is None:
            raise LostInSyncError
        return stale

    def commit(self, client: ClientStorage, *records: bytes) -> None:
        self.attempt = {str_to_int8(each[:8]): each for each in records}
        told: list[bytes] = []
        client.begin()
        for each in records:
            client.store(each[:8], each)
        try:
            client.end(told.extend)
        except CommitUnknownError:
            raise
        except StorageDisconnectedError:
            # It is told that nothing of it is stored.
            self.attempt = {}
            raise
        self.note_done()

    def note_done(self) -> None:
        self.expected.update(self.attempt)
        self.attempt = {}

    def settle(self) -> None:
        """Find out whether the commit of unknown outcome was done: wholly, or not at all."""
        attempt, self.attempt = self.attempt, {}
        self.other.sync()
        # The server has noticed that the client has left its first connection, and what came after
        # that is done after what came before.
        while self.other.status()["clients"] != 2:
            pass
        self.change_by_other(4)
        stored = self.stored()
        if any(stored.get(number) == new for number, new in attempt.items() if number != 4):
            self.expected.update(attempt | {4: self.expected[4]})
        self.check()

    def check(self) -> None:
        """Check that what is stored is what was committed, and nothing else."""
        self.other.sync()
        refs = split_oids(unpack_record(self.expected[0])[2])
        numbers = {0, *map(str_to_int8, refs)}
        assert self.stored() == {number: self.expected[number] for number in numbers}

    def stored(self) -> dict[int, bytes]:
        """Give what can be reached from the root."""
        return {str_to_int8(oid): found for oid, found in self.other.gen_oid_record()}


@pytest.fixture
def storage() -> MemoryStorage:
    """Make a storage with a root."""
    storage = MemoryStorage()
    commit(storage, record(0, [1]), *map(record, range(1, 5)))
    return storage


@pytest.mark.parametrize("direction", DIRECTIONS)
@PROTOCOLS
def test_a_session_that_is_cut_anywhere(
    tmp_path: Path, storage: MemoryStorage, is_old: bool, direction: Direction
) -> None:
    """Nothing is acknowledged and lost, done and denied, or done by half; abort() goes on."""
    with (
        serving(tmp_path, storage, limits=LIMITS) as server,
        Proxy(str(tmp_path / "p"), server.address, is_old=is_old) as proxy,
        ClientStorage(address=server.address) as other,
    ):
        session = Session(proxy.path, other)
        # The second time all records have their full size.
        session.play()
        session.play()
        size = proxy.newest.counts[direction]
        outcomes = set()
        for after_bytes in range(CUT_STEP - 1, size, CUT_STEP):
            proxy.cut_next(direction, after_bytes)
            try:
                session.play()
            except (StorageDisconnectedError, CommitUnknownError, LostInSyncError) as error:
                outcomes.add(type(error))
            session.check()
        assert outcomes >= {StorageDisconnectedError, CommitUnknownError}


@PROTOCOLS
def test_a_server_that_is_killed_anywhere(tmp_path: Path, is_old: bool) -> None:
    """SIGKILL at any moment of a session takes back nothing that was acknowledged."""
    random = Random(is_old)
    with FileStorage(tmp_path / "f") as storage:
        commit(storage, record(0, [1]), *map(record, range(1, 5)))
    with (
        ExitStack() as stack,
        Proxy(str(tmp_path / "p"), str(tmp_path / "s"), is_old=is_old) as proxy,
    ):
        server = stack.enter_context(ServerProcess(tmp_path, f"limits={LIMITS}"))
        other = stack.enter_context(ClientStorage(address=str(tmp_path / "s")))
        session = Session(proxy.path, other)
        session.play()
        size = proxy.newest.counts["request"]

        def kill_after(count: int) -> ServerProcess:
            """Kill the server when so much was asked, and start the next."""
            while proxy.newest.counts["request"] < count:
                os.sched_yield()
            server.process.kill()
            server.process.wait()
            return stack.enter_context(ServerProcess(tmp_path, f"limits={LIMITS}"))

        with ThreadPoolExecutor(1) as thread:
            for _ in range(KILLS):
                proxy.newest.counts["request"] = 0
                killing = thread.submit(kill_after, random.randrange(1, size))
                with suppress(StorageDisconnectedError, CommitUnknownError, LostInSyncError):
                    # Now and then the server answers the last request before it is gone.
                    while True:
                        session.play()
                server = killing.result()
                session.check()
