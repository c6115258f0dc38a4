"""A database of Durus 4.3 with new oids: the same to both versions, in either format."""

from __future__ import annotations

from pathlib import Path

import pytest
from compat_sides import Side

from durus.backends import open_storage

pytest.importorskip("durus.tools.copy", reason="durus-cli is not installed here")

from durus.tools.copy import copy_to_file

SCHEMES = {"SHELF-1": "file", "DFS20": "file2"}


# The first holds all smaller cases; the second is what the golden files hold.
@pytest.mark.parametrize("case", ["everything", "golden"])
def test_a_renumbered_copy_reads_as_what_was_copied(
    upstream: Side, ours: Side, format: str, case: str, tmp_path: Path
) -> None:
    """Every object, its sharing and its references are those that 4.3 saw; oids have no gap."""
    made = upstream.call(
        "compat_files:make_stages", format=format, directory=str(tmp_path), case=case
    )
    source, target = tmp_path / "committed-after-pack.durus", tmp_path / "new.durus"
    with open_storage(source, readonly=True) as storage:
        done = copy_to_file(
            storage, str(source), f"{SCHEMES[format]}:{target}", renumber=True, verify=True
        )
    for reader in (ours, upstream):
        seen = reader.call("compat_files:read", format=format, path=str(target))
        assert seen["canonical"] == made["committed-after-pack"]["canonical"]
        assert seen["crawled"] == list(range(done.objects))
