"""A target for fuzzers: the server's side of both protocols, without sockets, threads and clocks.

`run(data)` plays one client who sends `data`, beside one who behaves, and raises AssertionError if
the server does anything that it should not. The first byte of `data` says how it is sent::

    bits 0-1    what goes before it: nothing; V 1; V 2; V 2 and a HELLO
    bits 2-3    how it is cut: whole; by bytes; in pieces of 7; in pieces of 1000
    bit 4       the client reads none of its replies

`python tests/fuzz/fuzz_wire.py tests/fuzz/corpus/wire [options of libFuzzer]` runs it under atheris
where that is installed.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from struct import pack, unpack_from
from typing import Any, cast

from durus.error import StorageError
from durus.logger import logger
from durus.serialize import split_oids, unpack_record
from durus.sessions import SharedStorage
from durus.storage import MemoryStorage, Storage
from durus.storage_server._connection import ClientConnection
from durus.storage_server._greeting import Greeter
from durus.storage_server._history import Past, Question
from durus.storage_server._hub import Hub, Policy
from durus.storage_server._limits import Limits
from durus.storage_server._peer import Peer
from durus.testing import commit, make_record
from durus.utils import int8_to_str

__all__ = ["HELLO", "frame", "run", "transaction_1"]

LIMITS = Limits(
    transaction_bytes=1 << 16,
    held_bytes=1 << 17,
    unread_bytes=1 << 20,
    bulk_oids=1000,
    read_ahead_bytes=4096,
)

# What one client may have the server keep: what is received while a request of its is not whole,
# and replies that it does not read.
MOST_KEPT_BYTES = LIMITS.held_bytes + (1 << 17)
MOST_UNREAD_BYTES = 1 << 20

# More turns than these callbacks take in all mean that they go on for ever.
MOST_CALLBACKS = 100_000


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    """Make a frame of protocol 2."""
    return pack(">LBL", len(payload) + 5, kind, number) + payload


def transaction_1(*records: bytes) -> bytes:
    """Make the second half of a commit of protocol 1."""
    body = b"".join(pack(">L", len(found) + 8) + found[:8] + found for found in records)
    return pack(">L", len(body)) + body


HELLO = frame(0x01, 0, json.dumps({"client": "fuzz", "compress": True}).encode())
_BEGINNINGS = (b"", b"V\0\0\0\1", b"V\0\0\0\2", b"V\0\0\0\2" + HELLO)
_PIECES = (1 << 20, 1, 7, 1000)


class _Handle:
    """What stands for a callback that is due later."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class _Loop:
    """As much of an event loop as the server's parts ask for. Nothing is due by time."""

    def __init__(self) -> None:
        self._due: deque[_Handle] = deque()

    def call_soon(self, callback: Callable[..., object], *args: object) -> _Handle:
        handle = _Handle(lambda: callback(*args))
        self._due.append(handle)
        return handle

    def call_later(self, _: float, callback: Callable[..., object], *args: object) -> _Handle:
        return _Handle(lambda: callback(*args))

    def time(self) -> float:
        return 0.0

    def create_future(self) -> None:
        """Give nothing: who waits for the committer's thread has none here."""

    def run(self) -> None:
        """Run what is due, and what becomes due by that."""
        for _ in range(MOST_CALLBACKS):
            if not self._due:
                return
            handle = self._due.popleft()
            if not handle.is_cancelled:
                handle.callback()
        raise AssertionError("the callbacks have no end")


class _Committer:
    """The committer without its thread: it commits and packs in the event loop."""

    def __init__(self, shared: SharedStorage, loop: _Loop) -> None:
        self._shared = shared
        self._loop = loop
        self._done: list[tuple[Callable[[BaseException | None], None], BaseException | None]] = []
        self._listeners: list[Any] = []

    def ticket(self, _: int, reply: Callable[[BaseException | None], None]) -> Any:
        return lambda error: self._done.append((reply, error))

    def is_busy(self) -> bool:
        return False

    def order_flush(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._shared.flush()
        done, self._done = self._done, []
        for reply, error in done:
            reply(error)

    def order_pack(self, listener: Any) -> None:
        self._listeners.append(listener)
        self._loop.call_soon(self._pack)

    def _pack(self) -> None:
        for _ in self._shared.get_packer():
            self._flush()
        self._flush()
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.note_pack_progress(1)
            listener.note_pack_end(None)

    def forget(self, listener: Any) -> None:
        self._listeners = [each for each in self._listeners if each is not listener]


class _Remembering(MemoryStorage):
    """A storage whose past is its present."""

    keeps_history = True

    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        return iter([(1, datetime(2026, 1, 1, tzinfo=UTC))])

    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        self._check(serial)
        yield from self.gen_oid_record()

    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        self._check(serial)
        return self.load(oid)

    def _check(self, serial: int) -> None:
        if serial != 1:
            raise StorageError(f"{serial} is no commit")


class _HistoryReader:
    """The reader of the past without its thread and its own opening."""

    can_read = True

    def __init__(self, storage: Storage, loop: _Loop) -> None:
        self._past = Past(lambda: storage, "", lambda: None)
        self._loop = loop

    def order(self, question: Question) -> None:
        self._loop.call_soon(self._answer, question)

    def _answer(self, question: Question) -> None:
        if question.is_wanted:
            question.run(self._past)
        self._loop.call_soon(question.finish)


class _Transport:
    """The socket of a client."""

    def __init__(self, loop: _Loop, *, is_read: bool = True) -> None:
        self.sent = bytearray()
        self.is_reading = True
        self.protocol: Any = None
        self._loop = loop
        self._is_read = is_read
        self._high = 0
        self._is_closing = False
        self._is_paused = False

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high

    def get_write_buffer_size(self) -> int:
        return 0 if self._is_read else len(self.sent)

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self._is_closing:
            return
        self.sent += data
        if not self._is_read and len(self.sent) > self._high and not self._is_paused:
            self._is_paused = True
            self.protocol.pause_writing()

    def pause_reading(self) -> None:
        assert self.is_reading
        self.is_reading = False

    def resume_reading(self) -> None:
        assert not self.is_reading
        self.is_reading = True

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self.protocol.connection_lost, None)

    abort = close


