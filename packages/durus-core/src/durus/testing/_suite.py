"""What the clauses of the storage contract stand on: the place under test, gaps, abilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, TypeVar

import pytest

from durus.error import DurusKeyError
from durus.serialize import ROOT_OID
from durus.storage import Storage
from durus.testing._report import ClauseReport, excuse
from durus.testing.records import commit, make_record

_Clause = TypeVar("_Clause", bound=Callable[..., None])

_PREFIX = "test_"
_NEEDS = "_durus_needs"


class Place:
    """Where the data of one test lives, and every storage that the test opened there.

    Attributes:
        storage: the storage that was opened last; the first use opens it.
    """

    def __init__(self, open_storage: Callable[..., Storage]) -> None:
        self._open_storage = open_storage
        self._opened: list[Storage] = []
        self._storage: Storage | None = None

    @property
    def storage(self) -> Storage:
        if self._storage is None:
            self._storage = self.open()
        return self._storage

    def open(self, **options: object) -> Storage:
        """Open the data once more. The caller has closed what excludes another opening."""
        storage = self._open_storage(**options)
        self._opened.append(storage)
        return storage

    def reopen(self) -> Storage:
        """Close everything and open the data again, as the next process would."""
        self.close()
        return self.storage

    def again(self) -> Storage:
        """Give the data as another opening sees it, so that nothing is checked through its writer.

        That is a reopened storage; where nothing outlives the storage, a new session; where there
        is neither, the storage itself.
        """
        if self.storage.is_persistent:
            return self.reopen()
        return self.session() if self.storage.can_share else self.storage

    def session(self) -> Storage:
        """Give a new session of the storage."""
        session = self.storage.new_session()
        self._opened.append(session)
        return session

    def close(self) -> None:
        """Close every storage and session that was opened here, the last one first."""
        self._storage = None
        while self._opened:
            self._opened.pop().close()


class Suite:
    """The fixtures of `StorageTests` and the rules for its gaps. Clauses are added by subclasses.

    Attributes:
        gaps: the clauses that the storage is known to break: test name to reason.
    """

    gaps: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, reason in cls.gaps.items():
            if name not in clauses(cls):
                raise TypeError(f"{cls.__name__}.gaps names {name!r}, which is no clause")
            if not reason:
                raise TypeError(f"{cls.__name__}.gaps gives no reason for {name!r}")

    @pytest.fixture
    def open_storage(self) -> Callable[..., Storage]:
        """Give a callable that opens the same data at each call; for a back-end to write.

        Keywords go to the storage's class: a class that declares `can_open_readonly` gets
        `readonly=True`, and one that declares `can_open_at` gets `at=`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define the fixture `open_storage`")

    @pytest.fixture
    def place(
        self, request: pytest.FixtureRequest, open_storage: Callable[..., Storage]
    ) -> Iterator[Place]:
        """Give the place under test, unless the clause is a gap or about an absent ability."""
        name = request.function.__name__
        if name in self.gaps:
            excuse(request.node, f"gap: {self.gaps[name]}")
        place = Place(open_storage)
        try:
            for ability in needs_of(request.function):
                if not getattr(place.storage, ability):
                    excuse(request.node, f"{ability} is false")
            yield place
        finally:
            place.close()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Have the clauses counted; this hook is called however they are marked."""
        ClauseReport(_clause_of).register(metafunc.config)


def clauses(suite: type[Suite]) -> list[str]:
    """List the clauses of `StorageTests` or a subclass by name; a subclass's own tests are none."""
    ours = [cls for cls in reversed(suite.__mro__) if cls.__module__.startswith("durus.testing.")]
    return list(dict.fromkeys(n for cls in ours for n in vars(cls) if n.startswith(_PREFIX)))


def _clause_of(item: pytest.Item) -> tuple[type, str] | None:
    """Give the suite and the name of a clause, or None for any other test."""
    if not isinstance(item, pytest.Function) or not isinstance(item.cls, type):
        return None
    suite, name = item.cls, item.function.__name__
    return (suite, name) if issubclass(suite, Suite) and name in clauses(suite) else None


def needs(*abilities: str) -> Callable[[_Clause], _Clause]:
    """Mark a clause as one that only binds a storage which declares all these abilities."""

    def mark(clause: _Clause) -> _Clause:
        setattr(clause, _NEEDS, abilities)
        return clause

    return mark


def needs_of(clause: Callable[..., object]) -> tuple[str, ...]:
    """Give the abilities that a clause was marked with."""
    abilities: tuple[str, ...] = getattr(clause, _NEEDS, ())
    return abilities


def fresh_oids(storage: Storage, count: int) -> list[bytes]:
    """Ask the storage for oids, the root's left out."""
    oids: list[bytes] = []
    while len(oids) < count:
        oid = storage.new_oid()
        if oid != ROOT_OID:
            oids.append(oid)
    return oids


def commit_graph(storage: Storage, references: Mapping[int, list[int]]) -> dict[int, bytes]:
    """Commit objects that refer to each other.

    Args:
        storage: where.
        references: node to the nodes that it refers to. Node 0 is the root, others get new oids.

    Returns:
        The record of each node; it starts with its oid.
    """
    others = [node for node in references if node]
    oids = dict(zip(others, fresh_oids(storage, len(others)), strict=True)) | {0: ROOT_OID}
    records = {
        node: make_record(oids[node], [oids[other] for other in refs], b"node %d" % node)
        for node, refs in references.items()
    }
    commit(storage, *records.values())
    return records


def is_stored(storage: Storage, record: bytes) -> bool:
    """Tell whether a record is stored; under its oid may stand it or nothing."""
    try:
        found = storage.load(record[:8])
    except DurusKeyError:
        return False
    assert found == record
    return True
