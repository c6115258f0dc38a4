"""Which past commit is meant: by a time, or by the serial that `gen_commits` yields.

What storages do that take `at=`, and what a command line does with what a person typed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from durus.error import BackendError, StorageOpenError

__all__ = ["parse_moment", "serial_at"]

_SERIAL = re.compile(r"\d{1,20}", re.ASCII)


def parse_moment(text: str) -> datetime | int:
    """Read a serial or a time.

    Args:
        text: digits alone are a serial. Anything else is a time in ISO 8601, such as
            "2026-11-28T16:20:05.25+01:00"; without a zone it is local time, without a time of the
            day it is the day's first moment.

    Returns:
        The serial, or the time, aware of its zone.

    Raises:
        BackendError: it is neither.
    """
    if _SERIAL.fullmatch(text):
        return int(text)
    try:
        return _aware(datetime.fromisoformat(text))
    except ValueError:
        raise BackendError(
            f"a past state is named by the serial of a commit, such as 17, or by a time in ISO"
            f" 8601, such as 2026-11-28T16:20 or 2026-11-28T15:20:00Z, got {text!r:.80}"
        ) from None


def serial_at(
    commits: Iterable[tuple[int, datetime]], at: datetime | int | str, path: str | None = None
) -> int:
    """Give the serial of the commit that is meant.

    Of a time it is the last commit that was made then or before. Where the clock was set back, it
    is the last one of those, in the order of the commits. A commit's time has microseconds: one of
    16:20:05.25 is later than 16:20:05.

    Args:
        commits: serial and time of each, oldest first, as `gen_commits` yields them.
        at: a serial, a time (local time if it has no zone), or text for `parse_moment`.
        path: the database, for the error.

    Raises:
        BackendError: `at` is text, and neither a serial nor a time.
        StorageOpenError: there is no such commit; it tells the first and the last that there are.
    """
    wanted = parse_moment(at) if isinstance(at, str) else at
    if isinstance(wanted, datetime):
        wanted = _aware(wanted)
    first = last = found = None
    for serial, time in commits:
        last = serial, time
        first = first or last
        if serial == wanted if isinstance(wanted, int) else time <= wanted:
            found = serial
    if found is not None:
        return found
    asked = f"commit {wanted}" if isinstance(wanted, int) else wanted.isoformat()
    raise StorageOpenError(
        f"tried to open {path!r} as of {asked}, found {_what_there_is(first, last)}", path
    )


def _what_there_is(first: tuple[int, datetime] | None, last: tuple[int, datetime] | None) -> str:
    if first is None or last is None:
        return "no commit with a serial and a time (Durus 4.3 writes none)"
    return (
        f"that what is kept of its past goes from commit {first[0]} ({first[1].isoformat()}) to"
        f" commit {last[0]} ({last[1].isoformat()})"
    )


def _aware(time: datetime) -> datetime:
    if time.tzinfo is not None:
        return time
    try:
        return time.astimezone()
    except (OverflowError, OSError, ValueError):
        # Within a day of the first or the last that there is, of which no system knows local time.
        return time.replace(tzinfo=UTC)
