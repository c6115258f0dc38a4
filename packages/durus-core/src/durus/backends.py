r"""From a path or URL to an open storage, through entry points.

A back-end is a distribution that names its Storage class under the entry-point group
`durus.storages`: the name is a URL scheme, the value is the class. This module knows no back-end:
nothing is imported until it is asked for, and what the tables below say of our own packages only
words an error or saves an import.

What `open_storage` takes::

    app.durus  /srv/app.durus  C:\app.durus  a:b.durus  any os.PathLike    bare paths, never decoded
    file:app.durus  file:/srv/app.durus  file:///srv/app%20one.durus       URLs, percent-decoded
    file:app.durus?durable=0&readonly=1                                    with options
    memory:  durus://host:2972                                             of other back-ends

A bare path is judged by the first bytes of the file; a new or empty one is `file:`. Text is a URL
when it starts with a scheme, two letters or more, that is installed or ours; with any other scheme
it is the name of a file if there is such a file, and else an error. The class is called with what
stands after the scheme as its first argument and with the options as keywords.
"""

from __future__ import annotations

import inspect
import os
import re
import stat
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import durus

# Ours is a namespace, without a file. Before all imports, for the old one may have replaced those.
if getattr(durus, "__file__", None) is not None:
    raise ImportError(
        f"an old Durus ({durus.__file__}) is installed in the same environment and hides parts of"
        " this one: run `pip uninstall Durus`, then install all of this one again with"
        " --force-reinstall",
        name="durus",
        path=durus.__file__,
    )

from durus.error import (
    BackendError,
    StorageFormatError,
    StorageMissingError,
    StorageOpenError,
    StoragePermissionError,
)
from durus.logger import logger
from durus.storage import Storage

__all__ = [
    "ENTRY_POINT_GROUP",
    "InstalledStorage",
    "file_path",
    "installed_storages",
    "open_storage",
    "own_file",
    "owner_of_file",
    "storage_class",
]

ENTRY_POINT_GROUP = "durus.storages"

# What to install for a scheme that is not there, and what to ask first about a file: so that a path
# of one format does not import the back-ends of all others.
_OUR_PACKAGES = {
    "durus": "durus-server",
    "durus+unix": "durus-server",
    "file": "durus-filestorage",
    "file2": "durus-filestorage",
    "memory": "durus-core",
    "sqlite": "durus-sqlite",
}
_OUR_MAGICS = {b"SHELF-1\n": "file", b"DFS20\0": "file2", b"SQLite format 3\0": "sqlite"}
_MAGIC_BYTES = max(len(magic) for magic in _OUR_MAGICS)

# One letter before a colon is a drive.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(.*)", re.DOTALL)

# Files that storages of this process have open and nobody else may, by device and inode.
_owners: dict[tuple[int, int], dict[object, type[Storage]]] = {}
_owners_lock = threading.RLock()

_BOOLS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class InstalledStorage:
    """A back-end as its distribution announces it; nothing of it was imported.

    Attributes:
        name: the URL scheme, in lower case.
        distribution: who provides it, such as "durus-filestorage".
        version: the distribution's version.
        location: the class, as "module:Class".
    """

    name: str
    distribution: str
    version: str
    location: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version} ({self.location})"


def installed_storages() -> list[InstalledStorage]:
    """List the installed back-ends by name, without importing any.

    A name that two distributions claim is listed twice.
    """
    return [_described(entry) for entries in _entries_by_name().values() for entry in entries]


def storage_class(name: str) -> type[Storage]:
    """Import the Storage class that is installed under a URL scheme.

    Args:
        name: the scheme, without the colon.

    Raises:
        BackendError: nobody provides it, two distributions do, or it cannot be imported.
    """
    name = name.lower()
    owners = _entries_by_name().get(name, [])
    if not owners:
        raise BackendError(_not_installed_text(name), name)
    return _load(name, owners)


