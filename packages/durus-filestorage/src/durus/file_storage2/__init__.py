"""One database in one file of the format DFS20, which Durus 4.3 can read."""

from __future__ import annotations

import durus

if getattr(durus, "__file__", None) is not None:
    raise ImportError(
        "an old Durus is installed in the same environment and hides parts of this one:"
        " run `pip uninstall Durus`, then install all of this one again with --force-reinstall"
    )

from durus.file_storage2._storage import FileStorage2

__all__ = ["FileStorage2"]
