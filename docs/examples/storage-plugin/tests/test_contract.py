"""FolderStorage keeps the contract of storages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from durus.storage import Storage
from durus.testing import StorageMachine, StorageTests
from durus_folder import FolderStorage


class TestFolderStorage(StorageTests):
    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Callable[..., Storage]:
        return partial(FolderStorage, str(tmp_path / "data"))


class FolderMachine(StorageMachine):
    def open_storage(self) -> Storage:
        return FolderStorage(str(self.directory / "data"))


TestFolderMachine = FolderMachine.TestCase
TestFolderMachine.settings = settings(max_examples=10, stateful_step_count=15, deadline=None)
