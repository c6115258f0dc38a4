"""How long history is kept, as it is said by people."""

from __future__ import annotations

import re

from durus.error import BackendError

__all__ = ["history_us_of"]

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def history_us_of(text: str) -> int:
    """Give microseconds for such as "90m", "12h", "7d" or "2w"; "0" is none.

    Raises:
        BackendError: it is none of these.
    """
    match = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if match is not None:
        return int(match[1]) * _SECONDS[match[2]] * 1_000_000
    if text == "0":
        return 0
    raise BackendError(
        "option 'history' of 'sqlite:' takes a time such as 90m, 12h, 7d, 2w or 0,"
        f" got {text!r:.80}",
        "sqlite",
    )
