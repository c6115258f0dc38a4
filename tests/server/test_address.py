"""Where a server listens."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from durus._wire.address import (
    HostPortAddress,
    InheritedSocket,
    SocketAddress,
    UnixAbstractAddress,
    UnixDomainSocketAddress,
    inherited_socket,
    is_loopback,
    parse_host_port,
)
from durus.error import StorageDisconnectedError
from durus.storage import MemoryStorage
from durus.storage_server import StorageServer


def is_connected(client: socket.socket, listening: socket.socket) -> bool:
    """Send a byte from one to the other."""
    server, _ = listening.accept()
    with server:
        client.sendall(b"x")
        return server.recv(1) == b"x"


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


HOSTS = [
    "127.0.0.1",
    "localhost",
    pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")),
]


@pytest.mark.parametrize("host", HOSTS)
def test_tcp_finds_a_free_port_and_connects(host: str) -> None:
    """With the port 0 any free one is taken, and the address then says which."""
    address = HostPortAddress(host, 0)
    with address.get_listening_socket() as listening:
        assert address.port == listening.getsockname()[1] != 0
        with address.get_connected_socket() as client:
            assert is_connected(client, listening)
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_tcp_that_is_taken_says_where() -> None:
    """Listening where somebody listens is an OSError that names the address."""
    with HostPortAddress(port=0).get_listening_socket() as listening:
        taken = HostPortAddress(port=listening.getsockname()[1])
        with pytest.raises(OSError, match=str(taken)) as caught:
            taken.get_listening_socket()
        assert caught.value.errno == errno.EADDRINUSE


def test_a_port_can_be_taken_again_at_once() -> None:
    """A server that was restarted listens though connections of the last one are in memory."""
    address = HostPortAddress(port=0)
    with address.get_listening_socket() as listening, address.get_connected_socket():
        server, _ = listening.accept()
        server.close()
    address.get_listening_socket().close()


@pytest.mark.parametrize("kind", ["tcp", "unix", "abstract"])
def test_nobody_there_is_a_lost_server(kind: str, tmp_path: Path) -> None:
    """Connecting where nobody listens is an error that names the address, and what starts one."""
    address = {
        "tcp": HostPortAddress(port=1),
        "unix": UnixDomainSocketAddress(str(tmp_path / "none")),
        "abstract": UnixAbstractAddress(f"{tmp_path}/none"),
    }[kind]
    with pytest.raises(StorageDisconnectedError) as caught:
        address.get_connected_socket()
    assert str(address) in str(caught.value)
    assert "start it with 'durus serve'" in str(caught.value)


def test_an_unknown_host_is_named() -> None:
    """Where the system knows no such host, the errors name the address, and what stands there."""
    with pytest.raises(OSError, match=r"cannot listen at no-such-host\.invalid:2972: "):
        HostPortAddress("no-such-host.invalid").get_listening_socket()
    with pytest.raises(StorageDisconnectedError, match=r"app\.invalid:2972: .*name of a host"):
        parse_host_port("app.invalid").get_connected_socket()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[UnixDomainSocketAddress, socket.socket]]:
    """The address of a server that takes nobody, whose queue is full, and its socket."""
    address = UnixDomainSocketAddress(str(tmp_path / "full"))
    with socket.socket(socket.AF_UNIX) as listening, ExitStack() as waiting:
        listening.bind(address.filename)
        listening.listen(0)
        while True:
            client = waiting.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(address.filename)
            except BlockingIOError:
                break
        yield address, listening


def take_one(listening: socket.socket) -> None:
    listening.accept()[0].close()


def test_a_full_queue_is_waited_for(full: tuple[UnixDomainSocketAddress, socket.socket]) -> None:
    """A server that is too busy to take a client is there as soon as it has taken another one."""
    address, listening = full
    taker = threading.Timer(0.05, take_one, [listening])
    taker.start()
    address.get_connected_socket(timeout_s=60).close()
    taker.join()


def test_a_full_queue_is_waited_for_so_long(
    full: tuple[UnixDomainSocketAddress, socket.socket],
) -> None:
    """When the time is over, the error says that the server did not answer in time."""
    address, _ = full
    start = time.monotonic()
    with pytest.raises(StorageDisconnectedError, match=r"full: it did not answer within 0\.05 s"):
        address.get_connected_socket(timeout_s=0.05)
    assert time.monotonic() - start >= 0.05


def test_a_unix_socket_listens_and_is_gone_at_the_end(tmp_path: Path) -> None:
    """A Unix socket's file is there while it is served, and removed after."""
    address = UnixDomainSocketAddress(str(tmp_path / "s"))
    listening = address.get_listening_socket()
    with address.get_connected_socket() as client:
        assert is_connected(client, listening)
    address.close(listening)
    assert not os.path.lexists(tmp_path / "s")


@pytest.mark.parametrize(("umask", "mode"), [(0o000, 0o777), (0o077, 0o700), (0o117, 0o660)])
def test_the_umask_decides_who_may_connect(tmp_path: Path, umask: int, mode: int) -> None:
    """The file has the permissions that the umask leaves, and the process keeps its own umask."""
    before = os.umask(0o022)
    try:
        address = UnixDomainSocketAddress(str(tmp_path / "s"), umask=umask)
        address.close(address.get_listening_socket())
        listening = address.get_listening_socket()
        assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == mode
        address.close(listening)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


