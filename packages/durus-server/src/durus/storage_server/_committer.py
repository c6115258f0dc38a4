"""The thread that waits for the disk, so that the event loop never does.

Commits that arrive while it syncs are written together the next time, with one sync for all of
them. Between commits it packs, step by step.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Protocol

from durus.error import DurusError, StorageClosedError
from durus.logger import logger
from durus.storage_server._metrics import Metrics

__all__ = ["Committer", "PackListener"]

Reply = Callable[[BaseException | None], None]

_FLUSH, _PACK, _STOP = range(3)

_STOPS = "the server stops; the pack was given up"

# Others may load while a step of a pack computes, but not while it holds the storage. After a step
# they get as long for themselves as it took, at most this, if they asked for anything meanwhile.
_LONGEST_PAUSE_S = 0.01


class Shared(Protocol):
    """What the committer needs of a SharedStorage."""

    def flush(self) -> None:
        """Commit what is queued."""

    def get_packer(self) -> Iterator[object]:
        """Pack in steps."""


class PackListener(Protocol):
    """Who waits for the end of a pack. Called in the event loop."""

    def note_pack_progress(self, kept: int) -> None:
        """Take note of how many objects were kept so far."""

    def note_pack_end(self, error: BaseException | None) -> None:
        """Take note that the pack has ended, or why it could not."""


class Committer:
    """Runs `flush()` and packs in a thread of its own, and tells the event loop of the outcome.

    Every method but `done` is for the event loop's thread.

    Args:
        shared: the storage that the sessions share.
        loop: the event loop.
        metrics: where to count.
        gcbytes: pack when that many bytes were committed since the last pack; 0 for never.
        pack_pause_s: how long after a pack the next one begins at the earliest.
    """

    def __init__(
        self,
        shared: Shared,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        gcbytes: int,
        pack_pause_s: float,
    ) -> None:
        self._shared = shared
        self._loop = loop
        self._metrics = metrics
        self._gcbytes = gcbytes
        self._bytes_since_pack = 0
        self._orders: SimpleQueue[int] = SimpleQueue()
        self._is_flush_ordered = False
        self._under_way = 0
        self._done: deque[tuple[float, int, Reply, BaseException | None]] = deque()
        self._packer: Iterator[object] | None = None
        self._listeners: list[PackListener] = []
        self._is_packing = False
        self._pack_pause_s = pack_pause_s
        self._next_pack_s = loop.time()
        self._is_stopping = False
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._run, name="durus-committer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def ticket(self, record_bytes: int, reply: Reply) -> Callable[[BaseException | None], None]:
        """Give the `done` of one commit. It may be called from any thread.

        Args:
            record_bytes: how large the transaction is.
            reply: called in the event loop with the error, or None.
        """
        started_s = time.perf_counter()
        done = self._done

        def note_done(error: BaseException | None) -> None:
            done.append((started_s, record_bytes, reply, error))

        return note_done

    def is_busy(self) -> bool:
        """Tell whether commits are under way."""
        return self._under_way > 0

    def order_flush(self) -> None:
        """Have one more commit that is queued done; after that its reply is called."""
        self._under_way += 1
        if self._done:
            # There was nothing to store: it was done at once, by this thread.
            self._loop.call_soon(self._deliver)
        if not self._is_flush_ordered:
            self._is_flush_ordered = True
            self._orders.put(_FLUSH)

    def order_pack(self, listener: PackListener | None) -> None:
        """Begin a pack, or join the one that runs; its end is told to `listener`.

        Not at once after the last one: each takes files and syncs, however little it removes.
        """
        if listener is not None:
            self._listeners.append(listener)
        if not self._is_packing:
            self._is_packing = self._metrics.is_packing = True
            self._metrics.pack_kept = 0
            self._bytes_since_pack = 0
            self._loop.call_at(self._next_pack_s, self._start_pack)

    def forget(self, listener: PackListener) -> None:
        """Tell a listener nothing more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    async def stop(self) -> None:
        """Commit what is queued, give up a pack, and end the thread."""
        self._is_stopping = True
        self._orders.put(_STOP)
        await self._stopped
        self._thread.join()
        self._deliver()
        if self._is_packing:
            # It has not begun.
            self._note_pack_end(StorageClosedError(_STOPS))

    # In the event loop, on behalf of the thread.

    def _deliver(self) -> None:
        done = self._done
        while done:
            started_s, record_bytes, reply, error = done.popleft()
            self._under_way -= 1
            if error is None:
                self._metrics.commits += 1
                self._metrics.committed_bytes += record_bytes
                self._metrics.commit_latency.add(time.perf_counter() - started_s)
                self._bytes_since_pack += record_bytes
            reply(error)
        if 0 < self._gcbytes < self._bytes_since_pack and not self._is_stopping:
            self.order_pack(None)

    def _start_pack(self) -> None:
        logger.info("pack began")
        self._orders.put(_PACK)

    def _note_progress(self, kept: int) -> None:
        self._metrics.pack_kept = kept
        for listener in self._listeners:
            listener.note_pack_progress(kept)

    def _note_pack_end(self, error: BaseException | None) -> None:
        self._is_packing = self._metrics.is_packing = False
        self._next_pack_s = self._loop.time() + self._pack_pause_s
        if error is None:
            self._metrics.packs += 1
            logger.info("pack ended: kept %d objects", self._metrics.pack_kept)
        else:
            logger.error("did not pack: %s", error)
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.note_pack_end(error)

    def _note_stopped(self) -> None:
        if not self._stopped.done():
            self._stopped.set_result(None)

    # In the thread.

    def _run(self) -> None:
        try:
            while self._next_order() != _STOP:
                pass
            self._flush()
            self._end_pack(StorageClosedError(_STOPS))
        finally:
            self._tell(self._note_stopped)

    def _next_order(self) -> int:
        if self._packer is None:
            order = self._orders.get()
        else:
            try:
                order = self._orders.get_nowait()
            except Empty:
                self._step()
                return _PACK
        if order == _FLUSH:
            self._flush()
            if self._packer is not None:
                # However many commits come, the pack gets ahead.
                self._step()
        elif order == _PACK:
            self._begin_pack()
        return order

    def _flush(self) -> None:
        # Before the flush: what is queued from now on orders another one.
        self._is_flush_ordered = False
        try:
            self._shared.flush()
        except BaseException:  # noqa: BLE001 - the next commits need this thread
            # Each commit was told what became of it; this is about the server itself.
            logger.exception("a commit failed in an unexpected way")
        if self._done:
            self._metrics.flushes += 1
            self._tell(self._deliver)

    def _begin_pack(self) -> None:
        try:
            self._packer = iter(self._shared.get_packer())
        except DurusError as error:
            self._tell(self._note_pack_end, error)

    def _step(self) -> None:
        packer, metrics = self._packer, self._metrics
        if packer is None:
            return
        seen_work = metrics.bytes_in
        started_s = time.perf_counter()
        try:
            kept = next(packer)
        except StopIteration:
            self._end_pack(None)
            return
        except Exception as error:  # noqa: BLE001 - it is for who asked for the pack
            logger.debug("a step of a pack failed", exc_info=True)
            self._end_pack(error)
            return
        finally:
            # A step commits what was queued before it.
            if self._done:
                self._tell(self._deliver)
        if isinstance(kept, int):
            self._tell(self._note_progress, kept)
        pause_s = 0.0
        if metrics.bytes_in != seen_work:
            pause_s = min(time.perf_counter() - started_s, _LONGEST_PAUSE_S)
        time.sleep(pause_s)

    def _end_pack(self, error: BaseException | None) -> None:
        packer, self._packer = self._packer, None
        if packer is None:
            return
        close = getattr(packer, "close", None)
        if close is not None:
            close()
        self._tell(self._note_pack_end, error)

    def _tell(self, callback: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            logger.debug("the event loop was closed before the committer ended")
