"""A database of Durus 4.3 as lines of JSON, and back: the same to both versions."""

from __future__ import annotations

from pathlib import Path

import compat_corpus
import pytest
from compat_compare import assert_same_view
from compat_sides import Side

from durus.backends import open_storage

pytest.importorskip("durus.tools.export", reason="durus-cli is not installed here")

from durus.tools.export import export_lines, import_into_new_file


@pytest.mark.parametrize("case", list(compat_corpus.CASES))
def test_an_import_reads_as_what_was_exported(
    upstream: Side, ours: Side, case: str, tmp_path: Path
) -> None:
    """Every object, its sharing and its references are those that 4.3 saw in what it wrote."""
    made = upstream.call(
        "compat_files:make_stages", format="SHELF-1", directory=str(tmp_path), case=case
    )
    new = str(tmp_path / "new.durus")
    with open_storage(tmp_path / "packed.durus", readonly=True) as storage:
        import_into_new_file(export_lines(storage, "old"), new, open_storage, "lines")
    for reader in (ours, upstream):
        seen = reader.call("compat_files:read", format="SHELF-1", path=new)
        assert_same_view(seen, made["packed"])
