"""Protocol 2, between a server and a client of ours: frames, types, limits, proofs, errors.

The client connects, with TLS if that is spoken, and sends `V` and the version 2 as a u32; the
server answers with a u32: 2. A server of Durus 4.3 answers 1 and hangs up; whoever wants to speak
version 1 connects again (see docs/formats/wire-1.md). From then on both send frames::

    frame     length     u32, of what follows: 5 and more
              type       u8, see `Type`; with 0x40 added the payload is zlib-compressed, which in
                         a request stands for 1 MiB at most
              number     u32; a reply has the number of its request
              payload    by type

All integers are unsigned and big-endian; an oid is 8 bytes; a record is as in `durus.serialize`.

The server speaks first::

    HELLO     JSON: server, auth ("none" or "secret"), nonce (32 bytes in hex), compress, max_frame,
              max_transaction, readonly, history (the server tells of the past; not there: it
              does not know the requests)
    HELLO     the client's answer, JSON: client, compress, auth: nonce and proof in hex
    WELCOME   JSON: database (in hex: the same after a restart of the server only if that has the
              same database), proof, if there is a secret; or ERROR

A proof is the HMAC-SHA256, keyed with the secret, of `durus-2 client` or `durus-2 server` and both
nonces, the server's first. The secret is never sent, and each side proves that it knows it.

Then the client asks. Requests are answered in order, but for COMMIT, CONFIRM and PACK, which are
answered when they are done; the client need not wait for one answer before it asks again. HISTORY,
CHANGES and LOAD_AS_OF hold up what the same client asks after them::

    LOAD        oid, u32 budget      RECORDS: (u32 length, record)*, the one asked for first, then
                                     others that it leads to, up to `budget` bytes
    LOAD_MANY   oids                 ANSWERS, after any number of MORE: in order (u32 length,
                                     record), or 0xffffffff: not stored, or 0xfffffffe: newer than
                                     the client's snapshot
    SYNC                             STALE: u8 1 if it is not known what changed, else 0; oids
    NEW_OIDS    u32 count            OIDS: oids
    STORE       (u32 length, record)*           no answer: it adds to the client's transaction
    COMMIT                           COMMITTED: oids that are stale by others' commits and were not
                                     told; or ASK: u8 0, oids that the client has loaded and that
                                     are stale, and it may go on with CONFIRM or GIVE_UP
    CONFIRM                          the same
    GIVE_UP                          no answer: the client's transaction is forgotten
    PACK                             any number of PROGRESS: u64 objects kept; then DONE
    STATUS                           STATUS_IS: JSON
    STOP                             DONE, and the server ends
    DESCRIBE                         DESCRIPTION: JSON of a StorageDescription
    HISTORY     u64 serial,          COMMITS: (u64 serial, i64 time in microseconds since 1970)*,
                u32 count            the newest first: of commits before the serial, so many at
                                     most; 2**64-1 begins with the newest, and none is the end
    CHANGES     u64 serial,          CHANGED: u8 1 if these are the last, else 0; (u32 length,
                u32 start            record)*, what the commit stored, without the first `start`
    LOAD_AS_OF  oid, u64 serial      RECORDS: the one that the object had as of the commit
    BYE                              none: the client leaves

Instead of any answer ERROR may come, JSON: error (a name of `durus.error`), message, and oids, oid,
path, offset as the error has them. One with the number 0 ends the connection.

Example: LOAD of oid 1 with a budget of 4096 bytes, as request 7::

    00 00 00 11                  length 17
    10                           LOAD
    00 00 00 07                  number 7
    00 00 00 00 00 00 00 01      oid 1
    00 00 10 00                  budget
"""

from __future__ import annotations

import hmac
import json
import zlib
from enum import IntEnum
from struct import Struct

import durus

if getattr(durus, "__file__", None) is not None:
    raise ImportError(
        "an old Durus is installed in the same environment and hides parts of this one:"
        " run `pip uninstall Durus`, then install all of this one again with --force-reinstall"
    )

from durus import error as errors
from durus.error import (
    ConflictError,
    CorruptionError,
    DurusError,
    DurusKeyError,
    InvalidOidError,
    ProtocolError,
    StorageError,
    UnissuedOidError,
)

__all__ = [
    "COMPRESSED",
    "FRAME_HEADER",
    "MAX_COMMITS",
    "MAX_LOAD_MANY",
    "MAX_NEW_OIDS",
    "NEWEST",
    "NONCE_BYTES",
    "NOT_STORED",
    "READ_CONFLICT",
    "Type",
    "client_proof",
    "decompress",
    "pack_error",
    "pack_frame",
    "read_object",
    "server_proof",
    "unpack_error",
]

COMPRESSED = 0x40

# length, type, number
FRAME_HEADER = Struct(">LBL")

