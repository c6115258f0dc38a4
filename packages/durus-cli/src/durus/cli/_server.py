"""What the command asks of durus-server, which need not be installed: all of it is asked here."""

from __future__ import annotations

import importlib
import ssl
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from durus.cli._errors import CommandError
from durus.storage import MemoryStorage, Storage

__all__ = [
    "Place",
    "ServerOptions",
    "listening_address",
    "new_server",
    "require_server",
    "server_status",
    "stop_server",
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens.

    Attributes:
        host: name or number; not looked at if there is an address.
        port: 0 is any free one.
        address: path of a Unix domain socket; `@name` is an abstract one.
        owner: who owns the socket's file: a name or number.
        group: the group of the socket's file: a name or number.
        umask: the permissions that the socket's file is not to have.
    """

    host: str
    port: int
    address: str | None
    owner: str | int | None
    group: str | int | None
    umask: int | None


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server does beside serving.

    Attributes:
        gcbytes: pack after so many bytes of commits; 0 is never.
        secret: what clients must know.
        tls: the settings of TLS, if it is spoken.
        allow_protocol_1: let clients of Durus 4.3 in where a secret or TLS is asked for.
        insecure: listen for other machines without either.
        readonly: refuse commits.
    """

    gcbytes: int
    secret: bytes | None
    tls: ssl.SSLContext | None
    allow_protocol_1: bool
    insecure: bool
    readonly: bool


def require_server() -> ModuleType:
    """Import `durus.storage_server`.

    Raises:
        CommandError: durus-server is not installed.
    """
    try:
        return importlib.import_module("durus.storage_server")
    except ModuleNotFoundError as error:
        if error.name != "durus.storage_server":
            raise
        raise CommandError(
            "durus-server is not installed, which serves and asks servers: pip install durus-server"
        ) from error


def listening_address(place: Place, options: ServerOptions) -> Any:
    """Give the address of a place, or the socket that this process was started with.

    Raises:
        CommandError: to listen there would let everybody in.
        OSError: somebody listens there, or the system refuses.
    """
    module = require_server()
    inherited = module.inherited_socket()
    if inherited is not None:
        return inherited
    # Before a database is opened, or made, for a server that cannot be.
    address = new_server(MemoryStorage(), _address(module, place), options).address
    address.close(address.get_listening_socket())
    return _address(module, place)


def new_server(storage: Storage, address: Any, options: ServerOptions) -> Any:
    """Make a server that will serve `storage` at `address`; its `serve()` does."""
    module = require_server()
    try:
        return module.StorageServer(
            storage,
            address=address,
            gcbytes=options.gcbytes,
            secret=options.secret,
            ssl_context=options.tls,
            # Where nothing is asked for, clients of 4.3 are welcome without more words.
            allow_protocol_1=options.allow_protocol_1 or None,
            insecure=options.insecure,
            readonly=options.readonly,
        )
    except ValueError as error:
        raise CommandError(str(error)) from error


def _address(module: ModuleType, place: Place) -> Any:
    if place.address is None:
        return module.SocketAddress.new((place.host, place.port))
    return module.SocketAddress.new(
        place.address, owner=place.owner, group=place.group, umask=place.umask
    )


def server_status(client: Any) -> dict[str, Any]:
    """Ask the server behind an open client storage how it does."""
    status: dict[str, Any] = client.status()
    return status


def stop_server(client: Any) -> None:
    """Stop the server behind an open client storage, and return when it is gone."""
    client.stop_server()
