"""A zoo of wrong storages: each breaks clauses of the storage contract, each clause catches one.

Two right storages stand at its head, so that what catches a wrong one is its flaw: MemoryStorage,
and `DiskStorage` below, which has every ability. A wrong one is a few lines on either, with the
names of the clauses that must catch it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import ClassVar, TypeVar

import pytest
from hypothesis import settings

from durus.error import (
    ConflictError,
    DurusKeyError,
    NotSupportedError,
    StorageClosedError,
    StorageError,
    StorageReadOnlyError,
    StorageTransactionError,
)
from durus.moment import parse_moment, serial_at
from durus.serialize import ROOT_OID, split_oids, unpack_record
from durus.storage import (
    Damage,
    MemoryStorage,
    Storage,
    StorageDescription,
    check_oid,
    check_record,
)
from durus.testing import Place, StorageMachine, StorageTests, clauses
from durus.testing._suite import needs_of
from durus.utils import int8_to_str

Handler = Callable[[list[bytes]], None] | None


class Disk:
    """What outlives a DiskStorage."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self.next_oid_int = 0
        self.sessions: list[DiskStorage] = []
        # What was stored after each commit, and when it was; its serial is the place, from 1.
        self.history: list[tuple[datetime, dict[bytes, bytes]]] = []
        # What each commit stored, by its serial.
        self.changes: dict[int, dict[bytes, bytes]] = {}


class DiskStorage(Storage):
    """A right storage with every ability: persistent, shared, packable, read-only on request."""

    can_pack = True
    can_share = True
    can_open_readonly: ClassVar[bool] = True
    is_persistent = True
    can_load_meanwhile = True
    keeps_history = True
    can_open_at: ClassVar[bool] = True

    def __init__(
        self, disk: Disk, readonly: bool = False, at: datetime | int | str | None = None
    ) -> None:
        self.disk = disk
        self.readonly = readonly or at is not None
        self.is_open = True
        self.pending: dict[bytes, bytes] | None = None
        self.stale: set[bytes] = set()
        self.as_of: int | None = None
        if at is not None:
            self.as_of = self.serial_at(at)
        self.view = dict(self.committed())
        disk.sessions.append(self)

    def serial_at(self, at: datetime | int | str) -> int:
        return serial_at(self.gen_commits(), at)

    def committed(self) -> dict[bytes, bytes]:
        if self.as_of is None:
            return self.disk.records
        return self.disk.history[self.as_of - 1][1]

    def check_open(self) -> None:
        if not self.is_open:
            raise StorageClosedError("closed")

    def check_writable(self) -> None:
        self.check_open()
        if self.readonly:
            raise StorageReadOnlyError("opened read-only")

    def load(self, oid: bytes) -> bytes:
        self.check_open()
        check_oid(oid)
        if oid not in self.view:
            raise DurusKeyError(oid)
        return self.view[oid]

    def begin(self) -> None:
        self.check_writable()
        self.pending = {}

    def store(self, oid: bytes, record: bytes) -> None:
        self.check_open()
        check_record(oid, record)
        if self.pending is None:
            raise StorageTransactionError("no begin()")
        self.pending[oid] = record

    def end(self, handle_invalidations: Handler = None) -> None:
        self.check_open()
        pending, self.pending = self.pending, None
        if pending is None:
            raise StorageTransactionError("no begin()")
        if self.stale and handle_invalidations:
            handle_invalidations(sorted(self.stale))
        self.check_conflict(pending)
        self.write(pending)
        if handle_invalidations:
            self.sync()

    def check_conflict(self, pending: dict[bytes, bytes]) -> None:
        if not self.stale.isdisjoint(pending):
            raise ConflictError(sorted(self.stale & pending.keys()))

    def write(self, pending: dict[bytes, bytes]) -> None:
        self.disk.records.update(pending)
        self.disk.history.append((datetime.now(UTC), dict(self.disk.records)))
        self.disk.changes[len(self.disk.history)] = pending
        self.view.update(pending)
        self.tell_others(pending)

    def tell_others(self, oids: Iterable[bytes]) -> None:
        for session in self.disk.sessions:
            if session is not self:
                session.stale.update(oids)

    def sync(self) -> list[bytes]:
        self.check_open()
        stale, self.stale = self.stale, set()
        self.view = dict(self.committed())
        return sorted(stale) if self.as_of is None else []

    def new_oid(self) -> bytes:
        self.check_writable()
        used = set(self.disk.records).union(*(s.pending or {} for s in self.disk.sessions))
        while True:
            oid = int8_to_str(self.disk.next_oid_int)
            self.disk.next_oid_int += 1
            if oid not in used:
                return oid

    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        self.check_open()
        for n, (time, _) in enumerate(self.disk.history[: self.as_of]):
            yield n + 1, time

    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        self.check_open()
        check_oid(oid)
        if not 0 < serial <= len(self.disk.history):
            raise StorageError(f"no commit {serial}")
        state = self.disk.history[serial - 1][1]
        if oid not in state:
            raise DurusKeyError(oid)
        return state[oid]

    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        self.check_open()
        if not 0 < serial <= len(self.disk.history[: self.as_of]):
            raise StorageError(f"no commit {serial}")
        yield from self.disk.changes.get(serial, {}).items()

    def new_session(self) -> Storage:
        self.check_open()
        return type(self)(self.disk, self.readonly)

    def describe(self) -> StorageDescription:
        return StorageDescription(as_of=self.as_of)

    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        self.check_open()
        return iter(self.view.items()) if start_oid is None else super().gen_oid_record(start_oid)

    def gen_damage(self) -> Iterator[Damage]:
        self.check_open()
        for oid, record in self.disk.records.items():
            if record[:8] != oid:
                yield Damage("a record under the oid of another", oid)

    def get_packer(self) -> Iterator[object]:
        self.check_writable()
        yield "a step in which commits go on"
        yield "and another"
        self.remove(self.garbage())

    def garbage(self) -> set[bytes]:
        if ROOT_OID not in self.disk.records:
            return set()
        reached: set[bytes] = set()
        waiting = [ROOT_OID]
        while waiting:
            oid = waiting.pop()
            if oid not in reached:
                reached.add(oid)
                waiting += refs_of(self.disk.records[oid])
        return self.disk.records.keys() - reached

    def remove(self, garbage: set[bytes]) -> None:
        for oid in garbage:
            del self.disk.records[oid]
            self.view.pop(oid, None)
        self.stale |= garbage
        self.tell_others(garbage)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.pending = None
            self.disk.sessions.remove(self)


