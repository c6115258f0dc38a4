"""How long a commit takes beside peers that are up to no good.

A server on a file, one client that commits and reads what it committed, alone and beside each kind
of hostile peer, in turn. Everything has a process of its own; the machine is shared by all of them,
so that a part of what is measured is the processor time that the hostile process takes itself.

    python -m benchmarks.hostile [--seconds 4] [--rounds 3] [--kinds idle,flood] [--folder DIR]

Prints for each kind the median and the 99th percentile of a commit's latency, and the ratio of the
latter to that of the client alone in the same round: the median over the rounds. At most 2.0 is
what we want. `spin` is what the machine's share of it is: a process that only takes the processor.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import multiprocessing
import os
import random
import resource
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from struct import pack
from typing import Any

from durus.client_storage import ClientStorage
from durus.file_storage import FileStorage
from durus.logger import logger
from durus.storage_server import StorageServer
from durus.testing import commit, make_record
from durus.utils import int8_to_str

_CONTEXT = multiprocessing.get_context("spawn")

_ROOT = int8_to_str(0)
_GOOD, _LARGE = int8_to_str(1), int8_to_str(2)
_HELLO = b'{"client": "hostile"}'
_LOAD, _LOAD_MANY, _NEW_OIDS, _STORE, _COMMIT, _PACK, _WELCOME = 16, 17, 19, 20, 21, 24, 2
_HISTORY, _LOAD_AS_OF = 0x1C, 0x1E


def _frame(kind: int, payload: bytes = b"") -> bytes:
    return pack(">LBL", len(payload) + 5, kind, 1) + payload


def _connect(path: str, version: int = 1) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(path)
    sock.sendall(b"V" + pack(">L", version))
    _receive(sock, 4)
    if version == 2:
        sock.sendall(_frame(1, _HELLO))
        while _receive_frame(sock)[0] != _WELCOME:
            pass
    return sock


def _receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        some = sock.recv(size - len(data))
        if not some:
            raise ConnectionResetError
        data += some
    return data


def _receive_frame(sock: socket.socket) -> tuple[int, bytes]:
    header = _receive(sock, 9)
    return header[4], _receive(sock, int.from_bytes(header[:4], "big") - 5)


# -- the kinds: each gives an iterator that does a bit of harm at each next()


def _idle(path: str) -> Iterator[None]:
    """Connect 1,300 times, and be silent."""
    held = [_connect(path, 1 + number % 2) for number in range(1300)]
    while held:
        time.sleep(0.05)
        yield


def _flood(path: str) -> Iterator[None]:
    """Connect and leave, as fast as it goes."""
    for number in itertools.count():
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            sock.send(b"V\0\0\0\2"[: number % 6])
        yield


def _unread(path: str) -> Iterator[None]:
    """Ask for megabytes, and read nothing of them."""
    held: list[socket.socket] = []
    while True:
        if len(held) < 50:
            sock = _connect(path, 2)
            sock.setblocking(False)
            held.append(sock)
        for sock in list(held):
            try:
                sock.send(_frame(_LOAD_MANY, _LARGE * 1000))
            except BlockingIOError:
                pass
            except OSError:
                held.remove(sock)
        time.sleep(0.01)
        yield


def _half(path: str) -> Iterator[None]:
    """Send the first halves of requests and commits, and hold them open."""
    held = []
    for number in range(200):
        held.append(_connect(path, 1 + number % 2))
        held[-1].sendall((b"C" + pack(">L", 1 << 28) + bytes(20_000), b"\0\0")[number % 2])
    while held:
        time.sleep(0.05)
        yield


def _oids(path: str) -> Iterator[None]:
    """Take as many oids as there are at once, use none, and leave."""
    while True:
        with _connect(path, 2) as sock:
            sock.sendall(_frame(_NEW_OIDS, pack(">L", 8192)))
            _receive_frame(sock)
        yield


def _garbage(path: str) -> Iterator[None]:
    """Send random bytes after each greeting."""
    chance = random.Random(1)
    for number in itertools.count():
        with _connect(path, 1 + number % 2) as sock:
            # A Q of this user would stop the server, as it should.
            sock.sendall(chance.randbytes(1000).replace(b"Q", b"q"))
        yield


def _bad_commits(path: str) -> Iterator[None]:
    """Commit what must be refused: unissued oids, references to nothing, malformed records."""
    bad = [
        make_record(int8_to_str(1 << 40)),
        make_record(_ROOT, [int8_to_str(1 << 40)]),
        make_record(_ROOT)[:-1],
    ]
    with _connect(path, 2) as sock:
        while True:
            for found in bad:
                sock.sendall(_frame(_STORE, pack(">L", len(found)) + found) + _frame(_COMMIT))
                _receive_frame(sock)
                yield


def _many_records(path: str) -> Iterator[None]:
    """Commit transactions of 32 MiB of small records, none of which may be stored."""
    records = [make_record(int8_to_str((1 << 40) + number)) for number in range(250_000)]
    entries = [pack(">L", len(found)) + found for found in records]
    stores = [
        _frame(_STORE, b"".join(entries[at : at + 10_000])) for at in range(0, len(entries), 10_000)
    ]
    while True:
        with _connect(path, 2) as sock:
            for store in stores:
                sock.sendall(store)
                yield
            sock.sendall(_frame(_COMMIT))
            _receive_frame(sock)


def _one_frame(path: str) -> Iterator[None]:
    """Send 32 MiB of small records in one frame, again and again, and give up."""
    found = make_record(_GOOD)
    entry = pack(">L", len(found)) + found
    store = _frame(_STORE, entry * ((32 << 20) // len(entry)))
    while True:
        with _connect(path, 2) as sock:
            sock.sendall(store)
            sock.sendall(_frame(0x17) + _frame(0x12))
            _receive_frame(sock)
            yield


def _packs(path: str) -> Iterator[None]:
    """Pack all the time."""
    with _connect(path, 2) as sock:
        while True:
            sock.sendall(_frame(_PACK))
            while _receive_frame(sock)[0] == 0x98:
                pass
            yield


def _history(path: str) -> Iterator[None]:
    """Ask for the newest commits and for an old state, all the time, and leave now and then."""
    while True:
        with _connect(path, 2) as sock:
            for _ in range(20):
                sock.sendall(_frame(_HISTORY, pack(">QL", (1 << 64) - 1, 4096)))
                _receive_frame(sock)
                sock.sendall(_frame(_LOAD_AS_OF, _LARGE + pack(">Q", 2)))
                _receive_frame(sock)
                yield
            sock.sendall(_frame(_HISTORY, pack(">QL", (1 << 64) - 1, 4096)))


def _spin(_: str) -> Iterator[None]:
    """Take as much of the processor as the others do, and leave the server alone."""
    while True:
        yield


KINDS: dict[str, Callable[[str], Iterator[None]]] = {
    "idle": _idle,
    "flood": _flood,
    "unread": _unread,
    "half": _half,
    "oids": _oids,
    "garbage": _garbage,
    "bad-commits": _bad_commits,
    "many-records": _many_records,
    "one-frame": _one_frame,
    "packs": _packs,
    "history": _history,
    "spin": _spin,
}


# -- processes


def _serve(folder: str) -> None:
    logger.setLevel(logging.ERROR)
    storage = FileStorage(os.path.join(folder, "app.durus"))
    objects = [make_record(int8_to_str(number), payload=b"x" * 80) for number in range(3, 3000)]
    commit(
        storage,
        make_record(_ROOT, [int8_to_str(number) for number in range(1, 3000)]),
        make_record(_GOOD),
        make_record(_LARGE, payload=os.urandom(20_000)),
        *objects,
    )
    StorageServer(storage, address=os.path.join(folder, "s")).serve()


def _do_harm(kind: str, path: str, is_ready: Event, stop: Event) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    harm = KINDS[kind](path)
    while not stop.is_set():
        # The server cuts it off now and then: it comes again.
        with contextlib.suppress(OSError):
            for _ in harm:
                is_ready.set()
                if stop.is_set():
                    return
        harm = KINDS[kind](path)


def _behave(path: str, seconds: float, answer: Any) -> None:
    latencies = []
    with ClientStorage(address=path) as client:
        end = time.perf_counter() + seconds
        for number in itertools.count():
            found = make_record(_GOOD, payload=b"%d" % number)
            start = time.perf_counter()
            if start > end:
                break
            commit(client, found)
            latencies.append(time.perf_counter() - start)
            client.sync()
            if client.load(_GOOD) != found:
                raise RuntimeError("a commit that was acknowledged is not there")
    answer.send(latencies)


def measure(path: str, seconds: float, kind: str | None) -> list[float]:
    """Give the latencies, in seconds and sorted, of a client beside peers of a kind, or alone."""
    is_ready, stop = _CONTEXT.Event(), _CONTEXT.Event()
    hostile = None
    if kind is not None:
        hostile = _CONTEXT.Process(target=_do_harm, args=(kind, path, is_ready, stop))
        hostile.start()
        is_ready.wait(60)
    ours, theirs = _CONTEXT.Pipe()
    good = _CONTEXT.Process(target=_behave, args=(path, seconds, theirs))
    good.start()
    theirs.close()
    latencies: list[float] = sorted(ours.recv())
    good.join()
    stop.set()
    if hostile is not None:
        hostile.join(30)
        hostile.kill()
        hostile.join()
    return latencies


def _memory_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM:"))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4, help="how long each measurement takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS), help="which, separated by commas")
    parser.add_argument("--folder", help="where the database is")
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    ratios: dict[str, list[float]] = {kind: [] for kind in kinds}
    seen: dict[str, list[list[float]]] = {kind: [] for kind in [*kinds, "alone"]}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        server = _CONTEXT.Process(target=_serve, args=(folder,))
        server.start()
        path = os.path.join(folder, "s")
        ClientStorage(address=path, wait_s=60).close()
        for _ in range(args.rounds):
            for kind in kinds:
                alone = measure(path, args.seconds, None)
                beside = measure(path, args.seconds, kind)
                seen["alone"].append(alone)
                seen[kind].append(beside)
                ratios[kind].append(_percentile(beside, 99) / _percentile(alone, 99))
        memory_bytes = _memory_bytes(server.pid or 0)
        os.kill(server.pid or 0, signal.SIGTERM)
        server.join()
    print(f"{'beside':14}{'commits/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>7}  of each round")
    for kind, runs in seen.items():
        rate = sum(map(len, runs)) / (args.seconds * len(runs))
        p50, p99 = (
            statistics.median(_percentile(run, percent) for run in runs) * 1000
            for percent in (50, 99)
        )
        line = f"{kind:14}{rate:10.0f}{p50:9.2f}{p99:9.2f}"
        if kind in ratios:
            each = ", ".join(f"{ratio:.1f}" for ratio in ratios[kind])
            line += f"{statistics.median(ratios[kind]):7.1f}  {each}"
        print(line)
    print(f"the server took {memory_bytes / (1 << 20):.0f} MiB at most")


def _percentile(ordered: list[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


if __name__ == "__main__":
    main()
