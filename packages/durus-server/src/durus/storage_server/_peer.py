"""Who is at the other end of a socket, as the system tells it."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import ip_address
from struct import Struct

__all__ = ["Peer", "get_peer"]

_UCRED = Struct("3i")  # pid, uid, gid, in the order and width of the machine


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a socket.

    Attributes:
        name: how the log calls it.
        is_owner: a process of the user that runs the server, or of root, on a Unix socket.
        is_local: it is on this machine, and that is all that can be known.
    """

    name: str
    is_owner: bool
    is_local: bool

    def __str__(self) -> str:
        return self.name


def get_peer(accepted: socket.socket, number: int, owner_uid: int) -> Peer:
    """Tell who is at the other end of a socket that was accepted.

    Args:
        accepted: the socket.
        number: tells clients apart that have no address.
        owner_uid: the user that runs the server.
    """
    if accepted.family == socket.AF_UNIX:
        pid, uid = _get_credentials(accepted)
        return Peer(
            name=f"client {number} (pid {pid}, uid {uid})",
            is_owner=uid in (0, owner_uid),
            # Where the system does not tell, the permissions of the socket say who may connect.
            is_local=uid is None,
        )
    host, port = accepted.getpeername()[:2]
    return Peer(
        name=f"client {number} ({host} port {port})",
        is_owner=False,
        is_local=_is_loopback(host),
    )


def _is_loopback(host: str) -> bool:
    address = ip_address(host.partition("%")[0])
    # A socket for both families shows IPv4 addresses inside those of IPv6.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _get_credentials(accepted: socket.socket) -> tuple[int | None, int | None]:
    """Give the process and the user; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None, None
    found = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, _ = _UCRED.unpack(found)
    return pid, uid
