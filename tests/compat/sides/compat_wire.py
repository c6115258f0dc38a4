"""What the tests ask of a version of Durus as a server, and as a client of one.

The tasks of `compat_files` work here too, with the format "server" and the path of a socket.
"""

from __future__ import annotations

from typing import Any

import compat_files
from compat_files import hold

from durus.client_storage import ClientStorage
from durus.connection import Connection
from durus.error import ConflictError
from durus.file_storage import FileStorage
from durus.persistent_dict import PersistentDict
from durus.storage_server import StorageServer
from durus.utils import int8_to_str, str_to_int8

__all__ = ["hold"]

compat_files.STORAGE_CLASSES["server"] = lambda path: ClientStorage(address=path)

_connections = compat_files._held


def serve(path: str, socket: str) -> None:
    """Serve a file at a Unix socket until somebody stops it."""
    StorageServer(FileStorage(path), address=socket).serve()


def serve_tcp(path: str, port: int) -> None:
    """Serve a file at a port of this machine."""
    StorageServer(FileStorage(path), port=port).serve()


def read_tcp(port: int) -> list[str]:
    """Give the keys of the root that is served at a port."""
    storage = ClientStorage(port=port)
    keys = sorted(Connection(storage).get_root().keys())
    storage.close()
    return keys


def put(name: str, key: str, value: Any) -> None:
    """Change a shared dictionary, and do not commit."""
    root = _connections[name].get_root()
    if key not in root:
        root[key] = PersistentDict()
    root[key]["value"] = value


def get(name: str, key: str) -> Any:
    """Give what a shared dictionary has, as this transaction sees it."""
    root = _connections[name].get_root()
    return root[key]["value"] if key in root else None


def get_again(name: str, key: str) -> Any:
    """The same, or the name of the conflict that reading it is."""
    try:
        return get(name, key)
    except ConflictError as error:
        return type(error).__name__


def commit(name: str) -> str:
    """Commit; give "done" or the name of the conflict."""
    try:
        _connections[name].commit()
    except ConflictError as error:
        _connections[name].abort()
        return type(error).__name__
    return "done"


def abort(name: str) -> None:
    """Begin a new transaction."""
    _connections[name].abort()


def oid_of(name: str, key: str) -> int:
    """Give the oid of a shared dictionary."""
    return int(str_to_int8(_connections[name].get_root()[key]._p_oid))


def load_with_a_gap(name: str) -> list[str]:
    """Load several records of which one is missing, and then one alone; say what came."""
    storage = _connections[name].get_storage()
    records = storage.bulk_load([int8_to_str(0), int8_to_str(1 << 40), int8_to_str(0)])
    found = [next(records)]
    try:
        next(records)
    except KeyError as error:
        found.append(type(error).__name__.encode())
    found.append(storage.load(int8_to_str(0)))
    return [each[:8].hex() for each in found]
