"""What makes a workload: its figures, its sizes, its peers and its targets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["FIGURES", "Figure", "Target", "Workload", "at_least", "at_most"]


@dataclass(frozen=True)
class Figure:
    """Something measured.

    Attributes:
        title: for people, with the unit.
        form: how it is written, for `format`.
        more_is_better: whether it is a rate, and not a time or a size.
    """

    title: str
    form: str = ",.0f"
    more_is_better: bool = False


FIGURES = {
    "rate": Figure("per second", more_is_better=True),
    "p50_ms": Figure("p50 ms", ",.2f"),
    "p99_ms": Figure("p99 ms", ",.2f"),
    "read_ns": Figure("read ns", ",.1f"),
    "write_ns": Figure("write again ns", ",.1f"),
    "first_write_ns": Figure("first write ns", ",.0f"),
    "get_ns": Figure("get ns", ",.1f"),
    "set_ns": Figure("set ns", ",.1f"),
    "items_ns": Figure("items ns", ",.1f"),
    "insert_rate": Figure("inserts/s", more_is_better=True),
    "lookup_rate": Figure("lookups/s", more_is_better=True),
    "iterate_rate": Figure("iterated/s", more_is_better=True),
    "range_rate": Figure("in ranges/s", more_is_better=True),
    "open_ms": Figure("open ms", ",.1f"),
    "peak_mb": Figure("peak MB", ",.1f"),
    "longest_step_ms": Figure("longest step ms", ",.1f"),
    "ghost_bytes": Figure("ghost bytes"),
    "loaded_bytes": Figure("loaded bytes"),
    "file_bytes": Figure("file bytes"),
    "few_us": Figure("few: CPU us/commit", ",.1f"),
    "many_us": Figure("many: CPU us/commit", ",.1f"),
    "upkeep": Figure("many / few", ",.2f"),
}

OURS = ("durus5", "durus5-uvloop")


@dataclass(frozen=True)
class Target:
    """What ours is to reach in one figure.

    Attributes:
        figure: the name of it.
        bound: whether the limit is the least or the most that will do.
        limit: times the figure of the peer compared with, or the figure itself.
        versus: with which peers, of which the best counts; all that are peers if there is none
            here. A yardstick counts only where it is named.
        absolute: whether the limit is the figure itself.
        ours: who is to reach it.
    """

    figure: str
    bound: Literal["at least", "at most"]
    limit: float
    versus: tuple[str, ...] = ()
    absolute: bool = False
    ours: tuple[str, ...] = OURS


def at_least(limit: float, figure: str = "rate", **more: Any) -> Target:
    """Give the target of a rate: so many times that of the other."""
    return Target(figure, "at least", limit, **more)


def at_most(limit: float, figure: str, **more: Any) -> Target:
    """Give the target of a time or a size: so many times that of the other."""
    return Target(figure, "at most", limit, **more)


@dataclass(frozen=True)
class Workload:
    """One measurement.

    Attributes:
        name: for the command line and the stored results.
        title: for people.
        task: the loop, in `benchmarks.peers.tasks`.
        peers: who can do it.
        targets: what ours is to reach.
        full: the settings of the task, as `Settings` has them, in a run that is believed.
        quick: those that differ in a quick run.
        figures: what it measures.
        data: what it begins with, by the name of a builder in `benchmarks.peers.data`.
        clients: how many processes do it at once.
        serves: whether there is a server, in a process of its own.
        keeps_data: whether it changes nothing, so that all runs may share files too large to copy.
    """

    name: str
    title: str
    task: str
    peers: tuple[str, ...]
    targets: tuple[Target, ...]
    full: dict[str, Any]
    quick: dict[str, Any]
    figures: tuple[str, ...] = ("rate",)
    data: str = "directory"
    clients: int = 1
    serves: bool = False
    keeps_data: bool = False

    def settings(self, *, quick: bool) -> dict[str, Any]:
        """Give the settings of a full or of a quick run."""
        return self.full | self.quick if quick else self.full

    def described(self, *, quick: bool) -> dict[str, Any]:
        """Give what is stored with the results of a run, so that they stand alone."""
        described = asdict(self) | {"settings": self.settings(quick=quick)}
        del described["full"], described["quick"]
        return described
