"""Clients of a server that speak byte by byte, well or badly, and servers for them.

They are written from the description of the protocols, not with the code that the server shares
with our client.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from struct import pack, unpack
from types import TracebackType
from typing import Any, Self

from durus.storage import MemoryStorage, Storage
from durus.storage_server import StorageServer, wait_for_server
from durus.testing import make_record
from durus.utils import int8_to_str

# Long enough that only a server that hangs takes it.
_PATIENCE_S = 60

ROOT = bytes(8)


def record(number: int, refs: list[int] | None = None, payload: bytes = b"") -> bytes:
    """Make the record of an object by its number."""
    return make_record(int8_to_str(number), [int8_to_str(ref) for ref in refs or []], payload)


@contextmanager
def serving(
    tmp_path: Path, storage: Storage | None = None, **options: Any
) -> Iterator[StorageServer]:
    """Serve a storage, or one in memory, at a Unix socket or where `options` say."""
    if not {"host", "port", "address"} & options.keys():
        options["address"] = str(tmp_path / "s")
    server = StorageServer(storage if storage is not None else MemoryStorage(), **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Peer:
    """A socket that is connected to a server."""

    def __init__(self, path: str | Path | tuple[str, int]) -> None:
        family = socket.AF_INET if isinstance(path, tuple) else socket.AF_UNIX
        self.socket = socket.socket(family)
        try:
            # Without a timeout: with one, a server that has many waiting would be an error at once.
            self.socket.connect(path if isinstance(path, tuple) else str(path))
        except OSError:
            self.socket.close()
            raise
        self.socket.settimeout(_PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self, size: int) -> bytes:
        """Read exactly so many bytes."""
        found = bytearray()
        while len(found) < size:
            some = self.socket.recv(size - len(found))
            if not some:
                raise EOFError(f"the server closed after {bytes(found)!r}")
            found += some
        return bytes(found)

    def is_dropped(self) -> bool:
        """Wait for what the server does next: close the connection, or send something."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def wait_for_end(self) -> None:
        """Read until the server closes the connection."""
        try:
            while self.socket.recv(1 << 20):
                pass
        except ConnectionError:
            pass


class OldPeer(Peer):
    """A client of protocol 1."""

    def __init__(self, path: str | Path | tuple[str, int]) -> None:
        super().__init__(path)
        try:
            self.send(b"V" + pack(">L", 1))
            assert self.read(4) == pack(">L", 1)
        except BaseException:
            self.socket.close()
            raise

    def load(self, number: int) -> bytes:
        """Give the record, or the letter that came in its place."""
        self.send(b"L" + int8_to_str(number))
        return self.read_load_reply()

    def read_load_reply(self) -> bytes:
        status = self.read(1)
        if status != b"O":
            return status
        return self.read(unpack(">L", self.read(4))[0])

    def new_oids(self, count: int) -> list[int]:
        self.send(b"M" + bytes([count]))
        return self.read_oids(count)

    def read_oids(self, count: int) -> list[int]:
        return list(unpack(f">{count}Q", self.read(8 * count)))

    def sync(self) -> list[int]:
        self.send(b"S")
        return self.read_stale()

    def read_stale(self) -> list[int]:
        return sorted(self.read_oids(unpack(">L", self.read(4))[0]))

    def begin_commit(self) -> list[int]:
        """Send the first half of a commit; give the oids that come back."""
        self.send(b"C")
        return self.read_stale()

    def end_commit(self, *records: bytes) -> None:
        """Send the second half."""
        self.send(transaction_1(*records))

    def commit(self, *records: bytes) -> bytes:
        """Commit whatever comes back in the middle; give the letter at the end."""
        self.begin_commit()
        self.end_commit(*records)
        return self.read(1)

    def tries_to_commit(self, *records: bytes) -> bool:
        """Say whether the commit was done; if not, it was for a conflict."""
        letter = self.commit(*records)
        assert letter in b"OI"
        return letter == b"O"


def transaction_1(*records: bytes) -> bytes:
    """Make the second half of a commit of protocol 1."""
    body = b"".join(pack(">L", len(found) + 8) + found[:8] + found for found in records)
    return pack(">L", len(body)) + body


LOAD, LOAD_MANY, SYNC, NEW_OIDS, STORE, COMMIT, CONFIRM, GIVE_UP = range(0x10, 0x18)
PACK, STATUS, STOP, DESCRIBE, HISTORY, CHANGES, LOAD_AS_OF, BYE = range(0x18, 0x20)
RECORDS, ANSWERS, MORE, STALE, OIDS, COMMITTED, ASK, DONE = range(0x90, 0x98)
PROGRESS, STATUS_IS, DESCRIPTION, COMMITS, CHANGED = range(0x98, 0x9D)
ERROR = 0x9F


