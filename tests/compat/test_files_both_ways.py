"""What one version writes, the other reads: every case, at every stage of a file's life.

The dumps that are compared hold every object with its oid, class, state, references and sharing,
the public view of each container, and what the walks of durus.storage and the crawler say.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import compat_corpus
import compat_files
import pytest
from compat_compare import assert_same_view
from compat_sides import Side

SideByName = Callable[[str], Side]

CASES = list(compat_corpus.CASES)
DIRECTIONS = [("4.3", "ours"), ("ours", "4.3")]
direction = pytest.mark.parametrize(("writer", "reader"), DIRECTIONS, ids=["4.3-ours", "ours-4.3"])


@direction
@pytest.mark.parametrize("case", CASES)
def test_every_stage_of_a_file_reads_the_same_on_the_other_side(
    side: SideByName, writer: str, reader: str, format: str, case: str, tmp_path: Path
) -> None:
    """Never packed, packed, committed after a pack, packed twice: nothing is lost or changed."""
    written = side(writer).call(
        "compat_files:make_stages", format=format, directory=str(tmp_path), case=case
    )
    assert list(written) == list(compat_files.STAGES)
    for stage, seen in written.items():
        path = str(tmp_path / f"{stage}.durus")
        assert_same_view(side(reader).call("compat_files:read", format=format, path=path), seen)


@pytest.mark.parametrize("case", [name for name in CASES if name != "big"])
def test_both_sides_make_the_same_graph(
    upstream: Side, ours: Side, format: str, case: str, tmp_path: Path
) -> None:
    """The same program gives the same objects on both versions, whatever their oids are."""
    for each in (upstream, ours):
        (tmp_path / each.name).mkdir()
    theirs, mine = (
        each.call(
            "compat_files:make_stages",
            format=format,
            directory=str(tmp_path / each.name),
            case=case,
        )
        for each in (upstream, ours)
    )
    for stage in compat_files.STAGES:
        assert mine[stage]["canonical"] == theirs[stage]["canonical"], stage


@pytest.mark.parametrize("case", ["values", "dicts", "btree16", "objects", "big"])
def test_plain_states_of_upstream_are_read(
    upstream: Side, ours: Side, format: str, case: str, tmp_path: Path
) -> None:
    """4.3 can be told not to compress states; ours reads such files too, and changes them."""
    written = upstream.call(
        "compat_files:make_stages",
        format=format,
        directory=str(tmp_path),
        case=case,
        compressed=False,
    )
    for stage, seen in written.items():
        path = str(tmp_path / f"{stage}.durus")
        assert_same_view(ours.call("compat_files:read", format=format, path=path), seen)
    path = str(tmp_path / "never-packed.durus")
    changed = ours.call(
        "compat_files:run",
        format=format,
        path=path,
        case=case,
        actions=[["change", 7], ["pack"], ["change", 8]],
    )
    assert_same_view(upstream.call("compat_files:read", format=format, path=path), changed)


@direction
def test_a_file_opened_read_only_reads_the_same(
    side: SideByName, writer: str, reader: str, format: str, tmp_path: Path
) -> None:
    """Opening read-only shows the same, and leaves the bytes of the file as they were."""
    written = side(writer).call(
        "compat_files:make_stages", format=format, directory=str(tmp_path), case="garbage"
    )
    for stage, seen in written.items():
        path = tmp_path / f"{stage}.durus"
        before = path.read_bytes()
        path.chmod(0o444)
        found = side(reader).call("compat_files:read", format=format, path=str(path), readonly=True)
        assert_same_view(found, seen)
        assert path.read_bytes() == before


@direction
@pytest.mark.parametrize("word", ["Person", "PersistentDict", "BNode16"])
def test_touch_every_reference_works_on_the_other_sides_files(
    side: SideByName, writer: str, reader: str, format: str, word: str, tmp_path: Path
) -> None:
    """Every object that names a class is stored again by the other side, and the graph stays."""
    written = side(writer).call(
        "compat_files:make_stages", format=format, directory=str(tmp_path), case="catalog"
    )
    path = str(tmp_path / "committed-after-pack.durus")
    touched = side(reader).call(
        "compat_files:run", format=format, path=path, case="catalog", actions=[["touch", word]]
    )
    assert touched["objects"] == written["committed-after-pack"]["objects"]
    seen = side(writer).call("compat_files:read", format=format, path=path)
    assert_same_view(seen, touched)
