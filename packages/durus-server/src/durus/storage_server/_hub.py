"""What the clients of a server have in common."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from durus.logger import logger
from durus.sessions import SharedStorage
from durus.storage_server._committer import Committer
from durus.storage_server._history import HistoryReader
from durus.storage_server._limits import Limits
from durus.storage_server._metrics import Metrics
from durus.storage_server._peer import Peer
from durus.storage_server._roots import RootMaking

if TYPE_CHECKING:
    from collections.abc import Callable

    from durus.storage import Storage
    from durus.storage_server._connection import ClientConnection, Speaker

__all__ = ["Hub", "Policy"]

_BUFFER_BYTES = 256 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What a server demands of clients and lets them do.

    Attributes:
        secret: what a client must know, or None.
        is_proved: whoever is let in by protocol 2 has proved who it is, by secret or certificate.
        allow_protocol_1: clients that speak like those of Durus 4.3 are welcome.
        readonly: nothing may be changed.
        trusts_local: whoever reaches it from this machine may stop it.
    """

    secret: bytes | None
    is_proved: bool
    allow_protocol_1: bool
    readonly: bool
    trusts_local: bool


class Hub:
    """What the clients of one running server share.

    Attributes:
        loop: the event loop.
        shared: the storage.
        policy: what clients must and may do.
        limits: how much they may take.
        metrics: what is counted.
        committer: waits for the disk.
        history: reads the past.
        roots: who makes the root of an empty storage.
        buffer: where whatever a client sends arrives.
        connections: the clients.
        arriving: those that were accepted, and are no clients yet.
        database: tells the database that is served from every other, in hex.
        request_stop: asks the server to end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        shared: SharedStorage,
        policy: Policy,
        limits: Limits,
        gcbytes: int,
        greeter: Callable[[Hub, ClientConnection], Speaker],
        request_stop: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.shared = shared
        self.policy = policy
        self.limits = limits
        self.metrics = Metrics()
        self.committer = Committer(shared, loop, self.metrics, gcbytes, limits.pack_pause_s)
        self.history = HistoryReader(loop, shared.storage, self.metrics)
        self.roots = RootMaking(loop, limits.root_s)
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.connections: set[ClientConnection] = set()
        self.arriving: set[Peer] = set()
        self.protocols: Counter[int] = Counter()
        self.database = _identify(shared.storage)
        self.request_stop = request_stop
        self.on_room: Callable[[], None] | None = None
        self._greeter = greeter
        self._leaving = asyncio.Event()
        self._held_bytes = 0
        self._unread_bytes = 0

    def greet(self, connection: ClientConnection) -> Speaker:
        """Give what listens to a new client."""
        return self._greeter(self, connection)

    def add(self, connection: ClientConnection) -> None:
        """Take note of a new client."""
        self.metrics.accepted += 1
        self.arriving.discard(connection.peer)
        self.connections.add(connection)
        logger.debug("%s came", connection.peer)

    def remove(self, connection: ClientConnection) -> None:
        """Take note that a client has left."""
        self.connections.discard(connection)
        logger.debug("%s left", connection.peer)
        self._leaving.set()
        if self.on_room is not None:
            self.on_room()

    async def wait_for_leaving(self, timeout_s: float) -> None:
        """Wait until a client has left, or for so long."""
        self._leaving.clear()
        try:
            await asyncio.wait_for(self._leaving.wait(), timeout_s)
        except TimeoutError:
            pass

    def hold(self, connection: ClientConnection, change_bytes: int) -> None:
        """Count what is kept for a client until it is whole; drop the greediest if it is too much.

        Not whoever comes last: that may be the one client that behaves.
        """
        connection.held_bytes += change_bytes
        self._held_bytes += change_bytes
        if change_bytes > 0 and self._held_bytes > self.limits.held_bytes:
            greediest = max(self.connections, key=_held_bytes)
            greediest.abort(
                f"{self._held_bytes} bytes are held for all clients, and {greediest.held_bytes} for"
                " this one, which is most"
            )
            self.hold(greediest, -greediest.held_bytes)

    def add_unread(self, connection: ClientConnection, change_bytes: int) -> None:
        """Count what a client has left unread; drop it if that is too much for all together."""
        self._unread_bytes += change_bytes
        if change_bytes > 0 and self._unread_bytes > self.limits.unread_bytes:
            connection.abort(
                f"{self._unread_bytes} bytes of replies wait for clients to read them, and"
                f" {change_bytes} more for this one"
            )

    def stop_for(self, peer: Peer, *, is_authenticated: bool = False) -> bool:
        """End the server because a client asks for it; tell whether it may."""
        if not (is_authenticated or peer.is_owner or (peer.is_local and self.policy.trusts_local)):
            logger.warning("refused to stop for %s", peer)
            return False
        logger.info("stopping: %s asks for it", peer)
        self.request_stop()
        return True

    def get_status(self) -> dict[str, object]:
        """Give what `durus status` shows."""
        description = asdict(self.shared.storage.describe())
        when = description["last_commit_time"]
        description["last_commit_time"] = when.isoformat() if when is not None else None
        return {
            "clients": len(self.connections),
            "protocols": {str(version): count for version, count in self.protocols.items()},
            "held_bytes": self._held_bytes,
            "unread_bytes": self._unread_bytes,
            "readonly": self.policy.readonly,
            "pid": os.getpid(),
            **self.metrics.as_dict(),
            "storage": description | {"name": str(self.shared.storage)},
        }


def _held_bytes(connection: ClientConnection) -> int:
    return connection.held_bytes


def _identify(storage: Storage) -> str:
    """Give what stays the same for as long as clients may take a database for the same one.

    That is its path, for what is there when the server starts again, else this run of the server.
    """
    path = storage.describe().path if storage.is_persistent else None
    if path is None:
        return os.urandom(16).hex()
    # Not the path itself: it is nobody's business.
    return sha256(os.path.realpath(path).encode(errors="surrogateescape")).hexdigest()[:32]
