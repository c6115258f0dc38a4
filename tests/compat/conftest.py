"""Both versions of Durus as fixtures.

What runs on both sides is in `sides/`, as plain modules under names that begin with `compat_`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "sides"))

import compat_environment
import compat_sides
from compat_serving import Servers
from compat_sides import Side

GOLDEN = Path(__file__).parent / "golden"


NOT_TESTED = "INTEROPERABILITY WITH DURUS 4.3 IS NOT TESTED"


@pytest.fixture(scope="session")
def upstream(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Side]:
    """Durus 4.3 in a virtual environment of its own, or a skip where it cannot be had."""
    try:
        python = compat_environment.provide(_cache_directory(request.config, tmp_path_factory))
    except compat_environment.UnavailableError as error:
        last_line = str(error).strip().splitlines()[-1]
        pytest.skip(
            f"{NOT_TESTED}: {type(error).__name__}, and {compat_environment.PYTHON_VARIABLE} names"
            f" no interpreter that has {compat_environment.REQUIREMENT} ({last_line})"
        )
    side = compat_sides.upstream(python)
    yield side
    side.close()


@pytest.fixture(scope="session")
def ours() -> Iterator[Side]:
    """Our Durus, in processes of its own."""
    side = compat_sides.ours()
    yield side
    side.close()


@pytest.fixture(scope="session")
def side(upstream: Side, ours: Side) -> Callable[[str], Side]:
    """Give a side by its name, "4.3" or "ours"."""
    return {each.name: each for each in (upstream, ours)}.__getitem__


@pytest.fixture(scope="session")
def servers(side: Callable[[str], Side]) -> Iterator[Servers]:
    """Servers of either version."""
    servers = Servers(side)
    yield servers
    servers.close()


@pytest.fixture(params=["SHELF-1", "DFS20"])
def format(request: pytest.FixtureRequest) -> str:
    """Each file format in turn."""
    return str(request.param)


def _cache_directory(config: pytest.Config, temporary: pytest.TempPathFactory) -> Path:
    """Give a folder that outlives the run: tox's, or pytest's cache, or at worst a temporary."""
    if "TOX_WORK_DIR" in os.environ:
        return Path(os.environ["TOX_WORK_DIR"], "durus43")
    cache = getattr(config, "cache", None)
    if cache is None:
        return temporary.getbasetemp() / "durus43"
    return Path(cache.mkdir("durus43"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end of the run, in red, what no test said."""
    if sys.version_info >= compat_environment.FIRST_PYTHON_TOO_NEW:
        running = ".".join(map(str, sys.version_info[:2]))
        terminalreporter.section("Durus 4.3 runs on another Python", yellow=True)
        terminalreporter.line(
            f"Durus 4.3 does not work on Python {running}: an older Python runs it, {running} ours"
        )
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if NOT_TESTED in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.section(NOT_TESTED, red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests skipped: {skipped[0].longrepr[2]}", red=True)
