"""Results as a table, as Markdown, as JSON and as a chart.

python -m benchmarks.report benchmarks/results/FILE.json [--markdown] [--chart FILE.svg]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.summary import Results, Spread, Verdict, percentile
from benchmarks.workloads import FIGURES

__all__ = ["machine", "markdown", "show", "store"]


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
class Table:
    """Rows of cells under headers; the first `left` columns are words, the others numbers."""

    title: str
    headers: list[str]
    rows: list[list[str]]
    left: int = 1


def _value(figure: str, value: float | None) -> str:
    if value is None:
        return "-"
    if FIGURES[figure].more_is_better and value >= 1e6:
        return f"{value / 1e6:.2f} M"
    return format(value, FIGURES[figure].form)


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def _spread(figure: str, spread: Spread) -> str:
    return f"{_value(figure, spread.low)} - {_value(figure, spread.high)}"


def _named(results: Results, workload: str, figure: str, peer: str | None) -> str:
    if peer is None:
        return "-"
    return (
        f"{results.title(workload, peer)} {_value(figure, results.median(workload, peer, figure))}"
    )


def _wanted(verdict: Verdict) -> str:
    if verdict.absolute:
        return f"{verdict.bound} {verdict.limit:g} itself"
    return f"{verdict.bound} {verdict.limit:g}"


def _targets(results: Results) -> Table:
    rows = [
        [
            each.workload,
            FIGURES[each.figure].title,
            _named(results, each.workload, each.figure, each.peer),
            _named(results, each.workload, each.figure, each.versus),
            _number(each.ratio),
            _wanted(each),
            "reached" if each.reached else "MISSED",
            _named(results, each.workload, each.figure, each.yardstick),
        ]
        for workload in results.stored["workloads"]
        for each in results.verdicts(workload)
        if each.reached is not None  # a run of ours alone has little to compare with
    ]
    headers = ["work", "figure", "ours", "beside", "ratio", "wanted", "", "best yardstick"]
    return Table("Targets", headers, rows, left=4)


def _comparisons(results: Results) -> Table:
    rows = [
        [
            each.workload,
            FIGURES[each.figure].title,
            results.title(each.workload, each.peer),
            _value(each.figure, each.now),
            _value(each.figure, each.then),
            _number(each.ratio.median),
            f"{each.ratio.low:.2f} - {each.ratio.high:.2f}",
            "more" if FIGURES[each.figure].more_is_better else "less",
        ]
        for workload in results.stored["workloads"]
        for each in results.comparisons(workload)
    ]
    headers = ["work", "figure", "", "now", "then", "ratio", "of each round", "better is"]
    return Table(f"Beside {results.stored['against']}", headers, rows, left=3)


def _details(results: Results, workload: str) -> Table:
    described = results.stored["workloads"][workload]
    rows = []
    for figure in described["figures"]:
        best = results.best(workload, figure)
        for peer in results.peers(workload):
            spread = results.spread(workload, peer, figure)
            if spread is None:
                continue
            ratios = results.ratios(workload, figure, peer, best) if best else None
            rows.append(
                [
                    FIGURES[figure].title,
                    results.title(workload, peer),
                    _value(figure, spread.median),
                    _spread(figure, spread),
                    _number(ratios.median if ratios else None),
                    *_costs(results, workload, peer, figure),
                ]
            )
    headers = [
        "figure", "", "median", "spread", "of best peer", "CPU us client + server", "syncs/op"
    ]  # fmt: skip
    return Table(f"{described['title']} ({workload})", headers, rows, left=2)


def _costs(results: Results, workload: str, peer: str, figure: str) -> list[str]:
    if figure != "rate":
        return ["", ""]  # they are for an operation, which other figures do not count
    server = results.median(workload, peer, "server_cpu_us")
    client = _number(results.median(workload, peer, "client_cpu_us"), ",.1f")
    both = client if server is None else f"{client} + {server:,.1f}"
    return [both, _number(results.syncs(workload, peer))]


def _tables(results: Results) -> Iterator[Table]:
    tables = [_targets(results), _comparisons(results)]
    tables += [_details(results, workload) for workload in results.stored["workloads"]]
    return (table for table in tables if table.rows)


def store(stored: dict[str, Any], path: Path) -> None:
    """Write the results, one measurement a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    measurements = ",\n".join(f"  {json.dumps(each)}" for each in stored["measurements"])
    rest = json.dumps({**stored, "measurements": []}, indent=1)
    path.write_text(
        rest.replace('"measurements": []', f'"measurements": [\n{measurements}\n ]') + "\n"
    )


def _about(stored: dict[str, Any]) -> list[str]:
    where = stored["machine"]
    raw = sorted(stored["raw_syncs_per_s"])
    versions = {
        name: number for found in stored["versions"].values() for name, number in found.items()
    }
    return [
        f"{stored['when']}, {stored['rounds']} rounds in {stored['took_s']} s"
        + (", a quick run: sizes too small to mean anything" if stored["quick"] else ""),
        (
            f"{where['processor']}, {where['cores']} cores, {where['system']},"
            f" Python {where['python']}, load {where['load_average']:.1f} at the end"
        ),
        f"raw fdatasync: {percentile(raw, 50):,.0f} per second ({raw[0]:,.0f} - {raw[-1]:,.0f})",
        ", ".join(f"{name} {number}" for name, number in sorted(versions.items())),
    ]


def show(stored: dict[str, Any]) -> None:
    """Print the tables."""
    from rich.console import Console  # noqa: PLC0415 - the rest works without
    from rich.table import Table as RichTable  # noqa: PLC0415

    console = Console(width=None if os.isatty(1) else 170)
    for line in _about(stored):
        console.print(line, highlight=False)
    for each in _tables(Results(stored)):
        table = RichTable(title=each.title, title_justify="left")
        for index, header in enumerate(each.headers):
            is_left = index < each.left
            table.add_column(header, justify="left" if is_left else "right", no_wrap=True)
        for row in each.rows:
            table.add_row(*row)
        console.print(table)


def markdown(stored: dict[str, Any]) -> str:
    """Give the tables as a page of the documents has them."""
    lines = [f"- {line}" for line in _about(stored)]
    for table in _tables(Results(stored)):
        lines += ["", f"**{table.title}**", "", f"| {' | '.join(table.headers)} |"]
        lines += ["|" + "---|" * table.left + "---:|" * (len(table.headers) - table.left)]
        lines += [f"| {' | '.join(row)} |" for row in table.rows]
    return "\n".join(lines)


def main() -> None:
    """Show stored results again."""
    parser = argparse.ArgumentParser(prog="benchmarks.report", description=main.__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--markdown", action="store_true", help="as the documents have it")
    parser.add_argument("--chart", type=Path, help="draw the ratios there; needs matplotlib")
    given = parser.parse_args()
    stored = json.loads(given.results.read_text(encoding="utf-8"))
    if given.chart:
        from benchmarks.chart import draw  # noqa: PLC0415 - matplotlib is there for this alone

        draw(stored, given.chart)
    elif given.markdown:
        print(markdown(stored))
    else:
        show(stored)


if __name__ == "__main__":
    main()
