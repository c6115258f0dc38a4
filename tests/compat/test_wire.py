"""Servers and clients of both versions, in all pairings, over protocol 1."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from compat_sides import Side, SideProcess

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import StorageDisconnectedError
from durus.storage_server import SocketAddress

SideByName = Callable[[str], Side]

PAIRS = [("4.3", "ours"), ("ours", "4.3"), ("ours", "ours"), ("4.3", "4.3")]
pair = pytest.mark.parametrize(
    ("server", "client"),
    PAIRS,
    ids=[f"server-{server}-client-{client}" for server, client in PAIRS],
)
servers = pytest.mark.parametrize("server", ["4.3", "ours"])

_MOST_TRIES = 600


class Served:
    """A file, and the server of one version that serves it."""

    def __init__(self, side: Side, folder: Path) -> None:
        self.path = str(folder / "served.durus")
        self.socket = str(folder / "s")
        self.process = side.start()
        self.process.send("compat_wire:serve", path=self.path, socket=self.socket)
        wait_for(self.process, self.socket)

    def open_client(self, side: Side, name: str = "it") -> SideProcess:
        """Start a client that holds a Connection."""
        client = side.start()
        client.call("compat_wire:hold", name=name, format="server", path=self.socket)
        return client


def wait_for(process: SideProcess, address: str | tuple[str, int]) -> None:
    """Wait until a server listens."""
    for _ in range(_MOST_TRIES):
        try:
            SocketAddress.new(address).get_connected_socket().close()
        except StorageDisconnectedError:
            process.wait(0.05)
        else:
            return
    raise AssertionError(f"nobody came to listen at {address}")


@contextmanager
def serving(side: Side, folder: Path) -> Iterator[Served]:
    served = Served(side, folder)
    try:
        yield served
    finally:
        served.process.kill()
        served.process.close()


@servers
def test_clients_of_both_versions_share_a_server(
    side: SideByName, server: str, tmp_path: Path
) -> None:
    """A commit of either is seen by the other after its `abort()`, and not before."""
    with (
        serving(side(server), tmp_path) as served,
        served.open_client(side("ours")) as ours,
        served.open_client(side("4.3")) as upstream,
    ):
        for step in range(20):
            writer, reader = (ours, upstream) if step % 2 else (upstream, ours)
            before = reader.call("compat_wire:get", name="it", key="k")
            writer.call("compat_wire:put", name="it", key="k", value=step)
            assert writer.call("compat_wire:commit", name="it") == "done"
            assert reader.call("compat_wire:get", name="it", key="k") == before
            reader.call("compat_wire:abort", name="it")
            assert reader.call("compat_wire:get", name="it", key="k") == step


@servers
@pytest.mark.parametrize("first", ["4.3", "ours"])
def test_of_two_who_change_the_same_one_is_refused(
    side: SideByName, server: str, first: str, tmp_path: Path
) -> None:
    """Who commits second, after both have read and changed an object, has a WriteConflictError."""
    second = {"4.3": "ours", "ours": "4.3"}[first]
    with (
        serving(side(server), tmp_path) as served,
        served.open_client(side(first)) as winner,
        served.open_client(side(second)) as loser,
    ):
        winner.call("compat_wire:put", name="it", key="k", value=0)
        assert winner.call("compat_wire:commit", name="it") == "done"
        for step in range(1, 6):
            for each in (winner, loser):
                each.call("compat_wire:abort", name="it")
                assert each.call("compat_wire:get", name="it", key="k") == 10 * (step - 1)
                each.call("compat_wire:put", name="it", key="k", value=10 * step)
            assert winner.call("compat_wire:commit", name="it") == "done"
            assert loser.call("compat_wire:commit", name="it") == "WriteConflictError"
            assert loser.call("compat_wire:get", name="it", key="k") == 10 * step


@servers
@pytest.mark.parametrize("client", ["4.3", "ours"])
def test_who_reads_what_has_changed_since_is_told(
    side: SideByName, server: str, client: str, tmp_path: Path
) -> None:
    """A transaction that has used something stale reads nothing newer; after `abort()` it does."""
    with (
        serving(side(server), tmp_path) as served,
        served.open_client(side("ours")) as writer,
        served.open_client(side(client)) as reader,
    ):
        for key in ("a", "b"):
            writer.call("compat_wire:put", name="it", key=key, value=0)
        assert writer.call("compat_wire:commit", name="it") == "done"
        reader.call("compat_wire:abort", name="it")
        assert reader.call("compat_wire:get", name="it", key="a") == 0
        for key in ("a", "b"):
            writer.call("compat_wire:put", name="it", key=key, value=1)
        assert writer.call("compat_wire:commit", name="it") == "done"
        # Our server keeps what was overwritten for those who still read the old state.
        expected = {"4.3": "ReadConflictError", "ours": 0}[server]
        assert reader.call("compat_wire:get_again", name="it", key="b") == expected
        reader.call("compat_wire:abort", name="it")
        assert reader.call("compat_wire:get", name="it", key="a") == 1
        assert reader.call("compat_wire:get", name="it", key="b") == 1


@servers
@pytest.mark.parametrize("seed", range(3))
def test_clients_of_both_versions_lose_no_update(
    side: SideByName, server: str, seed: int, tmp_path: Path
) -> None:
    """Counters that four clients increase, and try again after conflicts, count every success."""
    rng = random.Random(seed)
    with serving(side(server), tmp_path) as served:
        clients = [served.open_client(side(name)) for name in ("ours", "4.3", "ours", "4.3")]
        try:
            done = dict.fromkeys("abc", 0)
            for key in done:
                clients[0].call("compat_wire:put", name="it", key=key, value=0)
            assert clients[0].call("compat_wire:commit", name="it") == "done"
            for client in clients:
                client.call("compat_wire:abort", name="it")
            for _ in range(150):
                client, key = rng.choice(clients), rng.choice("abc")
                if rng.random() < 0.5:
                    client.call("compat_wire:abort", name="it")
                value = client.call("compat_wire:get_again", name="it", key=key)
                if value == "ReadConflictError":
                    client.call("compat_wire:abort", name="it")
                    continue
                client.call("compat_wire:put", name="it", key=key, value=value + 1)
                if client.call("compat_wire:commit", name="it") == "done":
                    done[key] += 1
            assert sum(done.values()) > 30
            for client in clients:
                client.call("compat_wire:abort", name="it")
                for key, count in done.items():
                    assert client.call("compat_wire:get", name="it", key=key) == count
        finally:
            for client in clients:
                client.close()


@servers
def test_no_oid_is_given_to_two_clients(side: SideByName, server: str, tmp_path: Path) -> None:
    """Clients of both versions that make objects at once make them under different oids."""
    with (
        serving(side(server), tmp_path) as served,
        served.open_client(side("ours")) as ours,
        served.open_client(side("4.3")) as upstream,
    ):
        oids = []
        for step in range(30):
            for name, client in (("ours", ours), ("4.3", upstream)):
                client.call("compat_wire:abort", name="it")
                client.call("compat_wire:put", name="it", key=f"{name} {step}", value=step)
                assert client.call("compat_wire:commit", name="it") == "done"
                oids.append(client.call("compat_wire:oid_of", name="it", key=f"{name} {step}"))
        assert len(set(oids)) == 60


@servers
def test_loading_several_with_one_missing_leaves_nothing_behind(
    side: SideByName, server: str, tmp_path: Path
) -> None:
    """A bulk load that meets a missing oid is a KeyError; the next answer is for the next load.

    To the client of 4.3 the next answer is the rest of the last one.
    """
    with (
        serving(side(server), tmp_path) as served,
        served.open_client(side("ours")) as process,
    ):
        found = process.call("compat_wire:load_with_a_gap", name="it")
        assert found == [bytes(8).hex(), b"DurusKey".hex(), bytes(8).hex()]


@servers
def test_tcp_is_served_alike(side: SideByName, server: str, tmp_path: Path) -> None:
    """Over TCP the versions understand each other as over a Unix socket."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = side(server).start()
    try:
        process.send("compat_wire:serve_tcp", path=str(tmp_path / "f"), port=port)
        wait_for(process, ("127.0.0.1", port))
        with ClientStorage(port=port) as client:
            connection = Connection(client)
            connection.get_root()["by us"] = 1
            connection.commit()
            for name in ("4.3", "ours"):
                assert side(name).call("compat_wire:read_tcp", port=port) == ["by us"]
            client.stop_server()
    finally:
        process.kill()
        process.close()


