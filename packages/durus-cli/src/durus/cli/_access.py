"""How to be let in by a server: waiting for it, a secret, TLS."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from durus.cli._credentials import client_tls, read_secret
from durus.cli._output import one_line
from durus.error import StorageDisconnectedError
from durus.storage import Storage

__all__ = ["FILE", "Access", "access_options", "open_waiting"]

FILE = click.Path(dir_okay=False)

# As long as Durus 4.3 does.
_DEFAULT_WAIT_S = 600.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Access:
    """What a client shows to a server, and how long it waits for one.

    Attributes:
        secret_file: file with the secret that both know.
        tls: speak TLS.
        tls_ca: PEM file with the authority of the server's certificate.
        tls_cert: PEM file with the client's certificate.
        tls_key: PEM file with the key of the client's certificate.
        tls_name: the name that the server's certificate must have, if not that of its host.
        wait: how long to wait for a server that is not there, in seconds; None is the default.
    """

    secret_file: str | None = None
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_name: str | None = None
    wait: float | None = None

    def asked_for(self) -> list[str]:
        """Give the options that a person used."""
        return [
            "--" + name.replace("_", "-")
            for name in self.__slots__
            if getattr(self, name) not in {None, False}
        ]

    def keywords(self) -> dict[str, Any]:
        """Give what the client's storage class is called with.

        Raises:
            CommandError: a file holds no secret, no certificate, no key.
            OSError: a file cannot be read.
        """
        keywords: dict[str, Any] = {}
        if self.secret_file is not None:
            keywords["secret"] = read_secret(self.secret_file)
        if self.tls or self.tls_ca or self.tls_cert or self.tls_key or self.tls_name:
            if self.tls_key and not self.tls_cert:
                raise click.UsageError("--tls-key needs the certificate: --tls-cert")
            keywords["tls"] = client_tls(self.tls_ca, self.tls_cert, self.tls_key)
            if self.tls_name is not None:
                keywords["tls_name"] = self.tls_name
        return keywords


def access_options(function: _Function) -> _Function:
    """Add what an `Access` is made of."""
    for add in (
        click.option(
            "--wait",
            type=click.FloatRange(min=0),
            metavar="SECONDS",
            help="How long to wait for a server that is not there (yet).",
        ),
        click.option("--tls-name", metavar="NAME", help="Name in the server's certificate. [host]"),
        click.option("--tls-key", type=FILE, help="Key of --tls-cert, if it is not in there."),
        click.option("--tls-cert", type=FILE, help="Your own certificate (PEM)."),
        click.option("--tls-ca", type=FILE, help="Who signed the server's certificate (PEM)."),
        click.option("--tls", is_flag=True, help="Speak TLS; any option --tls-... implies it."),
        click.option("--secret-file", type=FILE, help="File with the secret of the server."),
    ):
        function = add(function)
    return function


def open_waiting(open_: Callable[[], Storage], name: str, wait_s: float | None = None) -> Storage:
    """Open a client's storage as soon as its server is there.

    Args:
        open_: opens it, or raises StorageDisconnectedError.
        name: the server's URL, for the message.
        wait_s: for how many seconds to try; None is as long as Durus 4.3 does.

    Raises:
        StorageDisconnectedError: the server did not come in time.
    """
    limit_s = _DEFAULT_WAIT_S if wait_s is None else wait_s
    give_up = time.monotonic() + limit_s
    pause_s = 0.0
    said = ""
    while True:
        try:
            return open_()
        except StorageDisconnectedError as error:
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                raise
            text = f"waiting for {one_line(name)}"
            if isinstance(error.__cause__, ConnectionRefusedError | FileNotFoundError):
                text += " to be started with 'durus serve'"
            else:
                # Somebody is there, and it may be of no use to wait.
                text += f": {one_line(str(error))}"
        if text != said:
            print(f"durus: {text} (Ctrl-C ends it)", file=sys.stderr)
            said = text
        pause_s = min(max(2 * pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        time.sleep(min(pause_s, left_s))
