"""The checker finds each anomaly in a history written by hand, and none in good ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from .checker import FAILED, OK, UNKNOWN, Transaction, check, read_histories


def note(name: str, *words: str, at: tuple[int, int] = (0, 1000), **more: Any) -> Transaction:
    """Note a transaction of words such as "x=ab" (read x: a, b) and "x+c" (append c to x).

    Without `at` all are concurrent.
    """
    operations: list[tuple[str, str, list[str]]] = []
    for word in words:
        operation = "read" if word[1] == "=" else "append"
        operations.append((operation, word[0], list(word[2:])))
    given = {"outcome": OK, **more}
    return Transaction(name, at[0], at[1], operations=operations, **given)


BAD = {
    # The two lists were written in opposite orders.
    "dirty write (G0)": [
        note("T1", "x+a", "y+b"),
        note("T2", "x+c", "y+d"),
        note("R", "x=ac"),
        note("S", "y=db"),
    ],
    "aborted read (G1a)": [
        note("T1", "x+a", outcome=FAILED),
        note("R", "x=a"),
    ],
    "intermediate read (G1b)": [
        note("T1", "x+a", "x+b"),
        note("R", "x=a"),
    ],
    # Each has read what the other wrote.
    "circular information flow (G1c)": [
        note("T1", "x+a", "y=b"),
        note("T2", "y+b", "x=a"),
    ],
    # Of one transaction the reader saw one half.
    "read skew (G-single)": [
        note("T1", "x+a", "y+b"),
        note("R", "x=a", "y="),
        note("S", "x=a", "y=b"),
    ],
    "lost update": [
        note("T1", "x=a", "x+b"),
        note("T2", "x=a", "x+c"),
        note("T0", "x+a"),
        note("R", "x=abc"),
    ],
    # Each read what the other wrote, as it was before.
    "write skew (G2)": [
        note("T1", "x=", "y=", "x+a"),
        note("T2", "x=", "y=", "y+b"),
        note("R", "x=a", "y=b"),
    ],
    # Two readers saw two independent writes in opposite orders.
    "long fork (G2)": [
        note("T1", "x+a"),
        note("T2", "y+b"),
        note("R", "x=a", "y="),
        note("S", "x=", "y=b"),
        note("L", "x=a", "y=b"),
    ],
    "stale read (real time)": [
        note("T1", "x+a", at=(0, 10)),
        note("R", "x=", at=(20, 30)),
        note("S", "x=a", at=(40, 50)),
    ],
    "lost commit": [
        note("T1", "x+a", at=(0, 10)),
        note("R", "x=", at=(20, 30)),
    ],
    "half a commit": [
        note("T1", "x+a", "y+b", outcome=UNKNOWN, at=(0, 10)),
        note("R", "x=a", "y=", at=(20, 30)),
    ],
    "appended twice": [
        note("T1", "x+a"),
        note("R", "x=aa"),
    ],
    "incompatible orders": [
        note("T1", "x+a"),
        note("T2", "x+b"),
        note("R", "x=ab"),
        note("S", "x=ba"),
    ],
    "value from nowhere": [note("R", "x=a")],
    "inconsistent inside": [
        note("T1", "x+a"),
        note("R", "x=", "x=a"),
    ],
    "conflict of a reader": [note("R", "x=", outcome=FAILED, error="ReadConflictError()")],
    "wrong state": [note("R", "x=", problems=["the accounts hold 99, not 100"])],
}


@pytest.mark.parametrize("kind", BAD)
def test_an_anomaly_is_found(kind: str) -> None:
    """The anomaly that a history was written to show is found, under its name."""
    assert kind in {anomaly.kind for anomaly in check(BAD[kind])}


@pytest.mark.parametrize("kind", BAD)
def test_an_anomaly_is_found_among_others(kind: str) -> None:
    """The same in the midst of many good transactions, in whatever order they were noted."""
    history = [*_serial(random.Random(1), 200), *BAD[kind]]
    random.Random(2).shuffle(history)
    assert kind in {anomaly.kind for anomaly in check(history)}


# Where another kind is the truth as well, or the reason.
ALSO = {
    "aborted read (G1a)": set(),
    "intermediate read (G1b)": set(),
    "lost update": {"read skew (G-single)"},
    "incompatible orders": None,
    "appended twice": None,
    "lost commit": set(),
    "half a commit": set(),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_anomaly_is_not_taken_for_another(kind: str) -> None:
    """No other anomaly is reported than the one that is there, and what follows from it."""
    also = ALSO.get(kind, set())
    if also is not None:
        assert {anomaly.kind for anomaly in check(BAD[kind])} <= {kind, *also}


def test_real_time_between_writers() -> None:
    """A write that lands before one that was answered before it began is found."""
    history = [
        note("T1", "x+a", at=(0, 10)),
        note("T2", "x+b", at=(20, 30)),
        note("R", "x=ba", at=(40, 50)),
    ]
    assert {anomaly.kind for anomaly in check(history)} == {"stale read (real time)"}


def test_real_time_over_several_steps() -> None:
    """A reader that misses what somebody else had read before it began is found."""
    history = [
        note("T1", "x+a", at=(0, 100)),
        note("R", "x=a", at=(5, 10)),
        note("S", "x=", at=(11, 20)),
        note("L", "x=a", at=(200, 201)),
    ]
    assert {anomaly.kind for anomaly in check(history)} == {"stale read (real time)"}


def test_overlapping_transactions_may_come_in_any_order() -> None:
    """Where two overlap in time, either may be first."""
    for values in ("ab", "ba"):
        history = [
            note("T1", "x+a", at=(0, 21)),
            note("T2", "x+b", at=(20, 30)),
            note("R", f"x={values}", at=(40, 50)),
        ]
        assert check(history) == []


@pytest.mark.parametrize("values", ["", "a"])
def test_what_is_unknown_may_be_either(values: str) -> None:
    """A commit whose outcome nobody knows may be there or not, at any time after its beginning."""
    history = [
        note("T1", "x+a", outcome=UNKNOWN, at=(0, 10)),
        note("R", "x=", at=(20, 30)),
        note("S", f"x={values}", at=(40, 50)),
    ]
    assert check(history) == []


def test_what_is_unknown_may_not_come_and_go() -> None:
    """A commit of unknown outcome that was seen stays."""
    history = [
        note("T1", "x+a", outcome=UNKNOWN, at=(0, 10)),
        note("R", "x=a", at=(20, 30)),
        note("S", "x=", at=(40, 50)),
    ]
    assert {anomaly.kind for anomaly in check(history)} == {"stale read (real time)"}


def test_what_failed_leaves_nothing() -> None:
    """A failed transaction that nobody has seen is none."""
    history = [note("T1", "x+a", outcome=FAILED), note("R", "x=")]
    assert check(history) == []


def _serial(chance: random.Random, length: int) -> list[Transaction]:
    """Make a history of transactions that were made one after the other, answers overlapping."""
    state: dict[str, list[str]] = {key: [] for key in "pqrst"}
    history = []
    for number in range(length):
        operations: list[tuple[str, str, list[str]]] = []
        for key in chance.sample("pqrst", chance.randint(1, 4)):
            operations.append(("read", key, list(state[key])))
            if chance.random() < 0.5:
                state[key] = [*state[key], f"{number}{key}"]
                operations.append(("append", key, [f"{number}{key}"]))
        moment = number * 10
        at = (moment - chance.randint(0, 50), moment + chance.randint(1, 50))
        history.append(Transaction(f"s{number}", *at, OK, operations))
    return history


@pytest.mark.parametrize("seed", range(20))
def test_good_histories_are_good(seed: int) -> None:
    """What was made one after the other is explained, however long each waited for its answer."""
    chance = random.Random(seed)
    history = _serial(chance, 300)
    for transaction in chance.sample(history, 30):
        transaction.outcome = UNKNOWN
    chance.shuffle(history)
    assert check(history) == []


def test_a_long_history_takes_time_in_proportion() -> None:
    """Fifty thousand transactions are judged without recursion and without all pairs."""
    history = [
        note(f"T{i}", f"{chr(97 + i % 5)}={''}", at=(i * 10, i * 10 + 15)) for i in range(50_000)
    ]
    assert check(history) == []


def test_examples_are_few() -> None:
    """Of each kind a few examples are given, not thousands."""
    history = [note(f"T{i}", "x=", problems=["off"]) for i in range(1000)]
    assert len(check(history)) == 5


def test_histories_are_read_from_files(tmp_path: Path) -> None:
    """A transaction without its second line is of unknown outcome; half a line is none."""
    begun = {"name": "T1", "invoked_ns": 1, "operations": [["append", "x", ["a"]]]}
    done = {**begun, "returned_ns": 9, "outcome": "ok", "operations": [["read", "x", []]]}
    text = "".join(
        json.dumps(line) + "\n" for line in (begun, done, {**begun, "name": "T2", "invoked_ns": 5})
    )
    (tmp_path / "a.history").write_text(text + json.dumps({**begun, "name": "T3"})[:20])
    assert read_histories(tmp_path) == [
        Transaction("T1", 1, 9, OK, [("read", "x", [])]),
        Transaction("T2", 5, None, UNKNOWN, [("append", "x", ["a"])]),
    ]
