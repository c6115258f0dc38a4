"""One storage, many callers: snapshots, validation, shared syncs.

`SharedStorage(storage).new_session()` turns a storage that serves one caller into one that serves
many threads or clients::

    caller   Session    the snapshot that it reads: a serial number; its open transaction
    caller   Session
                |
             SharedStorage    the queue of commits, the log of those made, the lock
                |
             Storage          sees one caller

A commit goes through three states. *Queued*: it was validated against all that came before it, in
the queue too, and has a serial number. *Being written*: `flush()` took the whole queue and stores
it as one transaction of the storage, with one sync. *Committed*: the storage says that it is
durable. Only then does a session see it, at its next `sync()` or after its own next commit.

A session that reads an older snapshot gets the records that were overwritten since from the log,
and those that a pack removed.
"""

from __future__ import annotations

import durus.backends  # noqa: F401 - refuses to load beside an old Durus
from durus.sessions._session import Session
from durus.sessions._shared import SharedStorage

__all__ = ["Session", "SharedStorage"]
