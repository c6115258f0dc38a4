"""`durus -s`, `-c` and `-p` of one version with those of the other."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from compat_serving import accepts, free_port, wait_until
from compat_sides import Side

pytest.importorskip("durus.cli", reason="durus-cli is not installed here")

SideByName = Callable[[str], Side]

pairs = pytest.mark.parametrize(
    ("client", "server"), [("4.3", "4.3"), ("4.3", "ours"), ("ours", "4.3"), ("ours", "ours")]
)

# Far beyond what a server takes to end.
_PATIENCE_S = 300


class Place:
    """Where a server listens: how commands are told, and how to look."""

    def __init__(self, folder: Path, kind: str) -> None:
        port = free_port()
        self.address = ("127.0.0.1", port) if kind == "tcp" else str(folder / "a.socket")
        self.words = (
            ("--host", "127.0.0.1", "--port", str(port))
            if kind == "tcp"
            else ("--address", str(folder / "a.socket"))
        )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands' histories go into a folder of the test's."""
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(params=["unix", "tcp"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place of each kind."""
    return Place(tmp_path, str(request.param))


@contextmanager
def serving(side: Side, place: Place, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `durus -s`, from when it listens on."""
    process = side.start_command("-s", *arguments, *place.words)
    try:
        wait_until(lambda: accepts(place.address) or process.poll() is not None)
        yield process
    finally:
        process.kill()
        process.wait()


@pairs
def test_the_three_commands(
    side: SideByName, client: str, server: str, place: Place, tmp_path: Path
) -> None:
    """A served file is changed by -c, seen by the next -c, and free after -s --stop."""
    path = tmp_path / "f.durus"
    with serving(side(server), place, "--file", str(path)) as process:
        run = side(client).run_command
        run("-c", *place.words, input="root['n'] = 41\nconnection.commit()\n")
        run("-c", *place.words, input="root['n'] += 1\nconnection.commit()\nroot['n'] = 0\n")
        printed = run("-c", *place.words, input="print('it is', root['n'])\n")
        assert "it is 42" in printed
        # 4.3's other commands give the socket's path no meaning but for its server.
        run("-s", "--stop", *place.words)
        # 4.3's does not wait for the end of the server.
        assert process.wait(_PATIENCE_S) == 0
    assert not accepts(place.address)
    assert not (tmp_path / "a.socket").exists()
    for reader in ("4.3", "ours"):
        seen = side(reader).call("compat_files:read", format="SHELF-1", path=str(path))
        assert len(seen["objects"]) == 1


@pairs
def test_pack(side: SideByName, client: str, server: str, tmp_path: Path) -> None:
    """`durus -p` without a file has the server pack, while the server goes on."""
    path, place = tmp_path / "f.durus", Place(tmp_path, "tcp")
    with serving(side(server), place, "--file", str(path)):
        work = {"address": place.address, "case": "garbage"}
        found = side(client).call(
            "compat_clients:work", **work, actions=[["build"], ["change", 1], ["change", 2]]
        )
        before = path.stat().st_size
        side(client).run_command("-p", *place.words)
        # A server of 4.3 may answer before it is done, and goes on when it is asked for something.
        wait_until(
            lambda: (
                side(client).call("compat_clients:keys", address=place.address)
                and path.with_name("f.durus.prepack").exists()
            )
        )
        assert path.stat().st_size < before
        again = side(client).call("compat_clients:work", **work, actions=[])
        assert again["objects"] == found["objects"]
        side(client).run_command("-s", "--stop", *place.words)


@pairs
def test_a_stale_socket_is_taken_over(
    side: SideByName, client: str, server: str, tmp_path: Path
) -> None:
    """What a server that was killed left behind is replaced by the server of the other version."""
    place = Place(tmp_path, "unix")
    with serving(side(client), place, "--file", str(tmp_path / "f.durus")) as process:
        process.kill()
        process.wait()
    assert (tmp_path / "a.socket").exists()
    with serving(side(server), place, "--file", str(tmp_path / "f.durus")):
        assert side(client).call("compat_clients:keys", address=place.address) == []
        side(client).run_command("-s", "--stop", *place.words)


@pytest.mark.parametrize("server", ["4.3", "ours"])
def test_a_umask_means_the_same(side: SideByName, server: str, tmp_path: Path) -> None:
    """--umask 007 and --umask 63 give the socket the same permissions with both versions."""
    for umask, expected in (("007", 0o770), ("63", 0o700)):
        place = Place(tmp_path, "unix")
        file = ("--file", str(tmp_path / "f.durus"))
        with serving(side(server), place, *file, "--umask", umask) as process:
            mode = os.stat(str(place.address)).st_mode & 0o777
            assert mode == expected
            side("4.3").run_command("-s", "--stop", *place.words)
            process.wait(_PATIENCE_S)


@pytest.mark.parametrize("client", ["4.3", "ours"])
def test_a_console_waits_for_its_server(side: SideByName, client: str, tmp_path: Path) -> None:
    """`durus -c` may be started before the server: it goes on when somebody listens."""
    place = Place(tmp_path, "unix")
    console = side(client).start_command("-c", *place.words)
    try:
        with serving(side("ours"), place, "--file", str(tmp_path / "f.durus")):
            assert console.wait(_PATIENCE_S) == 0
            side("ours").run_command("-s", "--stop", *place.words)
    finally:
        console.kill()
        console.wait()
