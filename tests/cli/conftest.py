"""The `durus` command as a person has it: a process of its own, sometimes with a real terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pexpect
import pytest

from durus.backends import open_storage
from durus.connection import Connection
from durus.persistent_dict import PersistentDict

SCRIPT = Path(sysconfig.get_path("scripts")) / "durus"


class Command:
    """Runs `durus` in a folder and a home of its own, with nothing of ours in the environment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self._path: list[Path] = []
        self.children: list[Any] = []
        self.processes: list[subprocess.Popen[str]] = []
        kept = ("PATH", "LANG", "LC_ALL", "DURUS_PURE_PYTHON")
        self.environment = {name: os.environ[name] for name in kept if name in os.environ}
        self.environment |= {"HOME": str(self.home), "TMPDIR": str(self.home), "TERM": "xterm"}
        self.environment["PYTHONWARNINGS"] = "error"
        self.words = [str(SCRIPT)]

    def __call__(
        self, *arguments: str | Path, input: str = "", status: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        """Run it with `input` piped in, and check its exit status."""
        done = subprocess.run(
            [*self.words, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert status in {None, done.returncode}, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done

    def error(self, *arguments: str | Path, input: str = "", status: int = 1) -> str:
        """Run what must fail with one clear line on stderr, and give what that line says."""
        done = self(*arguments, input=input, status=status)
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("durus: error: "), done.stderr
        assert len(done.stderr) < 500
        return done.stderr.removeprefix("durus: error: ").rstrip("\n")

    def on_terminal(self, *arguments: str | Path, **environment: str) -> Any:
        """Start it on a terminal; gives a pexpect child."""
        child = pexpect.spawn(
            self.words[0],
            [*self.words[1:], *map(str, arguments)],
            cwd=str(self.folder),
            env=self.environment | environment,
            encoding="utf-8",
            timeout=300,
            dimensions=(40, 120),
        )
        self.children.append(child)
        return child

    def start(self, *arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start it beside the test; what it prints goes to the pipes of the process."""
        process = subprocess.Popen(
            [*self.words, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        self.processes.append(process)
        return process

    def plug_in(self, distribution: str, entry_points: str, **modules: str) -> None:
        """Install a distribution of which the command knows nothing: metadata and modules."""
        site = self.folder / f"site-{distribution}"
        metadata = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (metadata / "entry_points.txt").write_text(dedent(entry_points))
        for name, source in modules.items():
            (site / f"{name}.py").write_text(dedent(source))
        self.see(site)

    def see(self, folder: Path) -> None:
        """Let the command import from `folder`."""
        self._path.append(folder)
        self.environment["PYTHONPATH"] = os.pathsep.join(map(str, self._path))


@pytest.fixture
def durus(tmp_path: Path) -> Iterator[Command]:
    """The command, in an empty folder."""
    if not SCRIPT.exists():
        pytest.fail(f"durus-cli is not installed for {sys.executable}: there is no {SCRIPT}")
    command = Command(tmp_path)
    yield command
    for child in command.children:
        child.close(force=True)
    for process in command.processes:
        with process:  # closes the pipes, and waits
            process.kill()


class Server:
    """A running `durus serve` on a Unix domain socket, or where its arguments say."""

    def __init__(self, durus: Command, *arguments: str | Path) -> None:
        self.durus = durus
        self.place: tuple[str, ...] = ("--address", "a.sock")
        if any(str(argument).startswith(("--port", "--address")) for argument in arguments):
            self.place = ()
        self.process = durus.start("serve", *arguments, *self.place)

    def ready(self, *place: str) -> Server:
        """Return when it answers."""
        self.place = place or self.place
        self.status("--wait", "120")
        return self

    def status(self, *arguments: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            self.durus("status", "--json", *self.place, *arguments).stdout
        )
        return told

    def shell(self, script: str, *arguments: str) -> str:
        """Run a script in a client, and give what it prints."""
        return self.durus("shell", *self.place, *arguments, input=script).stdout

    def stop(self) -> tuple[str, str]:
        """End it by SIGTERM; give what it printed on stdout and on stderr."""
        self.process.terminate()
        return self.ended()

    def ended(self, status: int = 0) -> tuple[str, str]:
        """Wait for its end, and check its exit status."""
        out, err = self.process.communicate(timeout=300)
        assert self.process.returncode == status, err
        return out, err


@pytest.fixture
def serve(durus: Command) -> Callable[..., Server]:
    """A function that starts a server with the arguments given, and returns at once."""
    pytest.importorskip("durus.storage_server", reason="durus-server is not installed here")

    def start(*arguments: str | Path) -> Server:
        return Server(durus, *arguments)

    return start


@pytest.fixture
def database(durus: Command) -> Path:
    """A database of 5 objects: a root, three small dicts that it refers to, and one of garbage."""
    path = durus.folder / "app.durus"
    with Connection(path) as connection:
        root = connection.get_root()
        for name in ("ann", "bob", "cid", "dan"):
            root[name] = PersistentDict(name=name)
        connection.commit()
        del root["dan"]
        connection.commit()
    return path


def stored(path: Path) -> dict[str, Any]:
    """Give what the root of a database holds, looked up in this process."""
    with Connection(open_storage(path, readonly=True)) as connection:
        return {
            name: dict(value) if isinstance(value, PersistentDict) else value
            for name, value in connection.get_root().items()
        }


@pytest.fixture
def look() -> Callable[[Path], dict[str, Any]]:
    """A function that gives what the root of a database holds."""
    return stored
