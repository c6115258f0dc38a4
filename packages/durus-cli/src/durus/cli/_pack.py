"""`durus pack`: what the root does not reach is removed, and what that saved is told."""

from __future__ import annotations

from typing import Any

import click

from durus.cli._output import bytes_text, count_text, one_line
from durus.cli._progress import progress
from durus.cli._target import database_argument, open_target, server_options, target_of
from durus.storage import Storage, StorageDescription

__all__ = ["pack"]


@click.command(short_help="Remove what the root does not reach, and tell what that saved.")
@database_argument(required=False)
@server_options
def pack(database: str | None, **place: Any) -> None:
    """Pack DATABASE: a file, or a URL such as file:app.durus.

    Objects that cannot be reached from the root are removed. Until the pack is complete the file is
    not touched: Ctrl-C leaves it as it was. Afterwards the old file stands beside the new one, as
    DATABASE.prepack.
    """
    target = target_of(database, **place)
    with open_target(target) as storage:
        before = storage.describe()
        kept = _pack(storage, target.name)
        after = storage.describe()
    print(_summary(target.name, before, after, kept))


def _pack(storage: Storage, name: str) -> int | None:
    """Pack to the end; give how many objects were kept, if the storage counts them."""
    packer = storage.get_packer()
    kept = None
    try:
        with progress(f"packing {name}") as show:
            for step in packer:
                if isinstance(step, int):
                    kept = step
                    show(kept)
    finally:
        # Gives back at once what an unfinished pack has taken. An iterator need not be able to.
        close = getattr(packer, "close", None)
        if close is not None:
            close()
    return kept


def _summary(
    name: str, before: StorageDescription, after: StorageDescription, kept: int | None
) -> str:
    """Tell on one line what the pack saved, as far as the storage tells."""
    parts = [_bytes_part(before.size_bytes, after.size_bytes), _objects_part(before, kept)]
    told = "; ".join(part for part in parts if part)
    return f"packed {one_line(name)}: {told}" if told else f"packed {one_line(name)}"


def _bytes_part(before: int | None, after: int | None) -> str:
    if before is None or after is None:
        return ""
    saved = f"saved {bytes_text(before - after)}" if after < before else "nothing to save"
    return f"{bytes_text(before)} -> {bytes_text(after)}, {saved}"


def _objects_part(before: StorageDescription, kept: int | None) -> str:
    if kept is None:
        return ""
    text = f"{count_text(kept, 'object')} kept"
    if before.object_count is not None:
        text += f", {max(before.object_count - kept, 0):,} removed"
    return text
