"""`durus` itself: which command is meant, its help, and the spellings of Durus 4.3."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version

import click
from click.shell_completion import shell_complete

from durus.cli._errors import CommandError, Outcome, text_of, told
from durus.cli._plugins import command_names, load_command, owner_of
from durus.logger import logger

__all__ = ["main"]

# What Durus 4.3 calls its three commands.
_OLD_SPELLINGS = {"-c": "shell", "-p": "pack", "-s": "serve"}

_FIRST_GROUP = ("demo", "shell", "info", "pack", "serve", "status")

_COMPLETION_VARIABLE = "_DURUS_COMPLETE"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: what follows `durus`; without it, those of the process.

    Returns:
        The exit status: 0, 1 for an error, 2 for wrong usage, 130 if interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with told() as outcome:
        instruction = os.environ.get(_COMPLETION_VARIABLE)
        if instruction:
            outcome.status = shell_complete(durus, {}, "durus", _COMPLETION_VARIABLE, instruction)
        else:
            with durus.make_context("durus", given, obj=outcome) as context:
                durus.invoke(context)
    return outcome.status


class _Commands(click.Group):
    """The group whose members are entry points."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return command_names()

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        try:
            return load_command(cmd_name)
        except CommandError:
            if ctx.resilient_parsing:  # the shell completes a line: this is no time to complain
                return None
            raise

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:1] == ["help"] and "help" not in command_names():
            # What people type; a plug-in may have a command of that name.
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, _modern(args))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and name not in command_names():
            raise _unknown(name, ctx)
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        _format_commands(formatter)
        self.format_options(ctx, formatter)
        self.format_epilog(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        click.Command.format_options(self, ctx, formatter)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    subcommand_metavar="COMMAND ...",
    epilog="Durus 4.3's spellings work too: 'durus -c' is 'durus shell', 'durus -p' is 'durus"
    " pack', 'durus -s' is 'durus serve', each with its --file FILE.",
)
@click.option("-v", "--verbose", count=True, help="Log to stderr; twice for every detail.")
@click.option("--debug", is_flag=True, help="On an error print the traceback (or set DURUS_DEBUG).")
@click.version_option(version("durus-cli"), prog_name="durus")
@click.pass_context
def durus(ctx: click.Context, verbose: int, debug: bool) -> None:
    """Keep Python objects in a file: look into it, change it, keep it small.

    'durus COMMAND --help' tells more about a command.
    """
    outcome = ctx.find_object(Outcome)
    if outcome is not None and debug:
        outcome.debug = True
    _log_to_stderr(verbose)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _modern(args: list[str]) -> list[str]:
    """Replace the first -c, -p or -s by the command that it stands for."""
    for position, arg in enumerate(args):
        if not arg.startswith("-"):
            break
        if arg in _OLD_SPELLINGS:
            return [*args[:position], _OLD_SPELLINGS[arg], *args[position + 1 :]]
    return args


def _unknown(name: str, ctx: click.Context) -> Exception:
    close = get_close_matches(name, command_names(), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return click.UsageError(f"there is no command {name!r}{hint}", ctx)


def _format_commands(formatter: click.HelpFormatter) -> None:
    names = command_names()
    _write_rows(formatter, "Commands", [name for name in _FIRST_GROUP if name in names])
    _write_rows(formatter, "More", [name for name in names if name not in _FIRST_GROUP])


def _write_rows(formatter: click.HelpFormatter, title: str, names: list[str]) -> None:
    rows = []
    for name in names:
        text = _short_help(name, formatter.width - 20)
        if text is not None:
            rows.append((name, text))
    if rows:
        with formatter.section(_heading(title)):
            formatter.write_dl(rows)


def _short_help(name: str, limit: int) -> str | None:
    """Give a command's line in the help, None if it wants none; of a broken one what is wrong."""
    try:
        command = load_command(name)
    except CommandError as error:
        return f"(does not work: {text_of(error)})"
    if command is None or command.hidden:
        return None
    owner = owner_of(name)
    mark = "" if owner == "durus-cli" else f" [{owner}]"
    return command.get_short_help_str(limit) + mark


def _heading(title: str) -> str:
    return click.style(title, bold=True)


def _log_to_stderr(verbose: int) -> None:
    """Show warnings always (they tell what was set aside), and more where more is asked for."""
    handler = logging.StreamHandler()
    shape = "%(asctime)s %(levelname)s %(message)s" if verbose else "durus: warning: %(message)s"
    handler.setFormatter(logging.Formatter(shape))
    logger.addHandler(handler)
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    logger.propagate = False
