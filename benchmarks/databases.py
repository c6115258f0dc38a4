"""The databases that runs begin with: built once for each peer and size, and copied for a run."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.environments import cache_folder, peer_info, recipe_of
from benchmarks.peers.data import BUILT_ON
from benchmarks.processes import WorkerError, run_worker
from benchmarks.workloads import Workload

__all__ = ["Databases"]

SIZES = ("groups", "members", "keys")
LINKED_FROM_BYTES = 1_000_000
PEERS_FOLDER = Path(__file__).parent / "peers"


class Databases:
    """What is built stays in tox's work folder, as to make a million objects takes long."""

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self._folder = folder
        self._built_in = folder / "built" if quick else cache_folder() / "bench-data"
        self._quick = quick
        self._runs = 0

    @contextmanager
    def for_run(self, workload: Workload, peer: str) -> Iterator[Path]:
        """Give a folder for a run, with the data in its subfolder `data`."""
        settings = workload.settings(quick=self._quick)
        self._runs += 1
        target = self._folder / f"run-{self._runs}"
        target.mkdir()
        data = "empty" if peer_info(peer).kind == "yardstick" else workload.data
        try:
            if data == "empty":
                (target / "data").mkdir()
                yield target
            else:
                built = self._built(peer, data, settings) / "data"
                before = _lengths_of(built)
                _copy(built, target / "data", link=workload.keeps_data)
                yield target
                if _lengths_of(built) != before:
                    raise WorkerError(f"{workload.name} of {peer} changed files of other runs")
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def _built(self, peer: str, data: str, settings: dict[str, Any]) -> Path:
        sizes = {name: settings[name] for name in SIZES if name in settings}
        folder = self._built_in / "-".join([peer, data, *map(str, sizes.values())])
        made = folder / "made-of.txt"
        recipe = f"{recipe_of(peer)}\nbuilders {_digest_of_builders()}"
        if made.exists() and made.read_text(encoding="utf-8") == recipe:
            return folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if data in BUILT_ON:
            shutil.copytree(self._built(peer, BUILT_ON[data], settings) / "data", folder / "data")
        else:
            (folder / "data").mkdir()
        order = {"role": "build", "peer": peer, "data": data}
        run_worker({**order, "settings": {"folder": str(folder / "data"), **sizes}}, folder)
        made.write_text(recipe, encoding="utf-8")  # last: what was broken off is made again
        return folder


def _copy(source: Path, target: Path, *, link: bool) -> None:
    shutil.copytree(source, target, copy_function=_link if link else shutil.copy2)
    if not link:
        for path in target.rglob("*"):
            _sync(path)  # or the first commit would wait for all of it


def _link(source: str, target: str) -> None:
    # Small ones are copied: an opening may begin a file of its own anew.
    if os.path.getsize(source) >= LINKED_FROM_BYTES:
        try:
            os.link(source, target)
        except OSError:
            pass  # another disk
        else:
            return
    shutil.copy2(source, target)


def _sync(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _lengths_of(folder: Path) -> dict[str, int]:
    # Not the times: some cut a file on opening to the length that it has, which changes nothing.
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _digest_of_builders() -> str:
    digest = hashlib.sha256()
    for path in sorted(PEERS_FOLDER.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
