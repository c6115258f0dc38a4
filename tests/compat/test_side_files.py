"""The files that ours keeps beside a database, and what 4.3 does to the database meanwhile."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from compat_compare import assert_same_view
from compat_sides import Side

CASE = "garbage"

# What 4.3 does to a file while an index of ours lies beside it.
CHANGES_OF_UPSTREAM: dict[str, list[list[Any]]] = {
    "appended": [["change", 11]],
    "appended-much": [["change", step] for step in range(20, 40)],
    "packed": [["pack"]],
    "packed-twice": [["pack"], ["pack"]],
    "packed-and-appended": [["pack"], ["change", 11]],
    "appended-and-packed": [["change", 11], ["pack"]],
    "appended-packed-appended": [["change", 11], ["pack"], ["change", 12], ["change", 13]],
}


def _written_by_ours(ours: Side, path: Path) -> dict[str, Any]:
    """Make a SHELF-1 file with an index beside it; give what ours sees."""
    actions = [["build"], ["change", 1], ["pack"], ["change", 2]]
    file = {"format": "SHELF-1", "path": str(path)}
    seen: dict[str, Any] = ours.call("compat_files:run", case=CASE, actions=actions, **file)
    return seen


@pytest.fixture
def indexed(ours: Side, tmp_path: Path) -> Path:
    """A SHELF-1 file of ours that has an index file beside it."""
    path = tmp_path / "indexed.durus"
    _written_by_ours(ours, path)
    ours.call("compat_files:read", format="SHELF-1", path=str(path))
    assert index_of(path).exists()
    return path


def index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.index")


@pytest.mark.parametrize("actions", CHANGES_OF_UPSTREAM.values(), ids=CHANGES_OF_UPSTREAM)
def test_an_index_that_upstream_made_stale_is_noticed(
    upstream: Side, ours: Side, indexed: Path, actions: list[list[Any]]
) -> None:
    """4.3 knows nothing of FILE.index; after it changed the file, ours reads the file as it is."""
    file = {"format": "SHELF-1", "path": str(indexed)}
    done = upstream.call("compat_files:run", case=CASE, actions=actions, **file)
    assert_same_view(ours.call("compat_files:read", readonly=True, **file), done)
    assert_same_view(ours.call("compat_files:read", **file), done)
    again = ours.call("compat_files:run", case=CASE, actions=[["change", 50]], **file)
    assert_same_view(upstream.call("compat_files:read", **file), again)


def test_an_index_of_another_state_of_the_file_is_noticed(
    upstream: Side, ours: Side, tmp_path: Path
) -> None:
    """An index that was copied from another moment, or from another database, does no harm."""
    path = tmp_path / "it.durus"
    file = {"format": "SHELF-1", "path": str(path)}
    indexes = []
    for actions in (
        [["build"], ["change", 1]],
        [["pack"]],
        [["change", 2], ["pack"]],
        [["change", 3]],
    ):
        ours.call("compat_files:run", case=CASE, actions=actions, **file)
        seen = ours.call("compat_files:read", **file)
        if index_of(path).exists():
            indexes.append(index_of(path).read_bytes())
    other = tmp_path / "other.durus"
    ours.call(
        "compat_files:run", format="SHELF-1", path=str(other), case="many", actions=[["build"]]
    )
    ours.call("compat_files:read", format="SHELF-1", path=str(other))
    if index_of(other).exists():
        indexes.append(index_of(other).read_bytes())
    assert indexes
    for index in indexes:
        index_of(path).write_bytes(index)
        assert_same_view(ours.call("compat_files:read", **file), seen)


def test_a_file_replaced_under_its_index_is_read_as_it_is(
    upstream: Side, ours: Side, indexed: Path, tmp_path: Path
) -> None:
    """A database of 4.3 that is copied over one of ours is not read through the old index."""
    path = tmp_path / "theirs.durus"
    theirs = upstream.call(
        "compat_files:run", format="SHELF-1", path=str(path), case="lists", actions=[["build"]]
    )
    shutil.copyfile(path, indexed)
    seen = ours.call("compat_files:read", format="SHELF-1", path=str(indexed))
    assert_same_view(seen, theirs)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage", "flipped"])
def test_a_damaged_index_is_made_anew(ours: Side, indexed: Path, damage: str) -> None:
    """The index is only a cache: whatever happens to it, the file says what is stored."""
    file = {"format": "SHELF-1", "path": str(indexed)}
    expected = ours.call("compat_files:read", **file)
    index = index_of(indexed)
    content = index.read_bytes()
    rng = random.Random(0)
    damaged: list[bytes | None] = {
        "missing": [None],
        "empty": [b""],
        "cut": [content[:at] for at in (1, 8, len(content) // 2, len(content) - 1)],
        "garbage": [rng.randbytes(len(content)), content + rng.randbytes(100)],
        "flipped": [_flip(content, rng.randrange(len(content))) for _ in range(40)],
    }[damage]
    with ours.start() as process:
        for replacement in damaged:
            if replacement is None:
                index.unlink()
            else:
                index.write_bytes(replacement)
            assert_same_view(process.call("compat_files:read", **file), expected)


def test_side_files_do_not_disturb_upstream(upstream: Side, ours: Side, indexed: Path) -> None:
    """4.3 opens, changes and packs a file with all of ours beside it, and leaves those alone."""
    beside = {
        f"{indexed.name}.torn-123": b"a torn tail",
        f"{indexed.name}.torn-456": b"",
        index_of(indexed).name: index_of(indexed).read_bytes(),
    }
    for name, content in beside.items():
        indexed.with_name(name).write_bytes(content)
    file = {"format": "SHELF-1", "path": str(indexed)}
    done = upstream.call(
        "compat_files:run", case=CASE, actions=[["change", 11], ["pack"], ["change", 12]], **file
    )
    for name, content in beside.items():
        assert indexed.with_name(name).read_bytes() == content
    assert_same_view(ours.call("compat_files:read", **file), done)
    names = {path.name for path in indexed.parent.iterdir()}
    assert names == {indexed.name, f"{indexed.name}.prepack", *beside}


def test_what_is_left_beside_the_file_is_documented(
    upstream: Side, ours: Side, format: str, tmp_path: Path
) -> None:
    """Beside a database lie at most FILE.index and, after a pack, FILE.prepack."""
    path = tmp_path / "it.durus"
    file = {"format": format, "path": str(path)}
    actions = [["build"], ["change", 1], ["pack"], ["change", 2], ["pack"]]
    ours.call("compat_files:run", case=CASE, actions=actions, **file)
    names = {entry.name for entry in tmp_path.iterdir()}
    assert names <= {path.name, f"{path.name}.index", f"{path.name}.prepack"}
    assert {path.name, f"{path.name}.prepack"} <= names


def test_the_file_before_a_pack_is_a_database_of_its_own(
    upstream: Side, ours: Side, format: str, tmp_path: Path
) -> None:
    """FILE.prepack opens on both sides, to the last commit before the pack."""
    file = {"format": format, "path": str(tmp_path / "it.durus")}
    before = ours.call("compat_files:run", case=CASE, actions=[["build"], ["change", 1]], **file)
    ours.call("compat_files:run", case=CASE, actions=[["pack"]], **file)
    prepack = shutil.copyfile(f"{file['path']}.prepack", tmp_path / "old.durus")
    for side in (upstream, ours):
        seen = side.call("compat_files:read", format=format, path=str(prepack))
        assert_same_view(seen, before)


def _flip(content: bytes, position: int) -> bytes:
    flipped = bytearray(content)
    flipped[position] ^= 1 << (position % 8)
    return bytes(flipped)