MAX_LOAD_MANY = 8192
MAX_NEW_OIDS = 8192
MAX_COMMITS = 4096
NEWEST = (1 << 64) - 1

NOT_STORED = 0xFFFFFFFF
READ_CONFLICT = 0xFFFFFFFE

NONCE_BYTES = 32


class Type(IntEnum):
    """The types of frames. The server sends those from 0x80 on, and both say HELLO."""

    HELLO = 0x01
    WELCOME = 0x02
    LOAD = 0x10
    LOAD_MANY = 0x11
    SYNC = 0x12
    NEW_OIDS = 0x13
    STORE = 0x14
    COMMIT = 0x15
    CONFIRM = 0x16
    GIVE_UP = 0x17
    PACK = 0x18
    STATUS = 0x19
    STOP = 0x1A
    DESCRIBE = 0x1B
    HISTORY = 0x1C
    CHANGES = 0x1D
    LOAD_AS_OF = 0x1E
    BYE = 0x1F
    RECORDS = 0x90
    ANSWERS = 0x91
    MORE = 0x92
    STALE = 0x93
    OIDS = 0x94
    COMMITTED = 0x95
    ASK = 0x96
    DONE = 0x97
    PROGRESS = 0x98
    STATUS_IS = 0x99
    DESCRIPTION = 0x9A
    COMMITS = 0x9B
    CHANGED = 0x9C
    ERROR = 0x9F


def pack_frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    """Make a frame."""
    return FRAME_HEADER.pack(len(payload) + 5, kind, number) + payload


def decompress(payload: bytes | memoryview, most_bytes: int) -> bytes:
    """Undo what the COMPRESSED flag says, in bounded memory.

    Raises:
        ProtocolError: it is not a whole zlib stream, or one of more than `most_bytes`.
    """
    decompressor = zlib.decompressobj()
    try:
        found = decompressor.decompress(payload, most_bytes + 1)
    except zlib.error as error:
        raise ProtocolError(f"a compressed frame cannot be read: {error}") from error
    if len(found) > most_bytes or not decompressor.eof or decompressor.unused_data:
        raise ProtocolError(f"a compressed frame is cut, or has more than {most_bytes} bytes")
    return found


def read_object(payload: bytes) -> dict[str, object]:
    """Read a payload that is a JSON object.

    Raises:
        ProtocolError: it is not.
    """
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a frame that should be JSON is not") from error
    if not isinstance(found, dict):
        raise ProtocolError("a frame that should be a JSON object is not")
    return found


def client_proof(secret: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    """Give what proves that a client knows the secret."""
    return hmac.digest(secret, b"durus-2 client" + server_nonce + client_nonce, "sha256")


def server_proof(secret: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    """Give what proves that a server knows the secret."""
    return hmac.digest(secret, b"durus-2 server" + server_nonce + client_nonce, "sha256")


def pack_error(error: BaseException) -> bytes:
    """Make the payload of an ERROR. What is no error of Durus goes by the name of StorageError."""
    name = type(error).__name__ if isinstance(error, DurusError) else "StorageError"
    fields: dict[str, object] = {"error": name, "message": str(error)}
    if isinstance(error, ConflictError):
        fields["oids"] = [oid.hex() for oid in error.oids]
    oid = getattr(error, "oid", None)
    if isinstance(oid, bytes):
        fields["oid"] = oid.hex()
    for name in ("path", "offset"):
        value = getattr(error, name, None)
        if isinstance(value, str | int):
            fields[name] = value
    return json.dumps(fields).encode()


def unpack_error(payload: bytes) -> DurusError:
    """Make the exception that an ERROR tells of; StorageError for a name that is not known.

    Raises:
        ProtocolError: the payload is malformed.
    """
    fields = read_object(payload)
    name, message = str(fields.get("error")), str(fields.get("message"))
    cls = getattr(errors, name, None) if name in errors.__all__ else None
    if not (isinstance(cls, type) and issubclass(cls, DurusError)):
        return StorageError(message)
    oid = _from_hex(fields.get("oid"))
    if issubclass(cls, ConflictError):
        oids = fields.get("oids")
        return cls([_from_hex(each) for each in oids] if isinstance(oids, list) else [])
    if issubclass(cls, DurusKeyError | InvalidOidError | UnissuedOidError):
        return cls(oid)
    if issubclass(cls, CorruptionError):
        path, offset = fields.get("path"), fields.get("offset")
        return cls(
            message,
            path=path if isinstance(path, str) else None,
            offset=offset if isinstance(offset, int) else None,
            oid=oid or None,
        )
    return cls(message)


def _from_hex(text: object) -> bytes:
    try:
        return bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError as error:
        raise ProtocolError("an ERROR has an oid that is not hexadecimal") from error
