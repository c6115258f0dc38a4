"""What Durus 4.3 does, ours does: the same scripts run under both, and their results are compared.

The scripts are in `sides/compat_behaviour.py` and `sides/compat_containers.py`. Where ours differs
on purpose, `DIFFERENCES` says where and why; docs/guide/migrating-from-4.3.md tells it to users.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import compat_behaviour
import compat_containers
import pytest
from compat_compare import find_differences
from compat_sides import Side

CLAUSES = [name for name in vars(compat_behaviour) if name.startswith("clause_")]

_NO_CHANGE = "an operation that changes nothing, or fails, is not a change"

# Places (regular expressions) where ours may differ from 4.3, each with the reason.
DIFFERENCES: dict[str, str] = {
    r"what_loads_a_ghost\.(set|set new|del|_p_note_change|_p_set_status_unsaved)\[2\]": (
        "a change is an access as well"
    ),
    r"setstate_replaces_or_adds\[": "`__setstate__` adds to what is there, as Python's own does",
    r"set_status_by_hand\[1\]": "a change that was declared by hand is committed",
    r"protocol_attributes_are_checked\[[023]\]": "4.3 checks only what its C code would crash on",
    r"cache_methods\[2\]": "a commit shrinks the cache at once",
    r"cache_methods\[4\]": "a cache of size 0 is allowed: it keeps nothing beyond a transaction",
    r"walks_of_a_storage\[0\]": "MemoryStorage lists garbage as the file storages do",
    r"read_conflict\[0\]\.oids": "a ReadConflictError names what was used and has changed",
    r"dict\.==\[0\]\.returns\[1\]\[3\]": "a PersistentDict equals a dict of the same items",
    r"dict\.(set unhashable|(del|pop) (missing|default))\[[12]\]": _NO_CHANGE,
    r"list\.(.* (beyond|missing|wrong|nothing)|sort mixed)\[[12]\]": _NO_CHANGE,
    r"set\.(.* missing|add there|add unhashable)\[[12]\]": _NO_CHANGE,
    r"btree\d+\.del missing\[2\]": _NO_CHANGE,
}


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
    assert _unexpected(clause.removeprefix("clause_"), *results) == {}


@pytest.mark.parametrize("container", compat_containers.CONTAINERS)
def test_containers_of_ours_do_what_those_of_upstream_do(
    upstream: Side, ours: Side, container: str
) -> None:
    """Each operation gives or raises the same, leaves the same, and is a change or not alike."""
    results = [
        side.call("compat_containers:run_operations", container=container)
        for side in (upstream, ours)
    ]
    assert _unexpected(container, *results) == {}


def test_trees_keep_the_rules_of_upstream(upstream: Side, ours: Side) -> None:
    """After the same insertions and deletions both have the same keys in nodes that 4.3 can use."""
    theirs, mine = (side.call("compat_containers:tree_shapes") for side in (upstream, ours))
    assert find_differences(theirs, mine, "shapes") == {}
    assert [problems for *_, problems in mine if problems] == []


def _unexpected(script: str, theirs: Any, mine: Any) -> dict[str, str]:
    """Give the differences without a reason, and the reasons without a difference."""
    found = find_differences(theirs, mine, script)
    patterns = [pattern for pattern in DIFFERENCES if re.split(r"\\|\W", pattern)[0] == script]
    if script.startswith("btree"):
        patterns = [pattern for pattern in DIFFERENCES if pattern.startswith("btree")]
    unexpected = {
        place: text
        for place, text in found.items()
        if not any(re.match(pattern, place) for pattern in patterns)
    }
    for pattern in patterns:
        if not any(re.match(pattern, place) for place in found):
            unexpected[pattern] = (
                f"no difference is left where this was said: {DIFFERENCES[pattern]}"
            )
    return unexpected
