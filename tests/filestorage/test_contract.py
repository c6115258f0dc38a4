"""FileStorage keeps the storage contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from durus.file_storage import FileStorage
from durus.sessions import SharedStorage
from durus.storage import Storage
from durus.testing import StorageMachine, StorageTests


class TestFileStorage(StorageTests):
    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Callable[..., Storage]:
        return partial(FileStorage, tmp_path / "app.durus")


class TestSharedFileStorage(StorageTests):
    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Iterator[Callable[..., Storage]]:
        opened: list[SharedStorage] = []

        def open_session() -> Storage:
            for shared in opened:
                shared.close()
            opened.append(SharedStorage(FileStorage(tmp_path / "app.durus")))
            return opened[-1].new_session()

        yield open_session
        for shared in opened:
            shared.close()


class FileStorageMachine(StorageMachine):
    def open_storage(self) -> Storage:
        return FileStorage(self.directory / "app.durus", durable=False)


TestFileStorageMachine = FileStorageMachine.TestCase
TestFileStorageMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
