"""MemoryStorage keeps the storage contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

from durus.storage import MemoryStorage, Storage
from durus.testing import StorageMachine, StorageTests


class TestMemoryStorage(StorageTests):
    @pytest.fixture
    def open_storage(self) -> Callable[..., Storage]:
        return MemoryStorage


class MemoryMachine(StorageMachine):
    def open_storage(self) -> Storage:
        return MemoryStorage()


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
