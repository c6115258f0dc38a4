"""`durus serve`: one storage for many clients, as `durus -s` of Durus 4.3 and with its options."""

from __future__ import annotations

import grp
import logging
import logging.handlers
import os
import pwd
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, NoReturn

import click

from durus.cli._access import FILE, access_options
from durus.cli._credentials import read_secret, server_tls
from durus.cli._output import one_line
from durus.cli._server import (
    Place,
    ServerOptions,
    listening_address,
    new_server,
    require_server,
    stop_server,
)
from durus.cli._target import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    Target,
    database_argument,
    file_options,
    named_once,
    open_target,
    server_target,
)
from durus.logger import logger

__all__ = ["serve"]

# What a server does not need to know of a client.
_FOR_STOP = ("tls", "tls_ca", "tls_name", "wait")


def _umask(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    """Read a umask as Durus 4.3 does: octal if it starts with 0, else decimal."""
    if text is None:
        return None
    try:
        umask = int(text, 8 if text.startswith("0") else 10)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no number (a leading 0 makes it octal)") from None
    if not 0 <= umask <= 0o777:
        raise click.BadParameter(f"{text!r} is not within 0 and 0777 (a leading 0 makes it octal)")
    return umask


def _level(_ctx: click.Context, _param: click.Parameter, text: str) -> int:
    """Read a level of the log: a number as in Durus 4.3, or a name of `logging`."""
    if text.isdecimal():
        return int(text)
    level = logging.getLevelNamesMapping().get(text.upper())
    if level is None:
        raise click.BadParameter(f"{text!r} is no level: a number, or debug, info, warning, error")
    return level


def _known(
    kind: str, find: Callable[[str], Any]
) -> Callable[[click.Context, click.Parameter, str | None], str | int | None]:
    """Make a check that a name is one of this machine's; numbers are taken as they are."""

    def check(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | int | None:
        if text is None:
            return None
        if text.isdecimal():
            return int(text)
        try:
            find(text)
        except (KeyError, ValueError):
            raise click.BadParameter(f"there is no {kind} {text!r} here") from None
        return text

    return check


@click.command(short_help="Serve a database to many clients.")
@database_argument(required=False)
@click.option("--host", help=f"Name or number to listen on. [{DEFAULT_HOST}]")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"Port to listen on; 0 is any free one. [{DEFAULT_PORT}]",
)
@click.option(
    "--address", metavar="PATH", help="Listen on this Unix domain socket; @NAME is abstract."
)
@click.option("--owner", callback=_known("user", pwd.getpwnam), help="Owner of the socket's file.")
@click.option("--group", callback=_known("group", grp.getgrnam), help="Group of the socket's file.")
@click.option(
    "--umask", callback=_umask, help="What the socket's file is not to allow, such as 007."
)
@file_options
@click.option("--readonly", is_flag=True, help="Open the file for reading, and refuse commits.")
@click.option("--repair", is_flag=True, help="Keep of a damaged file what still proves itself.")
@click.option(
    "--no-sync",
    is_flag=True,
    help="Do not wait for the disk: faster, and a crash of the machine may lose the last commits.",
)
@click.option(
    "--gcbytes",
    type=click.IntRange(min=0),
    default=0,
    help="Pack whenever commits have written so many bytes; 0 is never.",
)
@click.option("--allow-protocol-1", is_flag=True, help="With a secret or TLS: let Durus 4.3 in.")
@click.option("--insecure", is_flag=True, help="Let other machines in without a secret or TLS.")
@click.option("--tls-client-ca", type=FILE, help="Let only clients in that it signed (PEM).")
@access_options
@click.option(
    "--logginglevel", callback=_level, default="20", help="What to log: 10 is all, 20 events."
)
@click.option("--logfile", type=FILE, help="Log to this file, not to stderr.")
@click.option("--stop", is_flag=True, help="Stop the server that is running at this place.")
def serve(
    database: str | None,
    file: str | None,
    storage_class: str | None,
    readonly: bool,
    repair: bool,
    no_sync: bool,
    logginglevel: int,
    logfile: str | None,
    stop: bool,
    **options: Any,
) -> None:
    """Serve DATABASE, a file or a URL, to clients such as 'durus shell'; make it if it is new.

    Without DATABASE the storage is a temporary file. The server ends at Ctrl-C, at SIGTERM, or when
    'durus serve --stop' with the same place asks it to: commits under way are finished first.

    Clients on other machines need --secret-file or --tls-cert with --tls-client-ca, so that not
    everybody is let in.
    """
    require_server()
    if stop:
        if database is not None or file is not None:
            raise click.UsageError(
                "--stop stops the server at a place, whatever it serves: name no database"
            )
        _stop(options)
        return
    place, server_options = _place(options), _server_options(options, readonly)
    # A back-end that lacks an option is bothered only by those who ask for it.
    wanted = {"readonly": (readonly, True), "repair": (repair, True), "durable": (no_sync, False)}
    storage_options = {name: value for name, (is_wanted, value) in wanted.items() if is_wanted}
    _log_to(logfile, logginglevel)
    with ExitStack() as stack:
        stack.enter_context(_ended_by_signals())
        address = listening_address(place, server_options)
        name = named_once(database, file)
        if name is None:
            if readonly or repair or storage_class is not None:
                raise click.UsageError("no database is named, and a temporary one is new and whole")
            name = stack.enter_context(_temporary_file())
        target = Target(name, storage_class=storage_class)
        if target.asks_a_server():
            raise click.UsageError(f"{name!r} is served already, by another server")
        path = target.path()
        did = "made" if path is not None and not os.path.exists(path) else "opened"
        storage = stack.enter_context(open_target(target, create=not readonly, **storage_options))
        logger.info("%s %s (%s)", did, one_line(name), type(storage).__name__)
        new_server(storage, address, server_options).serve()


def _stop(options: dict[str, Any]) -> None:
    """Stop the server at a place, and return when it is gone."""
    access = {name: options[name] for name in ("secret_file", "tls_cert", "tls_key", *_FOR_STOP)}
    access["wait"] = access["wait"] or 0.0
    target = server_target(None, options["host"], options["port"], options["address"], **access)
    with open_target(target) as client:
        stop_server(client)


def _place(options: dict[str, Any]) -> Place:
    host, port, address = options["host"], options["port"], options["address"]
    if address is not None and (host is not None or port is not None):
        raise click.UsageError("give --address, or --host and --port, not both")
    for name in ("owner", "group", "umask"):
        if options[name] is not None and (address is None or address.startswith("@")):
            raise click.UsageError(f"--{name} is for the socket's file: --address PATH")
    return Place(
        host=DEFAULT_HOST if host is None else host,
        port=DEFAULT_PORT if port is None else port,
        address=address,
        owner=options["owner"],
        group=options["group"],
        umask=options["umask"],
    )


def _server_options(options: dict[str, Any], readonly: bool) -> ServerOptions:
    for name in _FOR_STOP:
        if options[name]:
            raise click.UsageError(f"--{name.replace('_', '-')} is for --stop")
    cert, key, client_ca = options["tls_cert"], options["tls_key"], options["tls_client_ca"]
    if cert is None and (key is not None or client_ca is not None):
        raise click.UsageError("TLS needs the server's certificate: --tls-cert")
    secret_file = options["secret_file"]
    return ServerOptions(
        gcbytes=options["gcbytes"],
        secret=None if secret_file is None else read_secret(secret_file),
        tls=None if cert is None else server_tls(cert, key, client_ca),
        allow_protocol_1=options["allow_protocol_1"],
        insecure=options["insecure"],
        readonly=readonly,
    )


@contextmanager
def _temporary_file() -> Iterator[str]:
    """Give the path of a file that goes with the server, and say so."""
    with tempfile.TemporaryDirectory(prefix="durus-") as folder:
        path = f"{folder}/temporary.durus"
        print(
            f"Serving a temporary file that goes with the server: {one_line(path)}"
            " ('durus serve FILE' keeps one)",
            flush=True,
        )
        yield path


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the block in good order while no server looks after them."""

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        raise click.exceptions.Exit(0)

    previous = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _log_to(path: str | None, level: int) -> None:
    """Log one line each to a file, which may be moved away meanwhile, or to stderr.

    Raises:
        OSError: the file cannot be written.
    """
    handler: logging.Handler = (
        logging.StreamHandler() if path is None else logging.handlers.WatchedFileHandler(path)
    )
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s"))
    for earlier in list(logger.handlers):
        logger.removeHandler(earlier)
    logger.addHandler(handler)
    # `durus -vv serve` asks for more than --logginglevel does.
    is_verbose = logger.level < logging.WARNING
    logger.setLevel(min(level, logger.level) if is_verbose else level)


class _OneLine(logging.Formatter):
    """Keeps a line a line: what clients send may be in it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name of `logging`
        return one_line(super().formatMessage(record))
