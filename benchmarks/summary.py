"""From measurements to figures: medians, spread, ratios, and how ours stand against the targets.

A ratio is the median of the ratios of each round: what slows the machine for a while slows both
sides of most of them. Only what is a peer can be the best peer; a yardstick is a limit beside them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.workloads import FIGURES

__all__ = ["Comparison", "Results", "Spread", "Verdict", "percentile"]


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Give the value that so many percent of the ordered values do not exceed (nearest rank)."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


@dataclass(frozen=True)
class Spread:
    """What came of all the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Give that of these values, of which there is at least one."""
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[0], ordered[-1])


@dataclass(frozen=True)
class Verdict:
    """How one of ours stands against one target.

    Attributes:
        workload: its name.
        figure: its name.
        peer: which of ours.
        value: its median.
        versus: the peer compared with, or None if none took part.
        versus_value: that one's median.
        ratio: ours by that of the peer compared with.
        bound: "at least" or "at most".
        limit: of the ratio, or of the value if `absolute`.
        reached: whether it is, or None if there is nothing to compare with.
        yardstick: the best of the yardsticks beside them, if any.
        yardstick_value: that one's median.
    """

    workload: str
    figure: str
    peer: str
    value: float
    versus: str | None
    versus_value: float | None
    ratio: float | None
    bound: str
    limit: float
    absolute: bool
    reached: bool | None
    yardstick: str | None
    yardstick_value: float | None

    @property
    def advantage(self) -> tuple[float, float] | None:
        """How many times better than the other it is and should be: of times, the inverse."""
        if self.absolute or not self.ratio:
            return None
        if FIGURES[self.figure].more_is_better:
            return self.ratio, self.limit
        return 1 / self.ratio, 1 / self.limit


@dataclass(frozen=True)
class Comparison:
    """One of ours beside itself at another revision: `ratio` is now by then."""

    workload: str
    figure: str
    peer: str
    now: float
    then: float
    ratio: Spread


class Results:
    """The results of a run in the form that is stored, to be asked."""

    def __init__(self, stored: dict[str, Any]) -> None:
        self.stored = stored
        self._found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for measurement in stored["measurements"]:
            key = measurement["workload"], measurement["peer"]
            self._found.setdefault(key, []).append(measurement)

    def peers(self, workload: str) -> list[str]:
        """Give those that were measured."""
        return [peer for peer in self.stored["peers"] if (workload, peer) in self._found]

    def kind(self, peer: str) -> str:
        """Say whether a peer is ours, a peer, a yardstick or another revision."""
        kind: str = self.stored["peers"][peer]["kind"]
        return kind

    def title(self, workload: str, peer: str) -> str:
        """Give a peer's title in a workload."""
        info = self.stored["peers"][peer]
        alone = info["alone"] and not self.stored["workloads"][workload]["serves"]
        title: str = info["alone"] if alone else info["title"]
        return title

    def by_round(self, workload: str, peer: str, figure: str) -> dict[int, float]:
        """Give what was measured in each round, where it was."""
        found = self._found.get((workload, peer), [])
        return {m["round"]: m[figure] for m in found if m.get(figure) is not None}

    def spread(self, workload: str, peer: str, figure: str) -> Spread | None:
        """Give the median and the extremes over the rounds, or None if it was not measured."""
        values = self.by_round(workload, peer, figure)
        return Spread.of(values.values()) if values else None

    def median(self, workload: str, peer: str, figure: str) -> float | None:
        """Give the median over the rounds, or None if it was not measured."""
        spread = self.spread(workload, peer, figure)
        return spread.median if spread else None

    def syncs(self, workload: str, peer: str) -> float | None:
        """Give how many times it synced for an operation, or None if that was not counted."""
        found = self._found.get((workload, peer), [])
        counts = [m["syncs"] / m["operations"] for m in found if m["syncs"] is not None]
        return statistics.median(counts) if counts else None

    def best(
        self, workload: str, figure: str, *, among: Sequence[str] = (), kind: str = "peer"
    ) -> str | None:
        """Give who did best, of those of a kind or, if there are names, of those named."""
        medians = {
            peer: median
            for peer in self.peers(workload)
            if (peer in among if among else self.kind(peer) == kind)
            and (median := self.median(workload, peer, figure)) is not None
        }
        choose = max if FIGURES[figure].more_is_better else min
        return choose(medians, key=medians.__getitem__) if medians else None

    def ratios(self, workload: str, figure: str, peer: str, other: str) -> Spread | None:
        """Give the ratios of two peers in the rounds in which both were measured."""
        mine = self.by_round(workload, peer, figure)
        theirs = self.by_round(workload, other, figure)
        ratios = [
            mine[number] / theirs[number]
            for number in mine.keys() & theirs.keys()
            if theirs[number]
        ]
        return Spread.of(ratios) if ratios else None

    def verdicts(self, workload: str) -> list[Verdict]:
        """Give how ours stand against each target of a workload."""
        return [
            self._verdict(workload, target, peer)
            for target in self.stored["workloads"][workload]["targets"]
            for peer in target["ours"]
            if self.median(workload, peer, target["figure"]) is not None
        ]

    def _verdict(self, workload: str, target: dict[str, Any], peer: str) -> Verdict:
        figure, limit = target["figure"], target["limit"]
        value = self.median(workload, peer, figure)
        assert value is not None
        versus = self.best(workload, figure, among=target["versus"])
        ratios = self.ratios(workload, figure, peer, versus) if versus else None
        judged = value if target["absolute"] else ratios and ratios.median
        reached = None
        if judged is not None:
            reached = judged >= limit if target["bound"] == "at least" else judged <= limit
        yardstick = self.best(workload, figure, kind="yardstick")
        return Verdict(
            workload=workload,
            figure=figure,
            peer=peer,
            value=value,
            versus=versus,
            versus_value=self.median(workload, versus, figure) if versus else None,
            ratio=ratios.median if ratios else None,
            bound=target["bound"],
            limit=limit,
            absolute=target["absolute"],
            reached=reached,
            yardstick=yardstick,
            yardstick_value=self.median(workload, yardstick, figure) if yardstick else None,
        )

    def comparisons(self, workload: str) -> list[Comparison]:
        """Give ours beside themselves at another revision, figure by figure."""
        found = []
        for figure in self.stored["workloads"][workload]["figures"]:
            for peer in self.peers(workload):
                if self.kind(peer) != "revision":
                    continue
                mine = peer.partition("@")[0]
                ratio = self.ratios(workload, figure, mine, peer)
                now = self.median(workload, mine, figure)
                then = self.median(workload, peer, figure)
                if ratio is not None and now is not None and then is not None:
                    found.append(Comparison(workload, figure, mine, now, then, ratio))
        return found