class TestDiskStorage(StorageTests):
    @pytest.fixture
    def open_storage(self) -> Callable[..., Storage]:
        return partial(DiskStorage, Disk())


class DiskMachine(StorageMachine):
    def __init__(self) -> None:
        self.disk = Disk()
        super().__init__()

    def open_storage(self) -> Storage:
        return DiskStorage(self.disk)


TestDiskMachine = DiskMachine.TestCase
TestDiskMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def refs_of(record: bytes) -> list[bytes]:
    """Give the oids that a record refers to."""
    return split_oids(unpack_record(record)[2])


# -- the zoo ---------------------------------------------------------------------------------------

CAUGHT_BY: dict[type[Storage], tuple[str, ...]] = {}
_Wrong = TypeVar("_Wrong", bound=type[Storage])


def breaks(*names: str) -> Callable[[_Wrong], _Wrong]:
    """Put a wrong storage into the zoo, with the clauses that must catch it."""

    def enter(cls: _Wrong) -> _Wrong:
        CAUGHT_BY[cls] = names
        return cls

    return enter


@breaks("test_load_gives_the_committed_record")
class LosesTheLastByte(MemoryStorage):
    def load(self, oid: bytes) -> bytes:
        return super().load(oid)[:-1]


@breaks("test_load_gives_the_committed_record")
class KeepsAnInnerBuffer(MemoryStorage):
    def load(self, oid: bytes) -> bytes:
        return bytearray(super().load(oid))  # type: ignore[return-value]  # the flaw


@breaks("test_load_of_an_unknown_oid_raises_durus_key_error")
class RaisesPlainKeyError(DiskStorage):
    def load(self, oid: bytes) -> bytes:
        self.check_open()
        check_oid(oid)
        return self.view[oid]


@breaks("test_load_of_an_unknown_oid_raises_durus_key_error")
class DoesNotSayWhichOid(DiskStorage):
    def load(self, oid: bytes) -> bytes:
        try:
            return super().load(oid)
        except DurusKeyError:
            raise DurusKeyError from None


@breaks("test_load_refuses_an_oid_that_is_not_eight_bytes")
class LooksUpAnything(DiskStorage):
    def load(self, oid: bytes) -> bytes:
        self.check_open()
        if oid not in self.view:
            raise DurusKeyError(oid)
        return self.view[oid]


@breaks("test_load_does_not_see_what_is_not_ended")
class LoadsWhatIsPending(DiskStorage):
    def load(self, oid: bytes) -> bytes:
        pending = self.pending or {}
        return pending[oid] if oid in pending else super().load(oid)


@breaks("test_begin_forgets_what_was_pending")
class BeginForgetsNothing(DiskStorage):
    def begin(self) -> None:
        self.check_writable()
        self.pending = self.pending or {}


@breaks("test_store_without_begin_raises")
class StoreBeginsByItself(DiskStorage):
    def store(self, oid: bytes, record: bytes) -> None:
        if self.pending is None:
            self.begin()
        super().store(oid, record)


