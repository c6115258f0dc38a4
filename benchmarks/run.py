"""Runs the workloads for all peers, interleaved in rounds: `tox -e bench`.

    python -m benchmarks.run [--quick] [--workloads a,b] [--peers a,b] [--rounds N] [--against REV]

See README.md in this folder for what the numbers mean.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.databases import Databases
from benchmarks.environments import PEERS, ROOT, peer_info, provide
from benchmarks.peers.settings import Found, Settings
from benchmarks.peers.tasks import TASKS
from benchmarks.processes import ServerProcess, WorkerError, run_clients, run_worker
from benchmarks.summary import percentile
from benchmarks.workloads import WORKLOADS, Workload

__all__ = ["main"]

RESULTS = ROOT / "benchmarks" / "results"
ROUNDS = 3
RAW_SYNCS = 100


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    workloads: list[Workload]
    peers: list[str]
    rounds: int
    quick: bool
    profile: Path | None
    against: str


def _measure(
    workload: Workload, peer: str, databases: Databases, options: Options, *, counts: bool
) -> dict[str, Any]:
    """Run one workload on one peer once, and check what it did; count what it left if asked to."""
    with ExitStack() as stack:
        folder = stack.enter_context(databases.for_run(workload, peer))
        # A Unix socket's path is short: the folder may be deep.
        sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench"))
        settings = {
            **workload.settings(quick=options.quick),
            "folder": str(folder / "data"),
            "address": f"{sockets}/s" if workload.serves else "",
            "clients": workload.clients,
        }
        base: dict[str, Any] = {"peer": peer, "cpus": _cpus(workload)}
        orders = [
            {
                **base,
                "task": workload.task,
                "settings": {**settings, "index": index},
                "profile": _profile_path(options, workload, peer) if index == 0 else None,
            }
            for index in range(workload.clients)
        ]
        server = None
        if workload.serves:
            server = stack.enter_context(ServerProcess({**base, "settings": settings}, folder))
        results, server_cpu_s, server_syncs = run_clients(orders, folder, server)
        expected = TASKS[workload.task].expected
        for order, result in zip(orders, results, strict=True):
            _check(workload, peer, result, expected(Settings(**order["settings"])), "did")
        if counts:
            _check_left(workload, base, settings, folder, server)
    syncs = server_syncs if server else _all_syncs(results)
    measured = _summed(results, server_cpu_s if server else None, syncs)
    return {"workload": workload.name, "peer": peer, **measured}


def _cpus(workload: Workload) -> list[int] | None:
    # One client and its server take turns. On two cores the time to wake the other one is most of
    # what would be measured, and it comes in two sizes; so both have one core.
    one_by_one = workload.serves and workload.clients == 1
    return [max(os.sched_getaffinity(0))] if one_by_one else None


def _profile_path(options: Options, workload: Workload, peer: str) -> str | None:
    return str(options.profile / f"{workload.name}-{peer}.pstats") if options.profile else None


def _check(workload: Workload, peer: str, result: dict[str, Any], wanted: Found, what: str) -> None:
    found = result["operations"], result["checksum"]
    if found != wanted:
        raise WorkerError(f"{workload.name} of {peer} {what} {found}, which should be {wanted}")


def _check_left(
    workload: Workload,
    base: dict[str, Any],
    settings: dict[str, Any],
    folder: Path,
    server: ServerProcess | None,
) -> None:
    """Count what is there now, by a client that knows nothing yet."""
    task = TASKS[workload.task]
    if task.left is None or peer_info(base["peer"]).kind == "yardstick":
        return
    results, _, _ = run_clients(
        [{**base, "task": task.count, "settings": settings}], folder, server
    )
    wanted = task.left(Settings(**settings))
    _check(workload, base["peer"], results[0], wanted, "left")


def _all_syncs(results: list[dict[str, Any]]) -> int | None:
    counts = [result["syncs"] for result in results]
    return None if None in counts else sum(counts)


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
        "p50_ms": percentile(latencies_s, 50) * 1e3 if latencies_s else None,
        "p99_ms": percentile(latencies_s, 99) * 1e3 if latencies_s else None,
        **results[0]["figures"],  # what several clients do has none of its own
    }


def _raw_syncs_per_s(folder: Path) -> float:
    """Measure what the disk can do: no store that syncs each commit by itself does more."""
    with (folder / "raw").open("wb", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(RAW_SYNCS):
            file.write(b"x" * 300)
            os.fdatasync(file.fileno())
        return RAW_SYNCS / (time.perf_counter() - began)


def _peers_of(workload: Workload, options: Options) -> list[str]:
    return [peer for peer in options.peers if peer.partition("@")[0] in workload.peers]


def _interleaved(options: Options) -> Iterator[tuple[int, Workload, list[str]]]:
    for number in range(options.rounds):
        for workload in options.workloads:
            peers = _peers_of(workload, options)
            # Each round begins with another, so that none always follows the same neighbour.
            turn = number % len(peers) if peers else 0
            yield number, workload, peers[turn:] + peers[:turn]


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Run it all, and give it in the form that is stored."""
    databases = Databases(folder, quick=options.quick)
    began = time.monotonic()
    versions = {
        peer: run_worker({"role": "versions", "peer": peer}, folder) for peer in options.peers
    }
    measurements: list[dict[str, Any]] = []
    raw_syncs_per_s: list[float] = []
    for number, workload, peers in _interleaved(options):
        raw_syncs_per_s.append(_raw_syncs_per_s(folder))
        for peer in peers:
            # What is left is the same in each round, and to count it may take longer than the rest.
            measured = _measure(workload, peer, databases, options, counts=number == 0)
            measurements.append({"round": number, **measured})
            figure = workload.figures[0]
            print(
                f"[{time.monotonic() - began:4.0f} s] round {number + 1} {workload.name}"
                f" {peer}: {figure} {measured.get(figure, 0):,.1f}",
                file=sys.stderr,
            )
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": report.machine(),
        "versions": versions,
        "peers": {peer: asdict(peer_info(peer)) for peer in options.peers},
        "against": options.against,
        "quick": options.quick,
        "rounds": options.rounds,
        "took_s": round(time.monotonic() - began),
        "raw_syncs_per_s": raw_syncs_per_s,
        "workloads": {
            workload.name: workload.described(quick=options.quick)
            for workload in options.workloads
            if _peers_of(workload, options)
        },
        "measurements": measurements,
    }