def open_storage(path_or_url: str | os.PathLike[str], **options: Any) -> Storage:
    """Open what a path or URL names. See the module's docstring for both.

    Args:
        path_or_url: an `os.PathLike` is always a path.
        options: keywords for the storage class, such as `readonly=True`. A URL may give them too,
            typed by the annotations of the class: bool (1, 0, true, false, yes, no), int, float or
            str.

    Raises:
        BackendError: no back-end fits, or it has no such option, or not with this value.
        StorageMissingError: `readonly=True` and there is no such file.
        StorageOpenError: a directory, a device, no permission, or what the storage class raises.
        StorageFormatError: the file is no database that an installed back-end knows.
    """
    if isinstance(path_or_url, str):
        url = _split_url(path_or_url)
        if url is not None:
            return _open_url(*url, options)
    path = os.fsdecode(path_or_url)
    cls = _class_for_path(path, must_exist=bool(options.get("readonly")))
    _check_options(cls, None, options)
    return _make(cls, (path,), options)


def file_path(path_or_url: str | os.PathLike[str]) -> str | None:
    """Give the path of the file that a path or URL names, there or not; None if it names no file.

    For programs that ask before they make a new file. Nothing is opened.

    Raises:
        BackendError: no back-end is installed for the URL's scheme, or it needs a path.
    """
    url = _split_url(path_or_url) if isinstance(path_or_url, str) else None
    if url is None:
        return os.fsdecode(path_or_url)
    name, rest = url
    cls = storage_class(name)
    address = rest.partition("?")[0]
    return _arguments_from(cls, name, address)[0] if _is_file_like(cls) else None


def own_file(path: str, cls: type[Storage]) -> Callable[[], None]:
    """Have no back-end read the first bytes of a file that a storage of this process has open.

    For one that has POSIX locks on its file: when *any* descriptor of the file is closed in the
    process, the system takes all of them away. Until what this gives is called, `open_storage`
    takes `cls` for the file without a look.
    """
    status = os.stat(path)
    key = status.st_dev, status.st_ino
    opening = object()
    with _owners_lock:
        _owners.setdefault(key, {})[opening] = cls

    def disown() -> None:
        with _owners_lock:
            owners = _owners.get(key, {})
            owners.pop(opening, None)
            if not owners:
                _owners.pop(key, None)

    return disown


