"""The client's side of protocol 1, which servers of Durus 4.3 speak (docs/formats/wire-1.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from struct import Struct

from durus.client_storage._transport import Transport
from durus.error import (
    CommitUnknownError,
    DurusKeyError,
    NotSupportedError,
    ProtocolError,
    ReadConflictError,
    StorageDisconnectedError,
    WriteConflictError,
)
from durus.serialize import split_oids
from durus.storage import StorageDescription

__all__ = ["Protocol1"]

_INT4 = Struct(">L")
_OKAY, _KEY_ERROR, _INVALID = b"O", b"K", b"I"
_MOST_OIDS = 255


class Protocol1:
    """One client of a server that speaks protocol 1, after the greeting."""

    version = 1
    readonly = False
    most_transaction_bytes = 0xFFFFFFFF

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    def load(self, oid: bytes) -> bytes:
        transport = self.transport
        transport.send(b"L" + oid)
        return self._take_record(oid)

    def load_many(self, oids: Sequence[bytes]) -> list[bytes | DurusKeyError | ReadConflictError]:
        transport = self.transport
        answers: list[bytes | DurusKeyError | ReadConflictError] = []
        transport.send(b"B" + _INT4.pack(len(oids)) + b"".join(oids))
        for oid in oids:
            try:
                answers.append(self._take_record(oid))
            except (DurusKeyError, ReadConflictError) as error:
                answers.append(error)
            transport.begin()
        transport.finish()
        return answers

    def _take_record(self, oid: bytes) -> bytes:
        transport = self.transport
        status = transport.read(1)
        if status == _OKAY:
            (length,) = _INT4.unpack(transport.read(4))
            record = transport.read(length)
            transport.finish()
            return record
        if status == _KEY_ERROR:
            transport.finish()
            raise DurusKeyError(oid)
        if status == _INVALID:
            transport.finish()
            raise ReadConflictError([oid])
        raise ProtocolError(f"the server answered a load with {status!r}")

    def sync(self) -> list[bytes] | None:
        transport = self.transport
        transport.send(b"S")
        oids = self._take_oids()
        transport.finish()
        return oids

    def _take_oids(self) -> list[bytes]:
        (count,) = _INT4.unpack(self.transport.read(4))
        return split_oids(self.transport.read(8 * count))

    def new_oids(self, count: int) -> list[bytes]:
        transport = self.transport
        count = min(count, _MOST_OIDS)
        transport.send(b"M" + bytes((count,)))
        oids = split_oids(transport.read(8 * count))
        transport.finish()
        return oids

    def commit(
        self, records: Mapping[bytes, bytes], handle: Callable[[list[bytes]], None] | None
    ) -> list[bytes]:
        transport = self.transport
        transport.check()
        transport.send(b"C")
        stale = self._take_oids()
        if stale and handle is not None:
            try:
                handle(stale)
            except BaseException:
                transport.send(_INT4.pack(0))
                transport.finish()
                raise
        try:
            return self._send_commit(records)
        except (StorageDisconnectedError, ProtocolError) as error:
            transport.close()
            raise CommitUnknownError(
                f"the connection to the server was lost in a commit: {error}; abort(), and look"
                " whether it is stored"
            ) from error

    def _send_commit(self, records: Mapping[bytes, bytes]) -> list[bytes]:
        transport = self.transport
        parts: list[bytes] = []
        for oid, record in records.items():
            parts += (_INT4.pack(len(oid) + len(record)), oid, record)
        data = b"".join(parts)
        transport.send(_INT4.pack(len(data)) + data)
        status = transport.read(1)
        if status not in {_OKAY, _INVALID}:
            raise ProtocolError(f"the server answered a commit with {status!r}")
        transport.finish()
        if status == _INVALID:
            raise WriteConflictError
        return []

    def gen_pack(self) -> Iterator[object]:
        transport = self.transport
        transport.send(b"P")
        if transport.read(1) != _OKAY:
            raise ProtocolError("the server did not say that it has packed")
        transport.finish()
        yield None

    def describe(self) -> StorageDescription:
        return StorageDescription()

    def status(self) -> dict[str, object]:
        raise NotSupportedError("a server that speaks protocol 1 has no status to tell")

    def stop_server(self) -> None:
        transport = self.transport
        transport.send(b"Q")
        transport.finish()
        transport.wait_for_end()

    def leave(self) -> None:
        transport = self.transport
        transport.send(b".")
        transport.finish()
