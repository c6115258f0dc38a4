"""A storage served to many clients."""

from __future__ import annotations

import durus

if getattr(durus, "__file__", None) is not None:
    raise ImportError(
        "an old Durus is installed in the same environment and hides parts of this one:"
        " run `pip uninstall Durus`, then install all of this one again with --force-reinstall"
    )

from durus._wire.address import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    HostPortAddress,
    InheritedSocket,
    SocketAddress,
    UnixAbstractAddress,
    UnixDomainSocketAddress,
    inherited_socket,
)
from durus._wire.protocol_1 import STATUS_INVALID, STATUS_KEYERROR, STATUS_OKAY
from durus.storage_server._limits import Limits
from durus.storage_server._server import DEFAULT_GCBYTES, StorageServer
from durus.storage_server._waiting import wait_for_server

__all__ = [
    "DEFAULT_GCBYTES",
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "STATUS_INVALID",
    "STATUS_KEYERROR",
    "STATUS_OKAY",
    "HostPortAddress",
    "InheritedSocket",
    "Limits",
    "SocketAddress",
    "StorageServer",
    "UnixAbstractAddress",
    "UnixDomainSocketAddress",
    "inherited_socket",
    "wait_for_server",
]
