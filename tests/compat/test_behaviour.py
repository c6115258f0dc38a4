"""What Durus 4.3 does, ours does: the same scripts run under both, and their results are compared.

The scripts are in `sides/compat_behaviour.py` and `sides/compat_containers.py`, one a clause.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import compat_behaviour
import compat_containers
import pytest
from compat_compare import find_differences
from compat_sides import Side

CLAUSES = [name for name in vars(compat_behaviour) if name.startswith("clause_")]


@pytest.mark.parametrize("clause", CLAUSES)
def test_ours_does_what_upstream_does(
    upstream: Side, ours: Side, clause: str, tmp_path: Path
) -> None:
    """The result is the same, and where 4.3 raises, ours raises something that is caught alike."""
    results: list[Any] = []
    for side in (upstream, ours):
        directory = tmp_path / side.name
        directory.mkdir()
        results.append(side.call(f"compat_behaviour:{clause}", directory=str(directory)))
    theirs, mine = results
    assert find_differences(theirs, mine) == []


@pytest.mark.parametrize("container", compat_containers.CONTAINERS)
def test_containers_of_ours_do_what_those_of_upstream_do(
    upstream: Side, ours: Side, container: str
) -> None:
    """Each operation gives or raises the same, leaves the same, and is a change or not alike."""
    theirs, mine = (
        side.call("compat_containers:run_operations", container=container)
        for side in (upstream, ours)
    )
    assert find_differences(theirs, mine) == []


def test_trees_have_the_nodes_that_upstream_makes(upstream: Side, ours: Side) -> None:
    """The same insertions give the same nodes: 4.3 goes on with a tree of ours as with its own."""
    theirs, mine = (side.call("compat_containers:tree_shapes") for side in (upstream, ours))
    assert find_differences(theirs, mine) == []
