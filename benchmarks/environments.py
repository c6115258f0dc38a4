"""The Python of each peer: ours is the one that runs this, the others get virtual environments.

Every peer needs its own: both versions of Durus own one import name, and what one of them pins is
not for the others.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

__all__ = ["PEERS", "PeerInfo", "cache_folder", "peer_info", "provide", "recipe_of"]

ROOT = Path(__file__).parents[1]
PACKAGES = ("durus-core", "durus-filestorage", "durus-sqlite", "durus-server")
OURS = "ours"  # the environment that runs this

# What to install in each environment.
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    OURS: (),
    "uvloop": ("uvloop",),
    "durus43": ("Durus==4.3",),
    "zodb": ("ZODB", "ZEO"),
    "relstorage": ("RelStorage[sqlite3]", "ZODB"),
    "yardsticks": ("lmdb", "sortedcontainers"),
}
FROM_CHECKOUT = ("uvloop",)  # those that get our packages beside it


@dataclass(frozen=True)
class PeerInfo:
    """A peer as the driver knows it.

    Attributes:
        title: for people.
        environment: which of the environments it runs in.
        adapter: its module in `benchmarks.peers`.
        kind: "ours"; "peer", which the targets compare with; "yardstick", a limit that is
            measured beside them and never the best peer; "revision", another revision of ours.
        alone: the title where there is no server, if it differs.
        revision: which one, as git names it.
    """

    title: str
    environment: str
    adapter: str
    kind: Literal["ours", "peer", "yardstick", "revision"] = "peer"
    alone: str = ""
    revision: str = ""

    def title_in(self, *, serves: bool) -> str:
        """Give the title for a workload with or without a server."""
        return self.title if serves or not self.alone else self.alone


PEERS = {
    "durus5": PeerInfo("Durus 5", OURS, "durus5", "ours"),
    "durus5-uvloop": PeerInfo("Durus 5, uvloop", "uvloop", "durus5", "ours"),
    "durus5-sqlite": PeerInfo("Durus 5 (SQLite)", OURS, "durus5_sqlite", "ours"),
    "durus43": PeerInfo("Durus 4.3", "durus43", "durus43"),
    "durus43-sqlite": PeerInfo("Durus 4.3 (SQLite)", "durus43", "durus43_sqlite"),
    "zodb": PeerInfo("ZODB (ZEO)", "zodb", "zodb", alone="ZODB (FileStorage)"),
    "relstorage": PeerInfo("RelStorage (SQLite)", "relstorage", "relstorage"),
    "plain": PeerInfo("plain Python", "yardsticks", "yardsticks.plain", "yardstick"),
    "file": PeerInfo("bare file", "yardsticks", "yardsticks.bare_file", "yardstick"),
    "sqlite3": PeerInfo("module sqlite3", "yardsticks", "yardsticks.sqlite3_rows", "yardstick"),
    "lmdb": PeerInfo("lmdb", "yardsticks", "yardsticks.lmdb_rows", "yardstick"),
    "sorteddict": PeerInfo("SortedDict", "yardsticks", "yardsticks.sorted_dict", "yardstick"),
}


def peer_info(name: str) -> PeerInfo:
    """Give what is known of a peer; NAME@REVISION is ours as it was at that revision."""
    base, _, revision = name.partition("@")
    info = PEERS[base]
    if not revision:
        return info
    return replace(
        info,
        title=f"{info.title} at {revision}",
        environment=f"revision-{revision}",
        kind="revision",
        alone="",
        revision=revision,
    )


def cache_folder() -> Path:
    """Give the folder for what outlives a run: environments and large data."""
    return Path(os.environ.get("TOX_WORK_DIR", ROOT / ".tox"))


def recipe_of(name: str) -> str:
    """Say what a peer is made of: two that are made of the same do the same."""
    info = peer_info(name)
    if info.revision:
        return f"{sys.version}\nrevision {info.revision}"
    lines = [sys.version, *ENVIRONMENTS[info.environment]]
    if info.kind == "ours":
        lines.append(f"sources {_digest_of_sources()}")
    return "\n".join(lines)


@cache
def provide(name: str) -> str:
    """Give the path of the Python that has this peer, and make its environment if there is none."""
    info = peer_info(name)
    if info.environment == OURS:
        return sys.executable
    folder = cache_folder() / "bench-peers" / info.environment
    python = folder / "bin" / "python"
    made = folder / "made-of.txt"
    recipe = recipe_of(name)
    if made.exists() and made.read_text(encoding="utf-8") == recipe:
        return str(python)
    print(f"making the environment of {info.title} in {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    sources, requirements = ROOT, [*ENVIRONMENTS.get(info.environment, ())]
    if info.revision:
        sources = folder / "sources"
        _extract(info.revision, sources)
    if info.revision or info.environment in FROM_CHECKOUT:
        requirements += [f"./packages/{package}" for package in PACKAGES]
    subprocess.run([*pip, *requirements], check=True, cwd=sources)
    made.write_text(recipe, encoding="utf-8")  # last: what was broken off is made again
    return str(python)


def _extract(revision: str, target: Path) -> None:
    archive = ["git", "archive", revision, "--", "packages"]
    packed = subprocess.run(archive, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as file:
        file.extractall(target, filter="data")


@cache
def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / "packages" / package / "src").rglob("*")):
            if path.suffix in {".py", ".c"}:
                digest.update(path.read_bytes())
    return digest.hexdigest()
