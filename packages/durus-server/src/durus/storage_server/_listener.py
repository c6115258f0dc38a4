"""Takes new clients from a listening socket."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import resource
import socket
import ssl

from durus.logger import logger
from durus.storage_server._connection import COMMIT_PAUSE_S, ClientConnection
from durus.storage_server._hub import Hub
from durus.storage_server._peer import Peer, get_peer

__all__ = ["Listener", "raise_file_limit"]

# What the system is out of for a while, as long as others hold it.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_RETRY_S = 0.5

# Descriptors that clients do not get: for the storage's files, those of a pack, the event loop.
_RESERVED_FILES = 64


def raise_file_limit(wanted_connections: int) -> int:
    """Get as many descriptors as the system grants; give how many connections that allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted_connections + _RESERVED_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        except (OSError, ValueError) as error:
            logger.warning("cannot have more than %d open files: %s", soft, error)
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return wanted_connections
    # However few there are, some are for clients.
    return min(wanted_connections, max(soft - _RESERVED_FILES, soft // 2))


class Listener:
    """Accepts clients for as long as there is room for them.

    Not `loop.create_server`: that keeps accepting when there are too many, and says so with a
    traceback a second when the system is out of descriptors.

    Args:
        hub: what the clients will share.
        listening: the socket, which stays the caller's.
        ssl_context: for TLS, or None.
        most_connections: how many clients there may be at once.
    """

    def __init__(
        self,
        hub: Hub,
        listening: socket.socket,
        ssl_context: ssl.SSLContext | None,
        most_connections: int,
    ) -> None:
        self._hub = hub
        self._socket = listening
        self._ssl_context = ssl_context
        self._most_connections = most_connections
        self._uid = os.geteuid()
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_listening = False
        self._is_full = False
        self._is_starved = False
        self._retry: asyncio.TimerHandle | None = None
        listening.setblocking(False)

    def start(self) -> None:
        """Begin to accept."""
        self._hub.on_room = self._note_room
        self._listen()

    async def stop(self, patience_s: float) -> None:
        """Accept nobody any more; wait for those that are on their way in."""
        self._hub.on_room = None
        self._cease()
        if self._retry is not None:
            self._retry.cancel()
        if self._tasks:
            # To cancel one that has a transport already would leave it without connection_lost.
            # Only a handshake of TLS can take long.
            _, late = await asyncio.wait(self._tasks, timeout=patience_s)
            for task in late:
                task.cancel()

    def _listen(self) -> None:
        if not self._is_listening:
            self._is_listening = True
            self._hub.loop.add_reader(self._socket.fileno(), self._accept_one)

    def _cease(self) -> None:
        if self._is_listening:
            self._is_listening = False
            self._hub.loop.remove_reader(self._socket.fileno())

    def _accept_one(self) -> None:
        # One: then those that are there have their turn.
        try:
            accepted, _ = self._socket.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                logger.error("cannot accept a client: %s", error)
            self._rest(error)
            return
        self._is_starved = False
        self._let_in(accepted)
        if self._hub.committer.is_busy():
            self._cease()
            self._retry = self._hub.loop.call_later(COMMIT_PAUSE_S, self._try_again)

    def _rest(self, error: OSError) -> None:
        """Accept nobody for a while, or until somebody leaves."""
        self._cease()
        if not self._is_starved:
            self._is_starved = True
            logger.error("cannot accept more clients for now: %s", error)
        self._retry = self._hub.loop.call_later(_RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._listen()

    def _note_room(self) -> None:
        self._is_full = False
        if self._is_starved and self._retry is not None:
            self._retry.cancel()
            self._try_again()

    def _let_in(self, accepted: socket.socket) -> None:
        hub = self._hub
        if len(hub.connections) + len(hub.arriving) >= self._most_connections:
            accepted.close()
            hub.metrics.refused += 1
            if not self._is_full:
                self._is_full = True
                logger.warning("turned a client away: %d are connected", len(hub.connections))
            return
        try:
            accepted.setblocking(False)
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            peer = get_peer(accepted, next(self._numbers), self._uid)
        except OSError as error:
            # It has left already.
            logger.debug("a client left at once: %s", error)
            accepted.close()
            return
        hub.arriving.add(peer)
        task = hub.loop.create_task(self._connect(accepted, peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, accepted: socket.socket, peer: Peer) -> None:
        hub, context = self._hub, self._ssl_context
        timeout_s = self._hub.limits.handshake_s if context is not None else None
        try:
            await hub.loop.connect_accepted_socket(
                lambda: ClientConnection(hub, peer),
                accepted,
                ssl=context,
                ssl_handshake_timeout=timeout_s,
            )
        except OSError as error:
            # ssl.SSLError is one too: a stranger, or a client without TLS.
            hub.metrics.refused += 1
            logger.warning("%s was not let in: %s", peer, error)
            accepted.close()
        finally:
            hub.arriving.discard(peer)
