"""Opening a journal as it was right after one of its commits.

A file grows only at its end, and a pack makes another file. So what is opened here stays as it is,
whatever a writer does meanwhile.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from durus.error import DurusError, StorageOpenError
from durus.file_storage._format import Format
from durus.file_storage._history import History
from durus.file_storage._journal import Journal
from durus.file_storage._opening import open_journal
from durus.moment import serial_at

__all__ = ["open_as_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def open_as_of(path: str, format: Format, at: datetime | int | str) -> Journal:
    """Open a file for reading, and take the state of then for the committed one.

    Raises:
        BackendError: `at` is text, and neither a serial nor a time.
        StorageOpenError: or one of its kinds: the file cannot be opened, or has no such commit.
        StorageFormatError: it is not of this format.
        CorruptionError: it is damaged.
    """
    journal = open_journal(path, format, readonly=True)
    try:
        history = History(journal)
        commits = (
            (serial, _EPOCH + timedelta(microseconds=time_us))
            for serial, time_us in history.commits()
        )
        journal.go_back(history.end_of(serial_at(commits, at, path)))
    except OSError as error:
        journal.close()
        if isinstance(error, DurusError):
            raise
        raise StorageOpenError(
            f"tried to open {path!r} as of {at}, the system says: {error.strerror or error}", path
        ) from error
    except BaseException:
        journal.close()
        raise
    return journal
