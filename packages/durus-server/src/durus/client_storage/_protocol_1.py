"""The client's side of protocol 1, which servers of Durus 4.3 speak (docs/formats/wire-1.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from struct import Struct

from durus._wire.protocol_1 import STATUS_INVALID, STATUS_KEYERROR, STATUS_OKAY
from durus.client_storage._transport import Transport
from durus.error import (
    CommitUnknownError,
    DurusKeyError,
    NotSupportedError,
    ProtocolError,
    ReadConflictError,
    WriteConflictError,
)
from durus.serialize import split_oids
from durus.storage import StorageDescription

__all__ = ["Protocol1"]

_INT4 = Struct(">L")
_MOST_OIDS = 255


class Protocol1:
    """One client of a server that speaks protocol 1, after the greeting."""

    version = 1
    # It does not tell.
    database = None
    readonly = False
    most_transaction_bytes = 0xFFFFFFFF

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def load(self, oid: bytes) -> bytes:
        transport = self._transport
        with transport:
            transport.send(b"L" + oid)
            answer = self._take_answer(oid)
            transport.finish()
        if isinstance(answer, bytes):
            return answer
        raise answer

    def load_many(self, oids: Sequence[bytes]) -> list[bytes | DurusKeyError | ReadConflictError]:
        transport = self._transport
        with transport:
            transport.send(b"B" + _INT4.pack(len(oids)) + b"".join(oids))
            answers = [self._take_answer(oid) for oid in oids]
            transport.finish()
        return answers

    def _take_answer(self, oid: bytes) -> bytes | DurusKeyError | ReadConflictError:
        read = self._transport.read
        status = read(1)
        if status == STATUS_OKAY:
            (length,) = _INT4.unpack(read(4))
            record = read(length)
            if record[:8] != oid:
                raise ProtocolError(
                    f"the server answered a load of {oid.hex()} with another record"
                )
            return record
        if status == STATUS_KEYERROR:
            return DurusKeyError(oid)
        if status == STATUS_INVALID:
            return ReadConflictError([oid])
        raise ProtocolError(f"the server answered a load with {status!r}")

    def sync(self) -> list[bytes] | None:
        transport = self._transport
        with transport:
            transport.send(b"S")
            oids = self._take_oids()
            transport.finish()
        return oids

    def _take_oids(self) -> list[bytes]:
        (count,) = _INT4.unpack(self._transport.read(4))
        return split_oids(self._transport.read(8 * count))

    def new_oids(self, count: int) -> list[bytes]:
        transport = self._transport
        count = min(count, _MOST_OIDS)
        with transport:
            transport.send(b"M" + bytes((count,)))
            oids = split_oids(transport.read(8 * count))
            transport.finish()
        return oids

    def commit(
        self, records: Mapping[bytes, bytes], handle: Callable[[list[bytes]], None] | None
    ) -> list[bytes]:
        transport = self._transport
        transport.check()
        with transport:
            transport.send(b"C")
            stale = self._take_oids()
            if stale and handle is not None:
                try:
                    handle(stale)
                except BaseException:
                    # Should the connection be lost now, this is still what became of the commit.
                    with suppress(OSError):
                        transport.send(_INT4.pack(0))
                        transport.finish()
                    raise
            self._send_records(records)
            try:
                status = transport.read(1)
                if status not in {STATUS_OKAY, STATUS_INVALID}:
                    raise ProtocolError(f"the server answered a commit with {status!r}")
            except (OSError, ProtocolError) as error:
                transport.close()
                raise CommitUnknownError(
                    f"the connection to the server was lost in a commit ({error}); abort(), and"
                    " look whether it is stored"
                ) from error
            transport.finish()
        if status == STATUS_INVALID:
            raise WriteConflictError
        return [] if handle is not None else stale

    def _send_records(self, records: Mapping[bytes, bytes]) -> None:
        parts: list[bytes] = []
        for oid, record in records.items():
            parts += (_INT4.pack(len(oid) + len(record)), oid, record)
        data = b"".join(parts)
        self._transport.send(_INT4.pack(len(data)) + data)

    def gen_pack(self) -> Iterator[object]:
        transport = self._transport
        with transport:
            transport.send(b"P")
            transport.be_patient()
            if transport.read(1) != STATUS_OKAY:
                raise ProtocolError("the server did not say that it has packed")
            transport.finish()
        yield None

    def describe(self) -> StorageDescription:
        return StorageDescription()

    def status(self) -> dict[str, object]:
        raise NotSupportedError("a server that speaks protocol 1 has no status to tell")

    def stop_server(self) -> None:
        transport = self._transport
        with transport:
            transport.send(b"Q")
            transport.finish()
        transport.wait_for_end()

    def leave(self) -> None:
        transport = self._transport
        with transport:
            transport.send(b".")
            transport.finish()