def owner_of_file(path: str) -> type[Storage] | None:
    """Give the class of a storage of this process that told `own_file` it has the file open."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    with _owners_lock:
        owners = _owners.get((status.st_dev, status.st_ino), {})
        return next(iter(owners.values()), None)


def _split_url(text: str) -> tuple[str, str] | None:
    """Give (scheme, rest), or None if the text is a path."""
    match = _URL.fullmatch(text)
    if match is None:
        return None
    name, rest = match[1].lower(), match[2]
    if name in _entries_by_name() or name in _OUR_PACKAGES:
        return name, rest
    if os.path.lexists(text):
        return None
    hint = f"; for a file of that name write './{text:.200}'"
    raise BackendError(_not_installed_text(name) + hint, name)


def _open_url(name: str, rest: str, options: Mapping[str, Any]) -> Storage:
    cls = storage_class(name)
    address, _, query = rest.partition("?")
    arguments = _arguments_from(cls, name, address)
    url_options = _options_from(cls, name, query)
    for twice in sorted(url_options.keys() & options.keys()):
        raise BackendError(f"option {twice!r} is given in the URL and as a keyword", name)
    _check_options(cls, name, options)
    return _make(cls, arguments, {**url_options, **options})


def _make(cls: type[Storage], arguments: tuple[str, ...], options: Mapping[str, Any]) -> Storage:
    constructor: Callable[..., Storage] = cls
    return constructor(*arguments, **options)


def _arguments_from(cls: type[Storage], name: str, address: str) -> tuple[str, ...]:
    """Give the positional arguments that the part between scheme and query stands for."""
    first = _first_parameter(cls)
    if not address:
        if first is None or (first.default is not Parameter.empty and not _is_file_like(cls)):
            return ()
        raise BackendError(f"'{name}:' needs its {first.name} after the colon", name)
    if first is None:
        raise BackendError(f"'{name}:' takes nothing after the colon, got {address!r:.80}", name)
    if _is_file_like(cls):
        return (_path_from(name, address),)
    return (unquote(address.removeprefix("//")),)


def _path_from(name: str, address: str) -> str:
    """Decode `relative`, `/absolute` or `//host/absolute`, where the host may only be this one."""
    if address.startswith("//"):
        host, slash, rest = address[2:].partition("/")
        if host not in {"", "localhost"} or not slash:
            raise BackendError(
                f"'{name}:' opens files of this machine, but '{name}:{address:.80}' names the host"
                f" {host!r:.80}; write '{name}:relative/path' or '{name}:///absolute/path'",
                name,
            )
        address = slash + rest
    path = unquote_to_bytes(address)
    if b"\0" in path:
        raise BackendError(f"'{name}:{address:.80}' has a null byte, which no path may have", name)
    return os.fsdecode(path)


def _options_from(cls: type[Storage], name: str, query: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    known = _option_parameters(cls)
    for part in filter(None, query.split("&")):
        option, _, text = map(unquote, part.partition("="))
        if option in options:
            raise BackendError(f"option {option!r} is given twice in the URL", name)
        _check_options(cls, name, [option])
        annotation = known[option].annotation if option in known else str
        options[option] = _typed(name, option, text, annotation)
    return options


def _check_options(cls: type[Storage], name: str | None, options: Iterable[str]) -> None:
    known = _option_parameters(cls)
    if any(p.kind is Parameter.VAR_KEYWORD for p in _parameters(cls)):
        return
    label = f"'{name}:'" if name else cls.__name__
    for option in options:
        if option not in known:
            shown = _names_text(sorted(known))
            raise BackendError(f"{label} has no option {option!r:.80} (it has: {shown})", name)


def _typed(name: str, option: str, text: str, annotation: object) -> Any:
    """Convert a URL's text to the first type of the annotation that takes it."""
    kinds = _kinds_of(annotation)
    for kind in kinds:
        try:
            return _CONVERTERS[kind](text)
        except (KeyError, ValueError):
            continue
    if not kinds:
        raise BackendError(
            f"option {option!r} of '{name}:' is given as a keyword, not in a URL", name
        )
    wanted = " or ".join(_KIND_TEXTS[kind] for kind in kinds)
    raise BackendError(f"option {option!r} of '{name}:' takes {wanted}, got {text!r:.80}", name)


_CONVERTERS: dict[str, Callable[[str], object]] = {
    "bool": lambda text: _BOOLS[text.lower()],
    "int": int,
    "float": float,
    "str": str,
}
_KIND_TEXTS = {
    "bool": "1, 0, true, false, yes or no",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
}


def _kinds_of(annotation: object) -> list[str]:
    # As text: a class may be written with `from __future__ import annotations`, and names that it
    # imports for the type checker alone cannot be evaluated.
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return [kind for kind in re.split(r"[|\[\], ]+", text) if kind in _CONVERTERS]


def _parameters(cls: type[Storage]) -> list[Parameter]:
    return list(inspect.signature(cls).parameters.values())


def _first_parameter(cls: type[Storage]) -> Parameter | None:
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return next((p for p in _parameters(cls) if p.kind in positional), None)


def _option_parameters(cls: type[Storage]) -> dict[str, Parameter]:
    by_keyword = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    first = _first_parameter(cls)
    return {p.name: p for p in _parameters(cls) if p.kind in by_keyword and p != first}


def _is_file_like(cls: type[Storage]) -> bool:
    return getattr(cls.has_format, "__func__", None) is not Storage.__dict__["has_format"].__func__


def _class_for_path(path: str, *, must_exist: bool) -> type[Storage]:
    """Choose by the file's first bytes; for a new or empty one, `file:`."""
    size_bytes = _size_of_file(path)
    if size_bytes is None and must_exist:
        raise StorageMissingError(f"there is no file {path!r} to open read-only", path)
    if not size_bytes:
        return storage_class("file")
    # Nobody may begin to own it while it is looked into.
    with _owners_lock:
        return owner_of_file(path) or _class_of_file(path, _first_bytes(path))


