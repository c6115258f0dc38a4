"""`durus backup`: one more piece in a folder of backups."""

from __future__ import annotations

from typing import Any

import click

from durus.cli._access import Access, access_options
from durus.cli._output import bytes_text, count_text, one_line, print_json
from durus.cli._progress import progress
from durus.cli._target import Target, database_argument, open_target
from durus.tools.backup import Backup, back_up

__all__ = ["backup"]


@click.command(short_help="Back up a database in use: all of it, then what is new.")
@database_argument(required=True)
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--full", is_flag=True, help="Begin a new chain with all of it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@access_options
def backup(database: str, folder: str, full: bool, as_json: bool, **access: Any) -> None:
    """Write what is committed in DATABASE, a file or a URL, into FOLDER.

    The first backup in FOLDER holds everything. The next ones hold what has come since, until a
    pack makes another file; of a file, and where DATABASE keeps history, each commit. Others may
    use DATABASE meanwhile. What was written is read back before it counts. 'durus restore' makes a
    database of it.
    """
    target = Target(database, access=Access(**access))
    with open_target(target, readonly=True) as storage:
        description = storage.describe()
        is_file = hasattr(storage, "gen_bytes")
        total = description.size_bytes if is_file else description.object_count
        with progress(f"backing up {target.name}", total, "byte" if is_file else "object") as show:
            done = back_up(storage, folder, target.known_as(), full=full, progress=show)
    if as_json:
        print_json("backup", _as_json(done, database, folder))
    else:
        print(_summary(done, database, folder))


def _as_json(done: Backup, database: str, folder: str) -> dict[str, Any]:
    return {
        "database": database,
        "folder": folder,
        "written": done.is_written,
        "reason": done.reason,
        "piece": done.piece.as_json(),
    }


def _summary(done: Backup, database: str, folder: str) -> str:
    name, piece = one_line(database), done.piece
    if not done.is_written:
        return f"nothing has changed in {name} since {piece.name}"
    why = f" ({one_line(done.reason)})" if done.reason else ""
    upto = f", up to commit {piece.last_serial}" if piece.last_serial is not None else ""
    if piece.method != "file":
        upto += f", of {count_text(piece.end, 'object')}"
    size = bytes_text(piece.size_bytes)
    return f"backed up {name} into {one_line(folder)}: {piece.name}, {size}{upto}{why}"
