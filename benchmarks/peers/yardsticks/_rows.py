"""The loops of what stores bytes by number: the same pickles, without objects around them."""

from __future__ import annotations

import pickle
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.peers.adapter import GroupFields, ItemFields, Peer
from benchmarks.peers.data import make_directory
from benchmarks.peers.settings import Outcome, Prepare, Settings

__all__ = ["PlainGroup", "PlainItem", "RowPeer", "Rows"]


class PlainItem(ItemFields):
    """An Item that nothing looks after."""


class PlainGroup(GroupFields):
    """A Group that nothing looks after."""


class Rows(ABC):
    """Where the bytes go."""

    @abstractmethod
    def put(self, number: int, content: bytes) -> None:
        """Store `content`, with the next commit at the latest."""

    @abstractmethod
    def get(self, number: int) -> bytes:
        """Give what is stored."""

    @abstractmethod
    def commit(self) -> None:
        """Commit what has been put since the last time."""


class RowPeer(Peer):
    """A yardstick that stores bytes."""

    item = PlainItem
    group = PlainGroup

    def rows(self, folder: str, *, synced: bool) -> Rows:
        """Open the storage in `folder`, which is made if there is none."""
        raise NotImplementedError

    def own_tasks(self) -> Mapping[str, Prepare]:
        return {
            "commits": self._commits,
            "new_objects": self._new_objects,
            "walk": lambda _, settings: self._loads(settings, range(settings.items)),
            "loads": lambda _, settings: self._loads(settings, _chosen(settings)),
        }

    def _states(self, settings: Settings) -> list[dict[str, Any]]:
        groups = make_directory(self, settings)
        return [vars(item) for group in groups for item in group.members]

    def _commits(self, _: Peer, settings: Settings) -> Callable[[], Outcome]:
        rows = self.rows(settings.folder, synced=settings.synced)
        state = vars(PlainItem(settings.index))

        def run() -> Outcome:
            clock, latencies_s = time.perf_counter, []
            for _ in range(settings.operations):
                began = clock()
                state["counter"] += 1
                rows.put(settings.index, pickle.dumps(state, 2))
                rows.commit()
                latencies_s.append(clock() - began)
            return Outcome(settings.operations, state["counter"], latencies_s)

        return run

    def _new_objects(self, _: Peer, settings: Settings) -> Callable[[], Outcome]:
        rows = self.rows(settings.folder, synced=settings.synced)
        states = self._states(settings)

        def run() -> Outcome:
            for number, state in enumerate(states):
                rows.put(number, pickle.dumps(state, 2))
            rows.commit()
            return Outcome(settings.items, 0)

        return run

    def _loads(self, settings: Settings, wanted: Iterable[int]) -> Callable[[], Outcome]:
        rows = self.rows(settings.folder, synced=False)
        for number, state in enumerate(self._states(settings)):
            rows.put(number, pickle.dumps(state, 2))
        rows.commit()

        def run() -> Outcome:
            count = checksum = 0
            for number in wanted:
                checksum += pickle.loads(rows.get(number))["n"]
                count += 1
            return Outcome(count, checksum)

        return run


def _chosen(settings: Settings) -> list[int]:
    return random.Random(settings.index + 1).sample(range(settings.items), settings.operations)
