"""What shows one end of a connection to the other: a shared secret, certificates."""

from __future__ import annotations

import os
import ssl
import stat
from typing import NoReturn

from durus.cli._errors import CommandError

__all__ = ["client_tls", "read_secret", "server_tls"]

# Whoever records one handshake can try secrets against it for as long as they like.
_LEAST_SECRET_BYTES = 16
_MOST_SECRET_BYTES = 4096


def read_secret(path: str) -> bytes:
    """Read a shared secret: what is in the file, without white space around it.

    Raises:
        CommandError: others may read the file, or the secret is too short or too long.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        secret = file.read(_MOST_SECRET_BYTES + 1)
    if stat.S_ISREG(mode) and mode & (stat.S_IROTH | stat.S_IWOTH):
        raise CommandError(
            f"the secret in {path!r} is open to every user of this machine: chmod o-rw it, and"
            " make a new one"
        )
    if len(secret) > _MOST_SECRET_BYTES:
        raise CommandError(f"{path!r} is no secret file: it has more than 4,096 bytes")
    secret = secret.strip()
    if len(secret) < _LEAST_SECRET_BYTES:
        raise CommandError(
            f"the secret in {path!r} is too short: {len(secret)} bytes, of at least"
            f" {_LEAST_SECRET_BYTES}; 'openssl rand -hex 32' makes a good one"
        )
    return secret


def server_tls(cert: str, key: str | None, client_ca: str | None) -> ssl.SSLContext:
    """Make the TLS settings of a server.

    Args:
        cert: PEM file with its certificate, and those of the authorities between.
        key: PEM file with the key of the certificate; without it, the key is in `cert`.
        client_ca: PEM file with the authorities whose clients are let in; without it, a client
            needs no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _only_new(context)
    _load_own(context, cert, key)
    if client_ca is not None:
        _trust(context, client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    """Make the TLS settings of a client, which always checks the server's certificate and name.

    Args:
        ca: PEM file with the authority of the server's certificate; without it, those that the
            system trusts.
        cert: PEM file with the client's own certificate, if the server asks for one.
        key: PEM file with its key; without it, the key is in `cert`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _only_new(context)
    if ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _trust(context, ca)
    if cert is not None:
        _load_own(context, cert, key)
    return context


def _only_new(context: ssl.SSLContext) -> None:
    # Both ends are ours and newer than TLS 1.3: nobody needs an older one.
    context.minimum_version = ssl.TLSVersion.TLSv1_3


def _load_own(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    _check_readable(cert, key)
    try:
        context.load_cert_chain(cert, key, password=_refuse_password)
    except ssl.SSLError as error:
        named = f"the certificate in {cert!r}" + (f" with the key in {key!r}" if key else "")
        hint = "" if key else "; is its key in the same file? If not, give --tls-key"
        raise CommandError(f"cannot use {named}: {_own_reason(error)}{hint}") from error


def _trust(context: ssl.SSLContext, ca: str) -> None:
    _check_readable(ca)
    try:
        context.load_verify_locations(ca)
    except ssl.SSLError as error:
        raise CommandError(f"no certificates to trust in {ca!r}: {_reason(error)}") from error


def _check_readable(*paths: str | None) -> None:
    """Let the system say which file is missing: OpenSSL does not."""
    for path in paths:
        if path is not None:
            with open(path, "rb"):
                pass


def _refuse_password() -> NoReturn:
    raise CommandError("the key is encrypted, and nobody is there to type its password")


def _own_reason(error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is that of another certificate"
    # Of a file without what is looked for OpenSSL tells nothing but which part of it looked.
    return _reason(error) if error.reason else "PEM with a certificate and its key is needed"


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()
