"""How a server begins, whom it lets in, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import threading
from pathlib import Path
from struct import pack

import pytest

from durus.client_storage import ClientStorage
from durus.error import AuthenticationError
from durus.file_storage import FileStorage
from durus.storage import MemoryStorage
from durus.storage_server import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    HostPortAddress,
    Limits,
    SocketAddress,
    StorageServer,
    wait_for_server,
)
from durus.testing import commit

from .peers import (
    COMMIT,
    COMMITTED,
    ERROR,
    NewPeer,
    OldPeer,
    Peer,
    ServerProcess,
    record,
    serving,
    transaction_1,
)


def test_the_names_of_4_3() -> None:
    """Arguments, defaults and constants are those that programs for Durus 4.3 use."""
    server = StorageServer(MemoryStorage(), "localhost", 1234, None, 0)
    assert isinstance(server.address, HostPortAddress)
    assert (server.address.host, server.address.port) == ("localhost", 1234)
    assert (DEFAULT_HOST, DEFAULT_PORT) == ("127.0.0.1", 2972)
    default = StorageServer(storage=MemoryStorage()).address
    assert isinstance(default, HostPortAddress)
    assert (default.host, default.port) == ("127.0.0.1", 2972)
    assert isinstance(StorageServer(MemoryStorage(), address="/s").address, SocketAddress)


def test_serve_blocks_until_it_is_stopped(tmp_path: Path) -> None:
    """serve() returns after stop(), with the storage closed and the socket's file removed."""
    storage = MemoryStorage()
    server = StorageServer(storage, address=str(tmp_path / "s"))
    thread = threading.Thread(target=server.serve)
    thread.start()
    wait_for_server(address=str(tmp_path / "s"), sleeptime=0.01, maxtries=6000)
    with OldPeer(tmp_path / "s") as peer:
        peer.load(0)
        server.stop()
        peer.wait_for_end()
    thread.join()
    assert not (tmp_path / "s").exists()
    with pytest.raises(ValueError, match="closed"):
        storage.load(bytes(8))


def test_a_server_serves_tcp(tmp_path: Path) -> None:
    """Port 0 is any that is free, and the address then says which."""
    with serving(tmp_path, host="127.0.0.1", port=0) as server:
        assert isinstance(server.address, HostPortAddress)
        with NewPeer(("127.0.0.1", server.address.port)) as peer:
            assert peer.commit(record(0)) == []


def test_an_address_that_is_taken_is_an_error(tmp_path: Path) -> None:
    """Where a server listens no other can, and it goes on."""
    with serving(tmp_path), OldPeer(tmp_path / "s") as peer:
        with pytest.raises(OSError, match="listens at"):
            StorageServer(MemoryStorage(), address=str(tmp_path / "s")).start()
        assert peer.load(0) == b"K"


