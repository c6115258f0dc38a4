"""A file made by an enemy: opening it, packing it and looking at it runs nothing of his.

Every pickle in the file would make a directory if it were ever loaded, and no pickle is loaded to
find that out: an audit hook sees each attempt to import what a pickle names.

Cases:
    hostile class and state in each record, with right checksums, as Durus 4.3 and as we write them
    a hostile pickle in the place of each commit record, and as the whole index file
    loading through a Connection: only after the proof, and only what `trust=` allows
"""

from __future__ import annotations

import pickle
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from durus.connection import Connection
from durus.error import CorruptionError, CorruptRecordError, DurusError, UntrustedClassError
from durus.serialize import pack_record, seal, unpack_record
from durus.storage import MemoryStorage, get_census, get_reference_index
from durus.utils import int8_to_str

from .conftest import Kind
from .damage import bounded
from .helpers import NAME, make_record, quiet

RESERVED = b"\xff" * 8


class _Audit:
    """Notes each class or function that any unpickler looks up while it is switched on."""

    def __init__(self) -> None:
        self.found: list[object] = []
        self.is_on = False
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[object, ...]) -> None:
        if self.is_on and event == "pickle.find_class":
            self.found.append(args)


_AUDIT = _Audit()


@contextmanager
def nothing_unpickled() -> Iterator[None]:
    """Refuse any unpickling of a class or function in this block."""
    _AUDIT.found.clear()
    _AUDIT.is_on = True
    try:
        yield
    finally:
        _AUDIT.is_on = False
    assert not _AUDIT.found


def hostile_pickle(marker: Path) -> bytes:
    """Give a pickle that makes a directory when it is loaded."""
    return b"cos\nmkdir\n(V" + str(marker).encode() + b"\ntR."


def hostile_record(oid: bytes, marker: Path, refs: bytes, *, ours: bool) -> bytes:
    """Give a record whose class and state are hostile, and whose checksum, if any, is right."""
    state = b"\x80\x04" + hostile_pickle(marker)
    if ours:
        data = seal(oid, b"\x80\x04cos\nmkdir\n." + state, refs)
    else:
        data = b"\x80\x02cos\nmkdir\nq\x00." + zlib.compress(state)
    return pack_record(oid, data, refs)


def look_at(kind: Kind, path: Path, **options: Any) -> None:
    """Do everything to a file that needs no object: open, walk, load, commit, pack, reopen."""
    with kind.open(path, **options) as storage:
        for oid, _ in list(storage.gen_oid_record()):
            storage.load(oid)
        get_census(storage)
        get_reference_index(storage)
        storage.begin()
        storage.store(int8_to_str(90), make_record(90, "honest"))
        storage.end()
        if storage.can_pack:
            storage.pack()
    kind.open(path, readonly=True).close()


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("options", [{}, {"repair": True}])
def test_hostile_records(kind: Kind, place: Path, ours: bool, options: dict[str, bool]) -> None:
    """Records that would run something are stored, walked, counted and packed unread."""
    path, marker = place / NAME, place / "marker"
    with nothing_unpickled():
        with kind.open(path) as storage:
            for turn in range(3):
                storage.begin()
                for oid_int in range(3):
                    oid = int8_to_str(oid_int)
                    refs = b"" if oid_int else int8_to_str(1) + int8_to_str(2)
                    storage.store(oid, hostile_record(oid, marker, refs, ours=ours))
                storage.end()
                if turn == 1:
                    storage.pack()
        look_at(kind, path, **options)
        for index in place.glob("*.index"):
            index.unlink()
        look_at(kind, path, **options)
    assert not marker.exists()


def old_transaction(kind: Kind, *records: bytes) -> bytes:
    """Give a transaction without a commit record, as Durus 4.3 writes it."""
    if kind.name == "FileStorage2":
        entries = b"".join(struct.pack(">L", len(record)) + record for record in records)
        return entries + bytes(4)
    entries = b"".join(
        struct.pack(">Q", len(record) + 8) + record[:8] + record for record in records
    )
    return struct.pack(">Q", len(entries)) + entries


def test_hostile_commit_record(kind: Kind, place: Path) -> None:
    """A hostile pickle where a commit record should be is damage, or one more object."""
    path, marker = place / NAME, place / "marker"
    honest = make_record(0, "root")
    for ours in (True, False):
        hostile = hostile_record(RESERVED, marker, b"", ours=ours)
        tails = [
            old_transaction(kind, hostile),
            old_transaction(kind, honest, hostile),
            old_transaction(kind, hostile, honest),
        ]
        for tail in tails:
            path.unlink(missing_ok=True)
            with kind.open(path) as storage:
                storage.begin()
                storage.store(int8_to_str(0), honest)
                storage.end()
            path.write_bytes(path.read_bytes() + tail)
            for options in ({}, {"readonly": True}, {"repair": True}):
                with nothing_unpickled(), quiet(), suppress(CorruptionError):
                    kind.open(path, **options).close()
            with nothing_unpickled(), quiet():
                look_at(kind, path, repair=True)
            assert not marker.exists()


