"""Transactions with a known outcome, and the check of what is found after a crash."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

from durus.error import DurusKeyError
from durus.serialize import ROOT_OID, pack_record, seal, unpack_record
from durus.storage import Storage
from durus.testing.crash import DiskState
from durus.utils import int8_to_str

Records = dict[bytes, bytes]
NAME = "app.durus"

_CLASS = b"\x80\x04cdurus.persistent\nPersistent\n."


def make_record(oid_int: int, text: str | bytes, refs: tuple[int, ...] = ()) -> bytes:
    """Give a record that a Connection would have written for a Persistent with one attribute."""
    oid = int8_to_str(oid_int)
    joined = b"".join(int8_to_str(ref) for ref in sorted(set(refs) - {oid_int}))
    body = _CLASS + pickle.dumps({"text": text}, 4)
    return pack_record(oid, seal(oid, body, joined), joined)


def text_of(record: bytes) -> str | bytes:
    """Give the attribute of a record that `make_record` made."""
    data = unpack_record(record)[1]
    text: str | bytes = pickle.loads(data[len(_CLASS) :])["text"]
    return text


@dataclass
class History:
    """Every state that the storage has been in or was asked for: `states[0]` is the empty one.

    The root's text says which it is, so that a storage need not be compared with all of them.

    Attributes:
        base: the state that the storage is in, on which the next transaction builds.
        stored: every record that was ever handed to the storage.
    """

    states: list[Records] = field(default_factory=lambda: [{}])
    stored: set[bytes] = field(default_factory=set)
    base: int = 0

    def commit(self, storage: Storage, refs: tuple[int, ...], *records: bytes) -> int:
        """Commit the root, with references to `refs`, and other records; give the state's number.

        If the storage raises, the state is known as one that may be found later, and the next
        commit builds on the one before.
        """
        number = len(self.states)
        root = make_record(0, f"state {number}", refs)
        transaction = {record[:8]: record for record in (root, *records)}
        self.states.append({**self.states[self.base], **transaction})
        self.stored.update(transaction.values())
        storage.begin()
        for oid, record in transaction.items():
            storage.store(oid, record)
        storage.end()
        self.base = number
        return number

    def fork(self, number: int) -> History:
        """Give a history that goes on from state `number`."""
        return History(list(self.states), set(self.stored), number)

    def number_of(self, storage: Storage) -> int:
        """Give the number of the state in which the storage is.

        Raises:
            AssertionError: it is in none of them.
        """
        everything = dict(storage.gen_oid_record())
        strange = [oid for oid, record in everything.items() if record not in self.stored]
        assert not strange, f"records that nobody stored: {strange}"
        try:
            root = storage.load(ROOT_OID)
        except DurusKeyError:
            assert not everything, f"no root, but {sorted(everything)}"
            return 0
        number = int(str(text_of(root)).split()[1])
        expected = reachable(self.states[number])
        found = {oid: storage.load(oid) for oid in expected}
        assert found == expected, f"not the state after transaction {number}"
        missing = expected.keys() - everything.keys()
        assert not missing, f"a walk over all records leaves out {sorted(missing)}"
        for oid in expected:
            assert everything[oid] == expected[oid], f"a walk gives an old record of {oid!r}"
        return number


def reachable(records: Records) -> Records:
    """Give what the root reaches."""
    found: Records = {}
    waiting = [ROOT_OID] if records else []
    while waiting:
        oid = waiting.pop()
        if oid in found or oid not in records:
            continue
        found[oid] = records[oid]
        refs = unpack_record(records[oid])[2]
        waiting.extend(refs[start : start + 8] for start in range(0, len(refs), 8))
    return found


class StateChecker:
    """Opens each state that a power cut may leave, and works on with it.

    Args:
        open_storage: opens a path with default options.
        history: what was committed while the recorder watched.
        scratch: a directory to put the states in.
        settle: does what a test wants done to each state before it is opened.
        works_on: commit, pack and reopen what was found.
    """

    def __init__(
        self,
        open_storage: Callable[[Path], Storage],
        history: History,
        scratch: Path,
        settle: Callable[[Path, DiskState], None] = lambda _path, _state: None,
        *,
        works_on: bool = True,
    ) -> None:
        self.open_storage = open_storage
        self.history = history
        self.scratch = scratch
        self.path = scratch / NAME
        self.count = 0
        self._settle = settle
        self._works_on = works_on
        self._continued: set[bytes] = set()

    def check_all(self, states: Iterator[DiskState]) -> None:
        """Check every state, and that there was more than a handful."""
        for state in states:
            self.check(state)
        assert self.count > 10

    def check(self, state: DiskState) -> None:
        """Open what a cut left: exactly some k transactions are there; then work goes on."""
        self.count += 1
        state.write_to(self.scratch)
        try:
            with quiet():
                self._settle(self.path, state)
            with quiet(), self.open_storage(self.path) as storage:
                number = self.history.number_of(storage)
                assert number >= state.acknowledged, (
                    f"found {number} transactions, {state.acknowledged} were acknowledged"
                )
                if self._works_on:
                    self._continue(storage, number)
        except Exception as error:
            error.add_note(state.note)
            raise

    def _continue(self, storage: Storage, number: int) -> None:
        """Commit, pack and reopen, unless that was done from the same content on disk before."""
        digest = digest_of(self.scratch)
        if digest in self._continued:
            return
        self._continued.add(digest)
        history = self.history.fork(number)
        work_on(storage, history)
        storage.close()
        for _ in range(2):
            with self.open_storage(self.path) as again:
                assert history.number_of(again) == history.base
                work_on(again, history)


def work_on(storage: Storage, history: History) -> None:
    """Commit, pack and commit again; what is found is right after each step."""
    oids = (storage.new_oid(), storage.new_oid())
    new_oid_int = int.from_bytes(oids[oids[0] == ROOT_OID], "big")
    known = reachable(history.states[history.base])
    assert int8_to_str(new_oid_int) not in known
    refs = (*(int.from_bytes(oid, "big") for oid in known), new_oid_int)
    history.commit(storage, refs, make_record(new_oid_int, "new" * 9))
    assert history.number_of(storage) == history.base
    if storage.can_pack:
        storage.pack()
    assert history.number_of(storage) == history.base
    history.commit(storage, refs, make_record(new_oid_int, "newer" * 3))
    assert history.number_of(storage) == history.base


def digest_of(directory: Path) -> bytes:
    """Tell directories apart by what storages read: all but the tails that were set aside."""
    hashed = blake2b(digest_size=16)
    for path in sorted(directory.iterdir()):
        if ".torn-" not in path.name:
            content = path.read_bytes()
            hashed.update(f"{path.name}\0{len(content)}\0".encode())
            hashed.update(content)
    return hashed.digest()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep thousands of expected warnings from the log that pytest collects."""
    logger = logging.getLogger("durus")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def copy_files(source: Path, target: Path) -> None:
    """Make `target` a fresh copy of the directory `source`."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
