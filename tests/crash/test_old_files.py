"""Files that Durus 4.3 wrote carry no proofs; damaged, they still fail in a bounded and clear way.

Cases:
    flips, cuts, tails and splices of each golden file: opened, read-only, repaired, walked, packed
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from durus.error import CorruptionError, DurusError
from durus.storage import get_census, get_reference_index

from .conftest import Kind
from .damage import Warnings, bounded, cuts, flips, splices, tails
from .helpers import NAME

GOLDEN = Path(__file__).parents[1] / "compat" / "golden"
FILES = ["empty", "never-packed", "packed", "committed-after-pack", "torn"]
PREFIXES = {"FileStorage": "shelf", "FileStorage2": "dfs20"}
OPTIONS: list[dict[str, bool]] = [{}, {"readonly": True}, {"repair": True}]


@pytest.mark.parametrize("name", FILES)
def test_damage_to_a_file_without_proofs(kind: Kind, place: Path, name: str) -> None:
    """Whatever is damaged, each step works or raises a DurusError, in bounded memory and time."""
    content = (GOLDEN / f"{PREFIXES[kind.name]}-{name}.durus").read_bytes()
    random = Random(name)
    edges = [random.randrange(len(content)) for _ in range(4)]
    damages = [
        *random.sample(list(flips(content)), 300),
        *random.sample(list(cuts(content)), 100),
        *tails(content, random),
        *random.sample(list(splices(content, edges, random, 30)), 100),
    ]
    path = place / NAME
    for turn, (note, damaged) in enumerate(damages):
        for old in place.iterdir():
            old.unlink()
        path.write_bytes(damaged)
        try:
            with Warnings(), bounded(len(damaged)):
                use(kind, path, OPTIONS[turn % 3])
        except Exception as error:
            error.add_note(note)
            raise


def use(kind: Kind, path: Path, options: dict[str, bool]) -> None:
    """Open a file, walk it in every way and pack it, as far as that goes."""
    try:
        with kind.open(path, **options) as storage:
            for walk in (get_census, get_reference_index, load_all, pack):
                attempt(walk, storage)
    except CorruptionError:
        if options.get("repair"):
            raise
    except DurusError:
        return


def attempt(walk: Any, storage: Any) -> None:
    """Do one thing with the storage; it may find damage."""
    with suppress(DurusError):
        walk(storage)


def load_all(storage: Any) -> None:
    """Load every object that a walk finds."""
    for oid, record in storage.gen_oid_record():
        assert storage.load(oid) == record


def pack(storage: Any) -> None:
    """Pack, where that is allowed."""
    if not storage.readonly:
        storage.pack()
