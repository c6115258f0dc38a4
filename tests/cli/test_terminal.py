"""`durus shell` on a real terminal: banner, prompt, history, completion, leaving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest

Look = Callable[[Path], dict[str, Any]]

PROMPT = ">>> "
CTRL_D = "\x04"


def _open(durus: Any, *arguments: str | Path, **environment: str) -> Any:
    child = durus.on_terminal("shell", *arguments, **environment)
    child.expect_exact(PROMPT)
    return child


def _ask(child: Any, line: str) -> str:
    """Type a line, and give what is printed before the next prompt."""
    child.sendline(line)
    child.expect_exact(PROMPT)
    _, _, answer = child.before.partition("\r\n")
    return str(answer).strip()


def _leave(child: Any) -> int:
    child.expect_exact(pexpect.EOF)
    child.close()
    return int(child.exitstatus)


def test_banner_and_prompt(durus: Any, database: Path) -> None:
    """The banner names the database and the console's names; the prompt is Python's."""
    child = _open(durus, database)
    assert f"Durus 5.0.0a1, {database} (FileStorage)" in child.before
    assert "connection -> the Connection" in child.before
    assert "root       -> the root instance" in child.before
    assert _ask(child, "sorted(root)") == "['ann', 'bob', 'cid']"
    child.send(CTRL_D)
    assert _leave(child) == 0


def test_an_error_does_not_end_the_console(durus: Any, database: Path) -> None:
    """On a terminal an error is shown and the console goes on; so does Ctrl-C."""
    child = _open(durus, database)
    assert "ZeroDivisionError" in _ask(child, "1/0")
    child.send("half a li")
    child.expect_exact("half a li")
    child.sendintr()
    child.expect_exact("KeyboardInterrupt")
    child.expect_exact(PROMPT)
    assert _ask(child, "6*7") == "42"
    child.sendline("exit(3)")
    assert _leave(child) == 3


def test_leaving_with_changes_asks_once(durus: Any, database: Path, look: Look) -> None:
    """The first Ctrl-D with changes tells of them, the second drops them and says so."""
    child = _open(durus, database)
    _ask(child, "root['n'] = 1")
    child.send(CTRL_D)
    child.expect_exact("1 changed object not committed: commit() keeps the changes")
    child.expect_exact(PROMPT)
    child.send(CTRL_D)
    child.expect_exact("durus: dropped 1 changed object, not committed")
    assert _leave(child) == 0
    assert "n" not in look(database)


def test_leaving_after_a_second_thought(durus: Any, database: Path, look: Look) -> None:
    """After the warning commit() keeps the changes, and leaving is silent."""
    child = _open(durus, database)
    _ask(child, "root['n'] = 1")
    child.send(CTRL_D)
    child.expect_exact("not committed")
    child.expect_exact(PROMPT)
    _ask(child, "commit()")
    child.send(CTRL_D)
    child.expect(pexpect.EOF)
    assert "dropped" not in child.before
    assert look(database)["n"] == 1


def test_exit_tells_what_it_drops(durus: Any, database: Path, look: Look) -> None:
    """exit() leaves at once, and says what is lost."""
    child = _open(durus, database)
    _ask(child, "root['n'] = 1")
    child.sendline("exit()")
    child.expect_exact("durus: dropped 1 changed object, not committed")
    assert _leave(child) == 0
    assert "n" not in look(database)


def test_history(durus: Any, database: Path) -> None:
    """What was typed is in ~/.durushistory, and comes back with the up arrow next time."""
    child = _open(durus, database)
    assert _ask(child, "'first' + 'line'") == "'firstline'"
    child.send(CTRL_D)
    _leave(child)
    history = durus.home / ".durushistory"
    assert "'first' + 'line'" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
    child = _open(durus, database)
    child.send("\x1b[A\r")
    child.expect_exact("'firstline'")
    child.expect_exact(PROMPT)


def test_a_history_that_cannot_be_kept(durus: Any, database: Path) -> None:
    """A history file that is out of reach costs a warning, not the session."""
    (durus.home / ".durushistory").mkdir()
    child = _open(durus, database)
    assert "durus: warning: cannot read the history" in child.before
    child.send(CTRL_D)
    child.expect_exact("durus: warning: cannot write the history")
    assert _leave(child) == 0


def test_completion(durus: Any, database: Path) -> None:
    """Tab completes the console's names and attributes."""
    child = _open(durus, database)
    child.send("connection.get_ro\t")
    child.expect_exact("connection.get_root()")
    child.send(" is root\r")
    child.expect_exact("True")
    child.expect_exact(PROMPT)


def test_startup_on_a_terminal(durus: Any, database: Path) -> None:
    """A startup file runs before the prompt; if it fails the console is there all the same."""
    startup = durus.folder / "startup.py"
    startup.write_text("ready = 'yes'\nraise RuntimeError('half way')\n")
    child = _open(durus, database, DURUSSTARTUP=str(startup))
    assert "RuntimeError: half way" in child.before
    assert _ask(child, "ready") == "'yes'"


def test_ipython(durus: Any, database: Path, look: Look) -> None:
    """--ipython gives IPython's console with the same names."""
    pytest.importorskip("IPython", reason="IPython is not installed here")
    durus.environment.pop("PYTHONWARNINGS")  # what IPython warns of is its own business
    child = durus.on_terminal("shell", database, "--ipython", TERM="dumb", NO_COLOR="1")
    child.expect_exact("root       -> the root instance")
    child.expect_exact("In [1]: ")
    child.send("root['n'] = len(list(n for n in root)); commit()\r")
    child.expect_exact("In [2]: ")
    child.send("exit\r")
    assert _leave(child) == 0
    assert look(database)["n"] == 3


def test_ipython_that_is_not_installed(durus: Any, database: Path) -> None:
    """Without IPython the error says what to install."""
    hidden = durus.folder / "hidden"
    hidden.mkdir()
    (hidden / "IPython.py").write_text("raise ImportError('hidden')\n")
    durus.see(hidden)
    child = durus.on_terminal("shell", database, "--ipython")
    child.expect_exact(
        "durus: error: IPython is not installed: pip install 'durus-cli[ipython]',"
        " or leave --ipython out"
    )
    assert _leave(child) == 1
