"""The guide's page on servers: its transcripts are replayed, its files are well-formed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("durus.storage_server", reason="durus-server is not installed here")

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
PAGE = GUIDE / "server.md"


def _blocks(language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def _commands() -> Iterator[tuple[str, str]]:
    """Yield (command, what it is to print) of the page; a command goes on in lines with `>`."""
    for block in _blocks("console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            first, *lines = part.splitlines()
            count = next((n for n, line in enumerate(lines) if line[:1] != ">"), len(lines))
            more = [line.removeprefix(">").removeprefix(" ") for line in lines[:count]]
            yield "\n".join([first, *more]), "\n".join(lines[count:])


def _pattern(expected: str) -> str:
    """Make a pattern of a transcript: `...` is any text, and a line of its own any lines."""
    lines = expected.rstrip().splitlines()
    return "\n".join(
        "(?s:.*?)" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*?") for line in lines
    )


def test_the_transcripts_are_true(durus: Any) -> None:
    """Every command on the page prints what the page says, one after the other in one folder."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed here")
    path = f"{Path(durus.words[0]).parent}{os.pathsep}{durus.environment['PATH']}"
    environment = durus.environment | {"PATH": path}
    commands = list(_commands())
    assert len(commands) >= 12
    for command, expected in commands:
        if command.endswith(" &"):
            words = shlex.split(command.removesuffix(" &"))
            assert words[0] == "durus"
            durus.start(*words[1:])
            continue
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=durus.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        # Whether a client had to wait for the server that was started before it is chance.
        lines = [
            line.rstrip()
            for line in done.stdout.rstrip().splitlines()
            if not line.startswith("durus: waiting for ")
        ]
        printed = "\n".join(lines)
        assert re.fullmatch(_pattern(expected), printed), f"$ {command}\n{done.stdout}"
    for process in durus.processes:
        assert process.wait(timeout=300) == 0


def test_the_units_are_well_formed(durus: Any) -> None:
    """systemd finds nothing to say against the unit files, and they start what there is."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed here")
    folder = durus.folder / "units"
    folder.mkdir()
    for text in _blocks("ini"):
        name = text.splitlines()[0].removeprefix("# ")
        (folder / name).write_text(text.replace("/opt/durus/bin/durus", durus.words[0]))
    assert sorted(path.name for path in folder.iterdir()) == ["durus.service", "durus.socket"]
    done = subprocess.run(
        [tool, "verify", "--man=no", folder / "durus.service", folder / "durus.socket"],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "durus" in line]
    assert (done.returncode, said) == (0, []), done.stderr


def test_the_service_runs_a_command_that_is_there(durus: Any) -> None:
    """What ExecStart says is accepted by `durus serve`, options included."""
    (line,) = [
        line
        for text in _blocks("ini")
        for line in text.splitlines()
        if line.startswith("ExecStart=")
    ]
    words = shlex.split(line.partition("=")[2])
    assert words[1] == "serve"
    durus(*words[1:-1], "--help")


def test_every_option_on_the_pages_is_there(durus: Any) -> None:
    """No page on servers speaks of an option that no command has."""
    known = "".join(
        durus(name, "--help").stdout for name in ("serve", "shell", "pack", "status", "info")
    )
    for page in ("server.md", "migrating-from-4.3.md"):
        text = (GUIDE / page).read_text(encoding="utf-8")
        options = set(re.findall(r"`[^`\n]*?(?<![\w-])(--[a-z][a-z-]+)", text))
        assert {option for option in options if option not in known} == set(), page
