"""A storage that a server keeps."""

from __future__ import annotations

import durus

if getattr(durus, "__file__", None) is not None:
    raise ImportError(
        "an old Durus is installed in the same environment and hides parts of this one:"
        " run `pip uninstall Durus`, then install all of this one again with --force-reinstall"
    )

from durus._wire.address import DEFAULT_HOST, DEFAULT_PORT, SocketAddress
from durus._wire.protocol_1 import STATUS_INVALID, STATUS_KEYERROR, STATUS_OKAY
from durus.client_storage._storage import ClientStorage, TcpClientStorage, UnixClientStorage

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "STATUS_INVALID",
    "STATUS_KEYERROR",
    "STATUS_OKAY",
    "ClientStorage",
    "SocketAddress",
    "TcpClientStorage",
    "UnixClientStorage",
]
