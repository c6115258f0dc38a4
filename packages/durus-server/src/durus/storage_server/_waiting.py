"""Waiting for a server that is being started."""

from __future__ import annotations

import time

from durus._wire.address import DEFAULT_HOST, DEFAULT_PORT, SocketAddress
from durus.error import StorageDisconnectedError

__all__ = ["wait_for_server"]


def wait_for_server(
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    maxtries: int = 300,
    sleeptime: float = 2,
    address: SocketAddress | str | tuple[str, int] | None = None,
) -> None:
    """Try to connect until a server answers.

    Args:
        host: where it will listen, if there is no `address`.
        port: the same.
        maxtries: how often to try.
        sleeptime: seconds between two tries.
        address: a path of a Unix socket, (host, port), or a SocketAddress.

    Raises:
        StorageDisconnectedError: nobody answered.
    """
    place = SocketAddress.new(address if address is not None else (host, port))
    for left in range(maxtries - 1, -1, -1):
        try:
            place.get_connected_socket().close()
        except StorageDisconnectedError:
            if left == 0:
                raise
            time.sleep(sleeptime)
        else:
            return
