"""Files that Durus 4.3 wrote and that are kept here, read without any 4.3 at hand.

`golden/recipe.py` says how they were made, and `golden/STAGE.json` what 4.3 itself reads in them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import compat_files
import pytest
from compat_compare import assert_same_view, without_commit_records
from compat_sides import Side

from durus.connection import Connection
from durus.serialize import ROOT_OID, check_proof
from durus.storage import get_census
from durus.utils import int8_to_str

GOLDEN = Path(__file__).parent / "golden"
FORMATS = {"shelf": "SHELF-1", "dfs20": "DFS20"}

# What each file holds; of the torn ones, what is left without the commit that was cut.
STAGE_OF_FILE = {
    "empty": "empty",
    "never-packed": "never-packed",
    "packed": "packed",
    "committed-after-pack": "committed-after-pack",
    "packed-twice": "packed-twice",
    "plain": "committed-after-pack",
    "torn": "packed-twice",
}
NAMES = [f"{prefix}-{kind}" for prefix in FORMATS for kind in STAGE_OF_FILE]


class Golden:
    """A copy of one golden file, and what 4.3 reads in it."""

    def __init__(self, name: str, directory: Path) -> None:
        prefix, kind = name.split("-", 1)
        self.format = FORMATS[prefix]
        self.path = str(shutil.copyfile(GOLDEN / f"{name}.durus", directory / f"{name}.durus"))
        self.expected: dict[str, Any] = json.loads(
            (GOLDEN / f"{STAGE_OF_FILE[kind]}.json").read_text("utf-8")
        )

    def arguments(self) -> dict[str, str]:
        return {"format": self.format, "path": self.path}


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    """Each golden file in turn."""
    return Golden(str(request.param), tmp_path)


def test_a_golden_file_holds_what_upstream_reads_in_it(golden: Golden, ours: Side) -> None:
    """Every object, reference, class and walk is as 4.3 saw it; a torn commit was never made."""
    assert_same_view(ours.call("compat_files:read", **golden.arguments()), golden.expected)


def test_a_golden_file_reads_the_same_when_opened_read_only(golden: Golden, ours: Side) -> None:
    """Opening read-only shows the same, changes no byte, and leaves no other file behind."""
    path = Path(golden.path)
    before = path.read_bytes()
    seen = ours.call("compat_files:read", readonly=True, **golden.arguments())
    assert_same_view(seen, golden.expected)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_reading_a_golden_file_changes_no_byte_of_what_was_committed(
    golden: Golden, ours: Side
) -> None:
    """Opening for writing and closing again rewrites nothing: only a torn tail is set aside."""
    before = Path(golden.path).read_bytes()
    ours.call("compat_files:read", **golden.arguments())
    after = Path(golden.path).read_bytes()
    assert before.startswith(after)
    assert len(after) == len(before) or "torn" in golden.path


def test_a_golden_file_is_changed_packed_and_read_again(golden: Golden, ours: Side) -> None:
    """A commit, a pack and a commit after it: what was read is there, with the changes."""
    case = "empty" if "empty" in golden.path else "golden"
    with ours.start() as process:
        for actions in [["change", 7]], [["pack"]], [["change", 8]], [["pack"], ["pack"]]:
            done = process.call(
                "compat_files:run", case=case, actions=actions, **golden.arguments()
            )
            again = process.call("compat_files:read", **golden.arguments())
            assert again == done
    unchanged = ["shelf", "mixed", "keys", "tree2"] if case == "golden" else []
    assert _under_root(done, unchanged) == _under_root(golden.expected, unchanged)


def test_upstream_reads_a_golden_file_that_ours_changed(
    golden: Golden, ours: Side, upstream: Side
) -> None:
    """4.3 gets its own file back, with what ours committed before and after packing it."""
    case = "empty" if "empty" in golden.path else "golden"
    for actions in [["change", 7]], [["pack"], ["change", 8]]:
        done = ours.call("compat_files:run", case=case, actions=actions, **golden.arguments())
        assert_same_view(upstream.call("compat_files:read", **golden.arguments()), done)


def test_the_recipe_still_makes_what_the_golden_files_hold(upstream: Side, tmp_path: Path) -> None:
    """The recipe, run again, makes files of the same objects: it tells the truth about them."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    recipe: dict[str, Any] = {"__name__": "recipe", "__file__": str(GOLDEN / "recipe.py")}
    exec(compile((GOLDEN / "recipe.py").read_text("utf-8"), "recipe.py", "exec"), recipe)
    # It compares what it makes with the expected dumps that lie there.
    recipe["make"](upstream, tmp_path / "golden")
    made = sorted(path.name for path in (tmp_path / "golden").iterdir())
    assert made == sorted(path.name for path in GOLDEN.iterdir() if path.is_file())


