"""The commands that installed distributions add to `durus`, ours among them.

A distribution names a click command under the entry-point group `durus.commands`: the name is what
a person types after `durus`. Nothing is imported until it is asked for, and one broken command does
not harm the others.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import click

from durus.cli._errors import CommandError, text_of

__all__ = ["ENTRY_POINT_GROUP", "command_entries", "command_names", "load_command", "owner_of"]

ENTRY_POINT_GROUP = "durus.commands"


def command_names() -> list[str]:
    """List the installed commands, sorted. Nothing is imported."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)})


def command_entries() -> list[EntryPoint]:
    """List what announces the installed commands, by name. Nothing is imported.

    A name that two distributions claim is there twice.
    """
    found = entry_points(group=ENTRY_POINT_GROUP)
    return sorted(found, key=lambda entry: (entry.name, _distribution_text(entry)))


def owner_of(name: str) -> str:
    """Give the distribution (or distributions) that provide a command, such as "durus-cli"."""
    return " and ".join(sorted(_distribution_text(entry) for entry in _entries(name)))


def load_command(name: str) -> click.Command | None:
    """Import a command, or give None if nobody provides it.

    Raises:
        CommandError: two distributions provide it, or it cannot be imported.
    """
    entries = _entries(name)
    if not entries:
        return None
    if len(entries) > 1:
        raise CommandError(
            f"the command {name!r} is claimed by {owner_of(name)}; uninstall one of them"
        )
    return _load(entries[0])


def _entries(name: str) -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINT_GROUP, name=name))


def _load(entry: EntryPoint) -> click.Command:
    try:
        command = entry.load()
    except (Exception, SystemExit) as error:  # a plug-in may fail in any way
        raise CommandError(
            f"the command {entry.name!r} of {_distribution_text(entry)} cannot be loaded:"
            f" {type(error).__name__}: {text_of(error)}"
        ) from error
    if not isinstance(command, click.Command):
        raise CommandError(
            f"the command {entry.name!r} of {_distribution_text(entry)} is no click command:"
            f" {entry.value} is a {type(command).__name__}"
        )
    return command


def _distribution_text(entry: EntryPoint) -> str:
    return "an unknown distribution" if entry.dist is None else entry.dist.name
