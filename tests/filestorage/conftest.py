"""What the tests of the file storages share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from durus.file_storage import FileStorage
from durus.serialize import ROOT_OID
from durus.testing import commit, make_record
from durus.utils import int8_to_str

Graph = dict[int, list[int]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of the test is, or is to be."""
    return tmp_path / "app.durus"


@pytest.fixture
def put() -> Callable[..., list[bytes]]:
    """Commit objects by number, with what they refer to, as one transaction."""

    def put(
        storage: FileStorage, graph: Graph | Iterable[int], payload: bytes = b""
    ) -> list[bytes]:
        refs = graph if isinstance(graph, dict) else {n: [] for n in graph}
        records = [
            make_record(int8_to_str(n), [int8_to_str(ref) for ref in refs[n]], payload)
            for n in refs
        ]
        commit(storage, *records)
        return records

    return put


@pytest.fixture
def contents() -> Callable[[FileStorage], dict[int, bytes]]:
    """Give every record of a storage by its oid's number, each also loaded by itself."""

    def contents(storage: FileStorage) -> dict[int, bytes]:
        records = dict(storage.gen_oid_record())
        for oid, record in records.items():
            assert storage.load(oid) == record
        return {int.from_bytes(oid, "big"): record for oid, record in records.items()}

    return contents


@pytest.fixture
def three_commits(
    path: Path, put: Callable[..., list[bytes]]
) -> list[tuple[int, dict[int, bytes]]]:
    """Make a database of three commits; give its length and contents after each."""
    states = []
    state: dict[int, bytes] = {}
    with FileStorage(path) as storage:
        for number, graph in enumerate([{0: [1, 2], 1: []}, {2: [1], 1: []}, {0: [2], 3: []}]):
            records = put(storage, graph, b"%d" % number)
            state = state | {int.from_bytes(record[:8], "big"): record for record in records}
            states.append((path.stat().st_size, state))
    return states


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Give what durus warned of so far."""
    caplog.set_level(logging.WARNING, "durus")
    return lambda: [record.getMessage() for record in caplog.records]


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name bytes and functions in a way that fits on a line."""
    return val.hex()[:24] if isinstance(val, bytes) and val != ROOT_OID else None
