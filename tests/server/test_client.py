"""ClientStorage: connecting, losing the server, and servers that cannot be trusted."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import pack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durus._wire import Type, pack_frame
from durus.backends import open_storage
from durus.client_storage import ClientStorage, _storage
from durus.client_storage._protocol_1 import Protocol1
from durus.client_storage._protocol_2 import Protocol2
from durus.client_storage._transport import Transport
from durus.connection import Connection
from durus.error import (
    AuthenticationError,
    BackendError,
    CommitUnknownError,
    DurusError,
    ProtocolError,
    StorageClosedError,
    StorageDisconnectedError,
    StorageError,
    StorageReadOnlyError,
)
from durus.file_storage import FileStorage
from durus.storage import MemoryStorage, Storage
from durus.storage_server import Limits, StorageServer
from durus.testing import commit
from durus.utils import int8_to_str

from .peers import record, serving
from .proxies import Proxy


@pytest.fixture
def storage() -> MemoryStorage:
    """Make a storage with a root, and 1 to 3 that it refers to."""
    storage = MemoryStorage()
    commit(storage, record(0, [1, 2, 3]), record(1), record(2), record(3))
    return storage


def is_alive(client: Storage) -> bool:
    return client.load(int8_to_str(3)) == record(3)


# -- connecting


def test_arguments_of_durus_43_are_understood(tmp_path: Path, storage: MemoryStorage) -> None:
    """Host and port by place or by name, and an address of each kind, reach the server."""
    with serving(tmp_path, storage, port=0) as server:
        port = server.address.port  # type: ignore[attr-defined]  # a TCP address has one
        for client in (
            ClientStorage("127.0.0.1", port),
            ClientStorage(host="localhost", port=port),
            ClientStorage(address=("127.0.0.1", port)),
            ClientStorage("nowhere.invalid", 1, server.address),
        ):
            with client:
                assert is_alive(client)
                assert str(port) in str(client)


@pytest.mark.parametrize("slashes", ["", "//"])
def test_a_url_of_a_unix_socket_opens_it(
    tmp_path: Path, storage: MemoryStorage, slashes: str
) -> None:
    """`durus+unix:` and a path open a server, with options that a URL can spell."""
    with serving(tmp_path, storage):
        url = f"durus+unix:{slashes}{tmp_path}/s?compress=1&timeout_s=60&wait_s=1&readonly=yes"
        with open_storage(url) as client:
            assert is_alive(client)
            with pytest.raises(StorageReadOnlyError):
                client.begin()


def test_a_url_of_tcp_opens_it(tmp_path: Path, storage: MemoryStorage) -> None:
    """`durus://host:port` opens a server, and `secret_file` names where the secret is."""
    (tmp_path / "secret").write_bytes(b"  open sesame\n")
    with serving(tmp_path, storage, port=0, secret=b"open sesame") as server:
        with open_storage(f"durus://{server.address}?secret_file={tmp_path}/secret") as client:
            assert is_alive(client)
        with open_storage(f"durus://{server.address}", secret=b"open sesame") as client:
            assert is_alive(client)


def test_a_secret_does_not_stand_in_a_url() -> None:
    """A URL, which is logged and shown, takes no secret."""
    with pytest.raises(BackendError, match="secret"):
        open_storage("durus://localhost?secret=sesame")


def test_an_abstract_socket_is_opened_by_url(tmp_path: Path, storage: MemoryStorage) -> None:
    """`durus+unix:@name` opens a server at an abstract socket."""
    with (
        serving(tmp_path, storage, address=f"@{tmp_path}/s"),
        open_storage(f"durus+unix:@{tmp_path}/s") as client,
    ):
        assert is_alive(client)


def test_a_client_waits_for_its_server(tmp_path: Path, storage: MemoryStorage) -> None:
    """With `wait_s` a client may come before its server."""
    server = StorageServer(storage, address=str(tmp_path / "s"))
    tried = threading.Event()

    class Address(_storage.UnixDomainSocketAddress):
        def get_connected_socket(self, timeout_s: float | None = None) -> socket.socket:
            try:
                return super().get_connected_socket(timeout_s)
            finally:
                tried.set()

    def start() -> None:
        tried.wait()
        server.start()

    starter = threading.Thread(target=start)
    starter.start()
    with ClientStorage(address=Address(str(tmp_path / "s")), wait_s=60) as client:
        assert is_alive(client)
    starter.join()
    server.stop()


def test_without_a_server_there_is_no_client(tmp_path: Path) -> None:
    """Without `wait_s`, and when it is over, a missing server is an error that names the place."""
    for wait_s in (0, 0.01):
        with pytest.raises(StorageDisconnectedError, match=str(tmp_path / "s")):
            ClientStorage(address=str(tmp_path / "s"), wait_s=wait_s)


@pytest.mark.parametrize("is_old", [True, False])
def test_what_a_secret_protects_is_not_told_to_others(
    tmp_path: Path, storage: MemoryStorage, is_old: bool
) -> None:
    """A client with a secret speaks with no server that does not prove to know it."""
    with (
        serving(tmp_path, storage) as server,
        Proxy(str(tmp_path / "p"), server.address, is_old=is_old) as proxy,
        pytest.raises(ProtocolError if is_old else AuthenticationError),
    ):
        ClientStorage(address=proxy.path, secret=b"sesame")


@pytest.mark.parametrize("secret", [None, b"wrong", b"sesame "])
def test_without_the_secret_nobody_gets_in(
    tmp_path: Path, storage: MemoryStorage, secret: bytes | None
) -> None:
    """A client with another secret, or with none, is refused."""
    with serving(tmp_path, storage, secret=b"sesame"), pytest.raises(AuthenticationError):
        ClientStorage(address=str(tmp_path / "s"), secret=secret)


def test_an_empty_secret_is_refused(tmp_path: Path) -> None:
    """An empty secret file is not taken for a secret, nor for none."""
    (tmp_path / "secret").write_bytes(b"\n")
    with pytest.raises(ValueError, match="empty"):
        open_storage(f"durus+unix:{tmp_path}/s?secret_file={tmp_path}/secret")


# -- the contract's corners


def test_a_client_that_is_read_only_changes_nothing(tmp_path: Path, storage: MemoryStorage) -> None:
    """`readonly=True` refuses changes whatever the server allows, in further sessions too."""
    with serving(tmp_path, storage), ClientStorage(address=str(tmp_path / "s"), readonly=True) as c:
        for client in (c, c.new_session()):
            for change in (client.begin, client.new_oid, client.pack, client.get_packer):
                with pytest.raises(StorageReadOnlyError):
                    change()
            client.close()


def test_a_server_that_is_read_only_is_not_asked_for_changes(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """What is served read-only says so when a change begins."""
    with (
        serving(tmp_path, storage, readonly=True),
        ClientStorage(address=str(tmp_path / "s")) as client,
    ):
        assert is_alive(client)
        for change in (client.begin, client.new_oid, client.pack):
            with pytest.raises(StorageReadOnlyError):
                change()


def test_stale_oids_that_nobody_was_told_come_with_sync(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """What `end()` had no handler to tell is given by the next `sync()`."""
    for is_old in (True, False):
        with (
            serving(tmp_path, storage) as server,
            Proxy(str(tmp_path / "p"), server.address, is_old=is_old) as proxy,
            ClientStorage(address=proxy.path) as client,
            ClientStorage(address=server.address) as other,
        ):
            client.load(int8_to_str(2))
            commit(other, record(2, payload=b"by another"))
            commit(client, record(1, payload=b"by this"))
            assert client.sync() == [int8_to_str(2)]
            assert client.sync() == []
        storage = MemoryStorage()
        commit(storage, record(0, [1, 2]), record(1), record(2))


def test_oids_come_in_growing_batches(tmp_path: Path, storage: MemoryStorage) -> None:
    """Ten thousand new oids are different, and take few requests."""
    with (
        serving(tmp_path, storage) as server,
        Proxy(str(tmp_path / "p"), server.address) as proxy,
        ClientStorage(address=proxy.path) as client,
    ):
        before = proxy.newest.counts["request"]
        assert len({client.new_oid() for _ in range(10_000)}) == 10_000
        assert proxy.newest.counts["request"] - before < 20 * 13


def test_a_walk_takes_few_requests(tmp_path: Path) -> None:
    """Loading what a container refers to takes far fewer requests than there are objects."""
    storage = MemoryStorage()
    numbers = range(1, 2000)
    commit(storage, record(0, [*numbers]), *(record(number) for number in numbers))
    with (
        serving(tmp_path, storage) as server,
        Proxy(str(tmp_path / "p"), server.address) as proxy,
        ClientStorage(address=proxy.path) as client,
    ):
        before = proxy.newest.counts["request"]
        for number in range(2000):
            assert client.load(int8_to_str(number))[:8] == int8_to_str(number)
        assert proxy.newest.counts["request"] - before < 21 * 100


def test_what_was_read_ahead_and_is_stale_is_not_given(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """A record that came early is forgotten when it changes, by this client or by another."""
    with (
        serving(tmp_path, storage),
        ClientStorage(address=str(tmp_path / "s")) as client,
        ClientStorage(address=str(tmp_path / "s")) as other,
    ):
        client.load(bytes(8))
        commit(other, record(1, payload=b"by another"))
        commit(client, record(2, payload=b"by this"))
        client.sync()
        assert client.load(int8_to_str(1)) == record(1, payload=b"by another")
        assert client.load(int8_to_str(2)) == record(2, payload=b"by this")


def test_a_transaction_that_is_too_long_is_refused_before_it_is_sent(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """What the server would not take is refused here, with the sizes, and the client goes on."""
    limits = Limits(transaction_bytes=10_000)
    with (
        serving(tmp_path, storage, limits=limits),
        ClientStorage(address=str(tmp_path / "s")) as client,
    ):
        with pytest.raises(StorageError, match="10000"):
            commit(client, record(1, payload=bytes(10_000)))
        assert client.load(int8_to_str(1)) == record(1)
        commit(client, record(1, payload=bytes(5_000)))


@pytest.mark.parametrize("compress", [True, False])
def test_large_transactions_go_through(
    tmp_path: Path, storage: MemoryStorage, *, compress: bool
) -> None:
    """A commit of many frames, with records of all sizes, is stored as it is."""
    with (
        serving(tmp_path, storage),
        ClientStorage(address=str(tmp_path / "s"), compress=compress) as client,
    ):
        sizes = [0, 10_000, 1 << 20, 5 << 20, 100] * 3
        numbers = [int.from_bytes(client.new_oid(), "big") for _ in sizes]
        records = [
            record(number, payload=(os.urandom(size // 2) + bytes(size // 2)))
            for number, size in zip(numbers, sizes, strict=True)
        ]
        commit(client, *records)
        with client.new_session() as other:
            assert list(other.bulk_load([found[:8] for found in records])) == records


# -- losing the server


def test_a_server_that_comes_back_is_found_by_sync(tmp_path: Path) -> None:
    """After a restart everything fails but `sync()`, which connects again."""
    with serving(tmp_path, file_at(tmp_path / "f")):
        client = ClientStorage(address=str(tmp_path / "s"))
        client.begin()
        client.store(int8_to_str(1), record(1, payload=b"never sent"))
    with serving(tmp_path, file_at(tmp_path / "f")), client:
        for use in (
            client.end,
            lambda: client.load(bytes(8)),
            lambda: list(client.bulk_load([bytes(8)])),
            client.begin,
            client.new_oid,
            client.describe,
            client.get_packer,
            client.status,
        ):
            with pytest.raises(StorageDisconnectedError):
                use()
        assert client.sync() is None
        assert client.load(int8_to_str(1)) == record(1)
        assert client.sync() == []


def test_a_server_that_stays_away_is_an_error_of_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """`sync()` logs for how long it tries, then raises, and may be called again."""
    monkeypatch.setattr(_storage, "_RECONNECT_S", 0.05)
    with serving(tmp_path, file_at(tmp_path / "f")):
        client = ClientStorage(address=str(tmp_path / "s"))
    with pytest.raises(StorageDisconnectedError, match="a command that is run again"):
        client.load(bytes(8))
    for _ in range(2):
        caplog.clear()
        with pytest.raises(StorageDisconnectedError, match=str(tmp_path / "s")):
            client.sync()
        waiting = f"the server at {tmp_path / 's'} is gone; waiting up to 0.05 s for it"
        assert caplog.messages == [waiting]
    with serving(tmp_path, file_at(tmp_path / "f")), client:
        assert client.sync() is None
        assert is_alive(client)


def test_a_server_that_comes_back_with_another_database_is_not_used(tmp_path: Path) -> None:
    """What a client has in memory is not mixed with it; the right database is found again."""
    with serving(tmp_path, file_at(tmp_path / "f")):
        client = ClientStorage(address=str(tmp_path / "s"))
    with serving(tmp_path, file_at(tmp_path / "another")):
        for _ in range(2):
            with pytest.raises(StorageDisconnectedError, match="another database"):
                client.sync()
            with pytest.raises(StorageDisconnectedError):
                client.load(bytes(8))
    with serving(tmp_path), pytest.raises(StorageDisconnectedError, match="another database"):
        client.sync()
    with serving(tmp_path, file_at(tmp_path / "f")), client:
        assert client.sync() is None
        assert is_alive(client)


def file_at(path: Path) -> FileStorage:
    """Open a file that has what `storage` has, or make it."""
    storage = FileStorage(path)
    if not any(storage.gen_oid_record()):
        commit(storage, record(0, [1, 2, 3]), record(1), record(2), record(3))
    return storage


def test_a_client_of_no_server_can_be_closed(tmp_path: Path, storage: MemoryStorage) -> None:
    """Closing needs no server, and closed is closed, for `sync()` too."""
    with serving(tmp_path, storage):
        client = ClientStorage(address=str(tmp_path / "s"))
    client.close()
    client.close()
    for use in (client.sync, client.new_session, client.begin, client.stop_server):
        with pytest.raises(StorageClosedError):
            use()


def test_a_child_does_not_use_the_connection_of_its_parent(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """After a fork the child is told so, makes a connection of its own, and harms no other."""
    with serving(tmp_path, storage), ClientStorage(address=str(tmp_path / "s")) as client:
        client.new_oid()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            said = b"nothing"
            try:
                try:
                    client.load(bytes(8))
                except StorageDisconnectedError as error:
                    said = b"fork" if "fork" in str(error) else str(error).encode()
                assert client.sync() is None
                assert is_alive(client)
                said += b" %d" % int.from_bytes(client.new_oid(), "big")
                client.close()
            except BaseException as error:  # noqa: BLE001 - the parent is told
                said = repr(error).encode()
            finally:
                os.write(writer, said)
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            said = pipe.read().decode()
        os.waitpid(child, 0)
        assert said.startswith("fork ")
        assert is_alive(client)
        rest_of_the_batch = {int.from_bytes(client.new_oid(), "big") for _ in range(15)}
        assert int(said.split()[1]) not in rest_of_the_batch


def test_a_child_that_closes_it_leaves_its_parent_connected(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """A forked child may close what it got from its parent, who goes on."""
    with serving(tmp_path, storage), ClientStorage(address=str(tmp_path / "s")) as client:
        child = os.fork()
        if child == 0:
            client.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert is_alive(client)


@contextmanager
def silent_server(path: Path, *says: bytes) -> Iterator[None]:
    """Accept clients, say the same to each, and then nothing."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        accepted: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    accepted.append(listening.accept()[0])
                    accepted[-1].sendall(b"".join(says))

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
            for sock in accepted:
                sock.close()


