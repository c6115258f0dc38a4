"""The storage contract as tests, and what tests of a back-end need.

Needs the extra `durus-core[testing]`: pytest and hypothesis are imported here and nowhere else in
durus. What is listed here is public and has the version of the contract; test names are part of it.
A back-end's tests are a subclass each::

    from durus.testing import StorageMachine, StorageTests

    class TestMyStorage(StorageTests):
        @pytest.fixture
        def open_storage(self, tmp_path):
            return partial(MyStorage, tmp_path / "data")

    class MyMachine(StorageMachine):
        def open_storage(self):
            return MyStorage(self.directory / "data")

    TestMyMachine = MyMachine.TestCase

`durus.testing.crash` (power cuts and failing disks) is imported by its own name, and so is
`durus.testing.fixtures`, which is for those who test an application.
"""

from __future__ import annotations

import pytest

import durus.backends  # noqa: F401 - refuses to load beside an old Durus

# A failing clause is to show what it compared. pytest wants to hear of it before the import.
pytest.register_assert_rewrite(
    "durus.testing._history_clauses",
    "durus.testing._pack_clauses",
    "durus.testing._session_clauses",
    "durus.testing._suite",
    "durus.testing.stateful",
    "durus.testing.storage",
)

from durus.testing.records import commit, make_record, malformed_records  # noqa: E402 - see above
from durus.testing.stateful import StorageMachine  # noqa: E402 - see above
from durus.testing.storage import Place, StorageTests, clauses  # noqa: E402 - see above

__all__ = [
    "Place",
    "StorageMachine",
    "StorageTests",
    "clauses",
    "commit",
    "make_record",
    "malformed_records",
]
