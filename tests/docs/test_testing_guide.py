"""The guide's page on testing: its examples are run as what they are, with pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "testing.md"

# In the one order, and with nothing closed by the test, then in the other.
_BOTH_ORDERS = """
def test_server_first(durus_server, durus_open):
    with durus_open(durus_server).transaction() as root:
        root["n"] = 1

def test_server_last(durus_open, durus_server):
    with durus_open(durus_server).transaction() as root:
        assert "n" not in root
"""


def _pytest(folder: Path, *options: str) -> str:
    """Run the tests of a folder, every warning an error, and give what pytest printed."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    """Each listing, in the file that its first line names, runs; and no test of them is skipped."""
    listing = re.compile(r"^```py\n# (\S+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    blocks = listing.findall(PAGE.read_text())
    for name, source in blocks:
        (tmp_path / name).write_text(source)
    tests = sum(len(re.findall(r"^def test_", source, re.MULTILINE)) for _, source in blocks)
    assert tests >= 6
    assert re.search(rf"^{tests} passed in ", _pytest(tmp_path), re.MULTILINE)


def test_server_and_databases_end_in_any_order(tmp_path: Path) -> None:
    """A database on the server that the test leaves open is closed, before the server or after."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["durus.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text(_BOTH_ORDERS)
    assert "2 passed" in _pytest(tmp_path)
