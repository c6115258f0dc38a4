"""Servers of either version for the tests, each in a process of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from compat_sides import Side, SideProcess

Address = str | tuple[str, int]

# Far beyond what a server takes to start on a slow machine.
_PATIENCE_S = 300.0
_PAUSE_S = 0.01


class Pair(NamedTuple):
    """A kind of client and a server for it.

    Attributes:
        client: "4.3" or "ours".
        server: "4.3" or "ours".
        protocol: the version of the protocol that the client is told to speak, or None for its own
            choice.
    """

    client: str
    server: str
    protocol: int | None = None

    def __str__(self) -> str:
        spoken = "" if self.protocol is None else f"-by-protocol-{self.protocol}"
        return f"{self.client}-to-{self.server}{spoken}"


YARDSTICK = Pair("4.3", "4.3")
PAIRS = [
    YARDSTICK,
    Pair("4.3", "ours"),
    Pair("ours", "4.3"),
    Pair("ours", "ours"),
    Pair("ours", "ours", protocol=1),
]


class Served:
    """A file that is being served.

    Args:
        process: where the server runs.
        address: where it listens.
        give_back: called with the process once the server has stopped in good order.
        arguments: of the task `serve`.
    """

    def __init__(
        self,
        process: SideProcess,
        address: Address,
        give_back: Callable[[SideProcess], None],
        **arguments: Any,
    ) -> None:
        self.address = address
        self._process = process
        self._give_back = give_back
        self._is_running = True
        process.send("compat_clients:serve", address=address, **arguments)
        wait_until(lambda: accepts(address) or process.has_reply())
        if process.has_reply():
            self.wait_for_end()
            raise AssertionError(f"nobody serves at {address}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()

    def stop(self) -> None:
        """Have it stop as `durus -s --stop` of 4.3 does, if nobody has yet; wait for its end."""
        if self._is_running:
            if not self._process.has_reply():
                with connected(self.address) as peer:
                    peer.sendall(b"Q")
            self.wait_for_end()

    def wait_for_end(self) -> None:
        """Wait until it has stopped.

        Raises:
            SideError: it ended with an error.
        """
        self._is_running = False
        self._process.receive("compat_clients:serve")
        self._give_back(self._process)

    def kill(self) -> None:
        """Kill its process (SIGKILL), if it has not ended."""
        if self._is_running:
            self._is_running = False
            self._process.kill()


class Servers:
    """Serves files; a process serves one after the other."""

    def __init__(self, side: Callable[[str], Side]) -> None:
        self._side = side
        self._processes: list[SideProcess] = []
        self._idle: dict[str, list[SideProcess]] = {"4.3": [], "ours": []}

    def start(self, server: str) -> SideProcess:
        """Give a process in which a server can run."""
        idle = self._idle[server]
        process = idle.pop() if idle else self._side(server).start()
        if process not in self._processes:
            self._processes.append(process)
        return process

    def serve(
        self, server: str, path: Path, address: Address | None = None, **arguments: Any
    ) -> Served:
        """Serve a file, at a Unix socket beside it if nothing else is said."""
        process = self.start(server)
        arguments = {"format": "SHELF-1", "path": str(path), **arguments}
        give_back = self._idle[server].append
        return Served(process, address or f"{path}.socket", give_back, **arguments)

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.kill()
            process.close()


def accepts(address: Address) -> bool:
    """Tell whether a server listens."""
    try:
        connected(address).close()
    except OSError:
        return False
    return True


def connected(address: Address) -> socket.socket:
    """Give a socket that is connected to a server."""
    is_unix = isinstance(address, str)
    peer = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
    peer.settimeout(_PATIENCE_S)
    try:
        peer.connect("\0" + address[1:] if is_unix and address[0] == "@" else address)
    except BaseException:
        peer.close()
        raise
    return peer


def wait_until(is_so: Callable[[], Any]) -> None:
    """Wait for a condition.

    Raises:
        AssertionError: it did not come.
    """
    give_up = time.monotonic() + _PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up, "it did not come to that"
        time.sleep(_PAUSE_S)


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
