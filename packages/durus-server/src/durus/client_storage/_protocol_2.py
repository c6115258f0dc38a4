"""The client's side of protocol 2; the picture is in `durus._wire`."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from hmac import compare_digest
from struct import Struct
from typing import TypeVar

from durus._wire import (
    COMPRESSED,
    FRAME_HEADER,
    MAX_COMMITS,
    MAX_LOAD_MANY,
    NEWEST,
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
    StorageError,
)
from durus.serialize import split_oids
from durus.storage import StorageDescription

__all__ = ["Protocol2"]

_INT4 = Struct(">L")
_INT8 = Struct(">Q")
_OF_PAST = Struct(">QL")
_COMMIT = Struct(">Qq")

# As numbers: to ask an enumeration for a member takes as long as to make a frame of it.
_LOAD, _RECORDS = int(Type.LOAD), int(Type.RECORDS)
_SYNC, _STALE = int(Type.SYNC), int(Type.STALE)

# What a server may send at once: the largest record, which may be as long as a u32 says.
_MOST_BYTES = 0xFFFFFFFF

_HELLO_BYTES = 1 << 16
_STORE_BYTES = 512 << 10

# Less is not worth compressing, and more the server does not decompress.
_COMPRESS_FROM_BYTES = 512
_COMPRESS_TO_BYTES = 1 << 20
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_T = TypeVar("_T")


class Protocol2:
    """One client of a server that speaks protocol 2.

    Args:
        transport: the connection, after both have said 2.
        secret: what both are to prove to know, or None.
        compress: have both sides compress what is worth it.

    Attributes:
        database: tells which database it is from every other.
        readonly: the server lets nobody change anything.
        keeps_history: it tells of the past.
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
        self._transport = transport
        self._number = 0
        self._compresses = False
        self._ahead = ReadAhead()
        # The number of a pack that is under way, and what came of it while others were waited for.
        self._pack_number = 0
        self._pack_news: list[tuple[int, bytes]] = []
        self._dropped_packs: set[int] = set()
        with transport:
            transport.expect()
            hello = read_object(self._receive_first(Type.HELLO))
            self.database: str | None = None
            self.readonly = hello.get("readonly") is True
            self.keeps_history = hello.get("history") is True
            self.most_transaction_bytes = _as_int(hello.get("max_transaction"))
            self._greet(hello, secret, compress=compress)
            self._compresses = compress and hello.get("compress") is True
            transport.finish()

    def _greet(self, hello: dict[str, object], secret: bytes | None, *, compress: bool) -> None:
        answer: dict[str, object] = {"client": "durus-server", "compress": compress}
        server_nonce = _from_hex(hello.get("nonce"))
        nonce = os.urandom(NONCE_BYTES)
        if secret is not None:
            proof = client_proof(secret, server_nonce, nonce)
            answer["auth"] = {"nonce": nonce.hex(), "proof": proof.hex()}
        elif hello.get("auth") == "secret":
            self._transport.close()
            raise self._transport.refused("asks for a secret, and none is given")
        self._transport.send(pack_frame(Type.HELLO, 0, json.dumps(answer).encode()))
        welcome = read_object(self._receive_first(Type.WELCOME))
        self.database = str(welcome.get("database"))
        if secret is None:
            return
        proof = _from_hex(welcome.get("proof"))
        if not compare_digest(proof, server_proof(secret, server_nonce, nonce)):
            self._transport.close()
            raise self._transport.refused("does not prove that it knows the secret")

    def _receive_first(self, kind: Type) -> bytes:
        found, _, payload = self._receive_frame(_HELLO_BYTES)
        if found == Type.ERROR:
            self._transport.close()
            error = unpack_error(payload)
            if isinstance(error, AuthenticationError):
                raise self._transport.refused(
                    f"says: {error}; give the secret, or the certificate, that it asks for"
                )
            raise error
        if found != kind:
            raise ProtocolError(f"the server answered with {found:#04x} where {kind:#04x} is due")
        return payload

    # -- frames

    def _receive_frame(self, most_bytes: int = _MOST_BYTES) -> tuple[int, int, bytes]:
        length, kind, number = FRAME_HEADER.unpack(self._transport.read(9))
        if not 5 <= length <= most_bytes:
            raise ProtocolError(f"the server says that a frame has {length} bytes")
        payload = self._transport.read(length - 5)
        if kind & COMPRESSED:
            kind, payload = kind & ~COMPRESSED, decompress(payload, most_bytes)
        return kind, number, payload

    def _send(self, kind: int, payload: bytes = b"", before: bytes = b"") -> int:
        self._number = self._number % 0xFFFFFFFF + 1
        self._transport.send(before + self._pack(kind, self._number, payload))
        return self._number

    def _pack(self, kind: int, number: int, payload: bytes) -> bytes:
        if self._compresses and _COMPRESS_FROM_BYTES <= len(payload) <= _COMPRESS_TO_BYTES:
            compressed = zlib.compress(payload, 1)
            if len(compressed) < len(payload):
                kind, payload = kind | COMPRESSED, compressed
        return pack_frame(kind, number, payload)

    def _receive(self, number: int, *kinds: int) -> tuple[int, bytes]:
        """Take the answer to a request, and put aside what comes of a pack meanwhile."""
        while True:
            kind, found, payload = self._receive_frame()
            if found == number:
                break
            if found == 0 and kind == Type.ERROR:
                # The server closes the connection after this.
                self._transport.close()
                raise unpack_error(payload)
            self._put_aside(kind, found, payload)
        if kind == Type.ERROR:
            self._transport.finish()
            raise unpack_error(payload)
        if kind not in kinds:
            raise ProtocolError(f"the server answered with {kind:#04x}")
        return kind, payload

    def _put_aside(self, kind: int, number: int, payload: bytes) -> None:
        """Keep what comes of the pack that is under way, and drop what comes of one given up."""
        if number == self._pack_number:
            self._pack_news.append((kind, payload))
        elif number not in self._dropped_packs:
            raise ProtocolError(f"the server answered request {number}, which was not made")
        elif kind != Type.PROGRESS:
            self._dropped_packs.remove(number)

    def _ask(self, kind: int, payload: bytes, answer: int, read: Callable[[bytes], _T]) -> _T:
        """Send a request, and give what `read` makes of its answer."""
        transport = self._transport
        with transport:
            number = self._number = self._number % 0xFFFFFFFF + 1
            data = transport.exchange(self._pack(kind, number, payload))
            # What most answers are: one frame, which came in one piece.
            size = len(data)
            if size >= 9 and FRAME_HEADER.unpack_from(data) == (size - 4, answer, number):
                transport.take_all()
                found = data[9:]
            else:
                _, found = self._receive(number, answer)
            result = read(found)
            transport.finish()
        return result

    # -- requests

    def load(self, oid: bytes) -> bytes:
        found = self._ahead.take(oid)
        if found is not None:
            return found
        request = oid + _INT4.pack(self._ahead.budget())
        return self._ask(_LOAD, request, _RECORDS, partial(self._read_records, oid))

    def _read_records(self, oid: bytes, payload: bytes) -> bytes:
        if payload[4:12] != oid:
            raise ProtocolError(f"the server sent another record than {oid.hex()}")
        end = 4 + int(_INT4.unpack_from(payload)[0])
        if not 12 <= end <= len(payload):
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
        with self._transport:
            number = self._send(Type.LOAD_MANY, b"".join(oids))
            kind = Type.MORE.value
            while kind == Type.MORE:
                kind, payload = self._receive(number, Type.MORE, Type.ANSWERS)
                parts.append(payload)
            answers = _read_answers(oids, b"".join(parts))
            self._transport.finish()
        return answers

    def sync(self) -> list[bytes] | None:
        stale = self._ask(_SYNC, b"", _STALE, _read_stale)
        if stale is None:
            self._ahead.clear()
        elif stale:
            self._ahead.drop(stale)
        return stale

    def new_oids(self, count: int) -> list[bytes]:
        def read(payload: bytes) -> list[bytes]:
            if len(payload) != 8 * count:
                raise ProtocolError(f"the server sent {len(payload)} bytes for {count} oids")
            return split_oids(payload)

        return self._ask(Type.NEW_OIDS, _INT4.pack(count), Type.OIDS, read)

    def commit(
        self, records: Mapping[bytes, bytes], handle: Callable[[list[bytes]], None] | None
    ) -> list[bytes]:
        self._ahead.drop(records)
        self._transport.check()
        told: list[bytes] = []
        with self._transport:
            number = self._send_commit(records)
            while True:
                kind, stale = self._receive_outcome(number)
                self._ahead.drop(stale)
                if kind == Type.COMMITTED:
                    self._transport.finish()
                    return told + stale
                if handle is None:
                    told += stale
                else:
                    try:
                        handle(stale)
                    except BaseException:
                        # Should the connection be lost now, this is still what became of it.
                        with suppress(OSError):
                            self._send(Type.GIVE_UP)
                            self._transport.finish()
                        raise
                number = self._send(Type.CONFIRM)

    def _send_commit(self, records: Mapping[bytes, bytes]) -> int:
        """Send the records, and the COMMIT with the last of them in one piece.

        If it raises, the server has not got all of the COMMIT, and so will not commit.
        """
        parts: list[bytes] = []
        size = 0
        for record in records.values():
            if size >= _STORE_BYTES:
                self._send(Type.STORE, b"".join(parts))
                parts, size = [], 0
            parts += (_INT4.pack(len(record)), record)
            size += len(record) + 4
        store = self._pack(Type.STORE, self._number, b"".join(parts))
        return self._send(Type.COMMIT, before=store)

    def _receive_outcome(self, number: int) -> tuple[int, list[bytes]]:
        try:
            kind, payload = self._receive(number, Type.COMMITTED, Type.ASK)
            return kind, _read_oids(payload if kind == Type.COMMITTED else payload[1:])
        except (DurusError, OSError) as error:
            if self._transport.is_whole:
                # All of an answer has come, and it says no.
                raise
            raise self._unknown(error) from error

    def _unknown(self, error: Exception) -> CommitUnknownError:
        self._transport.close()
        return CommitUnknownError(
            f"the connection to the server was lost in a commit ({error}); abort(), and look"
            " whether it is stored"
        )

    def gen_pack(self) -> Iterator[object]:
        if self._pack_number:
            raise StorageError("tried to pack, and this client has a pack under way already")
        with self._transport:
            self._pack_number = self._send(Type.PACK)
            self._transport.finish()
        kind: int = Type.PROGRESS
        try:
            while True:
                kind, payload = self._next_of_pack()
                if kind == Type.ERROR:
                    raise unpack_error(payload)
                if kind == Type.DONE:
                    # What it removed must not be found any more.
                    self._ahead.clear()
                    return
                if kind != Type.PROGRESS or len(payload) != 8:
                    self._transport.close()
                    raise ProtocolError(f"the server answered a pack with {kind:#04x}")
                yield _INT8.unpack(payload)[0]
        finally:
            # The server goes on with a pack that nobody waits for.
            if kind == Type.PROGRESS:
                self._dropped_packs.add(self._pack_number)
            self._pack_number = 0
            self._pack_news.clear()

    def _next_of_pack(self) -> tuple[int, bytes]:
        while not self._pack_news:
            with self._transport:
                self._transport.expect()
                self._put_aside(*self._receive_frame())
                self._transport.finish()
        return self._pack_news.pop(0)

    def describe(self) -> StorageDescription:
        fields = self._ask(Type.DESCRIBE, b"", Type.DESCRIPTION, read_object)
        return StorageDescription(
            format=_as_str(fields.get("format")),
            path=_as_str(fields.get("path")),
            size_bytes=_as_int_or_none(fields.get("size_bytes")),
            object_count=_as_int_or_none(fields.get("object_count")),
            transaction_count=_as_int_or_none(fields.get("transaction_count")),
            last_commit_time=_as_time_or_none(fields.get("last_commit_time")),
        )

    def gen_commits_back(self) -> Iterator[tuple[int, datetime]]:
        """Yield serial and time of each commit that is told of, the newest first."""
        before = NEWEST
        while True:
            request = _OF_PAST.pack(before, MAX_COMMITS)
            found = self._ask(Type.HISTORY, request, Type.COMMITS, partial(_read_commits, before))
            if not found:
                return
            yield from found
            before = found[-1][0]

    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        start, is_last = 0, False
        while not is_last:
            request = _OF_PAST.pack(serial, start)
            is_last, records = self._ask(Type.CHANGES, request, Type.CHANGED, _read_changes)
            yield from ((record[:8], record) for record in records)
            start += len(records)

    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        def read(payload: bytes) -> bytes:
            if payload[4:12] != oid or _INT4.unpack_from(payload)[0] != len(payload) - 4:
                raise ProtocolError(f"the server sent another record than {oid.hex()}")
            return payload[4:]

        return self._ask(Type.LOAD_AS_OF, oid + _INT8.pack(serial), Type.RECORDS, read)

    def status(self) -> dict[str, object]:
        return self._ask(Type.STATUS, b"", Type.STATUS_IS, read_object)

    def stop_server(self) -> None:
        self._ask(Type.STOP, b"", Type.DONE, len)
        self._transport.wait_for_end()

    def leave(self) -> None:
        with self._transport:
            self._send(Type.BYE)
            self._transport.finish()