@breaks("test_store_refuses_an_oid_that_is_not_eight_bytes")
class StoresUnderAnything(DiskStorage):
    def store(self, oid: bytes, record: bytes) -> None:
        if isinstance(oid, bytes) and len(oid) == 8:
            super().store(oid, record)
        elif self.pending is not None:
            self.pending[oid] = record


@breaks("test_store_refuses_the_record_of_another_oid")
class StoresForeignRecords(DiskStorage):
    def store(self, oid: bytes, record: bytes) -> None:
        super().store(oid, oid + record[8:])


@breaks(
    "test_store_refuses_a_malformed_record", "test_refused_record_keeps_nothing_of_its_transaction"
)
class StoresMalformedRecords(DiskStorage):
    def store(self, oid: bytes, record: bytes) -> None:
        check_oid(oid)
        if self.pending is None:
            raise StorageTransactionError("no begin()")
        self.pending[oid] = record


@breaks("test_store_of_one_oid_twice_keeps_the_later")
class KeepsTheEarlierOfTwo(DiskStorage):
    def store(self, oid: bytes, record: bytes) -> None:
        if oid not in (self.pending or {}):
            super().store(oid, record)


@breaks("test_refused_record_keeps_nothing_of_its_transaction")
class CommitsUpToTheBadRecord(DiskStorage):
    def store(self, oid: bytes, record: bytes) -> None:
        try:
            super().store(oid, record)
        except ValueError:
            self.write(self.pending or {})
            raise


@breaks("test_end_without_begin_raises")
class EndsWithoutBegin(DiskStorage):
    def end(self, handle_invalidations: Handler = None) -> None:
        self.check_open()
        if self.pending is not None:
            super().end(handle_invalidations)


@breaks("test_end_keeps_every_record_of_the_transaction")
class WritesOneBatch(DiskStorage):
    def write(self, pending: dict[bytes, bytes]) -> None:
        super().write(dict(islice(pending.items(), 1000)))


@breaks("test_end_leaves_other_records_as_they_were")
class KeepsTheLastTransaction(DiskStorage):
    def write(self, pending: dict[bytes, bytes]) -> None:
        self.disk.records.clear()
        super().write(pending)


@breaks("test_end_of_an_empty_transaction_changes_nothing")
class LeavesAnEmptyTransactionOpen(DiskStorage):
    def end(self, handle_invalidations: Handler = None) -> None:
        if self.pending != {}:
            super().end(handle_invalidations)


@breaks("test_end_calls_no_handler_without_invalidations")
class AlwaysCallsTheHandler(DiskStorage):
    def end(self, handle_invalidations: Handler = None) -> None:
        if handle_invalidations:
            handle_invalidations(sorted(self.stale))
        super().end(handle_invalidations)


@breaks("test_commits_follow_each_other")
class KeepsTenTransactions(DiskStorage):
    written = 0

    def write(self, pending: dict[bytes, bytes]) -> None:
        self.written += 1
        if self.written <= 10:
            super().write(pending)


@breaks("test_large_record_comes_back_whole")
class CutsAtOneMegabyte(DiskStorage):
    def write(self, pending: dict[bytes, bytes]) -> None:
        super().write({oid: record[: 1 << 20] for oid, record in pending.items()})


@breaks("test_oids_need_not_be_dense")
class HasShortOids(DiskStorage):
    def load(self, oid: bytes) -> bytes:
        check_oid(oid)
        return super().load(bytes(6) + oid[-2:])


@breaks("test_oids_need_not_be_dense")
class CountsOnDenseOids(DiskStorage):
    def load(self, oid: bytes) -> bytes:
        found = super().load(oid)
        if int.from_bytes(oid, "big") > len(self.view):
            raise DurusKeyError(oid)
        return found


@breaks("test_sync_without_news_gives_an_empty_list")
class SyncGivesNothing(DiskStorage):
    def sync(self) -> list[bytes]:
        return super().sync() or None  # type: ignore[return-value]  # the flaw


@breaks(
    "test_sync_without_news_gives_an_empty_list", "test_sync_reports_what_other_sessions_changed"
)
class ReportsItsOwnChanges(DiskStorage):
    def write(self, pending: dict[bytes, bytes]) -> None:
        super().write(pending)
        self.stale.update(pending)

    def check_conflict(self, pending: dict[bytes, bytes]) -> None:
        pass


@breaks("test_new_oid_gives_each_oid_once")
class CountsFromTheHighestStored(DiskStorage):
    def new_oid(self) -> bytes:
        self.check_writable()
        return int8_to_str(int.from_bytes(max(self.disk.records, default=b""), "big") + 1)


