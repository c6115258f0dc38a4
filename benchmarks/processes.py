"""The driver's end of a worker process: start it, talk to it, see what it cost, end it."""

from __future__ import annotations

import json
import os
import selectors
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks.environments import ROOT, peer_info, provide

__all__ = ["ServerProcess", "WorkerError", "run_clients", "run_worker"]

PATIENCE_S = 300.0
START_S = 30.0


class WorkerError(RuntimeError):
    """A worker process failed; the message has what it wrote."""


def _start(order: dict[str, Any], log: Path, **options: Any) -> subprocess.Popen[str]:
    order = {**order, "adapter": peer_info(order["peer"]).adapter}
    command = [provide(order["peer"]), "-m", "benchmarks.peers.worker", json.dumps(order)]
    with log.open("a", encoding="utf-8") as errors:
        return subprocess.Popen(
            command, cwd=ROOT, stderr=errors, text=True, env=_environment(), **options
        )


def _environment() -> dict[str, str]:
    # Nothing of the driver's environment may lead a peer to another's packages.
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run_worker(order: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a worker that needs no talk to its end, and give what it said, if anything."""
    log = folder / "worker.log"
    order = {**order, "syncs": str(folder / "worker.syncs")}
    process = _start(order, log, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    said, _ = process.communicate(timeout=PATIENCE_S)
    if process.returncode:
        raise WorkerError(f"{order['role']} of {order['peer']}:\n{log.read_text('utf-8')}")
    answer: dict[str, Any] = json.loads(said) if said else {}
    return answer


class ServerProcess(AbstractContextManager["ServerProcess"]):
    """A server, from the time when it takes connections."""

    def __init__(self, order: dict[str, Any], folder: Path) -> None:
        self._log = folder / "server.log"
        self._syncs = folder / "server.syncs"
        self._name = order["peer"]
        order = {**order, "role": "serve", "syncs": str(self._syncs)}
        self._process = _start(order, self._log, stdin=subprocess.DEVNULL)
        try:
            self._wait_until_it_answers(order["settings"]["address"])
        except BaseException:
            self.__exit__()
            raise

    def _wait_until_it_answers(self, address: str) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(address)
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise WorkerError(f"server of {self._name}:\n{self.log()}") from None
                time.sleep(0.02)
            else:
                return

    @property
    def pid(self) -> int:
        """The server's process, for a profiler."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Give the processor time that it has used, in all its threads."""
        # clock_getcpuclockid(3), which Python lacks: this is how Linux numbers those clocks.
        return time.clock_gettime((~self._process.pid << 3) | 2)

    def syncs(self) -> int:
        """Give how often it has synced a file to disk."""
        count: int = struct.unpack("=Q", self._syncs.read_bytes())[0]
        return count

    def log(self) -> str:
        """Give what it wrote to its standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def __exit__(self, *exc_info: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class ClientProcess(AbstractContextManager["ClientProcess"]):
    """A client that prepares, waits, runs and tells."""

    def __init__(self, order: dict[str, Any], folder: Path, index: int) -> None:
        self._log = folder / f"client-{index}.log"
        self._name = order["peer"]
        order = {**order, "role": "client", "syncs": str(folder / f"client-{index}.syncs")}
        self._process = _start(order, self._log, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(PATIENCE_S) else ""
        if not line:
            self._process.kill()
            log = self._log.read_text(encoding="utf-8", errors="replace")
            raise WorkerError(f"client of {self._name} failed or is stuck:\n{log}")
        said: dict[str, Any] = json.loads(line)
        return said

    def wait_until_ready(self) -> None:
        """Return when it has prepared."""
        self._hear()

    def go(self) -> None:
        """Let it run."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Wait for what came of it."""
        return self._hear()

    def __exit__(self, *exc_info: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()  # one that still waits for its go leaves
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def run_clients(
    orders: Sequence[dict[str, Any]], folder: Path, server: ServerProcess | None
) -> tuple[list[dict[str, Any]], float, int]:
    """Run clients at once; give what each said, and the server's processor time and syncs."""
    clients: list[ClientProcess] = []
    try:
        for index, order in enumerate(orders):
            clients.append(ClientProcess(order, folder, index))
        for client in clients:
            client.wait_until_ready()
        cpu_s, syncs = (server.cpu_s(), server.syncs()) if server else (0.0, 0)
        for client in clients:
            client.go()
        results = [client.result() for client in clients]
        if server:
            return results, server.cpu_s() - cpu_s, server.syncs() - syncs
        return results, 0.0, 0
    finally:
        for client in clients:
            client.__exit__()
