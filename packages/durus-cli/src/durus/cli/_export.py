"""`durus export`: a database as lines of JSON, for jq, pandas, and `durus import`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import click

from durus.cli._access import access_options
from durus.cli._at import Moment, at_option, past
from durus.cli._errors import CommandError
from durus.cli._output import count_text, one_line
from durus.cli._progress import progress
from durus.cli._root import require_root
from durus.cli._target import database_argument, open_target, target_of
from durus.tools.export import export_lines

__all__ = ["export"]


@click.command(short_help="Write a database as lines of JSON, for other tools.")
@database_argument(required=True)
@click.argument("file", type=click.Path(dir_okay=False), default="-")
@at_option
@access_options
def export(database: str, file: str, at: Moment | None, **access: Any) -> None:
    """Write DATABASE as lines of JSON to FILE, a new one, or to stdout.

    Each object that the root reaches is a line with its oid, its class and its state; `durus
    import` makes a database of them again. DATABASE is opened read-only, so a program may be
    writing to it meanwhile. Nothing that it names is imported or run.
    """
    target = target_of(database, None, None, None, None, None, **access)
    with open_target(target, readonly=True, **past(at)) as storage:
        require_root(storage, "export", target.name)
        total = storage.describe().object_count
        with _output(file) as out, progress(f"exporting {target.name}", total) as show:
            count = -2  # the first line and the last are no objects
            for line in export_lines(storage, target.name):
                out.write(line)
                count += 1
                show(max(count, 0))
    if file != "-":
        print(
            f"exported {one_line(target.name)}: {count_text(count, 'object')} to {one_line(file)}"
        )


@contextmanager
def _output(file: str) -> Iterator[BinaryIO]:
    """Give where the lines go: a file is new, is on the disk at the end, and is whole or gone."""
    if file == "-":
        yield sys.stdout.buffer
        return
    try:
        out = open(file, "xb")  # noqa: SIM115 - the block closes it
    except FileExistsError:
        raise CommandError(
            f"there is a {file!r} already; remove it, or name a new file for the export"
        ) from None
    try:
        with out:
            yield out
            out.flush()
            os.fsync(out.fileno())
    except BaseException:
        os.unlink(file)
        raise
