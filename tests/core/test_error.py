"""Every exception: what it says, what it carries, and what older programs catch it as."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from pickle import PicklingError

import pytest

from durus import error
from durus.error import (
    AuthenticationError,
    BackendError,
    CommitUnknownError,
    ConflictError,
    ConnectionClosedError,
    ConnectionForkError,
    ConnectionStateError,
    ConnectionThreadError,
    CorruptionError,
    CorruptRecordError,
    DurusError,
    DurusKeyError,
    ForeignObjectError,
    InvalidOidError,
    NotSupportedError,
    PathError,
    ProtocolError,
    ReadConflictError,
    ShortRead,
    StorageClosedError,
    StorageDisconnectedError,
    StorageError,
    StorageFormatError,
    StorageLockedError,
    StorageMissingError,
    StorageOpenError,
    StoragePermissionError,
    StorageReadOnlyError,
    StorageTransactionError,
    StorageWriteError,
    UnissuedOidError,
    UnknownClassError,
    UnpicklableError,
    UntrustedClassError,
    WriteConflictError,
)

OID = b"\0\0\0\0\0\0\x01\x02"
CHANGED = "changed in another transaction since this one read it; abort() and try again"

# Each error, made as its raiser makes it; what it prints; what an older program caught for it.
MADE: list[tuple[Exception, str, tuple[type[Exception], ...]]] = [
    (DurusError("said"), "said", (Exception,)),
    (ProtocolError("said"), "said", (DurusError,)),
    (StorageError("said"), "said", (DurusError,)),
    (StorageOpenError("said", "a.durus"), "said", (StorageError, OSError)),
    (StorageMissingError("said", "a"), "said", (StorageOpenError, FileNotFoundError)),
    (StoragePermissionError("said", "a"), "said", (StorageOpenError, PermissionError)),
    (StorageLockedError("said", "a"), "said", (StorageOpenError, BlockingIOError)),
    (StorageFormatError("said", "a"), "said", (StorageError, ValueError)),
    (StorageWriteError("said"), "said", (StorageError, OSError)),
    (StorageReadOnlyError("said"), "said", (StorageError, OSError)),
    (StorageDisconnectedError("said"), "said", (StorageError, ConnectionError)),
    (CommitUnknownError("said"), "said", (StorageError, ConnectionError)),
    (AuthenticationError("said"), "said", (StorageError, PermissionError)),
    (
        UnissuedOidError(OID),
        (
            "tried to store under oid 258, which is neither stored nor was given to this session by"
            " new_oid(); nothing of the commit is stored"
        ),
        (StorageError, ValueError),
    ),
    (StorageClosedError("said"), "said", (StorageError, ValueError)),
    (StorageTransactionError("said"), "said", (StorageError, RuntimeError)),
    (NotSupportedError("said"), "said", (StorageError, NotImplementedError)),
    (CorruptionError("said", path="a", offset=7, oid=OID), "said", (StorageError, ValueError)),
    (CorruptRecordError("said", oid=OID), "said", (CorruptionError, ValueError)),
    (ShortRead("said", path="a", offset=7), "said", (CorruptionError, OSError)),
    (BackendError("said", "file"), "said", (DurusError, ValueError)),
    (PathError("said", "root.x"), "said", (DurusError, LookupError)),
    (UnknownClassError("said", "shop.Item", OID), "said", (DurusError, ImportError)),
    (UntrustedClassError("said", "os.system"), "said", (UnknownClassError, ImportError)),
    (UnpicklableError("said", ".files['a']"), "said", (DurusError, PicklingError, TypeError)),
    (ForeignObjectError("said"), "said", (DurusError, ValueError)),
    (ConnectionStateError("said"), "said", (DurusError, RuntimeError)),
    (ConnectionClosedError("said"), "said", (ConnectionStateError,)),
    (ConnectionThreadError("said"), "said", (ConnectionStateError,)),
    (ConnectionForkError("said"), "said", (ConnectionStateError,)),
    (DurusKeyError(OID), "no record is stored under oid 258", (DurusError, KeyError)),
    (DurusKeyError("x"), "no record is stored under oid 'x'", (DurusError, KeyError)),
    (DurusKeyError(), "no record is stored under oid None", (DurusError, KeyError)),
    (InvalidOidError(b"ab"), "an oid is 8 bytes, got b'ab'", (DurusError, ValueError)),
    (
        ConflictError([OID]),
        f"object 258 {CHANGED}",
        (DurusError,),
    ),
    (
        WriteConflictError([OID, bytes(8)]),
        f"objects 258, 0 {CHANGED}",
        (ConflictError,),
    ),
    (
        ReadConflictError(),
        f"an object {CHANGED}",
        (ConflictError,),
    ),
]


def name_of(value: object) -> str:
    """Name a case by its class."""
    return type(value).__name__ if isinstance(value, Exception) else ""


@pytest.mark.parametrize(("made", "text", "bases"), MADE, ids=name_of)
def test_error_is_made_and_printed(
    made: Exception, text: str, bases: tuple[type[Exception], ...]
) -> None:
    """An error prints in one line what its raiser said, and is what older programs catch."""
    assert str(made) == text
    assert type(made).__name__ in repr(made)
    assert isinstance(made, DurusError)
    for base in bases:
        assert isinstance(made, base)
        with pytest.raises(base):
            raise made


@pytest.mark.parametrize(("made", "text", "bases"), MADE, ids=name_of)
def test_error_travels(made: Exception, text: str, bases: object) -> None:
    """A pickled or copied error, as from another process, has the same text and attributes."""
    for twin in (pickle.loads(pickle.dumps(made)), copy.copy(made)):
        assert type(twin) is type(made)
        assert str(twin) == text
        assert vars(twin) == vars(made)


def test_every_error_is_made_here() -> None:
    """No exception of `durus.error` is without a test, and none is missing from its list."""
    classes = {
        name
        for name, value in vars(error).items()
        if isinstance(value, type) and issubclass(value, DurusError)
    }
    assert {type(made).__name__ for made, _, _ in MADE} == classes == set(error.__all__)


def test_tree_at_the_top_is_the_tree() -> None:
    """The picture in the docstring has each class under its parent, with its built-in bases."""
    parents = [DurusError]
    drawn = {"DurusError"}
    for line in (error.__doc__ or "").splitlines():
        match = re.match(r"([ |]*)\+-- (\w+)(?: \(([\w, ]+)\))?", line)
        if match is None:
            continue
        depth = len(match[1]) // 5 - 1
        cls = getattr(error, match[2])
        del parents[depth + 1 :]
        assert parents[depth] in cls.__bases__, line
        builtin = {base.__name__ for base in cls.__bases__} - set(error.__all__)
        assert builtin == set(filter(None, re.split(", ", match[3] or ""))), line
        parents.append(cls)
        drawn.add(match[2])
    assert drawn == set(error.__all__)


def test_errors_carry_their_values() -> None:
    """Paths, offsets, oids and names are attributes, not only text."""
    assert StorageOpenError("said", "a.durus").path == "a.durus"
    assert StorageFormatError("said", "a.durus").path == "a.durus"
    corrupt = CorruptionError("said", path="a.durus", offset=9, oid=OID)
    assert (corrupt.path, corrupt.offset, corrupt.oid) == ("a.durus", 9, OID)
    assert DurusKeyError(OID).oid == OID
    assert InvalidOidError(3).oid == 3
    assert BackendError("said", "sqlite").name == "sqlite"
    assert PathError("said", "root.x").path == "root.x"
    unknown = UnknownClassError("said", "shop.Item", OID)
    assert (unknown.class_name, unknown.oid) == ("shop.Item", OID)
    assert UnpicklableError("said", ".x").path == ".x"
    assert ConflictError(iter([OID])).oids == [OID]
    assert ConflictError().oids == []


def test_long_values_are_cut() -> None:
    """An error stays one readable line, whatever it was given."""
    assert len(str(InvalidOidError(b"x" * 10_000))) < 120
    assert len(str(DurusKeyError("x" * 10_000))) < 120
    many = str(ConflictError([n.to_bytes(8, "big") for n in range(100)]))
    assert many.startswith("objects 0, 1, 2, 3, 4, 5, 6, 7 and 92 more changed")


def test_errors_have_one_home() -> None:
    """No module of core defines a public error of its own."""
    folder = Path(error.__file__).parent
    # Installed, the folder holds the siblings too.
    for path in [*folder.glob("*.py"), *folder.glob("testing/*.py")]:
        found = re.findall(r"\nclass ([A-Z]\w*)\(.*(?:Error|Exception)\):", path.read_text())
        assert path.name == "error.py" or found == [], path
