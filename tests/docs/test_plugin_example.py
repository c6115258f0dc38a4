"""The example of a storage plug-in: built and installed, it is found and keeps the contract."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="nothing here can build the example")

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "storage-plugin"
PAGE = DOCS / "guide" / "storage-plug-in.md"
DURUS = Path(sysconfig.get_path("scripts")) / "durus"

_STORE = """
from durus.connection import Connection
with Connection("folder:app") as connection:
    connection.get_root()["greeting"] = "hello"
    connection.commit()
"""
_FIND = """
from durus.database import Database
with Database("folder:app") as database, database.transaction() as root:
    print(root["greeting"])
"""
_LIST = """
from durus.backends import installed_storages
for found in installed_storages():
    print(found)
"""

Run = Callable[..., str]


def _run(*command: str | Path, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example's wheel unpacked in it, and nothing else."""
    folder = tmp_path_factory.mktemp("plug-in")
    shutil.copytree(EXAMPLE, folder / "source")
    options = ["--no-index", "--no-build-isolation", "--no-deps", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "install", "-q", *options]
    _run(*pip, "--target", folder / "installed", folder / "source", cwd=folder)
    return folder / "installed"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Run:
    """A function that runs a program in an empty folder, with the example installed."""
    # A sample of the power cuts will do here.
    points = os.environ.get("DURUS_CRASH_POINTS", "60")

    def run(*command: str | Path) -> str:
        return _run(*command, cwd=tmp_path, PYTHONPATH=str(installed), DURUS_CRASH_POINTS=points)

    return run


def test_the_conformance_suite_passes(run: Run, tmp_path: Path) -> None:
    """The example's tests pass far from its source, and no clause of the contract is left out."""
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    printed = run(sys.executable, "-m", "pytest", "-q", "-W", "error", "tests")
    told = re.compile(r"^TestFolderStorage: (\d+) ran, \d+ excused, 0 left out$", re.MULTILINE)
    found = told.search(printed)
    assert found is not None, printed
    assert int(found[1]) > 50


def test_it_is_found_by_its_url(run: Run) -> None:
    """What one program stores under a `folder:` URL, another finds, the command among them."""
    run(sys.executable, "-c", _STORE)
    assert run(sys.executable, "-c", _FIND) == "hello\n"
    assert "folder-1" in run(DURUS, "info", "folder:app")


def test_it_is_listed(run: Run) -> None:
    """Who asks what is installed is told of it, and where it comes from."""
    told = run(sys.executable, "-c", _LIST).splitlines()
    assert "durus-folder-example 1.0 (durus_folder:FolderStorage)" in told


def test_the_page_shows_what_the_files_hold() -> None:
    """Each listing of the page stands in the file that its first line names."""
    listing = re.compile(r"^```(?:py|toml)\n# (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    listings = listing.findall(PAGE.read_text(encoding="utf-8"))
    assert len(listings) >= 4
    for name, shown in listings:
        assert shown in (EXAMPLE / name).read_text(encoding="utf-8"), f"{name}:\n{shown}"
