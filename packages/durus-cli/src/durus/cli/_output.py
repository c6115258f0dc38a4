"""What the commands print: plain text where a file or program reads it, rich on a terminal."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

__all__ = [
    "bytes_text",
    "count_text",
    "one_line",
    "print_json",
    "stderr_console",
    "stdout_console",
    "time_json",
    "time_text",
]

# The number of the JSON's form. A new key does not change it; anything else does.
_JSON_FORM = 1

_PIPE_WIDTH = 100


def stdout_console() -> Console:
    """Give a console on stdout that guesses nothing: what it is given is printed as it is."""
    return _console(is_stderr=False)


def stderr_console() -> Console:
    """Give a console on stderr, for what is not the result of a command."""
    return _console(is_stderr=True)


def _console(*, is_stderr: bool) -> Console:
    stream = sys.stderr if is_stderr else sys.stdout
    # Into a pipe or a file the width must not hang on the terminal that happens to be there.
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(stderr=is_stderr, width=width, markup=False, emoji=False, highlight=False)


def one_line(text: str) -> str:
    """Give `text` on one line, with control characters escaped.

    File names and what a database holds may contain anything, such as what a terminal obeys.
    """
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def count_text(count: int, noun: str) -> str:
    """Give "1 object" or "2,000 objects"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def bytes_text(length_bytes: int) -> str:
    """Give a length as a person reads it, such as "1.2 MB" (powers of 1000)."""
    if length_bytes < 1000:
        return f"{length_bytes} B"
    value = float(length_bytes)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.95:
            return f"{value:.1f} {unit}"
    return f"{value / 1000:,.1f} PB"


def time_text(moment: datetime) -> str:
    """Give a moment as ISO 8601 in UTC, to the second."""
    return moment.astimezone(UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", " UTC")


def time_json(moment: datetime | None) -> str | None:
    """Give a moment as ISO 8601 in UTC, to the microsecond, if there is one."""
    return None if moment is None else moment.astimezone(UTC).isoformat()


def print_json(command: str, answer: dict[str, Any]) -> None:
    """Print what a command reports, for a program: first comes which one it is, and in what form.

    Args:
        command: its name, as a key has it, such as "convert_py2".
        answer: what follows.
    """
    print(json.dumps({f"durus_{command}": _JSON_FORM, **answer}, indent=2))
