"""Put the picture of each format into its page.

The picture stands once, in the docstring of the module that owns the format. A page quotes it
between a line `<!-- picture of PATH -->` and a line `<!-- end of picture -->`. Without an argument,
this rewrites what stands between; `--check` only tells whether a page is out of date.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

_QUOTE = re.compile(
    r"^<!-- picture of (?P<path>\S+) -->\n.*?^<!-- end of picture -->$",
    flags=re.MULTILINE | re.DOTALL,
)


def quoted(page: str) -> str:
    """Give the text of a page with its pictures as they stand in the modules now."""
    return _QUOTE.sub(lambda match: _quote(match["path"]), page)


def _quote(path: str) -> str:
    picture = ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    if picture is None:
        raise ValueError(f"{path} opens with no picture")
    return f"<!-- picture of {path} -->\n```text\n{picture}\n```\n<!-- end of picture -->"


def main(arguments: list[str]) -> int:
    """Rewrite or check every page; give the exit status."""
    old = False
    for page in sorted(HERE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        new = quoted(text)
        if new == text:
            continue
        old = True
        if "--check" in arguments:
            print(f"{page.relative_to(ROOT)} is out of date: run python docs/formats/quote.py")
        else:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} is new")
    return 1 if old and "--check" in arguments else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
