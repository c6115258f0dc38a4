"""What a client may do, whatever protocol it speaks: its session, and what it knows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from struct import Struct
from typing import TYPE_CHECKING, ClassVar

from durus.error import (
    ConflictError,
    DurusError,
    DurusKeyError,
    ProtocolError,
    StorageReadOnlyError,
    WriteConflictError,
)
from durus.serialize import ROOT_OID
from durus.storage_server._known_oids import KnownOids

if TYPE_CHECKING:
    from durus.storage_server._connection import ClientConnection
    from durus.storage_server._hub import Hub

__all__ = ["Client", "StaleError"]

_INT4 = Struct(">L")

# A record has at least an oid and a length.
_SHORTEST_RECORD = 12

# How many records to take before the other clients have their turn, and while commits are on their
# way: whoever waits for one waits for each such turn in which it needs the interpreter.
_TURN_RECORDS = 25
_TURN_RECORDS_BESIDE = 8


class StaleError(ConflictError):
    """A commit that the client must be asked about first: it knows objects that are stale."""


class Client:
    """A client that was let in.

    Nothing is ever held for it in the middle of a commit: what it stores is kept here until it is
    whole, and then goes to its session at once. The session finds out what has changed meanwhile;
    whatever of it the client has in memory, it must be told before it may commit. The rest it is
    told later.

    Attributes:
        connection: its socket.
        hub: what all clients share.
        session: its view of the storage.
        known: the objects that it has in memory.
        untold: what is stale and was not told to it.
        told: what it was told is stale in this transaction, and has not loaded again since.
        left_bytes: how much is still to come of the records that it is storing.
        refusal: what is wrong with its transaction already.
    """

    version = 0
    # Where, in what it stores, a record begins after its length.
    _record_at: ClassVar[int]

    def __init__(self, hub: Hub, connection: ClientConnection) -> None:
        self.hub = hub
        self.connection = connection
        self.session = hub.shared.new_session()
        self.known = KnownOids()
        self.untold: set[bytes] = set()
        self.told: set[bytes] = set()
        self.left_bytes = 0
        self.refusal: DurusError | None = None
        self._load_record = self.session.load
        self._metrics = hub.metrics
        self._was_given_root = False
        self._commits_under_way = 0
        self._open_bytes = 0
        self._turn_records = 0
        self.session.begin()
        hub.protocols[self.version] += 1

    def is_committing(self) -> bool:
        """Tell whether a commit was handed on whose outcome the client does not know yet."""
        return self._commits_under_way > 0

    def complain(self, error: ProtocolError) -> None:
        """Say nothing: protocol 1 has no errors."""

    def leave(self) -> None:
        """Give back what is held for the client, its unused oids too."""
        self.hub.protocols[self.version] -= 1
        self.session.close()
        self.hub.roots.note_left(self)

    def load(self, oid: bytes) -> bytes:
        """Give a record, and note that the client knows the object."""
        record = self._load_record(oid)
        self._metrics.loads += 1
        self.known.add(oid)
        if self.untold or self.told:
            self.note_sent(oid)
        return record

    def note_sent(self, *oids: bytes) -> None:
        """Take note that the client has the records of these objects as its session sees them."""
        self.told.difference_update(oids)
        if not self._commits_under_way:
            # Otherwise the session is about to see newer ones.
            self.untold.difference_update(oids)

    def note_told(self, oids: Iterable[bytes]) -> None:
        """Take note that the client was told, within a transaction, that these are stale."""
        self.told.update(oids)
        self.untold.difference_update(oids)
        self.known.discard(oids)

    def must_wait_for_root(self, error: DurusKeyError) -> bool:
        """Decide whether the answer that there is no root has to wait; see `RootMaking`."""
        if error.oid != ROOT_OID or self.hub.policy.readonly:
            return False
        if not self.hub.roots.must_wait(self, self._look_again):
            return False
        self.connection.wait()
        return True

    def _look_again(self) -> None:
        try:
            self.untold.update(self.session.sync() or ())
        except DurusError:
            # The storage was closed, which the request that waits will find out.
            pass
        self.connection.go_on()

    def sync(self) -> set[bytes] | None:
        """Move to the newest state; give what is stale now, or None if that cannot be told."""
        stale = self.session.sync()
        untold = self.untold
        if stale is None:
            untold.clear()
            self.known.clear()
            return None
        if not stale and not untold:
            return untold
        self.untold = set()
        untold.update(stale)
        self.known.discard(untold)
        return untold

    def new_oids(self, count: int) -> list[bytes]:
        """Give oids that nobody else gets. Only the client that makes the root gets its oid."""
        self.check_writable("take new oids")
        oids = self.session.new_oids(count)
        if ROOT_OID in oids:
            oids.remove(ROOT_OID)
            oids += self.session.new_oids(1)
        if self.hub.roots.is_maker(self) and not self._was_given_root and oids:
            self._was_given_root = True
            oids[0] = ROOT_OID
        return oids

    def take_records(self, data: bytes | bytearray, start: int) -> int:
        """Add the records to the transaction that begin at `data[start]`, as far as they are there.

        Not only when all have come: what is kept meanwhile would have to grow, and to be copied.

        Returns:
            Where the first begins that is not whole, or that has to wait for its turn.

        Raises:
            ProtocolError: the lengths do not add up.
        """
        left, end = self.left_bytes, len(data)
        is_beside = self.hub.committer.is_busy()
        turn_records = _TURN_RECORDS_BESIDE if is_beside else _TURN_RECORDS
        with memoryview(data) as view:
            while left:
                if self.refusal is not None:
                    # However much it is: it comes faster than the others could be seen to.
                    start, left = min(start + left, end), max(0, left - (end - start))
                    self.connection.end_turn()
                    break
                size = self._size_of_entry(data, start, left)
                if size > end - start:
                    self.connection.wanted_bytes = size
                    break
                self._take_record(bytes(view[start + 4 : start + size]))
                start += size
                left -= size
                self._turn_records += 1
                if self._turn_records >= turn_records:
                    self._turn_records = 0
                    self.connection.end_turn()
                    break
        self.left_bytes = left
        self._note_open(self.session.open_bytes())
        return start

    def _size_of_entry(self, data: bytes | bytearray, start: int, left: int) -> int:
        """Give how many bytes a record takes with its length, as far as is known."""
        if left < 4:
            raise ProtocolError("what it stores ends inside a length")
        if len(data) - start < 4:
            return 4
        size: int = _INT4.unpack_from(data, start)[0]
        if not self._record_at + _SHORTEST_RECORD <= size <= left - 4:
            raise ProtocolError(f"it stores a record of {size} bytes with {left - 4} left")
        return size + 4

    def _take_record(self, entry: bytes) -> None:
        oid = entry[:8]
        self.check_entry(oid)
        try:
            self.session.store(oid, entry[self._record_at :])
        except DurusError as error:
            self.refuse(error)

    def check_entry(self, oid: bytes) -> None:
        """Check what the protocol demands of the next oid that is stored.

        Raises:
            ProtocolError: it may not be.
        """

    def refuse(self, error: DurusError) -> None:
        """Remember what is wrong with the transaction for when it is to be committed."""
        self.give_up()
        self.refusal = error

    def give_up(self) -> None:
        """Forget the transaction, and be ready for another."""
        self.session.begin()
        self.refusal = None
        self.told.clear()
        self._note_open(0)

    def _note_open(self, open_bytes: int) -> None:
        """Count what the open transaction takes."""
        change, self._open_bytes = open_bytes - self._open_bytes, open_bytes
        self.connection.hold(change)

    def has_examined(self) -> bool:
        """Look up again some of what the transaction changes, if its session has moved meanwhile.

        Returns:
            Whether all is done. If not, the rest is for the client's next turn.
        """
        try:
            is_done = self.session.examine(_TURN_RECORDS)
        except DurusError as error:
            self.refuse(error)
            return True
        if not is_done:
            self.connection.end_turn()
        return is_done

    def commit(self, answer: Callable[[BaseException | None], None]) -> None:
        """Hand the transaction on.

        Args:
            answer: called with the outcome, unless this raises.

        Raises:
            StaleError: it knows more that is stale. It may be told and confirm, or give up.
            DurusError: the transaction is refused, and given up.
        """
        session, known, told = self.session, self.known, self.told
        records = session.open_oids()

        def handle_invalidations(stale: list[bytes]) -> None:
            news = [oid for oid in stale if oid not in told] if told else stale
            self.untold.update(news)
            concerned = known.among(news)
            if concerned:
                raise StaleError(concerned)

        def note_outcome(error: BaseException | None) -> None:
            self._commits_under_way -= 1
            self.connection.hold(-open_bytes)
            if error is None:
                self._note_committed(records)
            answer(error)

        # Counted until it is on the disk.
        open_bytes, self._open_bytes = self._open_bytes, 0
        committer = self.hub.committer
        try:
            self.check_writable("commit")
            if told and not told.isdisjoint(records):
                # Its session may have moved on when it was told; the client says that it has not.
                raise WriteConflictError(sorted(told.intersection(records)))
            session.submit(handle_invalidations, committer.ticket(open_bytes, note_outcome))
        except StaleError:
            self._open_bytes = open_bytes
            raise
        except DurusError:
            self._open_bytes = open_bytes
            self.give_up()
            raise
        session.begin()
        told.clear()
        self._commits_under_way += 1
        committer.order_flush()

    def _note_committed(self, records: Collection[bytes]) -> None:
        add = self.known.add
        for oid in records:
            add(oid)
        self.untold.difference_update(records)
        self.hub.roots.note_commit(records)

    def check_writable(self, attempt: str) -> None:
        """Refuse a change where nothing may be changed.

        Raises:
            StorageReadOnlyError: the server was started so.
        """
        if self.hub.policy.readonly:
            raise StorageReadOnlyError(f"tried to {attempt}, but the server serves it read-only")
