"""The pages on the commands: each has every option, and each transcript in it is replayed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "commands"
PAGES = sorted(page for page in FOLDER.glob("*.md") if page.stem != "index")

# What a transcript with such a command needs beside the command and its files.
NEEDED = {
    "durus serve": "durus.storage_server",
    "durus plugins": "durus.storage_server",
    "sqlite:": "durus.sqlite_storage",
}


def _commands(block: str) -> Iterator[tuple[str, str]]:
    """Yield (command, what it is to print) of a transcript."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def _pattern(expected: str) -> str:
    """Make a pattern of a transcript: `...` is any text, and a line of its own any lines."""
    lines = expected.rstrip().splitlines()
    return "\n".join(
        "(?s:.*?)" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*?") for line in lines
    )


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_transcripts_are_true(page: Path, durus: Any) -> None:
    """Every command on the page prints what the page says, one after the other in one folder."""
    blocks = re.findall(r"^```console\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    commands = [command for block in blocks for command in _commands(block)]
    assert any(f"durus {page.stem}" in command for command, _ in commands)
    for word, module in NEEDED.items():
        if any(word in command for command, _ in commands):
            pytest.importorskip(module, reason=f"{module} is not installed here")
    path = f"{Path(durus.words[0]).parent}{os.pathsep}{durus.environment['PATH']}"
    groups = []
    try:
        for command, expected in commands:
            shell = subprocess.Popen(
                ["bash", "-c", command],
                cwd=durus.folder,
                env=durus.environment | {"PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            groups.append(shell.pid)
            found, _ = shell.communicate()
            printed = "\n".join(line.rstrip() for line in found.rstrip().splitlines())
            assert re.fullmatch(_pattern(expected), printed), f"$ {command}\n{found}"
    finally:
        # A server that a page starts, and would have stopped further down.
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_the_page_has_every_option(page: Path, durus: Any) -> None:
    """Each option that the command's help lists is on its page."""
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", durus(page.stem, "--help").stdout))
    text = page.read_text()
    assert {option for option in options - {"--help"} if option not in text} == set()
