"""What the tests ask of a version of Durus: make, change, pack and read a database file.

Each function here is a task of `compat_runner`: JSON values in, JSON values out.
"""

from __future__ import annotations

import importlib.metadata
import random
import shutil
from pathlib import Path
from typing import Any

import compat_corpus
import compat_dump

import durus
import durus.connection
import durus.serialize
from durus.btree import BNode, BTree
from durus.connection import ROOT_OID, Connection, touch_every_reference
from durus.file_storage import FileStorage
from durus.file_storage2 import FileStorage2
from durus.persistent_list import PersistentList
from durus.storage import Storage, gen_oid_class, get_census, get_reference_index
from durus.utils import str_to_int8

STORAGE_CLASSES = {"SHELF-1": FileStorage, "DFS20": FileStorage2}

# The stages in the life of a file, each with what is done to get there from the one before.
STAGES: dict[str, list[list[Any]]] = {
    "never-packed": [["change", 1], ["change", 2]],
    "packed": [["pack"]],
    "committed-after-pack": [["change", 3], ["change", 4]],
    "packed-twice": [["pack"]],
    "committed-after-second-pack": [["change", 5]],
}

# What a process holds open between tasks, by a name of the test's choice.
_held: dict[str, Connection] = {}


def open_file(format: str, path: str, **options: Any) -> FileStorage | FileStorage2:
    return STORAGE_CLASSES[format](path, **options)


def where() -> dict[str, Any]:
    """Tell which Durus this process has imported."""
    try:
        version = importlib.metadata.version("Durus")
    except importlib.metadata.PackageNotFoundError:
        version = None
    return {
        "version": version,
        "durus.__file__": getattr(durus, "__file__", None),
        "durus.connection": durus.connection.__file__,
    }


def make_stages(format: str, directory: str, case: str, compressed: bool = True) -> dict[str, Any]:
    """Build a case and leave a copy of the file at each stage; give the writer's view of each."""
    _write_compressed(compressed)
    working = Path(directory, "working.durus")
    storage = open_file(format, str(working))
    connection = Connection(storage)
    compat_corpus.CASES[case].build(connection.get_root())
    connection.commit()
    seen = {}
    for stage, actions in STAGES.items():
        act(connection, case, actions)
        shutil.copyfile(working, Path(directory, f"{stage}.durus"))
        seen[stage] = view(connection)
    storage.close()
    return seen