@breaks("test_new_oid_gives_each_oid_once")
class GivesShortOids(DiskStorage):
    def new_oid(self) -> bytes:
        return super().new_oid()[1:]


class _CountsOnly(DiskStorage):
    def new_oid(self) -> bytes:
        self.check_writable()
        self.disk.next_oid_int += 1
        return int8_to_str(self.disk.next_oid_int - 1)


@breaks("test_new_oid_gives_none_that_is_stored", "test_new_oid_gives_none_that_is_pending")
class GivesWhatOthersChose(_CountsOnly):
    pass


@breaks("test_new_oid_gives_none_that_is_stored_after_reopening")
class CountsFromZeroAtEachOpening(_CountsOnly):
    def __init__(self, disk: Disk, readonly: bool = False) -> None:
        disk.next_oid_int = 0
        super().__init__(disk, readonly)


@breaks("test_new_oid_gives_none_that_is_pending")
class ForgetsPendingOids(MemoryStorage):
    def new_oid(self) -> bytes:
        pending, self._pending = self._pending, None
        try:
            return super().new_oid()
        finally:
            self._pending = pending


@breaks("test_bulk_load_yields_records_in_the_order_asked")
class LoadsInItsOwnOrder(MemoryStorage):
    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        return super().bulk_load(sorted(oids))


@breaks("test_bulk_load_yields_records_in_the_order_asked")
class LoadsEachOnce(MemoryStorage):
    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        return super().bulk_load(dict.fromkeys(oids))


@breaks("test_bulk_load_raises_on_reaching_an_unknown_oid")
class PassesOverWhatIsMissing(MemoryStorage):
    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        for oid in oids:
            with suppress(DurusKeyError):
                yield self.load(oid)


@breaks("test_bulk_load_raises_on_reaching_an_unknown_oid")
class LoadsAllOrNothing(MemoryStorage):
    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        return iter([self.load(oid) for oid in oids])


@breaks("test_walks_refuse_an_oid_that_is_not_eight_bytes")
class LooksUpAnythingInBulk(DiskStorage):
    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        for oid in oids:
            if oid not in self.view:
                raise DurusKeyError(oid)
            yield self.view[oid]


@breaks("test_gen_oid_record_yields_every_reachable_record_once")
class YieldsTheRootTwice(DiskStorage):
    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        yield from super().gen_oid_record(start_oid, batch_size)
        if start_oid is None:
            yield ROOT_OID, self.load(ROOT_OID)


@breaks(
    "test_gen_oid_record_from_a_start_yields_what_it_reaches",
    "test_gen_oid_record_from_an_unknown_oid_raises",
)
class YieldsEverythingFromAnyStart(MemoryStorage):
    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        return super().gen_oid_record(None, batch_size)


@breaks("test_gen_oid_record_from_an_unknown_oid_raises")
class YieldsNothingFromNowhere(DiskStorage):
    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        with suppress(DurusKeyError):
            yield from super().gen_oid_record(start_oid, batch_size)


@breaks("test_gen_oid_record_is_the_same_for_every_batch_size")
class YieldsOneBatch(DiskStorage):
    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        return islice(super().gen_oid_record(start_oid, batch_size), batch_size)


@breaks("test_gen_oid_record_of_an_empty_storage_yields_nothing")
class CannotWalkWithoutARoot(DiskStorage):
    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        return super().gen_oid_record(start_oid or ROOT_OID, batch_size)


@breaks("test_is_persistent_tells_the_truth")
class ClaimsToPersist(MemoryStorage):
    is_persistent = True


@breaks("test_is_persistent_tells_the_truth")
class PersistsInSecret(DiskStorage):
    is_persistent = False


@breaks("test_can_open_readonly_tells_the_truth")
class ClaimsToOpenReadOnly(MemoryStorage):
    can_open_readonly = True


@breaks("test_can_open_readonly_tells_the_truth")
class OpensReadOnlyInSecret(DiskStorage):
    can_open_readonly = False


@breaks("test_readonly_storage_gives_what_is_committed")
class ReadOnlyReadsNothing(DiskStorage):
    def load(self, oid: bytes) -> bytes:
        self.check_writable()
        return super().load(oid)


@breaks("test_readonly_storage_refuses_every_write")
class IgnoresReadOnly(DiskStorage):
    def check_writable(self) -> None:
        self.check_open()


@breaks("test_readonly_storage_refuses_every_write")
class PacksReadOnly(DiskStorage):
    def get_packer(self) -> Iterator[object]:
        self.remove(self.garbage())
        yield "done"


@breaks("test_describe_tells_what_is_true")
class CountsRecordsAsTransactions(DiskStorage):
    def describe(self) -> StorageDescription:
        return StorageDescription(transaction_count=len(self.view))


