"""The data that the loops begin with, made by each peer for itself."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.peers.adapter import Peer
from benchmarks.peers.settings import Settings

__all__ = ["BUILDERS", "BUILT_ON", "keys_of", "make_directory", "read_oids"]

Builder = Callable[[Peer, Settings], None]

WORDS = [
    "the",
    "object",
    "was",
    "changed",
    "by",
    "one",
    "program",
    "while",
    "another",
    "read",
    "it",
    "and",
    "neither",
    "knew",
]


def make_directory(peer: Peer, settings: Settings) -> list[Any]:
    """Make Groups of Items that no database knows yet."""
    return [_make_group(peer, settings, number) for number in range(settings.groups)]


def _make_group(peer: Peer, settings: Settings, number: int) -> Any:
    start = number * settings.members
    items = [peer.item(n) for n in range(start, start + settings.members)]
    if settings.text_bytes:
        for item in items:
            item.text = _text(item.n, settings.text_bytes)
    return peer.group(items)


def _text(number: int, length_bytes: int) -> str:
    # Words, so that it compresses as texts do, and no two alike.
    words = random.Random(number).choices(WORDS, k=length_bytes // 2)
    return " ".join(words)[:length_bytes]


def keys_of(settings: Settings) -> list[int]:
    """Give the keys of a tree, in the random order in which they are inserted."""
    return random.Random(7).sample(range(10**9), settings.keys)


def read_oids(folder: str) -> list[bytes]:
    """Give the oids of all Items, in the order of their numbers."""
    with open(f"{folder}/oids", "rb") as file:
        content = file.read()
    return [content[start : start + 8] for start in range(0, len(content), 8)]


def directory(peer: Peer, settings: Settings) -> None:
    """A directory of Groups of Items in one commit, and the Items' oids in a file beside it."""
    groups = make_directory(peer, settings)
    client = peer.open(settings.folder, synced=False)
    client.root()["directory"] = peer.group(groups)
    client.commit()
    with open(f"{settings.folder}/oids", "wb") as file:
        file.writelines(item._p_oid for group in groups for item in group.members)
    client.close()


def history(peer: Peer, settings: Settings) -> None:
    """A directory as above, each Group in a commit of its own, never packed."""
    # A small cache: some go through all of it at each commit, and there are many objects.
    client = peer.open(settings.folder, synced=False, cache_size=10 * settings.members)
    client.root()["directory"] = top = peer.group([])
    for number in range(settings.groups):
        top.members = [*top.members, _make_group(peer, settings, number)]
        client.commit()
    client.close()


def packed(peer: Peer, settings: Settings) -> None:
    """What is there already, packed."""
    client = peer.open(settings.folder, synced=False)
    for _ in client.pack_steps():
        pass
    client.close()
    for name in os.listdir(settings.folder):
        if name.endswith((".old", ".prepack")):
            os.remove(f"{settings.folder}/{name}")


def garbage(peer: Peer, settings: Settings) -> None:
    """A directory that has let go of every second Group."""
    directory(peer, settings)
    client = peer.open(settings.folder, synced=False)
    top = client.directory()
    top.members = top.members[::2]
    client.commit()
    client.close()


def tree(peer: Peer, settings: Settings) -> None:
    """A BTree of the keys, each its own value."""
    client = peer.open(settings.folder, synced=False)
    client.root()["tree"] = made = peer.tree()
    for key in keys_of(settings):
        made[key] = key
    client.commit()
    client.close()


def empty(peer: Peer, settings: Settings) -> None:
    """Nothing."""


BUILDERS: Mapping[str, Builder] = {
    function.__name__: function for function in (directory, history, packed, garbage, tree, empty)
}

# Which data another builder starts from.
BUILT_ON = {"packed": "history"}
