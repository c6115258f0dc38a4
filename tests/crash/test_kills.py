"""A real process is killed while it commits and packs.

Cases:
    SIGKILL at a random moment, again and again on the same file: what was acknowledged is there
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from .conftest import SMALL_MEASURES, Kind, kind_named
from .victim import number_in, state_after

ROUNDS = int(os.environ.get("DURUS_CRASH_KILLS") or 8)


def run_and_kill(kind: Kind, path: Path, seconds: float) -> int:
    """Let the victim work for a while after its start; give the last number acknowledged."""
    victim = Path(__file__).with_name("victim.py")
    measures = json.dumps(
        {name: value for name, value in SMALL_MEASURES.items() if kind.package in name}
    )
    command = [sys.executable, str(victim), kind.storage_module, kind.name, str(path), measures]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(seconds)
        process.kill()
        rest = process.stdout.read()
    lines = [line for line in (first + rest).split(b"\n")[:-1] if line]
    assert lines, "the victim did not get to work"
    return int(lines[-1])


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["FileStorage", "FileStorage2", "SqliteStorage"])
def test_killed_process_loses_nothing(
    name: str, place: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """After SIGKILL the file opens at once to exactly the state after some acknowledged commit.

    At most one commit more is there: the one whose acknowledgement was cut off.
    """
    caplog.set_level(logging.CRITICAL, "durus")
    kind = kind_named(name)
    random = Random(seed)
    path = place / "killed.durus"
    for _ in range(ROUNDS):
        acknowledged = run_and_kill(kind, path, random.uniform(0, 0.25))
        with kind.open(path) as storage:
            number = number_in(storage)
            assert acknowledged <= number <= acknowledged + 1
            assert dict(storage.gen_oid_record()) == state_after(number)
            if random.random() < 0.3:
                storage.pack()
                assert dict(storage.gen_oid_record()) == state_after(number)
