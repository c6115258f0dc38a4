"""`durus import`: a database from the lines of JSON that `durus export` writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from durus.backends import open_storage
from durus.cli._access import access_options
from durus.cli._errors import CommandError
from durus.cli._output import count_text, one_line
from durus.cli._progress import progress
from durus.cli._target import Target, database_argument, open_target, target_of
from durus.storage import Storage
from durus.tools.export import import_into_new_file, import_lines, is_blank

__all__ = ["import_"]


@click.command("import", short_help="Make a database of what `durus export` wrote.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@database_argument(required=True)
@click.option("--into", is_flag=True, help="DATABASE is there, and empty: a file, or a server.")
@access_options
def import_(file: str, database: str, into: bool, **access: Any) -> None:
    """Make DATABASE, a new file, of the export FILE; - is stdin.

    Every object gets the oid that it had. A line that is not as it should be is told by its number,
    and then there is no DATABASE. Nothing that FILE names is imported or run, and its classes need
    not be there.
    """
    target = target_of(database, None, None, None, None, None, **access)
    name = "stdin" if file == "-" else file
    with (
        click.open_file(file, "rb") as lines,
        progress(f"importing {one_line(name)}") as show,
    ):
        if into:
            count = _import_into(target, lines, name, show)
        else:
            count = _import_new(target, lines, name, show)
    print(f"imported {one_line(name)}: {count_text(count, 'object')} to {one_line(target.name)}")


def _import_into(
    target: Target, lines: Iterable[bytes], name: str, show: Callable[[int], None]
) -> int:
    with open_target(target) as storage:
        if not is_blank(storage):
            raise CommandError(
                f"{target.name!r} holds objects, and an import would mix its own with them; import"
                " into an empty database, or without --into into a new file"
            )
        is_served = target.asks_a_server()
        return import_lines(lines, storage, name, claims_oids=is_served, show=show)


def _import_new(
    target: Target, lines: Iterable[bytes], name: str, show: Callable[[int], None]
) -> int:
    path = target.path()
    if path is None:
        raise click.UsageError(
            f"{target.name!r} names no file that could be made; --into imports into what is there"
        )

    def open_beside(new: str) -> Storage:
        return open_storage(_name_of(new, target.name, path))

    return import_into_new_file(lines, path, open_beside, name, show=show)


def _name_of(new: str, name: str, path: str) -> str | Path:
    """Give the name of the file `new` as `name` names `path`: as a path or as a URL."""
    if name == path:
        return Path(new)
    scheme = name.partition(":")[0]
    _, question_mark, options = name.partition("?")
    return f"{scheme}:{quote(new)}{question_mark}{options}"
