"""Peers that send nonsense, too much or too little, or never read: they harm only themselves."""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from struct import pack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durus.serialize import unpack_record
from durus.storage import MemoryStorage
from durus.storage_server import HostPortAddress, Limits
from durus.testing import commit, malformed_records
from durus.utils import int8_to_str

from .peers import (
    ASK,
    COMMIT,
    COMMITTED,
    CONFIRM,
    ERROR,
    LOAD,
    LOAD_MANY,
    NEW_OIDS,
    STOP,
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


@pytest.fixture
def storage() -> MemoryStorage:
    """Make a storage with a root, and 1 that it refers to."""
    storage = MemoryStorage()
    commit(storage, record(0, [1]), record(1))
    return storage


@contextmanager
def unharmed(path: Path, storage: MemoryStorage) -> Iterator[None]:
    """Check that others are served after the block, and that the storage has only records."""
    yield
    for kind in (OldPeer, NewPeer):
        new = record(1, payload=kind.__name__.encode())
        with kind(path) as good:
            # What the block asked of the server may still come in between.
            while not good.tries_to_commit(new):
                good.sync()
            assert good.load(1) in (new, [new])
    for oid, found in storage.gen_oid_record():
        assert unpack_record(found)[0] == oid


def conversation_1() -> list[bytes]:
    """Give what a good client of protocol 1 sends."""
    return [
        b"V\0\0\0\1",
        b"L" + bytes(8),
        b"B" + pack(">LQQ", 2, 0, 1),
        b"M\2",
        b"S",
        b"C",
        transaction_1(record(1, payload=b"changed")),
        b"P",
        b"N",
    ]


def conversation_2() -> list[bytes]:
    """Give what a good client of protocol 2 sends."""
    stored = record(1, payload=b"changed")
    return [
        b"V\0\0\0\2",
        frame(0x01, 0, json.dumps({"client": "mutant", "compress": True}).encode()),
        frame(LOAD, 1, bytes(8) + pack(">L", 1000)),
        frame(LOAD_MANY, 2, pack(">QQ", 0, 1)),
        frame(NEW_OIDS, 3, pack(">L", 3)),
        frame(STORE, 4, pack(">L", len(stored)) + stored),
        frame(STORE | 0x40, 4, zlib.compress(pack(">L", len(stored)) + stored)),
        frame(COMMIT, 5),
        frame(0x12, 6),
        frame(0x18, 7),
        frame(0x19, 8),
        frame(0x1B, 9),
    ]


BEGINNINGS = [b"", b"V\0\0\0\1", b"V\0\0\0\2", b"".join(conversation_2()[:2])]


def send_and_leave(path: Path, data: bytes) -> None:
    """Send it all, let the server answer what it likes to, and leave."""
    with Peer(path) as peer:
        try:
            peer.send(data)
            peer.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        peer.wait_for_end()


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_harm_nobody(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever bytes come, at whatever point of a conversation, others are served."""
    storage = MemoryStorage()
    commit(storage, record(0, [1]), record(1))
    tmp_path = tmp_path_factory.mktemp("r")
    with serving(tmp_path, storage):
        path = tmp_path / "s"
        with unharmed(path, storage):
            for _ in range(5):
                beginning = data.draw(st.sampled_from(BEGINNINGS))
                # A Q, or a STOP, would be obeyed.
                noise = data.draw(st.binary(max_size=200)).replace(b"Q", b"q")
                send_and_leave(path, beginning + noise.replace(b"\x1a", b"\x1b"))


@pytest.mark.parametrize("conversation", [conversation_1, conversation_2])
def test_mutated_conversations_harm_nobody(
    tmp_path: Path, storage: MemoryStorage, conversation: Callable[[], list[bytes]]
) -> None:
    """Bytes that are changed, lost, doubled or cut off do not harm others."""
    random = Random(7)
    with serving(tmp_path, storage), unharmed(tmp_path / "s", storage):
        for _ in range(300):
            said = bytearray(b"".join(conversation()))
            for _ in range(random.randint(1, 4)):
                at = random.randrange(5, len(said))
                move = random.randrange(4)
                if move == 0:
                    said[at] = random.choice(b"\x00\x01\x7f\x80\xff\x40LBMSCPNV.")
                elif move == 1:
                    del said[at : at + random.randint(1, 9)]
                elif move == 2:
                    said[at:at] = said[at : at + random.randint(1, 40)]
                else:
                    del said[at + 1 :]
                if len(said) < 10:
                    break
            send_and_leave(tmp_path / "s", bytes(said).replace(b"Q", b"q").replace(b"\x1a", b"\0"))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"V\0\0\0\1B\xff\xff\xff\xff",
        b"V\0\0\0\1C\xff\xff\xff\xff",
        b"V\0\0\0\1C" + pack(">LL", 1000, 0xFFFFFFFF) + bytes(996),
        b"V\0\0\0\1C" + pack(">LL", 30, 4) + bytes(26),
        b"V\0\0\0\1C" + pack(">LLQQL", 24, 20, 1, 1, 0xFFFFFFFF),
        *(
            b"".join(conversation_2()[:2]) + pack(">LBL", 0xFFFFFFFF, kind, 1)
            for kind in range(256)
            if kind not in (0x1F, 0x1A)
        ),
        b"V\0\0\0\2" + pack(">LBL", 5000, 1, 0),
        b"V\0\0\0\2" + pack(">LBL", 0, 1, 0),
        b"V\0\0\0\2" + frame(1, 0, b"[" * 4000),
        b"V\0\0\0\2" + frame(1, 0, b"{}") * 2,
        b"".join(conversation_2()[:2]) + frame(CONFIRM, 1),
        b"".join(conversation_2()[:2]) + frame(NEW_OIDS, 1, bytes(4)),
        b"".join(conversation_2()[:2]) + frame(NEW_OIDS, 1, b"\xff\xff\xff\xff"),
        b"".join(conversation_2()[:2]) + frame(LOAD, 1, bytes(11)),
        b"".join(conversation_2()[:2]) + frame(LOAD_MANY, 1, bytes(12)),
        b"".join(conversation_2()[:2]) + frame(STORE, 1, pack(">L", 0xFFFFFFFF)),
        b"".join(conversation_2()[:2]) + frame(STORE, 1, b"\0\0"),
        b"".join(conversation_2()[:2]) + frame(LOAD | 0x40, 1, b"not zlib"),
        b"".join(conversation_2()[:2]) + frame(LOAD | 0x40, 1, zlib.compress(bytes(9 * MiB))),
        b"".join(conversation_2()[:2]) + frame(STORE | 0x40, 1, zlib.compress(bytes(9 * MiB))),
    ],
    ids=lambda data: f"{len(data)}-{data[-18:].hex()}",
)
def test_a_bad_request_closes_its_own_connection(tmp_path: Path, request_bytes: bytes) -> None:
    """A length or type that cannot be is refused at once, without waiting for what it promises."""
    storage = MemoryStorage()
    commit(storage, record(0, [1]), record(1))
    with (
        serving(tmp_path, storage),
        unharmed(tmp_path / "s", storage),
        Peer(tmp_path / "s") as peer,
    ):
        peer.send(request_bytes)
        peer.wait_for_end()


def test_a_bad_frame_is_answered_with_a_reason(tmp_path: Path, storage: MemoryStorage) -> None:
    """The client is told what was wrong, in an error of no request, before it is dropped."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        peer.send(frame(0x77, 5))
        kind, number, payload = peer.read_frame()
        assert (kind, number) == (ERROR, 0)
        assert json.loads(payload)["error"] == "ProtocolError"
        assert peer.is_dropped()


def test_half_requests_hold_nobody_up(tmp_path: Path, storage: MemoryStorage) -> None:
    """A hundred clients that stop in the middle of any request cost the others nothing."""
    with serving(tmp_path, storage), ExitStack() as stack:
        for said in (conversation_1(), conversation_2()):
            for last in range(len(said)):
                for cut in range(1, len(said[last]), max(1, len(said[last]) // 5)):
                    peer = stack.enter_context(Peer(tmp_path / "s"))
                    peer.send(b"".join(said[:last]) + said[last][:cut])
        with unharmed(tmp_path / "s", storage):
            pass


def test_who_never_reads_costs_bounded_memory(tmp_path: Path) -> None:
    """Clients that ask for gigabytes and read nothing cost some megabytes, and are cut off."""
    options = "limits=Limits(stuck_s=0.2)"
    with ServerProcess(tmp_path, options) as server, ExitStack() as stack:
        good = stack.enter_context(OldPeer(server.path))
        [large] = good.new_oids(1)
        assert good.commit(record(large, payload=b"x" * MiB)) == b"O"
        before = server.memory_bytes()
        for _ in range(10):
            greedy = stack.enter_context(OldPeer(server.path))
            greedy.send((b"L" + int8_to_str(large)) * 300)
            bulk = stack.enter_context(OldPeer(server.path))
            bulk.send(b"B" + pack(">L", 1000) + int8_to_str(large) * 1000)
            framed = stack.enter_context(NewPeer(server.path))
            framed.send(frame(LOAD_MANY, 1, int8_to_str(large) * 8000))
        for number in range(50):
            assert good.commit(record(large, payload=b"%d" % number)) == b"O"
        for _ in range(30):
            server.wait_for("does not read its replies")
        assert server.memory_bytes() - before < 150 * MiB
        assert good.load(large) == record(large, payload=b"49")


def test_what_a_large_transaction_holds_is_counted_once(tmp_path: Path) -> None:
    """A transaction that the limits allow goes through in one piece, and then nothing is held."""
    limits = Limits(held_bytes=2 * MiB, transaction_bytes=3 * MiB // 2)
    with serving(tmp_path, limits=limits), NewPeer(tmp_path / "s") as good:
        assert good.commit(record(0)) == []
        for kind in (OldPeer, NewPeer):
            with kind(tmp_path / "s") as peer:
                news = peer.new_oids(50)
                assert peer.tries_to_commit(*(record(n, payload=bytes(25_000)) for n in news))
                assert good.status()["held_bytes"] == 0


def test_who_holds_most_is_dropped_when_too_much_is_held(tmp_path: Path) -> None:
    """Transactions that are never finished take no more than the limit; the small ones go on."""
    limits = "Limits(held_bytes=50 << 20, transaction_bytes=1 << 30)"
    with ServerProcess(tmp_path, f"limits={limits}") as server, ExitStack() as stack:
        good = stack.enter_context(NewPeer(server.path))
        news = good.new_oids(1000)
        good.store(*(record(n, payload=b"x" * 1000) for n in news))
        before = server.memory_bytes()
        for kind in (0, 1) * 5:
            with ExitStack() as own:
                greedy = own.enter_context((NewPeer, OldPeer)[kind](server.path))
                large = [record(n, payload=b"x" * MiB) for n in greedy.new_oids(45)]
                if kind:
                    greedy.send(b"C")
                    greedy.read(4)
                    greedy.send(pack(">L", 1 << 30))
                try:
                    for found in large:
                        size = pack(">L", len(found) + 8 * kind)
                        greedy.send(
                            size + found[:8] + found if kind else frame(STORE, 1, size + found)
                        )
                except OSError:
                    pass
                stack.push(own.pop_all())
        server.wait_for("which is most")
        assert good.expect(COMMITTED, COMMIT) == b""
        assert server.memory_bytes() - before < 400 * MiB


def test_a_transaction_is_examined_as_it_comes(tmp_path: Path, storage: MemoryStorage) -> None:
    """What is wrong with its first records is found before it is whole: it is not kept so long."""
    entry = pack(">L", 8) + bytes(8)
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as old, NewPeer(tmp_path / "s") as new:
        old.begin_commit()
        old.send(pack(">L", 1 << 20) + entry)
        assert old.is_dropped()
        new.send(frame(STORE, 1, entry * 1000)[:100])
        assert new.read_frame()[0] == ERROR
        assert new.is_dropped()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A compressed request that would be huge is refused, and costs little memory."""
    bomb = zlib.compress(bytes(200 * MiB), 1)
    with ServerProcess(tmp_path) as server, NewPeer(server.path, compress=True) as peer:
        before = server.memory_bytes()
        peer.send(frame(STORE | 0x40, 1, bomb))
        kind, _, payload = peer.read_frame()
        assert (kind, json.loads(payload)["error"]) == (ERROR, "ProtocolError")
        assert server.memory_bytes() - before < 60 * MiB


def test_1300_idle_connections(tmp_path: Path) -> None:
    """Whoever is connected and silent costs little, and the others commit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip(f"the system allows {hard} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        with ServerProcess(tmp_path) as server, ExitStack() as stack:
            before = server.memory_bytes()
            for number in range(1300):
                stack.enter_context((OldPeer, NewPeer)[number % 2](server.path))
            with NewPeer(server.path) as good:
                news = good.new_oids(3)
                good.commit(*(record(n) for n in news))
                assert good.status()["clients"] == 1301
            assert server.memory_bytes() - before < 40 * MiB
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_flood_of_new_connections(tmp_path: Path, storage: MemoryStorage) -> None:
    """Thousands that come and go at once do not keep a client from committing."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as good:
        for number in range(2000):
            with socket.socket(socket.AF_UNIX) as flood:
                # Without a timeout: with one, a server with a long queue is an error at once.
                flood.connect(str(tmp_path / "s"))
                if number % 2:
                    flood.send(b"V\0\0\0\2"[: number % 6])
            if number % 50 == 0:
                assert good.commit(record(1, payload=b"%d" % number)) == b"O"
        assert good.load(1) == record(1, payload=b"1950")


def test_who_does_not_greet_is_dropped(tmp_path: Path, storage: MemoryStorage) -> None:
    """A client that says nothing, or only half a greeting, is dropped after the deadline."""
    limits = Limits(handshake_s=0.05)
    with serving(tmp_path, storage, limits=limits), ExitStack() as stack:
        known = stack.enter_context(OldPeer(tmp_path / "s"))
        silent = [stack.enter_context(Peer(tmp_path / "s")) for _ in range(3)]
        silent[1].send(b"V\0")
        silent[2].send(b"V\0\0\0\2")
        for peer in silent:
            peer.wait_for_end()
        assert known.load(1) == record(1)


def connect_when_there_is_room(path: Path) -> OldPeer:
    """Connect; a client that has just left may still be counted."""
    while True:
        try:
            return OldPeer(path)
        except (EOFError, ConnectionError):
            pass


def test_too_many_are_turned_away_until_there_is_room(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """A client beyond the limit is disconnected at once; when one leaves, the next may come."""
    with (
        serving(tmp_path, storage, limits=Limits(connections=2)),
        OldPeer(tmp_path / "s") as a,
        OldPeer(tmp_path / "s") as b,
        Peer(tmp_path / "s") as third,
    ):
        assert third.is_dropped()
        b.send(b".")
        b.wait_for_end()
        with connect_when_there_is_room(tmp_path / "s") as c:
            assert c.load(1) == a.load(1) == record(1)


def test_no_descriptors_left(tmp_path: Path) -> None:
    """A server that is out of descriptors serves whom it has, says so once, and accepts later."""
    setup = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
hoard = [os.open("/dev/null", os.O_RDONLY) for _ in range(120)]
"""
    with ServerProcess(tmp_path, setup=setup) as server:
        with ExitStack() as stack:
            good = stack.enter_context(OldPeer(server.path))
            for _ in range(100):
                stack.enter_context(Peer(server.path))
            server.wait_for("cannot accept more clients for now")
            [new] = good.new_oids(1)
            assert good.commit(record(new)) == b"O"
        with OldPeer(server.path) as later:
            assert later.load(new) == record(new)
        assert sum("cannot accept" in line for line in server.lines) == 1


def test_oids_of_clients_that_left_are_given_again(tmp_path: Path, storage: MemoryStorage) -> None:
    """Clients that take oids, use none and leave do not use them up."""
    highest = 0
    with serving(tmp_path, storage):
        for number in range(200):
            with (OldPeer, NewPeer)[number % 2](tmp_path / "s") as peer:
                highest = max(highest, *peer.new_oids(255))
                peer.send(b"." if isinstance(peer, OldPeer) else frame(0x1F, 1))
                peer.wait_for_end()
    assert highest < 600


def bad_commits(issued: int, foreign: int) -> dict[str, bytes]:
    """Give second halves of a commit of protocol 1 that must not be stored."""
    good = record(issued)
    entry = pack(">L", len(good) + 8) + good[:8] + good
    bad = {
        "unissued": transaction_1(record(1 << 40)),
        "highest": transaction_1(record((1 << 64) - 1)),
        "foreign": transaction_1(record(foreign)),
        "repeated": transaction_1(good, good),
        "of another oid": pack(">LL", len(good) + 12, len(good) + 8) + int8_to_str(1) + good,
        "cut": pack(">L", len(entry) - 1) + entry[:-1],
        "too long": pack(">L", len(entry) + 1) + entry + b"x",
    }
    for name, malformed in malformed_records(int8_to_str(issued)).items():
        bad[name] = (
            pack(">LL", len(malformed) + 12, len(malformed) + 8) + int8_to_str(issued) + malformed
        )
    return bad


def test_bad_commits_of_protocol_1_are_not_stored(tmp_path: Path, storage: MemoryStorage) -> None:
    """Unissued, foreign and repeated oids and malformed records: the client is dropped."""
    before = dict(storage.gen_oid_record())
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as other:
        [foreign] = other.new_oids(1)
        for name in bad_commits(9, foreign):
            with OldPeer(tmp_path / "s") as peer:
                [issued] = peer.new_oids(1)
                peer.begin_commit()
                peer.send(bad_commits(issued, foreign)[name])
                assert peer.is_dropped(), name
        assert dict(storage.gen_oid_record()) == before
        assert other.commit(record(foreign)) == b"O"


def test_references_to_nothing_are_not_stored(tmp_path: Path, storage: MemoryStorage) -> None:
    """A record that refers to what is neither stored nor in the same commit is a conflict."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as peer:
        [new] = peer.new_oids(1)
        assert peer.commit(record(new, [1, 55])) == b"I"
        assert peer.load(new) == b"K"
        assert peer.commit(record(new, [1])) == b"O"


def test_a_stale_object_cannot_be_stored(tmp_path: Path, storage: MemoryStorage) -> None:
    """Who was told that an object is stale and stores it all the same has a conflict."""
    with serving(tmp_path, storage), ExitStack() as stack:
        good = stack.enter_context(OldPeer(tmp_path / "s"))
        old = stack.enter_context(OldPeer(tmp_path / "s"))
        new = stack.enter_context(NewPeer(tmp_path / "s"))
        for peer in (old, new):
            peer.load(1)
        assert good.commit(record(1, payload=b"good")) == b"O"
        assert old.begin_commit() == [1]
        old.end_commit(record(1, payload=b"bad"))
        assert old.read(1) == b"I"
        new.store(record(1, payload=b"bad"))
        assert new.expect(ASK, COMMIT)
        error = new.error(CONFIRM)
        assert (error["error"], error["oids"]) == ("WriteConflictError", [int8_to_str(1).hex()])
        assert good.load(1) == record(1, payload=b"good")


def test_a_stale_object_that_was_never_loaded_cannot_be_stored(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """The server need not have sent an object to notice that a commit overwrites a newer one."""
    with (
        serving(tmp_path, storage),
        OldPeer(tmp_path / "s") as good,
        OldPeer(tmp_path / "s") as old,
        NewPeer(tmp_path / "s") as new,
    ):
        assert old.begin_commit() == []
        assert good.commit(record(1, payload=b"good")) == b"O"
        old.end_commit(record(1, payload=b"bad"))
        assert old.read(1) == b"I"
        new.store(record(1, payload=b"bad"))
        assert new.error(COMMIT)["error"] == "WriteConflictError"
        assert good.load(1) == record(1, payload=b"good")


def test_a_readonly_server_refuses_changes(tmp_path: Path, storage: MemoryStorage) -> None:
    """New oids, commits and packs are refused, with a reason or by dropping; loads are not."""
    with serving(tmp_path, storage, readonly=True):
        with NewPeer(tmp_path / "s") as peer:
            assert peer.hello["readonly"] is True
            assert peer.error(NEW_OIDS, pack(">L", 1))["error"] == "StorageReadOnlyError"
            peer.store(record(1, payload=b"x"))
            assert peer.error(COMMIT)["error"] == "StorageReadOnlyError"
            assert peer.error(0x18)["error"] == "StorageReadOnlyError"
            assert peer.load(1) == [record(1)]
        for request in (b"N", b"M\1", b"P", b"C" + transaction_1(record(1, payload=b"x"))):
            with OldPeer(tmp_path / "s") as old:
                assert old.load(1) == record(1)
                old.send(request)
                old.wait_for_end()


def test_a_client_that_leaves_in_the_middle_of_its_commit(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """Who sends a commit and does not wait for the answer harms nobody; it is done or not."""
    with serving(tmp_path, storage), unharmed(tmp_path / "s", storage):
        for number in range(50):
            said = transaction_1(record(1, payload=b"%d" % number))
            with OldPeer(tmp_path / "s") as peer:
                peer.begin_commit()
                peer.send(said[: len(said) - number % 3])
                peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_strangers_may_not_stop_the_server(tmp_path: Path, storage: MemoryStorage) -> None:
    """Where clients have to prove something, a Q that proves nothing is refused."""
    with serving(
        tmp_path, storage, host="127.0.0.1", port=0, secret=b"s3cret", allow_protocol_1=True
    ) as server:
        assert isinstance(server.address, HostPortAddress)
        place = ("127.0.0.1", server.address.port)
        with OldPeer(place) as peer:
            peer.send(b"Q")
            assert peer.is_dropped()
        with Peer(place) as peer:
            peer.send(b"Q")
            assert peer.is_dropped()
        with NewPeer(place, b"s3cret") as good:
            assert good.load(1) == [record(1)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_other_users_may_not_stop_the_server(storage: MemoryStorage) -> None:
    """On a Unix socket, Q and STOP of a process of another user are refused."""
    # Not tmp_path: others may not enter what is above it.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder)
        with serving(path, storage), OldPeer(path / "s") as good:
            (path / "s").chmod(0o777)
            # The system notes who connects when he does.
            os.seteuid(65534)
            try:
                old, new = OldPeer(path / "s"), NewPeer(path / "s")
            finally:
                os.seteuid(0)
            with old, new:
                old.send(b"Q")
                assert old.is_dropped()
                assert new.error(STOP)["error"] == "AuthenticationError"
            assert good.load(1) == record(1)
