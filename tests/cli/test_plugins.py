"""`durus plugins`: what is installed, whose it is, and what is wrong with it."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import pytest

COMMAND = """
import click

@click.command()
def hello():
    print("hello from outside")
"""

STORAGE = """
from durus.storage import MemoryStorage

class Kept(MemoryStorage):
    pass
"""


def _listed(durus: Any, status: int = 0) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Give what is listed: kind, then name, then each that claims it."""
    answer = json.loads(durus("plugins", "--json", status=status).stdout)
    assert list(answer) == ["durus_plugins", "storages", "commands"]
    assert answer["durus_plugins"] == 1
    found: dict[str, dict[str, list[dict[str, Any]]]] = {"storages": {}, "commands": {}}
    for kind, by_name in found.items():
        names = [plugin["name"] for plugin in answer[kind]]
        assert names == sorted(names)
        for plugin in answer[kind]:
            assert list(plugin) == ["name", "distribution", "version", "location", "problem"]
            by_name.setdefault(plugin.pop("name"), []).append(plugin)
    return found


def test_ours(durus: Any) -> None:
    """Those of the packages that are installed here are listed, and work."""
    found = _listed(durus)
    assert found["storages"]["memory"] == [
        {
            "distribution": "durus-core",
            "version": version("durus-core"),
            "location": "durus.storage:MemoryStorage",
            "problem": None,
        }
    ]
    assert found["storages"]["file"][0]["distribution"] == "durus-filestorage"
    assert found["commands"]["plugins"] == [
        {
            "distribution": "durus-cli",
            "version": version("durus-cli"),
            "location": "durus.cli._plugin_list:plugins",
            "problem": None,
        }
    ]
    assert durus("plugins").stdout.endswith("\nAll of them can be imported.\n")


def test_those_of_another_distribution(durus: Any) -> None:
    """A storage and a command from outside are listed with their distribution and its version."""
    durus.plug_in(
        "out-side",
        "[durus.storages]\nkept = out_side_storage:Kept\n"
        "[durus.commands]\nhello = out_side:hello\n",
        out_side=COMMAND,
        out_side_storage=STORAGE,
    )
    found = _listed(durus)
    for kind, name, location in (
        ("storages", "kept", "out_side_storage:Kept"),
        ("commands", "hello", "out_side:hello"),
    ):
        [plugin] = found[kind][name]
        assert plugin == {
            "distribution": "out-side",
            "version": "1.0",
            "location": location,
            "problem": None,
        }
    lines = [line.split() for line in durus("plugins").stdout.splitlines()]
    assert ["kept", "out-side", "1.0", "out_side_storage:Kept"] in lines
    assert ["hello", "out-side", "1.0", "out_side:hello"] in lines


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError: "),
        ("", "AttributeError: "),
        ("broken = 'neither'", ""),
        ("raise ValueError('\\x1b[2Jtwo\\nlines')", r"ValueError: \x1b[2Jtwo lines"),
    ],
)
def test_what_is_broken_harms_no_other(durus: Any, source: str, reason: str) -> None:
    """It is told with whose it is and why it fails, with status 1; all others are listed."""
    works = _listed(durus)
    durus.plug_in(
        "bad-plug",
        "[durus.storages]\nbroken = bad_plug:broken\n[durus.commands]\nbroken = bad_plug:broken\n",
        bad_plug=source,
    )
    found = _listed(durus, status=1)
    said = {
        "storages": reason or "is no subclass of durus.storage.Storage",
        "commands": reason or "is no click command",
    }
    done = durus("plugins", status=1)
    assert (done.stderr, "\x1b" in done.stdout) == ("", False)
    assert "\n2 plug-ins cannot be used:\n" in done.stdout
    for kind, text in said.items():
        [plugin] = found[kind].pop("broken")
        assert (plugin["distribution"], plugin["version"]) == ("bad-plug", "1.0")
        assert plugin["location"] == "bad_plug:broken"
        assert text in plugin["problem"]
        assert f"\n  {kind.removesuffix('s')} 'broken' of bad-plug 1.0: " in done.stdout
        assert text in done.stdout
    assert found == works
    assert "broken" in durus("--help").stdout
    assert durus("shell", "memory:", input="print(1)").stdout == "1\n"


def test_two_owners_of_a_name(durus: Any) -> None:
    """Both are listed, and each is told to be claimed by the other, too."""
    for name in ("one-plug", "two-plug"):
        module = name.replace("-", "_")
        durus.plug_in(
            name,
            f"[durus.storages]\nkept = {module}_storage:Kept\n"
            f"[durus.commands]\npack = {module}:hello\n",
            **{module: COMMAND, f"{module}_storage": STORAGE},
        )
    found = _listed(durus, status=1)
    kept = found["storages"]["kept"]
    assert {plugin["distribution"] for plugin in kept} == {"one-plug", "two-plug"}
    for plugin in kept:
        assert "'kept:' is claimed by one-plug 1.0 (" in plugin["problem"]
        assert " and two-plug 1.0 (" in plugin["problem"]
    pack = found["commands"]["pack"]
    assert [plugin["distribution"] for plugin in pack] == ["durus-cli", "one-plug", "two-plug"]
    for plugin in pack:
        assert "claimed by durus-cli and one-plug and two-plug" in plugin["problem"]
    assert "\n5 plug-ins cannot be used:\n" in durus("plugins", status=1).stdout


def test_what_a_module_prints(durus: Any) -> None:
    """What is printed on an import does not get between what a program reads."""
    durus.plug_in(
        "loud-plug", "[durus.commands]\nhello = loud_plug:hello\n", loud_plug=COMMAND + "print('!')"
    )
    done = durus("plugins", "--json")
    assert json.loads(done.stdout)["durus_plugins"] == 1
    assert done.stderr == "!\n"
