"""Records for tests: well-formed ones that a Connection could load, and malformed ones.

A storage looks at a record's oid, lengths and references only; these builders still make real
records, sealed as a Connection seals them, so that the same test data serves every layer::

    storage.begin()
    storage.store(ROOT_OID, make_record(ROOT_OID, refs=[int8_to_str(1)]))
    storage.store(int8_to_str(1), make_record(int8_to_str(1), payload=b"leaf"))
    storage.end()
"""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pickle import Pickler

from durus.persistent import Persistent
from durus.serialize import pack_record, seal
from durus.storage import Storage

__all__ = ["commit", "make_record", "malformed_records"]

# A class in the form that promises a proof: see durus.serialize.
_CLASS = b"\x80\x04cdurus.persistent\nPersistent\n."
_PICKLE_PROTOCOL = 4


def make_record(oid: bytes, refs: Iterable[bytes] = (), payload: bytes = b"") -> bytes:
    """Make the record of a `Persistent` with the attributes `payload` and `refs`.

    Args:
        oid: 8 bytes.
        refs: the oids, 8 bytes each, of the objects that its attribute `refs`, a list, refers to.
        payload: its attribute `payload`, and with it the record's size.

    Returns:
        The record: the same one for the same arguments.
    """
    refs = list(refs)
    state = BytesIO()
    pickler = _ReferencePickler(state, _PICKLE_PROTOCOL)
    pickler.dump({"payload": payload, "refs": [_Reference(ref) for ref in refs]})
    joined_refs = b"".join(sorted(set(refs) - {oid}))
    return pack_record(oid, seal(oid, _CLASS + state.getvalue(), joined_refs), joined_refs)


def malformed_records(oid: bytes) -> dict[str, bytes]:
    """Give what no storage may keep under `oid`, by a name that says what is wrong with it."""
    record = make_record(oid, refs=[b"\xee" * 8], payload=b"malformed")
    length_bytes = int.from_bytes(record[8:12], "big")
    return {
        "empty": b"",
        "cut inside the oid": record[:7],
        "cut inside the length": record[:11],
        "cut inside the data": record[: 12 + length_bytes // 2],
        "cut inside the references": record[:-3],
        "a length past the end": record[:8] + b"\xff\xff\xff\xff" + record[12:],
        "bytes after the references": record + b"\0",
    }


def commit(storage: Storage, *records: bytes) -> None:
    """Store records, each under the oid that it starts with, in one transaction."""
    storage.begin()
    for record in records:
        storage.store(record[:8], record)
    storage.end()


class _Reference:
    """Stands for a persistent object while its referrer is pickled."""

    def __init__(self, oid: bytes) -> None:
        self.oid = oid


class _ReferencePickler(Pickler):
    def persistent_id(self, obj: object) -> tuple[bytes, type[Persistent]] | None:
        return (obj.oid, Persistent) if isinstance(obj, _Reference) else None