@pair
def test_a_server_is_stopped_by_the_command_of_either(
    side: SideByName, server: str, client: str, tmp_path: Path
) -> None:
    """`durus -s --stop` ends a server of either version, which removes its socket."""
    if client == "ours":
        pytest.importorskip("durus.cli._serve", reason="ours has no such command yet")
    with serving(side(server), tmp_path) as served:
        side(client).run_command("-s", "--stop", "--address", served.socket)
        for _ in range(_MOST_TRIES):
            if not Path(served.socket).exists():
                break
            # The process is a runner of tasks, which outlives the one that it ran.
            served.process.wait(0.05)
        assert not Path(served.socket).exists()


def test_a_server_of_43_that_was_killed_is_found_again(side: SideByName, tmp_path: Path) -> None:
    """After a restart our client says that it was lost, and goes on after `abort()`."""
    with serving(side("4.3"), tmp_path) as served, ClientStorage(address=served.socket) as client:
        connection = Connection(client)
        root = connection.get_root()
        root["n"] = 1
        connection.commit()
        served.process.kill()
        served.process.close()
        with pytest.raises(StorageDisconnectedError):
            client.load(bytes(8))
        with serving(side("4.3"), tmp_path):
            connection.abort()
            assert root["n"] == 1
            root["n"] += 1
            connection.commit()
