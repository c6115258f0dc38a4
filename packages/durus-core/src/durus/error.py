"""Every exception that Durus raises.

Each class joins `DurusError` and the built-in exception that a program written for Durus 4.3 would
have caught in its place::

    DurusError
     +-- ConflictError                  commit again after abort(); has .oids
     |    +-- ReadConflictError         the object's state is newer than this transaction's view
     |    +-- WriteConflictError        what this transaction read was changed by another commit
     +-- DurusKeyError (KeyError)       no record is stored under the oid; has .oid
     +-- ProtocolError                  the peer did not speak the protocol
     +-- InvalidOidError (ValueError)   an oid that is not eight bytes
     +-- StorageError
     |    +-- StorageOpenError (OSError)         the path cannot be opened; has .path
     |    |    +-- StorageMissingError (FileNotFoundError)
     |    |    +-- StoragePermissionError (PermissionError)
     |    |    +-- StorageLockedError (BlockingIOError)
     |    +-- StorageFormatError (ValueError)    it opens, but is not what was asked for; has .path
     |    +-- StorageWriteError (OSError)        a write, sync or rename failed, or failed earlier
     |    +-- StorageReadOnlyError (OSError)     a write to what was opened read-only
     |    +-- StorageClosedError (ValueError)    use after close()
     |    +-- StorageTransactionError (RuntimeError)  store() or end() outside begin() ... end()
     |    +-- UnissuedOidError (ValueError)      a commit under an oid that is not its own; has .oid
     |    +-- StorageDisconnectedError (ConnectionError)  the server is not there, or was lost
     |    +-- CommitUnknownError (ConnectionError)  lost while it committed: done or not done
     |    +-- AuthenticationError (PermissionError)  the server, or we, could not prove who it is
     |    +-- NotSupportedError (NotImplementedError) the storage lacks this optional ability
     |    +-- CorruptionError (ValueError)       damage; has .path, .offset, .oid as far as known
     |         +-- CorruptRecordError            one record does not prove itself
     |         +-- ShortRead (OSError)           a file or peer ended before the bytes it promised
     +-- BackendError (ValueError)      no installed back-end fits; has .name
     +-- PathError (LookupError)        no persistent object is at a path from the root; has .path
     +-- UnknownClassError (ImportError)        stored data names a class that is not there
     |    +-- UntrustedClassError       stored data names a class that `trust=` does not allow
     +-- UnpicklableError (PicklingError, TypeError)  an object or attribute that cannot be stored
     +-- ForeignObjectError (ValueError)        an object that belongs to another Connection
     +-- ConnectionStateError (RuntimeError)
          +-- ConnectionClosedError     use after close()
          +-- ConnectionThreadError     use by a thread that does not own the transaction
          +-- ConnectionForkError       use in a process that was forked after it was opened
"""

from __future__ import annotations

from collections.abc import Iterable
from pickle import PicklingError

__all__ = [
    "AuthenticationError",
    "BackendError",
    "CommitUnknownError",
    "ConflictError",
    "ConnectionClosedError",
    "ConnectionForkError",
    "ConnectionStateError",
    "ConnectionThreadError",
    "CorruptRecordError",
    "CorruptionError",
    "DurusError",
    "DurusKeyError",
    "ForeignObjectError",
    "InvalidOidError",
    "NotSupportedError",
    "PathError",
    "ProtocolError",
    "ReadConflictError",
    "ShortRead",
    "StorageClosedError",
    "StorageDisconnectedError",
    "StorageError",
    "StorageFormatError",
    "StorageLockedError",
    "StorageMissingError",
    "StorageOpenError",
    "StoragePermissionError",
    "StorageReadOnlyError",
    "StorageTransactionError",
    "StorageWriteError",
    "UnissuedOidError",
    "UnknownClassError",
    "UnpicklableError",
    "UntrustedClassError",
    "WriteConflictError",
]


class DurusError(Exception):
    """The base of everything that Durus raises on purpose."""


class ConflictError(DurusError):
    """Another commit got there first. `abort()` and try again.

    Attributes:
        oids: the objects in conflict, each 8 bytes; empty when they are not known.
    """

    def __init__(self, oids: Iterable[bytes] | None = None) -> None:
        self.oids: list[bytes] = list(oids or ())
        super().__init__(self.oids)

    def __str__(self) -> str:
        return (
            f"{_oids_text(self.oids)} changed in another transaction"
            " since this one read it; abort() and try again"
        )


class ReadConflictError(ConflictError):
    """An object was asked for whose stored state is newer than what this transaction sees."""


class WriteConflictError(ConflictError):
    """A commit of changes was refused: what the transaction had read was changed meanwhile."""


class DurusKeyError(KeyError, DurusError):
    """No record is stored under the oid.

    Attributes:
        oid: the oid that was asked for.
    """

    def __init__(self, oid: object = None) -> None:
        super().__init__(oid)
        self.oid = oid

    def __str__(self) -> str:
        return f"no record is stored under oid {_oid_text(self.oid)}"


class ProtocolError(DurusError):
    """The peer sent something that the protocol does not allow."""


