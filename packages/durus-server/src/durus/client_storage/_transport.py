"""One connection to a server: requests go out whole, answers are taken whole."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from select import POLLIN, poll
from ssl import SSLSocket, SSLWantReadError, SSLWantWriteError

from durus.error import AuthenticationError, DurusError, StorageDisconnectedError

__all__ = ["Transport"]

# Most answers are shorter. A larger buffer costs each the time to take it and give it back.
_RECEIVE_BYTES = 8192
_MOST_RECEIVE_BYTES = 1 << 20


class Transport:
    """A connected socket.

    Args:
        connected: the socket.
        name: the server's address, for errors.
        timeout_s: how long to wait for the next byte of an answer; None is for ever.
    """

    def __init__(self, connected: socket.socket, name: str, timeout_s: float | None = None) -> None:
        connected.settimeout(timeout_s)
        self._socket = connected
        # Of TLS something may have come that is not to be seen from without.
        self._is_tls = isinstance(connected, SSLSocket)
        self._poll = poll()
        self._poll.register(connected, POLLIN)
        self._timeout_s = timeout_s
        self._name = name
        self._pid = os.getpid()
        self._buffer = b""
        self._position = 0
        self._is_whole = True
        self._is_patient = False
        self.is_open = True

    @property
    def is_whole(self) -> bool:
        """No answer is under way."""
        return self._is_whole

    def __enter__(self) -> None:
        """Begin a request; the block is to take all of its answer, and say so by `finish()`.

        If the block is left before that, by whatever exception, the connection is closed: the rest
        of this answer must not be taken for that of the next request.

        Raises:
            StorageDisconnectedError: the connection was lost, now or earlier.
        """
        if not self.is_open or self._pid != os.getpid():
            raise self._lost("was lost")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: object
    ) -> None:
        if self._is_whole:
            return
        self.close()
        if error is None:
            raise self._lost("was left in the middle of an answer")
        # Those of ours may be an OSError too, and say already what happened.
        if isinstance(error, OSError) and not isinstance(error, DurusError):
            raise self._lost(f"was lost: {error.strerror or error}") from error

    def check(self) -> None:
        """Look whether the server has hung up.

        Raises:
            StorageDisconnectedError: it has.
        """
        if self._position < len(self._buffer):
            return
        if not self._is_tls and not self._poll.poll(0):
            return
        try:
            self._socket.setblocking(False)
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            finally:
                self._socket.settimeout(self._timeout_s)
        except (BlockingIOError, InterruptedError, SSLWantReadError, SSLWantWriteError):
            return
        except OSError as error:
            self.close()
            raise self._lost(f"was lost: {error.strerror or error}") from error
        if not data:
            self.close()
            raise self._lost("has hung up")
        self._buffer, self._position = data, 0

    def send(self, data: bytes) -> None:
        """Send a part of a request, or all of it.

        If it raises, the server has not got all of `data`.
        """
        self._is_whole = False
        self._socket.sendall(data)

    def exchange(self, request: bytes) -> bytes:
        """Send a request, and give what has come of the answer, which is still to be taken.

        It is empty if something of an earlier answer is still there.
        """
        self._is_whole = False
        self._socket.sendall(request)
        if self._position < len(self._buffer):
            return b""
        self._buffer, self._position = self._receive(_RECEIVE_BYTES), 0
        return self._buffer

    def expect(self) -> None:
        """Take note that an answer is due that was not asked for just now."""
        self._is_whole = False

    def be_patient(self) -> None:
        """Wait as long as it takes, until `finish()`."""
        self._is_patient = True
        self._socket.settimeout(None)

    def read(self, length: int) -> bytes:
        """Take the next bytes of an answer, `length` of them."""
        start = self._position
        end = start + length
        if end <= len(self._buffer):
            self._position = end
            return self._buffer[start:end]
        return self._read_more(length)

    def take_all(self) -> None:
        """Take all that has come."""
        self._position = len(self._buffer)

    def _receive(self, most_bytes: int) -> bytes:
        if not self._is_tls and self._socket.gettimeout() is None:
            # A Unix socket also wakes who waits in recv() when the server reads what he has sent.
            # With a time limit the socket polls by itself.
            self._poll.poll()
        data = self._socket.recv(most_bytes)
        if not data:
            raise ConnectionResetError("it has hung up")
        return data

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
        parts.append(data[:missing])
        self._buffer, self._position = data, missing
        return b"".join(parts)

    def finish(self) -> None:
        """Note that all of the answer is here."""
        self._is_whole = True
        if self._is_patient:
            self._socket.settimeout(self._timeout_s)
            self._is_patient = False

    def wait_for_end(self) -> None:
        """Wait until the server hangs up."""
        with suppress(OSError):
            while self._socket.recv(_RECEIVE_BYTES):
                pass

    def close(self) -> None:
        """Hang up."""
        self.is_open = False
        self._socket.close()

    def refused(self, what: str) -> AuthenticationError:
        """Make the error for a server and a client that do not trust each other."""
        return AuthenticationError(f"the server at {self._name} {what}")

    def _lost(self, what: str) -> StorageDisconnectedError:
        return StorageDisconnectedError(
            f"the connection to the server at {self._name} {what}; abort() connects again, and so"
            " does a command that is run again"
        )
