"""What sessions are made of, part by part."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from durus.sessions._commit_log import CommitLog, LoggedCommit
from durus.sessions._pending_commit import added_refs
from durus.testing import make_record
from durus.utils import int8_to_str

OWNER = int8_to_str(0)


def record_with(refs: Iterable[int]) -> bytes:
    """Make a record that refers to these oids."""
    return make_record(OWNER, [int8_to_str(ref) for ref in refs])


# Oids in which the bytes of one are found across two others.
REFS = st.lists(
    st.sampled_from([1, 2, 257, 1 << 8, 1 << 56, (1 << 56) + 1, (1 << 32) + 1, (1 << 64) - 1])
    | st.integers(1, 40),
    max_size=30,
)


@given(REFS, REFS)
def test_added_references_are_those_that_were_not_there(new: list[int], old: list[int]) -> None:
    """Few or many, in any order, repeated or not."""
    expected = {int8_to_str(ref) for ref in set(new) - set(old)}
    assert added_refs(record_with(new), record_with(old)) == expected
    assert added_refs(record_with(new), None) == {int8_to_str(ref) for ref in new}


CHANGES = st.lists(st.tuples(st.sets(st.integers(1, 6), min_size=1), st.booleans()), max_size=30)


@given(CHANGES, st.integers(0, 10))
def test_the_log_answers_as_a_walk_over_its_commits_would(
    changes: list[tuple[set[int], bool]], forgotten: int
) -> None:
    """For each snapshot: what changed since, what was stored or removed, and what came first."""
    log = CommitLog(1000, 1000)
    commits = [
        LoggedCommit(serial, [int8_to_str(oid) for oid in oids], None, is_pack=is_pack)
        for serial, (oids, is_pack) in enumerate(changes, 1)
    ]
    for commit in commits:
        log.add(commit)
    log.forget_until(forgotten)
    for serial in range(len(commits) + 2):
        later = [commit for commit in commits if commit.serial > max(serial, log.start)]
        changed = {oid for commit in later for oid in commit.oids}
        assert log.oids_since(serial) == (changed if serial >= log.start else None)
        removed = {oid for commit in later if commit.is_pack for oid in commit.oids}
        assert log.removed_since(serial) == removed
        assert log.stored_since(serial) == {
            oid for commit in later if not commit.is_pack for oid in commit.oids
        }
        for oid in map(int8_to_str, range(1, 7)):
            first = next((commit for commit in later if oid in commit.oids), None)
            assert log.first_change(oid, serial) is first
