"""The beginning of protocol 2: each side says what it can do, and proves what it knows.

Nothing but HELLO is understood before, and hardly any bytes are kept: whoever is at the other end
is a stranger.
"""

from __future__ import annotations

import json
import os
from hmac import compare_digest
from typing import TYPE_CHECKING, ClassVar

from durus._wire import NONCE_BYTES, Type, client_proof, read_object, server_proof
from durus.error import AuthenticationError, ProtocolError
from durus.logger import logger
from durus.storage_server._framing import Command, Framing
from durus.storage_server._protocol_2 import Protocol2

if TYPE_CHECKING:
    from durus.storage_server._connection import ClientConnection
    from durus.storage_server._hub import Hub

__all__ = ["Handshake"]

_HELLO_BYTES = 4096


class Handshake:
    """Waits for HELLO of a client that has chosen protocol 2.

    Args:
        hub: what all clients share.
        connection: the client's socket.
        before: what goes out before our own HELLO, in the same write.
    """

    def __init__(self, hub: Hub, connection: ClientConnection, before: bytes) -> None:
        self._hub = hub
        self._connection = connection
        self._framing = Framing(connection, hub.limits.transaction_bytes)
        self._nonce = os.urandom(NONCE_BYTES)
        connection.send(before + self._framing.pack(Type.HELLO, 0, self._hello()))

    def _hello(self) -> bytes:
        policy, limits = self._hub.policy, self._hub.limits
        hello = {
            "server": "durus-server",
            "auth": "none" if policy.secret is None else "secret",
            "nonce": self._nonce.hex(),
            "compress": True,
            "max_frame": limits.transaction_bytes,
            "max_transaction": limits.transaction_bytes,
            "readonly": policy.readonly,
            "history": self._hub.history.can_read,
        }
        return json.dumps(hello).encode()

    def take(self, data: bytes | bytearray, start: int) -> int:
        return self._framing.take(self._COMMANDS, self, data, start)

    def _take_hello(self, number: int, payload: bytes) -> None:
        hello = read_object(payload)
        secret = self._hub.policy.secret
        welcome: dict[str, object] = {"database": self._hub.database}
        if secret is not None:
            auth = hello.get("auth")
            nonce, proof = _read_proof(auth if isinstance(auth, dict) else {})
            # The same answer whatever was wrong, and a comparison that takes the same time.
            if not compare_digest(client_proof(secret, self._nonce, nonce), proof):
                self._hub.metrics.refused += 1
                self._framing.send_error(number, AuthenticationError("credentials refused"))
                self._connection.drop("its credentials are wrong")
                return
            welcome["proof"] = server_proof(secret, self._nonce, nonce).hex()
        self._framing.send(Type.WELCOME, number, json.dumps(welcome).encode())
        self._framing.compresses = hello.get("compress") is True
        self._connection.note_handshake()
        self._connection.speaker = Protocol2(self._hub, self._connection, self._framing)

    def is_committing(self) -> bool:
        return False

    def complain(self, error: ProtocolError) -> None:
        self._framing.send_error(0, error)

    def leave(self) -> None:
        """Hold nothing, and so give back nothing."""
        logger.debug("%s left before it was let in", self._connection.peer)

    _COMMANDS: ClassVar[dict[int, Command]] = {Type.HELLO: Command(_take_hello, _HELLO_BYTES)}


def _read_proof(auth: dict[str, object]) -> tuple[bytes, bytes]:
    """Give the client's nonce and proof; empty where there is none."""
    try:
        return bytes.fromhex(str(auth.get("nonce"))), bytes.fromhex(str(auth.get("proof")))
    except ValueError:
        return b"", b""