@pytest.mark.parametrize("by_name", [True, False])
def test_owner_and_group_may_be_names_or_numbers(tmp_path: Path, by_name: bool) -> None:
    """The file belongs to whom the address says."""
    uid, gid = os.getuid(), os.getgid()
    if os.getuid() == 0:
        uid, gid = pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid
    owner: str | int = pwd.getpwuid(uid).pw_name if by_name else uid
    group: str | int = grp.getgrgid(gid).gr_name if by_name else gid
    address = UnixDomainSocketAddress(str(tmp_path / "s"), owner=owner, group=group)
    listening = address.get_listening_socket()
    status = os.stat(tmp_path / "s")
    assert (status.st_uid, status.st_gid) == (uid, gid)
    address.close(listening)


@pytest.mark.parametrize("option", ["owner", "group"])
def test_an_unknown_owner_is_named_before_anything_is_made(tmp_path: Path, option: str) -> None:
    """A user or group that does not exist is an error, and no file is left."""
    address = SocketAddress.new(str(tmp_path / "s"), **{option: "no-such-one"})
    with pytest.raises(ValueError, match="no-such-one"):
        address.get_listening_socket()
    assert not os.path.lexists(tmp_path / "s")


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """The file of a server that was killed is no obstacle."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
    address = UnixDomainSocketAddress(str(tmp_path / "s"))
    with address.get_listening_socket() as listening, address.get_connected_socket() as client:
        assert is_connected(client, listening)


@pytest.mark.parametrize("backlog", [0, 10])
def test_a_live_socket_is_never_replaced(tmp_path: Path, backlog: int) -> None:
    """Where a server listens, however busy, a second one is refused and the first goes on."""
    first = socket.socket(socket.AF_UNIX)
    first.bind(str(tmp_path / "s"))
    first.listen(backlog)
    waiting = []
    if backlog == 0:
        # Its queue is full: connecting would block.
        for _ in range(2):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(str(tmp_path / "s"))
            waiting.append(client)
    with pytest.raises(OSError, match=str(tmp_path)) as caught:
        UnixDomainSocketAddress(str(tmp_path / "s")).get_listening_socket()
    assert caught.value.errno == errno.EADDRINUSE
    first.accept()[0].close()
    for client in waiting:
        client.close()
    first.close()


@pytest.mark.parametrize("make", ["write_bytes", "mkdir", "symlink_to"])
def test_what_is_no_socket_is_never_removed(tmp_path: Path, make: str) -> None:
    """A file, a directory or a link at the path is left as it is, and named."""
    arguments = {"write_bytes": [b"data"], "mkdir": [], "symlink_to": ["elsewhere"]}[make]
    getattr(tmp_path / "s", make)(*arguments)
    before = os.lstat(tmp_path / "s")
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        UnixDomainSocketAddress(str(tmp_path / "s")).get_listening_socket()
    assert os.lstat(tmp_path / "s").st_ino == before.st_ino


def test_a_socket_that_took_our_place_is_not_removed(tmp_path: Path) -> None:
    """At its end a server removes its own file only, not that of one that came after it."""
    path = tmp_path / "s"
    address = UnixDomainSocketAddress(str(path))
    listening = address.get_listening_socket()
    path.rename(tmp_path / "moved")
    second = UnixDomainSocketAddress(str(path))
    with second.get_listening_socket():
        address.close(listening)
        with second.get_connected_socket():
            assert path.is_socket()


def test_a_path_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    """A folder that is missing is an OSError that names the path."""
    path = str(tmp_path / "none" / "s")
    with pytest.raises(OSError, match=path):
        UnixDomainSocketAddress(path).get_listening_socket()


def test_an_abstract_socket_leaves_nothing(tmp_path: Path) -> None:
    """An abstract socket listens without a file; a second server is refused."""
    address = SocketAddress.new(f"@{tmp_path}/s")
    assert str(address) == f"@{tmp_path}/s"
    with address.get_listening_socket() as listening, address.get_connected_socket() as client:
        assert is_connected(client, listening)
        with pytest.raises(OSError, match=str(address)):
            address.get_listening_socket()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["tcp", "unix", "abstract"])
def test_an_inherited_socket_says_where_it_listens(kind: str, tmp_path: Path) -> None:
    """A socket that somebody else opened is served as it is, and its place has a name."""
    original: SocketAddress = {
        "tcp": HostPortAddress(port=0),
        "unix": UnixDomainSocketAddress(str(tmp_path / "s")),
        "abstract": UnixAbstractAddress(f"{tmp_path}/s"),
    }[kind]
    with original.get_listening_socket() as listening:
        address = SocketAddress.new(listening)
        assert isinstance(address, InheritedSocket)
        assert str(address) == str(original)
        assert is_loopback(address)
        with address.get_connected_socket() as client:
            assert is_connected(client, address.get_listening_socket())


ACTIVATED = """
import os, socket, sys
from durus._wire.address import inherited_socket
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
count = int(sys.argv[2])
kept = os.dup2(listening.fileno(), 3) if listening.fileno() != 3 else 3
os.environ.update(LISTEN_FDS=str(count), LISTEN_PID=sys.argv[3] or str(os.getpid()))
try:
    found = inherited_socket()