def test_nobody_listens_beyond_this_machine_unasked() -> None:
    """Without authentication only the loopback interface is listened at, unless told otherwise."""
    for host in ("", "0.0.0.0", "192.0.2.1"):
        with pytest.raises(ValueError, match="other machines"):
            StorageServer(MemoryStorage(), host=host)
        StorageServer(MemoryStorage(), host=host, insecure=True)
        StorageServer(MemoryStorage(), host=host, secret=b"x")
    with pytest.raises(ValueError, match="other machines"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        StorageServer(MemoryStorage(), host="", ssl_context=context)
    context.verify_mode = ssl.CERT_REQUIRED
    StorageServer(MemoryStorage(), host="", ssl_context=context)


def test_who_knows_the_secret_is_let_in(tmp_path: Path) -> None:
    """Both sides prove that they know it."""
    with serving(tmp_path, secret=b"s3cret"), NewPeer(tmp_path / "s", b"s3cret") as peer:
        assert peer.hello["auth"] == "secret"
        assert len(bytes.fromhex(peer.welcome["proof"])) == 32
        assert peer.commit(record(0)) == []


def test_wrong_credentials_are_refused_without_a_hint(tmp_path: Path) -> None:
    """Whatever was wrong, the answer is the same, and the connection ends."""
    answers = set()
    with serving(tmp_path, secret=b"s3cret"):
        for secret in (b"", b"s3cre", b"S3cret"):
            with NewPeer(tmp_path / "s", enter=False) as peer:
                answers.add(peer.introduce(secret))
                assert peer.is_dropped()
        for hello in ({}, {"auth": 7}, {"auth": {"nonce": "zz", "proof": ""}}):
            with NewPeer(tmp_path / "s", enter=False) as peer:
                peer.send_frame(0x01, json.dumps(hello).encode(), number=0)
                answers.add(peer.read_frame())
                assert peer.is_dropped()
    [(kind, _, payload)] = answers
    assert kind == ERROR
    assert json.loads(payload)["message"] == "credentials refused"


@pytest.mark.parametrize("secret", [None, b"a guess"])
def test_a_client_is_told_which_server_refuses_it(tmp_path: Path, secret: bytes | None) -> None:
    """The error has the server's address, and what the server asks for."""
    with (
        serving(tmp_path, secret=b"s3cret") as server,
        pytest.raises(AuthenticationError, match=r"the server at .*/s .*(the|a) secret"),
    ):
        ClientStorage(address=server.address, secret=secret)


def test_nothing_is_answered_before_the_secret(tmp_path: Path) -> None:
    """A request in place of HELLO ends the connection."""
    with (
        serving(tmp_path, secret=b"s3cret"),
        NewPeer(tmp_path / "s", enter=False) as peer,
    ):
        peer.send_frame(0x10, bytes(12))
        assert peer.read_frame()[0] == ERROR
        assert peer.is_dropped()


def test_protocol_1_is_off_where_there_is_a_secret(tmp_path: Path) -> None:
    """A client of protocol 1 is told that 2 is spoken here, and dropped, unless it is allowed."""
    with serving(tmp_path, secret=b"s3cret"), Peer(tmp_path / "s") as peer:
        peer.send(b"V\0\0\0\1")
        assert peer.read(4) == b"\0\0\0\2"
        assert peer.is_dropped()
    with (
        serving(tmp_path, secret=b"s3cret", allow_protocol_1=True),
        OldPeer(tmp_path / "s") as old,
    ):
        assert old.load(0) == b"K"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_when_commits_are_done(tmp_path: Path, number: int) -> None:
    """What was sent before is answered and stored, the exit is clean, and the socket is gone."""
    setup = """
import threading, time
gate = threading.Event()
end = FileStorage.end
def slow(self, *args):
    print("SYNCING", file=sys.stderr, flush=True)
    gate.wait()
    end(self, *args)
FileStorage.end = slow
class Opens(logging.Handler):
    def emit(self, record):
        if "stopping" in record.getMessage():
            gate.set()
logging.getLogger("durus").addHandler(Opens())
"""
    with ServerProcess(tmp_path, setup=setup) as server:
        with NewPeer(server.path) as new, OldPeer(server.path) as old, OldPeer(server.path) as idle:
            assert idle.load(0) == b"K"
            new.store(record(0))
            new.send_frame(COMMIT)
            server.wait_for("SYNCING")
            [given] = old.new_oids(1)
            assert old.begin_commit() == []
            old.send(transaction_1(record(given)))
            server.process.send_signal(number)
            assert new.read_frame()[0] == COMMITTED
            for peer in (new, old, idle):
                peer.wait_for_end()
        assert server.process.wait() == 0
        assert not server.path.exists()
    with FileStorage(tmp_path / "f") as storage:
        assert storage.load(bytes(8)) == record(0)


def test_a_pack_is_given_up_when_the_server_stops(tmp_path: Path) -> None:
    """A server that is stopped in the middle of a pack ends at once, and loses nothing."""
    storage = FileStorage(tmp_path / "f")
    refs = list(range(1, 20000))
    commit(storage, record(0, refs), *(record(n) for n in refs))
    with serving(tmp_path, storage) as server, NewPeer(tmp_path / "s") as peer:
        peer.send(pack(">LBL", 5, 0x18, 1))
        server.stop()
        peer.wait_for_end()
    with FileStorage(tmp_path / "f") as again:
        assert again.load(bytes(8)) == record(0, refs)


def test_a_client_that_does_not_read_does_not_keep_the_server(tmp_path: Path) -> None:
    """When a server ends, it waits a limited time for those that leave replies unread."""
    storage = MemoryStorage()
    commit(storage, record(0, payload=b"x" * 1_000_000))
    limits = Limits(drain_s=0.1)
    with serving(tmp_path, storage, limits=limits) as server, OldPeer(tmp_path / "s") as peer:
        peer.send((b"L" + bytes(8)) * 50)
        peer.read(1)
        server.stop()
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(OSError):
            late.connect(str(tmp_path / "s"))
