"""The server's life: listen, serve, drain, end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from durus._wire.address import DEFAULT_HOST, DEFAULT_PORT, SocketAddress, is_loopback
from durus.logger import logger
from durus.sessions import SharedStorage
from durus.storage import Storage
from durus.storage_server._greeting import Greeter
from durus.storage_server._hub import Hub, Policy
from durus.storage_server._limits import Limits
from durus.storage_server._listener import Listener, raise_file_limit

__all__ = ["DEFAULT_GCBYTES", "StorageServer"]

DEFAULT_GCBYTES = 0

# A commit changes threads some times, and waits each time until the event loop lets go of the
# interpreter. By Python's own 5 ms one busy client makes the commits of all others slow.
_SWITCH_INTERVAL_S = 0.0005

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StorageServer:
    """Serves one storage to many clients, until it is told to stop.

    Args:
        storage: what to serve. It belongs to the server, which closes it at the end.
        host: where to listen, if there is no `address`.
        port: the same; 0 for any that is free.
        address: a path of a Unix socket, (host, port), or a SocketAddress.
        gcbytes: pack by itself when that many bytes were committed since the last pack; 0: never.
        secret: what clients must prove to know. It is never sent.
        ssl_context: serve TLS, with the certificate that is loaded in it.
        allow_protocol_1: serve clients that speak like those of Durus 4.3. They cannot prove that
            they know a secret: the default is not to serve them where there is one, or TLS.
        insecure: listen where other machines can connect, though nobody has to prove anything.
        readonly: let clients change nothing.
        limits: how much memory and time clients may take.

    Raises:
        ValueError: other machines could connect, and it was not said that they may.
        OSError: there is no such host.
    """

    def __init__(
        self,
        storage: Storage,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        address: SocketAddress | str | tuple[str, int] | None = None,
        gcbytes: int = DEFAULT_GCBYTES,
        *,
        secret: bytes | None = None,
        ssl_context: ssl.SSLContext | None = None,
        allow_protocol_1: bool | None = None,
        insecure: bool = False,
        readonly: bool = False,
        limits: Limits | None = None,
    ) -> None:
        if secret is not None and not secret:
            raise ValueError("an empty secret proves nothing; leave it out to ask for none")
        self.storage = storage
        self.address = SocketAddress.new(address if address is not None else (host, port))
        self.gcbytes = gcbytes
        self._limits = limits if limits is not None else Limits()
        self._ssl_context = ssl_context
        is_proved = secret is not None or (
            ssl_context is not None and ssl_context.verify_mode == ssl.CERT_REQUIRED
        )
        if not (is_proved or insecure or is_loopback(self.address)):
            raise ValueError(
                f"other machines can reach {self.address}, and nobody who connects there would have"
                " to prove anything: give a secret (secret=, --secret-file), or TLS that asks for"
                " client certificates (ssl_context=, --tls-client-ca), or say that it may be"
                " insecure (insecure=True, --insecure)"
            )
        if allow_protocol_1 is None:
            allow_protocol_1 = secret is None and ssl_context is None
        self._policy = Policy(
            secret=secret,
            is_proved=is_proved,
            allow_protocol_1=allow_protocol_1,
            readonly=readonly,
            trusts_local=secret is None and ssl_context is None,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop_request: asyncio.Event | None = None
        self._is_stop_requested = False
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    def serve(self) -> None:
        """Listen and serve until `stop()`, SIGTERM, SIGINT or a client's request to stop.

        Then nobody is accepted any more, commits under way are finished and answered, clients are
        disconnected, and the storage is closed. Signals are heard in the main thread only.

        Raises:
            OSError: the address is taken, or cannot be listened at.
        """
        listening = self.address.get_listening_socket()
        try:
            self._serve_at(listening)
        finally:
            self.address.close(listening)

    def start(self) -> None:
        """Serve in a thread of its own; when this returns, clients can connect.

        Raises:
            OSError: as for `serve()`.
        """
        self._thread = threading.Thread(target=self._serve_in_thread, name="durus-server")
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def stop(self) -> None:
        """Have the server end as `serve()` says; wait for that if `start()` started it.

        May be called from any thread, and before the server listens.
        """
        self._is_stop_requested = True
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._request_stop)
            except RuntimeError:
                logger.debug("the server has ended already")
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _serve_in_thread(self) -> None:
        try:
            self.serve()
        except BaseException as error:  # noqa: BLE001 - start() raises it again
            if self._ready.is_set():
                logger.exception("the server ended with an error")
            self._failure = error
        finally:
            self._ready.set()

    def _request_stop(self) -> None:
        if self._stop_request is not None:
            self._stop_request.set()

    def _serve_at(self, listening: socket.socket) -> None:
        limits = self._limits
        shared = SharedStorage(
            self.storage,
            strict=True,
            history_bytes=limits.history_bytes,
            log_oids=limits.log_oids,
        )
        loop = _make_event_loop()
        self._loop = loop
        try:
            with self._process_prepared(loop):
                loop.run_until_complete(self._run(loop, shared, listening))
        finally:
            shared.close()
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        logger.info("ended: %s", self.address)

    @contextmanager
    def _process_prepared(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Take SIGTERM and SIGINT for requests to stop, and switch threads more often.

        Both only in the main thread: there the process is the server's.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        switch_interval_s = sys.getswitchinterval()
        sys.setswitchinterval(min(switch_interval_s, _SWITCH_INTERVAL_S))
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._note_signal, number)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)
            sys.setswitchinterval(switch_interval_s)

    def _note_signal(self, number: int) -> None:
        logger.info("stopping: got %s", signal.Signals(number).name)
        self._request_stop()

    async def _run(
        self, loop: asyncio.AbstractEventLoop, shared: SharedStorage, listening: socket.socket
    ) -> None:
        self._stop_request = asyncio.Event()
        hub = Hub(
            loop,
            shared,
            self._policy,
            self._limits,
            self.gcbytes,
            Greeter,
            self._request_stop,
        )
        most_connections = raise_file_limit(self._limits.connections)
        listener = Listener(hub, listening, self._ssl_context, most_connections)
        hub.committer.start()
        listener.start()
        logger.info("serving %s at %s (pid %d)", self.storage, self.address, os.getpid())
        self._ready.set()
        if not self._is_stop_requested:
            await self._stop_request.wait()
        await listener.stop(self._limits.drain_s)
        await self._drain(hub)

    async def _drain(self, hub: Hub) -> None:
        """Finish the commits under way, and part from the clients."""
        for connection in list(hub.connections):
            connection.drain()
        await hub.committer.stop()
        await hub.history.stop(self._limits.drain_s)
        # Whoever waited for a commit has its answer now, but may not have read it.
        deadline = hub.loop.time() + self._limits.drain_s
        for connection in list(hub.connections):
            connection.close()
        while hub.connections and hub.loop.time() < deadline:
            await hub.wait_for_leaving(deadline - hub.loop.time())
        for connection in list(hub.connections):
            connection.cut()
        deadline = hub.loop.time() + self._limits.drain_s
        while hub.connections and hub.loop.time() < deadline:
            await hub.wait_for_leaving(deadline - hub.loop.time())


def _make_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415 - faster, and optional
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop
