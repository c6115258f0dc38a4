"""One client's socket: bytes in, bytes out, and how much of either may wait.

What the bytes mean is for a `Speaker` to say; first one that listens for the choice of a protocol,
then one of that protocol. It takes one request at a time out of what has arrived. Nothing is taken
while the client does not read the replies that it has, while a request of its waits for the disk
(in protocol 1), or when this client has had its turn: then the event loop sees to the others first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

from durus.error import ProtocolError
from durus.logger import logger
from durus.storage_server._peer import Peer

if TYPE_CHECKING:
    from durus.storage_server._hub import Hub

__all__ = ["COMMIT_PAUSE_S", "END_OF_TURN", "ClientConnection", "Speaker"]

# In place of a part of a long reply: it took long, see to the others first.
END_OF_TURN = b""

# One client's turn ends after that many requests, or bytes of replies.
_TURN_REQUESTS = 256
_TURN_BYTES = 256 << 10

# While commits are on their way, a turn begins that much later, and nobody new comes sooner: the
# thread that commits would get neither the interpreter nor the storage's lock from a busy loop.
COMMIT_PAUSE_S = 0.001

# It begins later still, if the turn before took long: by that many times what it took.
_PAUSE_SHARE = 3

# More than this waits for a client to read: the next reply is not made.
_HIGH_WATER_BYTES = 256 << 10

# More than this waits to be taken: no more is received meanwhile.
_PAUSE_BYTES = 64 << 10


class Speaker(Protocol):
    """What understands the requests of a client."""

    def take(self, data: bytes | bytearray, start: int) -> int:
        """Take the request that begins at `data[start]`, and give where it ends.

        A request that is not all there, or must wait, is left: then the answer is `start`, and
        `wanted_bytes` of the connection says how many bytes from there it takes to go on.

        Raises:
            ProtocolError: this is not a request.
        """

    def is_committing(self) -> bool:
        """Tell whether a commit was handed on whose outcome the client does not know yet."""

    def complain(self, error: ProtocolError) -> None:
        """Tell the client what is wrong with its request, where the protocol has a way to."""

    def leave(self) -> None:
        """Give back what is held for the client, who has left."""


class ClientConnection(asyncio.BufferedProtocol):
    """The socket of one client.

    Attributes:
        peer: who is at the other end.
        speaker: understands its requests.
        wanted_bytes: how many bytes the next request takes at least.
        held_bytes: how many bytes of its are kept until they are whole.
    """

    def __init__(self, hub: Hub, peer: Peer) -> None:
        self.peer = peer
        self.speaker: Speaker = hub.greet(self)
        self.wanted_bytes = 0
        self.held_bytes = 0
        self._hub = hub
        self._metrics = hub.metrics
        self._transport: asyncio.Transport | None = None
        self._rest = bytearray()
        self._noted_rest_bytes = 0
        self._replies: Iterator[bytes] | None = None
        self._turn_bytes = 0
        self._turn_start_s = 0.0
        self._is_waiting = False
        self._is_unread = False
        self._unread_bytes = 0
        self._is_turn_over = False
        self._is_reading_paused = False
        self._is_closing = False
        self._is_draining = False
        self._handshake_timer: asyncio.TimerHandle | None = None
        self._stuck_timer: asyncio.TimerHandle | None = None

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Its type is asyncio.Transport, or a class of uvloop that only looks like it.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER_BYTES)
        self._hub.add(self)
        self._handshake_timer = self._hub.loop.call_later(
            self._hub.limits.handshake_s, self._end_late_handshake
        )

    def get_buffer(self, sizehint: int) -> memoryview:
        # One for all: what is in it is taken out before the event loop does anything else. A new
        # one for each read would cost more than the system's call.
        return self._hub.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._metrics.bytes_in += nbytes
        arrived = self._hub.buffer[:nbytes]
        rest = self._rest
        if rest or self._is_busy():
            rest += arrived
            if len(rest) > _PAUSE_BYTES:
                self._note_rest(len(rest))
                if self._is_busy():
                    self._pause_reading()
            if self._is_busy() or len(rest) < self.wanted_bytes:
                return
            self._take_rest()
        else:
            self._take_requests(bytes(arrived))

    def pause_writing(self) -> None:
        self._is_unread = True
        if self._transport is not None:
            self._unread_bytes = self._transport.get_write_buffer_size()
            self._hub.add_unread(self, self._unread_bytes)
            self._stuck_timer = self._hub.loop.call_later(
                self._hub.limits.stuck_s, self._end_if_stuck, self._unread_bytes
            )

    def resume_writing(self) -> None:
        self._is_unread = False
        self._forget_unread()
        self._go_on()

    def eof_received(self) -> None:
        """Close: a client that sends no more has left."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closing = True
        self._forget_unread()
        self.note_handshake()
        self._rest.clear()
        self._replies = None
        self.hold(-self.held_bytes)
        self.speaker.leave()
        self._hub.remove(self)

    # -- what the speakers call

    def send(self, data: bytes) -> None:
        """Send a reply, in one write."""
        if self._is_closing or self._transport is None:
            return
        size = len(data)
        self._metrics.bytes_out += size
        self._turn_bytes += size
        self._transport.write(data)

    def send_all(self, replies: Iterator[bytes]) -> None:
        """Send a long reply part by part, as fast as the client reads; then take requests again."""
        self._replies = replies

    def wait(self) -> None:
        """Take no requests until `go_on()`."""
        self._is_waiting = True

    def go_on(self) -> None:
        """Take requests again, the one that was left first."""
        self._is_waiting = False
        if self._is_draining:
            self.drain()
        elif self._rest or self._replies is not None:
            # The caller's own work comes first.
            self._hub.loop.call_soon(self._go_on)
        else:
            self._resume_reading()

    def hold(self, change_bytes: int) -> None:
        """Count what is kept for the client until it is whole."""
        # Whoever was dropped for holding too much counts as holding nothing.
        self._hub.hold(self, max(change_bytes, -self.held_bytes))

    def end_turn(self) -> None:
        """Take no more before the other clients have had their turn."""
        if not self._is_turn_over:
            self._is_turn_over = True
            loop = self._hub.loop
            if self._hub.committer.is_busy():
                took_s = time.perf_counter() - self._turn_start_s
                loop.call_later(max(COMMIT_PAUSE_S, _PAUSE_SHARE * took_s), self._begin_turn)
            else:
                loop.call_soon(self._begin_turn)

    def note_handshake(self) -> None:
        """Take note that the client is known, and may now stay as long as it likes."""
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
            self._handshake_timer = None

    def drop(self, reason: str) -> None:
        """End the connection because of what the client did; what was sent still goes out."""
        if not self._is_closing:
            self._metrics.dropped += 1
            logger.warning("dropped %s: %s", self.peer, reason)
            self.close()

    def abort(self, reason: str) -> None:
        """End the connection at once, unread replies and all."""
        if self._transport is not None and not self._transport.is_closing():
            self._metrics.dropped += 1
            logger.warning("cut off %s: %s", self.peer, reason)
        self.cut()

    def close(self) -> None:
        """End the connection once what was sent is read."""
        self._is_closing = True
        self._rest.clear()
        self._replies = None
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """End the connection at once."""
        self._is_closing = True
        if self._transport is not None:
            self._transport.abort()

    def drain(self) -> None:
        """Take no more requests, and close as soon as no commit of the client's is under way."""
        self._is_draining = True
        if not self.speaker.is_committing():
            self.close()

    # -- requests

    def _is_busy(self) -> bool:
        return (
            self._is_waiting
            or self._is_unread
            or self._is_turn_over
            or self._is_closing
            or self._is_draining
            or self._replies is not None
        )

    def _take_rest(self) -> None:
        # Not a copy: of megabytes it would take the time of all clients.
        data, self._rest = self._rest, bytearray()
        if self._noted_rest_bytes:
            # What takes a request that is long counts it, for as long as it keeps it.
            self._note_rest(0)
        self._take_requests(data)

    def _take_requests(self, data: bytes | bytearray) -> None:
        """Take what is whole of `data`, and keep the rest."""
        self._turn_bytes = 0
        self._turn_start_s = time.perf_counter()
        start, end = 0, len(data)
        taken = 0
        try:
            while start < end:
                after = self.speaker.take(data, start)
                if after == start:
                    break
                start = after
                self.wanted_bytes = 0
                if self._replies is not None:
                    self._send_replies()
                taken += 1
                if taken >= _TURN_REQUESTS or self._turn_bytes > _TURN_BYTES:
                    self.end_turn()
                if start < end and self._is_busy():
                    break
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are served
            self._fail(error)
        if self._is_closing:
            return
        if start < end:
            rest = data[start:] if start else data
            self._rest += rest
            if len(rest) > _PAUSE_BYTES:
                self._note_rest(len(rest))
                if self._is_busy():
                    self._pause_reading()
                return
        if self._noted_rest_bytes:
            self._note_rest(0)
        if self._is_reading_paused and not self._is_busy():
            self._resume_reading()

    def _fail(self, error: Exception) -> None:
        """End the connection because of what a request of its led to."""
        if isinstance(error, ProtocolError):
            self.speaker.complain(error)
            self.drop(str(error))
            return
        # A mistake of ours, or of the storage's, which costs this client its connection only.
        logger.error("failed at a request of %s", self.peer, exc_info=error)
        self.close()

    def _send_replies(self) -> None:
        replies = self._replies
        while replies is not None and not self._is_unread and not self._is_closing:
            reply = next(replies, None)
            if reply is None:
                self._replies = None
                return
            if reply is not END_OF_TURN:
                self.send(reply)
            if reply is END_OF_TURN or self._turn_bytes > _TURN_BYTES:
                self.end_turn()
                return

    def _begin_turn(self) -> None:
        self._is_turn_over = False
        self._go_on()

    def _go_on(self) -> None:
        if self._is_unread or self._is_turn_over or self._is_closing or self._is_draining:
            return
        if self._replies is not None:
            self._turn_bytes = 0
            self._turn_start_s = time.perf_counter()
            try:
                self._send_replies()
            except Exception as error:  # noqa: BLE001 - as for what is short
                self._fail(error)
        if self._is_busy():
            return
        if len(self._rest) >= max(1, self.wanted_bytes):
            self._take_rest()
        if not self._is_busy():
            self._resume_reading()

    # -- flow

    def _note_rest(self, size: int) -> None:
        """Count what is kept of requests that are not whole, or must wait."""
        change, self._noted_rest_bytes = size - self._noted_rest_bytes, size
        self.hold(change)

    def _pause_reading(self) -> None:
        if not self._is_reading_paused and self._transport is not None and not self._is_closing:
            self._is_reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._is_reading_paused and self._transport is not None and not self._is_closing:
            self._is_reading_paused = False
            self._transport.resume_reading()

    def _forget_unread(self) -> None:
        self._hub.add_unread(self, -self._unread_bytes)
        self._unread_bytes = 0
        if self._stuck_timer is not None:
            self._stuck_timer.cancel()
            self._stuck_timer = None

    def _end_late_handshake(self) -> None:
        self._handshake_timer = None
        self.abort("it did not say in time which protocol it speaks, and who it is")

    def _end_if_stuck(self, unread_bytes: int) -> None:
        self._stuck_timer = None
        if self._transport is None:
            return
        left_bytes = self._transport.get_write_buffer_size()
        if left_bytes >= unread_bytes:
            self.abort(f"it does not read its replies; {left_bytes} bytes wait for it")
            return
        self._stuck_timer = self._hub.loop.call_later(
            self._hub.limits.stuck_s, self._end_if_stuck, left_bytes
        )
