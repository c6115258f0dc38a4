"""What the benchmarks make of what was measured: medians, ratios, targets reached and missed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

KINDS = {"durus5": "ours", "durus43": "peer", "zodb": "peer", "plain": "yardstick"}

Judge = Callable[..., Any]


def _target(figure: str, bound: str, limit: float, **more: Any) -> dict[str, Any]:
    base = {"versus": [], "absolute": False, "ours": ["durus5"]}
    return {"figure": figure, "bound": bound, "limit": limit, **base, **more}


def _stored(
    figure: str, values: dict[str, list[float | None]], *targets: dict[str, Any]
) -> dict[str, Any]:
    """Give the results of one workload, `values` being those of each round."""
    kinds = {peer: KINDS.get(peer, "revision") for peer in values}
    return {
        "peers": {peer: {"title": peer, "alone": "", "kind": kind} for peer, kind in kinds.items()},
        "workloads": {"work": {"figures": [figure], "targets": list(targets), "serves": False}},
        "measurements": [
            {
                "round": number,
                "workload": "work",
                "peer": peer,
                figure: value,
                "syncs": None,
                "operations": 1,
            }
            for peer, rounds in values.items()
            for number, value in enumerate(rounds)
        ],
    }


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make the `Results` of what `_stored` takes."""
    monkeypatch.syspath_prepend(str(ROOT))  # the folder is no distribution
    from benchmarks.summary import Results

    return lambda *stored: Results(_stored(*stored))


def test_a_ratio_is_the_median_of_the_ratios_of_each_round(results: Judge) -> None:
    """A neighbour who slows two rounds of three, for both sides, does not change the ratio."""
    found = results("rate", {"durus5": [400.0, 40.0, 90.0], "zodb": [200.0, 20.0, 30.0]})
    ratios = found.ratios("work", "rate", "durus5", "zodb")
    assert (ratios.median, ratios.low, ratios.high) == (2.0, 2.0, 3.0)
    assert found.median("work", "durus5", "rate") == 90.0


def test_a_yardstick_is_never_the_best_peer(results: Judge) -> None:
    """The best peer is a peer, however far ahead a yardstick is; that one stands beside it."""
    rates = {"durus5": [300.0], "durus43": [90.0], "zodb": [100.0], "plain": [9000.0]}
    [verdict] = results("rate", rates, _target("rate", "at least", 3)).verdicts("work")
    assert (verdict.versus, verdict.ratio, verdict.reached) == ("zodb", 3.0, True)
    assert (verdict.yardstick, verdict.yardstick_value) == ("plain", 9000.0)


def test_a_yardstick_counts_where_the_target_names_it(results: Judge) -> None:
    """A target may be a part of what the disk can do."""
    rates = {"durus5": [90.0], "zodb": [10.0], "plain": [100.0]}
    target = _target("rate", "at least", 0.95, versus=["plain"])
    [verdict] = results("rate", rates, target).verdicts("work")
    assert (verdict.versus, verdict.ratio, verdict.reached) == ("plain", 0.9, False)


def test_the_best_of_times_is_the_shortest(results: Judge) -> None:
    """For a time, the best peer is the fastest, and the target is the most that will do."""
    times = {"durus5": [8.0], "durus43": [10.0], "zodb": [40.0]}
    for limit, reached in ((0.8, True), (0.7, False)):
        target = _target("read_ns", "at most", limit)
        [verdict] = results("read_ns", times, target).verdicts("work")
        assert (verdict.versus, verdict.ratio, verdict.reached) == ("durus43", 0.8, reached)


def test_an_absolute_target_needs_no_peer(results: Judge) -> None:
    """Milliseconds are milliseconds; a ratio is given too where there is a peer."""
    target = _target("open_ms", "at most", 20, absolute=True)
    [alone] = results("open_ms", {"durus5": [19.0, 30.0, 20.0]}, target).verdicts("work")
    assert (alone.value, alone.ratio, alone.reached) == (20.0, None, True)
    [beside] = results("open_ms", {"durus5": [21.0], "zodb": [42.0]}, target).verdicts("work")
    assert (beside.ratio, beside.reached) == (0.5, False)


def test_nothing_is_judged_without_a_peer(results: Judge) -> None:
    """A run of ours alone says neither reached nor missed."""
    [verdict] = results(
        "rate", {"durus5": [1.0], "plain": [9.0]}, _target("rate", "at least", 3)
    ).verdicts("work")
    assert verdict.reached is None


def test_what_was_not_measured_in_a_round_is_left_out(results: Judge) -> None:
    """Ratios come from the rounds that have both; a peer without the figure has no part."""
    values = {"durus5": [1.0, 2.0, None], "durus43": [None, 4.0, 5.0], "zodb": [None, None, None]}
    found = results("longest_step_ms", values)
    assert found.ratios("work", "longest_step_ms", "durus5", "durus43").median == 0.5
    assert found.median("work", "zodb", "longest_step_ms") is None


def test_the_advantage_is_above_one_where_ours_is_better(results: Judge) -> None:
    """The chart turns times and sizes over; a limit that is no ratio has no place in it."""
    target = _target("read_ns", "at most", 0.8)
    [time] = results("read_ns", {"durus5": [5.0], "zodb": [10.0]}, target).verdicts("work")
    assert time.advantage == (2.0, 1.25)
    target = _target("open_ms", "at most", 20, absolute=True)
    [absolute] = results("open_ms", {"durus5": [5.0], "zodb": [10.0]}, target).verdicts("work")
    assert absolute.advantage is None
    target = _target("rate", "at least", 3)
    [rate] = results("rate", {"durus5": [40.0], "zodb": [10.0]}, target).verdicts("work")
    assert rate.advantage == (4.0, 3)


def test_another_revision_is_compared_and_is_no_peer(results: Judge) -> None:
    """`--against` shows ours by what it was, round by round, and takes it for no competitor."""
    rates = {"durus5": [20.0, 30.0], "durus5@abc": [10.0, 10.0], "zodb": [5.0, 5.0]}
    found = results("rate", rates, _target("rate", "at least", 3))
    [comparison] = found.comparisons("work")
    assert (comparison.peer, comparison.now, comparison.then) == ("durus5", 25.0, 10.0)
    assert (comparison.ratio.low, comparison.ratio.high) == (2.0, 3.0)
    [verdict] = found.verdicts("work")
    assert verdict.versus == "zodb"
