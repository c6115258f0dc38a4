"""Where a server listens: TCP, Unix sockets, abstract ones, and one that was handed down.

Source of the names: durus.storage_server of Durus 4.3. `LISTEN_FDS`: sd_listen_fds(3) of systemd.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from ipaddress import ip_address

from durus.error import StorageDisconnectedError

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "HostPortAddress",
    "InheritedSocket",
    "SocketAddress",
    "UnixAbstractAddress",
    "UnixDomainSocketAddress",
    "inherited_socket",
    "is_loopback",
    "parse_host_port",
]

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 2972

_BACKLOG = 1024
_FIRST_INHERITED_FD = 3

# What connecting to a Unix socket says when nobody listens.
_NOBODY = frozenset({errno.ECONNREFUSED, errno.ENOENT})

# Between attempts to connect to a Unix socket whose queue is full.
_PAUSE_S = 0.01


class SocketAddress(ABC):
    """A place to listen or to connect to."""

    @staticmethod
    def new(
        address: SocketAddress | str | tuple[str, int] | socket.socket,
        **options: str | int | None,
    ) -> SocketAddress:
        """Make an address of any of its spellings.

        Args:
            address: an address, (host, port), a listening socket, the path of a Unix socket, or
                `@name` for an abstract one.
            options: owner, group and umask of a Unix socket; see `UnixDomainSocketAddress`.

        Raises:
            ValueError: it is none of them, or has options that it cannot have.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if isinstance(address, str) and address and not address.startswith(("@", "\0")):
            return UnixDomainSocketAddress(address, **given)  # type: ignore[arg-type]  # checked there
        if given:
            raise ValueError(f"only a Unix socket with a path has {', '.join(sorted(given))}")
        if isinstance(address, SocketAddress):
            return address
        if isinstance(address, str) and address:
            return UnixAbstractAddress(address[1:])
        if isinstance(address, socket.socket):
            return InheritedSocket(address)
        if isinstance(address, tuple) and len(address) == 2:
            return HostPortAddress(*address)
        raise ValueError(f"an address is (host, port), a path or '@name', got {address!r:.80}")

    @abstractmethod
    def get_listening_socket(self) -> socket.socket:
        """Begin to listen.

        Raises:
            OSError: somebody listens there, or the system refuses.
        """

    @abstractmethod
    def get_connected_socket(self, timeout_s: float | None = None) -> socket.socket:
        """Connect.

        Args:
            timeout_s: how long to wait for a server that is too busy to take us; None is for ever.

        Raises:
            StorageDisconnectedError: nobody listens there, the time is over, or the system refuses.
        """

    def close(self, listening: socket.socket) -> None:
        """Stop listening."""
        listening.close()


