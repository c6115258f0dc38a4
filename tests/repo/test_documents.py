"""What the documents show is what happens."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in [*ROOT.glob("*.md"), *ROOT.glob("packages/*/README.md"), *ROOT.glob("docs/**/*.md")]
    if "```python" in page.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path) -> None:
    """The Python of a page runs from top to bottom as one program, in an empty folder.

    A block that begins with `# NAME.py` is a file of that name, for the others to import.
    """
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    files = {"examples.py": ""}
    for block in blocks:
        named = re.match(r"# (\w+\.py)\n", block)
        name = named[1] if named is not None else "examples.py"
        files[name] = files.get(name, "") + block
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_test_says_what_it_promises() -> None:
    """Each test function has a docstring."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        if ast.get_docstring(node) is None
    ]
    assert silent == []


def test_the_pictures_of_the_formats_are_those_of_the_modules() -> None:
    """A page of docs/formats quotes the module that owns the format, word for word."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "formats" / "quote.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
