"""`durus plugins`: what storages and commands are installed, whose they are, and what is broken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from durus.backends import installed_storages, storage_class
from durus.cli._errors import EXIT_FAILURE, CommandError, text_of
from durus.cli._output import count_text, one_line, print_json, stdout_console
from durus.cli._plugins import command_entries, load_command
from durus.error import BackendError

__all__ = ["plugins"]


@click.command(short_help="List installed storages and commands, and what is broken.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
def plugins(as_json: bool) -> None:
    """List the storages and commands that installed distributions provide.

    To see whether it works each one is imported, which runs its module. One that fails is told with
    the reason and harms no other. The exit status is 1 if one does not work.
    """
    found = {"storages": _storages(), "commands": _commands()}
    if as_json:
        print_json("plugins", _as_json(found))
    else:
        _print_tables(stdout_console(), found)
    if any(plugin.problem for kind in found.values() for plugin in kind):
        raise click.exceptions.Exit(EXIT_FAILURE)


@dataclass(frozen=True, slots=True)
class _Plugin:
    """What a distribution provides under a name.

    Attributes:
        name: a URL scheme, or what is typed after `durus`.
        distribution: who provides it.
        version: the distribution's version.
        location: where it is, as "module:attribute".
        problem: why it cannot be used, or None.
    """

    name: str
    distribution: str
    version: str
    location: str
    problem: str | None


def _storages() -> list[_Plugin]:
    return [
        _Plugin(
            storage.name,
            storage.distribution,
            storage.version,
            storage.location,
            _problem_of(storage_class, storage.name),
        )
        for storage in installed_storages()
    ]


def _commands() -> list[_Plugin]:
    return [
        _Plugin(
            entry.name, *_owner(entry), entry.value, problem=_problem_of(load_command, entry.name)
        )
        for entry in command_entries()
    ]


def _owner(entry: EntryPoint) -> tuple[str, str]:
    distribution = entry.dist
    if distribution is None:  # an entry point made by hand, not found by importlib.metadata
        return "unknown", "unknown"
    return distribution.name, distribution.version


def _problem_of(load: Callable[[str], object], name: str) -> str | None:
    """Import what has a name; give why that fails, or None."""
    try:
        # What a module prints when it is imported is no part of what is printed here.
        with redirect_stdout(sys.stderr):
            load(name)
    except (BackendError, CommandError) as error:
        cause = error.__cause__
        return text_of(error) if cause is None else f"{type(cause).__name__}: {text_of(cause)}"
    return None


def _as_json(found: dict[str, list[_Plugin]]) -> dict[str, Any]:
    return {kind: [asdict(plugin) for plugin in plugins] for kind, plugins in found.items()}


def _print_tables(console: Console, found: dict[str, list[_Plugin]]) -> None:
    problems = []
    for kind, listed in found.items():
        console.print(_table(kind.capitalize(), listed))
        console.print()
        problems += [_problem_text(kind, plugin) for plugin in listed if plugin.problem]
    if not problems:
        console.print("All of them can be imported.")
        return
    console.print(f"{count_text(len(problems), 'plug-in')} cannot be used:")
    for text in problems:
        console.print(Text("  " + one_line(text)), soft_wrap=True)


def _problem_text(kind: str, plugin: _Plugin) -> str:
    whose = f"{plugin.distribution} {plugin.version}"
    return f"{kind.removesuffix('s')} {plugin.name!r} of {whose}: {plugin.problem}"


def _table(title: str, listed: Iterable[_Plugin]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in (title, "From", "Version", "Is"):
        table.add_column(heading, overflow="fold")
    for plugin in listed:
        mark = " (cannot be used)" if plugin.problem else ""
        cells = (plugin.name, plugin.distribution, plugin.version, plugin.location + mark)
        table.add_row(*(Text(one_line(cell)) for cell in cells))
    return table
