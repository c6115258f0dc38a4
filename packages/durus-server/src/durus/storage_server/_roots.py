"""Clients that meet at an empty storage.

Each would make a root of its own, and all but the first would fail. So the first that asks for the
root and finds none is taken for its maker; for the others, the answer waits until the root is
there, or its maker has left or has taken too long and the next one is taken for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container

from durus.serialize import ROOT_OID

__all__ = ["RootMaking"]


class RootMaking:
    """Who makes the root, and who waits for it.

    Args:
        loop: the server's event loop.
        patience_s: how long the others wait for one maker.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, patience_s: float) -> None:
        self._loop = loop
        self._patience_s = patience_s
        self._maker: object = None
        self._waiting: dict[object, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def is_maker(self, client: object) -> bool:
        """Tell whether `client` was told that there is no root, and is to make it."""
        return self._maker is client

    def must_wait(self, client: object, ask_again: Callable[[], None]) -> bool:
        """Decide on a client that asked for the root when there was none.

        Returns:
            True if `ask_again` will be called once; False if the client is to make the root.
        """
        if self._maker is None or self._maker is client:
            self._maker = client
            return False
        self._waiting[client] = ask_again
        if self._timer is None:
            self._timer = self._loop.call_later(self._patience_s, self._settle)
        return True

    def note_commit(self, oids: Container[bytes]) -> None:
        """Take note that these objects were stored; the root may be one of them."""
        if self._maker is not None and ROOT_OID in oids:
            self._settle()

    def note_left(self, client: object) -> None:
        """Take note that a client has left."""
        self._waiting.pop(client, None)
        if self._maker is client:
            self._settle()

    def _settle(self) -> None:
        self._maker = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiting, self._waiting = self._waiting, {}
        for ask_again in waiting.values():
            ask_again()
