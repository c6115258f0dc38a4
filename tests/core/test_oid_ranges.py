"""Sets of oids that are kept as ranges, beside sets of numbers.

Cases:
    whatever is added and removed, in ranges or by oid, and taken away in order
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from durus.sessions._oid_ranges import OidRanges
from durus.utils import int8_to_str

numbers = st.sets(st.integers(0, 30), max_size=8)


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["add", "discard", "add_oids", "discard_oids", "take"]),
            st.integers(0, 30),
            st.integers(0, 6),
            numbers,
        ),
        max_size=60,
    )
)
def test_ranges_of_oids_are_sets(steps: list[tuple[str, int, int, set[int]]]) -> None:
    """Whatever comes and goes, exactly the numbers that are there are there."""
    ranges = OidRanges()
    model: set[int] = set()
    for action, start, length, some in steps:
        span = set(range(start, start + length))
        if action == "add":
            if length and span.isdisjoint(model):
                ranges.add(start, start + length)
                model |= span
        elif action == "discard":
            ranges.discard(start, start + length)
            model -= span
        elif action == "add_oids":
            ranges.add_oids(map(int8_to_str, some - model))
            model |= some
        elif action == "discard_oids":
            ranges.discard_oids(map(int8_to_str, some))
            model -= some
        else:
            taken = ranges.take(length)
            assert taken == sorted(model)[:length]
            model -= set(taken)
        assert ranges.count == len(model)
        assert {n for n in range(60) if n in ranges} == model
    other = OidRanges()
    other.add(100, 103)
    other.take_all(ranges)
    assert ranges.count == 0
    assert other.take(1000) == [*sorted(model), 100, 101, 102]
