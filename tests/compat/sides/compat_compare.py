"""Compare what two versions of Durus see in one file."""

from __future__ import annotations

from typing import Any

# Our files carry one commit record for each transaction, under the highest oid and of this class.
COMMIT_RECORD_OID = 2**64 - 1
COMMIT_RECORD_CLASS = "object"


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