def _read_answers(
    oids: Sequence[bytes], payload: bytes
) -> list[bytes | DurusKeyError | ReadConflictError]:
    at, end = 0, len(payload)
    answers: list[bytes | DurusKeyError | ReadConflictError] = []
    for oid in oids:
        if at + 4 > end:
            raise ProtocolError("the server sent fewer answers than it was asked for")
        (length,) = _INT4.unpack_from(payload, at)
        at += 4
        if length == NOT_STORED:
            answers.append(DurusKeyError(oid))
        elif length == READ_CONFLICT:
            answers.append(ReadConflictError([oid]))
        elif at + length > end or payload[at : at + 8] != oid:
            raise ProtocolError(f"the server sent another record than {oid.hex()}")
        else:
            answers.append(payload[at : at + length])
            at += length
    return answers


def _read_commits(before: int, payload: bytes) -> list[tuple[int, datetime]]:
    if len(payload) % _COMMIT.size:
        raise ProtocolError(f"the server sent {len(payload)} bytes for commits of {_COMMIT.size}")
    found = []
    for serial, time_us in _COMMIT.iter_unpack(payload):
        if serial >= before:
            raise ProtocolError(f"the server told of commit {serial} after {before}")
        before = serial
        try:
            found.append((serial, _EPOCH + timedelta(microseconds=time_us)))
        except OverflowError as error:
            raise ProtocolError(f"the server gave {time_us} for a time") from error
    return found


