"""The logger of Durus, under the names of Durus 4.3.

Importing this module adds no handler and sets no level: the application decides what it shows.
"""

from __future__ import annotations

import logging
from typing import TextIO

__all__ = ["direct_output", "is_logging", "log", "logger"]

logger = logging.getLogger("durus")
log = logger.log


def is_logging(level: int) -> bool:
    """Tell whether a message at `level` would go anywhere."""
    return logger.isEnabledFor(level)


def direct_output(file: TextIO) -> None:
    """Send what Durus logs to `file`, in place of where an earlier call sent it."""
    for handler in [h for h in logger.handlers if isinstance(h, _DirectHandler)]:
        logger.removeHandler(handler)
    handler = _DirectHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


class _DirectHandler(logging.StreamHandler[TextIO]):
    """The handler that `direct_output` put there, so that the next call can find it."""
