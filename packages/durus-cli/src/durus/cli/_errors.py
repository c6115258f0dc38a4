"""What went wrong as one line on stderr, and as an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from durus.cli._output import one_line
from durus.error import DurusError

__all__ = ["EXIT_FAILURE", "EXIT_INTERRUPTED", "EXIT_USAGE", "CommandError", "Outcome", "told"]

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it


class CommandError(DurusError):
    """The command cannot do what it was asked to do; the message is for the person who asked."""


class Outcome:
    """How a run of the command ended, and how much it tells of an error.

    Attributes:
        status: the exit status.
        debug: print the traceback too.
    """

    def __init__(self) -> None:
        self.status = 0
        self.debug = bool(os.environ.get("DURUS_DEBUG"))


@contextmanager
def told() -> Iterator[Outcome]:
    """Turn what the block raises into a line on stderr and a status.

    Errors of Durus, of the system and of usage are the user's to read. Any other exception is a
    defect of ours or of a plug-in: it passes through, and Python prints where it came from.
    """
    outcome = Outcome()
    try:
        yield outcome
        # What is still buffered may fail as well: a full disk, or a reader that has gone.
        sys.stdout.flush()
    except click.exceptions.Exit as error:
        outcome.status = error.exit_code
    except click.UsageError as error:
        outcome.status = EXIT_USAGE
        _tell(_usage_text(error), debug=outcome.debug)
    except click.ClickException as error:
        outcome.status = error.exit_code
        _tell(error.format_message(), debug=outcome.debug)
    except (KeyboardInterrupt, click.Abort):
        outcome.status = EXIT_INTERRUPTED
        _tell("interrupted", debug=outcome.debug)
    except (DurusError, OSError) as error:
        outcome.status = EXIT_FAILURE
        # A reader that has gone wants to hear no more: `durus info FILE | head`.
        if not isinstance(error, BrokenPipeError) or isinstance(error, DurusError):
            _tell(text_of(error), debug=outcome.debug)
        _flush_or_drop()


def text_of(error: BaseException) -> str:
    """Give an exception as one line without control characters."""
    # An error of ours that is an OSError too has a message, not a number and its text.
    if isinstance(error, OSError) and error.strerror and not isinstance(error, DurusError):
        path = error.filename
        named = f"{os.fsdecode(path)}: " if isinstance(path, str | bytes) else ""
        return one_line(named + error.strerror)
    return one_line(str(error) or type(error).__name__)


def _usage_text(error: click.UsageError) -> str:
    text = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx is not None else "durus"
    return f"{text} ('{path} --help' tells more)"


def _tell(text: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"durus: error: {one_line(text)}", file=sys.stderr)


def _flush_or_drop() -> None:
    """Send what cannot be written nowhere, or Python would complain once more at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
