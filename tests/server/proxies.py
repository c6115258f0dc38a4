"""A proxy that cuts a connection after an exact number of bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from struct import pack
from types import TracebackType
from typing import Literal, Self

from durus._wire.address import SocketAddress, UnixDomainSocketAddress

__all__ = ["Direction", "Proxy"]

Direction = Literal["request", "reply"]


class Proxy:
    """Stands between clients and a server.

    Args:
        path: where it listens, with a Unix socket.
        server: where the server does.
        is_old: answer the choice of protocol 2 as a server of Durus 4.3 does.
    """

    def __init__(self, path: str, server: SocketAddress | str, *, is_old: bool = False) -> None:
        self.path = path
        self.is_old = is_old
        self._server = SocketAddress.new(server)
        self._newest: _Pair | None = None
        self._next_cut: tuple[Direction, int] | None = None
        self._pumps: list[threading.Thread] = []
        self._address = UnixDomainSocketAddress(path)
        self._listening = self._address.get_listening_socket()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for pump in self._pumps:
            pump.join()
        self._address.close(self._listening)

    @property
    def newest(self) -> _Pair:
        """The newest connection."""
        assert self._newest is not None
        return self._newest

    def cut_next(self, direction: Direction, after_bytes: int) -> None:
        """Have the next connection cut when so many bytes have passed, and another one comes."""
        self._next_cut = direction, after_bytes

    def _pump(self, target: Callable[[], None]) -> None:
        # From Python 3.13 on, a thread that nobody joins or forgets keeps its stack.
        self._pumps = [pump for pump in self._pumps if pump.is_alive()]
        self._pumps.append(threading.Thread(target=target))
        self._pumps[-1].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                self._connect(client)
            except OSError:
                # One of them has gone already; the next client may come all the same.
                client.close()

    def _connect(self, client: socket.socket) -> None:
        if self.is_old and client.recv(5) == b"V" + pack(">L", 2):
            client.sendall(pack(">L", 1))
            client.close()
            return
        server = self._server.get_connected_socket()
        pair = self._newest = _Pair(client, server)
        if self.is_old:
            server.sendall(b"V" + pack(">L", 1))
        if self._next_cut is not None:
            pair.cut(*self._next_cut)
            self._next_cut = None
        self._pump(partial(pair.pump, "request", client, server))
        self._pump(partial(pair.pump, "reply", server, client))


class _Pair:
    """Two sockets that end together.

    Attributes:
        counts: how many bytes have come in each direction.
    """

    def __init__(self, *sockets: socket.socket) -> None:
        self.counts: dict[Direction, int] = {"request": 0, "reply": 0}
        self._cuts: dict[Direction, int] = {}
        self._sockets = sockets
        self._lock = threading.Lock()
        self._ended = 0

    def cut(self, direction: Direction, after_bytes: int) -> None:
        """Cut when so many bytes more have passed, and another one comes."""
        with self._lock:
            self._cuts[direction] = after_bytes

    def pump(self, direction: Direction, source: socket.socket, target: socket.socket) -> None:
        """Pass on what comes."""
        with suppress(OSError):
            while data := source.recv(1 << 16):
                with self._lock:
                    self.counts[direction] += len(data)
                    cut = self._cuts.get(direction, len(data))
                    if direction in self._cuts:
                        self._cuts[direction] = cut - len(data)
                target.sendall(data[:cut])
                if len(data) > cut:
                    break
        self.end()

    def end(self) -> None:
        """End both, and close them once both directions have ended."""
        with self._lock:
            self._ended += 1
            for sock in self._sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                if self._ended == 2:
                    sock.close()
