"""TLS between a server and its clients, with certificates made for the occasion."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from durus.client_storage import ClientStorage
from durus.error import (
    AuthenticationError,
    CommitUnknownError,
    ProtocolError,
    StorageDisconnectedError,
    StorageError,
)
from durus.storage import MemoryStorage
from durus.testing import commit

from .peers import OldPeer, record, serving
from .proxies import Direction, Proxy

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no `openssl` here to make certificates with"
)

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """Makes certificates.

    Args:
        folder: where they are kept.
        name: its own.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.path = str(folder / f"{name}.pem")
        self._key = str(folder / f"{name}.key")
        # Python 3.13 trusts no authority that does not say what its key is for.
        use = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")
        own = ("-x509", *NEW_KEY, "-subj", f"/CN={name}", "-days", "2", *use)
        self._openssl("req", *own, "-keyout", self._key, "-out", self.path)

    def sign(self, name: str) -> tuple[str, str]:
        """Make a certificate for a host or a user; give its file and that of its key."""
        paths = [str(self._folder / f"{name}.{kind}") for kind in ("pem", "key", "csr", "ext")]
        certificate, key, request, extension = paths
        Path(extension).write_text(
            f"subjectAltName=DNS:{name},IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n"
        )
        self._openssl(
            "req", "-new", *NEW_KEY, "-subj", f"/CN={name}", "-keyout", key, "-out", request
        )
        signer = ("-CA", self.path, "-CAkey", self._key, "-CAcreateserial", "-days", "2")
        self._openssl(
            "x509", "-req", "-in", request, *signer, "-extfile", extension, "-out", certificate
        )
        return certificate, key

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"), "authority")


@pytest.fixture(scope="module")
def server_tls(authority: Authority) -> ssl.SSLContext:
    """Make a server's context, which asks clients for nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("durus.test"))
    return context


@pytest.fixture(scope="module")
def strict_tls(authority: Authority) -> ssl.SSLContext:
    """Make a server's context that asks clients for certificates of our authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.sign("strict.test"))
    context.load_verify_locations(authority.path)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture(scope="module")
def client_tls(authority: Authority) -> ssl.SSLContext:
    """Make a client's context that trusts our authority."""
    return ssl.create_default_context(cafile=authority.path)


def test_a_client_and_a_server_speak_tls(
    tmp_path: Path, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Over TCP, where the certificate has the host's name, and over a Unix socket by `tls_name`."""
    with (
        serving(tmp_path, ssl_context=server_tls, port=0) as server,
        ClientStorage(address=server.address, tls=client_tls) as client,
    ):
        large = record(0, payload=bytes(300_000))
        commit(client, large)
        with client.new_session() as other:
            assert other.load(bytes(8)) == large
    with (
        serving(tmp_path, ssl_context=server_tls),
        ClientStorage(address=str(tmp_path / "s"), tls=client_tls, tls_name="durus.test") as client,
    ):
        commit(client, record(0))
        assert client.load(bytes(8)) == record(0)


def test_a_commit_of_many_megabytes_goes_through_tls(
    tmp_path: Path, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """What does not fit into the buffers of either side arrives whole."""
    with (
        serving(tmp_path, ssl_context=server_tls, port=0) as server,
        ClientStorage(address=server.address, tls=client_tls, compress=True) as client,
    ):
        numbers = [int.from_bytes(client.new_oid(), "big") for _ in range(8)]
        records = [record(n, payload=bytes([n]) * (n << 20)) for n in numbers]
        commit(client, *records)
        assert list(client.bulk_load([found[:8] for found in records])) == records


def test_a_secret_is_proved_within_tls(
    tmp_path: Path, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """A secret may be asked for as well, and a wrong one is refused."""
    with serving(tmp_path, ssl_context=server_tls, port=0, secret=b"sesame") as server:
        with ClientStorage(address=server.address, tls=client_tls, secret=b"sesame") as client:
            client.new_oid()
        for secret in (None, b"wrong"):
            with pytest.raises(AuthenticationError):
                ClientStorage(address=server.address, tls=client_tls, secret=secret)


def test_a_server_of_another_name_or_authority_is_refused(
    tmp_path: Path, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """A client speaks with no server whose certificate is not the one that it expects."""
    foreign = ssl.create_default_context(cafile=Authority(tmp_path, "foreign").path)
    with serving(tmp_path, ssl_context=server_tls, port=0) as server:
        for tls, name in ((client_tls, "other.test"), (foreign, "durus.test")):
            with pytest.raises(AuthenticationError, match="certificate"):
                ClientStorage(address=server.address, tls=tls, tls_name=name)
        with ClientStorage(address=server.address, tls=client_tls) as client:
            client.new_oid()


def test_at_a_unix_socket_the_name_has_to_be_said(
    tmp_path: Path, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """There is no host whose name the certificate could have: the error says what to give."""
    with serving(tmp_path, ssl_context=server_tls) as server:
        with pytest.raises(AuthenticationError, match="tls_name"):
            ClientStorage(address=server.address, tls=client_tls)
        with ClientStorage(address=server.address, tls=client_tls, tls_name="durus.test") as client:
            client.new_oid()


def test_only_clients_with_a_certificate_get_in(
    tmp_path: Path, authority: Authority, strict_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Where certificates are asked for, one of our authority opens; none or another does not.

    Whether the server says why before it hangs up is for its event loop to decide.
    """
    known = ssl.create_default_context(cafile=authority.path)
    known.load_cert_chain(*authority.sign("user"))
    stranger = ssl.create_default_context(cafile=authority.path)
    stranger.load_cert_chain(*Authority(tmp_path, "foreign").sign("user"))
    with serving(tmp_path, ssl_context=strict_tls, port=0) as server:
        for tls in (client_tls, stranger):
            with pytest.raises((AuthenticationError, StorageDisconnectedError)):
                ClientStorage(address=server.address, tls=tls)
        with ClientStorage(address=server.address, tls=known) as client:
            client.new_oid()


def test_one_who_does_not_speak_tls_is_refused(
    tmp_path: Path, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Where one side speaks TLS and the other does not, there is an error and no conversation."""
    with serving(tmp_path), pytest.raises(StorageError, match="TLS"):
        ClientStorage(address=str(tmp_path / "s"), tls=client_tls, tls_name="durus.test")
    with serving(tmp_path, ssl_context=server_tls):
        with pytest.raises((ProtocolError, StorageDisconnectedError)):
            ClientStorage(address=str(tmp_path / "s"))
        with pytest.raises((EOFError, ConnectionError)):
            OldPeer(tmp_path / "s")


@pytest.mark.parametrize("direction", ["request", "reply"])
def test_a_commit_that_is_cut_within_tls_is_told_as_what_it_is(
    tmp_path: Path,
    server_tls: ssl.SSLContext,
    client_tls: ssl.SSLContext,
    direction: Direction,
) -> None:
    """Cut within a record of TLS, a commit is unknown, and the next `sync()` connects again."""
    storage = MemoryStorage()
    commit(storage, record(0))
    with (
        serving(tmp_path, storage, ssl_context=server_tls) as server,
        Proxy(str(tmp_path / "p"), server.address) as proxy,
        ClientStorage(address=proxy.path, tls=client_tls, tls_name="durus.test") as client,
    ):
        for after_bytes in range(20):
            client.load(bytes(8))
            proxy.newest.cut(direction, after_bytes)
            with pytest.raises(CommitUnknownError):
                commit(client, record(0, payload=b"%d" % after_bytes))
            assert client.sync() is None
            is_done = client.load(bytes(8)) == record(0, payload=b"%d" % after_bytes)
            assert is_done is (direction == "reply")
