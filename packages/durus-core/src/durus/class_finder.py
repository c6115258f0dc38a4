"""Which class a name in stored data means, and whether stored data may name it."""

from __future__ import annotations

import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from durus.broken import broken_class
from durus.error import UnknownClassError, UntrustedClassError

__all__ = ["ClassFinder"]

# What ordinary states are made of, and what cannot do more than make a value.
_ALWAYS_TRUSTED = frozenset(
    {
        ("_codecs", "encode"),
        ("copyreg", "__newobj__"),
        ("copyreg", "_reconstructor"),
        ("builtins", "bytearray"),
        ("builtins", "bytes"),
        ("builtins", "complex"),
        ("builtins", "dict"),
        ("builtins", "frozenset"),
        ("builtins", "list"),
        ("builtins", "object"),
        ("builtins", "range"),
        ("builtins", "set"),
        ("builtins", "slice"),
        ("builtins", "tuple"),
        ("collections", "Counter"),
        ("collections", "OrderedDict"),
        ("collections", "defaultdict"),
        ("collections", "deque"),
        ("datetime", "date"),
        ("datetime", "datetime"),
        ("datetime", "time"),
        ("datetime", "timedelta"),
        ("datetime", "timezone"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("uuid", "UUID"),
        ("durus.btree", "BTree"),
        *(("durus.btree", f"BNode{degree}") for degree in ("", 4, 8, 16, 32, 64, 128, 256, 512)),
        ("durus.persistent", "ComputedAttribute"),
        ("durus.persistent", "Persistent"),
        ("durus.persistent", "PersistentObject"),
        ("durus.persistent_dict", "PersistentDict"),
        ("durus.persistent_list", "PersistentList"),
        ("durus.persistent_set", "PersistentSet"),
    }
)


class ClassFinder:
    """Imports the classes that stored data names, as far as they are trusted."""

    def __init__(self, trust: Iterable[str] | None = None, broken_objects: bool = False) -> None:
        """Make a finder.

        Args:
            trust: names that stored data may use, each a class ("shop.models.Order") or a package
                or module whose own classes are all allowed ("shop"). None: all that can be
                imported, as in Durus 4.3.
            broken_objects: give a stand-in (`durus.broken`) for a class that cannot be imported.

        Raises:
            TypeError: `trust` is a single str, or holds something else than str.
        """
        if isinstance(trust, str):
            raise TypeError(f"trust is a list of names, got the single name {trust!r}")
        self._trusts_all = trust is None
        self._trusted = frozenset(trust or ())
        for name in self._trusted:
            if not isinstance(name, str):
                raise TypeError(f'trust is a list of names such as "shop.models", got {name!r:.80}')
        self.broken_objects = broken_objects
        self._found: dict[tuple[str, str], Any] = {}

    def __call__(self, module: str, name: str) -> Any:
        """Give the class or function `name` (dotted if it is nested) of `module`.

        Raises:
            UntrustedClassError: `trust` does not allow it; nothing was imported.
            UnknownClassError: it cannot be imported.
        """
        key = module, name
        try:
            return self._found[key]
        except KeyError:
            found = self._found[key] = self._find(module, name)
            return found

    def _find(self, module: str, name: str) -> Any:
        try:
            return self._import(module, name)
        except UntrustedClassError:
            raise
        except (ImportError, AttributeError, ValueError) as error:
            renamed = _rename_python2(module, name)
            if renamed != (module, name):
                return self(*renamed)
            if self.broken_objects:
                return broken_class(module, name)
            class_name = f"{module}.{name}"
            advice = (
                "it was defined in the program that stored it: move it to a module, and rename it"
                f" in the database: durus rename DATABASE {class_name} MODULE.{name}"
                if module == "__main__"
                else "install or restore the module that defines it, or give it its old name there"
            )
            raise UnknownClassError(
                f"stored data names {class_name}, which cannot be imported ({error}); {advice}",
                class_name,
            ) from error

    def _import(self, module: str, name: str) -> Any:
        class_name = f"{module}.{name}"
        if self._trusts_all:
            return _import(module, name)
        if self._is_listed(module, name):
            found = _import(module, name)
            # A listed package is no class: stored data could set what it holds.
            if not isinstance(found, ModuleType):
                return found
        if any(module == package or module.startswith(package + ".") for package in self._trusted):
            found = _import(module, name)
            # A package vouches for the classes that it defines, not for all that it imported.
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise UntrustedClassError(
            f"stored data names {class_name}, which this Connection does not trust;"
            " if it is yours, add it to trust=",
            class_name,
        )

    def _is_listed(self, module: str, name: str) -> bool:
        return (
            f"{module}.{name}" in self._trusted or _rename_python2(module, name) in _ALWAYS_TRUSTED
        )


def _import(module: str, name: str) -> Any:
    __import__(module)
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _rename_python2(module: str, name: str) -> tuple[str, str]:
    """Give the Python 3 name of what Python 2 called `module`.`name`."""
    if (module, name) in NAME_MAPPING:
        return NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name
