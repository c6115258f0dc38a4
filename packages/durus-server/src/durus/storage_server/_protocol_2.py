"""Protocol 2, between a server and a client of ours; the table is in `durus._wire`.

Requests carry numbers and are answered in order, but for COMMIT and PACK: these are answered when
they are done, and what comes after them need not wait.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from durus._wire import (
    FRAME_HEADER,
    MAX_COMMITS,
    MAX_LOAD_MANY,
    MAX_NEW_OIDS,
    NOT_STORED,
    READ_CONFLICT,
    Type,
)
from durus.error import (
    AuthenticationError,
    ConflictError,
    DurusError,
    DurusKeyError,
    ProtocolError,
    ReadConflictError,
    StorageError,
)
from durus.logger import logger
from durus.storage_server._client import Client, StaleError
from durus.storage_server._connection import END_OF_TURN
from durus.storage_server._framing import LATER, Command, Framing
from durus.storage_server._history import Past, Question
from durus.storage_server._read_ahead import ReadAhead

if TYPE_CHECKING:
    from durus.storage import StorageDescription
    from durus.storage_server._connection import ClientConnection
    from durus.storage_server._hub import Hub

__all__ = ["Protocol2"]

_INT4 = Struct(">L")
_INT8 = Struct(">Q")
_OF_PAST = Struct(">QL")
_LOAD_FRAME = Struct(">LBL8sL")
_ONE_RECORD_START = Struct(">LBLL")
_NOTHING_STALE = Struct(">LBLB")

# Plain numbers: to look up a member of an enumeration takes longer.
_LOAD, _SYNC = int(Type.LOAD), int(Type.SYNC)

# In an answer to LOAD_MANY, in place of the length of a record.
_NO_SUCH_OID = _INT4.pack(NOT_STORED)
_CONFLICT = _INT4.pack(READ_CONFLICT)

_FEW_BYTES = 64 << 10

# How many oids to give before the other clients have their turn.
_OIDS_BATCH = 32

# Answers to LOAD_MANY are put together until they are that long.
_PART_BYTES = 128 << 10

_PROGRESS_INTERVAL_S = 0.2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Protocol2(Client):
    """A client that was let in and speaks in frames."""

    version = 2
    _record_at = 0

    def __init__(self, hub: Hub, connection: ClientConnection, framing: Framing) -> None:
        super().__init__(hub, connection)
        self._framing = framing
        self._reply = framing.send
        self._read_ahead = ReadAhead(self._load_record, self.known.__contains__)
        self._is_authenticated = hub.policy.is_proved
        # How much the transaction has brought.
        self._stored_bytes = 0
        self._was_asked = False
        self._pack_numbers: list[int] = []
        self._next_progress_s = 0.0
        # What is being asked of the past.
        self._question: Question | None = None

    def take(self, data: bytes | bytearray, start: int) -> int:
        if self.left_bytes:
            return self.take_records(data, start)
        if len(data) - start >= 21:
            size, kind, number, oid, budget_bytes = _LOAD_FRAME.unpack_from(data, start)
            if kind == _LOAD and size == 17:
                return start if self._answer_load(number, oid, budget_bytes) else start + 21
        elif len(data) - start == 9:
            size, kind, number = FRAME_HEADER.unpack_from(data, start)
            if kind == _SYNC and size == 5:
                return start if self._sync(number, b"") else start + 9
        return self._framing.take(self._COMMANDS, self, data, start)

    def complain(self, error: ProtocolError) -> None:
        self._framing.send_error(0, error)

    def leave(self) -> None:
        self.hub.committer.forget(self)
        if self._question is not None:
            self._question.is_wanted = False
        super().leave()

    def _fail(self, number: int, error: BaseException) -> None:
        if isinstance(error, ConflictError):
            self._metrics.conflicts += 1
        elif not isinstance(error, DurusKeyError):
            logger.warning("refused a request of %s: %s", self.connection.peer, error)
            self.connection.end_turn()
        self._framing.send_error(number, error)

    # -- one method for each type of request

    def _load(self, number: int, payload: bytes) -> bool | None:
        """Answer a LOAD that `take` passed on: one that is compressed, or malformed."""
        if len(payload) != 12:
            raise ProtocolError(f"a LOAD brings 12 bytes, not {len(payload)}")
        return self._answer_load(number, payload[:8], _INT4.unpack_from(payload, 8)[0])

    def _answer_load(self, number: int, oid: bytes, budget_bytes: int) -> bool | None:
        was_known = budget_bytes > 0 and oid in self.known
        try:
            record = self.load(oid)
        except DurusKeyError as error:
            if self.must_wait_for_root(error):
                return LATER
            self._fail(number, error)
        except DurusError as error:
            self._fail(number, error)
        else:
            if budget_bytes:
                self._send_records(number, oid, record, budget_bytes, was_known=was_known)
            elif self._framing.compresses:
                self._reply(Type.RECORDS, number, _INT4.pack(len(record)) + record)
            else:
                size = len(record)
                start = _ONE_RECORD_START.pack(size + 9, Type.RECORDS, number, size)
                self.connection.send(b"%b%b" % (start, record))
        return None

    def _send_records(
        self, number: int, oid: bytes, record: bytes, budget_bytes: int, *, was_known: bool
    ) -> None:
        budget_bytes = min(budget_bytes, self.hub.limits.read_ahead_bytes)
        parts = [_INT4.pack(len(record)), record]
        know = self.known.add
        ahead = self._read_ahead.collect(oid, record, budget_bytes, was_known=was_known)
        for found_oid, found in ahead:
            know(found_oid)
            parts += (_INT4.pack(len(found)), found)
        if self.untold or self.told:
            self.note_sent(*(found_oid for found_oid, _ in ahead))
        self._metrics.read_ahead += len(ahead)
        self._reply(Type.RECORDS, number, b"".join(parts))

    def _load_many(self, number: int, payload: bytes) -> None:
        if len(payload) % 8:
            raise ProtocolError(f"a LOAD_MANY brings oids of 8 bytes, not {len(payload)} bytes")
        self.connection.send_all(self._gen_answers(number, payload))

    def _gen_answers(self, number: int, oids: bytes) -> Iterator[bytes]:
        parts: list[bytes] = []
        size = 0
        for at in range(0, len(oids), 8):
            try:
                record = self.load(oids[at : at + 8])
            except DurusKeyError:
                parts.append(_NO_SUCH_OID)
                continue
            except ReadConflictError:
                parts.append(_CONFLICT)
                continue
            except DurusError as error:
                self._fail(number, error)
                return
            parts += (_INT4.pack(len(record)), record)
            size += len(record)
            if size > _PART_BYTES:
                yield self._framing.pack(Type.MORE, number, b"".join(parts))
                parts.clear()
                size = 0
        yield self._framing.pack(Type.ANSWERS, number, b"".join(parts))

    def _sync(self, number: int, payload: bytes) -> bool | None:
        if self._commits_under_way:
            return self._wait()
        try:
            stale = self.sync()
        except DurusError as error:
            self._fail(number, error)
        else:
            if stale is None:
                self._reply(Type.STALE, number, b"\x01")
            elif stale:
                self._reply(Type.STALE, number, b"\x00" + b"".join(stale))
            else:
                self.connection.send(_NOTHING_STALE.pack(6, Type.STALE, number, 0))
        return None

    def _new_oids(self, number: int, payload: bytes) -> None:
        if len(payload) != 4 or not 0 < (count := _INT4.unpack(payload)[0]) <= MAX_NEW_OIDS:
            raise ProtocolError(
                f"a NEW_OIDS asks for 1 to {MAX_NEW_OIDS} oids, not {payload.hex()}"
            )
        self.connection.send_all(self._gen_new_oids(number, count))

    def _gen_new_oids(self, number: int, count: int) -> Iterator[bytes]:
        oids: list[bytes] = []
        try:
            while count > _OIDS_BATCH:
                oids += self.new_oids(_OIDS_BATCH)
                count -= _OIDS_BATCH
                yield END_OF_TURN
            oids += self.new_oids(count)
        except DurusError as error:
            self._fail(number, error)
        else:
            yield self._framing.pack(Type.OIDS, number, b"".join(oids))

    # -- a transaction: STORE as often as needed, COMMIT, perhaps ASK and CONFIRM or GIVE_UP

    def _store(self, number: int, size_bytes: int) -> bool | None:
        if self._commits_under_way:
            # It is about what the client sees once that is done.
            return self._wait()
        self.left_bytes = size_bytes
        self._stored_bytes += size_bytes
        most_bytes = self.hub.limits.transaction_bytes
        if self._stored_bytes > most_bytes and self.refusal is None:
            self.refuse(
                StorageError(
                    f"tried to commit a transaction of more than {most_bytes} bytes, the most that"
                    " the server takes"
                )
            )
        return None

    def _commit(self, number: int, payload: bytes) -> bool | None:
        if self._commits_under_way:
            return self._wait()
        if not self.has_examined():
            return LATER
        self._was_asked = False
        self.told.clear()
        self._hand_on(number)
        return None

    def _confirm(self, number: int, payload: bytes) -> bool | None:
        if not self._was_asked:
            raise ProtocolError("it confirms what it was not asked")
        if not self.has_examined():
            return LATER
        self._hand_on(number)
        return None

    def _give_up(self, number: int, payload: bytes) -> None:
        if self._was_asked:
            # It has used what is stale.
            self._metrics.conflicts += 1
        self._forget_transaction()
        self.give_up()

    def _hand_on(self, number: int) -> None:
        refusal = self.refusal
        if refusal is not None:
            # Of a STORE that came before the COMMIT, or between an ASK and the CONFIRM.
            self._forget_transaction()
            self._fail(number, refusal)
            return
        try:
            self.commit(lambda error: self._answer_commit(number, error))
        except StaleError as error:
            self._was_asked = True
            self.note_told(error.oids)
            self._reply(Type.ASK, number, b"\x00" + b"".join(error.oids))
        except DurusError as error:
            self._forget_transaction()
            self._fail(number, error)
        else:
            self._forget_transaction()

    def _answer_commit(self, number: int, error: BaseException | None) -> None:
        if error is None:
            untold, self.untold = self.untold, set()
            self.known.discard(untold)
            self._reply(Type.COMMITTED, number, b"".join(untold))
        else:
            self._fail(number, error)
        self.connection.go_on()

    def _forget_transaction(self) -> None:
        self._stored_bytes = 0
        self.refusal = None
        self._was_asked = False

    def _wait(self) -> bool:
        self.connection.wait()
        return LATER

    # -- the rest

    def _pack(self, number: int, payload: bytes) -> None:
        try:
            self.check_writable("pack")
        except DurusError as error:
            self._fail(number, error)
            return
        self._pack_numbers.append(number)
        if len(self._pack_numbers) == 1:
            self.hub.committer.order_pack(self)

    def note_pack_progress(self, kept: int) -> None:
        """Tell the client how many objects were kept so far, now and then."""
        now_s = time.monotonic()
        if now_s < self._next_progress_s:
            return
        self._next_progress_s = now_s + _PROGRESS_INTERVAL_S
        for number in self._pack_numbers:
            self._reply(Type.PROGRESS, number, _INT8.pack(kept))

    def note_pack_end(self, error: BaseException | None) -> None:
        """Answer the requests to pack."""
        if error is None:
            self.session.note_pack()
        numbers, self._pack_numbers = self._pack_numbers, []
        for number in numbers:
            if error is None:
                self._reply(Type.DONE, number, b"")
            else:
                self._fail(number, error)

    def _status(self, number: int, payload: bytes) -> None:
        try:
            self._reply(Type.STATUS_IS, number, json.dumps(self.hub.get_status()).encode())
        except DurusError as error:
            self._fail(number, error)

    def _describe(self, number: int, payload: bytes) -> None:
        try:
            description = self.session.describe()
        except DurusError as error:
            self._fail(number, error)
        else:
            self._reply(Type.DESCRIPTION, number, _pack_description(description))

    # -- the past

    def _history(self, number: int, payload: bytes) -> bool | None:
        before, count = _of_past("HISTORY", payload)
        if not 0 < count <= MAX_COMMITS:
            raise ProtocolError(f"a HISTORY asks for 1 to {MAX_COMMITS} commits, not {count}")
        return self._ask(number, Type.COMMITS, lambda past: past.commits(before, count))

    def _changes(self, number: int, payload: bytes) -> bool | None:
        serial, start = _of_past("CHANGES", payload)
        return self._ask(number, Type.CHANGED, lambda past: past.changes(serial, start))

    def _load_as_of(self, number: int, payload: bytes) -> bool | None:
        if len(payload) != 16:
            raise ProtocolError(f"a LOAD_AS_OF brings 16 bytes, not {len(payload)}")
        oid, (serial,) = payload[:8], _INT8.unpack_from(payload, 8)

        def ask(past: Past) -> bytes:
            record = past.load_as_of(oid, serial)
            return _INT4.pack(len(record)) + record

        return self._ask(number, Type.RECORDS, ask)

    def _ask(self, number: int, kind: Type, ask: Callable[[Past], bytes]) -> bool | None:
        """Have a question answered: the request waits, and comes again when that is done."""
        question = self._question
        if question is None:
            question = Question(ask, self.connection.go_on)
            try:
                self.hub.history.order(question)
            except DurusError as error:
                self._fail(number, error)
                return None
            self._question = question
        if not question.is_done:
            return self._wait()
        self._question = None
        if question.error is None:
            self._reply(kind, number, question.answer)
        else:
            self._fail(number, question.error)
        return None

    def _stop(self, number: int, payload: bytes) -> None:
        if self.hub.stop_for(self.connection.peer, is_authenticated=self._is_authenticated):
            self._reply(Type.DONE, number, b"")
        else:
            self._framing.send_error(number, AuthenticationError("not allowed to stop the server"))

    def _leave(self, number: int, payload: bytes) -> None:
        self.connection.close()

    _COMMANDS: ClassVar[dict[int, Command]] = {
        Type.LOAD: Command(_load, _FEW_BYTES),
        Type.LOAD_MANY: Command(_load_many, 8 * MAX_LOAD_MANY),
        Type.SYNC: Command(_sync, _FEW_BYTES),
        Type.NEW_OIDS: Command(_new_oids, _FEW_BYTES),
        Type.STORE: Command(_store, None),
        Type.COMMIT: Command(_commit, _FEW_BYTES),
        Type.CONFIRM: Command(_confirm, _FEW_BYTES),
        Type.GIVE_UP: Command(_give_up, _FEW_BYTES),
        Type.PACK: Command(_pack, _FEW_BYTES),
        Type.STATUS: Command(_status, _FEW_BYTES),
        Type.STOP: Command(_stop, _FEW_BYTES),
        Type.DESCRIBE: Command(_describe, _FEW_BYTES),
        Type.HISTORY: Command(_history, _FEW_BYTES),
        Type.CHANGES: Command(_changes, _FEW_BYTES),
        Type.LOAD_AS_OF: Command(_load_as_of, _FEW_BYTES),
        Type.BYE: Command(_leave, _FEW_BYTES),
    }


def _of_past(name: str, payload: bytes) -> tuple[int, int]:
    if len(payload) != _OF_PAST.size:
        raise ProtocolError(f"a {name} brings {_OF_PAST.size} bytes, not {len(payload)}")
    serial, number = _OF_PAST.unpack(payload)
    return serial, number


def _pack_description(description: StorageDescription) -> bytes:
    when = description.last_commit_time
    return json.dumps(
        {
            "format": description.format,
            "path": description.path,
            "size_bytes": description.size_bytes,
            "object_count": description.object_count,
            "transaction_count": description.transaction_count,
            "last_commit_time": None
            if when is None
            else round((when - _EPOCH).total_seconds() * 1e6),
        }
    ).encode()
