"""The disk is full or fails: earlier commits stay, no success is false, work goes on or is refused.

Each act is run once for each call that it makes to the operating system, with that call failing:
once, or together with all that follow it, with ENOSPC, EIO or half a write. An error is both a
DurusError and an OSError. Afterwards the storage has what was committed and commits again, or
refuses to until it is reopened, as it must after a failed sync; reopened, it is in exactly one
known state, and works on.

Cases:
    commit, small and of many KB; creation; opening with index, without, with a torn tail; repair
    pack, with and without commits between its steps; close; online copy
    the same with the power cut after the fault
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from durus.error import CorruptionError, StorageError, StorageWriteError
from durus.testing.crash import DiskRecorder, FaultyDisk

from .conftest import Kind
from .helpers import NAME, History, StateChecker, make_record, quiet, work_on

PutOs = Callable[[Any], None]
OIDS = tuple(range(1, 6))


@dataclass
class Scene:
    """A storage with a few commits, on which an act is tried."""

    kind: Kind
    path: Path
    history: History = field(default_factory=History)
    storage: Any = None  # Any: the class is found by name
    options: dict[str, bool] = field(default_factory=dict)

    def prepare(self) -> None:
        self.open()
        for text in ("one", "two", "three"):
            self.commit(text)
        self.commit("big" * 5000)

    def open(self) -> None:
        self.storage = self.kind.open(self.path, **self.options)

    def commit(self, text: str) -> None:
        records = [make_record(oid, f"{text} {oid}") for oid in OIDS[:3]]
        self.history.commit(self.storage, OIDS[:3], *records)

    def close(self) -> None:
        storage, self.storage = self.storage, None
        if storage is not None:
            storage.close()


def commit_small(scene: Scene) -> None:
    """Commit a little."""
    scene.commit("small")


def commit_much(scene: Scene) -> None:
    """Commit many KB."""
    scene.commit("much" * 9000)


def pack(scene: Scene) -> None:
    """Pack at once."""
    scene.storage.pack()


def pack_in_steps(scene: Scene) -> None:
    """Pack with commits between the steps, and commit after it."""
    for step, _ in enumerate(scene.storage.get_packer()):
        if step < 2:
            scene.commit(f"step {step}")
    scene.commit("packed")


def close(scene: Scene) -> None:
    """Close, which may write an index."""
    scene.close()


def reopen(scene: Scene) -> None:
    """Open a file with its index."""
    scene.open()
    scene.commit("reopened")


def copy(scene: Scene) -> None:
    """Copy the open file."""
    scene.storage.copy(scene.path.with_name("copy"))


def nothing(scene: Scene) -> None:
    """Begin without a file."""
    scene.close()
    scene.path.unlink()
    scene.path.with_name(f"{NAME}.index").unlink(missing_ok=True)
    scene.history = History()


def closed(scene: Scene) -> None:
    """Begin with a closed file."""
    scene.close()


def without_index(scene: Scene) -> None:
    """Begin with a closed file and no index."""
    scene.close()
    scene.path.with_name(f"{NAME}.index").unlink(missing_ok=True)


def torn(scene: Scene) -> None:
    """Begin with a closed file whose last transaction is torn."""
    scene.close()
    scene.path.write_bytes(scene.path.read_bytes()[:-9])
    scene.history.base -= 1


def damaged(scene: Scene) -> None:
    """Begin with a closed file in need of repair; what the damage costs was overwritten later."""
    without_index(scene)
    content = scene.path.read_bytes()
    assert content.count(b"two 2") == 1
    scene.path.write_bytes(content.replace(b"two 2", b"tow 2"))
    scene.options = {"repair": True}


def opened(scene: Scene) -> None:
    """Begin with an open file."""


Step = Callable[[Scene], None]
ACTS: list[tuple[Step, Step]] = [
    (opened, commit_small),
    (opened, commit_much),
    (opened, pack),
    (opened, pack_in_steps),
    (opened, close),
    (opened, copy),
    (nothing, reopen),
    (closed, reopen),
    (without_index, reopen),
    (torn, reopen),
    (damaged, reopen),
]
FAULTS: list[tuple[int, bool, int | None]] = [
    (errno.EIO, False, None),
    (errno.ENOSPC, True, None),
    (errno.ENOSPC, True, 5),
]


@pytest.fixture(params=ACTS, ids=lambda act: f"{act[0].__name__}-{act[1].__name__}")
def act(request: pytest.FixtureRequest) -> tuple[Step, Step]:
    """Each act in turn, with what is done before."""
    steps: tuple[Step, Step] = request.param
    return steps


@pytest.fixture
def scenes(kind: Kind, place: Path) -> Iterator[Callable[[], Scene]]:
    """Makes prepared scenes, each in a directory of its own."""
    made: list[Scene] = []

    def make() -> Scene:
        directory = place / f"scene-{len(made)}"
        directory.mkdir()
        scene = Scene(kind, directory / NAME)
        made.append(scene)
        scene.prepare()
        return scene

    yield make
    for scene in made:
        with quiet():
            scene.close()


def test_every_call_fails_once(
    scenes: Callable[[], Scene], act: tuple[Step, Step], put_os: PutOs
) -> None:
    """Whichever call fails, earlier commits stay, no success is false, and it is said clearly."""
    for call_kind, call in calls_of(scenes(), act, put_os):
        for error, forever, partial_bytes in FAULTS:
            if partial_bytes is not None and call_kind != "write":
                continue
            scene = scenes()
            disk = FaultyDisk()
            fault = f"call {call} of {call_kind}, error {error}, forever {forever}, {partial_bytes}"
            try:
                before(scene, act)
                disk.fail(call_kind, error, call=call, forever=forever, partial_bytes=partial_bytes)
                run(scene, act, call_kind, disk, disk, put_os)
                reopen_and_work_on(scene, call_kind)
            except BaseException as problem:
                problem.add_note(fault)
                raise


@pytest.mark.parametrize("cannot_cut_back", [False, True])
def test_power_fails_after_a_fault(
    scenes: Callable[[], Scene],
    act: tuple[Step, Step],
    put_os: PutOs,
    place: Path,
    kind: Kind,
    cannot_cut_back: bool,
) -> None:
    """What was acknowledged after a failed write, sync, rename or truncate survives a power cut.

    That is so too where what failed cannot be taken back, as after a kill at that moment.
    """
    for call_kind, call in calls_of(scenes(), act, put_os):
        if call_kind in ({"read", "open", "truncate"} if cannot_cut_back else {"read", "open"}):
            continue
        scene = scenes()
        before(scene, act)
        disk = FaultyDisk()
        is_open = scene.storage is not None
        scene.close()
        recorder = DiskRecorder(scene.path.parent, disk)
        put_os(recorder)
        if is_open:
            scene.open()
        recorder.acknowledge(scene.history.base)
        disk.fail(call_kind, errno.EIO, call=call)
        if cannot_cut_back:
            disk.fail("truncate", errno.EIO, forever=True)
        run(scene, act, call_kind, disk, recorder, put_os)
        disk.heal()
        put_os(recorder)
        reopen_and_commit(scene, recorder)
        put_os(os)
        checker = StateChecker(
            partial(kind.open, **scene.options), scene.history, place / "cut", works_on=False
        )
        # Where a write may be torn is the business of test_power_cuts.
        for state in recorder.states(24, seed=call, dense_bytes=16, stride_bytes=200, extra=2):
            try:
                checker.check(state)
            except BaseException as problem:
                problem.add_note(f"call {call} of {call_kind}")
                raise


def reopen_and_commit(scene: Scene, recorder: DiskRecorder) -> None:
    """Go on in a new opening, in which nothing may rest on what an earlier one failed to sync."""
    with quiet():
        scene.open()
        scene.history.base = scene.history.number_of(scene.storage)
        scene.commit("in a new opening")
        recorder.acknowledge(scene.history.base)
        scene.close()


def calls_of(scene: Scene, act: tuple[Step, Step], put_os: PutOs) -> list[tuple[str, int]]:
    """Run the act without a fault and give each call that it made: its kind and number."""
    before(scene, act)
    disk = FaultyDisk()
    put_os(disk)
    with quiet():
        act[1](scene)
        scene.close()
    put_os(os)
    kinds = sorted(disk.calls)
    return [(kind, call + 1) for kind in kinds for call in some_calls(disk.calls[kind])]


def some_calls(count: int) -> list[int]:
    """Choose among many calls: the first and last ones, and some between."""
    if count <= 16:
        return list(range(count))
    return [*range(6), *range(6, count - 6, max(1, count // 4)), *range(count - 6, count)]


def before(scene: Scene, act: tuple[Step, Step]) -> None:
    """Do what comes before the act."""
    act[0](scene)


def run(
    scene: Scene,
    act: tuple[Step, Step],
    call_kind: str,
    disk: FaultyDisk,
    layer: FaultyDisk | DiskRecorder,
    put_os: PutOs,
) -> None:
    """Run the act on the failing disk, then try commits, and close; what was committed stays."""
    acknowledge = layer.acknowledge if isinstance(layer, DiskRecorder) else lambda _number: None
    put_os(layer)
    problem = attempt(act[1], scene)
    acknowledge(scene.history.base)
    if problem is not None:
        check_error(problem, call_kind)
    if scene.storage is not None:
        refused = not commits_again(scene)
        disk.heal()
        refused &= not commits_again(scene)
        acknowledge(scene.history.base)
        if problem is not None and call_kind == "sync" and act[1] in {commit_small, commit_much}:
            assert refused, "commits go on after a failed sync"
        assert scene.history.number_of(scene.storage) == scene.history.base
    with quiet():
        scene.close()
    put_os(os)


def commits_again(scene: Scene) -> bool:
    """Try to commit: it works, or is refused clearly."""
    try:
        with quiet():
            scene.commit("afterwards")
    except StorageWriteError:
        return False
    return True


def reopen_and_work_on(scene: Scene, call_kind: str) -> None:
    """Open the file on a good disk: it is in the state that was committed last.

    A transaction whose sync failed, or that could not be taken back, may be there as well.
    """
    history = scene.history
    with quiet(), scene.kind.open(scene.path, **scene.options) as storage:
        number = history.number_of(storage)
        if number < history.base or call_kind not in {"sync", "sync_directory", "truncate"}:
            assert number == history.base
        work_on(storage, history.fork(number))


def attempt(step: Step, scene: Scene) -> Exception | None:
    """Do a step; give what it raised."""
    try:
        with quiet():
            step(scene)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is judged by the caller
        return error
    return None


def check_error(problem: Exception, call_kind: str) -> None:
    """Refuse an error that is not one of ours, or not an OSError where the system refused."""
    if not isinstance(problem, StorageError) or not str(problem):
        raise problem
    if not isinstance(problem, OSError) and not (
        call_kind == "read" and isinstance(problem, CorruptionError)
    ):
        raise problem
