"""Random transactions through a Database, each noted as it happens, for the checker.

What stands under the root, made by `prepare`:

    lists      name to PersistentList of strings, each appended once; what the checker reads
    accounts   balances; transfers move amounts, audits add up
    pairs      two switches each, of which one is always on: whoever turns one off has read both
    slots      an object each, replaced by new ones: garbage for the packs that go on meanwhile

Run as a program, `python -m tests.isolation.workload URL FOLDER PROCESS SEED`, it writes
FOLDER/*.history, and to its standard output a byte for each transaction with an outcome.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from durus.btree import BTree
from durus.database import Database
from durus.error import (
    CommitUnknownError,
    ConflictError,
    DurusKeyError,
    StorageDisconnectedError,
    StorageError,
)
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList

from .checker import FAILED, OK, UNKNOWN, Transaction

T = TypeVar("T")

ACCOUNTS, PAIRS, SLOTS, LISTS = 8, 3, 5, 5
BALANCE = 100

# Small, so that a transaction often has to load what others are about to change.
CACHE_SIZE = 10

# After so many transactions of a thread the lists are left for new ones: each stays short.
GENERATION = 25

# How long to wait for a server that is gone, and how often.
_PAUSE_S, _PAUSES = 0.05, 1200

_SWITCH_S = 0.0001


@dataclass(frozen=True)
class Size:
    """How much to do: `threads` in each of `processes`, `transactions` in each thread."""

    processes: int
    threads: int
    transactions: int
    pack_every: int = 0

    @property
    def generations(self) -> int:
        return self.transactions // GENERATION + 1


@dataclass
class Attempt:
    """One transaction: what it is to do, and what was seen while it did."""

    name: str
    chance: Random
    kind: str
    shared_lists: list[str]
    own_list: str
    operations: list[tuple[str, str, list[str]]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        chance = self.chance
        if self.kind == "lists":
            chosen = chance.sample(self.shared_lists, chance.randint(1, len(self.shared_lists)))
            counts = [chance.choice((0, 1, 1, 2)) for _ in chosen]
            counts[0] = counts[0] or 1
            self.plan = {
                key: [f"{self.name}/{key}/{number}" for number in range(count)]
                for key, count in zip(chosen, counts, strict=True)
            }
            self.slot = chance.randrange(SLOTS) if chance.random() < 0.3 else None
        elif self.kind == "transfer":
            self.source, self.target = chance.sample(range(ACCOUNTS), 2)
            self.amount = chance.randint(1, 10)
            self.plan = {self.own_list: [f"{self.name}:{self.source}:{self.target}:{self.amount}"]}
        elif self.kind == "pair":
            self.pair, self.side = chance.randrange(PAIRS), chance.choice(("a", "b"))
            self.plan = {self.own_list: [self.name]}
        else:
            self.plan = {key: [] for key in [*self.shared_lists, self.own_list]}

    def planned(self) -> list[tuple[str, str, list[str]]]:
        """What it appends, if it is committed."""
        return [("append", key, [value]) for key, values in self.plan.items() for value in values]

    def do(self, root: Any) -> None:
        """Do it. What is read is noted as it is read."""
        if self.kind == "transfer":
            root["accounts"][self.source]["balance"] -= self.amount
            root["accounts"][self.target]["balance"] += self.amount
        elif self.kind == "pair":
            self._do_pair(root["pairs"][self.pair])
        elif self.kind == "audit":
            self.problems += find_problems(root)
        for key, values in self.plan.items():
            found = root["lists"][key]
            self.operations.append(("read", key, list(found)))
            for value in values:
                found.append(value)
                self.operations.append(("append", key, [value]))
        if self.kind == "lists":
            if self.slot is not None:
                root["slots"][self.slot] = PersistentDict(value=self.name, copy=self.name)
            key = next(iter(self.plan))
            self.operations.append(("read", key, list(root["lists"][key])))

    def _do_pair(self, pair: Any) -> None:
        if pair["a"]["on"] and pair["b"]["on"]:
            pair[self.side]["on"] = False
        else:
            pair["a"]["on"] = pair["b"]["on"] = True


def prepare(database: Database, size: Size) -> None:
    """Make what the transactions work on."""
    names = [f"{g}.{i}" for g in range(size.generations) for i in range(LISTS)]
    names += [
        own_list(process, thread, g)
        for g in range(size.generations)
        for process in range(size.processes)
        for thread in range(size.threads)
    ]
    with database.transaction() as root:
        root["lists"] = BTree()
        for name in names:
            root["lists"][name] = PersistentList()
        root["accounts"] = [PersistentDict(balance=BALANCE) for _ in range(ACCOUNTS)]
        root["pairs"] = [
            {side: PersistentDict(on=True) for side in ("a", "b")} for _ in range(PAIRS)
        ]
        root["slots"] = PersistentList(
            PersistentDict(value=str(i), copy=str(i)) for i in range(SLOTS)
        )
        root["size"] = asdict(size)


def own_list(process: int, thread: int, generation: int) -> str:
    """Name the list that only this thread writes."""
    return f"{generation}.own.{process}.{thread}"


def find_problems(root: Any) -> list[str]:
    """Say what is wrong with the sums that always hold."""
    problems = []
    total = sum(account["balance"] for account in root["accounts"])
    if total != ACCOUNTS * BALANCE:
        problems.append(f"the accounts hold {total}, not {ACCOUNTS * BALANCE}")
    problems += [
        f"pair {number} is off on both sides"
        for number, pair in enumerate(root["pairs"])
        if not (pair["a"]["on"] or pair["b"]["on"])
    ]
    problems += [
        f"slot {number} holds {dict(slot)}"
        for number, slot in enumerate(root["slots"])
        if slot["value"] != slot["copy"]
    ]
    return problems


def read_all(database: Database) -> Transaction:
    """Read everything, when all others are done, and see whether the balances are those earned."""
    found = Transaction("final", time.monotonic_ns(), outcome=OK)
    with database.transaction() as root:
        found.problems = find_problems(root)
        found.operations = [("read", key, list(values)) for key, values in root["lists"].items()]
        balances = [account["balance"] for account in root["accounts"]]
    expected = [BALANCE] * ACCOUNTS
    for key, values in found.reads.items():
        for value in values if ".own." in key else ():
            if ":" in value:
                _, source, target, amount = value.rsplit(":", 3)
                expected[int(source)] -= int(amount)
                expected[int(target)] += int(amount)
    if balances != expected:
        found.problems.append(f"the balances are {balances}, the transfers make {expected}")
    found.returned_ns = time.monotonic_ns()
    return found


class Worker:
    """The transactions of one thread."""

    def __init__(
        self, database: Database, size: Size, folder: Path, process: int, thread: int, seed: str
    ) -> None:
        self._database = database
        self._size = size
        self._process, self._thread = process, thread
        # A process that is started again goes on under another name.
        self._seed = seed
        self._name = f"{seed}.p{process}.t{thread}"
        self._path = folder / f"{self._name}.history"

    def work(self, said: Callable[[], object]) -> None:
        """Do all transactions, and call `said` after each that has an outcome."""
        chance = Random(self._name)
        with open(self._path, "ab", buffering=0) as file:
            for number in range(self._size.transactions):
                if self._is_time_to_pack(number):
                    patiently(self._database.pack)
                kind = chance.choices(("lists", "transfer", "pair", "audit"), (50, 20, 10, 20))[0]
                self._try(file, number, kind, Random(chance.random()), said)

    def _is_time_to_pack(self, number: int) -> bool:
        every = self._size.pack_every
        return bool(every) and self._thread == self._process == 0 and number % every == every - 1

    def _try(
        self, file: Any, number: int, kind: str, chance: Random, said: Callable[[], object]
    ) -> None:
        generation = number // GENERATION
        error = ""
        for retry in range(_PAUSES):
            attempt = Attempt(
                f"{self._name}.{number}.{retry}",
                chance,
                kind,
                [f"{generation}.{i}" for i in range(LISTS)],
                own_list(self._process, self._thread, generation),
            )
            noted = Transaction(attempt.name, time.monotonic_ns(), operations=attempt.planned())
            _write(file, noted)
            is_server_there = self._run(attempt, noted)
            noted.returned_ns = time.monotonic_ns()
            noted.problems = attempt.problems
            _write(file, noted)
            if is_server_there:
                said()
                return
            error = noted.error
            time.sleep(_PAUSE_S)
        raise TimeoutError(f"no server for {_PAUSES} attempts: {error}")

    def _run(self, attempt: Attempt, noted: Transaction) -> bool:
        noted.outcome = FAILED
        try:
            with self._database.transaction() as root:
                attempt.do(root)
        except ConflictError as error:
            noted.error = f"{type(error).__name__}: {error}"
        except CommitUnknownError as error:
            noted.outcome, noted.error = UNKNOWN, f"{type(error).__name__}: {error}"
        except StorageDisconnectedError as error:
            noted.error = f"{type(error).__name__}: {error}"
            return False
        except DurusKeyError as error:
            attempt.problems.append(f"{type(error).__name__}: {error}")
        else:
            noted.outcome, noted.operations = OK, attempt.operations
        return True


def _write(file: Any, noted: Transaction) -> None:
    # In one call, so that a killed process leaves whole lines and at most one that is not.
    file.write(json.dumps(asdict(noted)).encode() + b"\n")


def patiently(function: Callable[[], T]) -> T:
    """Call a function again until the server is there."""
    for _ in range(_PAUSES):
        try:
            return function()
        except StorageDisconnectedError:
            time.sleep(_PAUSE_S)
    return function()


def work(
    database: Database, folder: Path, process: int, seed: str, said: Callable[[], object]
) -> None:
    """Do all transactions of one process."""
    errors: list[BaseException] = []

    def run(worker: Worker) -> None:
        try:
            worker.work(said)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    def read_size() -> Size:
        with database.transaction() as root:
            return Size(**root["size"])

    size = patiently(read_size)
    threads = [
        threading.Thread(target=run, args=(Worker(database, size, folder, process, thread, seed),))
        for thread in range(size.threads)
    ]
    # Change threads within transactions, not once in twenty of them.
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval_s)
    if errors:
        raise errors[0]


def main(url: str, folder: str, process: str, seed: str) -> None:
    """Work on what the URL names, as a process of its own."""
    with patiently(lambda: Database(url, CACHE_SIZE)) as database:
        work(database, Path(folder), int(process), seed, lambda: os.write(1, b"."))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except StorageError as error:
        sys.exit(f"{type(error).__name__}: {error}")
