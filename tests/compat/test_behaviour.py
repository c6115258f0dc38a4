"""What Durus 4.3 does, ours does: the same scripts run under both, and their results are compared.

The scripts are in `sides/compat_behaviour.py` and `sides/compat_containers.py`. Where ours differs
on purpose, `compat_compare.DIFFERENCES` says where and why; docs/guide/migrating-from-4.3.md tells
it to users.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import compat_behaviour
import compat_containers
import pytest
from compat_compare import find_differences, find_unexpected
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
    assert find_unexpected(clause.removeprefix("clause_"), *results) == {}


@pytest.mark.parametrize("container", compat_containers.CONTAINERS)
def test_containers_of_ours_do_what_those_of_upstream_do(
    upstream: Side, ours: Side, container: str
) -> None:
    """Each operation gives or raises the same, leaves the same, and is a change or not alike."""
    results = [
        side.call("compat_containers:run_operations", container=container)
        for side in (upstream, ours)
    ]
    assert find_unexpected(container, *results) == {}


def test_trees_keep_the_rules_of_upstream(upstream: Side, ours: Side) -> None:
    """After the same insertions and deletions both have the same keys in nodes that 4.3 can use."""
    theirs, mine = (side.call("compat_containers:tree_shapes") for side in (upstream, ours))
    assert find_differences(theirs, mine, "shapes") == {}
    assert [problems for *_, problems in mine if problems] == []