def test_records_of_golden_files_carry_no_proof(golden: Golden) -> None:
    """4.3 writes no proofs; a record without one is told from one with it, and is taken."""
    with compat_files.open_file(**golden.arguments(), readonly=True) as storage:
        for _, record in storage.gen_oid_record():
            assert not check_proof(record)


def test_the_command_describes_a_golden_file(golden: Golden, ours: Side) -> None:
    """`durus info --json` counts the classes as 4.3's census does, and changes nothing."""
    before = Path(golden.path).read_bytes()
    described = json.loads(ours.run_command("info", golden.path, "--json"))
    counted = sorted([entry["name"], entry["objects"]] for entry in described["classes"])
    expected: dict[str, int] = {}
    for _, name in golden.expected["walks"]["classes"]:
        expected[name] = expected.get(name, 0) + 1
    short: dict[str, int] = {}
    for path, count in counted:
        name = path.rsplit(".", 1)[-1]
        short[name] = short.get(name, 0) + count
    assert short == expected
    assert described["format"] == golden.format
    assert Path(golden.path).read_bytes() == before


def test_an_index_record_of_python_2_is_read(tmp_path: Path) -> None:
    """A DFS20 file whose index holds the oids as text opens, and every record of it is found."""
    path = shutil.copyfile(GOLDEN / "dfs20-python2.durus", tmp_path / "python2.durus")
    with compat_files.open_file("DFS20", str(path)) as storage:
        oids = sorted(oid for oid, _ in storage.gen_oid_record())
        assert oids == [int8_to_str(number) for number in range(145)]
        assert sorted(oid for oid, _ in storage.gen_oid_record(start_oid=ROOT_OID)) == oids
        assert get_census(storage) == {
            b"PersistentDict": 142,
            b"PersistentList": 1,
            b"BTree": 1,
            b"BNode4": 1,
        }


def test_an_unknown_class_of_a_golden_file_hides_nothing_else(tmp_path: Path) -> None:
    """Walks and the census need none of the application's classes."""
    golden = Golden("shelf-packed", tmp_path)
    with compat_files.open_file(**golden.arguments()) as storage:
        found = without_commit_records(compat_files.walks(storage))
        assert found == golden.expected["walks"]
        assert Connection(storage).get_root()["employee"].name == "Bob"


def _under_root(seen: dict[str, Any], names: list[str]) -> list[Any]:
    """Give the dumps of the objects that the root holds under some names."""
    objects = {entry["label"]: entry for entry in seen["objects"]}
    pairs = {json.dumps(key): value for _, (key, value) in objects[0]["view"][1][1][1]}
    values = [pairs[json.dumps(["str", name])] for name in names]
    return [objects[value[1]] if value[0] == "ref" else value for value in values]


@pytest.mark.parametrize("packer", ["4.3", "ours"])
def test_either_command_packs_the_others_file(
    upstream: Side, ours: Side, packer: str, format: str, tmp_path: Path
) -> None:
    """`durus -p --file FILE`, as 4.3 spells it, packs what the other version wrote."""
    path = str(tmp_path / "it.durus")
    actions = [["build"], ["change", 1], ["change", 2]]
    writer, packing = (ours, upstream) if packer == "4.3" else (upstream, ours)
    file = {"format": format, "path": path}
    before = writer.call("compat_files:run", case="golden", actions=actions, **file)
    packing.run_command("-p", "--file", path)
    after = writer.call("compat_files:read", **file)
    assert after["objects"] == before["objects"]
    assert after["walks"]["records"] == after["walks"]["reachable"]