HELLO = pack_frame(
    Type.HELLO, 0, b'{"auth": "none", "nonce": "", "max_transaction": 1000, "compress": true}'
)
WELCOME = pack_frame(Type.WELCOME, 0, b"{}")
GREETING = pack(">L", 2) + HELLO + WELCOME


@pytest.mark.parametrize("greeting", [b"", GREETING[:10], GREETING[:-1], GREETING])
def test_a_server_that_does_not_answer_is_given_up(tmp_path: Path, greeting: bytes) -> None:
    """With `timeout_s` no request waits for ever, and a commit in which it ends is unknown."""
    with silent_server(tmp_path / "s", greeting):
        if greeting != GREETING:
            with pytest.raises(StorageDisconnectedError, match="timed out"):
                ClientStorage(address=str(tmp_path / "s"), timeout_s=0.05)
            return
        client = ClientStorage(address=str(tmp_path / "s"), timeout_s=0.05)
        with pytest.raises(StorageDisconnectedError, match="timed out"):
            client.load(bytes(8))
        assert client.sync() is None
        with pytest.raises(CommitUnknownError):
            commit(client, record(1))


@pytest.mark.parametrize("before", [0, 1, 4, 8])
def test_an_interrupt_in_an_answer_ends_the_connection(
    tmp_path: Path, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    """Control-C while an answer comes is raised, and the rest of the answer is nobody's."""
    with serving(tmp_path, storage), ClientStorage(address=str(tmp_path / "s")) as client:
        this_thread = threading.get_ident()
        receive = socket.socket.recv
        left = [before]

        def interrupted(sock: socket.socket, size: int, *flags: int) -> bytes:
            if threading.get_ident() != this_thread:
                return receive(sock, size, *flags)
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return receive(sock, 1, *flags)

        monkeypatch.setattr(socket.socket, "recv", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.load(int8_to_str(1))
        monkeypatch.undo()
        with pytest.raises(StorageDisconnectedError):
            client.load(int8_to_str(3))
        assert client.sync() is None
        assert is_alive(client)


def test_an_interrupt_by_a_signal_ends_the_connection(tmp_path: Path) -> None:
    """Control-C ends the wait for a server that does not answer."""
    with silent_server(tmp_path / "s", GREETING), ClientStorage(address=str(tmp_path / "s")) as c:
        waiting = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
        waiting.start()
        with pytest.raises(KeyboardInterrupt):
            c.load(bytes(8))
        with pytest.raises(StorageDisconnectedError):
            c.load(bytes(8))


def test_a_refused_commit_ends_nothing(tmp_path: Path, storage: MemoryStorage) -> None:
    """After a server has refused a commit with a reason, its client goes on."""
    with serving(tmp_path, storage), ClientStorage(address=str(tmp_path / "s")) as client:
        for _ in range(3):
            with pytest.raises(StorageError, match="was given"):
                commit(client, record(999))
            assert is_alive(client)
        commit(client, record(1, payload=b"allowed"))


def test_a_status_and_a_stop(tmp_path: Path, storage: MemoryStorage) -> None:
    """The server says how it does, and stops when it is asked to; then nobody listens."""
    with serving(tmp_path, storage):
        client = ClientStorage(address=str(tmp_path / "s"))
        assert client.status()
        client.stop_server()
        with pytest.raises(StorageDisconnectedError):
            client.load(bytes(8))
        assert not os.path.lexists(tmp_path / "s")
        client.close()


def test_two_connections_share_a_server(tmp_path: Path) -> None:
    """What one Connection commits, another sees after `abort()`, and objects keep their classes."""
    with serving(tmp_path):
        first = Connection(f"durus+unix:{tmp_path}/s")
        second = Connection(f"durus+unix:{tmp_path}/s")
        first.get_root()["words"] = ["a", "b"]
        first.commit()
        second.abort()
        assert second.get_root()["words"] == ["a", "b"]
        for connection in (first, second):
            connection.get_storage().close()


# -- servers that send anything


def attempt(client: Protocol1 | Protocol2, number: int) -> object:
    """Make one of the requests."""
    oid = bytes(8)
    requests: list[Callable[[], object]] = [
        lambda: client.load(oid),
        lambda: client.load(int8_to_str(1)),
        lambda: client.load_many([oid, oid]),
        client.sync,
        lambda: client.new_oids(3),
        lambda: client.commit({oid: record(0)}, None),
        lambda: list(client.gen_pack()),
        client.describe,
        client.status,
    ]
    return requests[number]()


@contextmanager
def answering(data: bytes) -> Iterator[Transport]:
    """Give a connection in which the server's answers to everything have come already."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        yield Transport(ours, "a test")


def nearly_right() -> st.SearchStrategy[bytes]:
    """Make payloads that are nearly right."""
    one = record(0)
    return st.sampled_from(
        [
            b"",
            b"\0",
            b"\1",
            b"\0" * 8,
            b"\0" * 9,
            b"\0" * 24,
            pack(">L", len(one)) + one,
            (pack(">L", len(one)) + one) * 2,
            pack(">L", len(one)) + one + b"\0\0\0\x05",
            pack(">LL", 0xFFFFFFFF, 0xFFFFFFFE),
            pack(">L", 5) + bytes(8),
            b"{}",
            b'{"error": "WriteConflictError", "oids": [1]}',
            b'{"error": "StorageWriteError", "message": "full"}',
            b'{"last_commit_time": 1e400, "size_bytes": true}',
            b'{"last_commit_time": 99999999999999999999999999}',
        ]
    )


FRAMES = st.lists(
    st.builds(
        lambda kind, number, payload, flag: pack_frame(kind | flag, number, payload),
        st.sampled_from(Type),
        st.sampled_from([0, 1, 1, 2, 2, 3, 4]),
        nearly_right() | st.binary(max_size=40),
        st.sampled_from([0, 0, 0, 0x40]),
    ),
    max_size=6,
).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(
    said=st.one_of(st.binary(max_size=60), FRAMES, st.builds(bytes.__add__, FRAMES, st.binary())),
    attempts=st.lists(st.integers(0, 8), min_size=1, max_size=4),
)
def test_whatever_a_server_of_protocol_2_says_it_is_an_answer_or_an_error(
    said: bytes, attempts: list[int]
) -> None:
    """Arbitrary frames raise errors of ours alone, and leave no half-read connection in use."""
    with answering(HELLO + WELCOME + said) as transport:
        client = Protocol2(transport)
        for number in attempts:
            with suppress(DurusError):
                attempt(client, number)
            assert transport.is_whole or not transport.is_open


@settings(max_examples=300, deadline=None)
@given(said=st.one_of(st.binary(max_size=60), FRAMES), is_secret=st.booleans())
def test_whatever_a_server_says_first_it_is_a_greeting_or_an_error(
    said: bytes, *, is_secret: bool
) -> None:
    """Arbitrary bytes in place of the greeting raise errors of ours alone."""
    with answering(said) as transport, suppress(DurusError):
        Protocol2(transport, b"secret" if is_secret else None)
        assert not is_secret


@settings(max_examples=300, deadline=None)
@given(
    said=st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            [
                b"O",
                b"K",
                b"I",
                pack(">L", 0),
                pack(">L", 1),
                bytes(8),
                pack(">L", len(record(0))) + record(0),
                b"O" + pack(">L", len(record(0))) + record(0),
                pack(">L", 0xFFFFFFFF),
            ]
        )
    ).map(b"".join),
    attempts=st.lists(st.integers(0, 7), min_size=1, max_size=4),
)
def test_whatever_a_server_of_protocol_1_says_it_is_an_answer_or_an_error(
    said: bytes, attempts: list[int]
) -> None:
    """The same for a server that speaks protocol 1."""
    with answering(said) as transport:
        client = Protocol1(transport)
        for number in attempts:
            with suppress(DurusError):
                attempt(client, number)
            assert transport.is_whole or not transport.is_open


def test_a_server_that_promises_gigabytes_gets_no_memory_for_it() -> None:
    """A length of nearly 4 GiB takes as much memory as has come."""
    with answering(HELLO + WELCOME + pack(">LBL", 0xFFFFFFF0, Type.RECORDS, 1)) as transport:
        client = Protocol2(transport)
        with pytest.raises(StorageDisconnectedError):
            client.load(bytes(8))
