"""The `durus` command."""

from __future__ import annotations

import durus.backends  # noqa: F401 - first of all, for it refuses to load beside an old Durus
from durus.cli._main import main

__all__ = ["main"]
