"""`durus check`: everything in a database that can be checked without its classes."""

from __future__ import annotations

from typing import Any

import click

from durus.cli._errors import EXIT_FAILURE
from durus.cli._output import bytes_text, count_text, one_line, print_json
from durus.cli._progress import progress
from durus.cli._target import database_argument, open_target, server_options, target_of
from durus.tools.check import CheckReport, Problem, check

__all__ = ["check_command"]


@click.command("check", short_help="Check everything in a database; exit 1 if anything is wrong.")
@database_argument(required=False)
@click.option("--imports", is_flag=True, help="Import every class that is named: this runs code.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@server_options
def check_command(database: str | None, imports: bool, as_json: bool, **place: Any) -> None:
    """Check DATABASE: a file, a URL such as sqlite:app.db, or a running server.

    Every transaction and the index, as far as the storage can tell; every record and what it refers
    to; the order and the counts of B-trees. Nothing is changed. Each thing that is wrong is a line
    that names the object by its path from the root, and the exit status is 1.
    """
    target = target_of(database, **place)
    with open_target(target, readonly=True) as storage:
        total = storage.describe().object_count
        with progress(f"checking {target.name}", total) as show:
            report = check(storage, imports=imports, show=show)
    if as_json:
        print_json("check", _as_json(target.name, report))
    else:
        for problem in report.problems:
            print(one_line(_line(problem)))
        print(_summary(target.name, report))
    if report.problems:
        raise click.exceptions.Exit(EXIT_FAILURE)


def _as_json(name: str, report: CheckReport) -> dict[str, Any]:
    return {
        "database": name,
        "objects": report.objects,
        "record_bytes": report.record_bytes,
        "unproven": report.unproven,
        "btrees": report.trees,
        "btrees_not_comparable": report.not_comparable,
        "storage_checked": report.storage_checked,
        "problems": [
            {
                "kind": problem.kind,
                "text": problem.text,
                "oid": None if problem.oid is None else int.from_bytes(problem.oid, "big"),
                "offset": problem.offset,
                "class": problem.class_name,
                "path": problem.path,
            }
            for problem in report.problems
        ],
    }


def _line(problem: Problem) -> str:
    places = []
    if problem.oid is not None:
        number = int.from_bytes(problem.oid, "big")
        class_name = f", {problem.class_name}" if problem.class_name else ""
        places.append(f"{problem.path or 'not reached from the root'} (oid {number}{class_name})")
    if problem.offset is not None:
        places.append(f"offset {problem.offset}")
    places.append(problem.text)
    return f"{problem.kind}: {': '.join(places)}"


def _summary(name: str, report: CheckReport) -> str:
    parts = [
        f"{count_text(report.objects, 'object')} in {bytes_text(report.record_bytes)} of records",
        count_text(report.trees, "B-tree"),
    ]
    if report.not_comparable:
        parts.append(f"{report.not_comparable:,} of them with keys that were not compared")
    if report.unproven:
        parts.append(f"{count_text(report.unproven, 'record')} without a proof")
    if not report.storage_checked:
        parts.append("nothing that only the storage could tell")
    count = len(report.problems)
    found = f"{count_text(count, 'thing')} wrong" if count else "nothing wrong"
    return f"{one_line(name)}: {found}; checked {', '.join(parts)}"
