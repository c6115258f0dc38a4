"""Protocol 1, as the clients of Durus 4.3 speak it; the table is in `durus._wire`.

It has no way to say what is wrong. A conflict is I, an unknown oid is K; to whatever else a request
comes, the client is dropped, and the log says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from durus._wire.protocol_1 import STATUS_INVALID, STATUS_KEYERROR, STATUS_OKAY
from durus.error import (
    ConflictError,
    DurusError,
    DurusKeyError,
    ProtocolError,
    ReadConflictError,
)
from durus.logger import logger
from durus.storage_server._client import Client, StaleError

if TYPE_CHECKING:
    from durus.storage_server._connection import ClientConnection
    from durus.storage_server._hub import Hub

__all__ = ["Protocol1"]

_INT4 = Struct(">L")
# What a reply begins with, under the names of Durus 4.3.

# Load replies are put together until they are that long.
_PART_BYTES = 128 << 10


class Protocol1(Client):
    """A client that sends one request at a time, a byte and its arguments."""

    version = 1
    _record_at = 8

    def __init__(self, hub: Hub, connection: ClientConnection) -> None:
        super().__init__(hub, connection)
        self._reply = connection.send
        self._is_commit_begun = False

    def take(self, data: bytes | bytearray, start: int) -> int:
        if self._is_commit_begun:
            return self._take_size(data, start)
        if self.left_bytes:
            end = self.take_records(data, start)
            if not self.left_bytes:
                self._end_transaction()
            return end
        method = self._COMMANDS.get(data[start])
        if method is None:
            raise ProtocolError(f"{data[start : start + 1]!r} is no command of protocol 1")
        return method(self, data, start)

    def leave(self) -> None:
        self.hub.committer.forget(self)
        super().leave()

    # -- one method for each command: each gives where the request ends, or where it begins if it
    # -- is not all there

    def _load(self, data: bytes | bytearray, start: int) -> int:
        end = start + 9
        oid = bytes(data[start + 1 : end])
        if len(oid) < 8:
            return self._want(start, 9)
        try:
            record = self.load(oid)
        except DurusKeyError as error:
            if self.must_wait_for_root(error):
                return start
            self._reply(STATUS_KEYERROR)
        except ReadConflictError:
            self._reply(STATUS_INVALID)
        except DurusError as error:
            self._fail("load", error)
        else:
            self._reply(b"O%b%b" % (_INT4.pack(len(record)), record))
        return end

    def _load_many(self, data: bytes | bytearray, start: int) -> int:
        if len(data) - start < 5:
            return self._want(start, 5)
        count: int = _INT4.unpack_from(data, start + 1)[0]
        if count > self.hub.limits.bulk_oids:
            raise ProtocolError(f"it asks for {count} records at once")
        end = start + 5 + 8 * count
        if len(data) < end:
            return self._want(start, 5 + 8 * count)
        # Only when it has sent all oids does the client read answers.
        self.connection.send_all(self._gen_load_replies(bytes(data[start + 5 : end])))
        return end

    def _gen_load_replies(self, oids: bytes) -> Iterator[bytes]:
        replies: list[bytes] = []
        size = 0
        for at in range(0, len(oids), 8):
            try:
                record = self.load(oids[at : at + 8])
            except DurusKeyError:
                replies.append(STATUS_KEYERROR)
                continue
            except ReadConflictError:
                replies.append(STATUS_INVALID)
                continue
            except DurusError as error:
                self._fail("load", error)
                return
            replies += (STATUS_OKAY, _INT4.pack(len(record)), record)
            size += len(record)
            if size > _PART_BYTES:
                yield b"".join(replies)
                replies.clear()
                size = 0
        if replies:
            yield b"".join(replies)

    def _new_oid(self, data: bytes | bytearray, start: int) -> int:
        self._give_oids(1)
        return start + 1

    def _new_oids(self, data: bytes | bytearray, start: int) -> int:
        if len(data) - start < 2:
            return self._want(start, 2)
        self._give_oids(data[start + 1])
        return start + 2

    def _give_oids(self, count: int) -> None:
        try:
            oids = self.new_oids(count)
        except DurusError as error:
            self._fail("new oids", error)
            return
        if oids:
            self._reply(b"".join(oids))

    def _sync(self, data: bytes | bytearray, start: int) -> int:
        self._tell_stale()
        return start + 1

    def _tell_stale(self) -> set[bytes] | None:
        try:
            stale = self.sync()
        except DurusError as error:
            self._fail("sync", error)
            return None
        if stale is None:
            # There is no way to say that everything may have changed.
            self.connection.drop(
                "it was idle for so long that what it missed is not known any more"
            )
            return None
        self._reply(_INT4.pack(len(stale)) + b"".join(stale))
        return stale

    def _commit(self, data: bytes | bytearray, start: int) -> int:
        """Tell the client what is stale; it goes on, with what it stores, or gives up."""
        stale = self._tell_stale()
        if stale is not None:
            self.told.clear()
            self.note_told(stale)
            self._is_commit_begun = True
        return start + 1

    def _take_size(self, data: bytes | bytearray, start: int) -> int:
        if len(data) - start < 4:
            return self._want(start, 4)
        size: int = _INT4.unpack_from(data, start)[0]
        if size > self.hub.limits.transaction_bytes:
            raise ProtocolError(
                f"its transaction of {size} bytes is larger than the"
                f" {self.hub.limits.transaction_bytes} that the server takes"
            )
        self._is_commit_begun = False
        self.left_bytes = size
        if not size:
            self.give_up()
        return start + 4

    def check_entry(self, oid: bytes) -> None:
        if oid in self.session.open_oids():
            raise ProtocolError(f"its transaction stores oid {int.from_bytes(oid, 'big')} twice")

    def refuse(self, error: DurusError) -> None:
        super().refuse(error)
        if not isinstance(error, ConflictError):
            self._fail("commit", error)

    def _end_transaction(self) -> None:
        """Hand the transaction on; the answer comes later."""
        try:
            if self.refusal is not None:
                raise self.refusal
            self._hand_on()
        except ConflictError:
            self.give_up()
            self._tell_conflict()
        except DurusError as error:
            self._fail("commit", error)
        else:
            self.connection.wait()

    def _hand_on(self) -> None:
        while True:
            try:
                self.commit(self._answer_commit)
            except StaleError as error:
                if not self.session.only_removed(error.oids).issuperset(error.oids):
                    raise
                # It cannot be asked, and need not: it is told when it syncs.
                self.told.update(error.oids)
            else:
                return

    def _answer_commit(self, error: BaseException | None) -> None:
        if error is None:
            self._reply(STATUS_OKAY)
        elif isinstance(error, ConflictError):
            self._tell_conflict()
        else:
            logger.error("the commit of %s failed: %s", self.connection.peer, error)
            self._fail("commit", error)
        self.connection.go_on()

    def _tell_conflict(self) -> None:
        self._metrics.conflicts += 1
        self._reply(STATUS_INVALID)

    def _pack(self, data: bytes | bytearray, start: int) -> int:
        try:
            self.check_writable("pack")
        except DurusError as error:
            self._fail("pack", error)
            return start + 1
        self.connection.wait()
        self.hub.committer.order_pack(self)
        return start + 1

    def note_pack_progress(self, kept: int) -> None:
        """Say nothing: this protocol has no word for it."""

    def note_pack_end(self, error: BaseException | None) -> None:
        """Answer the request to pack."""
        if error is None:
            self.session.note_pack()
            self._reply(STATUS_OKAY)
        else:
            self._fail("pack", error)
        self.connection.go_on()

    def _quit(self, data: bytes | bytearray, start: int) -> int:
        if not self.hub.stop_for(self.connection.peer):
            self.connection.drop("it asked the server to stop, which it may not")
        return start + 1

    def _leave(self, data: bytes | bytearray, start: int) -> int:
        self.connection.close()
        return start + 1

    def _choose(self, data: bytes | bytearray, start: int) -> int:
        """Answer a V that comes again."""
        if len(data) - start < 5:
            return self._want(start, 5)
        if data[start + 1 : start + 5] != _INT4.pack(1):
            raise ProtocolError("it changes the version of the protocol")
        self._reply(_INT4.pack(1))
        return start + 5

    def _want(self, start: int, size: int) -> int:
        self.connection.wanted_bytes = size
        return start

    def _fail(self, attempt: str, error: BaseException) -> None:
        self.connection.drop(f"its request ({attempt}) failed: {error}")

    _COMMANDS: ClassVar[dict[int, Callable[[Protocol1, bytes | bytearray, int], int]]] = {
        ord("L"): _load,
        ord("B"): _load_many,
        ord("N"): _new_oid,
        ord("M"): _new_oids,
        ord("S"): _sync,
        ord("C"): _commit,
        ord("P"): _pack,
        ord("Q"): _quit,
        ord("V"): _choose,
        ord("."): _leave,
    }