class HostPortAddress(SocketAddress):
    """TCP, over IPv4 or IPv6.

    Args:
        host: a name or a number; "" for all interfaces.
        port: 0 to listen at any that is free; `get_listening_socket` then says which.
    """

    def __init__(self, host: str = DEFAULT_HOST, port: int = DEFAULT_PORT) -> None:
        if not isinstance(host, str) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise ValueError(f"a TCP address is a host and a port, got {(host, port)!r:.80}")
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def get_listening_socket(self) -> socket.socket:
        try:
            family, _, _, _, place = socket.getaddrinfo(
                self.host or None, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except OSError as error:
            raise _not_listening(self, error) from error
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            raise _not_listening(self, error) from error
        self.port = listening.getsockname()[1]
        return listening

    def get_connected_socket(self, timeout_s: float | None = None) -> socket.socket:
        try:
            connected = socket.create_connection((self.host, self.port), timeout_s)
        except OSError as error:
            raise _disconnected(self, error, timeout_s) from error
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connected


class UnixDomainSocketAddress(SocketAddress):
    """A Unix socket with a path.

    Args:
        filename: the path.
        owner: name or number of who is to own the file.
        group: name or number of the file's group.
        umask: the permissions that the file is not to have; without it, those of the process.
    """

    def __init__(
        self,
        filename: str,
        owner: str | int | None = None,
        group: str | int | None = None,
        umask: int | None = None,
    ) -> None:
        self.filename = filename
        self.owner = owner
        self.group = group
        self.umask = umask
        self._identity: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.filename

    def get_listening_socket(self) -> socket.socket:
        uid, gid = _uid(self.owner), _gid(self.group)
        self._remove_stale()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._bind(listening)
            self._identity = _identity(self.filename)
            if uid != -1 or gid != -1:
                os.chown(self.filename, uid, gid)
            listening.listen(_BACKLOG)
        except OSError as error:
            self.close(listening)
            raise _not_listening(self, error) from error
        return listening

    def _bind(self, listening: socket.socket) -> None:
        if self.umask is None:
            listening.bind(self.filename)
            return
        before = os.umask(self.umask)
        try:
            listening.bind(self.filename)
        finally:
            os.umask(before)

    def _remove_stale(self) -> None:
        """Remove the socket of a server that has gone; leave anything else.

        Raises:
            OSError: somebody listens there, or it is no socket.
        """
        try:
            mode = os.lstat(self.filename).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise FileExistsError(errno.EEXIST, f"{self.filename} is there, and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # Not to wait for a server whose queue of new clients is full.
            probe.setblocking(False)
            try:
                probe.connect(self.filename)
            except OSError as error:
                if error.errno not in _NOBODY:
                    raise OSError(
                        errno.EADDRINUSE, f"cannot listen at {self}: {error.strerror}"
                    ) from error
            else:
                raise OSError(errno.EADDRINUSE, f"a server listens at {self} already")
        with suppress(FileNotFoundError):
            os.unlink(self.filename)

    def get_connected_socket(self, timeout_s: float | None = None) -> socket.socket:
        return _connect_unix(self, self.filename, timeout_s)

    def close(self, listening: socket.socket) -> None:
        """Stop listening, and remove the file if it is still the one that was made."""
        listening.close()
        identity, self._identity = self._identity, None
        with suppress(OSError):
            if identity is not None and _identity(self.filename) == identity:
                os.unlink(self.filename)


class UnixAbstractAddress(SocketAddress):
    """A Unix socket without a file, as Linux has them; it is gone with its server.

    Args:
        name: the name, without what marks it as abstract.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return f"@{self.name}"

    def get_listening_socket(self) -> socket.socket:
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind("\0" + self.name)
            listening.listen(_BACKLOG)
        except OSError as error:
            listening.close()
            raise _not_listening(self, error) from error
        return listening

    def get_connected_socket(self, timeout_s: float | None = None) -> socket.socket:
        return _connect_unix(self, "\0" + self.name, timeout_s)


class InheritedSocket(SocketAddress):
    """A socket that listens already: systemd's, or a test's.

    Args:
        sock: the socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def __str__(self) -> str:
        name = self.socket.getsockname()
        if isinstance(name, tuple):
            return str(HostPortAddress(name[0], name[1]))
        text = os.fsdecode(name)
        return "@" + text[1:] if text.startswith("\0") else text

    def get_listening_socket(self) -> socket.socket:
        return self.socket

    def get_connected_socket(self, timeout_s: float | None = None) -> socket.socket:
        name = self.socket.getsockname()
        address = HostPortAddress(name[0], name[1]) if isinstance(name, tuple) else None
        if address is not None:
            return address.get_connected_socket(timeout_s)
        return _connect_unix(self, name, timeout_s)


def inherited_socket() -> InheritedSocket | None:
    """Give the listening socket that systemd handed to this process, if it did.

    Raises:
        ValueError: it handed down several, or something that is no socket.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = int(os.environ.get("LISTEN_FDS", "0") or "0")
    # So that no child takes them for its own.
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if count == 0:
        return None
    if count > 1:
        raise ValueError(f"one listening socket is served, and {count} were handed down")
    try:
        sock = socket.socket(fileno=_FIRST_INHERITED_FD)
    except OSError as error:
        raise ValueError(f"what was handed down is no socket: {error.strerror}") from error
    os.set_inheritable(_FIRST_INHERITED_FD, False)
    return InheritedSocket(sock)


def is_loopback(address: SocketAddress) -> bool:
    """Tell whether only this machine can connect to an address.

    Raises:
        OSError: its host is unknown.
    """
    if isinstance(address, InheritedSocket):
        name = address.socket.getsockname()
        return not isinstance(name, tuple) or ip_address(name[0].partition("%")[0]).is_loopback
    if not isinstance(address, HostPortAddress):
        return True
    if not address.host:
        return False
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _not_listening(address, error) from error
    return all(ip_address(str(place[4][0]).partition("%")[0]).is_loopback for place in found)


def parse_host_port(text: str) -> HostPortAddress:
    """Read `host`, `host:port` or `[IPv6]:port`; the host and the port have defaults.

    Raises:
        ValueError: the port is no number from 0 to 65535.
    """
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        if port and not port.startswith(":"):
            raise ValueError(f"{text!r:.80} is no [host]:port")
        port = port[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdigit()):
        raise ValueError(f"the port in {text!r:.80} is no number")
    return HostPortAddress(host or DEFAULT_HOST, int(port) if port else DEFAULT_PORT)


def _connect_unix(
    address: SocketAddress, name: str | bytes, timeout_s: float | None
) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout_s)
        _connect_when_taken(connected, name, timeout_s)
    except OSError as error:
        connected.close()
        raise _disconnected(address, error, timeout_s) from error
    return connected


def _connect_when_taken(
    connected: socket.socket, name: str | bytes, timeout_s: float | None
) -> None:
    """Connect to a Unix socket, and wait for the server if its queue of new clients is full.

    Without a limit the system waits. With one it refuses at once, and has nothing to wait for.
    """
    give_up = time.monotonic() + (timeout_s or 0)
    while True:
        try:
            connected.connect(name)
            return
        except BlockingIOError as error:
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from error
        time.sleep(min(_PAUSE_S, left_s))


def _not_listening(address: SocketAddress, error: OSError) -> OSError:
    text = f"cannot listen at {address}: {error.strerror}"
    if error.errno == errno.EADDRINUSE:
        text += "; stop what listens there ('durus status' asks a server), or choose another place"
    return OSError(error.errno, text)


def _disconnected(
    address: SocketAddress, error: OSError, timeout_s: float | None
) -> StorageDisconnectedError:
    if isinstance(error, TimeoutError) and timeout_s is not None:
        return StorageDisconnectedError(
            f"cannot connect to the server at {address}: it did not answer within {timeout_s:g} s"
        )
    text = f"cannot connect to the server at {address}: {error.strerror or error}"
    if isinstance(error, ConnectionRefusedError | FileNotFoundError):
        text += "; no server runs there: start it with 'durus serve'"
    elif isinstance(error, socket.gaierror):
        text += "; durus: takes the name of a host, and a file is named without it"
    return StorageDisconnectedError(text)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _uid(owner: str | int | None) -> int:
    if owner is None:
        return -1
    try:
        return int(owner)
    except ValueError:
        pass
    try:
        return pwd.getpwnam(str(owner)).pw_uid
    except KeyError:
        raise ValueError(f"there is no user {owner!r} to own the socket") from None


def _gid(group: str | int | None) -> int:
    if group is None:
        return -1
    try:
        return int(group)
    except ValueError:
        pass
    try:
        return grp.getgrnam(str(group)).gr_gid
    except KeyError:
        raise ValueError(f"there is no group {group!r} for the socket") from None
