"""Running a person's Python: a file, a script, a console with history and completion, IPython."""

from __future__ import annotations
import __future__

import ast
import code
import importlib
import linecache
import os
import rlcompleter
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, ModuleType
from typing import Any

from durus.cli._errors import CommandError
from durus.cli._output import count_text
from durus.logger import logger

__all__ = ["run_console", "run_file", "run_ipython", "run_script"]

_HISTORY = "~/.durushistory"
_HISTORY_LINES = 1000

_FUTURE_FLAGS = 0
for _feature in __future__.all_feature_names:
    _FUTURE_FLAGS |= getattr(__future__, _feature).compiler_flag


def run_file(path: str, namespace: dict[str, Any]) -> bool:
    """Run a Python file in the console's namespace; print its traceback and give False if it fails.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        source = file.read()
    return _run_shown(lambda: [compile(source, path, "exec", dont_inherit=True)], namespace)


def run_script(source: bytes, namespace: dict[str, Any]) -> bool:
    """Run what came on standard input, as the console would: values of expressions are shown.

    It stops at the first error: the traceback is printed, and False given.
    """
    name = "<stdin>"
    # So that a traceback can show the lines.
    lines = source.decode("utf-8", "replace").splitlines(keepends=True)
    linecache.cache[name] = (len(source), None, lines, name)
    return _run_shown(lambda: _gen_statements(source, name), namespace)


def run_console(namespace: dict[str, Any], banner: str) -> None:
    """Let a person type Python until they leave with Ctrl-D or exit()."""
    with _line_editing(namespace):
        _Console(namespace).interact(banner=banner, exitmsg="")


def run_ipython(namespace: dict[str, Any], banner: str) -> None:
    """Let a person type Python in IPython's console.

    Raises:
        CommandError: IPython is not installed.
    """
    try:
        embed = importlib.import_module("IPython.terminal.embed")
    except ImportError as error:
        raise CommandError(
            "IPython is not installed: pip install 'durus-cli[ipython]', or leave --ipython out"
        ) from error
    module = ModuleType("__console__")
    module.__dict__.update(namespace)
    shell = embed.InteractiveShellEmbed(banner1=banner + "\n", exit_msg="")
    shell(local_ns=module.__dict__, module=module)


class _Console(code.InteractiveConsole):
    """Python's console, which asks once more before it leaves changes behind."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        super().__init__(namespace)
        self._connection = namespace["connection"]
        self._was_told = False

    def raw_input(self, prompt: str = "") -> str:
        try:
            line = super().raw_input(prompt)
        except EOFError:
            changed = len(self._connection.changed)
            if self._was_told or not changed:
                self.write("\n")
                raise
            self._was_told = True
            self.resetbuffer()
            self.write(
                f"\n{count_text(changed, 'changed object')} not committed: commit() keeps the"
                " changes, another Ctrl-D drops them\n"
            )
            return ""
        self._was_told = False
        return line


def _gen_statements(source: bytes, name: str) -> Iterator[CodeType]:
    """Compile statement by statement in the mode that shows the values of expressions."""
    flags = 0
    for statement in ast.parse(source, name).body:
        compiled = compile(ast.Interactive([statement]), name, "single", flags, dont_inherit=True)
        flags |= compiled.co_flags & _FUTURE_FLAGS
        yield compiled


def _run_shown(compile_all: Callable[[], Iterable[CodeType]], namespace: dict[str, Any]) -> bool:
    try:
        for compiled in compile_all():
            exec(compiled, namespace)  # noqa: S102 - it is what the person asked for
    except Exception as error:  # noqa: BLE001 - whatever a person's program raises
        # The first frame is this function, which says nothing to them.
        below = error.__traceback__.tb_next if error.__traceback__ is not None else None
        sys.stdout.flush()
        traceback.print_exception(error.with_traceback(below))
        return False
    return True


@contextmanager
def _line_editing(namespace: dict[str, Any]) -> Iterator[None]:
    """Give the console history and completion, and put things back as they were."""
    try:
        import readline  # noqa: PLC0415 - not every Python has it
    except ImportError:
        yield
        return
    completer = readline.get_completer()
    earlier = range(1, readline.get_current_history_length() + 1)
    history = [readline.get_history_item(number) for number in earlier]
    path = os.path.expanduser(_HISTORY)
    readline.clear_history()
    _read_history(readline, path)
    readline.set_completer(rlcompleter.Completer(namespace).complete)
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    try:
        yield
    finally:
        _write_history(readline, path)
        readline.clear_history()
        for line in history:
            readline.add_history(line)
        readline.set_completer(completer)


def _read_history(readline: ModuleType, path: str) -> None:
    try:
        readline.read_history_file(path)
    except FileNotFoundError:
        pass  # the first console of this person
    except OSError as error:
        logger.warning("cannot read the history of the console: %s", error)


def _write_history(readline: ModuleType, path: str) -> None:
    readline.set_history_length(_HISTORY_LINES)
    try:
        readline.write_history_file(path)
    except OSError as error:
        logger.warning("cannot write the history of the console: %s", error)
