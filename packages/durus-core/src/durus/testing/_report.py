"""Counts the clauses that ran, so that a back-end which quietly ran none turns red."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import NoReturn

import pytest

_PLUGIN_NAME = "durus-clauses"
_EXCUSED = pytest.StashKey[bool]()


def excuse(item: pytest.Item, reason: str) -> NoReturn:
    """Skip a clause for a reason that the back-end declared."""
    item.stash[_EXCUSED] = True
    pytest.skip(reason)


class ClauseReport:
    """A pytest plugin: a line for each suite at the end, and red for clauses that were left out.

    Left out is a clause that was collected and selected, yet neither ran nor was excused (a gap, or
    an ability that the storage declares absent): by a skip mark, or a fixture that skips. Under
    pytest-xdist no process sees a whole suite, and nothing is counted.
    """

    def __init__(self, clause_of: Callable[[pytest.Item], tuple[type, str] | None]) -> None:
        self._clause_of = clause_of
        self._selected: defaultdict[type, set[str]] = defaultdict(set)
        self._ran: defaultdict[type, set[str]] = defaultdict(set)
        self._excused: defaultdict[type, set[str]] = defaultdict(set)
        self._is_complete = False

    def register(self, config: pytest.Config) -> None:
        """Join a run, unless one has joined before."""
        if not config.pluginmanager.has_plugin(_PLUGIN_NAME) and not hasattr(config, "workerinput"):
            config.pluginmanager.register(self, _PLUGIN_NAME)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """Note what became of a clause."""
        clause = self._clause_of(item)
        if clause is None:
            return
        suite, name = clause
        if item.stash.get(_EXCUSED, False):
            self._excused[suite].add(name)
        elif call.when == "call" and not _is_skip(call):
            self._ran[suite].add(name)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run where clauses were left out."""
        if session.config.option.collectonly or session.shouldfail or session.shouldstop:
            return
        self._is_complete = True
        for item in session.items:
            clause = self._clause_of(item)
            if clause is not None:
                self._selected[clause[0]].add(clause[1])
        if session.exitstatus == pytest.ExitCode.OK and any(map(self._left_out, self._selected)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how many clauses ran."""
        if not self._is_complete:
            return
        terminalreporter.section("clauses of the storage contract")
        for suite in self._selected:
            left_out = self._left_out(suite)
            terminalreporter.write_line(
                f"{suite.__name__}: {len(self._ran[suite])} ran,"
                f" {len(self._excused[suite])} excused, {len(left_out)} left out"
            )
            for name in sorted(left_out):
                terminalreporter.write_line(f"  left out: {name}", red=True)

    def _left_out(self, suite: type) -> set[str]:
        return self._selected[suite] - self._ran[suite] - self._excused[suite]


def _is_skip(call: pytest.CallInfo[None]) -> bool:
    return call.excinfo is not None and isinstance(call.excinfo.value, pytest.skip.Exception)
