"""What type checkers see of the public API."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = sorted(Path(__file__).parent.glob("users_*.py"))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_of_users_code_is_checked_as_it_says(sample: Path) -> None:
    """Strict mypy accepts what users rightly write, and refuses the lines that say so."""
    pytest.importorskip("mypy", reason="mypy is not installed here; tox -e types has it")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(sample)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
