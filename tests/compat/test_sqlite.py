"""A database in SQLite goes back and forth between this Durus and Durus 4.3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import compat_corpus
import pytest
from compat_sides import Side

from durus.error import ReadConflictError
from durus.serialize import ROOT_OID

sqlite_storage = pytest.importorskip("durus.sqlite_storage")

SideByName = Callable[[str], Side]

CASES = [name for name in compat_corpus.CASES if name != "big"]
DIRECTIONS = [("4.3", "ours"), ("ours", "4.3")]
direction = pytest.mark.parametrize(("writer", "reader"), DIRECTIONS, ids=["4.3-ours", "ours-4.3"])


@direction
@pytest.mark.parametrize("case", CASES)
def test_a_database_goes_back_and_forth(
    side: SideByName, writer: str, reader: str, case: str, tmp_path: Path
) -> None:
    """What one side builds, changes and packs, the other reads, changes and packs, and so on."""
    path = str(tmp_path / "app.sqlite")
    task = "compat_sqlite:run"
    seen = side(writer).call(task, path=path, case=case, actions=[["build"], ["change", 1]])
    for number, name in enumerate([reader, writer, reader], 2):
        assert side(name).call("compat_sqlite:read", path=path) == seen
        actions = [["change", number], ["pack"], ["change", number + 10]]
        seen = side(name).call(task, path=path, case=case, actions=actions)
    assert side(writer).call("compat_sqlite:read", path=path) == seen


def test_a_database_of_43_is_read_without_a_change(upstream: Side, tmp_path: Path) -> None:
    """Opened read-only, a database of 4.3 is read as it is, and followed when 4.3 writes."""
    path = tmp_path / "app.sqlite"
    upstream.call("compat_sqlite:run", path=str(path), case="dicts", actions=[["build"]])
    before = path.read_bytes()
    with sqlite_storage.SqliteStorage(path, readonly=True) as storage:
        old = dict(storage.gen_oid_record())
        assert storage.sync() == []
        assert path.read_bytes() == before
        upstream.call("compat_sqlite:run", path=str(path), case="dicts", actions=[["change", 1]])
        with pytest.raises(ReadConflictError):
            storage.load(ROOT_OID)
        assert storage.sync() is None
        assert dict(storage.gen_oid_record()) != old


def test_what_43_writes_is_told_to_our_sessions(upstream: Side, tmp_path: Path) -> None:
    """An open session of ours learns at `sync` what 4.3 committed and packed, and nothing else."""
    path = tmp_path / "app.sqlite"
    upstream.call("compat_sqlite:run", path=str(path), case="garbage", actions=[["build"]])
    with sqlite_storage.SqliteStorage(path) as storage:
        for actions in ([["change", 1]], [["change", 2], ["change", 3]], [["pack"]]):
            old = dict(storage.gen_oid_record())
            upstream.call("compat_sqlite:run", path=str(path), case="garbage", actions=actions)
            assert dict(storage.gen_oid_record()) == old
            told = storage.sync()
            new = dict(storage.gen_oid_record())
            changed = {oid for oid in old.keys() | new.keys() if old.get(oid) != new.get(oid)}
            assert changed
            # 4.3 may write what has not changed.
            assert changed <= set(told)
            assert storage.sync() == []
        assert not set(new).intersection(storage.new_oid() for _ in range(100))


def test_the_oid_that_43_gives_again(upstream: Side, ours: Side, tmp_path: Path) -> None:
    """After a reopening 4.3 gives the oid of a stored object; ours never does."""
    path = str(tmp_path / "app.sqlite")
    upstream.call("compat_sqlite:run", path=path, case="dicts", actions=[["build"]])
    assert upstream.call("compat_sqlite:first_oid_after_opening", path=path)
    assert not ours.call("compat_sqlite:first_oid_after_opening", path=path)
