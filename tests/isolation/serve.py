"""A server on a database: `python -m tests.isolation.serve DATABASE SOCKET`."""

from __future__ import annotations

import sys

from durus.backends import open_storage
from durus.storage_server import StorageServer


def main(database: str, socket: str) -> None:
    """Serve until the process is ended."""
    StorageServer(open_storage(database), address=socket).serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
