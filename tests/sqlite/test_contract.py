"""SqliteStorage keeps the storage contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from durus.sessions import SharedStorage
from durus.sqlite_storage import SqliteStorage
from durus.storage import Storage
from durus.testing import StorageMachine, StorageTests


class TestSqliteStorage(StorageTests):
    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Callable[..., Storage]:
        return partial(SqliteStorage, tmp_path / "app.sqlite")


class TestSqliteStorageWithHistory(StorageTests):
    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Callable[..., Storage]:
        def open_storage(**options: Any) -> Storage:
            path = tmp_path / "app.sqlite"
            if options:
                return SqliteStorage(path, **options)
            return SqliteStorage(path, history="1h")

        return open_storage


class TestSharedSqliteStorage(StorageTests):
    """Behind one opening, as the server uses it."""

    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Iterator[Callable[..., Storage]]:
        opened: list[SharedStorage] = []

        def open_session() -> Storage:
            for shared in opened:
                shared.close()
            opened.append(SharedStorage(SqliteStorage(tmp_path / "app.sqlite")))
            return opened[-1].new_session()

        yield open_session
        for shared in opened:
            shared.close()


class SqliteStorageMachine(StorageMachine):
    def open_storage(self) -> Storage:
        return SqliteStorage(self.directory / "app.sqlite", durable=False, history="1h")


TestSqliteStorageMachine = SqliteStorageMachine.TestCase
TestSqliteStorageMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
