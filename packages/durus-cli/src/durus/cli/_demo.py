"""`durus demo`: create, commit, abort and reopen on a real file, with the code that does it.

What is shown is what is run, and what is claimed is looked up: after each step a second, read-only
opening of the file tells what is really in it.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import click
from rich.console import Console
from rich.syntax import Syntax
from rich.text import Text

from durus.backends import file_path, open_storage
from durus.cli._errors import CommandError
from durus.cli._output import bytes_text, stdout_console
from durus.connection import Connection

__all__ = ["demo"]


@dataclass(frozen=True, slots=True)
class _Step:
    """One thing to show.

    Attributes:
        title: what the code does.
        code: what is shown and run; `{path}` stands for the file, as a Python string.
        prints: what it must print.
        stored: what `root["accounts"]` must be in the file afterwards.
    """

    title: str
    code: str
    prints: str
    stored: dict[str, int]


_STEPS = (
    _Step(
        "Create a database and commit the first objects",
        """\
from durus.connection import Connection
from durus.persistent_dict import PersistentDict

connection = Connection({path})
root = connection.get_root()
root["accounts"] = PersistentDict(ann=70, bob=30)
connection.commit()""",
        "",
        {"ann": 70, "bob": 30},
    ),
    _Step(
        "Change objects as you change any: the block commits all of it, or nothing",
        """\
accounts = root["accounts"]
with connection.transaction():
    accounts["ann"] -= 20
    accounts["bob"] += 20""",
        "",
        {"ann": 50, "bob": 50},
    ),
    _Step(
        "Change your mind: abort() brings the last commit back",
        """\
accounts["bob"] = 1_000_000
print("bob dreams of", accounts["bob"])
connection.abort()
print("bob wakes up with", accounts["bob"])""",
        "bob dreams of 1000000\nbob wakes up with 50\n",
        {"ann": 50, "bob": 50},
    ),
    _Step(
        "Reopen: another day, the same objects",
        """\
connection.close()
connection = Connection({path})
print(dict(connection.get_root()["accounts"]))""",
        "{'ann': 50, 'bob': 50}\n",
        {"ann": 50, "bob": 50},
    ),
)


@click.command(short_help="See a database made, changed, rolled back and reopened.")
@click.argument("file", required=False, type=click.Path())
def demo(file: str | None) -> None:
    """Show create, commit, abort and reopen on a real file, with the Python that does it.

    The database is made in FILE, which must not exist yet, or in a new temporary folder. It is
    kept, so that you can look at it afterwards.
    """
    path = _new_path(file)
    console = stdout_console()
    namespace: dict[str, Any] = {}
    try:
        for number, step in enumerate(_STEPS, 1):
            _show(console, number, step, path)
            printed = _run(step, path, namespace)
            _print_result(console, printed)
            _check(step, printed, path)
    finally:
        if "connection" in namespace:
            namespace["connection"].close()
    _tell_where(console, path)


def _new_path(file: str | None) -> str:
    if file is None:
        return os.path.join(tempfile.mkdtemp(prefix="durus-demo-"), "bank.durus")
    path = file_path(file)
    if path is None:
        raise CommandError(f"the demonstration needs a file, and {file!r} names none")
    if os.path.lexists(path):
        raise CommandError(f"{path!r} exists already; name a file for the demonstration to make")
    return file


def _code(step: _Step, path: str) -> str:
    return step.code.replace("{path}", repr(path))


def _show(console: Console, number: int, step: _Step, path: str) -> None:
    console.print(Text(f"{number}. {step.title}", style="bold"))
    console.print()
    for line in _lines(console, _code(step, path)):
        console.print(Text("    ").append_text(line), soft_wrap=True)
    console.print()


def _lines(console: Console, code: str) -> list[Text]:
    if not console.is_terminal:
        return [Text(line) for line in code.splitlines()]
    highlighted = Syntax(code, "python", theme="ansi_dark").highlight(code)
    highlighted.rstrip()
    return list(highlighted.split("\n", allow_blank=True))


def _run(step: _Step, path: str, namespace: dict[str, Any]) -> str:
    printed = StringIO()
    with redirect_stdout(printed):
        exec(_code(step, path), namespace)  # noqa: S102 - our own text, with a path in quotes
    return printed.getvalue()


def _print_result(console: Console, printed: str) -> None:
    for line in printed.splitlines():
        console.print(Text("    -> ", style="green").append(line), soft_wrap=True)
    if printed:
        console.print()


def _check(step: _Step, printed: str, path: str) -> None:
    """Compare what was printed and what the file now holds with what the step claims.

    Raises:
        CommandError: they differ.
    """
    with Connection(open_storage(path, readonly=True)) as connection:
        stored = dict(connection.get_root().get("accounts", {}))
    if (printed, stored) != (step.prints, step.stored):
        raise CommandError(
            f"the demonstration does not work here: after {step.title!r} the file {path!r} holds"
            f" {stored!r}, and {printed!r} was printed"
        )


def _tell_where(console: Console, path: str) -> None:
    where = file_path(path) or path
    size = bytes_text(os.path.getsize(where))
    checked = Text("Checked: ", style="bold green").append(
        "after each step the file was opened a second time, and held what is said here.",
        style="not bold default",
    )
    console.print(checked, soft_wrap=True)
    place = os.path.abspath(where)
    console.print(f"The database is {place} ({size}), and it stays. Look into it:", soft_wrap=True)
    console.print()
    for command in ("shell", "info"):
        console.print(f"    durus {command} {shlex.quote(where)}", soft_wrap=True)
