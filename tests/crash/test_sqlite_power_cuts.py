"""The power fails at any point of a run of SqliteStorage.

SQLite writes by itself, so its system calls are recorded by strace, and done again through the
recorder of `durus.testing.crash`, which knows every content that a cut may leave. Each is opened
with default options: exactly some k transactions are there, k not below the last acknowledged.

Cases:
    commits to a fresh file, checkpoints, a reopening, a pack in steps with commits between
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from durus.storage import MemoryStorage
from durus.testing.crash import DiskRecorder, crash_points

from .conftest import kind_named
from .helpers import NAME, StateChecker
from .sqlite_run import run

ROOT = Path(__file__).parents[2]

_CALLS = "openat,write,pwrite64,pwritev,ftruncate,fsync,fdatasync,unlink,rename,renameat2,link"
_CALL = re.compile(r"(\w+)\((.*)\)\s+= (-?\d+)(?:<.*>| .*)?")
_BYTES = r'"((?:\\x[0-9a-f]{2})*)"'


def _strace(*command: str) -> list[str]:
    return ["strace", "-qq", "-y", "-xx", "-s", str(1 << 24), "-e", f"trace={_CALLS}", *command]


def _can_trace() -> bool:
    if shutil.which("strace") is None:
        return False
    return subprocess.run(_strace("true"), capture_output=True, check=False).returncode == 0


needs_strace = pytest.mark.skipif(not _can_trace(), reason="strace is not there, or may not trace")


class Replay:
    """Does what strace has seen again, in another directory, through a recorder."""

    def __init__(self, recorder: DiskRecorder, source: Path, target: Path) -> None:
        self._recorder = recorder
        self._source, self._target = str(source), str(target)
        self._files: dict[str, int] = {}

    def do(self, line: str) -> None:
        found = _CALL.fullmatch(line.strip())
        if found is None or int(found[3]) < 0:
            return
        call, arguments = found[1], found[2]
        if call == "write" and arguments.startswith("1<"):
            self._recorder.acknowledge(int(_bytes_in(arguments)))
            return
        path = self._path_in(call, arguments)
        # That of the shared memory is made anew from the WAL file, whatever is in it.
        if path is None or path.endswith("-shm"):
            return
        recorder = self._recorder
        if call == "openat":
            self._open(path, create="O_CREAT" in arguments)
        elif call == "unlink":
            recorder.unlink(path)
            self._close(path)
        elif call in {"fsync", "fdatasync"}:
            getattr(recorder, call)(self._open(path))
        elif call == "ftruncate":
            recorder.ftruncate(self._open(path), int(arguments.rpartition(",")[2]))
        elif call == "pwrite64":
            data = _bytes_in(arguments)
            assert len(data) == int(found[3])
            recorder.pwrite(self._open(path), data, int(arguments.rpartition(",")[2]))
        else:
            raise AssertionError(f"cannot do {line[:200]}")

    def _path_in(self, call: str, arguments: str) -> str | None:
        if call in {"openat", "unlink", "rename", "renameat2", "link"}:
            path = _bytes_in(arguments).decode()
        else:
            path = re.match(r"\d+<(.*?)>", arguments)[1]  # type: ignore[index]  # -y says it always
            path = re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), path)
        if not path.startswith(self._source):
            return None
        return self._target + path.removeprefix(self._source)

    def _open(self, path: str, *, create: bool = False) -> int:
        if path not in self._files:
            is_folder = os.path.isdir(path)
            flags = os.O_RDONLY if is_folder else os.O_RDWR | (os.O_CREAT if create else 0)
            self._files[path] = self._recorder.open(path, flags)
        return self._files[path]

    def _close(self, path: str) -> None:
        if path in self._files:
            self._recorder.close(self._files.pop(path))

    def close(self) -> None:
        for path in list(self._files):
            self._close(path)


def _bytes_in(arguments: str) -> bytes:
    found = re.search(_BYTES, arguments)
    assert found is not None, arguments[:200]
    return bytes.fromhex(found[1].replace("\\x", ""))


@needs_strace
def test_a_run_of_sqlite_storage(place: Path, live: Path) -> None:
    """A cut anywhere loses nothing acknowledged, leaves nothing half done, and work goes on."""
    real = place / "real"
    real.mkdir()
    trace = place / "trace"
    program = [sys.executable, "-m", "tests.crash.sqlite_run", str(real / NAME)]
    subprocess.run(
        _strace("-o", str(trace), *program), cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )
    recorder = DiskRecorder(live)
    replay = Replay(recorder, real, live)
    with trace.open() as lines:
        for line in lines:
            replay.do(line)
    replay.close()
    assert (live / NAME).read_bytes() == (real / NAME).read_bytes()
    memory = MemoryStorage()
    history = run(lambda: nullcontext(memory), lambda number: None)
    open_storage = kind_named("SqliteStorage").open
    look = StateChecker(open_storage, history, place / "cut", works_on=False)
    look.check_all(recorder.states())
    # To commit, pack and reopen takes ten times as long.
    work = StateChecker(open_storage, history, place / "cut")
    work.check_all(recorder.states(max(crash_points() // 10, 20), seed=1))
