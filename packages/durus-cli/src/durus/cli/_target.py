"""Which database is meant: a file, a URL, or a server as Durus 4.3 named it."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import click
from click.shell_completion import CompletionItem

from durus.backends import file_path, installed_storages, open_storage, storage_class
from durus.cli._access import Access, access_options, open_waiting
from durus.cli._errors import CommandError
from durus.error import AuthenticationError, BackendError, StorageMissingError
from durus.storage import Storage

__all__ = [
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "DatabaseType",
    "Target",
    "database_argument",
    "file_options",
    "named_once",
    "open_target",
    "place_options",
    "server_options",
    "server_target",
    "target_of",
]

# Those of durus-server, which need not be installed.
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 2972

_SERVER_SCHEMES = {"durus", "durus+unix"}

_Function = TypeVar("_Function", bound=Callable[..., Any])


class DatabaseType(click.types.StringParamType):
    """A path or URL, left as it is: only `durus.backends` knows what it means."""

    name = "file or URL"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


@dataclass(frozen=True, slots=True)
class Target:
    """What to open.

    Attributes:
        name: a path or URL.
        is_server: nobody named a database, so it is the server, as in Durus 4.3.
        storage_class: who opens it: "module.Class", a URL scheme, or None to judge by the name.
        access: how to be let in, if it is a server, named as one or not.
    """

    name: str
    is_server: bool = False
    storage_class: str | None = None
    access: Access = field(default_factory=Access)

    def asks_a_server(self) -> bool:
        """Tell whether a server answers, be it named by a URL or as in Durus 4.3."""
        if self.is_server:
            return True
        return self.storage_class is None and _scheme(self.name) in _SERVER_SCHEMES

    def size_bytes(self) -> int | None:
        """Give the length of the file, or None where there is no file."""
        path = self.path()
        return os.path.getsize(path) if path is not None and os.path.isfile(path) else None

    def path(self) -> str | None:
        """Give the file that is named, whether it is there or not, or None where none is."""
        if self.storage_class is not None and not self.is_server:
            return self.name
        return file_path(self.name)

    def known_as(self) -> str:
        """Give what the database is known by, from whatever folder it is named."""
        path = self.path()
        # What follows a question mark is how it is opened.
        return self.name.partition("?")[0] if path is None else os.path.realpath(path)


def database_argument(*, required: bool) -> Callable[[_Function], _Function]:
    """Add the argument DATABASE to a command; it arrives as `database`."""
    return click.argument("database", type=DatabaseType(), required=required)


def server_options(function: _Function) -> _Function:
    """Add what Durus 4.3 has to say which database, a file or a server, and how to be let in."""
    return file_options(place_options(access_options(function)))


def file_options(function: _Function) -> _Function:
    """Add --file and --storage-class."""
    for add in (
        click.option(
            "--storage-class",
            metavar="CLASS",
            help="Open the file with this class (module.Class) or back-end (file, file2, ...).",
        ),
        click.option("--file", type=DatabaseType(), metavar="FILE", help="The same as DATABASE."),
    ):
        function = add(function)
    return function


def place_options(function: _Function) -> _Function:
    """Add where a server is: --host and --port, or --address."""
    for add in (
        click.option("--address", help="Unix domain socket of the server; @NAME is abstract."),
        click.option("--port", type=click.IntRange(1, 65535), help="Port of the server. [2972]"),
        click.option("--host", help="Host of the server. [127.0.0.1]"),
    ):
        function = add(function)
    return function


def target_of(
    database: str | None,
    file: str | None,
    storage_class: str | None,
    host: str | None,
    port: int | None,
    address: str | None,
    **access: Any,
) -> Target:
    """Make one target of all the ways to name it.

    Raises:
        click.UsageError: two of them contradict each other.
    """
    name = named_once(database, file)
    if name is None:
        if storage_class is not None:
            raise click.UsageError("--storage-class needs a file to open")
        return server_target(None, host, port, address, **access)
    if any(given is not None for given in (host, port, address)):
        raise click.UsageError(f"give a database ({name!r}) or a server's place, not both")
    target = Target(name, storage_class=storage_class, access=Access(**access))
    wanted = target.access.asked_for()
    if wanted and not target.asks_a_server():
        raise click.UsageError(f"{wanted[0]} is for servers, and {name!r} is none")
    return target


def named_once(database: str | None, file: str | None) -> str | None:
    """Give the database that DATABASE or --file names.

    Raises:
        click.UsageError: both do.
    """
    if database is not None and file is not None:
        raise click.UsageError("DATABASE and --file name two databases; give one")
    return file if database is None else database


def server_target(
    url: str | None, host: str | None, port: int | None, address: str | None, **access: Any
) -> Target:
    """Make the target of a server's place, given as a URL or in pieces.

    Raises:
        click.UsageError: the pieces contradict each other, or it is no server's URL.
    """
    how = Access(**access)
    if url is not None:
        if any(given is not None for given in (host, port, address)):
            raise click.UsageError(f"give {url!r}, or the server's place by options, not both")
        if _scheme(url) not in _SERVER_SCHEMES:
            raise click.UsageError(
                f"{url!r} is no server: that would be durus://HOST:PORT or durus+unix:PATH"
            )
        return Target(url, is_server=True, access=how)
    if address is not None:
        if host is not None or port is not None:
            raise click.UsageError("give --address, or --host and --port, not both")
        return Target("durus+unix:" + quote(address), is_server=True, access=how)
    place = DEFAULT_HOST if host is None else host
    if ":" in place:
        place = f"[{place}]"
    return Target(f"durus://{place}:{port or DEFAULT_PORT}", is_server=True, access=how)


def open_target(target: Target, *, create: bool = False, **options: Any) -> Storage:
    """Open what a person named, and make a new file only where they say so.

    Raises:
        StorageMissingError: there is no such file, and `create` is false.
        CommandError: it is a server, and what speaks to servers is not installed.
        click.UsageError: `options` ask for what is not to be had there.
        DurusError, OSError: what opening it raises.
    """
    if target.is_server:
        _require_client(target.name)
    if "at" in options:
        _require_past(target)
    if target.asks_a_server():
        if "repair" in options:
            raise click.UsageError("--repair is for files; a server is started with it")
        options |= target.access.keywords()
        try:
            return open_waiting(
                lambda: open_storage(target.name, **options), target.name, target.access.wait
            )
        except AuthenticationError as error:
            secret_file = target.access.secret_file
            if secret_file is None:
                raise
            raise AuthenticationError(f"{error} (given: the secret in {secret_file!r})") from error
    _require_file(target, create=create)
    if target.storage_class is None:
        return open_storage(target.name, **options)
    return _open_with(_class_named(target.storage_class), target, options)


def _scheme(name: str) -> str:
    scheme, colon, _ = name.partition(":")
    return scheme.lower() if colon else ""


def _require_client(url: str) -> None:
    scheme = url.partition(":")[0]
    if not any(storage.name == scheme for storage in installed_storages()):
        raise CommandError(
            f"no database is named, so this would ask the server at {url}, but durus-server is not"
            " installed: name a file, or 'pip install durus-server'"
        )


def _require_past(target: Target) -> None:
    """Refuse `at` where no file is named, and the back-end has no past."""
    if target.path() is not None or storage_class(_scheme(target.name)).can_open_at:
        return
    beside = "; name the file, which opens beside the server" if target.asks_a_server() else ""
    raise click.UsageError(
        f"--at is for what keeps its past, and {target.name!r} gives the newest state alone{beside}"
    )


def _require_file(target: Target, *, create: bool) -> None:
    path = target.path()
    # An empty name is left to those that know what to say of it.
    if not path or create or os.path.lexists(path):
        return
    raise StorageMissingError(f"there is no file {path!r}", path)


def _open_with(cls: Callable[..., Storage], target: Target, options: dict[str, Any]) -> Storage:
    try:
        inspect.signature(cls).bind(target.name, **options)
    except TypeError as error:
        raise BackendError(
            f"the storage class {target.storage_class!r} cannot be called so: {error}",
            target.storage_class,
        ) from error
    return cls(target.name, **options)


def _class_named(name: str) -> Callable[..., Storage]:
    module_name, dot, class_name = name.rpartition(".")
    if not dot:
        return storage_class(name)
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BackendError(f"there is no storage class {name!r}: {error}", name) from error
    if not (isinstance(found, type) and issubclass(found, Storage)):
        raise BackendError(f"{name!r} is no storage class: it does not inherit Storage", name)
    return found
