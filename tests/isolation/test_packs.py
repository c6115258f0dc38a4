"""A reader whose state is older than a pack finds all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from durus.connection import Connection
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.persistent_dict import PersistentDict
from durus.sessions import SharedStorage
from durus.sqlite_storage import SqliteStorage
from durus.storage import MemoryStorage, Storage

LENGTH = 500  # of a chain of objects that is cut off


def open_storage(kind: str, folder: Path) -> Storage:
    """Open a new storage."""
    kinds = {"file": FileStorage, "file2": FileStorage2, "sqlite": SqliteStorage}
    return kinds[kind](folder / "app") if kind in kinds else MemoryStorage()


def make_chain(root: PersistentDict) -> None:
    """Give the root an object that refers to one, and so on."""
    for number in range(LENGTH):
        root["first"] = PersistentDict(number=number, next=root.get("first"))


def length_of(root: PersistentDict) -> int:
    """Give how many objects are reached one after the other."""
    at, length = root["first"], 0
    while at is not None:
        at, length = at["next"], length + 1
    return length


@pytest.mark.parametrize("kind", ["memory", "file", "file2", "sqlite"])
def test_an_old_state_is_whole_after_a_pack(kind: str, tmp_path: Path) -> None:
    """What others cut off is read to its end after a pack took it away; then it is gone."""
    shared = SharedStorage(open_storage(kind, tmp_path))
    writer = Connection(shared.new_session())
    make_chain(writer.get_root())
    writer.commit()
    reader = Connection(shared.new_session())
    reader.get_root()["first"]["number"]
    writer.get_root()["first"] = None
    writer.commit()
    writer.pack()
    assert len(list(shared.storage.gen_oid_record())) < LENGTH
    assert length_of(reader.get_root()) == LENGTH
    reader.abort()
    assert length_of(reader.get_root()) == 0
    shared.close()
