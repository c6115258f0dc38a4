"""Several clients at one server: what they see of each other, and what comes between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import compat_wire_clauses
import pytest
from compat_compare import find_differences
from compat_serving import PAIRS, Pair, Servers, connected
from compat_sides import Side, SideProcess

SideByName = Callable[[str], Side]

pairs = pytest.mark.parametrize("pair", PAIRS, ids=str)
servers_of_both = pytest.mark.parametrize("server", ["4.3", "ours"])
mixed = pytest.mark.parametrize(
    ("first", "second"), [("4.3", "ours"), ("ours", "4.3")], ids=["4.3-ours", "ours-4.3"]
)

CLAUSES = [clause.__name__ for clause in compat_wire_clauses.SAME_EVERYWHERE]


@pytest.fixture
def run_clause(
    side: SideByName, servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, Pair], Any]:
    """A function that runs a script of compat_wire_clauses at a new database."""

    def run(clause: str, pair: Pair) -> Any:
        path = tmp_path_factory.mktemp("served") / "f.durus"
        with servers.serve(pair.server, path) as served:
            return side(pair.client).call(
                "compat_clients:run_clause",
                clause=clause,
                address=served.address,
                protocol=pair.protocol,
            )

    return run


@pytest.mark.parametrize("clause", CLAUSES)
def test_clients_of_every_pair_do_what_those_of_upstream_do(
    run_clause: Callable[[str, Pair], Any], clause: str
) -> None:
    """The scripts give with every pair of client and server what they give with 4.3 alone."""
    theirs, *others = (run_clause(clause, pair) for pair in PAIRS)
    for pair, found in zip(PAIRS[1:], others, strict=True):
        assert find_differences(theirs, found, clause) == {}, pair


@pairs
def test_nobody_reads_both_sides_of_a_commit(
    run_clause: Callable[[str, Pair], Any], pair: Pair
) -> None:
    """A server of 4.3 refuses the second read; ours gives it as of the same moment as the first."""
    before, second, after = run_clause("reading_both_sides_of_a_commit", pair)
    if pair.server == "4.3":
        assert "ReadConflictError" in second["raises"]
    else:
        assert second == {"returns": 0}
    assert before == 0
    assert after == [["a", [["n", 1]]], ["b", [["n", 1]]]]


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.client == "ours"], ids=str)
def test_a_bulk_load_that_misses_some_leaves_nothing_behind(
    run_clause: Callable[[str, Pair], Any], pair: Pair
) -> None:
    """Our client takes all answers, and goes on with those to its next requests."""
    found = run_clause("a_client_goes_on_after_a_bulk_load_that_misses_some", pair)
    one = [True, [True] * 10, 0]
    assert found == [one * 3, ["list", ["n", "people"]]]


@pairs
def test_objects_that_a_pack_removed(run_clause: Callable[[str, Pair], Any], pair: Pair) -> None:
    """With our server they are ghosts that cannot be used; the client goes on after that.

    4.3's client calls it a conflict, ours says that there is no record. A server of 4.3 tells of
    some of the objects only.
    """
    status, touched, seen, outcome = run_clause("objects_that_a_pack_removed", pair)
    if pair.server == "ours":
        assert status == -1
        assert {"ReadConflictError", "DurusKeyError"}.intersection(touched["raises"])
    assert seen == [["b", [["n", 0]]]]
    assert outcome == "committed"


class Client:
    """A client in a process of its own, by the tasks of compat_clients."""

    def __init__(self, process: SideProcess, address: Any) -> None:
        self._process = process
        self("connect", address=address)

    def __call__(self, task: str, **arguments: Any) -> Any:
        return self._process.call(f"compat_clients:{task}", name="it", **arguments)

    def put(self, holder: str, value: Any) -> None:
        self("put", holder=holder, key="n", value=value)

    def get(self, holder: str) -> Any:
        return self("get", holder=holder)


@servers_of_both
@mixed
def test_both_versions_at_one_server(
    side: SideByName, servers: Servers, first: str, second: str, server: str, tmp_path: Path
) -> None:
    """Commits are seen after a boundary; conflicts name what they are about; disjoint ones pass."""
    with (
        servers.serve(server, tmp_path / "f.durus") as served,
        side(first).start() as one_process,
        side(second).start() as two_process,
    ):
        one, two = (Client(process, served.address) for process in (one_process, two_process))
        for holder in "abc":
            one.put(holder, 0)
        assert one("commit") == "committed"
        two("abort")
        assert two.get("a") == [["n", 0]]
        one.put("a", 1)
        assert one("commit") == "committed"
        assert two.get("a") == [["n", 0]]
        two("commit")
        assert two.get("a") == [["n", 1]]

        for client in (one, two):
            client("abort")
        one.put("b", 1)
        two.put("c", 1)
        assert [one("commit"), two("commit")] == ["committed", "committed"]

        for client in (one, two):
            client("abort")
            client.get("a")
        one.put("a", 2)
        two.put("a", 3)
        assert one("commit") == "committed"
        assert two("commit") == ["WriteConflictError", ["a"]]
        two("abort")
        assert two.get("a") == [["n", 2]]
        two.put("a", 4)
        assert two("commit") == "committed"
        one.put("b", 5)
        one("abort")
        assert [one.get("a"), one.get("b")] == [[["n", 4]], [["n", 1]]]

        # Write skew: each reads what the other changes.
        two("abort")
        one.get("b")
        two.get("a")
        one.put("a", 6)
        two.put("b", 6)
        assert two("commit") == "committed"
        assert one("commit") == ["WriteConflictError", ["b"]]
        one("abort")

        two("pack")
        two("abort")
        one.put("c", 7)
        assert one("commit") == "committed"
        two("abort")
        assert [two.get(holder) for holder in "abc"] == [[["n", 4]], [["n", 6]], [["n", 7]]]
        for client in (one, two):
            client("leave")


# Of clients that meet at an empty server of 4.3 all but the first fail.
@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair.server == "ours"], ids=str)
@pytest.mark.parametrize("count", [2, 8])
def test_clients_that_meet_at_an_empty_server(
    side: SideByName, servers: Servers, pair: Pair, count: int, tmp_path: Path
) -> None:
    """With our server each of them gets a Connection, and what each commits is there."""
    path = tmp_path / "f.durus"
    for attempt in range(3):
        with servers.serve(pair.server, path.with_suffix(f".{attempt}")) as served:
            client = {"address": served.address, "protocol": pair.protocol}
            results = side(pair.client).call("compat_clients:meet", count=count, **client)
            assert results == [{"returns": True}] * count
            read, _ = side(pair.client).call("compat_clients:try_to_change", **client)
            assert [key for _, (key, _) in read[1]] == list(range(count))


def test_a_client_waits_for_whoever_makes_the_root(
    upstream: Side, servers: Servers, tmp_path: Path
) -> None:
    """A client that finds no root while another makes it waits; if that one leaves, it makes it."""
    with servers.serve("ours", tmp_path / "f.durus") as served, upstream.start() as process:
        with connected(served.address) as maker:
            maker.sendall(b"V\0\0\0\1" + b"L" + bytes(8))
            assert [maker.recv(4), maker.recv(1)] == [b"\0\0\0\1", b"K"]
            process.send("compat_clients:connect", name="it", address=served.address)
        process.receive("compat_clients:connect")
        process.call("compat_clients:leave", name="it")


@servers_of_both
@pytest.mark.parametrize("when", ["asked", "sending"])
def test_a_client_that_is_killed_in_a_commit(
    side: SideByName, servers: Servers, when: str, server: str, tmp_path: Path
) -> None:
    """Nothing of its transaction is there, and the others commit at once and go on."""
    with (
        servers.serve(server, tmp_path / "f.durus") as served,
        side("4.3").start() as one_process,
        side("ours").start() as two_process,
    ):
        one, two = (Client(process, served.address) for process in (one_process, two_process))
        one.put("a", 1)
        assert one("commit") == "committed"
        victim = side("4.3").start()
        victim.send("compat_clients:die_in_a_commit", address=served.address, when=when)
        assert victim.wait_for_end() == -9
        victim.close()
        two("abort")
        two.put("a", 2)
        assert two("commit") == "committed"
        one("abort")
        assert one.get("a") == [["n", 2]]
        keys = side("ours").call("compat_clients:keys", address=served.address)
        assert "doomed" not in keys
        for client in (one, two):
            client("leave")


@servers_of_both
@pytest.mark.parametrize("client", ["4.3", "ours"])
def test_a_server_that_was_killed(
    side: SideByName, servers: Servers, client: str, server: str, tmp_path: Path
) -> None:
    """What was committed before is in the file, for the other version too; so a new server says."""
    path = tmp_path / "f.durus"
    served = servers.serve(server, path)
    work = {"case": "everything", "actions": [["build"], ["change", 1], ["change", 2]]}
    found = side(client).call("compat_clients:work", address=served.address, **work)
    served.kill()
    for successor in ("ours", "4.3"):
        with servers.serve(successor, path) as served:
            again = side(client).call(
                "compat_clients:work", address=served.address, case="everything", actions=[]
            )
            assert again["objects"] == found["objects"]
