"""A transaction on its way from a session to the storage."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from durus.serialize import split_oids, unpack_record

__all__ = ["Done", "PendingCommit", "added_refs", "refs_of"]

# So many references are looked for one by one among those of a record that may have thousands.
_FEW_REFS_BYTES = 8 * 8

Done = Callable[[BaseException | None], None]


class Viewer(Protocol):
    """Whose commit it is.

    Attributes:
        view: the serial number of the last commit that it sees.
    """

    view: int


S = TypeVar("S", bound=Viewer)


class PendingCommit(Generic[S]):
    """A transaction on its way from a session to the storage.

    Attributes:
        session: whose it is.
        records: what it stores, by oid.
        record_bytes: how long these are.
        done: called with the outcome.
        serial: its place in the order of all commits, once it is queued.
        view: what its session saw when the following was looked up.
        unexamined: the oids of records for which it is still to be looked up.
        overwritten: the records that it replaces, None for an oid that is new; None in place of all
            where no other session can ask for them, or where they are too many.
        overwritten_bytes: how long these are.
        new_oids: those of records that replace none, where its session is not trusted.
        absent: what it refers to and is not there.
        extra_bytes: how much memory all this takes, about.
    """

    __slots__ = (
        "_is_strict",
        "absent",
        "done",
        "extra_bytes",
        "new_oids",
        "overwritten",
        "overwritten_bytes",
        "record_bytes",
        "records",
        "serial",
        "session",
        "unexamined",
        "view",
    )

    is_pack = False

    def __init__(self, session: S, *, is_strict: bool) -> None:
        self.session = session
        self._is_strict = is_strict
        self.records: dict[bytes, bytes] = {}
        self.record_bytes = 0
        self.done: Done = _ignore
        self.serial = 0
        self.forget_examined()

    def forget_examined(self) -> None:
        """Begin anew with what the session sees now."""
        self.view = self.session.view
        self.unexamined = list(self.records)
        self.overwritten: dict[bytes, bytes | None] | None = {} if self._is_strict else None
        self.overwritten_bytes = self.extra_bytes = 0
        self.new_oids: set[bytes] = set()
        self.absent: set[bytes] = set()

    def refs(self) -> set[bytes]:
        """Give the oids that its records refer to."""
        return {ref for record in self.records.values() for ref in refs_of(record)}


def _ignore(error: BaseException | None) -> None:
    """Stand in for the `done` of a transaction that is open."""


def refs_of(record: bytes | None) -> Iterable[bytes]:
    """Give what a record refers to; of no record, nothing."""
    return split_oids(unpack_record(record)[2]) if record is not None else ()


def added_refs(record: bytes, old: bytes | None) -> set[bytes]:
    """Give what a record refers to and the one that it replaces, if there is one, does not."""
    refs = unpack_record(record)[2]
    before = unpack_record(old)[2] if old is not None else b""
    if refs == before:
        return set()
    if len(refs) <= _FEW_REFS_BYTES:
        return {ref for ref in split_oids(refs) if not _has_ref(before, ref)}
    return set(split_oids(refs)).difference(split_oids(before))


def _has_ref(refs: bytes, ref: bytes) -> bool:
    at = refs.find(ref)
    while at % 8 and at > 0:
        at = refs.find(ref, at + 1)
    return at >= 0