def _size_of_file(path: str) -> int | None:
    """Give the length of a regular file, or None where there is none yet."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if not path:
            raise StorageOpenError("cannot open a storage: the path is empty", path) from None
        return None
    except PermissionError as error:
        raise StoragePermissionError(f"no permission to reach {path!r}", path) from error
    except (OSError, ValueError) as error:
        raise StorageOpenError(f"cannot open {path!r:.200}: {error}", path) from error
    # Anything else is never opened: reading a FIFO or a terminal may wait for ever.
    if not stat.S_ISREG(status.st_mode):
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise StorageOpenError(f"cannot open {path!r}: it is {kind}, not a file", path)
    return status.st_size


def _first_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAGIC_BYTES)
    except PermissionError as error:
        raise StoragePermissionError(f"no permission to read {path!r}", path) from error
    except OSError as error:
        raise StorageOpenError(f"cannot read {path!r}: {error}", path) from error


def _class_of_file(path: str, first_bytes: bytes) -> type[Storage]:
    """Ask each installed class in turn whether the file is its own."""
    likely = next(
        (_OUR_MAGICS[magic] for magic in _OUR_MAGICS if first_bytes.startswith(magic)), ""
    )
    entries = _entries_by_name()
    failures: dict[str, Exception] = {}
    for name in sorted(entries, key=lambda name: (name != likely, name)):
        try:
            cls = _load(name, entries[name])
            if _is_file_like(cls) and cls.has_format(path):
                return cls
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the others must be asked
            logger.warning("passed over the back-end %r while judging %r: %s", name, path, error)
            failures[name] = error
    if likely and likely not in entries:
        raise BackendError(f"{path!r} is a '{likely}:' file: {_not_installed_text(likely)}", likely)
    if likely in failures:
        raise BackendError(f"{path!r} is a '{likely}:' file: {failures[likely]}", likely) from (
            failures[likely]
        )
    passed_over = f"; passed over, being broken: {', '.join(failures)}" if failures else ""
    raise StorageFormatError(
        f"{path!r} is not a database that an installed back-end knows"
        f" (installed: {_names_text(entries)}{passed_over})",
        path,
    )


def _entries_by_name() -> dict[str, list[EntryPoint]]:
    """Give the entry points of the group by scheme, sorted."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        found.setdefault(entry.name.lower(), []).append(entry)
    return found


def _load(name: str, owners: list[EntryPoint]) -> type[Storage]:
    if len(owners) > 1:
        raise BackendError(_two_owners_text(name, owners), name)
    [entry] = owners
    try:
        cls = entry.load()
    except (Exception, SystemExit) as error:  # a plug-in may fail in any way
        raise BackendError(
            f"the back-end for '{name}:', {_described(entry)}, cannot be imported:"
            f" {type(error).__name__}: {error}",
            name,
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Storage)):
        raise BackendError(
            f"the back-end for '{name}:', {_described(entry)}, is no subclass of"
            " durus.storage.Storage",
            name,
        )
    return cls


def _described(entry: EntryPoint) -> InstalledStorage:
    distribution = entry.dist
    if distribution is None:  # an entry point made by hand, not found by importlib.metadata
        return InstalledStorage(entry.name.lower(), "unknown", "unknown", entry.value)
    return InstalledStorage(
        entry.name.lower(), distribution.name, distribution.version, entry.value
    )


def _not_installed_text(name: str) -> str:
    installed = _names_text(_entries_by_name())
    ours = _OUR_PACKAGES.get(name)
    cure = f"pip install {ours}" if ours else "install the distribution that provides it"
    return f"no back-end for '{name}:' is installed (installed: {installed}); {cure}"


def _two_owners_text(name: str, owners: list[EntryPoint]) -> str:
    both = " and ".join(str(_described(entry)) for entry in owners)
    return f"'{name}:' is claimed by {both}; uninstall one of them"


def _names_text(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
