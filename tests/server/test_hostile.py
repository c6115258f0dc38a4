"""All kinds of hostile peers at once, beside one who behaves; each is in test_server_hostile.py.

How long the commits take is measured by benchmarks/hostile.py, not here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from random import Random
from struct import pack

import pytest

from durus.client_storage import ClientStorage
from durus.file_storage import FileStorage
from durus.serialize import split_oids, unpack_record
from durus.storage import MemoryStorage
from durus.testing import commit, malformed_records
from durus.utils import int8_to_str

from .peers import (
    CHANGES,
    COMMIT,
    ERROR,
    HISTORY,
    LOAD_AS_OF,
    LOAD_MANY,
    NEW_OIDS,
    STORE,
    NewPeer,
    OldPeer,
    Peer,
    ServerProcess,
    frame,
    record,
    serving,
    transaction_1,
)

MiB = 1 << 20

LARGE = 2
COMMITS = 100

# With the limits below, what the clients together may have the server keep is 32 MiB; the rest is
# room for the memory in which it is put together and taken apart, and for the interpreter.
MOST_BYTES = 200 * MiB
LIMITS = "Limits(held_bytes=16 << 20, unread_bytes=16 << 20, transaction_bytes=8 << 20)"


def leave_half_requests(path: Path) -> Generator[None, None, None]:
    with ExitStack() as stack:
        for number in range(40):
            old = stack.enter_context(OldPeer(path))
            old.send(b"C" + pack(">L", 1 << 22) + bytes(100_000) if number % 2 else b"L\0\0")
            new = stack.enter_context(NewPeer(path))
            new.send(frame(STORE, 1, bytes(1000))[: 9 + number])
            yield
        while True:
            yield


def read_nothing(path: Path) -> Generator[None, None, None]:
    with ExitStack() as stack:
        while True:
            for _ in range(10):
                peer = stack.enter_context(NewPeer(path))
                peer.socket.setblocking(False)
                with suppress(BlockingIOError):
                    peer.send(frame(LOAD_MANY, 1, int8_to_str(LARGE) * 8000))
                yield
            stack.close()


def come_and_go(path: Path) -> Generator[None, None, None]:
    while True:
        with Peer(path) as peer:
            peer.send(b"V\0\0\0\2")
        yield


def take_oids(path: Path) -> Generator[None, None, None]:
    while True:
        with NewPeer(path) as peer:
            peer.send_frame(NEW_OIDS, pack(">L", 65_536))
            yield


def commit_badly(path: Path) -> Generator[None, None, None]:
    bad = [record(1 << 40), record(0, [1 << 40]), *malformed_records(bytes(8)).values()]
    while True:
        for each in bad:
            with NewPeer(path) as new, OldPeer(path) as old:
                new.send(frame(STORE, 1, pack(">L", len(each)) + each) + frame(COMMIT, 2))
                old.begin_commit()
                old.send(transaction_1(each))
                assert old.socket.recv(1) in (b"", b"I")
                # Not even the whole of its answer is awaited.
                yield


def stop_in_a_commit(path: Path) -> Generator[None, None, None]:
    """Send a commit that is right, and leave before it is answered."""
    while True:
        with OldPeer(path) as peer:
            peer.load(3)
            peer.begin_commit()
            peer.end_commit(record(3, payload=b"stopped"))
            yield


def ask_of_the_past(path: Path) -> Generator[None, None, None]:
    """Ask for all that there was, and read none of it, or leave before it is told."""
    with ExitStack() as stack:
        while True:
            for number in range(1, 20):
                peer = stack.enter_context(NewPeer(path))
                peer.send(
                    frame(HISTORY, 1, pack(">QL", (1 << 64) - 1, 4096))
                    + frame(CHANGES, 2, pack(">QL", number, number)) * 50
                    + frame(LOAD_AS_OF, 3, int8_to_str(LARGE) + pack(">Q", number)) * 50
                )
                if number % 2:
                    peer.socket.close()
                yield
            stack.close()


def send_noise(path: Path) -> Generator[None, None, None]:
    random = Random(0)
    while True:
        # A Q of this user would stop the server, as it should.
        with NewPeer(path) as peer:
            peer.send(random.randbytes(2000).replace(b"\x1a", b"\x1b"))
            yield


KINDS: list[Callable[[Path], Generator[None, None, None]]] = [
    leave_half_requests,
    read_nothing,
    come_and_go,
    take_oids,
    commit_badly,
    stop_in_a_commit,
    ask_of_the_past,
    send_noise,
]


def do_harm(
    kind: Callable[[Path], Generator[None, None, None]], path: Path, is_over: threading.Event
) -> None:
    while not is_over.is_set():
        # The server may drop it at any time: it comes again.
        with suppress(OSError, EOFError), closing(kind(path)) as harm:
            for _ in harm:
                if is_over.is_set():
                    return


def test_every_commit_of_a_client_that_behaves_succeeds(tmp_path: Path) -> None:
    """Beside all that is hostile nothing is refused, lost or malformed, and memory is bounded."""
    with FileStorage(tmp_path / "f") as storage:
        large = record(LARGE, payload=Random(0).randbytes(100_000))
        commit(storage, record(0, [1, LARGE, 3]), record(1), large, record(3))
    is_over = threading.Event()
    with ServerProcess(tmp_path, f"limits={LIMITS}", quiet=True) as server:
        threads = [
            threading.Thread(target=do_harm, args=(kind, server.path, is_over)) for kind in KINDS
        ]
        for thread in threads:
            thread.start()
        try:
            with ClientStorage(address=str(server.path)) as client:
                made = []
                for number in range(COMMITS):
                    new = client.new_oid()
                    made.append(new)
                    refs = [1, LARGE, 3, *(int.from_bytes(each) for each in made[-50:])]
                    commit(
                        client,
                        record(0, refs),
                        record(1, payload=b"%d" % number),
                        record(refs[-1], payload=b"%d" % number),
                    )
                    client.sync()
                    assert client.load(int8_to_str(1)) == record(1, payload=b"%d" % number)
                status = client.status()
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        assert status["conflicts"] or status["dropped"]
        assert server.memory_bytes() < MOST_BYTES
    with FileStorage(tmp_path / "f") as storage:
        found = dict(storage.gen_oid_record())
        for oid, each in found.items():
            named, _, refs = unpack_record(each)
            assert named == oid
            assert found.keys() >= set(split_oids(refs))
        assert found[made[-1]] == record(int.from_bytes(made[-1]), payload=b"%d" % number)
        assert found[int8_to_str(3)] in (record(3), record(3, payload=b"stopped"))


def test_oids_that_nobody_used_take_no_room(tmp_path: Path) -> None:
    """A pack after clients took hundreds of thousands of oids and left gives a file as small."""
    storage = FileStorage(tmp_path / "f")
    commit(storage, record(0, [1]), record(1))
    with serving(tmp_path, storage), ClientStorage(address=str(tmp_path / "s")) as client:
        client.pack()
        before = (tmp_path / "f").stat().st_size
        for _ in range(5):
            with NewPeer(tmp_path / "s") as peer:
                for _ in range(8):
                    assert len(peer.new_oids(8192)) == 8192
                peer.send_frame(0x1F)
                peer.wait_for_end()
        new = client.new_oid()
        commit(client, record(0, [1, int.from_bytes(new)]), record(int.from_bytes(new)))
        client.pack()
        assert (tmp_path / "f").stat().st_size - before < 1000


def test_a_long_store_that_ends_badly_is_answered_with_a_reason(tmp_path: Path) -> None:
    """What is wrong at the end of megabytes of records is found, and ends one connection."""
    storage = MemoryStorage()
    commit(storage, record(0), record(1))
    entry = pack(">L", len(record(1))) + record(1)
    with (
        serving(tmp_path, storage),
        NewPeer(tmp_path / "s") as bad,
        NewPeer(tmp_path / "s") as good,
    ):
        bad.send_frame(STORE, entry * 20_000 + b"\0\0\0\1")
        kind, number, payload = bad.read_frame()
        assert (kind, number, json.loads(payload)["error"]) == (ERROR, 0, "ProtocolError")
        assert bad.is_dropped()
        good.store(*(record(1, payload=b"%d" % number) for number in range(20_000)))
        assert good.commit() == []
        assert good.load(1) == [record(1, payload=b"19999")]


@pytest.mark.parametrize("peer", [OldPeer, NewPeer])
def test_a_reply_that_fails_half_way_ends_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: type[OldPeer | NewPeer]
) -> None:
    """When the storage fails in a way that nobody foresaw, its client is dropped, not left."""
    storage = MemoryStorage()
    large = record(1, payload=b"x" * 300_000)
    commit(storage, record(0), large, record(2))

    def load(oid: bytes) -> bytes:
        if oid == int8_to_str(2):
            raise RuntimeError("nobody foresaw this")
        return MemoryStorage.load(storage, oid)

    monkeypatch.setattr(storage, "load", load)
    oids = int8_to_str(1) * 20 + int8_to_str(2)
    with serving(tmp_path, storage), peer(tmp_path / "s") as client:
        client.send(b"B" + pack(">L", 21) + oids if peer is OldPeer else frame(LOAD_MANY, 1, oids))
        client.wait_for_end()
        with peer(tmp_path / "s") as other:
            assert other.load(1) in (large, [large])
