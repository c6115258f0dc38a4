"""A new client says which protocol it speaks."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from durus.error import ProtocolError
from durus.storage_server._handshake import Handshake
from durus.storage_server._protocol_1 import Protocol1

if TYPE_CHECKING:
    from durus.storage_server._connection import ClientConnection
    from durus.storage_server._hub import Hub

__all__ = ["Greeter"]

_VERSION = Struct(">L")
_CHOOSE, _QUIT, _LEAVE = b"VQ."


class Greeter:
    """Listens for V, and for the Q that `durus -s --stop` of Durus 4.3 sends without one."""

    def __init__(self, hub: Hub, connection: ClientConnection) -> None:
        self._hub = hub
        self._connection = connection

    def take(self, data: bytes | bytearray, start: int) -> int:
        command = data[start]
        if command == _CHOOSE:
            if len(data) - start < 5:
                self._connection.wanted_bytes = 5
                return start
            (version,) = _VERSION.unpack_from(data, start + 1)
            self._choose(version)
            return start + 5
        if command == _LEAVE:
            self._connection.close()
        elif command == _QUIT and self._hub.policy.allow_protocol_1:
            if not self._hub.stop_for(self._connection.peer):
                self._connection.drop("it asked the server to stop, which it may not")
        else:
            raise ProtocolError(f"it began with {data[start : start + 8]!r}, which is no greeting")
        return start + 1

    def _choose(self, version: int) -> None:
        """Answer with the version that this server speaks, as clients of any version expect."""
        connection, hub = self._connection, self._hub
        if version == 1 and hub.policy.allow_protocol_1:
            connection.send(_VERSION.pack(1))
            connection.note_handshake()
            connection.speaker = Protocol1(hub, connection)
        elif version == 2:
            connection.speaker = Handshake(hub, connection, _VERSION.pack(2))
        else:
            connection.send(_VERSION.pack(2))
            connection.drop(f"it speaks version {version} of the protocol, which is not served")

    def is_committing(self) -> bool:
        return False

    def complain(self, error: ProtocolError) -> None:
        """Say nothing to whoever may not know any protocol of ours."""

    def leave(self) -> None:
        """Hold nothing, and so give back nothing."""
