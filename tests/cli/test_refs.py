"""`durus refs`: who refers to an object, and what it alone keeps alive."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from durus.error import DurusKeyError
from durus.serialize import ROOT_OID, split_oids, unpack_record
from durus.storage import MemoryStorage, Storage
from durus.testing import commit, make_record
from durus.tools.refs import find_refs
from durus.utils import int8_to_str


def _store(graph: dict[int, list[int]]) -> Storage:
    storage = MemoryStorage()
    for number, refs in graph.items():
        oid = int8_to_str(number)
        commit(storage, make_record(oid, [int8_to_str(ref) for ref in refs], b"x" * number))
    return storage


def _reached(storage: Storage, without: bytes | None) -> set[bytes]:
    """Walk from the root, as plainly as can be."""
    seen: set[bytes] = set()
    waiting = [ROOT_OID]
    while waiting:
        oid = waiting.pop()
        if oid not in seen and oid != without:
            seen.add(oid)
            waiting += split_oids(unpack_record(storage.load(oid))[2])
    return seen


@pytest.mark.parametrize("seed", range(20))
def test_what_it_alone_keeps_alive(seed: int) -> None:
    """It is what the root reaches, and without the object would not: in any graph."""
    random = Random(seed)
    graph = {n: random.sample(range(12), random.randrange(3)) for n in range(12)}
    storage = _store(graph)
    everything = _reached(storage, None)
    for number in graph:
        oid = int8_to_str(number)
        found = find_refs(storage, oid)
        retained = everything - _reached(storage, oid)
        assert found.retained_objects == len(retained)
        assert found.retained_bytes == sum(len(storage.load(kept)) for kept in retained)
        assert (found.path is None) == (oid not in everything)
        expected = [n for n, refs in graph.items() if number in refs and n != number]
        assert [int.from_bytes(r.oid, "big") for r in found.referrers] == expected


def test_an_object_that_is_not_stored() -> None:
    """It is an error that names it."""
    with pytest.raises(DurusKeyError):
        find_refs(_store({0: []}), int8_to_str(5))


@pytest.fixture
def shop(durus: Any) -> Path:
    """A database where kim is referred to from two places, and has an address of her own."""
    durus(
        "shell",
        "shop.durus",
        "--create",
        input=(
            "from durus.persistent_dict import PersistentDict as D\n"
            "kim = D(address=D(city='Seoul'))\n"
            "root['users'] = D(kim=kim)\n"
            "root['last'] = [1, kim]\n"
            "commit()\n"
        ),
    )
    shop: Path = durus.folder / "shop.durus"
    return shop


def test_lines(durus: Any, shop: Path) -> None:
    """The object, what it keeps, and each who refers to it with the place and its path."""
    before = shop.read_bytes()
    lines = durus("refs", "shop.durus", 'root["users"]["kim"]').stdout.splitlines()
    kind = "durus.persistent_dict.PersistentDict"
    assert lines[0].startswith('root["last"][1] (oid ')
    assert lines[1].startswith("keeps alive alone: 2 objects, ")
    assert lines[2] == "referred to by 2 objects"
    assert lines[3] == f'at ["last"][1] of root (oid 0, {kind})'
    assert lines[4].startswith('at ["kim"] of root["users"] (oid ')
    assert shop.read_bytes() == before


def test_json(durus: Any, shop: Path) -> None:
    """The same for a program."""
    told = json.loads(durus("refs", "shop.durus", 'root["users"]["kim"]', "--json").stdout)
    assert list(told) == [
        "durus_refs",
        "database",
        "oid",
        "class",
        "record_bytes",
        "path",
        "retained",
        "referrers",
    ]
    assert told["path"] == 'root["last"][1]'
    assert told["retained"]["objects"] == 2
    assert [referrer["steps"] for referrer in told["referrers"]] == [['["last"][1]'], ['["kim"]']]


def test_garbage(durus: Any, shop: Path) -> None:
    """Of an object that the root does not reach that is said, and nothing is kept by it."""
    found = json.loads(
        durus("refs", "shop.durus", 'root["users"]["kim"]["address"]', "--json").stdout
    )
    durus("shell", "shop.durus", input="del root['users'], root['last']\ncommit()\n")
    told = durus("refs", "shop.durus", str(found["oid"])).stdout
    assert told.startswith(f"not reached from the root (oid {found['oid']}, ")
    assert "keeps alive" not in told
    assert 'at ["address"] of not reached from the root' in told


def test_no_such_object(durus: Any, shop: Path) -> None:
    """A path that leads nowhere, and an oid that is not stored, are errors."""
    assert "came as far as root" in durus.error("refs", "shop.durus", 'root["nobody"]')
    assert "999" in durus.error("refs", "shop.durus", "999")


def test_a_running_server(durus: Any, shop: Path, serve: Any) -> None:
    """A server is asked in the same way."""
    server = serve("shop.durus").ready()
    told = durus("refs", "durus+unix:a.sock", 'root["users"]').stdout
    assert "keeps alive alone: 1 object," in told
    server.stop()
