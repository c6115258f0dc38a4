"""Runs the workloads for all peers, interleaved in rounds: `tox -e bench`.

    python -m benchmarks.run [--quick] [--workloads a,b] [--peers a,b] [--rounds N] [--json FILE]

See README.md in this folder for what the numbers mean.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.environments import PEERS, ROOT, provide
from benchmarks.peers.tasks import Settings, expected
from benchmarks.processes import ServerProcess, WorkerError, run_clients, run_worker
from benchmarks.workloads import WORKLOADS, Workload

__all__ = ["main"]

RESULTS = ROOT / "benchmarks" / "results"
RAW_SYNCS = 100


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    workloads: list[Workload]
    peers: list[str]
    rounds: int
    quick: bool
    profile: Path | None


class Data:
    """The databases to begin with, built once for each peer and size, and a copy for each run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs = 0

    def copy(self, peer: str, settings: dict[str, Any]) -> Path:
        """Give a folder with a fresh copy of the peer's data."""
        self._runs += 1
        target = self._folder / f"run-{self._runs}"
        shutil.copytree(self._built(peer, settings), target)
        for path in target.rglob("*"):
            _sync(path)  # or the first commit would wait for all of it
        return target

    def _built(self, peer: str, settings: dict[str, Any]) -> Path:
        sizes = {name: settings[name] for name in ("groups", "members")}
        built = self._folder / f"{peer}-{sizes['groups']}-{sizes['members']}"
        if not built.exists():
            built.mkdir()
            order = {"role": "build", "peer": peer, "settings": {"folder": str(built), **sizes}}
            run_worker(order, built)
        return built


