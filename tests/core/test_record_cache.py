"""The cache of records that sessions share.

Cases:
    what it gives is what was put last, and nothing that was forgotten
    however much is put, it keeps no more than it may, and what was used last
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durus.sessions._record_cache import RecordCache

MOST_BYTES = 40


@given(
    st.lists(
        st.tuples(st.sampled_from(["load", "change", "clear"]), st.integers(0, 9)), max_size=80
    )
)
def test_what_it_gives_is_current(steps: list[tuple[str, int]]) -> None:
    """A record comes from the cache or from what is stored, and is the same."""
    cache = RecordCache(MOST_BYTES)
    stored = {b"%d" % number: b"x" * 5 for number in range(10)}
    for version, (action, number) in enumerate(steps):
        oid = b"%d" % number
        if action == "change":
            stored[oid] = b"%05d" % version
            cache.forget([oid])
        elif action == "clear":
            cache.clear()
        else:
            peeked = cache.peek(oid)
            found = cache.get(oid)
            assert peeked == found
            if found is None:
                cache.put(oid, stored[oid])
                found = cache.peek(oid)
            assert found == stored[oid]
        kept = [cache.peek(oid) for oid in stored]
        assert sum(len(record) for record in kept if record is not None) <= MOST_BYTES


def test_what_is_used_stays() -> None:
    """A record that is asked for again and again outlives any number of others."""
    cache = RecordCache(MOST_BYTES)
    cache.put(b"hot", b"x" * 5)
    for number in range(1000):
        cache.put(b"%d" % number, b"x" * 5)
        assert cache.get(b"hot") == b"x" * 5