def _list_of(names: str, known: Mapping[str, Any], what: str) -> list[str]:
    chosen = names.split(",")
    for name in chosen:
        if name not in known:
            raise SystemExit(f"there is no {what} {name!r}; there are {', '.join(known)}")
    return chosen


def _resolved(revision: str) -> str:
    command = ["git", "rev-parse", "--short", "--verify", "--quiet", f"{revision}^{{commit}}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git knows no revision {revision!r}")
    return done.stdout.strip()


def _peers(names: str | None, against: str) -> list[str]:
    """Give whom to measure; with another revision, if nobody is named, ours alone."""
    ours = [peer for peer, info in PEERS.items() if info.kind == "ours"]
    default = [peer for peer in ours if PEERS[peer].environment == "ours"] if against else [*PEERS]
    chosen = _list_of(names, PEERS, "peer") if names else default
    if not against:
        return chosen
    then = [
        f"{peer}@{against}"
        for peer in chosen
        if PEERS[peer].kind == "ours" and PEERS[peer].environment == "ours"
    ]
    return [*chosen, *then]


def _store(results: dict[str, Any], given: Path | None) -> Path:
    target = given or RESULTS / f"{results['when'].replace(':', '')[:15]}.json"
    report.store(results, target)
    if importlib.util.find_spec("matplotlib"):
        from benchmarks.chart import draw  # noqa: PLC0415 - as just asked

        draw(results, target.with_suffix(".svg"))
    return target


def main(arguments: list[str] | None = None) -> None:
    """Run what the command line asks for, print the table and store the results."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="names, with commas")
    parser.add_argument("--peers", help=f"names, with commas: {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, help=f"{ROUNDS}, or 1 in a quick run")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that all works")
    parser.add_argument("--against", metavar="REV", help="ours beside ours at that revision")
    parser.add_argument("--json", type=Path, help="where to store the results")
    parser.add_argument("--profile", type=Path, help="a folder for cProfile's view of one client")
    parser.add_argument(
        "--folder", type=Path, help="where the databases are, on the disk to measure"
    )
    given = parser.parse_args(arguments)
    against = _resolved(given.against) if given.against else ""
    options = Options(
        [WORKLOADS[name] for name in _list_of(given.workloads, WORKLOADS, "workload")],
        _peers(given.peers, against),
        given.rounds or (1 if given.quick else ROUNDS),
        given.quick,
        given.profile and given.profile.resolve(),
        against,
    )
    if options.profile:
        options.profile.mkdir(parents=True, exist_ok=True)
    for peer in options.peers:
        provide(peer)
    with tempfile.TemporaryDirectory(prefix="durus-bench", dir=given.folder) as folder:
        results = run(options, Path(folder))
    target = _store(results, given.json)
    report.show(results)
    print(f"stored in {target}")


if __name__ == "__main__":
    main()
