"""Lets tox find every Python that pyenv has installed, chosen by `pyenv global` or not.

tox reads this file by itself. It finds interpreters on PATH; pyenv puts one there that answers only
for the versions that are switched on.
"""

from __future__ import annotations

import os
from pathlib import Path


def _put_pyenv_on_path() -> None:
    versions = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    folders = sorted(str(folder) for folder in versions.glob("*/bin"))
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders])


_put_pyenv_on_path()
