"""The option --at: a command looks at a past state of a database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import click

from durus.cli._output import time_text
from durus.error import BackendError
from durus.moment import parse_moment
from durus.storage import StorageDescription

__all__ = ["Moment", "as_of_text", "at_option", "past"]

# A time, or the serial of a commit.
Moment = datetime | int

_Function = TypeVar("_Function", bound=Callable[..., Any])


def at_option(function: _Function) -> _Function:
    """Add --at to a command; it arrives as `at`, None if nobody asked for the past."""
    return click.option(
        "--at",
        callback=_read,
        metavar="TIME|SERIAL",
        help="Look at it as of then: ISO 8601, local time without a zone; or a commit's serial.",
    )(function)


def past(at: Moment | None) -> dict[str, Any]:
    """Give what `open_target` is told of --at, to be passed on as keywords."""
    return {} if at is None else {"at": at}


def as_of_text(description: StorageDescription) -> str:
    """Give which commit a storage was opened as of, such as "commit 17 of 2026-11-28 ... UTC"."""
    time = description.last_commit_time
    return f"commit {description.as_of}" + ("" if time is None else f" of {time_text(time)}")


def _read(ctx: click.Context, param: click.Parameter, value: str | None) -> Moment | None:
    try:
        return None if value is None else parse_moment(value)
    except BackendError as error:
        raise click.BadParameter(str(error), ctx, param) from error
