r"""The commit record: the last object entry of each transaction that we write.

::

    entry       length       u64, 78 (82 for a base)
                oid          8 bytes ff: the reserved oid, never an object's
                record       oid      8 bytes ff
                             length   u32, 58 (62 for a base), of data
                             data     class    80 04 "cbuiltins\nobject\n" 2e
                                      state    80 04 43 length(u8) payload 2e: pickled bytes
                                      proof    u32, the CRC-32 of oid, class and state
    payload     format       u8: 1 a commit that was synced before the next one was written,
                             2 the end of a base (the first transaction of a packed file),
                             3 a commit of a storage that was opened with durable=False
                crc          u32, the CRC-32 of the rest of the transaction: its u64 length and all
                             entries before this one
                time         u64, microseconds since 1970 (UTC)
                serial       u64, one more than the commit record before
                previous     u64, file offset of the entry of the commit record before; 0: none
                map_crc      u32, a base only: the CRC-32 of the offset map that follows, from its
                             u64 length to its last word

All integers are unsigned and big-endian. To Durus 4.3 it is the record of one more object, which
nothing refers to: its pack drops it, and with it the chain, which then begins anew.

A base takes over serial and time of the last commit that it covers. Where Durus 4.3 wrote after
that commit, a pack first makes one of the root as it is: else the base would be taken for another
state. What Durus 4.3 wrote belongs to the next commit record. A base whose serial is 0 (or what a
repair made of a base) covers what was written before there was a commit record.

The format tells a torn tail from damage. A commit of format 1 is written after all before it were
synced, so where one is found beyond a transaction that is not whole, that transaction had been
acknowledged, and something destroyed it. Commits of format 3 may reach the disk in any order.

Example: serial 1, at 2023-11-14 22:13:20, previous none, a transaction with CRC-32 11223344::

    00 00 00 00 00 00 00 4e  ff ff ff ff ff ff ff ff                      length 78, oid
    ff ff ff ff ff ff ff ff  00 00 00 3a                                  oid, length 58
    80 04 63 62 75 69 6c 74 69 6e 73 0a 6f 62 6a 65 63 74 0a 2e           class
    80 04 43 1d                                                           state: 29 bytes follow
    01  11 22 33 44  00 06 0a 24 18 1e 40 00                              format, crc, time
    00 00 00 00 00 00 00 01  00 00 00 00 00 00 00 00                      serial, previous
    2e  3b 54 ab f9                                                       STOP, proof
"""

from __future__ import annotations

import zlib
from struct import Struct
from typing import NamedTuple

__all__ = [
    "BASE",
    "BASE_ENTRY_BYTES",
    "COMMIT_ENTRY_BYTES",
    "COMMIT_MARK",
    "COMMIT_MARK_OFFSET",
    "RESERVED_OID",
    "RESERVED_OID_INT",
    "SYNCED",
    "UNSYNCED",
    "Commit",
    "pack_commit",
    "parse_commit",
]

RESERVED_OID = b"\xff" * 8
RESERVED_OID_INT = 2**64 - 1

SYNCED = 1
BASE = 2
UNSYNCED = 3

_CLASS = b"\x80\x04cbuiltins\nobject\n."
_STATE_START = b"\x80\x04C"
_STOP = b"."

_PAYLOAD = Struct(">BLQQQ")
_BASE_PAYLOAD = Struct(">BLQQQL")
_PROOF = Struct(">L")
_HEADER = Struct(">Q8s8sL")

# What is the same in every commit record, and its place in the entry: what a search looks for.
COMMIT_MARK = _CLASS + _STATE_START
COMMIT_MARK_OFFSET = _HEADER.size


class Commit(NamedTuple):
    """What a commit record says; the fields are described above.

    The last two are those of `durus.file_storage2` only.
    """

    format: int
    crc: int
    time_us: int
    serial: int
    previous: int
    map_crc: int = 0
    following: int = 0
    next_oid_int: int = 0

    @property
    def entry_bytes(self) -> int:
        """The length of the whole entry, its own length field included."""
        return BASE_ENTRY_BYTES if self.format == BASE else COMMIT_ENTRY_BYTES

    @property
    def follows_sync(self) -> bool:
        """All that comes before this commit was on the disk when it was written."""
        return self.format != UNSYNCED


def _before_payload(payload_bytes: int) -> bytes:
    data_bytes = len(COMMIT_MARK) + 1 + payload_bytes + len(_STOP) + _PROOF.size
    header = _HEADER.pack(20 + data_bytes, RESERVED_OID, RESERVED_OID, data_bytes)
    return header + COMMIT_MARK + bytes((payload_bytes,))


_COMMIT_START = _before_payload(_PAYLOAD.size)
_BASE_START = _before_payload(_BASE_PAYLOAD.size)

COMMIT_ENTRY_BYTES = len(_COMMIT_START) + _PAYLOAD.size + 5
BASE_ENTRY_BYTES = len(_BASE_START) + _BASE_PAYLOAD.size + 5
assert (COMMIT_ENTRY_BYTES, BASE_ENTRY_BYTES) == (86, 90)  # noqa: S101 - the picture above


def _crc_before_payload(start: bytes) -> int:
    """Give the CRC-32 of what the proof covers before the payload."""
    return zlib.crc32(start[COMMIT_MARK_OFFSET:], zlib.crc32(RESERVED_OID))


_COMMIT_START_CRC = _crc_before_payload(_COMMIT_START)
_BASE_START_CRC = _crc_before_payload(_BASE_START)


def pack_commit(commit: Commit) -> bytes:
    """Give the whole entry."""
    if commit.format == BASE:
        start, crc, end = _BASE_START, _BASE_START_CRC, _BASE_PAYLOAD.pack(*commit[:6]) + _STOP
    else:
        start, crc, end = _COMMIT_START, _COMMIT_START_CRC, _PAYLOAD.pack(*commit[:5]) + _STOP
    return start + end + _PROOF.pack(zlib.crc32(end, crc))


def parse_commit(entry: bytes) -> Commit | None:
    """Read a whole entry; None if it is not exactly a commit record that proves itself."""
    if entry.startswith(_COMMIT_START) and len(entry) == COMMIT_ENTRY_BYTES:
        commit = Commit(*_PAYLOAD.unpack_from(entry, len(_COMMIT_START)))
    elif entry.startswith(_BASE_START) and len(entry) == BASE_ENTRY_BYTES:
        commit = Commit(*_BASE_PAYLOAD.unpack_from(entry, len(_BASE_START)))
    else:
        return None
    is_known = commit.format in {SYNCED, BASE, UNSYNCED} and len(entry) == commit.entry_bytes
    return commit if is_known and pack_commit(commit) == entry else None
