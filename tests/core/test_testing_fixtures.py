"""The fixtures of durus.testing, asked for as a program's tests would."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def program(pytester: pytest.Pytester) -> pytest.Pytester:
    """The folder of a program whose conftest.py asks for the fixtures."""
    pytester.makeconftest('pytest_plugins = ["durus.testing.fixtures"]')
    return pytester


def run(program: pytest.Pytester, source: str) -> pytest.RunResult:
    """Run tests of a program."""
    program.makepyfile(source)
    return program.runpytest_inprocess("-p", "no:cacheprovider")


def test_each_test_has_a_database_of_its_own(program: pytest.Pytester) -> None:
    """What one test commits, the next does not find."""
    result = run(
        program,
        """
        import pytest

        @pytest.mark.parametrize("n", range(2))
        def test_it(durus_database, n):
            with durus_database.transaction() as root:
                assert "n" not in root
                root["n"] = n
        """,
    )
    result.assert_outcomes(passed=2)


def test_the_connection_is_one_to_the_same_database(program: pytest.Pytester) -> None:
    """A test prepares in `durus_connection` what its program finds in `durus_database`."""
    result = run(
        program,
        """
        from concurrent.futures import ThreadPoolExecutor

        def test_it(durus_connection, durus_database):
            durus_connection.get_root()["n"] = 1
            durus_connection.commit()
            with ThreadPoolExecutor(1) as threads:
                assert threads.submit(durus_database.run, lambda root: root["n"]).result() == 1
        """,
    )
    result.assert_outcomes(passed=1)


def test_databases_are_closed_after_the_test(program: pytest.Pytester) -> None:
    """All that the fixtures opened is closed, also after a test that failed."""
    result = run(
        program,
        """
        import pytest
        from durus.error import ConnectionClosedError

        opened = []

        def test_it(durus_database, durus_open):
            opened.extend([durus_database, durus_open("memory:"), durus_open("memory:")])
            assert False

        def test_later():
            assert len(opened) == 3
            for database in opened:
                with pytest.raises(ConnectionClosedError):
                    database.connection()
        """,
    )
    result.assert_outcomes(passed=1, failed=1)


def test_a_database_may_be_closed_by_the_test(program: pytest.Pytester) -> None:
    """Closing it is no error, for it may be what is tested."""
    result = run(
        program,
        """
        def test_it(durus_database, durus_open):
            durus_database.close()
            durus_open("memory:").close()
        """,
    )
    result.assert_outcomes(passed=1)


def test_options_are_those_of_a_database(program: pytest.Pytester) -> None:
    """`durus_open` hands its keywords on."""
    result = run(
        program,
        """
        from durus.btree import BTree

        def test_it(durus_open):
            with durus_open("memory:", root_class=BTree).transaction() as root:
                assert type(root) is BTree
        """,
    )
    result.assert_outcomes(passed=1)


def test_without_durus_server_its_fixture_fails(
    program: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that needs a server is not passed over: it says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "durus.storage_server", None)
    result = run(program, "def test_it(durus_server): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*durus_server needs durus-server (pip install it)*"])


def test_nobody_gets_them_unasked(pytester: pytest.Pytester) -> None:
    """A run of pytest that does not ask for the fixtures does not have them."""
    result = run(pytester, "def test_it(durus_database): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'durus_database' not found*"])
