"""`durus refs`: who refers to an object, and what it alone keeps alive."""

from __future__ import annotations

from typing import Any

import click

from durus.cli._access import Access, access_options
from durus.cli._output import bytes_text, count_text, one_line, print_json
from durus.cli._progress import progress
from durus.cli._root import find_object
from durus.cli._target import Target, database_argument, open_target
from durus.tools.refs import Refs, find_refs

__all__ = ["refs"]


@click.command(short_help="Tell who refers to an object, and what it alone keeps alive.")
@database_argument(required=True)
@click.argument("which", metavar="OID|PATH")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@access_options
def refs(database: str, which: str, as_json: bool, **access: Any) -> None:
    """Tell who refers to an object of DATABASE, its path, and what would be gone without it.

    The object is named by its oid (17 or 0x11), or by the path that a program takes to it, such as
    'root["users"]["kim"]'. All of DATABASE, which is opened read-only, is read for it.
    """
    with open_target(Target(database, access=Access(**access)), readonly=True) as storage:
        oid = find_object(storage, which, database)
        with progress(f"reading {database}") as show:
            found = find_refs(storage, oid, show)
    if as_json:
        print_json("refs", _as_json(database, found))
        return
    for line in _lines(found):
        print(one_line(line))


def _as_json(name: str, found: Refs) -> dict[str, Any]:
    return {
        "database": name,
        "oid": int.from_bytes(found.oid, "big"),
        "class": found.class_name,
        "record_bytes": found.record_bytes,
        "path": found.path,
        "retained": {"objects": found.retained_objects, "bytes": found.retained_bytes},
        "referrers": [
            {
                "oid": int.from_bytes(referrer.oid, "big"),
                "class": referrer.class_name,
                "steps": referrer.steps,
                "path": referrer.path,
            }
            for referrer in found.referrers
        ],
    }


def _lines(found: Refs) -> list[str]:
    number = int.from_bytes(found.oid, "big")
    path = found.path or "not reached from the root"
    lines = [f"{path} (oid {number}, {found.class_name}), {bytes_text(found.record_bytes)}"]
    if found.path is not None:
        objects = count_text(found.retained_objects, "object")
        lines.append(f"keeps alive alone: {objects}, {bytes_text(found.retained_bytes)} of records")
    lines.append(f"referred to by {count_text(len(found.referrers), 'object')}")
    for referrer in found.referrers:
        place = referrer.path or "not reached from the root"
        steps = ", ".join(step or "as a node" for step in referrer.steps)
        number = int.from_bytes(referrer.oid, "big")
        lines.append(f"at {steps} of {place} (oid {number}, {referrer.class_name})")
    return lines
