"""Python alone: plain objects, a dict, and pickles that nobody stores."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping

from benchmarks.peers.adapter import Peer
from benchmarks.peers.settings import Outcome, Prepare, Settings
from benchmarks.peers.tasks.objects import anonymous_bytes, time_attributes, time_mapping
from benchmarks.peers.yardsticks._rows import PlainItem, RowPeer, Rows

__all__ = ["PEER"]


class _Pickles(Rows):
    def __init__(self) -> None:
        self._contents: dict[int, bytes] = {}

    def put(self, number: int, content: bytes) -> None:
        self._contents[number] = content

    def get(self, number: int) -> bytes:
        return self._contents[number]

    def commit(self) -> None:
        pass


def _attributes(_: Peer, settings: Settings) -> Callable[[], Outcome]:
    items = [PlainItem(n) for n in range(settings.items)]

    def reset() -> None:
        for item in items:
            item.counter = 0

    def run() -> Outcome:
        figures = time_attributes(items, reset)
        return Outcome(len(items), sum(item.n + item.counter for item in items), figures=figures)

    return run


def _mapping(_: Peer, settings: Settings) -> Callable[[], Outcome]:
    made = {f"key {number:04d}": 1 for number in range(settings.keys)}

    def run() -> Outcome:
        figures = time_mapping(made, list(made))
        return Outcome(len(made), sum(made.values()), figures=figures)

    return run


def _sizes(_: Peer, settings: Settings) -> Callable[[], Outcome]:
    def run() -> Outcome:
        before = anonymous_bytes()
        items = [PlainItem(n) for n in range(settings.items)]
        loaded = anonymous_bytes() - before
        figures = {"loaded_bytes": loaded / settings.items}
        return Outcome(len(items), sum(item.n for item in items), figures=figures)

    return run


class _Plain(RowPeer):
    def versions(self) -> dict[str, str]:
        return {"Python": platform.python_version()}

    def rows(self, folder: str, *, synced: bool) -> Rows:
        return _Pickles()

    def own_tasks(self) -> Mapping[str, Prepare]:
        mine = {"attributes": _attributes, "mapping": _mapping, "sizes": _sizes}
        return {**super().own_tasks(), **mine}


PEER = _Plain()
