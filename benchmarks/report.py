"""From measurements to a table: medians, spread, and ratios to the others.

python -m benchmarks.report benchmarks/results/FILE.json [--markdown]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import PEERS

__all__ = ["machine", "markdown", "percentile", "show", "store", "summarize"]

HEADER = [
    "", "per second", "spread", "of best peer", "CPU us client + server",
    "syncs/op", "p50 ms", "p99 ms",
]  # fmt: skip


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Give the value that so many percent of the ordered values do not exceed (nearest rank)."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank), 1) - 1]


def machine() -> dict[str, Any]:
    """Describe where this runs."""
    processor = platform.processor() or "unknown"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
        processor = models[0] if models else processor
    except OSError:
        pass  # not Linux: what platform knows will do
    return {
        "processor": processor,
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


@dataclass(frozen=True)
class Row:
    """One peer in one workload: medians over the rounds.

    Attributes:
        rate: operations a second.
        low: the slowest round's rate.
        high: the fastest round's.
        ratio: the rate by that of the best of the peers that are not ours, or None without any.
        verdict: for ours, the target and whether it is reached.
    """

    title: str
    rate: float
    low: float
    high: float
    ratio: float | None
    client_cpu_us: float
    server_cpu_us: float | None
    syncs: float | None
    p50_ms: float | None
    p99_ms: float | None
    verdict: str


def _median(measurements: list[dict[str, Any]], name: str) -> float | None:
    values = [m[name] for m in measurements if m[name] is not None]
    return statistics.median(values) if values else None


def summarize(results: dict[str, Any]) -> dict[str, list[Row]]:
    """Give the rows of each workload, the order of the peers being that of `PEERS`."""
    return {
        name: _rows(workload, [m for m in results["measurements"] if m["workload"] == name])
        for name, workload in results["workloads"].items()
    }


def _rows(workload: dict[str, Any], measurements: list[dict[str, Any]]) -> list[Row]:
    by_peer = {
        peer: [m for m in measurements if m["peer"] == peer]
        for peer in PEERS
        if any(m["peer"] == peer for m in measurements)
    }
    medians = {
        peer: {
            name: _median(found, name)
            for name in ("rate", "client_cpu_us", "server_cpu_us", "p50_ms", "p99_ms")
        }
        for peer, found in by_peer.items()
    }
    others = [peer for peer in by_peer if not PEERS[peer].is_ours]
    best = max((medians[other]["rate"] or 0.0 for other in others), default=0.0)
    rows = []
    for peer, found in by_peer.items():
        values = medians[peer]
        rates = [m["rate"] for m in found]
        syncs = [m["syncs"] / m["operations"] for m in found if m["syncs"] is not None]
        rate = statistics.median(rates)
        rows.append(
            Row(
                title=PEERS[peer].title_in(serves=workload["serves"]),
                rate=rate,
                low=min(rates),
                high=max(rates),
                ratio=rate / best if best else None,
                client_cpu_us=values["client_cpu_us"] or 0.0,
                server_cpu_us=values["server_cpu_us"],
                syncs=statistics.median(syncs) if syncs else None,
                p50_ms=values["p50_ms"],
                p99_ms=values["p99_ms"],
                verdict=_verdict(workload, medians, others, peer),
            )
        )
    return rows


def _verdict(
    workload: dict[str, Any],
    medians: dict[str, dict[str, float | None]],
    others: list[str],
    peer: str,
) -> str:
    """Say how ours stands against its target, or nothing of the others."""
    target = workload["target"]
    named = target["versus"]
    if not PEERS[peer].is_ours or not others or (named and named not in medians):
        return ""
    against = named or max(others, key=lambda other: medians[other]["rate"] or 0.0)
    ratio = (medians[peer]["rate"] or 0.0) / (medians[against]["rate"] or 1.0)
    parts = [_part(ratio, target["ratio"], ratio >= target["ratio"], "at least")]
    if target["p99_ratio"] is not None:
        p99_ratio = (medians[peer]["p99_ms"] or 0.0) / (medians[against]["p99_ms"] or 1.0)
        limit = target["p99_ratio"]
        parts.append("p99 " + _part(p99_ratio, limit, p99_ratio <= limit, "at most"))
    return f"{'; '.join(parts)} of {PEERS[against].title_in(serves=workload['serves'])}"


def _part(ratio: float, limit: float, reached: bool, bound: str) -> str:
    return f"{ratio:.2f}x ({bound} {limit:g}: {'reached' if reached else 'MISSED'})"


def _number(value: float | None, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form)


def _cells(row: Row) -> list[str]:
    server = "" if row.server_cpu_us is None else f" + {row.server_cpu_us:,.1f}"
    return [
        row.title,
        _number(row.rate),
        f"{_number(row.low)} - {_number(row.high)}",
        _number(row.ratio, ".2f"),
        f"{row.client_cpu_us:,.1f}{server}",
        _number(row.syncs, ".2f"),
        _number(row.p50_ms, ".2f"),
        _number(row.p99_ms, ".2f"),
    ]


def store(results: dict[str, Any], path: Path) -> None:
    """Write the results, one measurement a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    measurements = ",\n".join(f"  {json.dumps(each)}" for each in results["measurements"])
    rest = json.dumps({**results, "measurements": []}, indent=1)
    path.write_text(
        rest.replace('"measurements": []', f'"measurements": [\n{measurements}\n ]') + "\n"
    )


