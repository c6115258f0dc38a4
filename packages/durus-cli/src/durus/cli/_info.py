"""`durus info`: what a file holds, read from its records alone.

Nothing that the database names is imported or run: a class is a name here, found in the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from durus.cli._access import Access
from durus.cli._at import Moment, as_of_text, at_option, past
from durus.cli._output import (
    bytes_text,
    count_text,
    one_line,
    print_json,
    stdout_console,
    time_json,
    time_text,
)
from durus.cli._target import Target, database_argument, open_target
from durus.serialize import ROOT_OID, extract_class_path
from durus.storage import Storage, StorageDescription

__all__ = ["info"]


@click.command(short_help="Tell what a file holds, without importing or running any of it.")
@database_argument(required=True)
@at_option
@click.option("--garbage", is_flag=True, help="Count what the root does not reach: a long walk.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
def info(database: str, at: Moment | None, garbage: bool, as_json: bool) -> None:
    """Tell the format, the size, the objects and the classes of DATABASE.

    It is opened read-only, so a program may be writing to it meanwhile. Its classes are counted by
    name: nothing that DATABASE names is imported or run.
    """
    target = Target(database, access=Access(wait=0))
    with open_target(target, readonly=True, **past(at)) as storage:
        report = _report(target, storage, walks_from_root=garbage)
    if as_json:
        print_json("info", _as_json(report))
    else:
        _print_tables(stdout_console(), report)


@dataclass(slots=True)
class _Count:
    """Some objects, and the bytes of their records."""

    objects: int = 0
    length_bytes: int = 0

    def add(self, record: bytes) -> None:
        self.objects += 1
        self.length_bytes += len(record)


@dataclass(slots=True)
class _Report:
    """What is told of a database.

    Attributes:
        name: the path or URL as it was given.
        storage: the class that opened it.
        description: what the storage tells of itself.
        stored: the newest record of each object.
        classes: the same by class name.
        reachable: those that the root reaches, or None if nobody asked.
    """

    name: str
    storage: str
    description: StorageDescription
    stored: _Count = field(default_factory=_Count)
    classes: dict[str, _Count] = field(default_factory=dict)
    reachable: _Count | None = None

    def largest_first(self) -> list[tuple[str, _Count]]:
        return sorted(self.classes.items(), key=lambda item: (-item[1].length_bytes, item[0]))

    def garbage(self) -> _Count | None:
        if self.reachable is None:
            return None
        return _Count(
            self.stored.objects - self.reachable.objects,
            self.stored.length_bytes - self.reachable.length_bytes,
        )


def _report(target: Target, storage: Storage, *, walks_from_root: bool) -> _Report:
    report = _Report(target.name, type(storage).__name__, storage.describe())
    has_root = False
    for oid, record in storage.gen_oid_record():
        has_root = has_root or oid == ROOT_OID
        report.stored.add(record)
        report.classes.setdefault(extract_class_path(record), _Count()).add(record)
    if walks_from_root:
        report.reachable = _Count()
        if has_root:
            for _, record in storage.gen_oid_record(ROOT_OID):
                report.reachable.add(record)
    return report


def _share(garbage: _Count, report: _Report) -> float:
    return garbage.length_bytes / report.stored.length_bytes if report.stored.length_bytes else 0.0


def _as_json(report: _Report) -> dict[str, Any]:
    description, garbage = report.description, report.garbage()
    return {
        "database": report.name,
        "path": description.path,
        "storage": report.storage,
        "format": description.format,
        "size_bytes": description.size_bytes,
        "transactions_since_pack": description.transaction_count,
        "last_commit_time": time_json(description.last_commit_time),
        "as_of": description.as_of,
        "objects": report.stored.objects,
        "record_bytes": report.stored.length_bytes,
        "classes": [
            {"name": name, "objects": count.objects, "bytes": count.length_bytes}
            for name, count in report.largest_first()
        ],
        "garbage": None
        if garbage is None
        else {
            "objects": garbage.objects,
            "bytes": garbage.length_bytes,
            "share": round(_share(garbage, report), 6),
        },
    }


def _print_tables(console: Console, report: _Report) -> None:
    facts = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(report):
        facts.add_row(name, Text(value))
    console.print(facts)
    if report.classes:
        console.print()
        console.print(_class_table(report))


def _facts(report: _Report) -> list[tuple[str, str]]:
    description = report.description
    size, time = description.size_bytes, description.last_commit_time
    count = description.transaction_count
    objects = f"{report.stored.objects:,} ({bytes_text(report.stored.length_bytes)} of records)"
    as_of = [] if description.as_of is None else [("As of", as_of_text(description))]
    return [
        ("Database", one_line(description.path or report.name)),
        *as_of,
        ("Format", f"{description.format or 'not told'} ({report.storage})"),
        ("Size", "not told" if size is None else bytes_text(size)),
        ("Objects", objects),
        ("Transactions", "not told" if count is None else f"{count:,} since the last pack"),
        ("Last commit", "not stored" if time is None else time_text(time)),
        ("Garbage", _garbage_text(report)),
    ]


def _garbage_text(report: _Report) -> str:
    garbage = report.garbage()
    if garbage is None:
        return "not counted; --garbage walks all that the root reaches"
    if not garbage.objects:
        return "none: the root reaches every object"
    return (
        f"{_share(garbage, report):.1%}: {count_text(garbage.objects, 'object')} in"
        f" {bytes_text(garbage.length_bytes)} of records"
    )


def _class_table(report: _Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("Class", overflow="fold")
    table.add_column("Objects", justify="right", no_wrap=True)
    table.add_column("Bytes", justify="right", no_wrap=True)
    for name, count in report.largest_first():
        table.add_row(Text(one_line(name)), f"{count.objects:,}", f"{count.length_bytes:,}")
    return table
