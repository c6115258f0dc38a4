"""A client of a server keeps the storage contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from durus.client_storage import ClientStorage
from durus.file_storage import FileStorage
from durus.storage import Storage
from durus.storage_server import StorageServer
from durus.testing import StorageTests


class TestClientStorage(StorageTests):
    gaps: ClassVar[dict[str, str]] = {
        "test_new_oid_gives_none_that_is_stored": "an oid that nobody was given is not stored",
        "test_new_oid_gives_none_that_is_pending": "nor is it ever committed",
        "test_oids_need_not_be_dense": "nor are others than those that were given",
    }

    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Iterator[Callable[..., Storage]]:
        """Give clients of one server, which keeps a file."""
        address = str(tmp_path / "socket")
        server = StorageServer(FileStorage(tmp_path / "app.durus"), address=address)
        server.start()
        yield lambda: ClientStorage(address=address)
        server.stop()
