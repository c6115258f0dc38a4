"""Waiting for the disk beside the work: a sync in a thread of its own."""

from __future__ import annotations

from threading import Thread

from durus.file_storage._file import File

__all__ = ["BackgroundSync"]


class BackgroundSync:
    """Syncs a file that one thread goes on writing.

    A sync covers what was written before it began. Once one has failed, no later one proves
    anything of what was written before it, so that every `wait` raises what it raised.
    """

    def __init__(self) -> None:
        self._thread: Thread | None = None
        self._error: Exception | None = None

    def begin(self, file: File) -> bool:
        """Begin a sync of what was written, and tell so.

        Not if there is one under way, nor if one has failed.
        """
        if self._error is not None or (self._thread is not None and self._thread.is_alive()):
            return False
        self._thread = Thread(target=self._sync, args=(file,), name="durus-sync", daemon=True)
        self._thread.start()
        return True

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until none is under way; tell whether that came in time.

        Raises:
            OSError: a sync has failed.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
            self._thread = None
        if self._error is not None:
            raise self._error
        return True

    def _sync(self, file: File) -> None:
        try:
            file.sync_all()
        except Exception as error:  # noqa: BLE001 - for the thread that waits
            self._error = error
