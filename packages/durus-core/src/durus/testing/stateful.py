"""A storage against a dictionary: random moves, with reopen and pack among them.

A back-end subclasses `StorageMachine`, says how to open its data, and collects `TestCase`::

    class MyMachine(StorageMachine):
        def open_storage(self):
            return MyStorage(self.directory / "data")

    TestMyMachine = MyMachine.TestCase

A failing run prints the moves that led there; write them down as a plain test.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from durus.error import DurusKeyError
from durus.serialize import ROOT_OID, split_oids, unpack_record
from durus.storage import Storage
from durus.testing.records import commit, make_record

__all__ = ["StorageMachine"]

_PICKS = st.lists(st.integers(0, 2**16), max_size=4)
_PAYLOADS = st.binary(max_size=40) | st.integers(0, 20_000).map(bytes)


# Named functions, not lambdas: older releases of hypothesis look for a lambda's source, slowly, at
# every step.
def _is_persistent(machine: StorageMachine) -> bool:
    return machine.storage.is_persistent


def _may_pack(machine: StorageMachine) -> bool:
    return machine.storage.can_pack and machine._packer is None


def _is_packing(machine: StorageMachine) -> bool:
    return machine._packer is not None


def _keeps_history(machine: StorageMachine) -> bool:
    return machine.storage.keeps_history


class _State(NamedTuple):
    """What was stored after a commit.

    Attributes:
        reached: what the root reached.
        stored: that, and the garbage that may have been there.
    """

    reached: dict[bytes, bytes]
    stored: dict[bytes, bytes]


class StorageMachine(RuleBasedStateMachine):
    """Moves on a storage, and the same moves on a dictionary of records by oid.

    Attributes:
        directory: an empty directory of this run, removed after it.
        storage: what is under test.
        model: what must be stored: every record that was committed and not packed away.
        doubtful: what may be stored or not: garbage that a pack met together with commits, or that
            a dropped packer left. No later record refers to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(mkdtemp(prefix="durus-stateful-"))
        self.model: dict[bytes, bytes] = {}
        self.doubtful: dict[bytes, bytes] = {}
        self.given: set[bytes] = set()
        self._past: dict[int, _State] = {}
        self.storage = self.open_storage()
        self._packer: Iterator[object] | None = None

    def open_storage(self) -> Storage:
        """Open the data of this run: the same data at each call."""
        raise NotImplementedError(f"{type(self).__name__} must define open_storage()")

    @initialize()
    def commit_the_root(self) -> None:
        """Begin as a Connection does."""
        self._commit([(ROOT_OID, [], b"")])

    @rule(picks=_PICKS, payload=_PAYLOADS)
    def commit_the_root_again(self, picks: list[int], payload: bytes) -> None:
        """Let the root refer to others, so that what it referred to becomes garbage."""
        self._commit([(ROOT_OID, self._pick(picks), payload)])

    @rule(count=st.integers(1, 5), picks=_PICKS, payload=_PAYLOADS, keep=st.booleans())
    def commit_new_objects(self, count: int, picks: list[int], payload: bytes, keep: bool) -> None:
        """Add a chain of new objects; the root reaches it, or it is garbage from the start."""
        oids = [self._new_oid() for _ in range(count)]
        chain = zip(oids, [[oid] for oid in oids[1:]] + [self._pick(picks)], strict=True)
        stores = [(oid, refs, payload) for oid, refs in chain]
        if keep:
            stores.append((ROOT_OID, [oids[0], *self._refs_of(ROOT_OID)], b"more"))
        self._commit(stores)

    @rule(picks=_PICKS, chosen=_PICKS, payload=_PAYLOADS)
    def commit_changes(self, picks: list[int], chosen: list[int], payload: bytes) -> None:
        """Replace records that are there."""
        refs = self._pick(picks)
        self._commit([(oid, refs, payload) for oid in dict.fromkeys(self._pick(chosen))])

    @rule(chosen=_PICKS, payload=_PAYLOADS)
    def give_up(self, chosen: list[int], payload: bytes) -> None:
        """Store without `end`; the next `begin` forgets it."""
        self.storage.begin()
        for oid in [self._new_oid(), *self._pick(chosen)]:
            self.storage.store(oid, make_record(oid, payload=payload))

    @rule()
    def sync(self) -> None:
        """Ask for news: only a pack makes any here."""
        reported = self.storage.sync()
        assert isinstance(reported, list)
        assert len(set(reported)) == len(reported)

    @precondition(_is_persistent)
    @rule()
    def reopen(self) -> None:
        """Close and open. What was given and not stored may be given again."""
        self._drop_packer()
        self.storage.close()
        self.storage = self.open_storage()
        self.given = set(self.model) | set(self.doubtful)

    @precondition(_may_pack)
    @rule()
    def pack(self) -> None:
        """Remove what the root does not reach, at once."""
        self.storage.pack()
        reachable = self._reachable()
        for oid in [oid for oid in self.model if oid not in reachable] + list(self.doubtful):
            assert self._find(oid) is None, f"pack kept the garbage {oid.hex()}"
            self.model.pop(oid, None)
        self.doubtful.clear()

    @precondition(_keeps_history)
    @rule(pick=st.integers(0, 2**16))
    def read_the_past(self, pick: int) -> None:
        """Read all as of one of the commits that are left; a pack may have removed garbage."""
        left = [serial for serial, _ in self.storage.gen_commits()]
        assert max(self._past) in left
        known = [serial for serial in left if serial in self._past]
        serial = known[pick % len(known)]
        state = self._past[serial]
        for oid in sorted({oid for each in self._past.values() for oid in each.stored}):
            found = self._find_as_of(oid, serial)
            assert found == state.stored.get(oid) or (found is None and oid not in state.reached)

    @precondition(_may_pack)
    @rule()
    def begin_to_pack(self) -> None:
        """Take a packer, to be driven between the next moves."""
        self._packer = iter(self.storage.get_packer())

    @precondition(_is_packing)
    @rule(steps=st.integers(1, 30))
    def pack_some_steps(self, steps: int) -> None:
        """Let the packer take some steps."""
        assert self._packer is not None
        self._doubt_garbage()
        # Also when it has ended: how many steps that takes is a matter of time, and which moves are
        # possible must not be.
        for _ in range(steps):
            next(self._packer, None)

    @precondition(_is_packing)
    @rule()
    def drop_the_packer(self) -> None:
        """Give up packing."""
        self._drop_packer()

    @invariant()
    def every_record_is_there(self) -> None:
        """What is committed is loaded, byte for byte, and nothing else turns up."""
        assert list(self.storage.bulk_load(self.model)) == list(self.model.values())
        for oid, record in self.doubtful.items():
            assert self._find(oid) in (None, record)
        walked = dict(self.storage.gen_oid_record())
        reachable = self._reachable()
        assert reachable.items() <= walked.items()
        assert walked.items() <= (self.doubtful | self.model).items()

    def teardown(self) -> None:
        """Close the storage and remove its directory."""
        self._drop_packer()
        self.storage.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _commit(self, stores: list[tuple[bytes, list[bytes], bytes]]) -> None:
        records = [make_record(oid, refs, payload) for oid, refs, payload in stores]
        commit(self.storage, *records)
        for record in records:
            self.model[record[:8]] = record
        if records and self.storage.keeps_history:
            *_, (serial, _) = self.storage.gen_commits()
            assert serial not in self._past
            self._past[serial] = _State(self._reachable(), self.doubtful | self.model)
        if self._packer is not None:
            self._doubt_garbage()

    def _pick(self, picks: list[int]) -> list[bytes]:
        # While a pack goes on, only what is reachable: the rest may be gone at its end.
        known = sorted(self._reachable() if self._packer is not None else self.model)
        return [known[pick % len(known)] for pick in picks]

    def _new_oid(self) -> bytes:
        oid = self.storage.new_oid()
        assert len(oid) == 8
        assert oid not in self.given
        assert oid not in self.model
        self.given.add(oid)
        return oid

    def _reachable(self) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        waiting = [ROOT_OID]
        while waiting:
            oid = waiting.pop()
            if oid not in found:
                found[oid] = self.model[oid]
                waiting += self._refs_of(oid)
        return found

    def _refs_of(self, oid: bytes) -> list[bytes]:
        return split_oids(unpack_record(self.model[oid])[2])

    def _find(self, oid: bytes) -> bytes | None:
        try:
            return self.storage.load(oid)
        except DurusKeyError:
            return None

    def _find_as_of(self, oid: bytes, serial: int) -> bytes | None:
        try:
            return self.storage.load_as_of(oid, serial)
        except DurusKeyError:
            return None

    def _doubt_garbage(self) -> None:
        reachable = self._reachable()
        for oid in [oid for oid in self.model if oid not in reachable]:
            self.doubtful[oid] = self.model.pop(oid)

    def _drop_packer(self) -> None:
        if self._packer is not None:
            self._packer = None
            self._doubt_garbage()
