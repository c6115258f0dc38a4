"""New oids for sessions that are not trusted to use each that they are given."""

from __future__ import annotations

from durus.error import DurusKeyError, StorageError
from durus.serialize import ROOT_OID
from durus.sessions._oid_ranges import OidRanges
from durus.storage import Storage
from durus.utils import int8_to_str, str_to_int8

__all__ = ["OidSupply"]

# How many oids one session may hold that it was given and has not used.
_GIVEN_OIDS = 1 << 22


class OidSupply:
    """Gives each oid to one session at a time.

    Args:
        storage: where they are to be stored.

    Attributes:
        spare: what sessions were given that have ended without using it.
    """

    def __init__(self, storage: Storage) -> None:
        self.spare = OidRanges()
        self._storage = storage
        self._next_oid_int: int | None = None

    def forget(self) -> None:
        """Give nothing again that was given, nor what comes after it: it is void."""
        self.spare.clear()
        self._next_oid_int = None

    def give(self, given: OidRanges, count: int) -> list[bytes]:
        """Give as many oids, and add them to those of one session.

        Raises:
            StorageError: it holds too many that it has not used.
        """
        if given.count + count > _GIVEN_OIDS:
            raise StorageError(
                f"tried to get {count} new oids from {self._storage}, but {given.count} that"
                " this session was given are not used yet; commit, in smaller transactions"
            )
        # That of the root may have been stored by somebody whom it was not given to.
        if 0 in self.spare and self._is_stored(ROOT_OID):
            self.spare.discard(0, 1)
        oid_ints = self.spare.take(count)
        oid_ints += self._fresh(count - len(oid_ints))
        oids = [int8_to_str(oid_int) for oid_int in oid_ints]
        given.add_oids(oids)
        return oids

    def _fresh(self, count: int) -> list[int]:
        storage = self._storage
        if storage.can_share:
            # Others may take new oids too.
            return [str_to_int8(storage.new_oid()) for _ in range(count)]
        # A storage may keep room for each oid that it gave out, used or not. So it is asked once,
        # and from there on an oid is the storage's business when it is stored.
        if self._next_oid_int is None:
            self._next_oid_int = str_to_int8(storage.new_oid())
        oid_ints: list[int] = []
        while len(oid_ints) < count:
            if not self._is_stored(int8_to_str(self._next_oid_int)):
                oid_ints.append(self._next_oid_int)
            self._next_oid_int += 1
        return oid_ints

    def _is_stored(self, oid: bytes) -> bool:
        try:
            self._storage.load(oid)
        except DurusKeyError:
            return False
        return True
