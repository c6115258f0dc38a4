"""The workloads of a program that opens its database itself."""

from __future__ import annotations

from benchmarks.workloads.model import Target, Workload, at_least, at_most

__all__ = ["EMBEDDED"]

FILES = ("durus5", "durus43", "zodb")
SQLITE = ("durus5-sqlite", "durus43-sqlite", "relstorage")
STORES = (*FILES, *SQLITE)
ROWS = ("plain", "file", "sqlite3", "lmdb")

ITEMS_100K = {"groups": 1000, "members": 100}
ITEMS_200K = {"groups": 2000, "members": 100}
ITEMS_10K = {"groups": 100, "members": 100}
ITEMS_300K = {"groups": 1000, "members": 300}
FEW = {"groups": 20, "members": 20}
KEYS_100K = {"keys": 100_000}


def _in_sqlite(limit: float) -> Target:
    """Compare SqliteStorage with those who store objects in SQLite too."""
    return at_least(limit, ours=("durus5-sqlite",), versus=("durus43-sqlite", "relstorage"))


EMBEDDED = [
    Workload(
        name="attributes",
        title="an attribute of a loaded object: read, write again, first write in a transaction",
        task="attributes",
        peers=(*FILES, "plain"),
        targets=(
            at_most(0.8, "read_ns"),
            at_most(0.8, "write_ns"),
            at_most(0.6, "first_write_ns"),
        ),
        full=ITEMS_10K,
        quick=FEW,
        figures=("read_ns", "write_ns", "first_write_ns"),
    ),
    Workload(
        name="mapping",
        title="a persistent dictionary of 1,000 keys: get, set, items, each key",
        task="mapping",
        peers=(*FILES, "plain"),
        targets=(at_most(0.8, "get_ns"), at_most(0.6, "set_ns"), at_most(1.0, "items_ns")),
        full={"keys": 1000},
        quick={"keys": 100},
        figures=("get_ns", "set_ns", "items_ns"),
        data="empty",
    ),
    Workload(
        name="sizes",
        title="bytes of an object: as a ghost, loaded, and in the file",
        task="sizes",
        peers=(*FILES, "plain"),
        targets=(
            at_most(0.9, "ghost_bytes"),
            at_most(0.9, "loaded_bytes"),
            at_most(1.0, "file_bytes"),
        ),
        full=ITEMS_100K,
        quick=FEW,
        figures=("ghost_bytes", "loaded_bytes", "file_bytes"),
    ),
    Workload(
        name="upkeep",
        title="a small commit, not synced, beside a full cache of 1,000 and of 200,000 objects",
        task="upkeep",
        peers=FILES,
        targets=(at_most(1.25, "upkeep", absolute=True),),
        full=ITEMS_200K | {"operations": 2000},
        quick=FEW | {"operations": 20},
        figures=("few_us", "many_us", "upkeep"),
    ),
    Workload(
        name="new-small",
        title="100,000 new small objects in one synced commit",
        task="new_objects",
        peers=(*STORES, *ROWS),
        targets=(at_least(4), _in_sqlite(4)),
        full=ITEMS_100K,
        quick=FEW,
        data="empty",
    ),
    Workload(
        name="new-2k",
        title="1,000 new objects of 2 KiB in one synced commit",
        task="new_objects",
        peers=(*STORES, *ROWS),
        targets=(at_least(2),),
        full={"groups": 10, "members": 100, "text_bytes": 2048},
        quick={"groups": 2},
        data="empty",
    ),
    Workload(
        name="small-synced",
        title="small synced commits, one after the other",
        task="commits",
        peers=(*STORES, "file", "sqlite3", "lmdb"),
        targets=(
            at_least(0.95, versus=("file",)),
            at_least(0.7, ours=("durus5-sqlite",), versus=("sqlite3",)),
        ),
        full=ITEMS_10K | {"operations": 500},
        quick=FEW | {"operations": 5},
        figures=("rate", "p50_ms", "p99_ms"),
    ),
    Workload(
        name="small-unsynced",
        title="small commits, not synced",
        task="commits",
        peers=(*FILES, "durus5-sqlite", "relstorage", "file", "sqlite3", "lmdb"),
        targets=(at_least(3),),
        full=ITEMS_10K | {"operations": 3_000, "synced": False},
        quick=FEW | {"operations": 5},
    ),
    Workload(
        name="programs-4",
        title="4 programs on one SQLite file, each commits objects of its own",
        task="commits",
        # Not that of 4.3: it is for one program at a time.
        peers=("durus5-sqlite", "relstorage"),
        targets=(_in_sqlite(2),),
        full=ITEMS_10K | {"operations": 200},
        quick=FEW | {"operations": 5},
        figures=("rate", "p50_ms", "p99_ms"),
        clients=4,
    ),
    Workload(
        name="cold-order",
        title="100,000 objects from a cold cache, in order",
        task="walk",
        peers=(*STORES, "plain", "sqlite3", "lmdb"),
        targets=(at_least(3), _in_sqlite(3)),
        full=ITEMS_100K,
        quick=FEW,
    ),
    Workload(
        name="cold-random",
        title="100,000 objects from a cold cache, at random",
        task="loads",
        peers=(*STORES, "plain", "sqlite3", "lmdb"),
        targets=(at_least(3), _in_sqlite(3)),
        full=ITEMS_100K | {"operations": 100_000},
        quick=FEW | {"operations": 400},
    ),
    Workload(
        name="btree",
        title="a BTree of 100,000 random keys in memory",
        task="tree",
        peers=(*FILES, "sorteddict"),
        targets=tuple(
            at_least(1, figure, versus=("zodb",))
            for figure in ("insert_rate", "lookup_rate", "iterate_rate", "range_rate")
        ),
        full=KEYS_100K,
        quick={"keys": 1000},
        figures=("insert_rate", "lookup_rate", "iterate_rate", "range_rate"),
        data="empty",
    ),
    Workload(
        name="btree-cold",
        title="a BTree of 100,000 random keys from a cold cache",
        task="cold_tree",
        peers=FILES,
        targets=tuple(
            at_least(1.5, figure, versus=("zodb",)) for figure in ("lookup_rate", "iterate_rate")
        ),
        full=KEYS_100K,
        quick={"keys": 1000},
        figures=("lookup_rate", "iterate_rate"),
        data="tree",
    ),
    *(
        Workload(
            name=f"open-{data}",
            title=f"open 300,000 objects, {how}",
            task="opening",
            peers=FILES,
            targets=(
                at_most(20, "open_ms", absolute=True),
                at_most(10, "peak_mb", absolute=True),
            ),
            full=ITEMS_300K,
            quick=FEW,
            figures=("open_ms", "peak_mb"),
            data=data,
            keeps_data=True,
        )
        for data, how in (("packed", "packed"), ("history", "1,000 transactions never packed"))
    ),
    Workload(
        name="pack",
        title="pack 200,000 objects, half of them garbage",
        task="pack",
        peers=(*FILES, "durus5-sqlite"),
        targets=(at_least(2), at_most(5, "longest_step_ms", absolute=True)),
        full=ITEMS_200K,
        quick=FEW,
        figures=("rate", "longest_step_ms"),
        data="garbage",
    ),
]
