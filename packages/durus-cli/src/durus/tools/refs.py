"""Who refers to an object, and what would be gone if nobody did, on any storage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from durus.inspection import find_paths, gen_references
from durus.serialize import ROOT_OID, extract_class_path, split_oids, unpack_record
from durus.storage import Storage

__all__ = ["Referrer", "Refs", "find_refs"]

_BATCH_SIZE = 100


@dataclass(slots=True)
class Referrer:
    """An object that refers to the one that was asked for.

    Attributes:
        oid: 8 bytes.
        class_name: "module.Name".
        steps: where in it, as in a path: '["kim"]', '.owner'; empty from a B-tree to its nodes.
        path: from the root to it, or None if the root does not reach it.
    """

    oid: bytes
    class_name: str
    steps: list[str]
    path: str | None = None


@dataclass(slots=True)
class Refs:
    """An object, and what it hangs on.

    Attributes:
        oid: 8 bytes.
        class_name: "module.Name".
        record_bytes: the length of its record.
        path: from the root to it, or None if the root does not reach it.
        retained_objects: how many objects, itself included, the root would not reach without it;
            0 if it does not reach it as it is.
        retained_bytes: the length of their records.
        referrers: who refers to it, itself left out.
    """

    oid: bytes
    class_name: str
    record_bytes: int
    path: str | None = None
    retained_objects: int = 0
    retained_bytes: int = 0
    referrers: list[Referrer] = field(default_factory=list)


def find_refs(
    storage: Storage,
    oid: bytes,
    show: Callable[[int], None] = lambda done: None,  # noqa: ARG005 - nobody watches
) -> Refs:
    """Read all that is stored, and tell who refers to an object and what it alone keeps alive.

    That is exact: what the root reaches without passing the object is taken away from what the
    object reaches. It reads each record up to three times and keeps none, and takes some 200 bytes
    of memory for each object that the root reaches.

    Args:
        storage: what to look into, as it was when it was opened or synced last.
        oid: 8 bytes.
        show: called now and then with the number of records that were read.

    Raises:
        DurusKeyError: the object, or one on the way, is not stored.
        CorruptionError: a record on the way is damaged.
    """
    record = storage.load(oid)
    refs = Refs(oid, extract_class_path(record), len(record))
    done = 0
    for referrer, record in storage.gen_oid_record():
        done += 1
        if not done % _BATCH_SIZE:
            show(done)
        if referrer != oid and oid in split_oids(unpack_record(record)[2]):
            steps = [step for step, referred in gen_references(record) if referred == oid]
            refs.referrers.append(Referrer(referrer, extract_class_path(record), steps))
    refs.referrers.sort(key=lambda found: found.oid)
    paths = find_paths(storage, {oid, *(found.oid for found in refs.referrers)})
    refs.path = paths.get(oid)
    for found in refs.referrers:
        found.path = paths.get(found.oid)
    if refs.path is not None:
        seen = {oid}
        if oid != ROOT_OID:
            for _ in _gen_unseen(storage, ROOT_OID, seen):
                done += 1
                if not done % _BATCH_SIZE:
                    show(done)
        for record in _gen_unseen(storage, oid, seen):
            refs.retained_objects += 1
            refs.retained_bytes += len(record)
    return refs


def _gen_unseen(storage: Storage, start: bytes, seen: set[bytes]) -> Iterator[bytes]:
    """Yield the records of `start` and of what it reaches without passing what was seen."""
    seen.add(start)
    waiting = deque([start])
    while waiting:
        batch = [waiting.popleft() for _ in range(min(_BATCH_SIZE, len(waiting)))]
        for record in storage.bulk_load(batch):
            for referred in split_oids(unpack_record(record)[2]):
                if referred not in seen:
                    seen.add(referred)
                    waiting.append(referred)
            yield record
