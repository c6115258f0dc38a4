"""Histories of random transactions are strictly serializable, whatever is killed meanwhile.

Cases:
    threads of one Database, on each storage, with packs in between
    a process with a Database on a file, killed with SIGKILL again and again
    processes and threads on a server, left alone, and with both killed, stopped and continued
    processes and threads on one SQLite database without a server, killed, stopped and continued

A failure names its seed and shows the transactions of the anomaly. The transactions are counted,
not timed; DURUS_ISOLATION_TRANSACTIONS says how many a test makes in all.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from random import Random

import pytest

from durus.database import Database

from .checker import FAILED, OK, Transaction, check, read_histories
from .conftest import ROOT, TRANSACTIONS, Server, stop
from .workload import CACHE_SIZE, Size, patiently, prepare, read_all, work

# The more transactions, the more histories.
SEEDS = [1] if TRANSACTIONS < 3000 else [1, 2, 3]

FILES = ["file:{}/a.durus", "file2:{}/a.durus"]
SQLITE = "sqlite:{}/a.sqlite"


def size_for(processes: int, threads: int, pack_every: int = 0) -> Size:
    """Spread the transactions over so many threads."""
    transactions = max(TRANSACTIONS // (processes * threads), 10)
    return Size(processes, threads, transactions, pack_every)


def judge(folder: Path, final: Transaction, seed: object) -> Counter[str]:
    """Fail if there is an anomaly; count the outcomes."""
    history = [*read_histories(folder), final]
    anomalies = check(history)
    found = "\n".join(map(str, anomalies))
    assert not anomalies, f"seed {seed}: {len(history)} transactions\n{found}"
    return Counter(transaction.outcome for transaction in history)


@pytest.mark.parametrize("url", ["memory:", *FILES, SQLITE])
def test_threads_of_one_database(url: str, folder: Path) -> None:
    """Eight threads on one Database, with packs between: strictly serializable, nothing lost."""
    size = size_for(1, 8, pack_every=20)
    with Database(url.format(folder), CACHE_SIZE) as database:
        prepare(database, size)
        work(database, folder, 0, "threads", lambda: None)
        outcomes = judge(folder, read_all(database), "threads")
    assert outcomes[OK] > size.threads * size.transactions / 4
    assert set(outcomes) <= {OK, FAILED}


class Workers:
    """The processes of one history."""

    def __init__(self, url: str, folder: Path, size: Size, seed: int) -> None:
        self.total = size.processes * size.threads * size.transactions
        self._url, self._folder, self._seed = url, folder, seed
        self._starts = 0
        self._selector = selectors.DefaultSelector()
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.done = 0  # transactions
        for process in range(size.processes):
            self.start(process)

    def start(self, process: int) -> None:
        self._starts += 1
        program = [sys.executable, "-m", "tests.isolation.workload"]
        seed = f"{self._seed}.{self._starts}"
        with open(self._folder / "workers.log", "ab") as log:
            started = subprocess.Popen(
                [*program, self._url, str(self._folder), str(process), seed],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert started.stdout is not None
        self._selector.register(started.stdout, selectors.EVENT_READ, process)
        self.running[process] = started

    def kill(self, process: int) -> None:
        self.running[process].kill()
        self._end(process)

    def _end(self, process: int) -> int:
        ended = self.running.pop(process)
        assert ended.stdout is not None
        self._selector.unregister(ended.stdout)
        ended.stdout.close()
        return ended.wait()

    def go_on(self, until: float, timeout_s: float | None = None) -> None:
        """Wait until so many transactions are done, or all that there are, or for a while."""
        while self.running and self.done < until:
            ready = self._selector.select(timeout_s)
            if not ready:
                return
            for key, _ in ready:
                said = os.read(key.fd, 4096)
                self.done += len(said)
                if not said:
                    status = self._end(key.data)
                    log = (self._folder / "workers.log").read_text()
                    assert status == 0, f"seed {self._seed}: process {key.data} failed:\n{log}"

    def close(self) -> None:
        """End what is still running."""
        for process in list(self.running):
            self.kill(process)
        self._selector.close()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("url", [*FILES, SQLITE])
def test_a_process_that_is_killed(url: str, seed: int, folder: Path) -> None:
    """SIGKILL again and again in the midst of four threads: what was acknowledged is there."""
    chance = Random(seed)
    size = Size(1, 4, max(TRANSACTIONS // 12, 10), pack_every=15)  # each time that it is started
    with Database(url.format(folder), CACHE_SIZE) as database:
        prepare(database, size)
    workers = Workers(url.format(folder), folder, size, seed)
    try:
        for _ in range(4):
            workers.go_on(workers.done + chance.randint(1, workers.total // 3))
            if 0 in workers.running:
                workers.kill(0)
            workers.start(0)
        workers.go_on(float("inf"))
    finally:
        workers.close()
    with Database(url.format(folder), CACHE_SIZE) as database:
        judge(folder, read_all(database), seed)


@pytest.mark.parametrize("kills", [False, True], ids=["left alone", "killed"])
@pytest.mark.parametrize("seed", SEEDS)
def test_processes_on_one_sqlite_database(seed: int, kills: bool, folder: Path) -> None:
    """Without a server, with packs, killed and stopped at random: serializable, nothing lost."""
    url = SQLITE.format(folder)
    size = size_for(4, 2, pack_every=15)
    actions: list[Action] = [
        kill_client,
        pause_client,
        kill_client,
        kill_client,
        pause_client,
        kill_client,
    ]
    outcomes = run_on(url, folder, size, seed, actions if kills else [])
    assert set(outcomes) <= {OK, FAILED} or kills


@pytest.mark.parametrize("database", [*FILES, SQLITE])
@pytest.mark.parametrize("seed", SEEDS)
def test_processes_on_a_server(
    database: str, seed: int, folder: Path, servers: Callable[[str], Server]
) -> None:
    """Processes and threads on a server, with packs between: strictly serializable."""
    server = servers(database)
    size = size_for(3, 3, pack_every=20)
    run_on(server.url, folder, size, seed, [])
    assert server.is_running(), server.log()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("database", FILES)
def test_a_server_that_is_killed(
    database: str, seed: int, folder: Path, servers: Callable[[str], Server]
) -> None:
    """The same while the server is killed and started, and stopped and continued."""
    server = servers(database)
    shocks = [kill_server, kill_server, pause_server, kill_server, pause_server, kill_server]
    actions = [partial(shock, server) for shock in shocks]
    run_on(server.url, folder, size_for(3, 2, pack_every=15), seed, actions)
    assert server.is_running(), server.log()


@pytest.mark.parametrize("seed", SEEDS)
def test_clients_and_a_server_that_are_killed(
    seed: int, folder: Path, servers: Callable[[str], Server]
) -> None:
    """The same while clients are killed and replaced, stopped and continued, and the server too."""
    server = servers(FILES[0])
    actions: list[Action] = [kill_client, pause_client, partial(kill_server, server)]
    actions += [kill_client, pause_client, partial(pause_server, server)]
    run_on(server.url, folder, size_for(4, 2, pack_every=15), seed, actions * 2)
    assert server.is_running(), server.log()


Action = Callable[[Workers, Random], None]


def kill_server(server: Server, workers: Workers, chance: Random) -> None:
    server.kill()
    if chance.random() < 0.5:
        workers.go_on(float("inf"), timeout_s=0.1)  # they find it gone
    server.start()


def pause_server(server: Server, workers: Workers, chance: Random) -> None:
    server.pause()
    workers.go_on(float("inf"), timeout_s=0.1)  # until all wait for it
    server.resume()


def kill_client(workers: Workers, chance: Random) -> None:
    process = chance.choice(sorted(workers.running))
    workers.kill(process)
    workers.start(process)


def pause_client(workers: Workers, chance: Random) -> None:
    paused = workers.running[chance.choice(sorted(workers.running))]
    stop(paused)
    # The others go on without it.
    workers.go_on(workers.done + workers.total // 20, timeout_s=0.5)
    paused.send_signal(signal.SIGCONT)


def run_on(
    url: str, folder: Path, size: Size, seed: int, actions: Iterable[Action]
) -> Counter[str]:
    """Let processes work on a database, act at random places of their history, and judge it."""
    chance = Random(seed)
    with patiently(lambda: Database(url)) as database:
        prepare(database, size)
    workers = Workers(url, folder, size, seed)
    actions = list(actions)
    try:
        for action in actions:
            share = workers.total // (len(actions) + 1)
            workers.go_on(workers.done + chance.randint(share // 2, share))
            if workers.running:
                action(workers, chance)
        workers.go_on(float("inf"))
    finally:
        workers.close()
    with Database(url) as database:
        outcomes = judge(folder, read_all(database), seed)
    assert outcomes[OK] > workers.total / 4, outcomes
    return outcomes