class NewPeer(Peer):
    """A client of protocol 2.

    Args:
        path: where the server listens.
        secret: what to prove to know, if the server asks.
        compress: whether to say that frames may be compressed.
    """

    def __init__(
        self,
        path: str | Path | tuple[str, int],
        secret: bytes = b"",
        *,
        compress: bool = False,
        enter: bool = True,
    ) -> None:
        super().__init__(path)
        self.send(b"V" + pack(">L", 2))
        assert self.read(4) == pack(">L", 2)
        self.number = 0
        self.hello: dict[str, Any] = json.loads(self.read_frame()[2])
        if enter:
            kind, _, payload = self.introduce(secret, compress=compress)
            assert kind == 0x02, payload
            self.welcome = json.loads(payload)

    def introduce(self, secret: bytes = b"", *, compress: bool = False) -> tuple[int, int, bytes]:
        """Answer the server's HELLO, and give the frame that comes back."""
        nonce = os.urandom(32)
        said = b"durus-2 client" + bytes.fromhex(self.hello["nonce"]) + nonce
        proof = hmac.digest(secret, said, "sha256")
        hello = {
            "client": "a test",
            "compress": compress,
            "readonly": False,
            "auth": {"nonce": nonce.hex(), "proof": proof.hex()},
        }
        self.nonce = nonce
        self.send_frame(0x01, json.dumps(hello).encode(), number=0)
        return self.read_frame()

    def send_frame(self, kind: int, payload: bytes = b"", number: int | None = None) -> int:
        """Send a request, and give its number."""
        if number is None:
            self.number += 1
            number = self.number
        self.send(frame(kind, number, payload))
        return number

    def read_frame(self) -> tuple[int, int, bytes]:
        """Read a frame; give type, number and payload, decompressed if need be."""
        size, kind, number = unpack(">LBL", self.read(9))
        payload = self.read(size - 5)
        if kind & 0x40:
            kind, payload = kind & ~0x40, zlib.decompress(payload)
        return kind, number, payload

    def ask(self, kind: int, payload: bytes = b"") -> tuple[int, bytes]:
        """Send a request; give type and payload of its answer."""
        number = self.send_frame(kind, payload)
        answer, found, payload = self.read_frame()
        assert found == number
        return answer, payload

    def expect(self, answer: int, kind: int, payload: bytes = b"") -> bytes:
        """Send a request that must be answered by a frame of that type; give the payload."""
        found, payload = self.ask(kind, payload)
        assert found == answer, (hex(found), payload)
        return payload

    def error(self, kind: int, payload: bytes = b"") -> dict[str, Any]:
        """Send a request that must fail; give the error."""
        found: dict[str, Any] = json.loads(self.expect(ERROR, kind, payload))
        return found

    def load(self, number: int, budget: int = 0) -> list[bytes]:
        """Give the record, and those that came with it."""
        return split_records(self.expect(RECORDS, LOAD, int8_to_str(number) + pack(">L", budget)))

    def new_oids(self, count: int) -> list[int]:
        return split_numbers(self.expect(OIDS, NEW_OIDS, pack(">L", count)))

    def sync(self) -> list[int] | None:
        payload = self.expect(STALE, SYNC)
        return None if payload[:1] == b"\x01" else split_numbers(payload[1:])

    def store(self, *records: bytes) -> None:
        self.send_frame(STORE, b"".join(pack(">L", len(found)) + found for found in records))

    def commit(self, *records: bytes) -> list[int]:
        """Commit what must go through at once; give the stale oids that come with the answer."""
        self.store(*records)
        return split_numbers(self.expect(COMMITTED, COMMIT))

    def tries_to_commit(self, *records: bytes) -> bool:
        """Say whether the commit was done; if not, it was for a conflict."""
        self.store(*records)
        answer, payload = self.ask(COMMIT)
        assert answer == COMMITTED or json.loads(payload)["error"] == "WriteConflictError", payload
        return answer == COMMITTED

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.expect(STATUS_IS, STATUS))
        return found


def frame(kind: int, number: int, payload: bytes = b"") -> bytes:
    """Make a frame of protocol 2."""
    return pack(">LBL", len(payload) + 5, kind, number) + payload


def split_records(payload: bytes) -> list[bytes]:
    records = []
    while payload:
        size = unpack(">L", payload[:4])[0]
        records.append(payload[4 : 4 + size])
        payload = payload[4 + size :]
    return records


def split_numbers(oids: bytes) -> list[int]:
    return sorted(unpack(f">{len(oids) // 8}Q", oids))


class ServerProcess:
    """A server with a file in a process of its own.

    Args:
        folder: where its file and socket are.
        options: source of the keyword arguments of StorageServer.
        setup: source that runs first.
        quiet: have it log to a file, for more lines than somebody reads.
    """

    def __init__(
        self, folder: Path, options: str = "", setup: str = "", *, quiet: bool = False
    ) -> None:
        self.path = folder / "s"
        redirection = f"sys.stderr = open({str(folder / 'log')!r}, 'w')" if quiet else ""
        source = f"""
import logging, sys
{redirection}
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
from durus.file_storage import FileStorage
from durus.storage_server import Limits, StorageServer
{setup}
server = StorageServer(FileStorage({str(folder / "f")!r}), address={str(self.path)!r}, {options})
server.serve()
"""
        self.process = subprocess.Popen([sys.executable, "-c", source], stderr=subprocess.PIPE)
        self.lines: list[str] = []
        if quiet:
            wait_for_server(address=str(self.path), sleeptime=0.02)
        else:
            self.wait_for("serving ")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def wait_for(self, text: str) -> str:
        """Read the log up to a line that has `text` in it, and give that."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode())
            if text in self.lines[-1]:
                return self.lines[-1]
        raise AssertionError(f"the server ended without {text!r}: {''.join(self.lines)}")

    def memory_bytes(self) -> int:
        """Give how much memory the process has taken up at most so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
