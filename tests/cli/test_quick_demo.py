"""The quick demonstration as users of Durus know it: three windows, each a real terminal."""

from __future__ import annotations

from typing import Any

import pexpect
import pytest

pytest.importorskip("durus.storage_server", reason="durus-server is not installed here")

PROMPT = ">>> "

# Port 2972, where the demonstration takes place, may be taken on this machine.
PLACE = ("--address", "demo.sock")


def _console(durus: Any, *arguments: str) -> Any:
    window = durus.on_terminal("-c", *arguments)
    window.expect_exact(PROMPT)
    return window


def _type(window: Any, line: str) -> str:
    """Type a line, and give what is printed before the next prompt."""
    window.sendline(line)
    window.expect_exact(PROMPT)
    _, _, answer = window.before.partition("\r\n")
    return str(answer).strip()


def _end(window: Any) -> int:
    """Wait until the command has ended by itself; give its status."""
    window.expect_exact(pexpect.EOF)
    window.close()
    return int(window.exitstatus)


def _leave(window: Any) -> int:
    window.sendline("exit()")
    return _end(window)


def test_three_windows(durus: Any) -> None:
    """A commit in one window is seen in the other after abort() or commit(), and not before."""
    server = durus.on_terminal("-s", *PLACE)
    server.expect_exact("Serving a temporary file that goes with the server: ")
    one, other = _console(durus, *PLACE), _console(durus, *PLACE)
    _type(one, "root['greeting'] = 'hello'")
    _type(one, "connection.commit()")
    assert "KeyError" in _type(other, "root['greeting']")
    _type(other, "connection.abort()")
    assert _type(other, "root['greeting']") == "'hello'"
    _type(one, "root['greeting'] = 'goodbye'")
    _type(one, "connection.commit()")
    assert _type(other, "root['greeting']") == "'hello'"
    _type(other, "connection.commit()")
    assert _type(other, "root['greeting']") == "'goodbye'"
    assert _leave(one) == _leave(other) == 0
    server.sendintr()
    assert _end(server) == 0


def test_two_who_change_the_same(durus: Any) -> None:
    """Whoever commits second gets a conflict, and after abort() sees what the first committed."""
    server = durus.on_terminal("-s", *PLACE)
    one, other = _console(durus, *PLACE), _console(durus, *PLACE)
    for window, text in ((one, "morning"), (other, "evening")):
        _type(window, f"root['greeting'] = 'good {text}'")
    assert _type(one, "connection.commit()") == ""
    assert "WriteConflictError" in _type(other, "connection.commit()")
    _type(other, "connection.abort()")
    assert _type(other, "root['greeting']") == "'good morning'"
    server.sendintr()
    assert _end(server) == 0


def test_stopped_from_another_window(durus: Any) -> None:
    """`durus -s --stop` ends the server in its window; a console goes on with a new one."""
    server = durus.on_terminal("-s", "--file", "test.durus", *PLACE)
    console = _console(durus, *PLACE)
    _type(console, "root['n'] = 1")
    _type(console, "connection.commit()")
    assert durus("-s", "--stop", *PLACE).stdout == ""
    assert _end(server) == 0
    durus.on_terminal("-s", "--file", "test.durus", *PLACE)
    _console(durus, *PLACE)
    _type(console, "connection.abort()")
    assert _type(console, "root['n']") == "1"


def test_a_file_that_stays(durus: Any) -> None:
    """`durus -s --file test.durus` keeps what was committed; `durus -c --file` opens it without."""
    for n in (1, 2):
        server = durus.on_terminal("-s", "--file", "test.durus", *PLACE)
        console = _console(durus, *PLACE)
        assert _type(console, "root.get('n')") == ("" if n == 1 else "1")
        _type(console, f"root['n'] = {n}")
        _type(console, "connection.commit()")
        assert _leave(console) == 0
        server.sendintr()
        assert _end(server) == 0
    console = _console(durus, "--file", "test.durus")
    assert _type(console, "root['n']") == "2"
    assert _leave(console) == 0
