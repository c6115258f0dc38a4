"""Damage is reported, or harmless, or the torn tail that was never acknowledged: never wrong data.

Every case keeps to the file's size and 64 MiB of memory and to a bounded time.

Cases, each with the index file, without it, and read-only; never packed, packed, committed after:
    every single-bit and single-byte flip, of the file and of its index
    every cut; zeros to the end; garbage after the end or in place of it
    chunks removed, repeated and swapped
    the same, then packed; the same, then repaired
    flips in a part of the file that an index spares the opening to look at
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from durus.error import CorruptRecordError, StorageFormatError
from durus.utils import int8_to_str

from .conftest import Kind
from .damage import (
    INDEX,
    Damage,
    Judge,
    Sample,
    Warnings,
    bounded,
    choose,
    common_prefix,
    cuts,
    flips,
    make_sample,
    read_as_object,
    splices,
    tails,
)
from .helpers import NAME, Records

SHAPES = ["never packed", "packed", "packed, then committed"]


@pytest.fixture(params=SHAPES)
def sample(request: pytest.FixtureRequest, kind: Kind, live: Path) -> Sample:
    """A small file in each shape."""
    return make_sample(kind.open, live, request.param)


@pytest.fixture
def judge(kind: Kind, sample: Sample, place: Path) -> Judge:
    """Judges damage to the sample."""
    return Judge(kind.open, sample, place / "damaged")


def try_all(judge: Judge, damages: list[Damage], name: str = NAME) -> Counter[str]:
    """Judge each damage to one file: with the index or not, read-only or packed, in turn."""
    outcomes: Counter[str] = Counter()
    for turn, (note, content) in enumerate(damages):
        files = {**judge.sample.files, name: content}
        try:
            outcomes[judge.judge(files, readonly=turn % 5 == 4, pack=turn % 5 == 1)] += 1
            if name == NAME:
                outcomes[judge.judge({NAME: content}, readonly=turn % 5 == 3)] += 1
        except Exception as error:
            error.add_note(note)
            raise
    return outcomes


def damages_of(way: str, sample: Sample) -> list[Damage]:
    """Give the damages of one way, as many as there is time for."""
    random = Random(way)
    content = sample.content
    found = {
        "flips": lambda: flips(content),
        "cuts": lambda: cuts(content),
        "tails": lambda: tails(content, random),
        "splices": lambda: splices(content, [8, *sample.ends.values()], random, 120),
    }[way]()
    return choose(found, content, random)


@pytest.mark.parametrize("way", ["flips", "cuts", "tails", "splices"])
def test_damage_to_the_file(judge: Judge, way: str) -> None:
    """Damage to the file is reported with its place, harmless, or the torn tail's rule applies."""
    outcomes = try_all(judge, damages_of(way, judge.sample))
    assert outcomes.keys() - {"harmless"}


def test_damage_that_opening_does_not_see(kind: Kind, live: Path, place: Path) -> None:
    """What an index spares the opening to look at is told when it is read, or packed."""
    sample = make_sample(kind.open, live, "between long records")
    numbers = sorted(sample.ends)
    start, stop = sample.ends[numbers[1]] - 100, sample.ends[numbers[-2]] + 200
    damages = choose(flips(sample.content, start, stop), sample.content, Random(1))
    outcomes = try_all(Judge(kind.open, sample, place / "damaged"), damages)
    assert outcomes["reported"] > 0


@pytest.mark.parametrize("way", ["flips", "cuts", "tails", "splices"])
def test_damage_to_the_index(judge: Judge, way: str) -> None:
    """The index is a cache: whatever happens to it, all that is read is right, nothing is lost."""
    index = judge.sample.files.get(INDEX)
    if index is None:
        pytest.skip("this storage has no index file")
    random = Random(way)
    found: dict[str, Callable[[], list[Damage]]] = {
        "flips": lambda: list(flips(index)),
        "cuts": lambda: list(cuts(index)),
        "tails": lambda: list(tails(index, random)),
        "splices": lambda: list(splices(index, [8, 16], random, 120)),
    }
    outcomes = try_all(judge, choose(iter(found[way]()), index, random), INDEX)
    assert outcomes.keys() == {"harmless"}


def whole_transactions(sample: Sample, content: bytes) -> list[int]:
    """Give the states whose transaction is still there byte by byte, in place."""
    numbers = sorted(sample.ends)
    starts = [0, *(sample.ends[number] for number in numbers)]
    return [
        number
        for number, start in zip(numbers, starts, strict=False)
        if content[start : sample.ends[number]] == sample.content[start : sample.ends[number]]
    ]


def check_repaired(found: Records, sample: Sample, content: bytes) -> None:
    """Every whole transaction is there: each record is its last one, or a right one after it."""
    for record in found.values():
        if record not in sample.history.stored:
            # One that claims to be of Durus 4.3, so that it need not prove itself, may stay.
            with pytest.raises(CorruptRecordError):
                read_as_object(record, "repaired")
    states = sample.history.states
    newest: dict[bytes, int] = {}
    for number in whole_transactions(sample, content):
        for oid, record in states[number].items():
            is_base = number == min(sample.ends)
            if is_base or states[number - 1].get(oid) != record:
                newest[oid] = number
    for oid, number in newest.items():
        allowed = {state[oid] for state in states[number:]}
        if oid == int8_to_str(3) and oid not in found:
            continue  # garbage, which a pack may have removed
        assert found.get(oid) in allowed, f"{oid!r} of the whole transaction {number} is lost"


@pytest.mark.parametrize("way", ["flips", "cuts", "tails", "splices"])
def test_repair_keeps_what_proves_itself(
    kind: Kind, sample: Sample, judge: Judge, way: str
) -> None:
    """Repair opens a damaged file and keeps every transaction that is whole; then all is well.

    It gives up only on a file whose first bytes are not those of a database.
    """
    for turn, (note, content) in enumerate(damages_of(way, sample)):
        if turn % 3:
            continue
        try:
            judge.put({**sample.files, NAME: content} if turn % 2 else {NAME: content})
            repair(kind, sample, judge.path, content)
        except Exception as error:
            error.add_note(note)
            raise


def repair(kind: Kind, sample: Sample, path: Path, content: bytes) -> None:
    """Repair one file and check it, and that it opens without repair from then on."""
    with Warnings(), bounded(len(content)):
        try:
            storage = kind.open(path, repair=True)
        except StorageFormatError:
            assert content[:8] != sample.content[:8]
            return
        with storage:
            found = dict(storage.gen_oid_record())
            check_repaired(found, sample, content)
        with kind.open(path) as storage:
            assert dict(storage.gen_oid_record()) == found


def test_sample_has_something_to_lose(sample: Sample) -> None:
    """The samples are what they claim to be."""
    assert common_prefix(b"abc", b"abd") == 2
    assert sample.ends[sample.last] == len(sample.content)
    assert sample.whole_before(len(sample.content) - 1) < sample.last


def test_unreadable_length_takes_no_memory(kind: Kind, judge: Judge) -> None:
    """A length of exabytes in any place is refused without trying to hold it."""
    content = judge.sample.content
    lengths = (2**63 - 1, 2**40, 2**31)
    for offset in range(8, len(content) - 8):
        damaged = content[:offset] + int8_to_str(lengths[offset % 3]) + content[offset + 8 :]
        judge.judge({**judge.sample.files, NAME: damaged})
        with Warnings(), bounded(len(damaged)), suppress(StorageFormatError):
            kind.open(judge.path, repair=True).close()
