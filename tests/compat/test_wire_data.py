"""What clients of one version keep with a server of the other is the same as among 4.3 alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import compat_containers
import compat_corpus
import pytest
from compat_compare import assert_same_view, find_unexpected
from compat_serving import PAIRS, YARDSTICK, Address, Pair, Servers, free_port
from compat_sides import Side

SideByName = Callable[[str], Side]

pairs = pytest.mark.parametrize("pair", PAIRS, ids=str)
pairs_with_ours = pytest.mark.parametrize("pair", PAIRS[1:], ids=str)

# In one process, and so by one client: build, change, give up a change, pack, change.
WORK = [["build"], ["change", 1], ["abort"], ["change", 2], ["pack"], ["change", 3]]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Address]:
    """An address of each kind."""
    kind: str = request.param
    if kind == "tcp":
        yield ("127.0.0.1", free_port())
    elif kind == "unix":
        yield str(tmp_path / "a.socket")
    else:
        yield f"@durus-test-wire-{os.getpid()}"


@pytest.fixture(scope="module")
def expected(side: SideByName, servers: Servers, tmp_path_factory: Any) -> Callable[..., Any]:
    """What a task gives at a client of 4.3 whose server is of 4.3; each is tried once."""
    known: dict[str, Any] = {}

    def get(task: str, **arguments: Any) -> Any:
        key = json.dumps([task, arguments])
        if key not in known:
            path = tmp_path_factory.mktemp("expected") / "f.durus"
            with servers.serve(YARDSTICK.server, path) as served:
                known[key] = side(YARDSTICK.client).call(task, address=served.address, **arguments)
        return known[key]

    return get


@pytest.mark.parametrize(
    ("pair", "case"),
    [
        pytest.param(pair, case, id=f"{case}-{pair}")
        for pair in PAIRS
        for case in compat_corpus.CASES
        # 4.3 alone is here to show that the test asks for what it does.
        if pair != YARDSTICK or case == "everything"
    ],
)
def test_every_case_goes_through_the_wire(
    side: SideByName,
    servers: Servers,
    expected: Callable[..., Any],
    pair: Pair,
    case: str,
    tmp_path: Path,
) -> None:
    """Built, changed and packed by a client, it reads the same for the next client and in a file.

    The file is read by both versions once the server has stopped.
    """
    path = tmp_path / "f.durus"
    with servers.serve(pair.server, path) as served:
        client = {"address": served.address, "protocol": pair.protocol}
        work = {"case": case, "actions": WORK}
        found = side(pair.client).call("compat_clients:work", **client, **work)
        assert found["canonical"] == expected("compat_clients:work", **work)["canonical"]
        again = side(pair.client).call("compat_clients:work", **client, case=case, actions=[])
        assert again == found
    for reader in ("4.3", "ours"):
        seen = side(reader).call("compat_files:read", format="SHELF-1", path=str(path))
        assert seen["objects"] == found["objects"]
        assert seen["crawled"] == found["crawled"]


@pairs
@pytest.mark.parametrize("place", ["tcp", "unix", "abstract"], indirect=True)
def test_every_kind_of_socket(
    side: SideByName,
    servers: Servers,
    pair: Pair,
    place: Address,
    format: str,
    tmp_path: Path,
) -> None:
    """TCP, a Unix socket and an abstract one carry the same; the server's file has any format."""
    path = tmp_path / "f.durus"
    with servers.serve(pair.server, path, place, format=format) as served:
        client = {"address": served.address, "protocol": pair.protocol, "case": "everything"}
        found = side(pair.client).call("compat_clients:work", **client, actions=WORK)
        assert side(pair.client).call("compat_clients:work", **client, actions=[]) == found
    assert not (tmp_path / "a.socket").exists()
    for reader in ("4.3", "ours"):
        seen = side(reader).call("compat_files:read", format=format, path=str(path))
        assert seen["objects"] == found["objects"]


@pairs_with_ours
@pytest.mark.parametrize("container", list(compat_containers.CONTAINERS))
def test_every_operation_of_a_container(
    side: SideByName,
    servers: Servers,
    expected: Callable[..., Any],
    pair: Pair,
    container: str,
    tmp_path: Path,
) -> None:
    """Each operation on a ghost that a server keeps gives what 4.3 gives, and stores the same."""
    with servers.serve(pair.server, tmp_path / "f.durus") as served:
        found = side(pair.client).call(
            "compat_clients:run_operations",
            container=container,
            address=served.address,
            protocol=pair.protocol,
        )
    theirs = expected("compat_clients:run_operations", container=container)
    if pair.client == "ours":
        assert find_unexpected(container, theirs, found) == {}
    else:
        assert found == theirs


@pytest.mark.parametrize("server", ["4.3", "ours"])
@pytest.mark.parametrize(("first", "second"), [("4.3", "ours"), ("ours", "4.3")])
def test_clients_of_both_versions_change_one_graph(
    side: SideByName, servers: Servers, first: str, second: str, server: str, tmp_path: Path
) -> None:
    """They take turns, and each sees all that the other did, packs by our server included.

    A server of 4.3 gives oids that its pack freed to new objects, though clients may still hold the
    old ones.
    """
    packs = {1, 2} if server == "ours" else set()
    path = tmp_path / "f.durus"
    everything = {"name": "it", "case": "everything"}
    with (
        servers.serve(server, path) as served,
        side(first).start() as one,
        side(second).start() as two,
    ):
        for process in (one, two):
            process.call("compat_clients:connect", name="it", address=served.address)
        seen = one.call("compat_clients:run", **everything, actions=[["build"]])
        for step in range(4):
            writer, reader = (two, one) if step % 2 else (one, two)
            before = seen
            found = reader.call("compat_clients:view", name="it")
            assert_same_view(found, before)
            actions = [["change", step], ["abort"], *([["pack"]] if step in packs else [])]
            writer.call("compat_clients:abort", name="it")
            seen = writer.call("compat_clients:run", **everything, actions=actions)
            # Until its next boundary the reader sees what it saw.
            old = reader.call("compat_clients:view_of_loaded", name="it")
            assert old == found["objects"]
            assert_same_view(reader.call("compat_clients:view", name="it"), seen)
        for process in (one, two):
            process.call("compat_clients:leave", name="it")
    for reader_name in ("4.3", "ours"):
        found = side(reader_name).call("compat_files:read", format="SHELF-1", path=str(path))
        assert found["objects"] == seen["objects"]
