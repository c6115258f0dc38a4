"""Whole databases: opened, and packed."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

from benchmarks.peers.adapter import Peer
from benchmarks.peers.settings import Outcome, Settings, Task, client_of

__all__ = ["TASKS"]


def _memory_bytes(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines[name].split()[0]) * 1024


def opening(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Open the database and load the directory, in a process that has imported what it needs."""

    def run() -> Outcome:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # the peak is counted from here on
        before, began = _memory_bytes("VmRSS"), time.perf_counter()
        groups = client_of(peer, settings).directory().members
        taken_s = time.perf_counter() - began
        peak = _memory_bytes("VmHWM") - before
        figures = {"open_ms": taken_s * 1e3, "peak_mb": peak / 1e6}
        return Outcome(1, len(groups), figures=figures)

    return run


def pack(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Pack it step by step, as a server does between its clients' requests."""
    client = client_of(peer, settings)

    def run() -> Outcome:
        clock = time.perf_counter
        ends = [clock()]
        ends.extend(clock() for _ in client.pack_steps())
        ends.append(clock())  # of the step after the last word
        steps_s = [end - began for began, end in pairwise(ends)]
        # Without steps there is but one before that, and whoever packs so does it in a thread.
        figures = {"longest_step_ms": max(steps_s) * 1e3} if len(steps_s) > 2 else {}
        return Outcome(settings.items, 0, figures=figures)

    return run


def _half_left(settings: Settings) -> tuple[int, int]:
    kept = [
        number
        for group in range(0, settings.groups, 2)
        for number in range(group * settings.members, (group + 1) * settings.members)
    ]
    return len(kept), sum(kept)


TASKS = {
    "opening": Task(opening, lambda settings: (1, settings.groups)),
    "pack": Task(pack, lambda settings: (settings.items, 0), "count_all", _half_left),
}
