"""`durus` itself: help, version, the spellings of Durus 4.3, commands of others, completion."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

BUILT_IN = [
    "backup",
    "check",
    "completion",
    "convert-py2",
    "copy",
    "demo",
    "export",
    "history",
    "import",
    "info",
    "pack",
    "plugins",
    "refs",
    "rename",
    "restore",
    "serve",
    "shell",
    "show",
    "status",
]

HELLO = """
import click

@click.command(short_help="Greets.")
def hello():
    click.echo("hello from outside")
"""


@pytest.mark.parametrize("arguments", [(), ("-h",), ("--help",)])
def test_help_lists_every_command(durus: Any, arguments: tuple[str, ...]) -> None:
    """Alone, with -h and with --help, the command tells what it can do, and ends with 0."""
    done = durus(*arguments)
    assert done.stderr == ""
    assert done.stdout.startswith("Usage: durus ")
    for name in BUILT_IN:
        assert f"\n  {name} " in done.stdout
    assert "'durus COMMAND --help' tells more" in done.stdout
    assert "does not work" not in done.stdout


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_command_has_help(durus: Any, name: str) -> None:
    """Each command explains itself, in both spellings of the question."""
    assert durus(name, "-h").stdout == durus(name, "--help").stdout
    assert durus(name, "-h").stdout.startswith(f"Usage: durus {name} ")


def test_help_is_short(durus: Any) -> None:
    """The first page fits a terminal of 40 lines, each at most 80 wide."""
    lines = durus("--help").stdout.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80


def test_version(durus: Any) -> None:
    """--version tells the version of durus-cli."""
    assert durus("--version").stdout == f"durus, version {version('durus-cli')}\n"


def test_python_minus_m(durus: Any) -> None:
    """`python -m durus` is the same command, under the same name."""
    expected = durus("--help").stdout
    durus.words = [sys.executable, "-m", "durus"]
    assert durus("--help").stdout == expected
    assert durus("help").stdout == expected
    assert durus("help", "pack").stdout == durus("pack", "--help").stdout
    assert "there is no command" in durus.error("shel", status=2)


@pytest.mark.parametrize(("old", "new"), [("-c", "shell"), ("-p", "pack"), ("-s", "serve")])
def test_spellings_of_durus_43(durus: Any, old: str, new: str) -> None:
    """-c is `shell`, -p is `pack` and -s is `serve`, with their help too."""
    assert durus(old, "-h").stdout == durus(new, "-h").stdout
    assert durus("-v", old, "--help").stdout == durus(new, "--help").stdout


@pytest.mark.parametrize(
    "words",
    [("-s",), ("serve",), ("serve", "a.durus"), ("-s", "--stop"), ("status",)],
    ids=" ".join,
)
def test_a_server_that_is_not_installed(durus: Any, words: tuple[str, ...]) -> None:
    """`durus serve` and `durus status` are there without durus-server, and say what to install."""
    hidden = durus.folder / "hidden" / "durus"
    hidden.mkdir(parents=True)
    (hidden / "storage_server.py").write_text(
        "raise ModuleNotFoundError('hidden', name='durus.storage_server')\n"
    )
    durus.see(hidden.parent)
    said = durus.error(*words)
    assert said == (
        "durus-server is not installed, which serves and asks servers: pip install durus-server"
    )
    assert not (durus.folder / "a.durus").exists()
    assert "Usage: durus" in durus(*words, "--help").stdout


def test_a_misspelt_command(durus: Any) -> None:
    """An unknown command is wrong usage, and a near one is named."""
    said = durus.error("pakc", status=2)
    assert "there is no command 'pakc'" in said
    assert "did you mean 'pack'?" in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("--frob",),
        ("-x",),
        ("info",),
        ("info", "a", "b"),
        ("shell", "--cache-size", "many", "a"),
        ("shell", "a", "--file", "b"),
        ("shell", "a", "--port", "1"),
        ("pack", "--storage-class", "file"),
        ("pack", "--address", "/tmp/s", "--host", "h"),
        ("completion", "csh"),
    ],
    ids=" ".join,
)
def test_wrong_usage(durus: Any, arguments: tuple[str, ...]) -> None:
    """Wrong usage is one line with status 2 that says where to read more."""
    assert "--help' tells more)" in durus.error(*arguments, status=2)


def test_a_command_of_another_distribution(durus: Any) -> None:
    """An entry point is all that it takes to add a command; help says whose it is."""
    durus.plug_in("hello-durus", "[durus.commands]\nhello = hello_durus:hello\n", hello_durus=HELLO)
    assert durus("hello").stdout == "hello from outside\n"
    assert re.search(r"^  hello +Greets\. \[hello-durus\]$", durus("--help").stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_of_that_name", "No module named 'nothing_of_that_name'"),
        ("1/0", "ZeroDivisionError"),
        ("hello = 'no command'", "is no click command"),
        ("", "AttributeError"),
    ],
)
def test_a_broken_command_harms_no_other(durus: Any, source: str, reason: str) -> None:
    """The others work; help and its own use name the distribution and the reason."""
    durus.plug_in("bad-plug", "[durus.commands]\nhello = bad_plug:hello\n", bad_plug=source)
    said = durus.error("hello")
    assert "bad-plug" in said
    assert reason in said
    listed = " ".join(durus("--help").stdout.split())
    assert "(does not work: the command 'hello' of bad-plug " in listed
    assert durus("completion", "bash").stdout


def test_two_owners_of_a_command(durus: Any) -> None:
    """A name that two distributions claim is an error that names both; the others work."""
    for name in ("one-plug", "two-plug"):
        module = name.replace("-", "_")
        durus.plug_in(name, f"[durus.commands]\npack = {module}:hello\n", **{module: HELLO})
    said = durus.error("pack", "app.durus")
    assert said == (
        "the command 'pack' is claimed by durus-cli and one-plug and two-plug;"
        " uninstall one of them"
    )
    assert "claimed by" in durus("--help").stdout
    assert durus("info", "--help").stdout


def test_warnings_are_shown_and_details_on_demand(durus: Any) -> None:
    """A logged warning is always one line on stderr; -v adds information, -vv everything."""
    durus.plug_in(
        "log-plug",
        "[durus.commands]\ntalk = log_plug:talk\n",
        log_plug="""
        import click
        from durus.logger import logger

        @click.command()
        def talk():
            logger.warning("set aside")
            logger.info("opened")
            logger.debug("read")
        """,
    )
    assert durus("talk").stderr == "durus: warning: set aside\n"
    verbose = durus("-v", "talk").stderr
    assert ("opened" in verbose, "read" in verbose) == (True, False)
    assert "read" in durus("-vv", "talk").stderr


def test_debug_shows_where_an_error_came_from(durus: Any) -> None:
    """--debug, or DURUS_DEBUG, puts the traceback before the line; the status stays."""
    durus.error("info", "missing.durus")
    for arguments, variables in ((("--debug",), {}), ((), {"DURUS_DEBUG": "1"})):
        durus.environment |= variables
        said = durus(*arguments, "info", "missing.durus", status=1).stderr
        assert said.startswith("Traceback (most recent call last):")
        assert said.splitlines()[-1].startswith("durus: error: there is no file 'missing.durus'")


def test_a_defect_is_not_dressed_up(durus: Any) -> None:
    """What is no error of Durus or of the system keeps its traceback: somebody must mend it."""
    durus.plug_in(
        "defect-plug",
        "[durus.commands]\nfail = defect_plug:fail\n",
        defect_plug="import click\n@click.command()\ndef fail():\n    {}['x']\n",
    )
    said = durus("fail", status=1).stderr
    assert said.startswith("Traceback")
    assert said.endswith("KeyError: 'x'\n")


def test_a_reader_that_leaves_early(durus: Any, database: Path) -> None:
    """`durus info FILE | head` ends without a complaint."""
    process = subprocess.Popen(
        [*durus.words, "info", str(database), "--json"],
        env=durus.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 1


def test_a_full_disk_under_the_output(durus: Any, database: Path) -> None:
    """Output that cannot be written is an error, not a success."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*durus.words, "info", str(database), "--json"],
            env=durus.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "durus: error: No space left on device\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(durus: Any, shell: str) -> None:
    """Each of the three shells gets a script that asks `durus` itself."""
    script = durus("completion", shell).stdout
    assert f"_DURUS_COMPLETE={shell}_complete" in script


def test_completion_in_bash(durus: Any, database: Path) -> None:
    """In a real bash Tab completes commands and options, and leaves files to the shell."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on this machine: only the protocol below it is tested")
    ask = (
        'eval "$(durus completion bash)"\n'
        'ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=();'
        ' _durus_completion durus 2>/dev/null; echo "${COMPREPLY[@]}"; }\n'
        "ask durus in; ask durus info --; ask durus completion z\n"
    )
    path = f"{Path(durus.words[0]).parent}{os.pathsep}{durus.environment['PATH']}"
    done = subprocess.run(
        [bash, "-c", ask],
        env=durus.environment | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["info", "--at --garbage --json --help", "zsh"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_survives_a_broken_command(durus: Any, shell: str) -> None:
    """Tab completes the commands that work, in silence, whatever a plug-in does."""
    durus.plug_in("bad-plug", "[durus.commands]\nbroken = bad_plug:x\n", bad_plug="1/0")
    durus.environment |= {
        "_DURUS_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": "durus ",
        "COMP_CWORD": "1" if shell != "fish" else "",
    }
    done = durus()
    assert done.stderr == ""
    assert "shell" in done.stdout
