"""FileStorage2 keeps the storage contract."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from durus.file_storage2 import FileStorage2
from durus.storage import Storage
from durus.testing import StorageMachine, StorageTests


class TestFileStorage2(StorageTests):
    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Callable[..., Storage]:
        return partial(FileStorage2, tmp_path / "app.durus")


class FileStorage2Machine(StorageMachine):
    def open_storage(self) -> Storage:
        return FileStorage2(self.directory / "app.durus", durable=False)


TestFileStorage2Machine = FileStorage2Machine.TestCase
TestFileStorage2Machine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
