"""Importing Durus is quiet, and refuses to work beside an old Durus."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MODULES = sorted(
    ".".join(path.relative_to(src).with_suffix("").parts).removesuffix(".__init__")
    for src in ROOT.glob("packages/*/src")
    for path in src.rglob("*.py")
)
GUARDED = sorted(
    {
        "durus.backends",
        *(f"durus.{path.parent.name}" for path in ROOT.glob("packages/*/src/durus/*/__init__.py")),
    }
)

QUIETLY = """
import importlib, logging, signal, sys, threading, warnings
warnings.simplefilter("error")
hook, handler = sys.excepthook, signal.getsignal(signal.SIGINT)
for name in sys.argv[1:]:
    importlib.import_module(name)
loggers = [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]
ours = [logger for logger in loggers if logger.name == "root" or logger.name.startswith("durus")]
assert not any(logger.handlers for logger in ours), ours
assert all(logger.level == logging.NOTSET for logger in ours if logger.name != "root"), ours
assert logging.root.level == logging.WARNING
assert (sys.excepthook, signal.getsignal(signal.SIGINT)) == (hook, handler)
assert threading.active_count() == 1
"""


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", MODULES)
def test_importing_is_quiet(module: str) -> None:
    """A module prints nothing, warns of nothing, and touches no handler, hook, signal or thread."""
    done = _python("-c", QUIETLY, module)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("module", GUARDED)
def test_an_old_durus_in_the_same_environment_is_refused(module: str, tmp_path: Path) -> None:
    """Where `durus` has a file of its own, ours says so and does not load, whoever came last."""
    for src in ROOT.glob("packages/*/src/durus"):
        shutil.copytree(src, tmp_path / "durus", dirs_exist_ok=True)
    (tmp_path / "durus" / "__init__.py").write_text("")
    (tmp_path / "durus" / "error.py").write_text("")  # the old one knows other errors
    done = _python("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import {module}")
    assert done.returncode == 1
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError")
    assert "an old Durus" in last_line
