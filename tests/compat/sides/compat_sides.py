"""Durus 4.3 and ours, each in processes of its own, behind one small interface."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

_SIDES_DIRECTORY = Path(__file__).parent

# Far beyond what any task takes on a slow machine: a reply that takes longer is a hang.
_REPLY_TIMEOUT_S = 300.0


class SideError(Exception):
    """A task raised in the other process.

    Attributes:
        names: the names of the exception's class and of its bases.
    """

    def __init__(self, names: list[str], message: str, remote_traceback: str) -> None:
        super().__init__(f"{names[0]}: {message}\n{remote_traceback}")
        self.names = names
        self.message = message


class Side:
    """One version of Durus.

    Attributes:
        name: "4.3" or "ours".
    """

    def __init__(self, name: str, python: str | Path, import_path: list[str]) -> None:
        self.name = name
        self._python = str(python)
        self._import_path = import_path
        self._shared: SideProcess | None = None

    def __repr__(self) -> str:
        return f"<Durus {self.name}>"

    def start(self) -> SideProcess:
        """Start a process that lives until it is closed or killed."""
        return SideProcess(self.name, self._python, self._environment())

    def call(self, task: str, **arguments: Any) -> Any:
        """Run one task ("module:function") and give its result.

        The process is kept for the next call; one in which a task raised is not.
        """
        if self._shared is None:
            self._shared = self.start()
        try:
            return self._shared.call(task, **arguments)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process that `call` keeps."""
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.close()

    def start_command(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start `durus` with arguments; what it prints is not kept."""
        return subprocess.Popen(
            [self._python, "-m", "durus", *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def run_command(self, *arguments: str, input: str = "") -> str:
        """Run `durus` with arguments and a script on stdin, and give what it prints.

        Raises:
            subprocess.CalledProcessError: it ended with another status than 0.
        """
        done = subprocess.run(
            [self._python, "-m", "durus", *arguments],
            env=self._environment(),
            input=input,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=_REPLY_TIMEOUT_S,
        )
        return done.stdout

    def _environment(self) -> dict[str, str]:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment["PYTHONPATH"] = os.pathsep.join([str(_SIDES_DIRECTORY), *self._import_path])
        # Sets of strings are pickled in the order of their hashes.
        environment["PYTHONHASHSEED"] = "0"
        return environment


class SideProcess:
    """A process that runs `compat_runner`."""

    def __init__(self, name: str, python: str, environment: dict[str, str]) -> None:
        self._name = name
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self._process = subprocess.Popen(
            [python, "-m", "compat_runner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
        )

    def call(self, task: str, **arguments: Any) -> Any:
        """Run a task and give its result.

        Raises:
            SideError: the task raised.
        """
        self.send(task, **arguments)
        return self.receive(task)

    def receive(self, task: str) -> Any:
        """Wait for the end of a task that was sent, and give its result.

        Raises:
            SideError: the task raised.
        """
        reply = json.loads(self._read_line(task))
        if "error" in reply:
            raise SideError(reply["error"], reply["message"], reply["traceback"])
        return reply["result"]

    def has_reply(self) -> bool:
        """Tell whether the task that was sent has ended, or the process has."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def send(self, task: str, **arguments: Any) -> None:
        """Ask for a task without waiting for its end."""
        assert self._process.stdin is not None
        request = json.dumps({"task": task, "arguments": arguments})
        self._process.stdin.write(request.encode() + b"\n")
        self._process.stdin.flush()

    def wait(self, delay_s: float) -> None:
        """Wait while the process works.

        Raises:
            RuntimeError: it ended meanwhile.
        """
        try:
            self._process.wait(timeout=delay_s)
        except subprocess.TimeoutExpired:
            return
        self._fail("ended before its time")

    def wait_for_end(self) -> int:
        """Wait until the process has ended in its last task or after it; give its status."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._process.wait(timeout=_REPLY_TIMEOUT_S)

    def kill(self) -> None:
        """Kill the process as it is (SIGKILL), and wait until it is gone."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let the process end on its own."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self.kill()
        self.close()

    def _read_line(self, task: str) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + _REPLY_TIMEOUT_S
        chunks: list[bytes] = []
        while not chunks or not chunks[-1].endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], deadline - time.monotonic())
            if not ready:
                self._fail(f"gave no reply to {task} within {_REPLY_TIMEOUT_S:.0f} s")
            chunk = os.read(descriptor, 1 << 20)
            if not chunk:
                self._fail(f"ended within {task}")
            chunks.append(chunk)
        return b"".join(chunks)

    def _fail(self, what: str) -> NoReturn:
        self.kill()
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace")[-4000:]
        raise RuntimeError(f"the process of Durus {self._name} {what}; it said:\n{errors}")


def ours() -> Side:
    """Give our Durus, as the running interpreter imports it."""
    inherited = os.environ.get("PYTHONPATH", "")
    return Side("ours", sys.executable, [part for part in inherited.split(os.pathsep) if part])


def upstream(python: str | Path) -> Side:
    """Give Durus 4.3, as the interpreter `python` imports it."""
    return Side("4.3", python, [])