@breaks("test_describe_tells_what_is_true")
class TellsYesterdaysTime(DiskStorage):
    def describe(self) -> StorageDescription:
        return StorageDescription(last_commit_time=datetime.now(UTC) - timedelta(days=1))


@breaks("test_close_drops_the_open_transaction")
class CloseCommits(DiskStorage):
    def close(self) -> None:
        if self.pending:
            self.end()
        super().close()


@breaks("test_close_twice_does_nothing")
class ClosesOnce(DiskStorage):
    def close(self) -> None:
        self.check_open()
        super().close()


@breaks("test_use_after_close_raises_storage_closed_error", "test_with_statement_closes")
class StaysOpen(MemoryStorage):
    def close(self) -> None:
        pass


@breaks("test_use_after_close_raises_storage_closed_error")
class WalksAfterClose(DiskStorage):
    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        yield from self.disk.records.items()


@breaks("test_gen_damage_finds_nothing_in_what_is_whole")
class TakesGarbageForDamage(DiskStorage):
    def gen_damage(self) -> Iterator[Damage]:
        self.check_open()
        for oid in self.garbage():
            yield Damage("an object that nothing refers to", oid)


@breaks("test_gen_damage_finds_nothing_in_what_is_whole")
class MendsWithoutBeingAsked(DiskStorage):
    def gen_damage(self) -> Iterator[Damage]:
        self.check_open()
        self.remove(self.garbage())
        return iter(())


@breaks("test_gen_damage_finds_nothing_in_what_is_whole")
class ChecksAndForgetsWhatIsPending(DiskStorage):
    def gen_damage(self) -> Iterator[Damage]:
        self.check_open()
        if self.pending:
            self.pending = {}
        return iter(())


@breaks("test_use_after_close_raises_storage_closed_error")
class FindsNoDamageAfterClose(DiskStorage):
    def gen_damage(self) -> Iterator[Damage]:
        return iter(())


@breaks("test_with_statement_closes")
class LeavesWithStatementsOpen(DiskStorage):
    def __exit__(self, *exc_info: object) -> None:
        pass


@breaks("test_can_pack_tells_the_truth")
class PacksInSecret(MemoryStorage):
    can_pack = False


@breaks("test_can_pack_tells_the_truth")
class ClaimsToPack(DiskStorage):
    def get_packer(self) -> Iterator[object]:
        raise NotSupportedError("cannot be packed")


@breaks("test_pack_keeps_what_the_root_reaches")
class PacksOneLevel(DiskStorage):
    def garbage(self) -> set[bytes]:
        return self.disk.records.keys() - {ROOT_OID, *refs_of(self.disk.records[ROOT_OID])}


@breaks("test_pack_removes_what_the_root_does_not_reach", "test_sync_reports_what_a_pack_removed")
class PacksNothing(DiskStorage):
    def garbage(self) -> set[bytes]:
        return set()


@breaks("test_pack_removes_a_cycle_that_the_root_does_not_reach")
class CountsReferences(DiskStorage):
    def garbage(self) -> set[bytes]:
        kept = dict(self.disk.records)
        while True:
            referred = {ROOT_OID}.union(*map(refs_of, kept.values()))
            unreferred = kept.keys() - referred
            if not unreferred:
                return self.disk.records.keys() - kept.keys()
            for oid in unreferred:
                del kept[oid]


@breaks("test_pack_judges_by_the_newest_records")
class PacksByTheOldestRecords(DiskStorage):
    def write(self, pending: dict[bytes, bytes]) -> None:
        super().write(pending)
        oldest = vars(self.disk).setdefault("oldest", {})
        for oid, record in pending.items():
            oldest.setdefault(oid, record)

    def garbage(self) -> set[bytes]:
        newest, self.disk.records = self.disk.records, vars(self.disk)["oldest"]
        try:
            return super().garbage()
        finally:
            self.disk.records = newest


@breaks("test_pack_without_a_root_removes_nothing")
class PacksAllWithoutARoot(DiskStorage):
    def garbage(self) -> set[bytes]:
        return super().garbage() if ROOT_OID in self.disk.records else set(self.disk.records)


@breaks("test_pack_without_a_root_removes_nothing")
class CannotPackWithoutARoot(DiskStorage):
    def garbage(self) -> set[bytes]:
        self.load(ROOT_OID)
        return super().garbage()


@breaks("test_pack_again_changes_nothing")
class PacksOnce(DiskStorage):
    is_packed = False

    def remove(self, garbage: set[bytes]) -> None:
        super().remove(set(self.disk.records) if self.is_packed else garbage)
        self.is_packed = True


@breaks("test_commit_after_a_pack_is_kept")
class WritesToTheUnpackedFile(DiskStorage):
    is_packed = False

    def remove(self, garbage: set[bytes]) -> None:
        super().remove(garbage)
        self.is_packed = True

    def write(self, pending: dict[bytes, bytes]) -> None:
        if not self.is_packed:
            super().write(pending)