class _Complaints(logging.Handler):
    """Takes down what the server calls a mistake of its own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Server:
    """A server without sockets, with a root, and 1 to 3 that it refers to."""

    def __init__(self) -> None:
        self.loop = _Loop()
        self.storage = _Remembering()
        refs = [int8_to_str(number) for number in (1, 2, 3)]
        commit(self.storage, make_record(bytes(8), refs), *map(make_record, refs))
        self.shared = SharedStorage(self.storage, strict=True)
        policy = Policy(
            secret=None, is_proved=False, allow_protocol_1=True, readonly=False, trusts_local=False
        )
        loop = cast("Any", self.loop)
        self.hub = Hub(loop, self.shared, policy, LIMITS, 0, Greeter, self._refuse_to_stop)
        self.hub.committer = cast("Any", _Committer(self.shared, self.loop))
        self.hub.history = cast("Any", _HistoryReader(self.storage, self.loop))

    def _refuse_to_stop(self) -> None:
        raise AssertionError("a stranger may not stop the server")

    def connect(self, *, is_read: bool = True) -> tuple[ClientConnection, _Transport]:
        """Give a client's connection, from both sides."""
        peer = Peer(name="a client", is_owner=False, is_local=False)
        connection = ClientConnection(self.hub, peer)
        transport = _Transport(self.loop, is_read=is_read)
        transport.protocol = connection
        connection.connection_made(cast("Any", transport))
        return connection, transport

    def check(self) -> None:
        """Check that the storage holds well-formed records, which refer to nothing that is not."""
        found = dict(self.storage.gen_oid_record())
        for oid, record in found.items():
            named, _, refs = unpack_record(record)
            assert named == oid
            assert all(ref in found for ref in split_oids(refs))


def _gen_frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    at = 0
    while at < len(data):
        size, kind, number = unpack_from(">LBL", data, at)
        assert at + 4 + size <= len(data)
        yield kind, number, data[at + 9 : at + 4 + size]
        at += 4 + size


def _receive(connection: ClientConnection, data: bytes) -> None:
    """Have it arrive as the event loop does: in the pieces that there is room for."""
    while data:
        buffer = connection.get_buffer(-1)
        part = data[: len(buffer)]
        buffer[: len(part)] = part
        connection.buffer_updated(len(part))
        data = data[len(part) :]


def _behave(server: Server, payload: bytes) -> None:
    """Make an object as a client does that behaves, and see that others would find it."""
    connection, transport = server.connect()
    _receive(connection, _BEGINNINGS[2] + frame(0x01, 0, b"{}"))
    _receive(connection, frame(0x13, 1, pack(">L", 1)))
    server.loop.run()
    # Not one of those that are there: others may change them, or have them packed away.
    oid = bytes(transport.sent[-8:])
    stored = make_record(oid, payload=payload)
    requests = [
        frame(0x14, 2, pack(">L", len(stored)) + stored),
        frame(0x15, 3),
        frame(0x10, 4, oid + pack(">L", 0)),
    ]
    for request in requests:
        _receive(connection, request)
        server.loop.run()
    answers = [*_gen_frames(bytes(transport.sent[4:]))]
    assert [kind for kind, _, _ in answers] == [0x01, 0x02, 0x94, 0x95, 0x90], answers
    assert answers[-1][2] == pack(">L", len(stored)) + stored
    transport.close()
    server.loop.run()


def _feed(server: Server, connection: ClientConnection, transport: _Transport, data: bytes) -> None:
    """Send it for as long as the server takes it."""
    if transport.is_closing() or not transport.is_reading:
        return
    _receive(connection, data)
    for _ in range(2):
        kept = len(connection._rest) + connection.held_bytes
        assert kept <= MOST_KEPT_BYTES, kept
        assert transport.get_write_buffer_size() <= MOST_UNREAD_BYTES
        server.loop.run()


def run(data: bytes) -> bytes:
    """Play one client who sends `data`, and check the server; give what it answered."""
    options, stream = (data[0], data[1:]) if data else (0, b"")
    complaints = _Complaints()
    logger.addHandler(complaints)
    try:
        server = Server()
        _behave(server, b"before")
        connection, transport = server.connect(is_read=not options & 16)
        _feed(server, connection, transport, _BEGINNINGS[options & 3])
        size = _PIECES[options >> 2 & 3]
        for at in range(0, len(stream), size):
            _feed(server, connection, transport, stream[at : at + size])
        _behave(server, b"beside")
        transport.close()
        server.loop.run()
        _behave(server, b"after")
    finally:
        logger.removeHandler(complaints)
    assert not complaints.records, complaints.format(complaints.records[0])
    server.check()
    hub, shared = server.hub, server.shared
    assert not hub.connections
    assert (hub._held_bytes, hub._unread_bytes) == (0, 0)
    assert not hub.protocols.total()
    assert [*shared._sessions, *shared._unfinished, *shared._log._commits] == []
    return bytes(transport.sent)


def main() -> None:
    """Run it under atheris."""
    try:
        import atheris  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError:
        print("atheris is not installed: nothing is fuzzed")
        return
    logger.setLevel(logging.ERROR)

    def run_quietly(data: bytes) -> None:
        run(data)

    atheris.instrument_all()
    atheris.Setup(sys.argv, run_quietly)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