class InvalidOidError(DurusError, ValueError):
    """An oid that is not eight bytes.

    Attributes:
        oid: what was given instead.
    """

    def __init__(self, oid: object) -> None:
        super().__init__(oid)
        self.oid = oid

    def __str__(self) -> str:
        return f"an oid is 8 bytes, got {self.oid!r:.80}"


class StorageError(DurusError):
    """A storage could not do what it was asked to do."""


class StorageOpenError(StorageError, OSError):
    """The path cannot be opened as a storage.

    Attributes:
        path: the file as it was named by the caller.
    """

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class StorageMissingError(StorageOpenError, FileNotFoundError):
    """There is no such file, and the caller did not allow making one."""


class StoragePermissionError(StorageOpenError, PermissionError):
    """The system does not let this process open the file."""


class StorageLockedError(StorageOpenError, BlockingIOError):
    """Another writer has the file open."""


class StorageFormatError(StorageError, ValueError):
    """The file is not a database, or is one of another format.

    Attributes:
        path: the file as it was named by the caller.
    """

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class StorageWriteError(StorageError, OSError):
    """The system refused a write, a sync or a rename, now or earlier; nothing was acknowledged."""


class StorageReadOnlyError(StorageError, OSError):
    """A write to a storage that was opened read-only."""


class StorageClosedError(StorageError, ValueError):
    """The storage was used after `close()`."""


class StorageTransactionError(StorageError, RuntimeError):
    """`store()` or `end()` was called without a `begin()`."""


class UnissuedOidError(StorageError, ValueError):
    """A commit stores under an oid that is neither stored nor was given to its session.

    Attributes:
        oid: the oid, 8 bytes.
    """

    def __init__(self, oid: object) -> None:
        super().__init__(oid)
        self.oid = oid

    def __str__(self) -> str:
        return (
            f"tried to store under oid {_oid_text(self.oid)}, which is neither stored nor was given"
            " to this session by new_oid(); nothing of the commit is stored"
        )


class StorageDisconnectedError(StorageError, ConnectionError):
    """The server cannot be reached, or was lost since this transaction began.

    Nothing of the transaction is stored. `abort()` connects again.
    """


class CommitUnknownError(StorageError, ConnectionError):
    """The server was lost while it committed: the transaction is stored, or nothing of it is.

    `abort()` connects again; what is stored then tells which. Committing again might do it twice.
    """


class AuthenticationError(StorageError, PermissionError):
    """A client and a server could not prove to each other that they share the secret."""


class NotSupportedError(StorageError, NotImplementedError):
    """The storage does not have this optional ability; its class attributes say which it has."""


class CorruptionError(StorageError, ValueError):
    """Stored data is damaged. Nothing was changed on disk.

    Attributes:
        path: the damaged file, or None when the damage was found above the storage.
        offset: bytes from the start of the file to the damage, or None.
        oid: the object concerned (8 bytes), or None.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        offset: int | None = None,
        oid: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.path = path
        self.offset = offset
        self.oid = oid


class CorruptRecordError(CorruptionError):
    """A record does not prove itself, or is not a record."""


class ShortRead(CorruptionError, OSError):
    """A file or a peer ended before the bytes that were asked for."""


class BackendError(DurusError, ValueError):
    """No installed back-end fits the path or URL, or more than one claims it.

    Attributes:
        name: the scheme that was looked for, or None.
    """

    def __init__(self, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.name = name


class PathError(DurusError, LookupError):
    """No persistent object is at a path from the root, or it is no path; see `durus.inspection`.

    Attributes:
        path: as it was given.
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class UnknownClassError(DurusError, ImportError):
    """Stored data names a class that cannot be imported.

    Attributes:
        class_name: "module.Name" as stored.
        oid: the object concerned (8 bytes), or None.
    """

    def __init__(self, message: str, class_name: str = "", oid: bytes | None = None) -> None:
        super().__init__(message)
        self.class_name = class_name
        self.oid = oid


class UntrustedClassError(UnknownClassError):
    """Stored data names a class that `trust=` of the Connection does not allow; not imported."""


class UnpicklableError(DurusError, PicklingError, TypeError):
    """Something reachable from a changed object cannot be pickled; nothing was committed.

    Attributes:
        path: the attributes from the persistent object to the culprit, such as ".files['a'][0]".
    """

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ForeignObjectError(DurusError, ValueError):
    """An object of one Connection is referenced from an object of another."""


class ConnectionStateError(DurusError, RuntimeError):
    """The Connection cannot be used in this way now."""


class ConnectionClosedError(ConnectionStateError):
    """The Connection was used after `close()`."""


class ConnectionThreadError(ConnectionStateError):
    """A thread used a Connection while another thread's transaction was open in it."""


class ConnectionForkError(ConnectionStateError):
    """A child process used a Connection or Database that its parent had opened before the fork."""


def _oid_text(oid: object) -> str:
    if isinstance(oid, bytes) and len(oid) == 8:
        return str(int.from_bytes(oid, "big"))
    return f"{oid!r:.80}"


def _oids_text(oids: list[bytes]) -> str:
    if not oids:
        return "an object"
    shown = ", ".join(_oid_text(oid) for oid in oids[:8])
    rest = f" and {len(oids) - 8} more" if len(oids) > 8 else ""
    return f"object{'s' if len(oids) > 1 else ''} {shown}{rest}"
