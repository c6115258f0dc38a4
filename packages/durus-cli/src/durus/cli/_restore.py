"""`durus restore`: a database made of what was backed up, or a list of that."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table
from rich.text import Text

from durus.backends import file_path
from durus.cli._at import Moment, at_option
from durus.cli._errors import EXIT_FAILURE
from durus.cli._output import bytes_text, one_line, print_json, stdout_console, time_json, time_text
from durus.cli._progress import progress
from durus.tools.backup import (
    Catalog,
    Piece,
    Problem,
    Restored,
    find_problems,
    needed_pieces,
    read_catalog,
)
from durus.tools.backup import restore as restore_backup

__all__ = ["restore"]


@click.command(short_help="Make a database of a backup, as it was last or earlier.")
@click.argument("folder", type=click.Path(file_okay=False))
@click.argument("target", type=click.Path(), required=False)
@at_option
@click.option("--list", "as_list", is_flag=True, help="Tell what is in FOLDER; restore nothing.")
@click.option("--verify", is_flag=True, help="With --list: read and check the data of each piece.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@click.pass_context
def restore(
    context: click.Context,
    folder: str,
    target: str | None,
    at: Moment | None,
    as_list: bool,
    verify: bool,
    as_json: bool,
) -> None:
    """Make the new file TARGET of the backups in FOLDER.

    Everything is checked before TARGET gets its name; what is there already is never replaced.
    """
    if as_list:
        if target is not None or at is not None:
            raise click.UsageError("--list restores nothing: it takes neither TARGET nor --at")
        _list(context, read_catalog(folder), verify=verify, as_json=as_json)
        return
    if verify:
        raise click.UsageError("--verify belongs to --list; what is restored is always checked")
    if target is None:
        raise click.UsageError("give TARGET, the file to make, or --list")
    if file_path(target) != target:
        raise click.UsageError(
            f"TARGET is a path, not a URL such as {target!r}: what is restored has the format it"
            " had; 'durus copy' makes another of it"
        )
    total = sum(piece.size_bytes for piece in needed_pieces(folder, at))
    with progress(f"restoring {target}", total, "byte") as show:
        done = restore_backup(folder, target, at, progress=show)
    if as_json:
        print_json("restore", _restored_as_json(done, folder, target))
    else:
        print(_summary(done, target))


def _restored_as_json(done: Restored, folder: str, target: str) -> dict[str, Any]:
    return {
        "folder": folder,
        "target": target,
        "serial": done.serial,
        "time": time_json(done.time),
        "size_bytes": done.size_bytes,
        "pieces": [piece.name for piece in done.pieces],
    }


def _summary(done: Restored, target: str) -> str:
    what = f"commit {done.serial} of " if done.serial is not None else "the state of "
    of = what + time_text(done.time) if done.time is not None else "all that was backed up"
    names = done.pieces[0].name
    if len(done.pieces) > 1:
        names += f" to {done.pieces[-1].name}"
    return f"restored {one_line(target)}: {of}, {bytes_text(done.size_bytes)}, from {names}"


def _list(context: click.Context, catalog: Catalog, *, verify: bool, as_json: bool) -> None:
    """Tell of the pieces; the exit status is 1 if one is missing or damaged, or there is none."""
    texts = [found.text for found in (_verified(catalog) if verify else catalog.problems)]
    if not catalog.last_number:
        # Where a disk of backups is not mounted, its empty folder is there.
        texts.append(f"there is no backup in {catalog.folder!r}")
    if as_json:
        answer = {
            "folder": catalog.folder,
            "pieces": [piece.as_json() for piece in catalog.pieces.values()],
            "problems": texts,
        }
        print_json("restore", answer)
    else:
        if catalog.pieces:
            _print_table(catalog)
        for text in texts:
            print(f"wrong: {one_line(text)}")
    if texts:
        context.exit(EXIT_FAILURE)


def _verified(catalog: Catalog) -> list[Problem]:
    total = sum(piece.size_bytes for piece in catalog.pieces.values())
    with progress(f"checking {catalog.folder}", total, "byte") as show:
        return find_problems(catalog, show)


def _print_table(catalog: Catalog) -> None:
    console = stdout_console()
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("Piece", "Made", "Commits", "Last commit"):
        table.add_column(title, no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    for piece in catalog.pieces.values():
        table.add_row(*map(Text, _row(piece)))
    console.print(table)


def _row(piece: Piece) -> tuple[str, ...]:
    commits = "-"
    if piece.first_serial is not None:
        commits = f"{piece.first_serial} to {piece.last_serial}"
    last = "-" if piece.last_time is None else time_text(piece.last_time)
    return piece.name, time_text(piece.made), commits, last, bytes_text(piece.size_bytes)
