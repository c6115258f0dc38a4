"""One database in one SQLite file, shared by many processes without a server."""

from __future__ import annotations

import durus

if getattr(durus, "__file__", None) is not None:
    raise ImportError(
        "an old Durus is installed in the same environment and hides parts of this one:"
        " run `pip uninstall Durus`, then install all of this one again with --force-reinstall"
    )

from durus.sqlite_storage._storage import SqliteStorage

__all__ = ["SqliteStorage"]
