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

_SELF_CHECK = """
import sys, durus, durus._persistent
from importlib.metadata import version
assert version("Durus") == "4.3", version("Durus")
assert durus.__file__.startswith(sys.prefix), durus.__file__
"""


class IndexOutOfReachError(Exception):
    """Durus 4.3 cannot be fetched because no package index answers."""


def provide(cache_directory: Path) -> Path:
    """Give the interpreter of an environment with Durus 4.3, made now or found in the cache.

    An environment appears under its final name only when it is complete, so a run that was
    interrupted leaves nothing half made; of parallel workers one makes it and the others wait.

    Raises:
        IndexOutOfReachError: no package index answers.
        RuntimeError: anything else went wrong, with what the tool said.
    """
    given = os.environ.get(PYTHON_VARIABLE)
    if given:
        _self_check(Path(given))
        return Path(given)
    cache_directory.mkdir(parents=True, exist_ok=True)
    final = cache_directory / f"durus43-{_interpreter_tag()}"
    python = final / "bin" / "python"
    with _exclusive(cache_directory / f"{final.name}.lock"):
        if not python.exists():
            _make(final)
    return python


def _make(final: Path) -> None:
    making = Path(tempfile.mkdtemp(prefix=f"{final.name}.making.", dir=final.parent))
    try:
        _run([sys.executable, "-m", "venv", str(making)])
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
        f"{said}\n{REQUIREMENT} cannot be installed for Python {sys.version.split()[0]}. It is"
        f" built from source, which takes a C compiler. Set {PYTHON_VARIABLE} to an interpreter"
        " that has it."
    )


def _interpreter_tag() -> str:
    """Tell interpreters apart that cannot share an environment."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    return f"{sys.implementation.name}-{version}-{sysconfig.get_platform()}"


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
