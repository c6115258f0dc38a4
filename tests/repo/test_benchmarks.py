"""The benchmarks run, for our own peers: what nobody runs between two releases breaks unseen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

for module in (
    "durus.database",
    "durus.storage_server",
    "durus.client_storage",
    "durus.sqlite_storage",
):
    pytest.importorskip(module, reason="every package together is what is measured")

ROOT = Path(__file__).parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run of everything has stored."""
    folder = tmp_path_factory.mktemp("benchmarks")
    target = folder / "results.json"
    options = ["--quick", "--peers", "durus5,durus5-sqlite", "--folder", str(folder)]
    done = _run("benchmarks.run", *options, "--json", str(target))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
    return found


def test_every_workload_runs(results: dict[str, Any]) -> None:
    """A quick run does each workload once for each peer, and each did the work that it should."""
    measured = [(each["workload"], each["peer"]) for each in results["measurements"]]
    assert measured == [
        (name, peer)
        for name, workload in results["workloads"].items()
        for peer in ("durus5", "durus5-sqlite")
        if peer in workload["peers"]
    ]
    assert all(measurement["rate"] > 0 for measurement in results["measurements"])


def test_every_figure_is_measured(results: dict[str, Any]) -> None:
    """What a workload says that it measures is there, of one peer of ours at least."""
    for name, workload in results["workloads"].items():
        of_it = [each for each in results["measurements"] if each["workload"] == name]
        for figure in workload["figures"]:
            assert any(each.get(figure) is not None for each in of_it), (name, figure)


def test_syncs_are_counted(results: dict[str, Any]) -> None:
    """A synced commit takes at least a sync; reading, and what is not synced, takes none."""
    by_name = {
        each["workload"]: each for each in results["measurements"] if each["peer"] == "durus5"
    }
    for name in ("commits-1", "small-synced"):
        assert by_name[name]["syncs"] >= by_name[name]["operations"]
    assert by_name["new-small"]["syncs"] >= 1
    for name in ("walk", "cold-order", "small-unsynced"):
        assert by_name[name]["syncs"] == 0


def test_stored_results_can_be_shown(results: dict[str, Any], tmp_path: Path) -> None:
    """What was stored is enough to make the tables of it again."""
    stored = tmp_path / "results.json"
    stored.write_text(json.dumps(results), encoding="utf-8")
    done = _run("benchmarks.report", str(stored), "--markdown")
    assert done.returncode == 0, done.stderr
    assert all(workload["title"] in done.stdout for workload in results["workloads"].values())
    assert "**Targets**" in done.stdout


def test_an_unknown_revision_is_said() -> None:
    """`--against` names what git does not know, before anything is made or measured."""
    done = _run("benchmarks.run", "--against", "no-such-revision")
    assert done.returncode == 1
    assert "git knows no revision 'no-such-revision'" in done.stderr
