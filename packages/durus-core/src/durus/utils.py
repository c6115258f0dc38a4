"""Fixed-width integers, and exact reads and writes of files and sockets.

All integers are unsigned and big-endian: "int8" takes 8 bytes, "int4" takes 4. The names are those
of Durus 4.3.
"""

from __future__ import annotations

from struct import Struct
from typing import Protocol

from durus.error import ShortRead, StorageWriteError

__all__ = [
    "ShortRead",
    "as_bytes",
    "int4_to_str",
    "int8_to_str",
    "join_bytes",
    "read",
    "read_int4",
    "read_int4_str",
    "read_int8",
    "read_int8_str",
    "str_to_int4",
    "str_to_int8",
    "write",
    "write_all",
    "write_int4",
    "write_int4_str",
    "write_int8",
    "write_int8_str",
]

_INT4 = Struct(">L")
_INT8 = Struct(">Q")

# A length read from outside is only a claim: memory is taken as bytes arrive, this many at a time.
_CHUNK_BYTES = 1 << 20

join_bytes = b"".join


class _ReadableFile(Protocol):
    def read(self, n: int, /) -> bytes: ...


class _ReadableSocket(Protocol):
    def recv(self, n: int, /) -> bytes: ...


class _WritableFile(Protocol):
    def write(self, data: bytes, /) -> object: ...


class _WritableSocket(Protocol):
    def sendall(self, data: bytes, /) -> object: ...


_Readable = _ReadableFile | _ReadableSocket
_Writable = _WritableFile | _WritableSocket


def int4_to_str(v: int) -> bytes:
    """Give `v` (0 to 2**32-1) as 4 bytes."""
    return _INT4.pack(v)


def int8_to_str(n: int) -> bytes:
    """Give `n` (0 to 2**64-1) as 8 bytes, such as an oid."""
    return _INT8.pack(n)


def str_to_int4(v: bytes) -> int:
    """Give the integer that 4 bytes stand for."""
    value: int = _INT4.unpack(v)[0]
    return value


def str_to_int8(s: bytes) -> int:
    """Give the integer that 8 bytes stand for."""
    value: int = _INT8.unpack(s)[0]
    return value


def as_bytes(s: str | bytes | bytearray) -> bytes:
    """Give bytes as they are and text as latin-1, as Durus 4.3 does."""
    return s.encode("latin-1") if isinstance(s, str) else bytes(s)


def read(f: _Readable, n: int) -> bytes:
    """Read exactly `n` bytes from `f`, a file or a socket.

    Raises:
        ShortRead: `f` ended first. However large `n` is, no more memory is taken than there are
            bytes to read.
    """
    read_some = f.read if hasattr(f, "read") else f.recv
    chunks = []
    missing = n
    while missing > 0:
        chunk = read_some(min(missing, _CHUNK_BYTES))
        if not chunk:
            raise ShortRead(f"tried to read {n} bytes, found {n - missing} before the end")
        chunks.append(chunk)
        missing -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def write(f: _Writable, s: bytes) -> None:
    """Write all of `s` to `f`, a file or a socket.

    Raises:
        StorageWriteError: `f` takes no more, and does not say why.
    """
    if not hasattr(f, "write"):
        f.sendall(s)
        return
    # An unbuffered file may take a part; what returns no number has taken all.
    written = f.write(s)
    while isinstance(written, int) and written < len(s):
        if written == 0:
            raise StorageWriteError(f"tried to write {len(s)} bytes, and none of them was taken")
        s = s[written:]
        written = f.write(s)


def write_all(f: _Writable, *args: bytes) -> None:
    """Write all the arguments to `f` in one call."""
    write(f, b"".join(args))


def read_int4(f: _Readable) -> int:
    """Read a 4-byte integer."""
    return str_to_int4(read(f, 4))


def read_int8(f: _Readable) -> int:
    """Read an 8-byte integer."""
    return str_to_int8(read(f, 8))


def write_int4(f: _Writable, n: int) -> None:
    """Write `n` as a 4-byte integer."""
    write(f, int4_to_str(n))


def write_int8(f: _Writable, n: int) -> None:
    """Write `n` as an 8-byte integer."""
    write(f, int8_to_str(n))


def read_int4_str(f: _Readable) -> bytes:
    """Read a 4-byte length and then that many bytes."""
    return read(f, read_int4(f))


def read_int8_str(f: _Readable) -> bytes:
    """Read an 8-byte length and then that many bytes."""
    return read(f, read_int8(f))


def write_int4_str(f: _Writable, s: bytes) -> None:
    """Write the length of `s` in 4 bytes, then `s`."""
    write_all(f, int4_to_str(len(s)), s)


def write_int8_str(f: _Writable, s: bytes) -> None:
    """Write the length of `s` in 8 bytes, then `s`."""
    write_all(f, int8_to_str(len(s)), s)
