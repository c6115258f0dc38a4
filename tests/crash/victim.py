"""A process that commits and packs until it is killed, and says what it has committed.

Run as: python victim.py MODULE CLASS PATH MEASURES. It prints the number of each transaction when
its commit returned. MEASURES, as JSON, are numbers to set in modules, by name.
"""

from __future__ import annotations

import importlib
import json
import pickle
import sys
from typing import Any

from durus.error import DurusKeyError
from durus.serialize import ROOT_OID, pack_record, seal, unpack_record
from durus.utils import int8_to_str

OBJECTS = 40
PACK_EVERY = 13
_CLASS = b"\x80\x04cdurus.persistent\nPersistent\n."
_REFS = b"".join(int8_to_str(oid_int) for oid_int in range(1, OBJECTS + 1))


def record_of(oid_int: int, number: int) -> bytes:
    """Give the record that transaction `number` stores under an oid."""
    oid = int8_to_str(oid_int)
    refs = b"" if oid_int else _REFS
    text = f"{oid_int} in {number}" * (number * 7 % 400)
    body = _CLASS + pickle.dumps({"number": number, "text": text}, 4)
    return pack_record(oid, seal(oid, body, refs), refs)


def oids_of(number: int) -> list[int]:
    """Give the oids that transaction `number` stores: all, then the root and some others."""
    if number == 1:
        return list(range(OBJECTS + 1))
    return [0, *sorted({1 + number * step % OBJECTS for step in (1, 3, 7)})]


def state_after(number: int) -> dict[bytes, bytes]:
    """Give every record after `number` transactions."""
    records: dict[bytes, bytes] = {}
    for transaction in range(1, number + 1):
        for oid_int in oids_of(transaction):
            records[int8_to_str(oid_int)] = record_of(oid_int, transaction)
    return records


def number_in(storage: Any) -> int:
    """Give the number of the last transaction in a storage."""
    try:
        data = unpack_record(storage.load(ROOT_OID))[1]
    except DurusKeyError:
        return 0
    number: int = pickle.loads(data[len(_CLASS) :])["number"]
    return number


def commit(storage: Any, number: int) -> None:
    """Commit one transaction and say so."""
    storage.begin()
    for oid_int in oids_of(number):
        storage.store(int8_to_str(oid_int), record_of(oid_int, number))
    storage.end()
    print(number, flush=True)


def main() -> None:
    """Commit, pack at once or in steps with commits between them, and reopen, for ever."""
    module, name, path, measures = sys.argv[1:]
    for full_name, value in json.loads(measures).items():
        owner, _, constant = full_name.rpartition(".")
        setattr(importlib.import_module(owner), constant, value)
    storage_class = getattr(importlib.import_module(module), name)
    storage = storage_class(path)
    number = number_in(storage)
    print(number, flush=True)
    while True:
        number += 1
        commit(storage, number)
        if number % PACK_EVERY == 0:
            storage.pack()
        elif number % PACK_EVERY == 5:
            for step, _ in enumerate(storage.get_packer()):
                if step < 20:
                    number += 1
                    commit(storage, number)
        elif number % PACK_EVERY == 9:
            storage.close()
            storage = storage_class(path)


if __name__ == "__main__":
    main()
