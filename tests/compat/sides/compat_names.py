"""The public names of a Durus, as JSON values that two versions can be compared by."""

from __future__ import annotations

import importlib
import inspect
import io
import pickle
import types
from typing import Any

import compat_files

from durus.connection import Connection
from durus.serialize import ObjectReader, unpack_record

# The modules of Durus 4.3; `durus._persistent` and `durus.__main__` are not imported by programs.
MODULES = [
    "btree",
    "client_storage",
    "connection",
    "error",
    "file",
    "file_storage",
    "file_storage2",
    "logger",
    "persistent",
    "persistent_dict",
    "persistent_list",
    "persistent_set",
    "serialize",
    "shelf",
    "sqlite_storage",
    "storage",
    "storage_server",
    "systemd_socket",
    "utils",
]

# The special methods that programs call by name: by making an object.
_SPECIAL = {"__init__"}


def describe() -> dict[str, Any]:
    """Give every module of `MODULES` that can be imported, with its public names."""
    described = {}
    for name in MODULES:
        try:
            module = importlib.import_module(f"durus.{name}")
        except ImportError:
            continue
        described[name] = _describe_module(module)
    return described


def own_names_here() -> dict[str, Any]:
    """Give the names that the modules of this Durus define themselves."""
    return own_names(describe())


def _describe_module(module: types.ModuleType) -> dict[str, Any]:
    described = {}
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or isinstance(value, types.ModuleType):
            continue
        described[name] = _describe_value(value)
        if callable(value):
            described[name]["home"] = getattr(value, "__module__", None)
    return described


def own_names(described: dict[str, Any]) -> dict[str, Any]:
    """Leave out what each module only imports from another one, or from the standard library."""
    return {
        module: {
            name: value
            for name, value in names.items()
            if value.get("home", f"durus.{module}") == f"durus.{module}"
        }
        for module, names in described.items()
    }


def _describe_value(value: Any) -> dict[str, Any]:
    if inspect.isclass(value):
        return {
            "kind": "class",
            "path": f"{value.__module__}.{value.__qualname__}",
            "bases": [base.__name__ for base in value.__mro__[1:-1]],
            "methods": {
                name: _signature(getattr(value, name))
                for name in sorted(_public_attributes(value))
                if callable(getattr(value, name, None))
            },
        }
    if callable(value):
        return {"kind": "function", "signature": _signature(value)}
    if isinstance(value, (int, str, bytes, float)):
        return {
            "kind": "constant",
            "value": value if isinstance(value, (int, str)) else repr(value),
        }
    return {"kind": "object", "type": type(value).__name__}


def _public_attributes(cls: type) -> set[str]:
    """Give the names that a class of Durus adds: public, of the `_p_` protocol, or special."""
    names = set()
    for base in cls.__mro__:
        if base.__module__.split(".")[0] == "durus":
            names |= {
                name
                for name in vars(base)
                if not name.startswith("_") or name.startswith("_p_") or name in _SPECIAL
            }
    return names


def _signature(function: Any) -> list[list[Any]] | None:
    """Give name, kind and whether there is a default for each parameter; None where unknown."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    return [
        [parameter.name, parameter.kind.name, parameter.default is not parameter.empty]
        for parameter in parameters
    ]


class _NameReader(pickle.Unpickler):
    """Notes every name that a record's pickles use."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.names: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        self.names.add(f"{found.__module__}.{found.__qualname__}")
        return found

    def persistent_load(self, reference: Any) -> Any:
        _, cls = reference
        self.names.add(f"{cls.__module__}.{cls.__qualname__}")
        return object()


def stored_names(format: str, path: str) -> dict[str, list[str]]:
    """Give for each class that has records in a file the names that its records use."""
    storage = compat_files.open_file(format, path, readonly=True)
    reader = ObjectReader(Connection(storage))
    names: dict[str, set[str]] = {}
    for _, record in storage.gen_oid_record(start_oid=b"\0" * 8):
        data = unpack_record(record)[1]
        module, name = data.split(b"\n", 2)[:2]
        klass = f"{module.split(b'c', 1)[1].decode()}.{name.decode()}"
        unpickler = _NameReader(io.BytesIO(_class_pickle(data) + reader.get_state_pickle(data)))
        unpickler.load()
        unpickler.load()
        names.setdefault(klass, set()).update(unpickler.names)
    storage.close()
    return {klass: sorted(found) for klass, found in sorted(names.items())}


def _class_pickle(data: bytes) -> bytes:
    file = io.BytesIO(data)
    pickle.Unpickler(file).load()
    return data[: file.tell()]