def _read_changes(payload: bytes) -> tuple[bool, list[bytes]]:
    """Give whether a CHANGED is the last, and its records."""
    if payload[:1] not in {b"\0", b"\1"}:
        raise ProtocolError("the server does not say whether it has told all that a commit stored")
    is_last, at, records = payload[0] == 1, 1, list[bytes]()
    while at < len(payload):
        end = at + 4 + int.from_bytes(payload[at : at + 4])
        if not at + 16 <= end <= len(payload):
            raise ProtocolError("the server sent a record that is cut short")
        records.append(payload[at + 4 : end])
        at = end
    if not is_last and not records:
        raise ProtocolError("the server told nothing of what a commit stored, and not all")
    return is_last, records


def _read_stale(payload: bytes) -> list[bytes] | None:
    """Give the oids of a STALE, or None if it says that they are not known."""
    return None if payload[:1] == b"\1" else _read_oids(payload[1:])


def _read_oids(payload: bytes) -> list[bytes]:
    if len(payload) % 8:
        raise ProtocolError(f"the server sent {len(payload)} bytes for oids of 8")
    return split_oids(payload) if payload else []


def _from_hex(text: object) -> bytes:
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return b""


def _as_int(value: object) -> int:
    if isinstance(value, int):
        return value
    raise ProtocolError(f"the server gave {value!r:.80} for a number")


def _as_time_or_none(microseconds: object) -> datetime | None:
    if not isinstance(microseconds, int):
        return None
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return None


def _as_int_or_none(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _as_str(value: object) -> str | None:
    return value if isinstance(value, str) else None
