"""The five-minute start: whoever types what it says sees what it says, sharing included."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("durus.storage_server", reason="durus-server is not installed here")

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")


def _write_files(page: str, folder: Path) -> None:
    """Write the files that a page shows, each under the name in its first line."""
    for name, text in re.findall(r"^```python\n# (\S+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        (folder / name).write_text(_here(text))


def _here(command: str) -> str:
    """Put the server's usual place, which another may have, where this test has its server."""
    command = command.replace("durus://127.0.0.1:2972", "durus+unix:a.sock")
    return re.sub(r"^durus (serve|shell)", r"durus \1 --address a.sock", command)


def _follow(durus: Any, block: str) -> None:
    """Type the commands of a console block."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{durus.environment['PATH']}"
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        if re.match("durus serve [a-z]", command):
            durus.start(*_here(command).split()[1:])
            durus("shell", "--address", "a.sock")  # waits for it
            continue
        done = subprocess.run(
            ["bash", "-c", _here(command)],
            cwd=durus.folder,
            env=durus.environment | {"PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        pattern = re.escape(expected.rstrip()).replace(r"\.\.\.", "(?s:.*?)")
        printed = "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())
        assert re.fullmatch(pattern, printed), f"$ {command}\n{done.stdout}"


def _type(window: Any, block: str) -> None:
    """Type the lines of a block into a Python console, and look for what they print."""
    for part in re.split(r"^>>> ", block, flags=re.MULTILINE)[1:]:
        command, *expected = part.splitlines()
        window.sendline(command)
        for line in expected:
            window.expect(re.escape(line.strip()).replace(r"\.\.\.", ".*?"))
        window.expect_exact(">>> ")


def test_whoever_follows_it_shares_a_database(durus: Any) -> None:
    """Each command and each line for a console prints what the page says, in this order."""
    _write_files(PAGE, durus.folder)
    typed_block = r"((?:^    (?:\$ durus shell|>>>)[^\n]*\n)(?:^    [^\n]*\n)*)"
    blocks = re.findall(
        rf"^```console\n(.*?)^```|{typed_block}", PAGE, flags=re.MULTILINE | re.DOTALL
    )
    windows: list[Any] = []
    turn = 0
    for console, typed in blocks:
        if console:
            _follow(durus, console)
            continue
        block = re.sub("^    ", "", typed, flags=re.MULTILINE)
        if block.startswith("$ durus shell\n"):
            windows.append(durus.on_terminal("shell", "--address", "a.sock"))
            windows[-1].expect_exact(">>> ")
        # The page goes to and fro between the two windows.
        _type(windows[turn % 2], block)
        turn += 1
    assert (len(blocks), turn) == (9, 4)
    for process in durus.processes:
        assert process.wait(timeout=300) == 0


def test_the_client_of_the_servers_readme_counts(durus: Any) -> None:
    """What durus-server's README shows as a program runs beside others, as often as wanted."""
    page = (ROOT / "packages" / "durus-server" / "README.md").read_text(encoding="utf-8")
    _write_files(page, durus.folder)
    durus.start("serve", "app.durus", "--address", "a.sock")
    durus("shell", "--address", "a.sock")  # waits for it
    clients = [
        subprocess.Popen(
            [sys.executable, "client.py"],
            cwd=durus.folder,
            env=durus.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    printed = [client.communicate(timeout=300)[0] for client in clients]
    assert sorted(printed) == ["visit 1\n", "visit 2\n", "visit 3\n"]
    durus("serve", "--stop", "--address", "a.sock")