def _titles(results: dict[str, Any]) -> dict[str, str]:
    return {name: workload["title"] for name, workload in results["workloads"].items()}


def _about(results: dict[str, Any]) -> list[str]:
    where = results["machine"]
    raw = sorted(results["raw_syncs_per_s"])
    versions = ", ".join(
        f"{name} {number}"
        for found in results["versions"].values()
        for name, number in found.items()
    )
    return [
        f"{results['when']}, {results['rounds']} rounds in {results['took_s']} s"
        + (", a quick run: sizes too small to mean anything" if results["quick"] else ""),
        (
            f"{where['processor']}, {where['cores']} cores, {where['system']},"
            f" Python {where['python']}, load {where['load_average']:.1f} at the end"
        ),
        f"raw fdatasync: {percentile(raw, 50):,.0f} per second ({raw[0]:,.0f} - {raw[-1]:,.0f})",
        versions,
    ]


def show(results: dict[str, Any]) -> None:
    """Print the table."""
    from rich.console import Console  # noqa: PLC0415 - the rest works without
    from rich.table import Table  # noqa: PLC0415

    console = Console(width=None if os.isatty(1) else 150)
    for line in _about(results):
        console.print(line, highlight=False)
    titles = _titles(results)
    for name, rows in summarize(results).items():
        table = Table(title=f"{name}: {titles[name]}", title_justify="left")
        for index, header in enumerate(HEADER):
            table.add_column(header, justify="left" if index == 0 else "right", no_wrap=True)
        for row in rows:
            table.add_row(*_cells(row))
        console.print(table)
        for row in rows:
            if row.verdict:
                console.print(f"  {row.title}: {row.verdict}", highlight=False)


def markdown(results: dict[str, Any]) -> str:
    """Give the table as a page of the documents has it."""
    lines = [f"- {line}" for line in _about(results)]
    titles = _titles(results)
    for name, rows in summarize(results).items():
        lines += ["", f"**{titles[name]}** (`{name}`)", ""]
        lines += ["| " + " | ".join(HEADER) + " |", "|---|" + "---:|" * (len(HEADER) - 1)]
        lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
        lines += ["", *(f"{row.title}: {row.verdict}." for row in rows if row.verdict)]
    return "\n".join(lines)


def main() -> None:
    """Show stored results again."""
    parser = argparse.ArgumentParser(prog="benchmarks.report", description=main.__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--markdown", action="store_true", help="as the documents have it")
    given = parser.parse_args()
    results = json.loads(given.results.read_text(encoding="utf-8"))
    if given.markdown:
        print(markdown(results))
    else:
        show(results)


if __name__ == "__main__":
    main()
