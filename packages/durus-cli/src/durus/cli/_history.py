"""`durus history`: the transactions of a database, or the versions of one object."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import click
from rich.text import Text

from durus.cli._access import Access, access_options
from durus.cli._output import bytes_text, one_line, print_json, stdout_console, time_json, time_text
from durus.cli._progress import progress
from durus.cli._root import find_object
from durus.cli._target import Target, database_argument, open_target
from durus.serialize import extract_class_path
from durus.storage import Storage
from durus.tools.history import Change, Transaction, Version, gen_transactions, gen_versions

__all__ = ["history"]


_CLASSES_SHOWN = 3

_T = TypeVar("_T")


@click.command(short_help="Tell the transactions, or the versions of one object.")
@database_argument(required=True)
@click.argument("which", metavar="[OID|PATH]", required=False)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    metavar="N",
    help="How many to tell of, the newest; 0 is all. [20]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@access_options
def history(database: str, which: str | None, limit: int, as_json: bool, **access: Any) -> None:
    """Tell the transactions of DATABASE, newest first: time, size, objects and classes.

    With an OID (17 or 0x11) or a PATH (such as 'root["users"]["kim"]') it tells the versions of
    this object instead, each with its transaction. DATABASE is opened read-only. A file knows all
    since its last pack, an SQLite database what it was told to keep, and a server what the file
    knows that it serves.
    """
    target = Target(database, access=Access(**access))
    with open_target(target, readonly=True) as storage:
        if which is None:
            _tell_transactions(database, storage, limit, as_json=as_json)
        else:
            oid = find_object(storage, which, database)
            _tell_versions(database, storage, oid, limit, as_json=as_json)


def _tell_transactions(database: str, storage: Storage, limit: int, *, as_json: bool) -> None:
    transactions = gen_transactions(storage)
    if as_json:
        found = [_transaction_json(each) for each in _limited(transactions, limit)]
        _print_json(database, None, "transactions", found)
        return
    _print_row("Transaction", "Time", "Objects", "Size", "Classes", style="bold")
    for each in _limited(transactions, limit):
        _print_row(str(each.serial), time_text(each.time), *_change_texts(each.change))
    _tell_of_more(transactions)


def _tell_versions(
    database: str, storage: Storage, oid: bytes, limit: int, *, as_json: bool
) -> None:
    with progress(f"reading {database}", total=None, noun="transaction") as show:
        versions = gen_versions(storage, oid, show)
        # One more, to know whether there are others.
        found = list(_limited(versions, limit and limit + 1))
    shown = found[:limit] if limit else found
    number = int.from_bytes(oid, "big")
    if as_json:
        _print_json(database, number, "versions", [_version_json(each) for each in shown])
        return
    _print_row("Transaction", "Time", "", "Size", f"Object {number}", style="bold")
    for each in shown:
        record = each.record
        size = "" if record is None else bytes_text(len(record))
        _print_row(str(each.serial), time_text(each.time), "", size, _version_text(each))
    _tell_of_more(iter(found[len(shown) :]))


def _limited(found: Iterator[_T], limit: int) -> Iterator[_T]:
    return islice(found, limit) if limit else found


def _tell_of_more(found: Iterable[object]) -> None:
    for _ in found:
        stdout_console().print("... and older ones; --limit 0 tells all")
        return


def _print_row(
    serial: str, time: str, objects: str, size: str, classes: str, style: str = ""
) -> None:
    line = f"{serial:>11}  {time:<23}  {objects:>7}  {size:>8}  {classes}"
    stdout_console().print(Text(line, style=style), soft_wrap=True)


def _change_texts(change: Change | None) -> tuple[str, str, str]:
    if change is None:
        return "", "", "not known: packed since"
    counts = sorted(change.classes.items(), key=lambda item: (-item[1], item[0]))
    texts = [
        one_line(name) + (f" ({count:,})" if count > 1 else "")
        for name, count in counts[:_CLASSES_SHOWN]
    ]
    if len(counts) > len(texts):
        texts.append(f"... of {len(counts):,} classes")
    return f"{change.classes.total():,}", bytes_text(change.record_bytes), ", ".join(texts)


def _version_text(version: Version) -> str:
    if version.record is None:
        return "removed by a pack"
    class_name = one_line(extract_class_path(version.record))
    return f"{class_name} (or older)" if version.may_be_older else class_name


def _print_json(database: str, number: int | None, key: str, found: list[dict[str, Any]]) -> None:
    answer = {"database": database, "oid": number, key: found}
    print_json("history", answer)


def _transaction_json(transaction: Transaction) -> dict[str, Any]:
    change = transaction.change
    return {
        "serial": transaction.serial,
        "time": time_json(transaction.time),
        "objects": None if change is None else change.classes.total(),
        "record_bytes": None if change is None else change.record_bytes,
        "classes": None if change is None else dict(sorted(change.classes.items())),
    }


def _version_json(version: Version) -> dict[str, Any]:
    record = version.record
    return {
        "serial": version.serial,
        "time": time_json(version.time),
        "removed": record is None,
        "record_bytes": None if record is None else len(record),
        "class": None if record is None else extract_class_path(record),
        "may_be_older": version.may_be_older,
    }
