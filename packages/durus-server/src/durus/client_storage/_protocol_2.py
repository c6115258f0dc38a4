"""The client's side of protocol 2; the picture is in `durus._wire`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from struct import Struct

from durus._wire import (
    COMPRESSED,
    FRAME_HEADER,
    MAX_LOAD_MANY,
    NONCE_BYTES,
    NOT_STORED,
    READ_CONFLICT,
    Type,
    client_proof,
    decompress,
    pack_frame,
    read_object,
    server_proof,
    unpack_error,
)
from durus.client_storage._read_ahead import ReadAhead
from durus.client_storage._transport import Transport
from durus.error import (
    AuthenticationError,
    CommitUnknownError,
    DurusError,
    DurusKeyError,
    ProtocolError,
    ReadConflictError,
    StorageDisconnectedError,
    StorageError,
)
from durus.serialize import split_oids
from durus.storage import StorageDescription

__all__ = ["Protocol2"]

_INT4 = Struct(">L")
_INT8 = Struct(">Q")

# As numbers: to ask an enumeration for a member takes as long as to make a frame of it.
_LOAD, _RECORDS = int(Type.LOAD), int(Type.RECORDS)
_SYNC, _STALE = int(Type.SYNC), int(Type.STALE)

# What a server may send at once: the largest record, which may be as long as a u32 says.
_MOST_BYTES = 0xFFFFFFFF

_HELLO_BYTES = 1 << 16
_STORE_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Protocol2:
    """One client of a server that speaks protocol 2.

    Args:
        transport: the connection, after both have said 2.
        secret: what both are to prove to know, or None.
        compress: have both sides compress what is worth it.

    Attributes:
        readonly: the server lets nobody change anything.
        most_transaction_bytes: the longest transaction that the server takes.

    Raises:
        AuthenticationError: the server refused us, or could not prove that it knows the secret.
        ProtocolError: it did not speak protocol 2.
        StorageDisconnectedError: it hung up.
    """

    version = 2

    def __init__(
        self, transport: Transport, secret: bytes | None = None, *, compress: bool = False
    ) -> None:
        self.transport = transport
        self._number = 0
        self._ahead = ReadAhead()
        # The number of a pack that is under way, and what came of it while others were waited for.
        self._pack_number = 0
        self._pack_news: list[tuple[int, bytes]] = []
        self._dropped_packs: set[int] = set()
        transport.send(b"")
        hello = read_object(self._receive_first(Type.HELLO))
        self.readonly = hello.get("readonly") is True
        self.most_transaction_bytes = _as_int(hello.get("max_transaction"))
        self._greet(hello, secret, compress=compress)
        transport.finish()

    def _greet(self, hello: dict[str, object], secret: bytes | None, *, compress: bool) -> None:
        answer: dict[str, object] = {"client": "durus-server", "compress": compress}
        server_nonce = _from_hex(hello.get("nonce"))
        nonce = os.urandom(NONCE_BYTES)
        if secret is not None:
            proof = client_proof(secret, server_nonce, nonce)
            answer["auth"] = {"nonce": nonce.hex(), "proof": proof.hex()}
        elif hello.get("auth") == "secret":
            self.transport.close()
            raise AuthenticationError("the server asks for a secret, and none is given")
        self.transport.send(pack_frame(Type.HELLO, 0, json.dumps(answer).encode()))
        welcome = read_object(self._receive_first(Type.WELCOME))
        if secret is None:
            return
        proof = _from_hex(welcome.get("proof"))
        if not compare_digest(proof, server_proof(secret, server_nonce, nonce)):
            self.transport.close()
            raise AuthenticationError("the server does not prove that it knows the secret")

    def _receive_first(self, kind: Type) -> bytes:
        found, _, payload = self._receive_frame(_HELLO_BYTES)
        if found == Type.ERROR:
            self.transport.close()
            raise unpack_error(payload)
        if found != kind:
            raise ProtocolError(f"the server answered with {found:#04x} where {kind:#04x} is due")
        return payload

    # -- frames

    def _receive_frame(self, most_bytes: int = _MOST_BYTES) -> tuple[int, int, bytes]:
        read = self.transport.read
        length, kind, number = FRAME_HEADER.unpack(read(9))
        if not 5 <= length <= most_bytes:
            raise ProtocolError(f"the server says that a frame has {length} bytes")
        payload = read(length - 5)
        if kind & COMPRESSED:
            kind, payload = kind & ~COMPRESSED, decompress(payload, most_bytes)
        return kind, number, payload

    def _send(self, kind: int, payload: bytes = b"", before: bytes = b"") -> int:
        number = self._number = self._number % 0xFFFFFFFF + 1
        self.transport.send(before + pack_frame(kind, number, payload))
        return number

    def _receive(self, number: int, *kinds: int) -> tuple[int, bytes]:
        """Take the answer to a request, and put aside what comes of a pack meanwhile."""
        while True:
            kind, found, payload = self._receive_frame()
            if found == number:
                break
            if found == 0 and kind == Type.ERROR:
                # The server closes the connection after this.
                self.transport.close()
                raise unpack_error(payload)
            self._put_aside(kind, found, payload)
        if kind in kinds:
            return kind, payload
        if kind != Type.ERROR:
            raise ProtocolError(f"the server answered with {kind:#04x}")
        self.transport.finish()
        raise unpack_error(payload)

    def _put_aside(self, kind: int, number: int, payload: bytes) -> None:
        """Keep what comes of the pack that is under way, and drop what comes of one given up."""
        if number == self._pack_number:
            self._pack_news.append((kind, payload))
        elif number not in self._dropped_packs:
            raise ProtocolError(f"the server answered request {number}, which was not made")
        elif kind != Type.PROGRESS:
            self._dropped_packs.remove(number)

    def _ask(self, kind: int, payload: bytes, answer: int) -> bytes:
        _, found = self._receive(self._send(kind, payload), answer)
        self.transport.finish()
        return found

    # -- requests

    def load(self, oid: bytes) -> bytes:
        found = self._ahead.take(oid)
        if found is not None:
            return found
        payload = self._ask(_LOAD, oid + _INT4.pack(self._ahead.budget()), _RECORDS)
        end = 4 + _INT4.unpack_from(payload)[0]
        if end == len(payload):
            return payload[4:]
        if end > len(payload):
            raise ProtocolError("the server sent a record that is cut short")
        self._ahead.put(payload, end)
        return payload[4:end]

    def load_many(self, oids: Sequence[bytes]) -> list[bytes | DurusKeyError | ReadConflictError]:
        answers: list[bytes | DurusKeyError | ReadConflictError] = []
        for start in range(0, len(oids), MAX_LOAD_MANY):
            answers += self._load_some(oids[start : start + MAX_LOAD_MANY])
        return answers

    def _load_some(self, oids: Sequence[bytes]) -> list[bytes | DurusKeyError | ReadConflictError]:
        parts = []
        number = self._send(Type.LOAD_MANY, b"".join(oids))
        kind = Type.MORE.value
        while kind == Type.MORE:
            kind, payload = self._receive(number, Type.MORE, Type.ANSWERS)
            parts.append(payload)
        self.transport.finish()
        payload, at = b"".join(parts), 0
        answers: list[bytes | DurusKeyError | ReadConflictError] = []
        for oid in oids:
            if at + 4 > len(payload):
                raise ProtocolError("the server sent fewer answers than it was asked for")
            (length,) = _INT4.unpack_from(payload, at)
            at += 4
            if length == NOT_STORED:
                answers.append(DurusKeyError(oid))
            elif length == READ_CONFLICT:
                answers.append(ReadConflictError([oid]))
            elif at + length > len(payload):
                raise ProtocolError("the server sent a record that is cut short")
            else:
                answers.append(payload[at : at + length])
                at += length
        return answers

    def sync(self) -> list[bytes] | None:
        payload = self._ask(_SYNC, b"", _STALE)
        if payload[:1] != b"\0":
            self._ahead.clear()
            return None
        if len(payload) == 1:
            return []
        oids = split_oids(payload[1:])
        self._ahead.drop(oids)
        return oids

    def new_oids(self, count: int) -> list[bytes]:
        oids = split_oids(self._ask(Type.NEW_OIDS, _INT4.pack(count), Type.OIDS))
        if len(oids) != count:
            raise ProtocolError(f"the server gave {len(oids)} oids where {count} were asked for")
        return oids

    def commit(
        self, records: Mapping[bytes, bytes], handle: Callable[[list[bytes]], None] | None
    ) -> list[bytes]:
        self._ahead.drop(records)
        self.transport.check()
        number = self._send_commit(records)
        while True:
            kind, stale = self._receive_outcome(number)
            self._ahead.drop(stale)
            self.transport.finish()
            if kind == Type.COMMITTED:
                return stale
            if handle is not None:
                try:
                    handle(stale)
                except BaseException:
                    self._send(Type.GIVE_UP)
                    self.transport.finish()
                    raise
            number = self._send_surely(Type.CONFIRM)

    def _send_commit(self, records: Mapping[bytes, bytes]) -> int:
        """Send the records, and the COMMIT with the last of them in one piece."""
        parts: list[bytes] = []
        size = 0
        for record in records.values():
            if size >= _STORE_BYTES:
                self._send(Type.STORE, b"".join(parts))
                parts, size = [], 0
            parts += (_INT4.pack(len(record)), record)
            size += len(record) + 4
        store = pack_frame(Type.STORE, self._number, b"".join(parts))
        return self._send_surely(Type.COMMIT, before=store)

    def _send_surely(self, kind: Type, before: bytes = b"") -> int:
        try:
            return self._send(kind, before=before)
        except StorageDisconnectedError as error:
            raise self._unknown(error) from error

    def _receive_outcome(self, number: int) -> tuple[int, list[bytes]]:
        try:
            kind, payload = self._receive(number, Type.COMMITTED, Type.ASK)
            return kind, split_oids(payload if kind == Type.COMMITTED else payload[1:])
        except DurusError as error:
            if self.transport.is_whole:
                # All of an answer has come, and it says no.
                raise
            raise self._unknown(error) from error

    def _unknown(self, error: Exception) -> CommitUnknownError:
        self.transport.close()
        return CommitUnknownError(
            f"the connection to the server was lost in a commit ({error}); abort(), and look"
            " whether it is stored"
        )

    def gen_pack(self) -> Iterator[object]:
        if self._pack_number:
            raise StorageError("tried to pack, and this client has a pack under way already")
        self._pack_number = self._send(Type.PACK)
        self.transport.finish()
        kind: int = Type.PROGRESS
        try:
            while True:
                kind, payload = self._next_of_pack()
                if kind == Type.ERROR:
                    raise unpack_error(payload)
                if kind == Type.DONE:
                    return
                yield _INT8.unpack(payload)[0]
        finally:
            # The server goes on with a pack that nobody waits for.
            if kind == Type.PROGRESS:
                self._dropped_packs.add(self._pack_number)
            self._pack_number = 0
            self._pack_news.clear()

    def _next_of_pack(self) -> tuple[int, bytes]:
        while not self._pack_news:
            self.transport.begin()
            self._put_aside(*self._receive_frame())
            self.transport.finish()
        return self._pack_news.pop(0)

    def describe(self) -> StorageDescription:
        fields = read_object(self._ask(Type.DESCRIBE, b"", Type.DESCRIPTION))
        time_us = fields.get("last_commit_time")
        return StorageDescription(
            format=_as_str(fields.get("format")),
            path=_as_str(fields.get("path")),
            size_bytes=_as_int_or_none(fields.get("size_bytes")),
            object_count=_as_int_or_none(fields.get("object_count")),
            transaction_count=_as_int_or_none(fields.get("transaction_count")),
            last_commit_time=(
                _EPOCH + timedelta(microseconds=time_us) if isinstance(time_us, int) else None
            ),
        )

    def status(self) -> dict[str, object]:
        return read_object(self._ask(Type.STATUS, b"", Type.STATUS_IS))

    def stop_server(self) -> None:
        self._ask(Type.STOP, b"", Type.DONE)
        self.transport.wait_for_end()

    def leave(self) -> None:
        self._send(Type.BYE)
        self.transport.finish()


def _from_hex(text: object) -> bytes:
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _as_int(value: object) -> int:
    if isinstance(value, int):
        return value
    raise ProtocolError(f"the server gave {value!r:.80} for a number")


def _as_int_or_none(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _as_str(value: object) -> str | None:
    return value if isinstance(value, str) else None
