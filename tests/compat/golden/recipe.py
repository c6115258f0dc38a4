"""How the golden files were made: `python tests/compat/golden/recipe.py`.

Durus 4.3 makes every one, in an environment of its own (see `compat_environment`), in a process
with a fixed hash seed; the objects are the case "golden" of `compat_corpus`, whose classes are in
`compat_model`. Run again, it makes the same objects under the same oids; the bytes depend also on
the versions of Python and zlib. STAGE.json says what 4.3 itself reads in FORMAT-STAGE.durus, so
that it can be checked without 4.3; it is the same for both formats, and for plain and compressed
states.
`names.json` lists the public names of 4.3.

`dfs20-python2.durus` is not among them, for Durus 4.3 does not run on Python 2: `recipe_python2.py`
says how it was made.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "sides"))

import compat_environment  # noqa: E402 - found by the line above
import compat_sides  # noqa: E402

FORMATS = {"shelf": "SHELF-1", "dfs20": "DFS20"}
STAGES = ["never-packed", "packed", "committed-after-pack", "packed-twice"]


def make(upstream: compat_sides.Side, directory: Path) -> None:
    """Make all golden files in a directory."""
    for prefix, format in FORMATS.items():
        _make_stages(upstream, directory, prefix, format)
        _make_plain(upstream, directory, prefix, format)
        path = directory / f"{prefix}-empty.durus"
        upstream.call("compat_files:run", format=format, path=str(path), case="empty", actions=[])
        _write_expected(upstream, path, format, "empty")
        _make_torn(upstream, directory, prefix, format)
    _write_names(upstream, directory)


def _write_names(upstream: compat_sides.Side, directory: Path) -> None:
    """Write the public names of 4.3 and the parameters that its functions take, a name a line."""
    described = upstream.call("compat_names:own_names_here")
    modules = ",\n ".join(
        f"{json.dumps(module)}: {{\n  "
        + ",\n  ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in names.items())
        + "\n }"
        for module, names in described.items()
    )
    (directory / "names.json").write_text(f"{{{modules}}}\n", encoding="utf-8")


def _make_stages(upstream: compat_sides.Side, directory: Path, prefix: str, format: str) -> None:
    with tempfile.TemporaryDirectory() as working:
        upstream.call("compat_files:make_stages", format=format, directory=working, case="golden")
        for stage in STAGES:
            path = directory / f"{prefix}-{stage}.durus"
            shutil.copyfile(Path(working, f"{stage}.durus"), path)
            _write_expected(upstream, path, format, stage)


def _make_plain(upstream: compat_sides.Side, directory: Path, prefix: str, format: str) -> None:
    """Make a file whose states are not compressed."""
    stage = "committed-after-pack"
    with tempfile.TemporaryDirectory() as working:
        upstream.call(
            "compat_files:make_stages",
            format=format,
            directory=working,
            case="golden",
            compressed=False,
        )
        path = directory / f"{prefix}-plain.durus"
        shutil.copyfile(Path(working, f"{stage}.durus"), path)
        _write_expected(upstream, path, format, stage)


def _make_torn(upstream: compat_sides.Side, directory: Path, prefix: str, format: str) -> None:
    """Cut a file in the middle of its last commit, as a crash of 4.3 leaves it."""
    stage = "packed-twice"
    with tempfile.TemporaryDirectory() as working:
        path = Path(shutil.copyfile(directory / f"{prefix}-{stage}.durus", f"{working}/torn.durus"))
        before = path.stat().st_size
        upstream.call(
            "compat_files:run",
            format=format,
            path=str(path),
            case="golden",
            actions=[["change", 9]],
        )
        added = path.stat().st_size - before
        torn = directory / f"{prefix}-torn.durus"
        torn.write_bytes(path.read_bytes()[: before + added // 2])


def _write_expected(upstream: compat_sides.Side, path: Path, format: str, stage: str) -> None:
    """Write what 4.3 reads in a file: a line for each object, and one for each walk."""
    seen = upstream.call("compat_files:read", format=format, path=str(path), readonly=True)
    objects = ",\n  ".join(json.dumps(entry) for entry in seen["objects"])
    walks = ",\n  ".join(
        f"{json.dumps(name)}: {json.dumps(found)}" for name, found in seen["walks"].items()
    )
    text = (
        f'{{"objects": [\n  {objects}\n ],\n "crawled": {seen["crawled"]},\n'
        f' "walks": {{\n  {walks}\n }}}}\n'
    )
    expected = path.parent / f"{stage}.json"
    if expected.exists() and json.loads(expected.read_text()) != json.loads(text):
        raise RuntimeError(f"{path.name} does not hold what {expected.name} says")
    expected.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    cache = Path(tempfile.gettempdir(), "durus43")
    upstream = compat_sides.upstream(compat_environment.provide(cache))
    make(upstream, HERE)
    upstream.close()
