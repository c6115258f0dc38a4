"""What stands between the two versions but the data: greetings, stops, refusals."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from struct import pack, unpack

import pytest
from compat_serving import PAIRS, Pair, Served, Servers, accepts, connected, free_port, wait_until
from compat_sides import Side, SideError

SideByName = Callable[[str], Side]

pairs = pytest.mark.parametrize("pair", PAIRS, ids=str)
servers_of_both = pytest.mark.parametrize("server", ["4.3", "ours"])


def greet(peer: socket.socket, version: int) -> int:
    """Say a version of the protocol; give the version that comes back."""
    peer.sendall(b"V" + pack(">L", version))
    answer: int = unpack(">L", read(peer, 4))[0]
    return answer


def read(peer: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        some = peer.recv(size - len(found))
        assert some, found
        found += some
    return found


def is_dropped(peer: socket.socket) -> bool:
    """Tell whether the server closes the connection, and says nothing before."""
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    ("server", "said", "answer"),
    [
        ("4.3", 0, 1),
        ("4.3", 2, 1),
        ("4.3", 2**32 - 1, 1),
        ("ours", 0, 2),
        ("ours", 3, 2),
        ("ours", 2**32 - 1, 2),
    ],
)
def test_a_version_that_a_server_does_not_speak(
    side: SideByName, servers: Servers, server: str, said: int, answer: int, tmp_path: Path
) -> None:
    """It answers with the one that it speaks and drops the client; others are served."""
    with servers.serve(server, tmp_path / "f.durus") as served:
        with connected(served.address) as peer:
            assert greet(peer, said) == answer
            assert is_dropped(peer)
        assert side("4.3").call("compat_clients:keys", address=served.address) == []


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_our_server_speaks(servers: Servers, version: int, tmp_path: Path) -> None:
    """It answers with the version that it was asked for."""
    with (
        servers.serve("ours", tmp_path / "f.durus") as served,
        connected(served.address) as peer,
    ):
        assert greet(peer, version) == version


@servers_of_both
@pytest.mark.parametrize("byte", [b"\0", b"X", b"l", b"\xff"])
def test_a_byte_that_is_no_command(
    side: SideByName, servers: Servers, server: str, byte: bytes, tmp_path: Path
) -> None:
    """Who sends it is dropped, and nobody else."""
    with servers.serve(server, tmp_path / "f.durus") as served:
        with connected(served.address) as peer:
            assert greet(peer, 1) == 1
            peer.sendall(byte)
            assert is_dropped(peer)
        assert side("ours").call("compat_clients:keys", address=served.address) == []


@servers_of_both
def test_a_client_that_says_goodbye(servers: Servers, server: str, tmp_path: Path) -> None:
    """After '.' the server closes the connection, whatever was begun."""
    with (
        servers.serve(server, tmp_path / "f.durus") as served,
        connected(served.address) as peer,
    ):
        assert greet(peer, 1) == 1
        peer.sendall(b"M\3")
        read(peer, 24)
        peer.sendall(b".")
        assert is_dropped(peer)


@servers_of_both
@pytest.mark.parametrize("sent", ["asked", "length", "half"])
def test_a_commit_of_which_a_part_comes(
    side: SideByName, servers: Servers, server: str, sent: str, tmp_path: Path
) -> None:
    """A client that is gone in the middle of its commit has stored nothing, and holds up nobody."""
    with servers.serve(server, tmp_path / "f.durus") as served:
        work = {"address": served.address, "case": "dicts"}
        before = side("4.3").call("compat_clients:work", **work, actions=[["build"]])
        with connected(served.address) as peer:
            assert greet(peer, 1) == 1
            peer.sendall(b"L" + bytes(8))
            assert read(peer, 1) == b"O"
            record = read(peer, unpack(">L", read(peer, 4))[0])
            peer.sendall(b"C")
            assert read(peer, 4) == bytes(4)
            transaction = pack(">L", len(record) + 8) + bytes(8) + record
            whole = pack(">L", len(transaction)) + transaction
            peer.sendall(whole[: {"asked": 0, "length": 4, "half": len(whole) // 2}[sent]])
        found = side("ours").call("compat_clients:work", **work, actions=[])
        assert found["objects"] == before["objects"]
        side("4.3").call("compat_clients:work", **work, actions=[["change", 1]])


@servers_of_both
def test_a_commit_that_is_given_up(servers: Servers, server: str, tmp_path: Path) -> None:
    """A length of 0 gives up: nothing comes back, and the client goes on."""
    with (
        servers.serve(server, tmp_path / "f.durus") as served,
        connected(served.address) as peer,
    ):
        assert greet(peer, 1) == 1
        for _ in range(3):
            peer.sendall(b"C")
            assert read(peer, 4) == bytes(4)
            peer.sendall(bytes(4) + b"S")
            assert read(peer, 4) == bytes(4)


@pairs
def test_a_client_stops_the_server(
    side: SideByName, servers: Servers, pair: Pair, tmp_path: Path
) -> None:
    """Q ends the server: its clients are disconnected, its socket is gone, its file is free."""
    path = tmp_path / "f.durus"
    served = servers.serve(pair.server, path)
    with served, side(pair.client).start() as process:
        client = {"name": "it", "address": served.address, "protocol": pair.protocol}
        process.call("compat_clients:connect", **client)
        process.call("compat_clients:put", name="it", holder="a", key="n", value=1)
        assert process.call("compat_clients:commit", name="it") == "committed"
        served.stop()
        assert not accepts(served.address)
        assert not Path(f"{path}.socket").exists()
        with pytest.raises(SideError) as lost:
            process.call("compat_clients:view", name="it")
        assert {"OSError", "EOFError", "ConnectionError"}.intersection(lost.value.names)
    for reader in ("4.3", "ours"):
        seen = side(reader).call("compat_files:read", format="SHELF-1", path=str(path))
        assert len(seen["objects"]) == 2


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.client == "ours"], ids=str)
def test_our_client_finds_the_next_server(
    side: SideByName, servers: Servers, pair: Pair, tmp_path: Path
) -> None:
    """After a restart, by either version, `abort()` connects again, and nothing stale is seen."""
    path = tmp_path / "f.durus"
    successors = ["4.3", "ours", pair.server]
    with side("ours").start() as process:
        served = servers.serve(pair.server, path)
        client = {"name": "it", "address": served.address, "protocol": pair.protocol}
        process.call("compat_clients:connect", **client)
        process.call("compat_clients:put", name="it", holder="a", key="n", value=0)
        assert process.call("compat_clients:commit", name="it") == "committed"
        for number, successor in enumerate(successors, 1):
            served.stop()
            served = servers.serve(successor, path)
            put = {"address": served.address, "holder": "a", "key": "n", "value": number}
            side("4.3").call("compat_clients:change_once", **put)
            with pytest.raises(SideError) as lost:
                process.call("compat_clients:load_root", name="it")
            assert "ConnectionError" in lost.value.names
            process.call("compat_clients:abort", name="it")
            assert process.call("compat_clients:get", name="it", holder="a") == [["n", number]]
            process.call("compat_clients:put", name="it", holder="b", key="n", value=number)
            assert process.call("compat_clients:commit", name="it") == "committed"
        served.stop()


# A server of 4.3 dies of a commit to a file that it has open read-only.
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.server == "ours"], ids=str)
def test_a_server_that_is_read_only(
    side: SideByName, servers: Servers, pair: Pair, tmp_path: Path
) -> None:
    """What is there can be read; a change fails, and the next client is served as before."""
    path = tmp_path / "f.durus"
    side("4.3").call(
        "compat_files:run", format="SHELF-1", path=str(path), case="empty", actions=[["change", 7]]
    )
    before = path.read_bytes()
    with servers.serve(pair.server, path, readonly=True) as served:
        client = {"address": served.address, "protocol": pair.protocol}
        for _ in range(2):
            read_back, failed = side(pair.client).call("compat_clients:try_to_change", **client)
            assert read_back == ["list", [["tuple", ["step", 7]]]]
            assert failed
    assert path.read_bytes() == before


@pytest.mark.parametrize("client", ["4.3", "ours"])
def test_who_does_not_know_the_secret_is_refused(
    side: SideByName, servers: Servers, client: str, tmp_path: Path
) -> None:
    """A client of 4.3 cannot prove anything: it is told an error at once; so is ours without."""
    with servers.serve("ours", tmp_path / "f.durus", secret="s" * 32) as served:
        found = side(client).call("compat_clients:try_to_connect", address=served.address)
        assert "raises" in found
        expected = "AuthenticationError" if client == "ours" else "Exception"
        assert expected in found["raises"]
        stop_with_secret(side, served)


def test_a_secret_goes_to_no_server_of_4_3(
    side: SideByName, servers: Servers, tmp_path: Path
) -> None:
    """A client that has a secret does not speak with a server that cannot know it."""
    with servers.serve("4.3", tmp_path / "f.durus") as served:
        found = side("ours").call(
            "compat_clients:try_to_connect", address=served.address, secret="s" * 32
        )
        assert "ProtocolError" in found["raises"] or "AuthenticationError" in found["raises"]


@pytest.mark.parametrize("client", ["4.3", "ours"])
def test_protocol_1_can_be_allowed_beside_a_secret(
    side: SideByName, servers: Servers, client: str, tmp_path: Path
) -> None:
    """A server told so lets 4.3 in though others must prove that they know a secret."""
    options = {"secret": "s" * 32, "allow_protocol_1": True}
    with servers.serve("ours", tmp_path / "f.durus", **options) as served:
        arguments = {"address": served.address} | ({"protocol": 1} if client == "ours" else {})
        assert side(client).call("compat_clients:keys", **arguments) == []
        stop_with_secret(side, served)


def stop_with_secret(side: SideByName, served: Served) -> None:
    """Have a server stop that takes that only from who knows the secret."""
    side("ours").call("compat_clients:stop", address=served.address, secret="s" * 32)
    served.wait_for_end()


def test_gcbytes_packs_by_itself(side: SideByName, servers: Servers, tmp_path: Path) -> None:
    """Our server packs between the commits of clients of 4.3, which notice nothing."""
    path = tmp_path / "f.durus"
    with servers.serve("ours", path, gcbytes=20_000) as served:
        work = {"address": served.address, "case": "garbage"}
        actions = [["build"], *(["change", step] for step in range(30))]
        found = side("4.3").call("compat_clients:work", **work, actions=actions)
        wait_until(Path(f"{path}.prepack").exists)
        assert side("ours").call("compat_clients:work", **work, actions=[]) == found
    seen = side("4.3").call("compat_files:read", format="SHELF-1", path=str(path))
    assert seen["objects"] == found["objects"]


def test_two_servers_do_not_listen_at_one_place(servers: Servers, tmp_path: Path) -> None:
    """A live socket is never replaced, whose server is of either version; a stale one is."""
    address = str(tmp_path / "a.socket")
    for first in ("4.3", "ours"):
        with servers.serve(first, tmp_path / f"{first}.durus", address) as served:
            process = servers.start("ours")
            arguments = {"format": "SHELF-1", "path": str(tmp_path / "other.durus")}
            with pytest.raises(SideError) as refused:
                process.call("compat_clients:serve", address=address, **arguments)
            assert "OSError" in refused.value.names
            assert accepts(served.address)
        served = servers.serve(first, tmp_path / f"{first}.durus", address)
        served.kill()
        assert Path(address).exists()
        servers.serve("ours", tmp_path / f"{first}.durus", address).stop()


@servers_of_both
def test_a_port_is_served_again_at_once(
    side: SideByName, servers: Servers, server: str, tmp_path: Path
) -> None:
    """A server of the other version takes a port over while connections of the first linger."""
    address = ("127.0.0.1", free_port())
    other = {"4.3": "ours", "ours": "4.3"}[server]
    for each in (server, other, server):
        with servers.serve(each, tmp_path / "f.durus", address):
            side("4.3").call("compat_clients:keys", address=address)
            side("ours").call("compat_clients:keys", address=address)
