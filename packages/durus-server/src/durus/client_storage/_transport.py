"""One connection to a server: requests go out whole, answers are taken whole."""

from __future__ import annotations

import socket
from contextlib import suppress
from ssl import SSLWantReadError

from durus.error import StorageDisconnectedError

__all__ = ["Transport"]

# Most answers are shorter. A larger buffer costs each of them the time to take and give back memory.
_RECEIVE_BYTES = 8192
_MOST_RECEIVE_BYTES = 1 << 20


class Transport:
    """A connected socket.

    Every request ends with `finish()`, when all of its answer is here. A connection in which one
    was left before that, by whatever exception, is not used again: the rest of that answer would be
    taken for that of the next request.

    Args:
        connected: the socket, which blocks.
        name: the server's address, for errors.

    Attributes:
        is_whole: no answer is under way, and the connection is not known to be lost.
    """

    def __init__(self, connected: socket.socket, name: str) -> None:
        self._socket = connected
        self._name = name
        self._buffer = b""
        self._position = 0
        self.is_whole = True

    def send(self, data: bytes) -> None:
        """Send a part of a request, or all of it.

        Raises:
            StorageDisconnectedError: the connection is lost.
        """
        self.is_whole = False
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from error

    def read(self, length: int) -> bytes:
        """Take the next bytes of an answer, `length` of them.

        Raises:
            StorageDisconnectedError: the connection is lost.
        """
        start = self._position
        end = start + length
        if end <= len(self._buffer):
            self._position = end
            return self._buffer[start:end]
        return self._read_more(length)

    def _read_more(self, length: int) -> bytes:
        parts = [self._buffer[self._position :]]
        missing = length - len(parts[0])
        self._buffer, self._position = b"", 0
        while True:
            data = self._receive(max(_RECEIVE_BYTES, min(missing, _MOST_RECEIVE_BYTES)))
            if len(data) >= missing:
                break
            parts.append(data)
            missing -= len(data)
        self._buffer, self._position = data, missing
        if parts == [b""]:
            return data[:missing]
        parts.append(data[:missing])
        return b"".join(parts)

    def begin(self) -> None:
        """Note that an answer is under way to a request that was sent before."""
        self.is_whole = False

    def finish(self) -> None:
        """Note that all of the answer is here."""
        self.is_whole = True

    def check(self) -> None:
        """Look whether the server has hung up.

        Raises:
            StorageDisconnectedError: it has.
        """
        if self._position < len(self._buffer):
            return
        self._socket.setblocking(False)
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError, SSLWantReadError):
            return
        except OSError as error:
            raise self._lost(error) from error
        finally:
            self._socket.setblocking(True)
        if not data:
            raise self._lost()
        self._buffer, self._position = data, 0

    def wait_for_end(self) -> None:
        """Wait until the server hangs up."""
        with suppress(OSError):
            while self._socket.recv(_RECEIVE_BYTES):
                pass

    def close(self) -> None:
        """Hang up."""
        self.is_whole = False
        self._socket.close()

    def _receive(self, most_bytes: int) -> bytes:
        try:
            data = self._socket.recv(most_bytes)
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost()
        return data

    def _lost(self, error: OSError | None = None) -> StorageDisconnectedError:
        self.close()
        reason = "it has hung up" if error is None else error.strerror or str(error)
        return StorageDisconnectedError(
            f"the connection to the server at {self._name} was lost: {reason}; abort() connects"
            " again"
        )
