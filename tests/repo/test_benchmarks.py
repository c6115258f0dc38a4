"""The benchmarks run, for our own peer: what nobody runs between two releases breaks unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for module in ("durus.database", "durus.storage_server", "durus.client_storage"):
    pytest.importorskip(module, reason="every package together is what is measured")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run of everything has stored."""
    folder = tmp_path_factory.mktemp("benchmarks")
    target = folder / "results.json"
    command = [sys.executable, "-m", "benchmarks.run", "--quick", "--peers", "durus5"]
    done = subprocess.run(
        [*command, "--folder", str(folder), "--json", str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return found


def test_every_workload_runs(results: dict[str, Any]) -> None:
    """A quick run does each workload once, and each did the work that it should."""
    measured = [measurement["workload"] for measurement in results["measurements"]]
    assert measured == list(results["workloads"])
    assert all(measurement["rate"] > 0 for measurement in results["measurements"])


def test_syncs_are_counted(results: dict[str, Any]) -> None:
    """One client's commits take at least a sync each; reading takes none."""
    by_name = {measurement["workload"]: measurement for measurement in results["measurements"]}
    assert by_name["commits-1"]["syncs"] >= by_name["commits-1"]["operations"]
    assert by_name["walk"]["syncs"] == 0


def test_stored_results_can_be_shown(results: dict[str, Any], tmp_path: Path) -> None:
    """What was stored is enough to make the table of it again."""
    stored = tmp_path / "results.json"
    stored.write_text(json.dumps(results), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.report", str(stored), "--markdown"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(workload["title"] in done.stdout for workload in results["workloads"].values())
