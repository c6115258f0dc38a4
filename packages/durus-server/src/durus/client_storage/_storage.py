"""The storage contract on a connection to a server."""

from __future__ import annotations

import os
import random
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from struct import Struct

from durus._wire.address import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    HostPortAddress,
    SocketAddress,
    UnixDomainSocketAddress,
    parse_host_port,
)
from durus.client_storage._protocol_1 import Protocol1
from durus.client_storage._protocol_2 import Protocol2
from durus.client_storage._transport import Transport
from durus.error import (
    AuthenticationError,
    DurusError,
    NotSupportedError,
    ProtocolError,
    StorageClosedError,
    StorageDisconnectedError,
    StorageError,
    StorageReadOnlyError,
    StorageTransactionError,
)
from durus.logger import logger
from durus.storage import Storage, StorageDescription, check_oid, check_record

__all__ = ["ClientStorage", "TcpClientStorage", "UnixClientStorage"]

_VERSION = Struct(">L")

_LOAD_BATCH = 500
_FIRST_OIDS = 16
_MOST_OIDS = 4096

_RECONNECT_S = 10.0
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 1.0
_GONE_S = 10.0


class ClientStorage(Storage):
    """A storage that a server keeps: ours, or one of Durus 4.3.

    It is one session of the server, for one thread at a time. When the connection is lost, whatever
    is asked raises StorageDisconnectedError until `sync()` (so `abort()` of a Connection), which
    connects again: what a transaction reads is never half from before and half from after.

    Args:
        host: of the server, if there is no `address`.
        port: the same.
        address: path of a Unix socket (`@name` for an abstract one), (host, port), or a
            SocketAddress.
        secret: what the server and this client prove to each other that they know.
        tls: speak TLS, with what this context says of certificates.
        tls_name: the name that the server's certificate must have, if not that of its host.
        compress: have both sides compress what is worth it.
        readonly: refuse every change, whatever the server allows.
        timeout_s: how long to wait for a server that does not answer; None is for ever. Packing by
            protocol 1 is not limited: its only answer comes at the end.
        wait_s: for how long to try again while nobody listens.

    Raises:
        StorageDisconnectedError: there is no server.
        AuthenticationError: it refused us, or could not prove who it is.
        ProtocolError: what answers is no server of Durus.
    """

    can_pack = True
    can_share = True
    can_open_readonly = True

    def __init__(
        self,
        host: str = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        address: SocketAddress | str | tuple[str, int] | None = None,
        *,
        secret: bytes | None = None,
        tls: ssl.SSLContext | None = None,
        tls_name: str | None = None,
        compress: bool = False,
        readonly: bool = False,
        timeout_s: float | None = None,
        wait_s: float = 0.0,
    ) -> None:
        if secret is not None and not secret:
            raise ValueError("an empty secret proves nothing; leave it out to prove none")
        self._address = SocketAddress.new((host, port) if address is None else address)
        self._secret = secret
        self._tls = tls
        self._tls_name = tls_name
        self._compress = compress
        self._readonly = readonly
        self._timeout_s = timeout_s
        self._is_closed = False
        self._records: dict[bytes, bytes] | None = None
        # Those that the server has given and nobody has taken yet.
        self._oids: dict[bytes, None] = {}
        self._oid_batch = _FIRST_OIDS
        # What a commit told only after it was done: the next sync() gives it.
        self._untold: set[bytes] = set()
        self._is_lost = False
        self._pid = os.getpid()
        self._server = self._connect_within(wait_s)
        self._database = self._server.database

    def __str__(self) -> str:
        return f"{type(self).__name__}({str(self._address)!r})"

    # -- connecting

    def _connect(self) -> Protocol1 | Protocol2:
        transport = self._open_transport()
        try:
            version = self._choose(transport, 2)
            if version == 2:
                return Protocol2(transport, self._secret, compress=self._compress)
            if version != 1 or self._secret is not None or self._tls is not None:
                raise ProtocolError(
                    f"the server at {self._address} speaks version {version} of the protocol"
                    " alone, which knows neither secrets nor TLS"
                    if version == 1
                    else f"what answers at {self._address} is no server of Durus"
                )
            transport.close()
            transport = self._open_transport()
            if self._choose(transport, 1) != 1:
                raise ProtocolError(f"what answers at {self._address} is no server of Durus")
            return Protocol1(transport)
        except BaseException as error:
            transport.close()
            cause = error.__cause__
            if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError):
                # A server says only after the handshake that it does not take our certificate.
                raise AuthenticationError(
                    f"the server at {self._address} refused this client: {cause}"
                ) from cause
            raise

    def _open_transport(self) -> Transport:
        connected = self._address.get_connected_socket(self._timeout_s)
        if self._tls is not None:
            name = self._tls_name
            if name is None and isinstance(self._address, HostPortAddress):
                name = self._address.host
            if name is None and self._tls.check_hostname:
                connected.close()
                raise AuthenticationError(
                    f"cannot speak TLS with the server at {self._address}: it has no host whose"
                    " name the certificate could have; say which name it has (tls_name=,"
                    " --tls-name)"
                )
            try:
                connected = self._tls.wrap_socket(connected, server_hostname=name)
            except (OSError, ValueError) as error:
                connected.close()
                # Who hangs up in the middle may come back; who refuses, or is refused, will not.
                is_lost = not isinstance(error, ssl.SSLError | ValueError)
                is_lost = is_lost or isinstance(error, ssl.SSLEOFError)
                kind = StorageDisconnectedError if is_lost else AuthenticationError
                raise kind(
                    f"cannot speak TLS with the server at {self._address}: {error}"
                ) from error
        return Transport(connected, str(self._address), self._timeout_s)

    def _choose(self, transport: Transport, version: int) -> int:
        with transport:
            transport.send(b"V" + _VERSION.pack(version))
            (answer,) = _VERSION.unpack(transport.read(4))
            transport.finish()
        return int(answer)

    def _reconnect(self) -> None:
        """Connect again.

        Raises:
            StorageDisconnectedError: the server did not come back in time, or has another database.
        """
        self._forget_server()
        server = self._connect_within(_RECONNECT_S, tells=True)
        # A server of protocol 1 does not tell.
        if None not in {server.database, self._database} and server.database != self._database:
            server._transport.close()
            raise StorageDisconnectedError(
                f"the server at {self._address} came back with another database than the one whose"
                " objects this client has; close it, and open another"
            )
        self._server = server
        self._database = self._database or server.database
        self._pid = os.getpid()
        self._is_lost = False

    def _connect_within(self, wait_s: float, *, tells: bool = False) -> Protocol1 | Protocol2:
        give_up = time.monotonic() + wait_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return self._connect()
            except StorageDisconnectedError:
                if time.monotonic() >= give_up:
                    raise
                if tells:
                    logger.warning(
                        "the server at %s is gone; waiting up to %g s for it", self._address, wait_s
                    )
                    tells = False
            # Jittered, so that the clients of a server that comes back do not come all at once.
            time.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - no secret
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _forget_server(self) -> None:
        self._is_lost = True
        self._server._transport.close()
        self._records = None
        self._oids.clear()
        self._untold.clear()

    def _check(self) -> None:
        if self._is_closed:
            raise StorageClosedError(f"{self} is closed; open it again")
        if self._pid != os.getpid():
            # The connection is the parent's: to use it, or to say goodbye, would end that one's.
            self._is_lost = True
            raise StorageDisconnectedError(
                f"the connection to the server at {self._address} belongs to process {self._pid},"
                " from before a fork; abort() makes another"
            )
        if self._is_lost or not self._server._transport.is_open:
            self._is_lost = True
            raise StorageDisconnectedError(
                f"the connection to the server at {self._address} was lost; abort() connects again,"
                " and so does a command that is run again"
            )

    # -- the contract

    def load(self, oid: bytes) -> bytes:
        check_oid(oid)
        self._check()
        return self._server.load(oid)

    def bulk_load(self, oids: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the record of each oid, in order; asked for in batches."""
        rest = iter(oids)
        while batch := list(islice(rest, _LOAD_BATCH)):
            for oid in batch:
                check_oid(oid)
            self._check()
            for answer in self._server.load_many(batch):
                if isinstance(answer, DurusError):
                    raise answer
                yield answer

    def begin(self) -> None:
        self._check()
        self._check_writable()
        self._records = {}

    def store(self, oid: bytes, record: bytes) -> None:
        self._check()
        if self._records is None:
            raise StorageTransactionError("store() needs a begin() first")
        check_record(oid, record)
        self._records[bytes(oid)] = bytes(record)
        self._oids.pop(oid, None)

    def end(self, handle_invalidations: Callable[[list[bytes]], None] | None = None) -> None:
        """Commit as the contract says.

        Raises:
            CommitUnknownError: the connection was lost in it: it is stored, or nothing of it is.
        """
        self._check()
        records, self._records = self._records, None
        if records is None:
            raise StorageTransactionError("end() needs a begin() first")
        if not records:
            return
        size = sum(len(record) + 12 for record in records.values())
        if size > self._server.most_transaction_bytes:
            raise StorageError(
                f"tried to commit {size} bytes, and the server at {self._address} takes"
                f" {self._server.most_transaction_bytes}; commit in smaller transactions"
            )
        self._untold.update(self._server.commit(records, handle_invalidations))

    def sync(self) -> list[bytes] | None:
        """Move to the newest state; connect again, if the connection was lost.

        Raises:
            StorageDisconnectedError: the server is not there.
        """
        try:
            self._check()
            stale = self._server.sync()
        except StorageDisconnectedError:
            self._reconnect()
            stale = None
        untold, self._untold = self._untold, set()
        if stale is None:
            self._oids.clear()
            return None
        return list(untold.union(stale)) if untold else stale

    def new_oid(self) -> bytes:
        self._check()
        self._check_writable()
        while True:
            if not self._oids:
                self._oids = dict.fromkeys(reversed(self._server.new_oids(self._oid_batch)))
                self._oid_batch = min(2 * self._oid_batch, _MOST_OIDS)
            oid = self._oids.popitem()[0]
            if self._records is None or oid not in self._records:
                return oid

    def _check_writable(self) -> None:
        if self._readonly:
            raise StorageReadOnlyError(f"tried to change {self}, which was opened read-only")
        if self._server.readonly:
            raise StorageReadOnlyError(f"tried to change {self}, which is served read-only")

    def describe(self) -> StorageDescription:
        self._check()
        return self._server.describe()

    @property
    def keeps_history(self) -> bool:  # type: ignore[override]  # the server says it, not a caller
        """Tell whether the server tells of the past: it serves a file that keeps it."""
        return isinstance(self._server, Protocol2) and self._server.keeps_history

    def gen_commits(self) -> Iterator[tuple[int, datetime]]:
        """Yield serial and time of each commit as of which the data can be read, oldest first.

        They come the newest first, so they are all in memory, with some 100 bytes each.

        Raises:
            NotSupportedError: the server does not tell of the past.
        """
        return reversed(list(self._past(0).gen_commits_back()))

    def gen_changes(self, serial: int) -> Iterator[tuple[bytes, bytes]]:
        yield from self._past(serial).gen_changes(serial)

    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        check_oid(oid)
        return self._past(serial).load_as_of(oid, serial)

    def _past(self, serial: int) -> Protocol2:
        self._check()
        server = self._server
        if not isinstance(server, Protocol2) or not server.keeps_history:
            raise NotSupportedError(
                f"the server at {self._address} tells nothing of the past: what it serves keeps no"
                " history, or it is of an older version; give the file that it serves, which is"
                " opened read-only beside it"
            )
        if not 0 <= serial < 1 << 64:
            raise StorageError(f"tried to read as of commit {serial}, which is none")
        return server

    def new_session(self) -> ClientStorage:
        """Connect once more."""
        if self._is_closed:
            raise StorageClosedError(f"{self} is closed; open it again")
        return ClientStorage(
            address=self._address,
            secret=self._secret,
            tls=self._tls,
            tls_name=self._tls_name,
            compress=self._compress,
            readonly=self._readonly,
            timeout_s=self._timeout_s,
        )

    def get_packer(self) -> Iterator[object]:
        """Have the server pack, and yield how many objects it has kept, as far as it tells."""
        self._check()
        self._check_writable()
        return self._server.gen_pack()

    def close(self) -> None:
        if self._is_closed:
            return
        with suppress(StorageDisconnectedError, StorageClosedError):
            self._check()
            self._server.leave()
        self._is_closed = True
        self._records = None
        self._server._transport.close()

    # -- the server

    def status(self) -> dict[str, object]:
        """Ask how the server does.

        Raises:
            NotSupportedError: it is one of Durus 4.3.
        """
        self._check()
        return self._server.status()

    def stop_server(self) -> None:
        """Have the server end, and wait until it is gone.

        Raises:
            AuthenticationError: it does not take that from this client.
        """
        self._check()
        self._server.stop_server()
        self._forget_server()
        give_up = time.monotonic() + _GONE_S
        while time.monotonic() < give_up:
            try:
                self._address.get_connected_socket().close()
            except StorageDisconnectedError:
                return
            time.sleep(_FIRST_PAUSE_S)


class TcpClientStorage(ClientStorage):
    """What `durus://host:port` opens.

    Args:
        place: `host`, `host:port` or `[IPv6]:port`.
        secret_file: a file with the secret; white space around it does not count.
    """

    def __init__(
        self,
        place: str = f"{DEFAULT_HOST}:{DEFAULT_PORT}",
        *,
        secret_file: str | None = None,
        secret: bytes | None = None,
        tls: ssl.SSLContext | None = None,
        tls_name: str | None = None,
        compress: bool = False,
        readonly: bool = False,
        timeout_s: float | None = None,
        wait_s: float = 0.0,
    ) -> None:
        super().__init__(
            address=parse_host_port(place),
            secret=_secret_of(secret, secret_file),
            tls=tls,
            tls_name=tls_name,
            compress=compress,
            readonly=readonly,
            timeout_s=timeout_s,
            wait_s=wait_s,
        )


class UnixClientStorage(ClientStorage):
    """What `durus+unix:/path` opens.

    Args:
        path: of the socket; `@name` for an abstract one.
        secret_file: a file with the secret; white space around it does not count.
    """

    def __init__(
        self,
        path: str,
        *,
        secret_file: str | None = None,
        secret: bytes | None = None,
        tls: ssl.SSLContext | None = None,
        tls_name: str | None = None,
        compress: bool = False,
        readonly: bool = False,
        timeout_s: float | None = None,
        wait_s: float = 0.0,
    ) -> None:
        super().__init__(
            address=path if path.startswith("@") else UnixDomainSocketAddress(path),
            secret=_secret_of(secret, secret_file),
            tls=tls,
            tls_name=tls_name,
            compress=compress,
            readonly=readonly,
            timeout_s=timeout_s,
            wait_s=wait_s,
        )


def _secret_of(secret: bytes | None, secret_file: str | None) -> bytes | None:
    if secret_file is None:
        return secret
    with open(secret_file, "rb") as file:
        return file.read().strip()
