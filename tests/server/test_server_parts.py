"""The parts of the server that need no socket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durus.storage_server._known_oids import KnownOids
from durus.storage_server._metrics import LatencyHistogram
from durus.utils import int8_to_str

OIDS = st.integers(0, 2**64 - 1).map(int8_to_str)


@given(steps=st.lists(st.tuples(st.booleans(), OIDS | st.sampled_from([bytes(8)]))))
def test_known_oids_are_a_set(steps: list[tuple[bool, bytes]]) -> None:
    """What was added and not discarded is known, and nothing else."""
    known, model = KnownOids(), set[bytes]()
    for adds, oid in steps:
        if adds:
            known.add(oid)
            model.add(oid)
        else:
            known.discard([oid])
            model.discard(oid)
    assert all((oid in known) == (oid in model) for _, oid in steps)
    assert known.among(oid for _, oid in steps) == [oid for _, oid in steps if oid in model]
    assert int8_to_str(12345678901) not in known or int8_to_str(12345678901) in model


def test_known_oids_take_bounded_memory() -> None:
    """Who knows objects everywhere is taken to know all, and forgets when told to."""
    known = KnownOids()
    for number in range(2000):
        known.add(int8_to_str(number << 20))
    assert int8_to_str(5) in known
    assert known.among([int8_to_str(5)]) == [int8_to_str(5)]
    known.clear()
    assert int8_to_str(5) not in known


def test_percentiles_of_nothing() -> None:
    """Before anything was counted there are no percentiles."""
    assert LatencyHistogram().percentile_s(50) is None


@given(durations=st.lists(st.floats(0, 1000), min_size=1), percent=st.integers(1, 100))
def test_percentiles_are_good_to_a_tenth(durations: list[float], percent: int) -> None:
    """A percentile is at most a tenth above the true one, and never below it."""
    histogram = LatencyHistogram()
    for duration in durations:
        histogram.add(duration)
    true = sorted(durations)[-(-len(durations) * percent // 100) - 1]
    found = histogram.percentile_s(percent)
    assert found is not None
    assert found >= true * (1 - 1e-9)
    assert found <= max(true * 1.1, 1e-6) * (1 + 1e-9)


def test_durations_beyond_the_last_bucket_count() -> None:
    """A duration of days is counted as the longest that can be told apart."""
    histogram = LatencyHistogram()
    histogram.add(1e9)
    assert histogram.percentile_s(99) == pytest.approx(histogram.percentile_s(1))
