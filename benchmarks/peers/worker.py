"""A process of a peer: builds its data, serves, or runs a task when it is told to go.

    python -m benchmarks.peers.worker '{"role": "client", "adapter": "durus43", ...}'

It runs in the peer's virtual environment, with the root of the repository as its working folder.
A client says `{"ready": true}` on its standard output, waits for a line on its standard input, runs
the timed part and writes what came of it as one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks.peers.adapter import Peer
from benchmarks.peers.data import BUILDERS
from benchmarks.peers.settings import Settings
from benchmarks.peers.tasks import TASKS

__all__ = ["SYNC_COUNTER_BYTES"]

SYNC_COUNTER_BYTES = 8


def _count_syncs(path: str) -> Callable[[], int]:
    """Count each os.fsync and os.fdatasync of this process in a small file that others can read.

    This stands before the import of any peer: some take a reference to the function.
    """
    with open(path, "w+b") as file:
        file.truncate(SYNC_COUNTER_BYTES)
        counter = mmap.mmap(file.fileno(), SYNC_COUNTER_BYTES)
    lock = threading.Lock()

    def read() -> int:
        value: int = struct.unpack("=Q", counter[:])[0]
        return value

    def counting(original: Callable[[Any], None]) -> Callable[[Any], None]:
        def sync(fd: Any) -> None:
            original(fd)
            with lock:
                counter[:] = struct.pack("=Q", read() + 1)

        return sync

    for name in ("fsync", "fdatasync"):
        setattr(os, name, counting(getattr(os, name)))
    return read


def _peer(order: dict[str, Any]) -> Peer:
    peer: Peer = importlib.import_module(f"benchmarks.peers.{order['adapter']}").PEER
    return peer


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _run_client(order: dict[str, Any], syncs: Callable[[], int]) -> None:
    peer, task = _peer(order), order["task"]
    prepare = peer.own_tasks().get(task) or TASKS[task].prepare
    run = prepare(peer, Settings(**order["settings"]))
    _say({"ready": True})
    if not sys.stdin.readline():
        return  # the driver has given up
    profile = _profile() if order.get("profile") else None
    syncs_before, cpu_before, began = syncs(), time.process_time(), time.monotonic()
    outcome = profile.runcall(run) if profile else run()
    ended, cpu_s = time.monotonic(), time.process_time() - cpu_before
    if profile:
        profile.dump_stats(order["profile"])
    _say(
        {
            "began": began,
            "ended": ended,
            "cpu_s": cpu_s,
            "syncs": syncs() - syncs_before if peer.counts_syncs else None,
            "operations": outcome.operations,
            "checksum": outcome.checksum,
            "latencies_s": outcome.latencies_s,
            "figures": outcome.figures,
        }
    )
    # Not the way out through finalisers: threads of a peer's client may wait there, and every run
    # is on a copy of the data.
    sys.stdout.flush()
    os._exit(0)


def _profile() -> Any:
    import cProfile  # noqa: PLC0415 - a run that is believed does without

    return cProfile.Profile()


def _main() -> None:
    order = json.loads(sys.argv[1])
    del sys.argv[1:]  # a peer's main function may look at them
    if order.get("cpus"):
        os.sched_setaffinity(0, order["cpus"])
    syncs = _count_syncs(order["syncs"])
    match order["role"]:
        case "versions":
            _say(_peer(order).versions())
        case "build":
            BUILDERS[order["data"]](_peer(order), Settings(**order["settings"]))
        case "serve":
            # A peer that has its own way to end on SIGTERM sets it; the others just end.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            settings = Settings(**order["settings"])
            _peer(order).serve(settings.folder, settings.address)
        case "client":
            _run_client(order, syncs)


if __name__ == "__main__":
    _main()
