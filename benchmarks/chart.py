"""A chart of how many times better ours are than the best peer, and what is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.summary import Results
from benchmarks.workloads import FIGURES

__all__ = ["draw"]

ROW_INCHES = 0.28
REACHED, MISSED = "#3b7d4f", "#b5533c"


def draw(stored: dict[str, Any], path: Path) -> None:
    """Draw it; the name of the file says in which format."""
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "durus"  # the same results, the same bytes
    results = Results(stored)
    rows = [
        (verdict, *advantage)
        for workload in stored["workloads"]
        for verdict in results.verdicts(workload)
        if (advantage := verdict.advantage) is not None
    ]
    rows.reverse()  # the first on top
    figure, axes = plt.subplots(figsize=(9, 0.8 + ROW_INCHES * max(len(rows), 1)))
    places = range(len(rows))
    axes.barh(
        places,
        [ratio - 1 for _, ratio, _ in rows],
        left=1,
        color=[REACHED if verdict.reached else MISSED for verdict, _, _ in rows],
        height=0.7,
    )
    for place, (_, _, wanted) in zip(places, rows, strict=True):
        axes.plot([wanted, wanted], [place - 0.45, place + 0.45], color="black", linewidth=2)
    labels = [
        f"{verdict.workload}, {FIGURES[verdict.figure].title}: "
        f"{results.title(verdict.workload, verdict.peer)}"
        for verdict, _, _ in rows
    ]
    axes.set_yticks(places, labels, fontsize=7)
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_xscale("log")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_xlabel("times as good as the one compared with; the black line is wanted")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
