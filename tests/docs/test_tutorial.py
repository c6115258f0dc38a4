"""The tutorial: its pages show the wiki of docs/examples, and that wiki works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import urlopen

import pytest

DOCS = Path(__file__).parents[2] / "docs"
WIKI = DOCS / "examples" / "wiki"
PAGES = sorted((DOCS / "tutorial").glob("*.md"))
DURUS = Path(sysconfig.get_path("scripts")) / "durus"

Start = Callable[..., subprocess.Popen[str]]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_shows_what_the_files_hold(page: Path) -> None:
    """Each block names a file first; all lines after it stand there, `...` for what is left out."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for block in blocks:
        first, _, shown = block.partition("\n")
        rest = (WIKI / first.removeprefix("# ")).read_text(encoding="utf-8")
        for part in re.split(r"^ *\.\.\.\n", shown, flags=re.MULTILINE):
            found = rest.find(part.strip("\n") + "\n")
            assert found >= 0, f"{first} does not hold:\n{part}"
            rest = rest[found:]  # and in this order


def test_the_pages_show_every_part_of_the_wiki() -> None:
    """Each module of the wiki is shown at least in part, so that nobody has to guess at one."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = set(re.findall(r"^```py\n# (wiki/\S+)$", text, re.MULTILINE))
    modules = {f"wiki/{path.name}" for path in (WIKI / "wiki").glob("*.py")}
    assert shown == modules - {"wiki/__init__.py"}


def test_the_tests_of_the_wiki_pass(tmp_path: Path) -> None:
    """The wiki's own tests run where it is copied to, and none of them is skipped."""
    shutil.copytree(WIKI, tmp_path / "wiki", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=tmp_path / "wiki",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed in ", done.stdout, re.MULTILINE), done.stdout


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a process in the folder of the test, ended after it."""
    processes: list[subprocess.Popen[str]] = []
    environment = os.environ | {"PYTHONPATH": str(WIKI), "PYTHONDONTWRITEBYTECODE": "1"}

    def start(*command: str | Path) -> subprocess.Popen[str]:
        with open(tmp_path / f"log-{len(processes)}", "wb") as log:
            process = subprocess.Popen(
                list(map(str, command)),
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        processes.append(process)
        return process

    yield start
    for process in reversed(processes):
        with process:  # closes the pipe, and waits
            process.terminate()


def _start_wiki(start: Start, database: str) -> str:
    """Start a process of the wiki, and give its address."""
    process = start(sys.executable, "-m", "wiki", database, "0")
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+(?=/$)", line)
    assert found is not None, line
    return found[0]


def _get(url: str) -> str:
    with urlopen(url, timeout=120) as answer:
        text: str = answer.read().decode()
        return text


def _save(wiki: str, title: str, text: str, begun_with: int = 0) -> str:
    """Send the form, and give the page that a browser shows then."""
    fields = {"text": text, "author": "Kim", "begun_with": begun_with}
    url = f"{wiki}/edit/{quote(title)}"
    with urlopen(url, urlencode(fields).encode(), timeout=120) as answer:
        shown: str = answer.read().decode()
        return shown


def test_two_processes_of_the_wiki_at_one_server(start: Start) -> None:
    """What is saved in one is seen in the other at once, and an edit conflict between them told."""
    start(DURUS, "serve", "wiki.durus", "--address", "wiki.sock")
    one, other = (_start_wiki(start, "durus+unix:wiki.sock?wait_s=120") for _ in range(2))
    assert "<p>Black.</p>" in _save(one, "Tea", "Black.")
    assert "<p>Black.</p>" in _get(f"{other}/page/Tea")
    assert "Tea</a></li>" in _get(f"{other}/search?q=bla*")
    assert "<p>Green.</p>" in _save(other, "Tea", "Green.", begun_with=1)
    with pytest.raises(HTTPError) as caught:
        _save(one, "Tea", "White.", begun_with=1)
    with caught.value as answer:
        assert answer.code == 409
        page = answer.read().decode()
    assert "<pre>Green.</pre>" in page
    assert "\nWhite.</textarea>" in page
    assert "<p>Green.</p>" in _get(f"{one}/page/Tea")


def test_many_edits_in_two_processes_at_once(start: Start) -> None:
    """Edits of many pages that change the same indexes are all kept: conflicts are run again."""
    start(DURUS, "serve", "wiki.durus", "--address", "wiki.sock")
    wikis = [_start_wiki(start, "durus+unix:wiki.sock?wait_s=120") for _ in range(2)]
    titles = [f"Page {n}" for n in range(24)]
    with ThreadPoolExecutor(8) as browsers:
        saved = browsers.map(
            lambda n: _save(wikis[n % 2], titles[n], f"Shared words, and number{n}."), range(24)
        )
        assert all(f"number{n}." in page for n, page in enumerate(saved))
    for wiki in wikis:
        found = _get(f"{wiki}/search?q=shared")
        assert all(f">{title}</a></li>" in found for title in titles)
        assert _get(f"{wiki}/changes").count("<li>") == len(titles)


def test_the_wiki_on_a_file(start: Start, tmp_path: Path) -> None:
    """For a first try a file will do, without a server."""
    wiki = _start_wiki(start, "wiki.durus")
    assert "<p>Black.</p>" in _save(wiki, "Tea", "Black.")
    # A second one at the same port says what to do.
    port = wiki.rpartition(":")[2]
    process = start(sys.executable, "-m", "wiki", "other.durus", port)
    assert process.wait(timeout=120) == 1
    log = (tmp_path / "log-1").read_text(encoding="utf-8")
    assert log == f"wiki: port {port}: Address already in use; give another port\n"