@breaks("test_pack_gives_no_promised_oid_again")
class PackForgetsPromises(DiskStorage):
    def remove(self, garbage: set[bytes]) -> None:
        super().remove(garbage)
        self.disk.next_oid_int = 0


@breaks("test_pack_keeps_what_is_committed_between_its_steps")
class PacksToWhatWasThere(DiskStorage):
    def get_packer(self) -> Iterator[object]:
        kept = {oid: self.disk.records[oid] for oid in self.disk.records.keys() - self.garbage()}
        yield "copied"
        removed = self.disk.records.keys() - kept.keys()
        self.remove(removed)
        self.disk.records.update(kept)


@breaks("test_pack_keeps_garbage_that_a_commit_reaches_again")
class JudgesGarbageOnce(DiskStorage):
    def get_packer(self) -> Iterator[object]:
        garbage = self.garbage()
        yield "judged"
        self.remove(garbage)


class _PacksInPlace(DiskStorage):
    def get_packer(self) -> Iterator[object]:
        garbage = self.garbage()
        kept = {oid: self.disk.records.pop(oid) for oid in self.disk.records.keys() - garbage}
        self.sync()
        yield "everything is elsewhere"
        self.disk.records.update(kept)
        self.remove(garbage)
        self.sync()


@breaks(
    "test_pack_serves_loads_between_its_steps",
    "test_packer_that_is_dropped_leaves_what_the_root_reaches",
)
class HidesRecordsWhileItPacks(_PacksInPlace):
    pass


@breaks("test_sync_reports_what_a_pack_removed", "test_end_tells_its_handler_what_a_pack_removed")
class PacksInSilence(DiskStorage):
    def remove(self, garbage: set[bytes]) -> None:
        super().remove(garbage)
        self.stale -= garbage


@breaks("test_pack_reports_to_every_session")
class ReportsAPackToItsCaller(DiskStorage):
    def remove(self, garbage: set[bytes]) -> None:
        super().remove(garbage)
        for session in self.disk.sessions:
            if session is not self:
                session.stale -= garbage


@breaks("test_can_share_tells_the_truth")
class ClaimsToShare(MemoryStorage):
    can_share = True


@breaks("test_can_share_tells_the_truth")
class SharesInSecret(DiskStorage):
    can_share = False


@breaks("test_can_share_tells_the_truth")
class SharesItself(DiskStorage):
    def new_session(self) -> Storage:
        return self


@breaks("test_new_session_sees_what_is_committed")
class SessionsBeginEmpty(DiskStorage):
    def new_session(self) -> Storage:
        session = type(self)(self.disk)
        session.view = {}
        return session


@breaks("test_sessions_have_transactions_of_their_own")
class SharesOneTransaction(DiskStorage):
    @property
    def pending(self) -> dict[bytes, bytes] | None:
        return vars(self.disk).get("pending")

    @pending.setter
    def pending(self, pending: dict[bytes, bytes] | None) -> None:
        vars(self.disk)["pending"] = pending


@breaks("test_session_reads_one_state_until_it_syncs")
class ReadsTheNewest(DiskStorage):
    def load(self, oid: bytes) -> bytes:
        self.view = self.disk.records
        return super().load(oid)


@breaks("test_sync_reports_what_other_sessions_changed")
class ReportsNothing(DiskStorage):
    def tell_others(self, oids: Iterable[bytes]) -> None:
        pass


@breaks("test_sync_reports_what_other_sessions_changed")
class ReportsForEver(DiskStorage):
    def sync(self) -> list[bytes]:
        stale = set(self.stale)
        super().sync()
        self.stale = stale
        return sorted(stale)


class _TellsNoHandler(DiskStorage):
    def end(self, handle_invalidations: Handler = None) -> None:
        super().end()


@breaks(
    "test_end_tells_its_handler_what_others_changed",
    "test_end_tells_its_handler_what_a_pack_removed",
    "test_end_that_its_handler_refuses_keeps_nothing",
)
class TellsNoHandler(_TellsNoHandler):
    pass


@breaks("test_end_that_its_handler_refuses_keeps_nothing")
class AsksTheHandlerTooLate(DiskStorage):
    def end(self, handle_invalidations: Handler = None) -> None:
        stale = sorted(self.stale)
        super().end()
        if stale and handle_invalidations:
            handle_invalidations(stale)


@breaks("test_end_does_not_overwrite_what_another_session_changed")
class TheLastWriterWins(DiskStorage):
    def check_conflict(self, pending: dict[bytes, bytes]) -> None:
        pass