def test_hostile_index_record(kind: Kind, place: Path) -> None:
    """The pickled dictionary of a DFS20 file is read without an unpickler."""
    if kind.name != "FileStorage2":
        pytest.skip("SHELF-1 has no pickle of its own")
    path, marker = place / NAME, place / "marker"
    entry = old_transaction(kind, make_record(0, "root"))
    item = b"\x80\x02}q\x00U\x08" + bytes(8) + b"q\x01K\x0es"

    def write(pickled: bytes) -> None:
        index = zlib.compress(pickled)
        head = b"DFS20\0" + struct.pack(">Q", 14 + len(entry))
        path.write_bytes(head + entry + struct.pack(">Q", len(index)) + index)

    write(item + b".")
    with kind.open(path, readonly=True) as storage:
        assert storage.load(int8_to_str(0)) == make_record(0, "root")
    for items in (hostile_pickle(marker), item[:-1] + hostile_pickle(marker), item + b"0"):
        for pickled in (items, items + hostile_pickle(marker)):
            write(pickled)
            for options in ({}, {"readonly": True}, {"repair": True}):
                with nothing_unpickled(), quiet(), suppress(CorruptionError):
                    look_at(kind, path, **options)
                assert not marker.exists()


def test_swollen_index_record(kind: Kind, place: Path) -> None:
    """A small DFS20 file whose dictionary unpacks to very much takes neither memory nor time."""
    if kind.name != "FileStorage2":
        pytest.skip("SHELF-1 has no pickle of its own")
    path = place / NAME
    entry = old_transaction(kind, make_record(0, "root"))
    item = b"U\x08" + bytes(8) + b"q\x01K\x0es"
    for swelling in (b"\x94" * (20 << 20), b"0" * (70 << 20), item * (3 << 20)):
        index = zlib.compress(b"\x80\x02}q\x00" + item + swelling + b".")
        head = b"DFS20\0" + struct.pack(">Q", 14 + len(entry))
        path.write_bytes(head + entry + struct.pack(">Q", len(index)) + index)
        with quiet(), bounded(path.stat().st_size):
            with pytest.raises(CorruptionError), kind.open(path, readonly=True) as storage:
                storage.load(int8_to_str(0))
            with kind.open(path, repair=True) as storage:
                assert storage.load(int8_to_str(0)) == make_record(0, "root")


def test_hostile_index(kind: Kind, place: Path) -> None:
    """An index file that is a hostile pickle is thrown away unread."""
    path, marker = place / NAME, place / "marker"
    with kind.open(path) as storage:
        storage.begin()
        storage.store(int8_to_str(0), make_record(0, "root"))
        storage.end()
    index = path.with_name(f"{NAME}.index")
    before = index.read_bytes() if index.exists() else b""
    for content in (hostile_pickle(marker), before[:16] + hostile_pickle(marker)):
        index.write_bytes(content)
        with nothing_unpickled(), quiet():
            look_at(kind, path)
        assert not marker.exists()


class Meddler(MemoryStorage):
    """Gives records with a hostile state, and the proof of the state that was stored."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.hostile = b"\x80\x04" + hostile_pickle(marker)

    def load(self, oid: bytes) -> bytes:
        _, data, refs = unpack_record(super().load(oid))
        start = data.index(b"\n.") + 2
        return pack_record(oid, data[:start] + self.hostile + data[-4:], refs)


def test_connection_loads_only_what_proves_itself(place: Path) -> None:
    """A changed record is refused before anything of it is unpickled."""
    marker = place / "marker"
    storage = Meddler(marker)
    storage.begin()
    storage.store(int8_to_str(0), make_record(0, "root"))
    storage.store(int8_to_str(1), make_record(1, "one"))
    storage.end()
    with nothing_unpickled(), pytest.raises(CorruptRecordError) as caught:
        Connection(storage)[1].text
    assert caught.value.oid is not None
    assert not marker.exists()


def test_connection_trusts_what_it_is_told_to(kind: Kind, place: Path) -> None:
    """A hostile record with a right proof is refused where `trust=` says what may be loaded."""
    path, marker = place / NAME, place / "marker"
    with Connection(kind.open(path)) as connection:
        connection.get_root()["n"] = 1
        connection.commit()
    with kind.open(path) as storage:
        storage.begin()
        refs = b""
        storage.store(int8_to_str(1), hostile_record(int8_to_str(1), marker, refs, ours=True))
        body = b"\x80\x04cdurus.persistent\nPersistent\n." + hostile_pickle(marker)
        record = pack_record(int8_to_str(2), seal(int8_to_str(2), body, refs), refs)
        storage.store(int8_to_str(2), record)
        storage.end()
    with Connection(kind.open(path), trust=["durus.persistent.Persistent"]) as connection:
        for oid_int in (1, 2):
            with pytest.raises((UntrustedClassError, CorruptRecordError)):
                connection.get(oid_int).__dict__
    assert not marker.exists()


def test_audit_sees_unpickling(place: Path) -> None:
    """The hook that the others rely on does notice."""
    with pytest.raises(AssertionError), nothing_unpickled(), suppress(DurusError):
        pickle.loads(hostile_pickle(place / "marker"))
    assert (place / "marker").exists()
