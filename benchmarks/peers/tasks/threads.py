"""Transactions of threads that share one database."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from benchmarks.peers.adapter import Group, Peer, PeerDatabase
from benchmarks.peers.settings import Outcome, Settings, Task

__all__ = ["TASKS"]


def threads(peer: Peer, settings: Settings) -> Callable[[], Outcome]:
    """Read-mostly transactions in threads on one database, with cold caches to begin with."""
    database = peer.database(settings.folder)
    barrier = threading.Barrier(settings.threads + 1)
    outcomes: list[Outcome] = []
    errors: list[BaseException] = []

    def run_thread(index: int) -> None:
        try:
            barrier.wait()
            outcomes.append(_run_transactions(database, settings, index))
        except BaseException as error:
            errors.append(error)
            raise

    workers = [
        threading.Thread(target=run_thread, args=(index,), daemon=True)
        for index in range(settings.threads)
    ]
    for worker in workers:
        worker.start()

    def run() -> Outcome:
        barrier.wait()
        for worker in workers:
            worker.join()
        if errors:
            raise errors[0]
        return Outcome(
            sum(outcome.operations for outcome in outcomes),
            sum(outcome.checksum for outcome in outcomes),
            [latency for outcome in outcomes for latency in outcome.latencies_s],
        )

    return run


def _run_transactions(database: PeerDatabase, settings: Settings, index: int) -> Outcome:
    choice = _thread_choice(index)
    clock, checksum, latencies_s = time.perf_counter, 0, []
    for number in range(settings.operations):
        wanted = [divmod(choice(settings.items), settings.members) for _ in range(settings.reads)]
        writes = number % settings.write_every == settings.write_every - 1
        began = clock()
        transact = database.write if writes else database.read
        checksum += transact(_transaction(wanted, writes=writes))
        latencies_s.append(clock() - began)
    return Outcome(settings.operations, checksum, latencies_s)


def _thread_choice(index: int) -> Callable[[int], int]:
    return random.Random(index).randrange


def _transaction(wanted: list[tuple[int, int]], *, writes: bool) -> Callable[[Group], int]:
    def work(directory: Group) -> int:
        groups, checksum, item = directory.members, 0, None
        for group, member in wanted:
            item = groups[group].members[member]
            checksum += item.n
        if writes and item is not None:
            item.counter += 1
        return checksum

    return work


def _expected(settings: Settings) -> tuple[int, int]:
    checksum = 0
    for index in range(settings.threads):
        choice = _thread_choice(index)
        for _ in range(settings.operations * settings.reads):
            checksum += choice(settings.items)
    return settings.operations * settings.threads, checksum


def _left(settings: Settings) -> tuple[int, int]:
    writes = settings.threads * (settings.operations // settings.write_every)
    return settings.items, sum(range(settings.items)) + writes


TASKS = {"threads": Task(threads, _expected, "count_all", _left)}
