"""The frames of protocol 2: out of what has arrived, and into what is sent."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from durus._wire import COMPRESSED, FRAME_HEADER, Type, decompress, pack_error, pack_frame
from durus.error import ProtocolError
from durus.storage_server._connection import END_OF_TURN

if TYPE_CHECKING:
    from durus.storage_server._connection import ClientConnection, Speaker

__all__ = ["LATER", "Command", "Framing"]

# What a method gives to have its request come again, when its client goes on.
LATER = True

# Decompressing takes the time of all clients: what is larger must come as it is.
_MOST_DECOMPRESSED_BYTES = 1 << 20

# Replies of fewer bytes are not worth compressing, and of more cost the others too much time.
_COMPRESS_FROM_BYTES = 512
_COMPRESS_TO_BYTES = 1 << 20


class Command(NamedTuple):
    """What a request calls, and the most bytes that it may bring.

    Attributes:
        method: takes the speaker, the number of the request and what it brings.
        most_bytes: a frame that says it has more is refused before it has come; None for what a
            whole transaction may have. Then the method is called as soon as the frame begins, gets
            the length of what it brings, and the speaker's `take` takes that as it comes.
    """

    method: Callable[[Any, int, Any], bool | None]
    most_bytes: int | None


class Framing:
    """Takes frames of one client apart, and makes those for it.

    Attributes:
        connection: its socket.
        compresses: both sides have said that frames may be compressed.
    """

    def __init__(self, connection: ClientConnection, transaction_bytes: int) -> None:
        self.connection = connection
        self._transaction_bytes = transaction_bytes
        self.compresses = False

    def take(
        self, commands: Mapping[int, Command], speaker: Speaker, data: bytes | bytearray, start: int
    ) -> int:
        """Call the method of the request at `data[start]`; see `Speaker.take`."""
        have = len(data) - start
        if have < 9:
            # No frame is shorter.
            self.connection.wanted_bytes = 9
            return start
        size, kind, number = FRAME_HEADER.unpack_from(data, start)
        command = commands.get(kind & ~COMPRESSED)
        if command is None:
            raise ProtocolError(f"{kind:#04x} is not a type of request that is allowed now")
        most_bytes = command.most_bytes
        if most_bytes is None:
            most_bytes = self._transaction_bytes
        if not 5 <= size <= most_bytes + 5:
            raise ProtocolError(
                f"a request of type {kind:#04x} says that it has {size} bytes; {most_bytes + 5} are"
                " allowed"
            )
        is_compressed = bool(kind & COMPRESSED)
        is_long = command.most_bytes is None
        if is_long and not is_compressed:
            is_later = command.method(speaker, number, size - 5) is LATER
            return start if is_later else start + 9
        end: int = start + 4 + size
        if have < 4 + size:
            self.connection.wanted_bytes = 4 + size
            return start
        payload = bytes(data[start + 9 : end])
        if is_compressed:
            payload = self._decompress(payload, most_bytes)
        if command.method(speaker, number, len(payload) if is_long else payload) is LATER:
            return start
        if is_long:
            self.connection.send_all(self._gen_turns(speaker, payload))
        return end

    def _gen_turns(self, speaker: Speaker, payload: bytes) -> Iterator[bytes]:
        """Have what a frame brought taken part by part."""
        at = 0
        self.connection.hold(len(payload))
        try:
            while at < len(payload):
                at = speaker.take(payload, at)
                yield END_OF_TURN
        finally:
            self.connection.hold(-len(payload))

    def _decompress(self, payload: bytes, most_bytes: int) -> bytes:
        if not self.compresses:
            raise ProtocolError("it compresses, which was not agreed on")
        return decompress(payload, min(most_bytes, _MOST_DECOMPRESSED_BYTES))

    def send(self, kind: int, number: int, payload: bytes) -> None:
        """Send a frame."""
        self.connection.send(self.pack(kind, number, payload))

    def send_error(self, number: int, error: BaseException) -> None:
        """Send a frame that says what went wrong with a request."""
        self.send(Type.ERROR, number, pack_error(error))

    def pack(self, kind: int, number: int, payload: bytes) -> bytes:
        """Make a frame."""
        if self.compresses and _COMPRESS_FROM_BYTES <= len(payload) <= _COMPRESS_TO_BYTES:
            compressed = zlib.compress(payload, 1)
            if len(compressed) < len(payload):
                kind, payload = kind | COMPRESSED, compressed
        return pack_frame(kind, number, payload)
