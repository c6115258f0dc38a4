"""`durus show`: one object, read without its class."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console
from rich.text import Text

from durus.cli._access import Access, access_options
from durus.cli._at import Moment, as_of_text, at_option, past
from durus.cli._output import (
    bytes_text,
    count_text,
    one_line,
    print_json,
    stdout_console,
    time_json,
)
from durus.cli._root import find_object
from durus.cli._target import Target, database_argument, open_target
from durus.storage import Storage, StorageDescription
from durus.tools.show import ShownObject, class_of, gen_lines, json_value, read_object

__all__ = ["show"]


_REFERENCES_SHOWN = 20

_PROOFS = {
    "right": "right",
    "none": "none: Durus 4.3 wrote it",
    "wrong": "WRONG: the record is damaged",
}


@click.command(short_help="Show an object readably, without importing its class.")
@database_argument(required=True)
@click.argument("which", metavar="[OID|PATH]", default="root")
@at_option
@click.option("--full", is_flag=True, help="Leave nothing out: long values, many, or deep ones.")
@click.option(
    "--trust",
    multiple=True,
    metavar="NAME",
    help="Import this class, or the classes of this module or package; may be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@access_options
def show(
    database: str,
    which: str,
    at: Moment | None,
    full: bool,
    trust: tuple[str, ...],
    as_json: bool,
    **access: Any,
) -> None:
    """Show an object of DATABASE: its class, its size, what it refers to, and its state.

    The object is named by its oid (17 or 0x11), or by the path that a program takes to it, such as
    'root["users"]["kim"].address'. Without, it is the root. DATABASE is opened read-only, and
    nothing that it names is imported or run, unless --trust says so.
    """
    target = Target(database, access=Access(**access))
    with open_target(target, readonly=True, **past(at)) as storage:
        shown = read_object(storage, find_object(storage, which, database), trust)
        if as_json:
            print_json("show", _as_json(database, storage.describe(), shown))
        else:
            _print(stdout_console(), storage, shown, full=full)
    if shown.damage is not None:
        raise shown.damage


def _as_json(database: str, description: StorageDescription, shown: ShownObject) -> dict[str, Any]:
    return {
        "database": database,
        "as_of": description.as_of,
        "last_commit_time": time_json(description.last_commit_time),
        "oid": int.from_bytes(shown.oid, "big"),
        "class": shown.class_name,
        "record_bytes": shown.record_bytes,
        "compressed": shown.is_compressed,
        "proof": shown.proof,
        "references": [
            {"step": step, "oid": int.from_bytes(oid, "big")} for step, oid in shown.references
        ],
        "state": json_value(shown.state),
        "damage": None if shown.damage is None else str(shown.damage),
    }


def _print(console: Console, storage: Storage, shown: ShownObject, *, full: bool) -> None:
    number = int.from_bytes(shown.oid, "big")
    description = storage.describe()
    facts = [
        *([] if description.as_of is None else [("As of", as_of_text(description))]),
        ("Oid", f"{number} (0x{number:x})"),
        ("Class", one_line(shown.class_name)),
        ("Record", bytes_text(shown.record_bytes) + ", compressed" * shown.is_compressed),
        ("Proof", _PROOFS[shown.proof]),
        ("Refers to", count_text(len({oid for _, oid in shown.references}), "object")),
    ]
    for name, value in facts:
        _print_line(console, f"{name:<9}", value, separator="  ")
    if shown.references:
        console.print()
        _print_references(console, storage, shown.references, full=full)
    if shown.damage is None:
        console.print()
        for label, value in gen_lines(shown.state, full=full):
            _print_line(console, label, value)


def _print_references(
    console: Console, storage: Storage, references: list[tuple[str, bytes]], *, full: bool
) -> None:
    shown = references if full else references[:_REFERENCES_SHOWN]
    for step, oid in shown:
        number = int.from_bytes(oid, "big")
        class_name = class_of(storage, oid)
        told = "which is NOT STORED" if class_name is None else one_line(class_name)
        _print_line(console, step or "its nodes", f"{number}  {told}", separator="  ")
    if len(shown) < len(references):
        _print_line(console, "...", f"{len(references) - len(shown):,} more", separator="  ")


def _print_line(console: Console, label: str, value: str, separator: str = ": ") -> None:
    # Not `one_line`, which would take the indentation away.
    indent = len(label) - len(label.lstrip(" "))
    line = Text(" " * indent)
    line.append(one_line(label) + " " * (len(label) - len(label.rstrip(" "))), style="bold")
    if label.strip():
        line.append(separator)
    line.append(one_line(value) if "\n" in value else _escaped(value))
    console.print(line, soft_wrap=True)


def _escaped(text: str) -> str:
    """Give `text` with what a terminal might obey escaped; spaces are left as they are."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
