"""The tests of FileStorage that say nothing of its format, for FileStorage2 to pass as well."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from durus.file_storage2 import FileStorage2

from . import conftest


def promises_of(module: ModuleType, *, but_for: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Give the tests and fixtures of a module, and a fixture that has them use FileStorage2.

    Args:
        module: tests of FileStorage.
        but_for: names of tests about what is in a SHELF-1 file.
    """
    missing = but_for - vars(module).keys()
    if missing:
        raise ValueError(f"{module.__name__} has no {sorted(missing)}")

    @pytest.fixture(autouse=True)
    def second_format(monkeypatch: pytest.MonkeyPatch) -> None:
        for each in (module, conftest):
            monkeypatch.setattr(each, "FileStorage", FileStorage2)

    taken = {
        name: value
        for name, value in vars(module).items()
        if name not in but_for and (name.startswith("test_") or _is_fixture(value))
    }
    return taken | {"second_format": second_format}


def _is_fixture(value: object) -> bool:
    # pytest has no public way to tell, and the name of the class differs between its versions.
    return type(value).__module__.startswith("_pytest.fixtures")
