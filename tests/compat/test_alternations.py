"""One file that is handed from one version to the other, again and again."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import compat_corpus
import pytest
from compat_compare import assert_same_view
from compat_sides import Side

Plan = list[tuple[str, list[list[Any]]]]

# Who does what, in turns. "change" and "pack" end in a commit; "abort" changes and thinks again.
ZIGZAG: Plan = [
    ("4.3", [["build"], ["change", 1]]),
    ("ours", [["change", 2]]),
    ("4.3", [["change", 3], ["pack"]]),
    ("ours", [["pack"]]),
    ("4.3", [["change", 4]]),
    ("ours", [["change", 5], ["pack"], ["change", 6]]),
    ("4.3", [["pack"], ["change", 7]]),
    ("ours", [["abort"], ["change", 8], ["abort"]]),
    ("4.3", [["abort"], ["change", 9], ["pack"], ["pack"]]),
    ("ours", [["change", 10]]),
]
ONLY_COMMITS: Plan = [("4.3" if step % 2 else "ours", [["change", step]]) for step in range(1, 9)]
ONLY_PACKS: Plan = [
    ("4.3" if step % 2 else "ours", [["change", step], ["pack"]]) for step in range(1, 7)
]
SWAPPED = {"4.3": "ours", "ours": "4.3"}


def swap(plan: Plan) -> Plan:
    """Give the plan with the two sides exchanged."""
    return [(SWAPPED[name], actions) for name, actions in plan]


def random_plan(seed: int) -> Plan:
    """Give a plan of ten turns that a failing test can repeat by its seed."""
    rng = random.Random(seed)
    plan: Plan = [(rng.choice(["4.3", "ours"]), [["build"]])]
    for _ in range(9):
        actions: list[list[Any]] = [
            rng.choice([["change", rng.randrange(100)], ["change", rng.randrange(100)], ["pack"]])
            for _ in range(rng.randrange(1, 4))
        ]
        plan.append((rng.choice(["4.3", "ours"]), actions))
    return plan


PLANS: dict[str, Plan] = {
    "zigzag": ZIGZAG,
    "zigzag-ours-first": swap(ZIGZAG),
    "only-commits": [("4.3", [["build"]]), *ONLY_COMMITS],
    "only-commits-ours-first": [("ours", [["build"]]), *swap(ONLY_COMMITS)],
    "only-packs": [("4.3", [["build"]]), *ONLY_PACKS],
    "only-packs-ours-first": [("ours", [["build"]]), *swap(ONLY_PACKS)],
    **{f"random-{seed}": random_plan(seed) for seed in range(4)},
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_file_survives_being_handed_to_and_fro(
    upstream: Side, ours: Side, format: str, plan: str, tmp_path: Path
) -> None:
    """After each turn both sides see the same; at the end it is what 4.3 alone would have made."""
    turns = PLANS[plan]
    path = str(tmp_path / "handed.durus")
    seen = _hand_to_and_fro(upstream, ours, turns, format=format, path=path, case="everything")
    all_actions = [action for _, actions in turns for action in actions]
    expected = upstream.call(
        "compat_files:run",
        format=format,
        path=str(tmp_path / "alone.durus"),
        case="everything",
        actions=all_actions,
    )
    assert seen["canonical"] == expected["canonical"]


@pytest.mark.parametrize("case", [name for name in compat_corpus.CASES if name != "everything"])
def test_each_case_survives_the_zigzag(
    upstream: Side, ours: Side, format: str, case: str, tmp_path: Path
) -> None:
    """The same for each case by itself, where one kind of object cannot hide behind another."""
    path = str(tmp_path / "handed.durus")
    _hand_to_and_fro(upstream, ours, ZIGZAG[:6], format=format, path=path, case=case)


def _hand_to_and_fro(
    upstream: Side, ours: Side, turns: Plan, *, format: str, path: str, case: str
) -> dict[str, Any]:
    """Play the turns, compare what both sides see after each, and give what is seen at the end."""
    seen: dict[str, Any] = {}
    sides = {"4.3": upstream, "ours": ours}
    for name, actions in turns:
        seen = sides[name].call(
            "compat_files:run", format=format, path=path, case=case, actions=actions
        )
        other = sides[SWAPPED[name]].call("compat_files:read", format=format, path=path)
        assert_same_view(other, seen)
    return seen
