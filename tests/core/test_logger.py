"""The logger: under the names of Durus 4.3, and quiet until the application asks."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO

import pytest

from durus import logger as module
from durus.logger import direct_output, is_logging, log, logger


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    """Put the logger back as it was."""
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_importing_adds_no_handler_and_prints_nothing() -> None:
    """An application that logs nothing sees nothing of Durus, as it would of any library."""
    code = (
        "import logging, durus.logger as l, durus.storage\n"
        "assert l.logger.handlers == [] and l.logger.level == 0 and l.logger.propagate\n"
        "assert logging.getLogger().handlers == []\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_direct_output_sends_the_log_to_a_file() -> None:
    """`direct_output` writes time, level and message to the file, from INFO on."""
    file = StringIO()
    direct_output(file)
    log(logging.INFO, "packed %s", "app.durus")
    log(logging.DEBUG, "not shown")
    assert file.getvalue().endswith("INFO packed app.durus\n")
    assert "not shown" not in file.getvalue()
    assert is_logging(logging.INFO)
    assert not is_logging(logging.DEBUG)


def test_direct_output_again_moves_the_log() -> None:
    """A second call takes the place of the first, and leaves the application's handlers alone."""
    first, second, own = StringIO(), StringIO(), logging.NullHandler()
    logger.addHandler(own)
    direct_output(first)
    direct_output(second)
    logger.warning("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1
    assert own in logger.handlers


def test_direct_output_keeps_a_level_that_was_set() -> None:
    """A level that the application chose stays."""
    logger.setLevel(logging.ERROR)
    direct_output(StringIO())
    assert logger.level == logging.ERROR
    assert not is_logging(logging.WARNING)


def test_names_of_durus_4_3() -> None:
    """`logger` and `log` are what programs import."""
    assert logger.name == "durus"
    assert {"direct_output", "is_logging", "log", "logger"} <= set(module.__all__)
