"""Past states of a file that Durus 4.3 writes and packs in between."""

from __future__ import annotations

import shutil
from pathlib import Path

import compat_files
import pytest
from compat_sides import Side

from durus.connection import Connection
from durus.serialize import ROOT_OID
from durus.storage import Storage

GOLDEN = Path(__file__).parent / "golden"
CASE = "everything"

State = dict[bytes, bytes]


class _File:
    """A file that both versions write, and what was stored after each commit of ours."""

    def __init__(self, upstream: Side, format: str, path: Path) -> None:
        self._upstream = upstream
        self._format = format
        self._path = str(path)
        self.states: dict[int, State] = {}

    def theirs(self, *actions: list[object]) -> None:
        self._upstream.call(
            "compat_files:run", format=self._format, path=self._path, case=CASE, actions=actions
        )

    def ours(self, *actions: list[object]) -> None:
        with self.open() as storage:
            connection = Connection(storage)
            for action in actions:
                compat_files.act(connection, CASE, [action])
                self.states[_serials(storage)[-1]] = _state(storage)

    def open(self, **options: int) -> Storage:
        return compat_files.open_file(self._format, self._path, **options)

    def check(self, *, is_all: bool = True) -> None:
        """Read every commit; all that we made are there, unless a pack came."""
        for readonly in (True, False):
            with self.open(readonly=readonly) as storage:
                serials = _serials(storage)
                assert serials == list(self.states) or not is_all
                assert serials
                for serial in serials:
                    for oid, record in self.states[serial].items():
                        assert storage.load_as_of(oid, serial) == record
        for serial in serials:
            with self.open(at=serial) as storage:
                assert self.states[serial].items() <= dict(storage.gen_oid_record()).items()
                assert _serials(storage)[-1] == serial


def _serials(storage: Storage) -> list[int]:
    return [serial for serial, _ in storage.gen_commits()]


def _state(storage: Storage) -> State:
    return dict(storage.gen_oid_record(ROOT_OID))


@pytest.fixture
def shared(upstream: Side, format: str, tmp_path: Path) -> _File:
    """A file that is not there yet."""
    return _File(upstream, format, tmp_path / "shared.durus")


def test_what_upstream_wrote_belongs_to_our_next_commit(shared: _File) -> None:
    """As of each of our commits is what was stored then, whoever wrote it; nothing of later."""
    shared.theirs(["build"], ["change", 1])
    with shared.open() as storage:
        assert _serials(storage) == []
    shared.ours(["change", 2], ["change", 3])
    shared.theirs(["change", 4], ["change", 5])
    shared.check()
    shared.ours(["change", 6])
    shared.theirs(["change", 7])
    shared.ours(["change", 8])
    assert len(shared.states) == 4
    shared.check()


def test_our_pack_of_what_upstream_wrote_last_is_a_commit(shared: _File) -> None:
    """The packed state is not taken for that of our last commit, which it is not."""
    shared.ours(["build"], ["change", 1])
    shared.theirs(["change", 2])
    before = list(shared.states)
    with shared.open() as storage:
        theirs = _state(storage)
    shared.ours(["pack"])
    [packed] = shared.states.keys() - set(before)
    assert packed > max(before)
    assert shared.states[packed] == theirs
    shared.ours(["change", 3])
    shared.check(is_all=False)
    with shared.open() as storage:
        assert _serials(storage) == [packed, packed + 1]


def test_a_pack_of_upstream_begins_anew(shared: _File) -> None:
    """It drops our commits; those that we make after it are read as they were."""
    shared.ours(["build"], ["change", 1])
    shared.theirs(["change", 2], ["pack"])
    with shared.open() as storage:
        assert _serials(storage) == []
    shared.states.clear()
    shared.ours(["change", 3], ["change", 4])
    shared.theirs(["change", 5])
    shared.ours(["change", 6], ["pack"], ["change", 7])
    shared.check(is_all=False)


@pytest.mark.parametrize("name", ["shelf-packed", "dfs20-packed"])
def test_a_packed_state_without_a_time_is_no_commit(name: str, tmp_path: Path) -> None:
    """What 4.3 packed, and we packed again, has neither serial nor time; what follows has."""
    format = {"shelf": "SHELF-1", "dfs20": "DFS20"}[name.split("-", 1)[0]]
    path = str(shutil.copyfile(GOLDEN / f"{name}.durus", tmp_path / "packed.durus"))
    with compat_files.open_file(format, path) as storage:
        storage.pack()
        assert _serials(storage) == []
        before = _state(storage)
        connection = Connection(storage)
        connection.get_root()["new"] = 1
        connection.commit()
        [serial] = _serials(storage)
        after = _state(storage)
        assert before.keys() <= after.keys()
        connection.get_root()["new"] = 2
        connection.commit()
        for oid, record in after.items():
            assert storage.load_as_of(oid, serial) == record
