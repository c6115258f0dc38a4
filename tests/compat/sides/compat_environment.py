"""A virtual environment that holds Durus 4.3 and nothing of ours."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REQUIREMENT = "Durus==4.3"

# Names an interpreter that has Durus 4.3 already: for machines that cannot reach a package index.
PYTHON_VARIABLE = "DURUS43_PYTHON"

# What pip says when it cannot talk to the index, as opposed to what the index answers.
_OUT_OF_REACH = re.compile(
    r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|NameResolutionError|ProxyError"
    r"|Temporary failure in name resolution|Network is unreachable|Connection refused"
    r"|Could not fetch URL"
)

# Durus 4.3 installs on Python 3.13 and cannot load an object there: it sets the `persistent_load`
# of an unpickler, which has become read-only.
FIRST_PYTHON_TOO_NEW = (3, 13)

_SELF_CHECK = """
import sys, durus, durus._persistent
from importlib.metadata import version
from durus.connection import Connection
from durus.persistent_dict import PersistentDict
from durus.storage import MemoryStorage

assert version("Durus") == "4.3", version("Durus")
assert durus.__file__.startswith(sys.prefix), durus.__file__
storage = MemoryStorage()
connection = Connection(storage)
connection.get_root()["inner"] = PersistentDict(x=1)
connection.commit()
assert Connection(storage).get_root()["inner"]["x"] == 1
"""


class UnavailableError(Exception):
    """Durus 4.3 cannot be had on this machine, by nothing that is wrong with the tests."""


class IndexOutOfReachError(UnavailableError):
    """Durus 4.3 cannot be fetched because no package index answers."""


class NoInterpreterError(UnavailableError):
    """There is no Python that is old enough for Durus 4.3."""


def provide(cache_directory: Path) -> Path:
    """Give the interpreter of an environment with Durus 4.3, made now or found in the cache.

    An environment appears under its final name only when it is complete, so a run that was
    interrupted leaves nothing half made; of parallel workers one makes it and the others wait.

    Raises:
        IndexOutOfReachError: no package index answers.
        NoInterpreterError: every Python here is too new.
        RuntimeError: anything else went wrong, with what the tool said.
    """
    given = os.environ.get(PYTHON_VARIABLE)
    if given:
        _self_check(Path(given))
        return Path(given)
    base = find_base_interpreter()
    cache_directory.mkdir(parents=True, exist_ok=True)
    final = cache_directory / f"durus43-{_interpreter_tag(base)}"
    python = final / "bin" / "python"
    with _exclusive(cache_directory / f"{final.name}.lock"):
        if not python.exists():
            _make(base, final)
    return python


def find_base_interpreter() -> str:
    """Give the running interpreter, or where that is too new for Durus 4.3, the newest that is not.

    Raises:
        NoInterpreterError: there is none on PATH or in pyenv.
    """
    if sys.version_info < FIRST_PYTHON_TOO_NEW:
        return sys.executable
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    folders = [*os.get_exec_path(), *sorted(map(str, versions.glob("*/bin")))]
    for minor in range(FIRST_PYTHON_TOO_NEW[1] - 1, 8, -1):
        for folder in folders:
            candidate = os.path.join(folder, f"python3.{minor}")
            # One of pyenv's shims may be there and refuse.
            if os.access(candidate, os.X_OK) and _ask_version(candidate).startswith("3."):
                return candidate
    raise NoInterpreterError(
        f"Durus 4.3 works on no Python from {'.'.join(map(str, FIRST_PYTHON_TOO_NEW))} on, and no"
        " older one is on PATH or in pyenv"
    )


def _make(base: str, final: Path) -> None:
    making = Path(tempfile.mkdtemp(prefix=f"{final.name}.making.", dir=final.parent))
    try:
        _run([base, "-m", "venv", str(making)])
        python = making / "bin" / "python"
        install = ["-m", "pip", "install", "--quiet", "--retries", "2", "--timeout", "20"]
        _run([str(python), *install, REQUIREMENT])
        _self_check(python)
        # The scripts in bin/ still name the old folder; the interpreter finds its own place.
        making.rename(final)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _self_check(python: Path) -> None:
    _run([str(python), "-I", "-c", _SELF_CHECK])


def _run(command: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode == 0:
        return
    said = f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
    if _OUT_OF_REACH.search(done.stdout):
        raise IndexOutOfReachError(said)
    raise RuntimeError(
        f"{said}\n{REQUIREMENT} cannot be installed. It is built from source, which takes a C"
        f" compiler. Set {PYTHON_VARIABLE} to an interpreter that has it."
    )


def _interpreter_tag(base: str) -> str:
    """Tell interpreters apart that cannot share an environment."""
    return f"{sys.implementation.name}-{_ask_version(base)}-{sysconfig.get_platform()}"


def _ask_version(python: str) -> str:
    """Give the version of an interpreter, or nothing if it does not run."""
    ask = [python, "-I", "-c", "import platform; print(platform.python_version())"]
    done = subprocess.run(ask, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
