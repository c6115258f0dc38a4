"""The thread that reads the past of what is served, so that neither loop nor commits wait for it.

It has an opening of its own of the same file, read-only, from the first question until nobody has
asked for a minute. Each question is answered by one bounded part, and each client has one question
at most. While others ask for anything, it rests for longer than it reads.
"""

from __future__ import annotations

import os
import threading
import time
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from struct import Struct
from typing import TYPE_CHECKING

from durus._wire import NEWEST
from durus.backends import open_storage
from durus.error import DurusError, NotSupportedError, StorageClosedError, StorageError
from durus.logger import logger

if TYPE_CHECKING:
    import asyncio

    from durus.storage import Storage
    from durus.storage_server._metrics import Metrics

__all__ = ["HistoryReader", "Past", "Question"]

_INT4 = Struct(">L")
_COMMIT = Struct(">Qq")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# An answer with what a commit stored ends after the record that makes it longer than that.
_PART_BYTES = 128 << 10

# How many such answers can be gone on with at once. Others are begun anew, and read as far.
_MOST_OPEN = 4

_IDLE_S = 60.0

# How long others may wait at once, about; and how much longer it rests than it reads. With three
# times, as after a long turn in the event loop, commits beside it were a quarter fewer.
_STEP_S = 0.001
_COMMITS_BATCH = 200
_PAUSE_SHARE = 9
_LONGEST_PAUSE_S = 0.1


class Question:
    """What a client asks of the past, and the answer.

    Attributes:
        is_wanted: the client is still there.
        is_done: there is an answer, or an error.
        answer: the payload of the reply.
        error: why there is none.
    """

    def __init__(self, ask: Callable[[Past], bytes], done: Callable[[], None]) -> None:
        self.is_wanted = True
        self.is_done = False
        self.answer = b""
        self.error: BaseException | None = None
        self._ask = ask
        self._done = done

    def run(self, past: Past) -> None:
        try:
            self.answer = self._ask(past)
        except DurusError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - it is for who asked
            logger.exception("a question about the past failed")
            self.error = error

    def finish(self) -> None:
        """Tell the client's connection, in the event loop."""
        self.is_done = True
        if self.is_wanted:
            self._done()


