"""What a crash of Durus 4.3 leaves behind, and what 4.3 makes of what a crash of ours leaves.

4.3 writes a commit in many small writes with its length last, and syncs none of them. So a file
that it was killed over ends in part of a transaction. 4.3 itself refuses such a file without
`repair`.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from compat_compare import assert_same_view
from compat_sides import Side, SideError

CASE = "dicts"


def _write_two_commits(writer: Side, format: str, path: Path) -> tuple[int, dict[str, Any]]:
    """Make a file; give its length before the last commit, and what was there then."""
    file = {"format": format, "path": str(path)}
    writer.call("compat_files:run", case=CASE, actions=[["build"], ["pack"]], **file)
    seen = writer.call("compat_files:run", case=CASE, actions=[["change", 1]], **file)
    length_bytes = path.stat().st_size
    writer.call("compat_files:run", case=CASE, actions=[["change", 2]], **file)
    return length_bytes, seen


@pytest.fixture
def whole(upstream: Side, format: str, tmp_path: Path) -> tuple[Path, int, dict[str, Any]]:
    """A file of 4.3, its length before its last commit, and what it held then."""
    path = tmp_path / "whole.durus"
    return (path, *_write_two_commits(upstream, format, path))


def _cuts(start: int, end: int) -> list[int]:
    """Give some places between two offsets, the interesting ones at the ends among them."""
    some = random.Random(end).sample(range(start + 1, end), 12)
    return sorted({start + 1, start + 4, start + 8, start + 9, end - 5, end - 1, *some})


def test_a_cut_commit_of_upstream_was_never_made(
    ours: Side, format: str, whole: tuple[Path, int, dict[str, Any]], tmp_path: Path
) -> None:
    """Cut anywhere within its last transaction, a file opens to the commit before it."""
    path, start, expected = whole
    torn = tmp_path / "torn.durus"
    with ours.start() as process:
        for cut in _cuts(start, path.stat().st_size):
            torn.write_bytes(path.read_bytes()[:cut])
            seen = process.call("compat_files:read", format=format, path=str(torn))
            assert_same_view(seen, expected)


def test_a_cut_commit_is_ignored_when_reading_only(
    ours: Side, format: str, whole: tuple[Path, int, dict[str, Any]], tmp_path: Path
) -> None:
    """Read-only, nothing is set aside: the bytes stay, and the last whole commit is seen."""
    path, start, expected = whole
    (tmp_path / "alone").mkdir()
    torn = tmp_path / "alone" / "torn.durus"
    torn.write_bytes(path.read_bytes()[: start + 21])
    seen = ours.call("compat_files:read", format=format, path=str(torn), readonly=True)
    assert_same_view(seen, expected)
    assert torn.stat().st_size == start + 21
    assert [entry.name for entry in torn.parent.iterdir()] == [torn.name]


def test_upstream_goes_on_with_a_file_that_ours_recovered(
    upstream: Side, ours: Side, format: str, whole: tuple[Path, int, dict[str, Any]], tmp_path: Path
) -> None:
    """Ours sets the torn tail aside and commits; 4.3 reads it without repair, and the other way."""
    path, start, _ = whole
    torn = tmp_path / "torn.durus"
    torn.write_bytes(path.read_bytes()[: start + 21])
    file = {"format": format, "path": str(torn)}
    done = ours.call("compat_files:run", case=CASE, actions=[["change", 3]], **file)
    assert_same_view(upstream.call("compat_files:read", **file), done)
    done = upstream.call("compat_files:run", case=CASE, actions=[["change", 4], ["pack"]], **file)
    assert_same_view(ours.call("compat_files:read", **file), done)


def test_the_torn_tail_is_kept_beside_the_file(
    ours: Side, whole: tuple[Path, int, dict[str, Any]], format: str, tmp_path: Path
) -> None:
    """FILE.torn-OFFSET holds exactly the bytes that were taken off."""
    path, start, _ = whole
    torn = tmp_path / "torn.durus"
    content = path.read_bytes()[: start + 21]
    torn.write_bytes(content)
    ours.call("compat_files:read", format=format, path=str(torn))
    assert torn.read_bytes() == content[:start]
    assert (tmp_path / f"torn.durus.torn-{start}").read_bytes() == content[start:]


def test_a_zero_filled_tail_was_never_a_commit(
    ours: Side, format: str, whole: tuple[Path, int, dict[str, Any]], tmp_path: Path
) -> None:
    """Some file systems leave zeros where a crash cut a write short."""
    path, start, expected = whole
    torn = tmp_path / "torn.durus"
    for zeros in (1, 8, 100, 5000):
        torn.write_bytes(path.read_bytes()[:start] + bytes(zeros))
        seen = ours.call("compat_files:read", format=format, path=str(torn))
        assert_same_view(seen, expected)


@pytest.mark.parametrize("delay_s", [0.05, 0.2, 0.5])
def test_upstream_killed_while_it_commits(
    upstream: Side, ours: Side, format: str, delay_s: float, tmp_path: Path
) -> None:
    """Killed at any time, a 4.3 that commits as fast as it can leaves what ours can open."""
    file = {"format": format, "path": str(tmp_path / "killed.durus")}
    writer = upstream.start()
    try:
        writer.call("compat_files:hold", name="it", **file)
        writer.call("compat_files:held_run", name="it", case=CASE, actions=[["build"]])
        writer.send("compat_files:commit_for_ever", name="it")
        writer.wait(delay_s)
        writer.kill()
    finally:
        writer.close()
    copy = shutil.copyfile(file["path"], tmp_path / "copy.durus")
    seen = ours.call("compat_files:read", **file)
    counts = ours.call("compat_files:counter", **file)
    assert counts["in the root"] == counts["in the list"] > 0
    # Where 4.3 opens its own file without repair, it sees the same.
    try:
        theirs = upstream.call("compat_files:read", format=format, path=str(copy))
    except SideError:
        return
    assert theirs["canonical"] == seen["canonical"]


def test_upstream_reads_what_a_killed_ours_left(
    upstream: Side, ours: Side, format: str, tmp_path: Path
) -> None:
    """Ours, killed while it commits, leaves what 4.3 opens, with repair if the tail is torn."""
    file = {"format": format, "path": str(tmp_path / "killed.durus")}
    writer = ours.start()
    try:
        writer.call("compat_files:hold", name="it", **file)
        writer.call("compat_files:held_run", name="it", case=CASE, actions=[["build"]])
        writer.send("compat_files:commit_for_ever", name="it")
        writer.wait(0.3)
        writer.kill()
    finally:
        writer.close()
    counts = upstream.call("compat_files:counter", repair=True, **file)
    assert counts["in the root"] == counts["in the list"] > 0
    assert ours.call("compat_files:counter", **file) == counts
