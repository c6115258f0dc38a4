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