@breaks("test_new_oid_gives_none_that_is_promised_to_another_session")
class PromisesOneOidTwice(DiskStorage):
    def __init__(self, disk: Disk, readonly: bool = False) -> None:
        super().__init__(disk, readonly)
        self.next_oid_int = 0

    def new_oid(self) -> bytes:
        self.disk.next_oid_int = self.next_oid_int
        oid = super().new_oid()
        self.next_oid_int = self.disk.next_oid_int
        return oid


@breaks("test_keeps_history_tells_the_truth")
class ClaimsToKeepHistory(MemoryStorage):
    keeps_history = True


@breaks("test_keeps_history_tells_the_truth")
class KeepsHistoryInSecret(DiskStorage):
    keeps_history = False


@breaks("test_gen_commits_yields_each_commit_in_its_order")
class YieldsTheNewestCommitFirst(DiskStorage):
    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        yield from reversed(list(super().gen_commits()))


@breaks("test_gen_commits_yields_each_commit_in_its_order")
class TellsNaiveTimes(DiskStorage):
    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        for serial, time in super().gen_commits():
            yield serial, time.replace(tzinfo=None)


@breaks(
    "test_load_as_of_gives_what_was_stored_then",
    "test_load_as_of_refuses_a_serial_that_is_none",
    "test_readonly_storage_gives_past_states",
    "test_history_has_what_other_sessions_committed",
)
class GivesTheNewestAsOfAnyCommit(DiskStorage):
    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        return self.load(oid)


@breaks("test_load_as_of_gives_what_was_stored_then")
class MovesToThePast(DiskStorage):
    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        record = super().load_as_of(oid, serial)
        self.view = self.disk.history[serial - 1][1]
        return record


@breaks("test_load_as_of_of_what_was_not_stored_yet_raises_durus_key_error")
class FindsLaterObjectsEarlier(DiskStorage):
    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        try:
            return super().load_as_of(oid, serial)
        except DurusKeyError:
            return self.load(oid)


@breaks("test_load_as_of_refuses_a_serial_that_is_none")
class TakesTheCommitBefore(DiskStorage):
    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        return super().load_as_of(oid, min(serial, len(self.disk.history)))


@breaks("test_gen_changes_yields_what_each_commit_stored")
class YieldsTheWholeStateAsChanges(DiskStorage):
    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        list(super().gen_changes(serial))
        yield from self.disk.history[serial - 1][1].items()


@breaks("test_gen_changes_yields_what_each_commit_stored")
class YieldsTheNewestOfWhatChanged(DiskStorage):
    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        for oid, _ in super().gen_changes(serial):
            yield oid, self.load(oid)


@breaks("test_storage_opened_at_a_commit_knows_no_later_one")
class KnowsWhatChangedLater(DiskStorage):
    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        self.check_open()
        if serial not in self.disk.changes:
            raise StorageError(f"no commit {serial}")
        yield from self.disk.changes[serial].items()


@breaks("test_gen_changes_refuses_a_serial_that_is_none")
class KnowsACommitOfNothing(DiskStorage):
    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        self.check_open()
        yield from self.disk.changes.get(serial, {}).items()


@breaks("test_load_as_of_refuses_an_oid_that_is_not_eight_bytes")
class LooksUpAnythingInThePast(DiskStorage):
    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        try:
            return self.disk.history[serial - 1][1][oid]
        except KeyError:
            raise DurusKeyError(oid) from None


@breaks("test_history_does_not_show_what_is_not_ended")
class ShowsWhatIsPendingInThePast(DiskStorage):
    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        return (self.pending or {}).get(oid) or super().load_as_of(oid, serial)


@breaks("test_history_does_not_show_what_is_not_ended")
class CountsWhatIsPendingAsACommit(DiskStorage):
    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        yield from super().gen_commits()
        if self.pending:
            yield len(self.disk.history) + 1, datetime.now(UTC)


@breaks("test_readonly_storage_gives_past_states")
class HasNoPastReadOnly(DiskStorage):
    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        self.check_writable()
        return super().gen_commits()


@breaks("test_past_states_that_a_pack_keeps_are_as_they_were")
class PacksThePastToThePresent(DiskStorage):
    def remove(self, garbage: set[bytes]) -> None:
        super().remove(garbage)
        for _, state in self.disk.history:
            state.update(self.disk.records)


@breaks("test_past_states_that_a_pack_keeps_are_as_they_were")
class LosesTheNewestCommitAfterAPack(DiskStorage):
    def remove(self, garbage: set[bytes]) -> None:
        super().remove(garbage)
        vars(self.disk)["is_packed"] = True

    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        found = list(super().gen_commits())
        yield from found[:3] if vars(self.disk).get("is_packed") else found