except ValueError as error:
    found = error
print(found, os.environ.get("LISTEN_FDS"), os.environ.get("LISTEN_PID"))
if not isinstance(found, (ValueError, type(None))):
    print(os.get_inheritable(3), found.socket.getsockname() == sys.argv[1])
os._exit(0 if sys.stdout.flush() is None else 1)
"""


def activate(path: Path, count: int, pid: str = "") -> str:
    """Give what a process finds that was started with so many sockets."""
    command = [sys.executable, "-c", ACTIVATED, str(path), str(count), pid]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_socket_that_was_handed_down_is_found(tmp_path: Path) -> None:
    """systemd's socket is taken, once, and no child of the server gets it."""
    assert activate(tmp_path / "s", 1) == f"{tmp_path}/s None None\nFalse True\n"


def test_a_socket_for_another_process_is_left_alone(tmp_path: Path) -> None:
    """What was meant for another process is not taken."""
    assert activate(tmp_path / "s", 1, "1") == "None 1 1\n"


def test_several_sockets_are_refused(tmp_path: Path) -> None:
    """Several handed-down sockets are an error that says so."""
    assert "2 were handed down" in activate(tmp_path / "s", 2)


def test_without_activation_nothing_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was started by hand has no handed-down socket."""
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert inherited_socket() is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (HostPortAddress("127.0.0.1"), True),
        (HostPortAddress("127.9.9.9"), True),
        (HostPortAddress("localhost"), True),
        (HostPortAddress(""), False),
        (HostPortAddress("0.0.0.0"), False),
        (HostPortAddress("::"), False),
        (HostPortAddress("192.0.2.1"), False),
        (UnixDomainSocketAddress("/s"), True),
        (UnixAbstractAddress("s"), True),
    ],
    ids=str,
)
def test_loopback_is_told_from_the_world(address: SocketAddress, expected: bool) -> None:
    """Only where other machines cannot connect is an address loopback."""
    assert is_loopback(address) is expected


def test_of_an_unknown_host_nothing_can_be_told() -> None:
    """Whoever misspells a host is not told that other machines can reach it."""
    with pytest.raises(OSError, match=r"cannot listen at no-such-host\.invalid:2972: "):
        StorageServer(MemoryStorage(), "no-such-host.invalid")


def test_an_inherited_socket_of_the_world_is_no_loopback() -> None:
    """A handed-down socket that listens on all interfaces counts as such."""
    with socket.create_server(("", 0)) as listening:
        assert not is_loopback(InheritedSocket(listening))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("", "127.0.0.1", 2972),
        ("example.org", "example.org", 2972),
        ("example.org:5", "example.org", 5),
        (":5", "127.0.0.1", 5),
        ("[::1]", "::1", 2972),
        ("[::1]:5", "::1", 5),
        ("::1", "::1", 2972),
    ],
)
def test_host_and_port_are_read(text: str, host: str, port: int) -> None:
    """The host and the port of a URL have defaults, and IPv6 may stand in brackets."""
    address = parse_host_port(text)
    assert (address.host, address.port) == (host, port)


@pytest.mark.parametrize("text", ["a:b", "a:65536", "a:-1", "[::1]5", "[::1]:x", "a:\u0661"])
def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    """A port that is none is a ValueError."""
    with pytest.raises(ValueError, match="port"):
        parse_host_port(text)


@pytest.mark.parametrize("address", ["", None, 5, ("host",), ("host", "5"), (1, 5), ("", 70000)])
def test_what_is_no_address_is_refused(address: object) -> None:
    """What is neither a path nor host and port is a ValueError that shows it."""
    with pytest.raises(ValueError, match="address"):
        SocketAddress.new(address)  # type: ignore[arg-type]  # that is the point


def test_each_spelling_of_an_address_is_known(tmp_path: Path) -> None:
    """Paths, `@name`, (host, port) and addresses themselves are understood, as 4.3 does."""
    tcp = SocketAddress.new(("localhost", 5))
    assert str(tcp) == "localhost:5"
    assert SocketAddress.new(tcp) is tcp
    assert str(SocketAddress.new(("::1", 5))) == "[::1]:5"
    assert isinstance(SocketAddress.new("relative"), UnixDomainSocketAddress)
    unix = SocketAddress.new(str(tmp_path / "s"), owner="root", group=0, umask=0o77)
    assert isinstance(unix, UnixDomainSocketAddress)
    assert (unix.owner, unix.group, unix.umask) == ("root", 0, 0o77)
    assert isinstance(SocketAddress.new("@s", owner=None), UnixAbstractAddress)
    with pytest.raises(ValueError, match="umask"):
        SocketAddress.new("@s", umask=0)
