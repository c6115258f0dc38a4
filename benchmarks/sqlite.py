"""SqliteStorage beside the module sqlite3, Durus 4.3's SqliteStorage and RelStorage on SQLite.

`python -m benchmarks.sqlite`, in an environment that has our packages, prints the table of
docs/guide/sqlite.md: ratios of one run, in which all take turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.environments import provide

TASKS = Path(__file__).parent / "peers" / "sqlite_tasks.py"

# Workload, what it is, the task, programs, operations of each, and who can do it.
WORKLOADS = [
    ("small synced commits", "commits", 1, 500, ["bare", "durus5", "durus43", "relstorage"]),
    ("new objects in one commit", "new", 1, 20_000, ["durus5", "durus43", "relstorage"]),
    ("cold objects", "cold", 1, 20_000, ["durus5", "durus43", "relstorage"]),
    ("4 programs commit, disjoint", "commits", 4, 300, ["durus5", "relstorage"]),
]
START_S = 3.0


def run(peer: str, task: str, programs: int, count: int, folder: Path) -> float:
    """Let programs work side by side; give operations a second of all together."""
    python = sys.executable if peer == "bare" else provide(peer)
    kind = "durus" if peer.startswith("durus") else peer
    start = time.time() + START_S if programs > 1 else 0
    running = [
        subprocess.Popen(
            [python, "-P", TASKS, kind, task, folder, str(count), str(number), str(start)],
            # -P: beside it stand modules that are called as the peers are.
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for number in range(programs)
    ]
    rates = [float(process.communicate()[0]) for process in running]
    return sum(rates)


def main() -> None:
    """Run all rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help="on the disk that is to be measured")
    options = parser.parse_args()
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            for title, task, programs, count, peers in WORKLOADS:
                turn = number % len(peers)
                for peer in peers[turn:] + peers[:turn]:
                    folder = Path(name) / peer
                    if task == "commits" and peer != "bare" and programs == 1:
                        run(peer, "prepare", 1, 1, folder)
                    rate = run(peer, task, programs, count, folder)
                    found.setdefault((title, peer), []).append(rate)
    print("| | a second | beside sqlite3 | Durus 4.3 | RelStorage |")
    print("|---|---:|---:|---:|---:|")
    for title, _, _, _, peers in WORKLOADS:
        ours = found[title, "durus5"]
        ratios = [
            f"{statistics.median(a / b for a, b in zip(ours, found[title, peer], strict=True)):.2f}"
            if peer in peers
            else "-"
            for peer in ("bare", "durus43", "relstorage")
        ]
        print(f"| {title} | {statistics.median(ours):,.0f} | {' | '.join(ratios)} |")


if __name__ == "__main__":
    main()
