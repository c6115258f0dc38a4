r"""The commit record of DFS20: the first entry of each transaction that we write.

::

    entry       length       u32, 78 (90 for a base), of the record
                record       oid      8 bytes, that of the entry which follows
                             length   u32, 66 (78 for a base), of data
                             data     class    80 04 "cbuiltins\nobject\n" 2e
                                      state    80 04 43 length(u8) payload 2e: pickled bytes
                                      proof    u32, the CRC-32 of oid, class and state
    payload     format       u8: 1 a commit that was synced before the next one was written,
                             2 the beginning of a base (the first transaction of a packed file),
                             3 a commit of a storage that was opened with durable=False
                crc          u32, the CRC-32 of the rest of the transaction: all that follows this
                             entry, the terminator included
                time         u64, microseconds since 1970 (UTC)
                serial       u64, one more than the commit record before
                previous     u64, file offset of the entry of the commit record before; 0: none
                following    u64, the number of bytes that `crc` covers
                map_crc      u32, a base only: the CRC-32 of the index record, its length left out
                next_oid     u64, a base only: the lowest oid that was never given out

All integers are unsigned and big-endian. To Durus 4.3 it is an older version of the object whose
true record follows at once: a later entry for an oid takes the place of an earlier one. So it needs
no oid of its own. (Durus 4.3 counts new oids up from the highest in the file: an entry under oid
2**64-1, as in SHELF-1, would leave it none.)

What the fields mean is told in `durus.file_storage._commit_record`.
"""

from __future__ import annotations

import zlib
from struct import Struct

from durus.file_storage._commit_record import BASE, COMMIT_MARK, SYNCED, UNSYNCED, Commit

__all__ = [
    "BASE_ENTRY_BYTES",
    "COMMIT_ENTRY_BYTES",
    "COMMIT_MARK_OFFSET",
    "pack_commit",
    "parse_commit",
]

_HEADER = Struct(">L8sL")
_PAYLOAD = Struct(">BLQQQQ")
_BASE_PAYLOAD = Struct(">BLQQQQLQ")
_PROOF = Struct(">L")
_STOP = b"."

COMMIT_MARK_OFFSET = _HEADER.size

_PAYLOAD_OFFSET = COMMIT_MARK_OFFSET + len(COMMIT_MARK) + 1
COMMIT_ENTRY_BYTES = _PAYLOAD_OFFSET + _PAYLOAD.size + 5
BASE_ENTRY_BYTES = _PAYLOAD_OFFSET + _BASE_PAYLOAD.size + 5
assert (COMMIT_ENTRY_BYTES, BASE_ENTRY_BYTES) == (82, 94)  # noqa: S101 - the picture above

_TERMINATOR_BYTES = 4


def pack_commit(oid: bytes, commit: Commit) -> bytes:
    """Give the whole entry, of a transaction that begins with the object `oid`."""
    payload = _PAYLOAD.pack(*commit[:5], commit.following)
    if commit.format == BASE:
        payload += commit.map_crc.to_bytes(4, "big") + commit.next_oid_int.to_bytes(8, "big")
    body = COMMIT_MARK + bytes((len(payload),)) + payload + _STOP
    data_bytes = len(body) + _PROOF.size
    proof = _PROOF.pack(zlib.crc32(body, zlib.crc32(oid)))
    return _HEADER.pack(data_bytes + 12, oid, data_bytes) + body + proof


def parse_commit(entry: bytes) -> Commit | None:
    """Read a whole entry; None if it is not exactly a commit record that proves itself."""
    if len(entry) == COMMIT_ENTRY_BYTES:
        kind, crc, time_us, serial, previous, following = _PAYLOAD.unpack_from(
            entry, _PAYLOAD_OFFSET
        )
        commit = Commit(kind, crc, time_us, serial, previous, 0, following)
    elif len(entry) == BASE_ENTRY_BYTES:
        kind, crc, time_us, serial, previous, following, map_crc, next_oid_int = (
            _BASE_PAYLOAD.unpack_from(entry, _PAYLOAD_OFFSET)
        )
        commit = Commit(kind, crc, time_us, serial, previous, map_crc, following, next_oid_int)
    else:
        return None
    is_base = len(entry) == BASE_ENTRY_BYTES
    if commit.format not in ({BASE} if is_base else {SYNCED, UNSYNCED}):
        return None
    if commit.following <= _TERMINATOR_BYTES or pack_commit(entry[4:12], commit) != entry:
        return None
    return commit
