"""Where the crash tests work, and which storages they are about."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SMALL_MEASURES = {
    "durus.file_storage._journal._TAIL_AT_COMMIT": 6,
    "durus.file_storage._journal._TAIL_AT_CLOSE": 1,
    "durus.file_storage._packer._STEP_S": -1,
    "durus.file_storage._packer._WRITE_BYTES": 500,
    "durus.file_storage._packer._SYNC_BYTES": 2000,
    "durus.file_storage._packer._LAST_BYTES": 0,
    "durus.sqlite_storage._packer._MARKS_A_STEP": 5,
    "durus.sqlite_storage._packer._REMOVALS_A_STEP": 2,
    "durus.sqlite_storage._packer._VACUUM": "PRAGMA incremental_vacuum(1)",
}


@dataclass(frozen=True)
class Kind:
    """One storage on a file.

    Attributes:
        open: opens a path; with default options unless told otherwise.
        module: the name `os` in this module is the storage's way to the operating system.
    """

    name: str
    storage_module: str
    open: Callable[..., Any]  # Any: the class is found by name, and each has methods of its own
    module: str

    @property
    def package(self) -> str:
        """The package that has the storage's measures."""
        return self.module.rpartition(".")[0]


_MODULES = {
    "FileStorage": ("durus.file_storage", "durus.file_storage._file"),
    "FileStorage2": ("durus.file_storage2", "durus.file_storage._file"),
    "SqliteStorage": ("durus.sqlite_storage", "durus.sqlite_storage._copy"),
}


def kind_named(name: str) -> Kind:
    """Give a storage by the name of its class."""
    module_name, system = _MODULES[name]
    module = importlib.import_module(module_name)
    return Kind(name, module.__name__, getattr(module, name), system)


@pytest.fixture(params=["FileStorage", "FileStorage2"])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each storage in turn whose way to the operating system is Python's `os`."""
    return kind_named(request.param)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory in memory where the system has one: thousands of states are written there."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="durus-crash-", dir=parent) as name:
        yield Path(name)


@pytest.fixture
def live(place: Path) -> Path:
    """The directory in which the recorded storage lives."""
    path = place / "live"
    path.mkdir()
    return path


@pytest.fixture
def put_os(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Put a stand-in in the place of `os` for the storage."""
    return lambda layer: monkeypatch.setattr(f"{kind.module}.os", layer)


@pytest.fixture(autouse=True)
def small_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small databases do what large ones do.

    Index files are written at a commit now and then and at close; a pack takes many steps, writes
    and syncs in many pieces, and copies in rounds what is committed meanwhile.
    """
    for name, value in SMALL_MEASURES.items():
        monkeypatch.setattr(name, value)
