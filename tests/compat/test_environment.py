"""The environment that Durus 4.3 lives in, and what happens where it cannot be made."""

from __future__ import annotations

import sys
from pathlib import Path

import compat_environment
import pytest
from compat_sides import Side, SideError


def test_the_two_sides_are_two_versions(upstream: Side, ours: Side) -> None:
    """Each side imports its own Durus, and nothing of the other."""
    theirs = upstream.call("compat_files:where")
    mine = ours.call("compat_files:where")
    assert theirs["version"] == "4.3"
    assert theirs["durus.__file__"] is not None
    assert mine["durus.__file__"] is None
    assert Path(theirs["durus.connection"]).parent != Path(mine["durus.connection"]).parent


def test_what_a_side_raises_comes_back(ours: Side) -> None:
    """A task that raises says so here, with the names of the exception's classes."""
    with pytest.raises(SideError) as raised:
        ours.call("compat_files:read", format="SHELF-1", path="/nowhere/it.durus", readonly=True)
    assert "FileNotFoundError" in raised.value.names


def test_a_side_that_ends_is_noticed(ours: Side) -> None:
    """A process that is gone is an error of its own, not a wait without end."""
    with ours.start() as process:
        process.kill()
        with pytest.raises((RuntimeError, BrokenPipeError)):
            process.call("compat_files:where")


def test_an_index_out_of_reach_is_told_from_other_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where no index answers may the tests be skipped; whatever else fails is an error."""
    monkeypatch.delenv(compat_environment.PYTHON_VARIABLE, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(compat_environment.IndexOutOfReachError):
        compat_environment.provide(tmp_path / "unreachable")
    monkeypatch.setenv(compat_environment.PYTHON_VARIABLE, sys.executable)
    with pytest.raises(RuntimeError, match="No module named"):
        compat_environment.provide(tmp_path / "given")
    # Nothing half made is left behind for the next run to take for an environment.
    left = [path.name for path in tmp_path.rglob("*") if path.is_dir()]
    assert [name for name in left if name.startswith("durus43")] == []