def _sync(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _measure(workload: Workload, peer: str, data: Data, options: Options) -> dict[str, Any]:
    """Run one workload on one peer once, and check what it did."""
    settings = workload.settings(quick=options.quick)
    folder = data.copy(peer, settings)
    # A Unix socket's path is short: the folder may be deep.
    with tempfile.TemporaryDirectory(prefix="bench") as socket_folder:
        settings = {**settings, "folder": str(folder), "address": f"{socket_folder}/s"}
        try:
            measured = (_measure_server if workload.serves else _measure_threads)(
                workload, peer, settings, folder, options
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return {"workload": workload.name, "peer": peer, **measured}


def _measure_server(
    workload: Workload, peer: str, settings: dict[str, Any], folder: Path, options: Options
) -> dict[str, Any]:
    # One client and its server take turns. On two cores the time to wake the other one is most of
    # what would be measured, and it comes in two sizes; so both have one core.
    cpus = [max(os.sched_getaffinity(0))] if workload.clients == 1 else None
    base = {"peer": peer, "cpus": cpus}
    orders = [
        {
            **base,
            "task": workload.task,
            "settings": {**settings, "index": index},
            "profile": _profile_path(options, workload, peer) if index == 0 else None,
        }
        for index in range(workload.clients)
    ]
    with ServerProcess({**base, "settings": settings}, folder) as server:
        results, server_cpu_s, syncs = run_clients(orders, folder, server)
        if workload.writes:
            _check_writes(workload, "count_through_server", base, settings, folder, server)
    _check(workload, peer, orders, results)
    return _summed(results, server_cpu_s, syncs)


def _measure_threads(
    workload: Workload, peer: str, settings: dict[str, Any], folder: Path, options: Options
) -> dict[str, Any]:
    base = {"peer": peer, "cpus": None}
    profile = _profile_path(options, workload, peer)
    orders = [{**base, "task": workload.task, "settings": settings, "profile": profile}]
    results, _, _ = run_clients(orders, folder, None)
    _check(workload, peer, orders, results)
    _check_writes(workload, "count_in_process", base, settings, folder, None)
    return _summed(results, None, results[0]["syncs"])


def _profile_path(options: Options, workload: Workload, peer: str) -> str | None:
    return str(options.profile / f"{workload.name}-{peer}.pstats") if options.profile else None


def _check(
    workload: Workload, peer: str, orders: list[dict[str, Any]], results: list[dict[str, Any]]
) -> None:
    for order, result in zip(orders, results, strict=True):
        wanted = expected(workload.task, Settings(**order["settings"]))
        found = result["operations"], result["checksum"]
        if found != wanted:
            raise WorkerError(f"{workload.name} of {peer} did {found}, which should be {wanted}")


def _check_writes(
    workload: Workload,
    task: str,
    base: dict[str, Any],
    settings: dict[str, Any],
    folder: Path,
    server: ServerProcess | None,
) -> None:
    results, _, _ = run_clients([{**base, "task": task, "settings": settings}], folder, server)
    wanted = workload.expected_writes(settings)
    if results[0]["checksum"] != wanted:
        raise WorkerError(
            f"{workload.name} of {base['peer']} acknowledged {wanted} changes,"
            f" and {results[0]['checksum']} are there"
        )


def _summed(
    results: list[dict[str, Any]], server_cpu_s: float | None, syncs: int | None
) -> dict[str, Any]:
    """Make one measurement of what the clients said: monotonic time is the system's, not theirs."""
    wall_s = max(result["ended"] for result in results) - min(r["began"] for r in results)
    operations = sum(result["operations"] for result in results)
    latencies_s = sorted(latency for result in results for latency in result["latencies_s"])
    return {
        "operations": operations,
        "checksum": sum(result["checksum"] for result in results),
        "wall_s": wall_s,
        "rate": operations / wall_s,
        "client_cpu_us": sum(result["cpu_s"] for result in results) / operations * 1e6,
        "server_cpu_us": None if server_cpu_s is None else server_cpu_s / operations * 1e6,
        "syncs": syncs,
        "p50_ms": report.percentile(latencies_s, 50) * 1e3 if latencies_s else None,
        "p99_ms": report.percentile(latencies_s, 99) * 1e3 if latencies_s else None,
    }


def _raw_syncs_per_s(folder: Path) -> float:
    """Measure what the disk can do: no store that syncs each commit by itself does more."""
    with (folder / "raw").open("wb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(RAW_SYNCS):
            file.write(b"x" * 300)
            os.fdatasync(file.fileno())
        return RAW_SYNCS / (time.perf_counter() - began)


def _interleaved(options: Options) -> Iterator[tuple[int, Workload, list[str]]]:
    for number in range(options.rounds):
        for workload in options.workloads:
            if workload.max_rounds is not None and number >= workload.max_rounds:
                continue
            peers = [peer for peer in options.peers if peer in workload.peers]
            # Each round begins with another, so that none always follows the same neighbour.
            turn = number % len(peers) if peers else 0
            yield number, workload, peers[turn:] + peers[:turn]


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Run it all, and give it in the form that is stored."""
    data = Data(folder)
    began = time.monotonic()
    versions = {
        peer: run_worker({"role": "versions", "peer": peer}, folder) for peer in options.peers
    }
    measurements: list[dict[str, Any]] = []
    raw_syncs_per_s: list[float] = []
    for number, workload, peers in _interleaved(options):
        raw_syncs_per_s.append(_raw_syncs_per_s(folder))
        for peer in peers:
            measured = _measure(workload, peer, data, options)
            measurements.append({"round": number, **measured})
            print(
                f"[{time.monotonic() - began:4.0f} s] round {number + 1} {workload.name}"
                f" {peer}: {measured['rate']:,.0f}/s",
                file=sys.stderr,
            )
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": report.machine(),
        "versions": versions,
        "quick": options.quick,
        "rounds": options.rounds,
        "took_s": round(time.monotonic() - began),
        "raw_syncs_per_s": raw_syncs_per_s,
        "workloads": {w.name: w.described(quick=options.quick) for w in options.workloads},
        "measurements": measurements,
    }


def _list_of(names: str, known: dict[str, Any], what: str) -> list[str]:
    chosen = names.split(",")
    for name in chosen:
        if name not in known:
            raise SystemExit(f"there is no {what} {name!r}; there are {', '.join(known)}")
    return chosen


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for, print the table and store the results."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="names, with commas")
    parser.add_argument("--peers", default=",".join(PEERS), help="names, with commas")
    parser.add_argument("--rounds", type=int, help="5, or 1 in a quick run")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all works")
    parser.add_argument("--json", type=Path, help="where to store the results")
    parser.add_argument("--profile", type=Path, help="a folder for cProfile's view of one client")
    parser.add_argument(
        "--folder", type=Path, help="where the databases are, on the disk to measure"
    )
    given = parser.parse_args(arguments)
    options = Options(
        [WORKLOADS[name] for name in _list_of(given.workloads, WORKLOADS, "workload")],
        _list_of(given.peers, PEERS, "peer"),
        given.rounds or (1 if given.quick else 5),
        given.quick,
        given.profile and given.profile.resolve(),
    )
    if options.profile:
        options.profile.mkdir(parents=True, exist_ok=True)
    for peer in options.peers:
        provide(peer)
    with tempfile.TemporaryDirectory(prefix="durus-bench", dir=given.folder) as folder:
        results = run(options, Path(folder))
    target = given.json or RESULTS / f"{results['when'].replace(':', '')[:17]}.json"
    report.store(results, target)
    report.show(results)
    print(f"stored in {target}")


if __name__ == "__main__":
    main()
