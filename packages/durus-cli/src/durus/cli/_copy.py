"""`durus copy`: all records of one database in another, new one."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import click

from durus.cli._access import Access, access_options
from durus.cli._output import bytes_text, count_text, one_line
from durus.cli._progress import progress
from durus.cli._target import DatabaseType, Target, open_target
from durus.tools.copy import Copied, copy_to_file, recompressed

__all__ = ["copy"]

# The number of the JSON's form. A new key does not change it; anything else does.
_JSON_FORM = 1


@click.command(short_help="Copy a database into a new file, of any storage.")
@click.argument("source", metavar="FROM", type=DatabaseType())
@click.argument("target", metavar="TO", type=DatabaseType())
@click.option(
    "--compress",
    type=click.Choice(["none", "zlib"]),
    help="Store states as they are pickled, or compressed; else as they are in FROM.",
)
@click.option(
    "--renumber",
    is_flag=True,
    help="Copy what the root reaches, under new oids, close to those of what is read with it.",
)
@click.option("--verify", is_flag=True, help="Read both once more, and compare.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@access_options
def copy(
    source: str,
    target: str,
    compress: str | None,
    renumber: bool,
    verify: bool,
    as_json: bool,
    **access: Any,
) -> None:
    """Copy what is committed in FROM, a file or a URL, into the new file TO.

    Objects keep their oids, unless --renumber is given. TO is a path, or a URL that says which
    storage it is, such as sqlite:app.sqlite. It is there when it is whole; called again, an
    interrupted copy goes on, or with --renumber begins anew.
    """
    change = None if compress is None else partial(recompressed, compress=compress == "zlib")
    place = Target(source, access=Access(**access))
    with open_target(place, readonly=True) as storage:
        total = storage.describe().object_count
        with progress(f"copying {place.name}", total) as show:
            done = copy_to_file(
                storage,
                place.known_as(),
                target,
                change=change,
                renumber=renumber,
                verify=verify,
                progress=show,
            )
    if as_json:
        told = _as_json(done, source, target)
        print(json.dumps(told | {"verified": verify, "renumbered": renumber}, indent=2))
    else:
        print(_summary(done, source, target, verify=verify, renumber=renumber))


def _as_json(done: Copied, source: str, target: str) -> dict[str, Any]:
    return {
        "durus_copy": _JSON_FORM,
        "from": source,
        "to": target,
        "objects": done.objects,
        "record_bytes": done.record_bytes,
        "kept": done.kept,
    }


def _summary(done: Copied, source: str, target: str, *, verify: bool, renumber: bool) -> str:
    text = (
        f"copied {one_line(source)} to {one_line(target)}: {count_text(done.objects, 'object')},"
        f" {bytes_text(done.record_bytes)} of records"
    )
    if done.kept:
        text += f"; {done.kept:,} were there already"
    return text + ("; renumbered" if renumber else "") + ("; compared" if verify else "")
