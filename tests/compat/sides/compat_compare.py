"""Compare what two versions of Durus see in one file."""

from __future__ import annotations

import re
from typing import Any

# Our files carry one commit record for each transaction, under the highest oid and of this class.
COMMIT_RECORD_OID = 2**64 - 1
COMMIT_RECORD_CLASS = "object"


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


def assert_same_view(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare two views of one file, less what stands in our files beside the objects."""
    assert found["objects"] == expected["objects"]
    assert found["crawled"] == expected["crawled"]
    found_walks, expected_walks = (
        without_commit_records(view["walks"]) for view in (found, expected)
    )
    assert found_walks == expected_walks


def without_commit_records(walks: dict[str, Any]) -> dict[str, Any]:
    """Drop the commit record, which 4.3 takes for an object that nothing refers to."""
    if COMMIT_RECORD_OID not in walks["records"]:
        return walks
    return {
        **walks,
        "records": [oid for oid in walks["records"] if oid != COMMIT_RECORD_OID],
        "classes": [pair for pair in walks["classes"] if pair[0] != COMMIT_RECORD_OID],
        "census": [pair for pair in walks["census"] if pair != [COMMIT_RECORD_CLASS, 1]],
    }


def find_differences(theirs: Any, mine: Any, where: str) -> dict[str, str]:
    """Compare what a script gave under 4.3 and under ours; say at which places they differ and how.

    An exception agrees if every class that 4.3's has is among those of ours, less the checks that
    4.3 leaves to `assert`: there ours may raise what it likes.
    """
    pairs = _pairs(theirs, mine, where)
    if pairs is None:
        return {} if theirs == mine else {where: f"4.3 gives {theirs!r}, ours {mine!r}"}
    differences = {}
    for place, left, right in pairs:
        differences.update(find_differences(left, right, place))
    return differences


def _pairs(theirs: Any, mine: Any, where: str) -> list[tuple[str, Any, Any]] | None:
    if isinstance(theirs, dict) and isinstance(mine, dict) and theirs.keys() == mine.keys():
        if "raises" in theirs and set(theirs["raises"]) <= {*mine["raises"], "AssertionError"}:
            theirs = dict(theirs, raises=mine["raises"])
        return [(f"{where}.{key}", theirs[key], mine[key]) for key in theirs]
    if isinstance(theirs, list) and isinstance(mine, list) and len(theirs) == len(mine):
        return [(f"{where}[{i}]", theirs[i], mine[i]) for i in range(len(theirs))]
    return None


def find_unexpected(script: str, theirs: Any, mine: Any) -> dict[str, str]:
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
