"""The builders of records, and the machine, of durus.testing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from durus.connection import Connection
from durus.error import CorruptRecordError
from durus.persistent import Persistent
from durus.serialize import ROOT_OID, check_proof, extract_class_path, split_oids, unpack_record
from durus.storage import MemoryStorage, Storage, check_record
from durus.testing import StorageMachine, commit, make_record, malformed_records
from durus.utils import int8_to_str


def test_record_is_well_formed_and_proves_itself() -> None:
    """`make_record` gives what a Connection would: sealed, with sorted references."""
    oid, *others = (int8_to_str(n) for n in (7, 9, 8))
    record = make_record(oid, [*others, oid, *others], b"payload")
    check_record(oid, record)
    assert check_proof(record)
    assert split_oids(unpack_record(record)[2]) == sorted(others)
    assert extract_class_path(record) == "durus.persistent.Persistent"


def test_record_is_the_same_for_the_same_arguments() -> None:
    """Tests may compare records byte for byte."""
    oid = int8_to_str(5)
    assert make_record(oid, [ROOT_OID], b"x") == make_record(oid, iter([ROOT_OID]), b"x")
    assert make_record(oid, payload=b"x") != make_record(oid, payload=b"y")


def test_record_is_loaded_by_a_connection() -> None:
    """The records are real: a Connection loads the object, and what it refers to."""
    storage = MemoryStorage()
    leaf = int8_to_str(1)
    commit(storage, make_record(ROOT_OID, [leaf]), make_record(leaf, payload=b"leaf"))
    root = Connection(storage).get_root()
    assert isinstance(root, Persistent)
    assert [ref.payload for ref in vars(root)["refs"]] == [b"leaf"]


@pytest.mark.parametrize("flaw", malformed_records(ROOT_OID))
def test_malformed_record_is_refused(flaw: str) -> None:
    """Each malformed record is refused by `check_record`, for the flaw alone."""
    oid = int8_to_str(3)
    with pytest.raises(CorruptRecordError):
        check_record(oid, malformed_records(oid)[flaw])


class _LosesGarbageReferences(MemoryStorage):
    """Forgets a record that is overwritten in a transaction of two."""

    def store(self, oid: bytes, record: bytes) -> None:
        if len(self._pending or ()) < 3:
            super().store(oid, record)


class _PacksTooMuch(MemoryStorage):
    """Removes every second record that is reachable through two steps."""

    def pack(self) -> None:
        super().pack()
        records = self._open_records()
        for oid in sorted(records)[2::2]:
            del records[oid]


class _ForgetsToForget(MemoryStorage):
    """Commits what an abandoned transaction stored."""

    def begin(self) -> None:
        pending = self._pending
        super().begin()
        self._pending = pending or {}


@pytest.mark.parametrize("make", [_LosesGarbageReferences, _PacksTooMuch, _ForgetsToForget])
def test_machine_finds_a_wrong_storage(make: Callable[[], Storage]) -> None:
    """The machine fails on storages that lose, or keep, what they should not."""

    class Machine(StorageMachine):
        def open_storage(self) -> Storage:
            return make()

    few = settings(max_examples=200, stateful_step_count=20, phases=[Phase.generate])
    with pytest.raises((AssertionError, LookupError, ExceptionGroup)):
        run_state_machine_as_test(Machine, settings=few)


def test_machine_must_say_how_to_open() -> None:
    """A subclass without `open_storage` is told to define it."""
    with pytest.raises(NotImplementedError, match="must define open_storage"):
        StorageMachine()
