"""The Python of each peer: ours is the one that runs this, the others get virtual environments.

Every peer needs its own: both versions of Durus own one import name, and what one of them pins is
not for the others.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "PeerInfo", "provide"]

ROOT = Path(__file__).parents[1]
PACKAGES = ("durus-core", "durus-filestorage", "durus-server")


@dataclass(frozen=True)
class PeerInfo:
    """A peer as the driver knows it.

    Attributes:
        title: for people.
        alone: the title where there is no server, if it differs.
        requirements: what to install, or nothing for what runs in the driver's own environment.
        from_checkout: whether our packages are to be installed beside them.
        is_ours: whether it is what the others are compared with.
    """

    title: str
    requirements: tuple[str, ...] = ()
    from_checkout: bool = False
    is_ours: bool = False
    alone: str = ""

    def title_in(self, *, serves: bool) -> str:
        """Give the title for a workload with or without a server."""
        return self.title if serves or not self.alone else self.alone


# What follows a hyphen in a name is a variant: the adapter is that of the name before it.
PEERS = {
    "durus5": PeerInfo("Durus 5", is_ours=True),
    "durus5-uvloop": PeerInfo("Durus 5, uvloop", ("uvloop",), from_checkout=True, is_ours=True),
    "durus43": PeerInfo("Durus 4.3", ("Durus==4.3",)),
    "zodb": PeerInfo("ZODB (ZEO)", ("ZODB", "ZEO"), alone="ZODB (FileStorage)"),
    "relstorage": PeerInfo("RelStorage (SQLite)", ("RelStorage[sqlite3]", "ZODB")),
}


def provide(name: str) -> str:
    """Give the path of the Python that has this peer, and make its environment if there is none."""
    requirements = list(PEERS[name].requirements)
    if not requirements:
        return sys.executable
    folder = _folder() / name
    python = folder / "bin" / "python"
    made = folder / "made-of.txt"
    recipe = "\n".join([sys.version, *requirements])
    if PEERS[name].from_checkout:
        requirements += [f"./packages/{package}" for package in PACKAGES]
        recipe += f"\nsources {_digest_of_sources()}"
    if made.exists() and made.read_text(encoding="utf-8") == recipe:
        return str(python)
    print(f"making the environment of {PEERS[name].title} in {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements], check=True, cwd=ROOT)
    made.write_text(recipe, encoding="utf-8")  # last: what was broken off is made again
    return str(python)


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((ROOT / "packages" / package / "src").rglob("*")):
            if path.suffix in {".py", ".c"}:
                digest.update(path.read_bytes())
    return digest.hexdigest()


def _folder() -> Path:
    return Path(os.environ.get("TOX_WORK_DIR", ROOT / ".tox")) / "bench-peers"