@breaks("test_history_has_what_other_sessions_committed")
class SeesItsOwnHistory(DiskStorage):
    def __init__(self, disk: Disk, readonly: bool = False) -> None:
        super().__init__(disk, readonly)
        self.own = set(range(1, len(disk.history) + 1))

    def write(self, pending: dict[bytes, bytes]) -> None:
        super().write(pending)
        self.own.add(len(self.disk.history))

    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        return (pair for pair in super().gen_commits() if pair[0] in self.own)


@breaks("test_can_open_at_tells_the_truth")
class ClaimsToOpenAt(MemoryStorage):
    keeps_history = True
    can_open_at = True


@breaks("test_can_open_at_tells_the_truth")
class OpensAtInSecret(DiskStorage):
    can_open_at = False


@breaks(
    "test_storage_opened_at_a_commit_gives_the_state_of_then",
    "test_storage_opened_at_a_commit_stays_there",
)
class OpensTheNewestAtAnyCommit(DiskStorage):
    def committed(self) -> dict[bytes, bytes]:
        return self.disk.records


@breaks("test_storage_opened_at_a_commit_gives_the_state_of_then")
class ListsTheNewestAtAnyCommit(DiskStorage):
    def gen_oid_record(
        self, start_oid: bytes | None = None, batch_size: int = 100
    ) -> Iterator[tuple[bytes, bytes]]:
        return iter(self.disk.records.items())


@breaks("test_storage_opened_at_a_time_gives_the_last_commit_before")
class OpensTheFirstCommitAfterATime(DiskStorage):
    def serial_at(self, at: datetime | int | str) -> int:
        wanted = parse_moment(at) if isinstance(at, str) else at
        if isinstance(wanted, int):
            return super().serial_at(wanted)
        later = (n for n, time in self.gen_commits() if time >= wanted.astimezone())
        return next(later, len(self.disk.history))


@breaks("test_storage_opened_at_what_is_no_commit_is_refused")
class OpensTheNearestCommit(DiskStorage):
    def serial_at(self, at: datetime | int | str) -> int:
        try:
            return super().serial_at(at)
        except StorageError:
            return len(self.disk.history)


@breaks("test_storage_opened_at_a_commit_stays_there")
class MovesOnFromThePast(DiskStorage):
    def sync(self) -> list[bytes]:
        self.as_of = None
        return super().sync()


@breaks("test_storage_opened_at_a_commit_stays_there")
class WritesOnThePast(DiskStorage):
    def check_writable(self) -> None:
        if self.as_of is None:
            super().check_writable()


@breaks("test_use_after_close_raises_storage_closed_error")
class RemembersAfterClose(DiskStorage):
    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        return self.disk.history[serial - 1][1][oid]


@breaks("test_load_works_while_another_thread_is_in_end")
class ShowsNothingWhileItWrites(DiskStorage):
    def __init__(self, disk: Disk, readonly: bool = False) -> None:
        super().__init__(disk, readonly)
        self.was_asked = threading.Event()
        self.has_shown = False

    def load(self, oid: bytes) -> bytes:
        try:
            return super().load(oid)
        finally:
            self.was_asked.set()

    def write(self, pending: dict[bytes, bytes]) -> None:
        hidden = {oid: self.view.pop(oid) for oid in pending if oid in self.view}
        if hidden and not self.has_shown:
            self.has_shown = True
            self.was_asked.clear()
            self.was_asked.wait(60)  # for the load that finds nothing
        super().write(pending)


@breaks("test_closing_a_session_leaves_the_others")
class ClosesAllSessions(DiskStorage):
    def close(self) -> None:
        for session in list(self.disk.sessions):
            DiskStorage.close(session)


# -- the tests -------------------------------------------------------------------------------------


def run_clause(name: str, cls: type[Storage]) -> None:
    """Run one clause on a new storage of a class."""
    place = Place(partial(cls, Disk()) if issubclass(cls, DiskStorage) else cls)
    clause = getattr(StorageTests(), name)
    assert all(getattr(cls, ability) for ability in needs_of(clause)), "the clause does not bind it"
    try:
        clause(place)
    finally:
        with suppress(Exception):
            place.close()


@pytest.mark.parametrize(
    ("cls", "name"),
    [(cls, name) for cls, names in CAUGHT_BY.items() for name in names],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_wrong_storage_is_caught(cls: type[Storage], name: str) -> None:
    """A clause fails on a storage that breaks it, and holds on the right one behind that."""
    right = DiskStorage if issubclass(cls, DiskStorage) else MemoryStorage
    run_clause(name, right)
    with pytest.raises((Exception, pytest.fail.Exception)):
        run_clause(name, cls)


def test_each_clause_catches_one() -> None:
    """No clause of the contract is without a storage in the zoo that it catches."""
    caught = {name for names in CAUGHT_BY.values() for name in names}
    assert caught == set(clauses(StorageTests))