class Past:
    """The past of a storage, in parts.

    Args:
        open_it: opens the storage once more, read-only.
        path: its file.
        rest: called between two steps; what it raises ends the question.
    """

    def __init__(self, open_it: Callable[[], Storage], path: str, rest: Callable[[], None]) -> None:
        self._open_it = open_it
        self._path = path
        self._rest = rest
        self._storage: Storage | None = None
        self._identity: tuple[int, int] | None = None
        self._serials = array("Q")
        self._times_us = array("q")
        # What commits stored, by serial and how many records were given.
        self._changes: OrderedDict[tuple[int, int], Iterator[tuple[bytes, bytes]]] = OrderedDict()

    def commits(self, before: int, count: int) -> bytes:
        """Give serials and times of the commits before a serial, the newest first.

        Whoever asks for the newest gets those of now; the others what was found then.
        """
        if before == NEWEST or not self._serials:
            self._find_commits()
        end = bisect_left(self._serials, before)
        places = range(end - 1, max(-1, end - 1 - count), -1)
        return b"".join(_COMMIT.pack(self._serials[at], self._times_us[at]) for at in places)

    def changes(self, serial: int, start: int) -> bytes:
        """Give records that a commit stored, without the first ones."""
        found = self._changes.pop((serial, start), None)
        if found is None:
            found = self._moved().gen_changes(serial)
            for _ in range(start):
                if next(found, None) is None:
                    break
                self._rest()
        parts = [b"\1"]
        size = 0
        for _, record in found:
            parts += (_INT4.pack(len(record)), record)
            size += len(record)
            start += 1
            if size > _PART_BYTES:
                parts[0] = b"\0"
                self._changes[serial, start] = found
                if len(self._changes) > _MOST_OPEN:
                    self._changes.popitem(last=False)
                break
            self._rest()
        return b"".join(parts)

    def load_as_of(self, oid: bytes, serial: int) -> bytes:
        """Give the record that an object had as of a commit."""
        return self._moved().load_as_of(oid, serial)

    def give_back(self) -> None:
        """Let others of a database do what a state that is read would hinder."""
        if self._storage is not None:
            self._storage.rest()

    def close(self) -> None:
        """Give back all; the next question opens it again."""
        self._changes.clear()
        self._serials, self._times_us = array("Q"), array("q")
        storage, self._storage = self._storage, None
        if storage is not None:
            storage.close()

    def _find_commits(self) -> None:
        serials, times_us = array("Q"), array("q")
        found = self._moved().gen_commits()
        while batch := list(islice(found, _COMMITS_BATCH)):
            serials.extend(serial for serial, _ in batch)
            times_us.extend((when - _EPOCH) // _MICROSECOND for _, when in batch)
            self._rest()
        self._serials, self._times_us = serials, times_us

    def _moved(self) -> Storage:
        """Give the storage, which knows of all commits that are acknowledged."""
        identity = _identity(self._path)
        if self._storage is not None and identity != self._identity:
            # To have it tell what a pack removed would be a walk over all objects.
            self.close()
        if self._storage is None:
            self._storage = self._open_it()
            self._identity = identity
        else:
            self._storage.sync()
        return self._storage


class HistoryReader:
    """Answers questions about the past, one after the other.

    Every method is for the event loop's thread.

    Args:
        loop: the event loop.
        storage: what is served.
        metrics: tells whether others ask for anything.

    Attributes:
        can_read: what is served is a file of a storage that keeps its history.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, storage: Storage, metrics: Metrics) -> None:
        description = storage.describe()
        self.can_read = (
            storage.keeps_history
            and storage.is_persistent
            and storage.can_open_readonly
            and description.path is not None
            and description.as_of is None
        )
        self._loop = loop
        self._name = str(storage)
        self._class = type(storage)
        self._path = os.path.realpath(description.path or "")
        self._metrics = metrics
        self._past = Past(self._open, self._path, self._rest)
        self._questions: SimpleQueue[Question | None] = SimpleQueue()
        self._question: Question | None = None
        self._is_stopping = False
        self._step_start_s = 0.0
        self._bytes_in = 0
        self._thread: threading.Thread | None = None

    def order(self, question: Question) -> None:
        """Have a question answered; then its connection is told.

        Raises:
            NotSupportedError: no history is kept, or only the storage itself can tell it.
        """
        if not self.can_read:
            raise NotSupportedError(
                f"tried to read a past state of {self._name}, whose server cannot tell any: it"
                " keeps no history, or is no file"
            )
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="durus-history", daemon=True)
            self._thread.start()
        self._questions.put(question)

    async def stop(self, timeout_s: float) -> None:
        """Give up what is asked, and wait so long for the end of the thread."""
        self._is_stopping = True
        self._questions.put(None)
        if self._thread is not None:
            # What opens a large file cannot be given up in the midst.
            await self._loop.run_in_executor(None, self._thread.join, timeout_s)

    # In the thread.

    def _run(self) -> None:
        while True:
            try:
                question = self._questions.get(timeout=_IDLE_S)
            except Empty:
                self._past.close()
                continue
            if question is None:
                self._past.close()
                return
            self._answer(question)

    def _answer(self, question: Question) -> None:
        self._question = question
        self._step_start_s = time.perf_counter()
        self._bytes_in = self._metrics.bytes_in
        if question.is_wanted:
            question.run(self._past)
        try:
            self._loop.call_soon_threadsafe(question.finish)
        except RuntimeError:
            logger.debug("the event loop was closed before the past was told")
        with suppress(DurusError):
            self._past.give_back()
            # However often it is asked, it takes a part of the time.
            self._rest(least_s=0.0)

    def _rest(self, least_s: float = _STEP_S) -> None:
        """Leave the interpreter to the others, if they ask for anything.

        Raises:
            StorageError: nobody waits for the answer any more.
        """
        took_s = time.perf_counter() - self._step_start_s
        if took_s < least_s:
            return
        if self._is_stopping:
            raise StorageClosedError("the server stops; what was asked of the past was given up")
        if self._question is not None and not self._question.is_wanted:
            raise StorageError("the client has left")
        if self._metrics.bytes_in != self._bytes_in:
            self._bytes_in = self._metrics.bytes_in
            time.sleep(min(_PAUSE_SHARE * took_s, _LONGEST_PAUSE_S))
        self._step_start_s = time.perf_counter()

    def _open(self) -> Storage:
        storage = open_storage(Path(self._path), readonly=True)
        if type(storage) is not self._class:
            storage.close()
            raise NotSupportedError(f"what is at {self._path!r} is not {self._name} any more")
        return storage


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