def run(
    format: str,
    path: str,
    case: str,
    actions: list[list[Any]],
    compressed: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Open a file, do `actions` on it, and give what this process then sees of it."""
    _write_compressed(compressed)
    storage = open_file(format, path, **options)
    connection = Connection(storage)
    act(connection, case, actions)
    seen = view(connection)
    storage.close()
    return seen


def act(connection: Connection, case: str, actions: list[list[Any]]) -> None:
    for action, *arguments in actions:
        if action == "build":
            compat_corpus.CASES[case].build(connection.get_root())
            connection.commit()
        elif action == "change":
            compat_corpus.CASES[case].change(connection.get_root(), *arguments)
            connection.commit()
        elif action == "touch":
            touch_every_reference(connection, *arguments)
            connection.commit()
        elif action == "abort":
            compat_corpus.CASES[case].change(connection.get_root(), 99)
            connection.abort()
        elif action == "pack":
            connection.pack()
        else:
            raise ValueError(action)


def read(format: str, path: str, **options: Any) -> dict[str, Any]:
    """Open a file and give all that can be seen of it, loading every object afresh."""
    storage = open_file(format, path, **options)
    seen = view(Connection(storage))
    storage.close()
    return seen


def view(connection: Connection) -> dict[str, Any]:
    """Give the graph, labelled by oids and labelled by order, and what each walk over it says."""
    storage = connection.get_storage()
    return {
        "objects": compat_dump.dump(connection),
        "canonical": compat_dump.dump(connection, by_oid=False),
        "walks": walks(storage),
        "crawled": sorted(str_to_int8(obj._p_oid) for obj in connection.get_crawler()),
    }


def walks(storage: Storage) -> dict[str, Any]:
    """Give what the walks of durus.storage say; those without a start include garbage."""
    reachable = dict(storage.gen_oid_record(start_oid=ROOT_OID))
    index = get_reference_index(storage)
    return {
        "reachable": sorted(str_to_int8(oid) for oid in reachable),
        "records": sorted(str_to_int8(oid) for oid, _ in storage.gen_oid_record()),
        "classes": sorted(
            [str_to_int8(oid), name.decode()] for oid, name in gen_oid_class(storage)
        ),
        "census": sorted([name.decode(), count] for name, count in get_census(storage).items()),
        "references": sorted(
            [str_to_int8(oid), sorted(str_to_int8(referrer) for referrer in referrers)]
            for oid, referrers in index.items()
        ),
    }


def hold(name: str, format: str, path: str, **options: Any) -> None:
    """Open a file and keep it open."""
    _held[name] = Connection(open_file(format, path, **options))


def held_run(name: str, case: str, actions: list[list[Any]]) -> dict[str, Any]:
    """Do `actions` on a file that is held open."""
    act(_held[name], case, actions)
    return view(_held[name])


def held_view(name: str, sync: bool = True) -> dict[str, Any]:
    """Give what is seen of a file that is held open, after a transaction boundary if `sync`."""
    if sync:
        _held[name].abort()
    return view(_held[name])


def commit_for_ever(name: str) -> None:
    """Commit as fast as possible until killed: a counter in the root and the same in a list."""
    connection = _held[name]
    root = connection.get_root()
    root["list"] = PersistentList([0])
    while True:
        root["count"] = root.get("count", 0) + 1
        root["list"][0] = root["count"]
        root["payload"] = b"some bytes" * (root["count"] % 500)
        connection.commit()


def counter(format: str, path: str, **options: Any) -> dict[str, int]:
    """Give the two counters of `commit_for_ever`."""
    storage = open_file(format, path, **options)
    root = Connection(storage).get_root()
    counts = {"in the root": root.get("count", 0), "in the list": root.get("list", [0])[0]}
    storage.close()
    return counts


def delete_from_degree_2(format: str, path: str) -> None:
    """Make trees of degree 2 and delete from them, come what may; keep what can still be walked."""
    storage = open_file(format, path)
    connection = Connection(storage)
    trees = connection.get_root()["trees"] = PersistentList()
    for seed in range(40):
        rng = random.Random(seed)
        tree = BTree(BNode)
        keys = rng.sample(range(40), 30)
        for key in keys:
            tree[key] = -key
        for key in keys[:: 2 + seed % 3]:
            try:
                del tree[key]
            except (AssertionError, KeyError, IndexError, TypeError, AttributeError):
                continue  # as 4.3 does with this degree
        try:
            tree.items()
        except IndexError:
            continue
        trees.append(tree)
    connection.commit()
    storage.close()


def read_trees(format: str, path: str) -> list[list[int]]:
    """Give the keys of each tree, in the order in which a walk gives them."""
    storage = open_file(format, path)
    trees = Connection(storage).get_root()["trees"]
    keys = [[key for key, _ in tree.items()] for tree in trees]
    storage.close()
    return keys


def empty_trees(format: str, path: str) -> list[list[int]]:
    """Delete every key of each tree, put two others in, and give what is left."""
    storage = open_file(format, path)
    connection = Connection(storage)
    trees = connection.get_root()["trees"]
    for tree in trees:
        for key in list(tree):
            del tree[key]
        tree[1001] = tree[1000] = True
    connection.commit()
    keys = [list(tree) for tree in trees]
    storage.close()
    return keys


def release(name: str) -> None:
    """Close a file that is held open."""
    _held.pop(name).get_storage().close()


def _write_compressed(compressed: bool) -> None:
    """Choose how states are written. Ours decides on its own and has no such switch."""
    if hasattr(durus.serialize, "WRITE_COMPRESSED_STATE_PICKLES"):
        durus.serialize.WRITE_COMPRESSED_STATE_PICKLES = compressed
