"""One writer at a time, of whichever version; readers beside a writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from compat_compare import assert_same_view
from compat_sides import Side, SideError

SideByName = Callable[[str], Side]

PAIRS = [("4.3", "ours"), ("ours", "4.3"), ("ours", "ours")]
pair = pytest.mark.parametrize(("first", "second"), PAIRS, ids=["-".join(p) for p in PAIRS])


@pair
def test_a_second_writer_is_refused(
    side: SideByName, first: str, second: str, format: str, tmp_path: Path
) -> None:
    """Whoever opens for writing second gets an OSError, and can open once the first has closed."""
    file = {"format": format, "path": str(tmp_path / "locked.durus")}
    with side(first).start() as holder:
        holder.call("compat_files:hold", name="it", **file)
        with pytest.raises(SideError) as refused:
            side(second).call("compat_files:read", **file)
        assert "OSError" in refused.value.names
        seen = holder.call("compat_files:held_run", name="it", case="empty", actions=[["build"]])
        holder.call("compat_files:release", name="it")
        assert_same_view(side(second).call("compat_files:read", **file), seen)


@pair
def test_a_refused_writer_harms_nothing(
    side: SideByName, first: str, second: str, format: str, tmp_path: Path
) -> None:
    """The file that could not be opened, and all beside it, is as it was."""
    file = {"format": format, "path": str(tmp_path / "locked.durus")}
    with side(first).start() as holder:
        holder.call("compat_files:hold", name="it", **file)
        holder.call("compat_files:held_run", name="it", case="dicts", actions=[["build"]])
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(SideError):
            side(second).call("compat_files:read", **file)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
        holder.call("compat_files:held_run", name="it", case="dicts", actions=[["change", 1]])


@pair
def test_a_writer_that_was_killed_leaves_no_lock(
    side: SideByName, first: str, second: str, format: str, tmp_path: Path
) -> None:
    """The lock ends with the process that held it."""
    file = {"format": format, "path": str(tmp_path / "locked.durus")}
    holder = side(first).start()
    try:
        holder.call("compat_files:hold", name="it", **file)
        seen = holder.call("compat_files:held_run", name="it", case="dicts", actions=[["build"]])
        holder.kill()
    finally:
        holder.close()
    assert_same_view(side(second).call("compat_files:read", **file), seen)


@pair
def test_the_lock_is_kept_across_a_pack(
    side: SideByName, first: str, second: str, format: str, tmp_path: Path
) -> None:
    """A pack puts a new file in the place of the old one: that one is locked too."""
    file = {"format": format, "path": str(tmp_path / "locked.durus")}
    with side(first).start() as holder:
        holder.call("compat_files:hold", name="it", **file)
        actions = [["build"], ["change", 1], ["pack"], ["change", 2], ["pack"], ["change", 3]]
        holder.call("compat_files:held_run", name="it", case="garbage", actions=actions)
        with pytest.raises(SideError) as refused:
            side(second).call("compat_files:read", **file)
        assert "OSError" in refused.value.names


@pair
def test_a_reader_takes_no_lock(
    side: SideByName, first: str, second: str, format: str, tmp_path: Path
) -> None:
    """A file that is open read-only can be opened for writing, and grows under the reader."""
    file = {"format": format, "path": str(tmp_path / "read.durus")}
    side(first).call("compat_files:run", case="dicts", actions=[["build"]], **file)
    with side(first).start() as reader:
        reader.call("compat_files:hold", name="it", readonly=True, **file)
        before = reader.call("compat_files:held_view", name="it")
        written = side(second).call(
            "compat_files:run", case="dicts", actions=[["change", 1]], **file
        )
        # What the reader sees stays one state: the old one, for 4.3 never looks at the file again.
        after = reader.call("compat_files:held_view", name="it")
        assert after["objects"] in (before["objects"], written["objects"])


@pair
def test_a_reader_beside_a_live_writer_sees_what_was_committed(
    side: SideByName, first: str, second: str, format: str, tmp_path: Path
) -> None:
    """Opening read-only beside a writer shows its last commit, at each point of its work."""
    file = {"format": format, "path": str(tmp_path / "live.durus")}
    steps = [
        ["build"],
        ["change", 1],
        ["change", 2],
        ["pack"],
        ["change", 3],
        ["pack"],
        ["change", 4],
    ]
    with side(first).start() as writer, side(second).start() as reader:
        writer.call("compat_files:hold", name="it", **file)
        for step in steps:
            seen = writer.call("compat_files:held_run", name="it", case="garbage", actions=[step])
            found = reader.call("compat_files:read", readonly=True, **file)
            assert_same_view(found, seen)
        # The reader left the lock where it was, and the writer goes on.
        writer.call("compat_files:held_run", name="it", case="garbage", actions=[["change", 5]])


@pytest.mark.parametrize("maker", ["4.3", "ours"])
def test_a_reader_of_ours_stays_open_while_upstream_writes(
    side: SideByName, upstream: Side, ours: Side, maker: str, format: str, tmp_path: Path
) -> None:
    """It sees one whole state of the file at a time, packs of 4.3 included."""
    file = {"format": format, "path": str(tmp_path / "live.durus")}
    # A file that ours made and packed may have an index, which 4.3 does not keep up.
    side(maker).call("compat_files:run", case="empty", actions=[["change", 1], ["pack"]], **file)
    states = []
    with upstream.start() as writer, ours.start() as reader:
        writer.call("compat_files:hold", name="it", **file)
        build = {"name": "it", "case": "garbage", "actions": [["build"]]}
        states.append(writer.call("compat_files:held_run", **build)["objects"])
        reader.call("compat_files:hold", name="it", readonly=True, **file)
        for action in [["change", 1], ["change", 2], ["pack"], ["change", 3]]:
            arguments = {"name": "it", "case": "garbage", "actions": [action]}
            states.append(writer.call("compat_files:held_run", **arguments)["objects"])
            found = reader.call("compat_files:held_view", name="it")["objects"]
            assert found in states
