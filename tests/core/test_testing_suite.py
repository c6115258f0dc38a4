"""What StorageTests says of a back-end's gaps, and of clauses that did not run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest

from durus.testing import StorageTests, clauses

pytest_plugins = ["pytester"]

SUITE = """
    import pytest
    from durus.storage import MemoryStorage
    from durus.testing import StorageTests

    class TestOurs(StorageTests):
        @pytest.fixture
        def open_storage(self):
            return MemoryStorage
"""


def run(pytester: pytest.Pytester, source: str, *options: str) -> pytest.RunResult:
    """Run a back-end's tests as its author would."""
    pytester.makepyfile(source)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)


def test_a_gap_that_is_no_clause_is_an_error() -> None:
    """Naming a test that does not exist as a gap is refused where the class is made."""
    with pytest.raises(TypeError, match=r"Misspelt\.gaps names 'test_packs', which is no clause"):

        class Misspelt(StorageTests):
            gaps: ClassVar[Mapping[str, str]] = {"test_packs": "not yet"}


def test_a_gap_needs_a_reason() -> None:
    """A gap without a reason is refused where the class is made."""
    with pytest.raises(TypeError, match=r"Silent\.gaps gives no reason for 'test_can_pack_"):

        class Silent(StorageTests):
            gaps: ClassVar[Mapping[str, str]] = {"test_can_pack_tells_the_truth": ""}


def test_own_tests_of_a_back_end_are_no_clauses() -> None:
    """`clauses` lists the tests of the contract alone, each once."""

    class More(StorageTests):
        def test_something_of_its_own(self) -> None:
            """Not of the contract."""

    assert clauses(More) == clauses(StorageTests)
    assert len(set(clauses(More))) == len(clauses(More)) > 60


def test_each_clause_says_what_it_asks() -> None:
    """Each clause's docstring is the clause."""
    assert all(getattr(StorageTests, name).__doc__ for name in clauses(StorageTests))


def test_run_reports_how_many_clauses_ran(pytester: pytest.Pytester) -> None:
    """The end of a run says how many clauses ran, and how many the declarations excused."""
    result = run(pytester, SUITE)
    outcomes = result.parseoutcomes()
    result.stdout.fnmatch_lines(
        [f"TestOurs: {outcomes['passed']} ran, {outcomes['skipped']} excused, 0 left out"]
    )
    assert sum(outcomes.values()) == len(clauses(StorageTests))
    assert result.ret == pytest.ExitCode.OK


def test_gap_is_skipped_with_its_reason(pytester: pytest.Pytester) -> None:
    """A gap is skipped, excused, and its reason stands in the summary."""
    gap = """
        gaps = {"test_large_record_comes_back_whole": "one megabyte is the limit"}
"""
    result = run(pytester, SUITE + gap, "-rs", "-k", "large_record or begin_forgets")
    result.stdout.fnmatch_lines(["SKIPPED*gap: one megabyte is the limit"])
    result.stdout.fnmatch_lines(["TestOurs: 1 ran, 1 excused, 0 left out"])
    assert result.ret == pytest.ExitCode.OK


def test_suite_that_quietly_ran_nothing_is_red(pytester: pytest.Pytester) -> None:
    """A back-end whose clauses are all skipped by a mark fails the run."""
    skipped = SUITE.replace("class TestOurs", "@pytest.mark.skip\n    class TestOurs")
    result = run(pytester, skipped)
    result.stdout.fnmatch_lines([f"TestOurs: 0 ran, 0 excused, {len(clauses(StorageTests))} left*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_clause_skipped_without_a_gap_is_red(pytester: pytest.Pytester) -> None:
    """A clause that a fixture skips, without being named as a gap, fails the run and is named."""
    skipping = """
        @pytest.fixture(autouse=True)
        def no_server(self, request):
            if "pack_again" in request.node.name:
                pytest.skip("no server here")
"""
    result = run(pytester, SUITE + skipping, "-k", "test_pack_again or test_close_twice")
    result.stdout.fnmatch_lines(["TestOurs: 1 ran, 0 excused, 1 left out", "*test_pack_again_*"])
    assert result.ret == pytest.ExitCode.TESTS_FAILED


def test_collecting_alone_reports_nothing(pytester: pytest.Pytester) -> None:
    """`--collect-only` runs no clause, and that is no failure."""
    result = run(pytester, SUITE, "--collect-only", "-q")
    result.stdout.no_fnmatch_line("*left out*")
    assert result.ret == pytest.ExitCode.OK


def test_stopping_at_the_first_failure_reports_nothing(pytester: pytest.Pytester) -> None:
    """A run that stopped early does not complain of what it did not reach."""
    failing = SUITE.replace("return MemoryStorage", "return lambda: 1 / 0")
    result = run(pytester, failing, "-x")
    result.stdout.no_fnmatch_line("*left out*")
    assert result.ret != pytest.ExitCode.OK


def test_suite_without_the_fixture_says_so(pytester: pytest.Pytester) -> None:
    """A subclass that forgot `open_storage` is told to define it."""
    result = run(
        pytester,
        "from durus.testing import StorageTests\nclass TestBare(StorageTests): pass\n",
        *("-x", "-k", "test_close_twice"),
    )
    result.stdout.fnmatch_lines(["*TestBare must define the fixture `open_storage`*"])


def test_failing_clause_shows_what_it_compared(pytester: pytest.Pytester) -> None:
    """Pytest rewrites the assertions of the suite, so that a failure shows both sides."""
    wrong = """
    class WrongStorage(MemoryStorage):
        def sync(self):
            return [b"surprise"]

    class TestWrong(StorageTests):
        @pytest.fixture
        def open_storage(self):
            return WrongStorage
"""
    result = run(pytester, SUITE + wrong, "-k", "TestWrong and without_news")
    result.stdout.fnmatch_lines(["*AssertionError*surprise*"])
