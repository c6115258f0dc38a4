"""FileStorage2: the storage contract on a DFS20 file."""

from __future__ import annotations

from durus.file_storage._storage import JournalStorage
from durus.file_storage2._format import DFS20

__all__ = ["FileStorage2"]


class FileStorage2(JournalStorage):
    """A database in one file of an older format, which Durus 4.3 can read and write as well.

    It keeps the promises of `durus.file_storage.FileStorage`, which is the better choice for a new
    database: a packed file of that format can be opened without an index file in no time.

    Args:
        filename: the file, made if it is not there; without one, a temporary file that is gone when
            the storage is closed.
        readonly: take no lock and change nothing; `sync()` then follows what a writer commits.
        repair: if the file is damaged, keep what still proves itself; see the package's guide.
        durable: sync each commit to the disk. Without, a loss of power may cost the last commits,
            never the consistency of those before.
        at: open it read-only, as it was right after a past commit: the one with this serial, or the
            last one at this time or before, see `durus.moment.serial_at`. `gen_commits` tells which
            there are. `sync()` stays there; what others commit or pack meanwhile changes nothing.

    To open a past state takes a walk over the commits, and a reading of the journal from the last
    pack to then; not that if the index file is no later. Memory: 16 bytes a commit, and some 100
    bytes for each object that was stored in between.

    Raises:
        StorageMissingError: there is no such file, and it was to be opened read-only.
        StoragePermissionError: the system does not let this process open it.
        StorageLockedError: another writer has it open.
        StorageOpenError: it cannot be opened for another reason, or has no such past commit.
        BackendError: `at` is text, and neither a serial nor a time.
        StorageFormatError: it is not a FileStorage2 database.
        CorruptionError: it is damaged. Nothing was changed.
    """

    _format = DFS20
