"""A client of a server keeps the storage contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import settings

from durus.client_storage import ClientStorage
from durus.file_storage import FileStorage
from durus.storage import Storage
from durus.storage_server import Limits, StorageServer
from durus.testing import StorageMachine, StorageTests

GAPS = {
    "test_new_oid_gives_none_that_is_stored": "an oid that nobody was given is not stored",
    "test_oids_need_not_be_dense": "nor are others than those that were given",
}

# Many packs follow each other.
LIMITS = Limits(pack_pause_s=0.0)


class TestClientStorage(StorageTests):
    gaps: ClassVar[dict[str, str]] = GAPS

    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Iterator[Callable[..., Storage]]:
        """Give clients of one server, which keeps a file."""
        address = str(tmp_path / "socket")
        storage = FileStorage(tmp_path / "app.durus")
        server = StorageServer(storage, address=address, limits=LIMITS)
        server.start()
        yield partial(ClientStorage, address=address)
        server.stop()


class TestClientStorageOfTcp(StorageTests):
    gaps: ClassVar[dict[str, str]] = GAPS

    @pytest.fixture
    def open_storage(self, tmp_path: Path) -> Iterator[Callable[..., Storage]]:
        """Give clients that prove that they know a secret, and that compress, with a time limit."""
        storage = FileStorage(tmp_path / "app.durus")
        server = StorageServer(storage, port=0, secret=b"a secret", limits=LIMITS)
        server.start()
        port = server.address.port  # type: ignore[attr-defined]  # a TCP address has one
        yield partial(ClientStorage, port=port, secret=b"a secret", compress=True, timeout_s=60)
        server.stop()


class ClientStorageMachine(StorageMachine):
    """Clients come and go, and the server each time with them."""

    server: StorageServer | None = None

    def open_storage(self) -> Storage:
        self.stop()
        address = str(self.directory / "socket")
        storage = FileStorage(self.directory / "app.durus", durable=False)
        self.server = StorageServer(storage, address=address, limits=LIMITS)
        self.server.start()
        return ClientStorage(address=address)

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop()

    def teardown(self) -> None:
        self.stop()
        super().teardown()


TestClientStorageMachine = ClientStorageMachine.TestCase
TestClientStorageMachine.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
