"""The root, and objects that are named from it, where there may be none."""

from __future__ import annotations

from durus.cli._at import as_of_text
from durus.cli._errors import CommandError
from durus.error import DurusKeyError, PathError
from durus.inspection import resolve
from durus.serialize import ROOT_OID
from durus.storage import Storage

__all__ = ["find_object", "require_root"]


def find_object(storage: Storage, which: str, name: str) -> bytes:
    """Give the oid of the object that a person names by an oid or a path.

    Args:
        storage: where it is.
        which: what the person wrote.
        name: how the database is called.

    Raises:
        CommandError: it is the root or begins there, and there is none.
        PathError, DurusKeyError, CorruptionError: what `durus.inspection.resolve` raises.
    """
    try:
        oid = resolve(storage, which)
    except (DurusKeyError, PathError):
        require_root(storage, f"read {which}", name)
        raise
    if oid == ROOT_OID:
        require_root(storage, f"read {which}", name)
    return oid


def require_root(storage: Storage, attempt: str, name: str) -> None:
    """Refuse a database without a root.

    Args:
        storage: the database.
        attempt: what is being tried, such as "export".
        name: how the database is called.

    Raises:
        CommandError: there is none.
    """
    try:
        storage.load(ROOT_OID)
    except DurusKeyError as error:
        description = storage.describe()
        then = "" if description.as_of is None else f" as of {as_of_text(description)}"
        count = description.object_count
        is_empty = not any(True for _ in storage.gen_oid_record()) if count is None else count == 0
        if is_empty:
            found = (
                f"{name!r} is empty{then}: it has no root, the object with oid 0; the first program"
                f" that opens it with a Connection, to write, makes one, as 'durus shell {name}'"
                " does"
            )
        else:
            found = (
                f"{name!r} has no root{then}, the object with oid 0, though it holds others: if it"
                " was lost, restore a backup; 'durus check' tells what else is wrong, 'durus copy'"
                " copies the others, and 'durus show' shows one by its oid"
            )
        raise CommandError(f"tried to {attempt}, but {found}") from error
