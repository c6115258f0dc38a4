"""A wrong storage is caught: the workload meets what the checker knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from durus.database import Database
from durus.error import DurusKeyError, ReadConflictError
from durus.sessions import Session, SharedStorage
from durus.storage import MemoryStorage

from .checker import check, read_histories
from .workload import CACHE_SIZE, Size, prepare, read_all, work


class Right(Session):
    """As it should be, and the base of those that are not."""

    def __init__(self, shared: SharedStorage | None = None) -> None:
        self.shared = shared or SharedStorage(MemoryStorage())
        super().__init__(self.shared)
        self.count = 0

    def new_session(self) -> Session:
        session = type(self)(self.shared)
        self.shared._add_session(session)
        return session

    def close(self) -> None:
        if self in self.shared._sessions:
            super().close()


class Careless(Right):
    """Commits on what others have changed since it was read."""

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        super().end(None)


class Sleepy(Right):
    """Does not always move to the newest state when it is asked to."""

    def sync(self) -> list[bytes] | None:
        self.count += 1
        return [] if self.count % 3 else super().sync()


class Forgetful(Right):
    """Acknowledges commits that it does not keep."""

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        self.count += 1
        if self.count % 10:
            super().end(handle_invalidations)


class Unsteady(Right):
    """Has no snapshot: a load gives whatever is the newest."""

    def load(self, oid: bytes) -> bytes:
        return self.shared.storage.load(oid)


class Fussy(Right):
    """Gives readers a conflict where there is none."""

    def load(self, oid: bytes) -> bytes:
        self.count += 1
        if self.count % 50 == 0:
            raise ReadConflictError([oid])
        return super().load(oid)


EXPECTED = {
    Right: set(),
    Careless: {"write skew (G2)", "lost update", "wrong state"},
    Sleepy: {"stale read (real time)"},
    Forgetful: {"lost commit", "lost object", "wrong state"},
    Unsteady: {"read skew (G-single)"},
    Fussy: {"conflict of a reader"},
}


# Which threads meet is chance: what a wrong storage does is shown by one of so many histories.
_MOST_HISTORIES = 20


@pytest.mark.parametrize("wrong", EXPECTED)
def test_the_workload_shows_what_is_wrong(wrong: type[Right], folder: Path) -> None:
    """For each way to be wrong a history has an anomaly that it makes; else it has none."""
    found: set[str] = set()
    for seed in range(_MOST_HISTORIES if EXPECTED[wrong] else 1):
        found |= _anomalies(wrong, folder / str(seed), seed)
        if found & EXPECTED[wrong]:
            return
    assert found == EXPECTED[wrong]


def _anomalies(wrong: type[Right], folder: Path, seed: int) -> set[str]:
    folder.mkdir()
    with Database(wrong(), CACHE_SIZE) as database:
        size = Size(1, 8, 100)
        prepare(database, size)
        try:
            work(database, folder, 0, f"zoo {seed}", lambda: None)
            histories = [*read_histories(folder), read_all(database)]
        except DurusKeyError:
            # What was stored refers to what was not.
            return {"lost object"}
        return {anomaly.kind for anomaly in check(histories)}
