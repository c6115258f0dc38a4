"""`durus rename`: a class or module gets another name in every record that names it."""

from __future__ import annotations

from typing import Any

import click

from durus.cli._access import access_options
from durus.cli._errors import CommandError
from durus.cli._output import count_text, one_line, print_json
from durus.cli._progress import progress
from durus.cli._target import Target, database_argument, open_target, target_of
from durus.error import ConflictError
from durus.storage import Storage
from durus.tools.rename import Kind, Report, apply, plan

__all__ = ["rename"]


@click.command(short_help="Rename a class or module in every record that names it.")
@database_argument(required=True)
@click.argument("old")
@click.argument("new")
@click.option("--class", "is_class", is_flag=True, help="OLD is a class.")
@click.option("--module", "is_module", is_flag=True, help="OLD is a module or package.")
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@access_options
def rename(
    database: str,
    old: str,
    new: str,
    is_class: bool,
    is_module: bool,
    dry_run: bool,
    as_json: bool,
    **access: Any,
) -> None:
    """Rename the class or module OLD to NEW in DATABASE: a file, a URL, or a running server.

    OLD and NEW are classes such as shop.models.Order, or modules or packages such as shop.models,
    with all that is in them. It is one transaction: all is renamed or nothing. No class is
    imported, and none has to exist.
    """
    if is_class and is_module:
        raise click.UsageError("OLD is a class or a module: give --class or --module, not both")
    kind: Kind | None = "class" if is_class else "module" if is_module else None
    target = target_of(database, None, None, None, None, None, **access)
    try:
        report = _rename(target, old, new, kind, dry_run=dry_run)
    except ConflictError as error:
        raise CommandError(
            f"somebody else committed to {target.name} while {old} was being renamed; nothing is"
            " changed: stop the programs that write to it, or try again"
        ) from error
    if as_json:
        print_json("rename", _as_json(report, target.name, dry_run=dry_run))
    else:
        _print(report, dry_run=dry_run)


def _rename(target: Target, old: str, new: str, kind: Kind | None, *, dry_run: bool) -> Report:
    with _open(target, readonly=dry_run) as storage:
        storage.sync()
        total = storage.describe().object_count
        with progress(f"reading {target.name}", total) as show:
            report = plan(storage, old, new, kind, show)
        if not dry_run:
            with progress(f"renaming in {target.name}", report.records) as show:
                apply(storage, report, show)
    return report


def _open(target: Target, *, readonly: bool) -> Storage:
    if readonly and not target.asks_a_server():
        return open_target(target, readonly=True)
    return open_target(target)


def _as_json(report: Report, name: str, *, dry_run: bool) -> dict[str, Any]:
    return {
        "database": name,
        "old": report.renaming.old,
        "new": report.renaming.new,
        "kind": report.renaming.kind,
        "dry_run": dry_run,
        "objects": report.objects,
        "changed": report.records,
        "names": [
            {"old": old, "new": new, "count": count}
            for (old, new), count in sorted(report.names.items())
        ],
    }


def _print(report: Report, *, dry_run: bool) -> None:
    for (old, new), count in sorted(report.names.items()):
        print(f"{one_line(old)} -> {one_line(new)}: {count_text(count, 'time')}")
    print(
        f"{'would change' if dry_run else 'changed'} {count_text(report.names.total(), 'name')}"
        f" in {count_text(report.records, 'record')} of {report.objects:,}"
    )
