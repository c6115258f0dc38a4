"""Compile `durus._speedups` for the Python that builds, or say why the wheel has none.

A wheel with the compiled module carries this Python's tag; without one it is `py3-none-any` and
`durus._pure` does the work. An editable install gets the module next to its source.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

MODULE = "durus._speedups"
FOLDER = Path("src", "durus")
SOURCES = ("_speedups.c", "_plain_states.c")
INCLUDED = ("_btree_speedups.c", "_plain_reader.c", "_plain_writer.c", "_plain_states.h")


class SpeedupsBuildHook(BuildHookInterface[BuilderConfig]):
    """Adds the compiled module to the wheel that is being built."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before hatchling gathers the files.

        Args:
            version: "standard" or "editable".
            build_data: hatchling's; gets the file and the tag when there is a compiled module.
        """
        if os.environ.get("DURUS_PURE_PYTHON") == "1":
            return
        self._work_dir = Path(tempfile.mkdtemp(prefix="durus-speedups-"))
        try:
            built = _compile(Path(self.root, FOLDER), self._work_dir)
        except (BaseError, CCompilerError) as error:
            self.app.display_warning(
                f"{error}\nWARNING: {MODULE} could not be compiled. Durus will work in pure Python,"
                " with the same behaviour and slower. A C compiler and the headers of this Python"
                " mend that; DURUS_PURE_PYTHON=1 asks for pure Python without this warning."
            )
            return
        if version == "editable":
            target = Path(self.root, FOLDER, built.name)
            # Not over the old one: programs that run have it in memory, as it is in the file.
            target.unlink(missing_ok=True)
            shutil.copy2(built, target)
            return
        build_data["force_include"][str(built)] = f"durus/{built.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the compiler's working folder: the wheel is written."""
        if hasattr(self, "_work_dir"):
            shutil.rmtree(self._work_dir, ignore_errors=True)


def _compile(folder: Path, work_dir: Path) -> Path:
    """Give the compiled module, made in `work_dir`; setuptools knows this system's compiler."""
    for name in (*SOURCES, *INCLUDED):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} is missing")
    extension = Extension(MODULE, [str(folder / name) for name in SOURCES])
    command = build_ext(Distribution({"name": "durus-core", "ext_modules": [extension]}))
    command.build_lib = str(work_dir / "lib")
    command.build_temp = str(work_dir / "temp")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath(MODULE))
