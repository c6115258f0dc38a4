"""The Python of each peer: ours is the one that runs this, the others get virtual environments.

Every peer needs its own: both versions of Durus own one import name, and what one of them pins is
not for the others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PEERS", "PeerInfo", "provide"]

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class PeerInfo:
    """A peer as the driver knows it.

    Attributes:
        title: for people.
        requirements: what to install, or nothing for what runs in the driver's own environment.
        is_ours: whether it is what the others are compared with.
    """

    title: str
    requirements: tuple[str, ...] = ()
    is_ours: bool = False


PEERS = {
    "durus5": PeerInfo("Durus 5", is_ours=True),
    "durus43": PeerInfo("Durus 4.3", ("Durus==4.3",)),
    "zodb": PeerInfo("ZODB (ZEO)", ("ZODB", "ZEO")),
    "relstorage": PeerInfo("RelStorage (SQLite)", ("RelStorage[sqlite3]", "ZODB")),
}


def provide(name: str) -> str:
    """Give the path of the Python that has this peer, and make its environment if there is none."""
    requirements = PEERS[name].requirements
    if not requirements:
        return sys.executable
    folder = _folder() / name
    python = folder / "bin" / "python"
    made = folder / "made-of.txt"
    recipe = "\n".join([sys.version, *requirements])
    if made.exists() and made.read_text(encoding="utf-8") == recipe:
        return str(python)
    print(f"making the environment of {PEERS[name].title} in {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *requirements], check=True)
    made.write_text(recipe, encoding="utf-8")  # last: what was broken off is made again
    return str(python)


def _folder() -> Path:
    return Path(os.environ.get("TOX_WORK_DIR", ROOT / ".tox")) / "bench-peers"
