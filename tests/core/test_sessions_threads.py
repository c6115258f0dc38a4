"""Threads that hammer the sessions of one storage, with the interpreter switching all the time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from random import Random

import pytest

from durus.error import ConflictError, DurusError
from durus.serialize import ROOT_OID, split_oids, unpack_record
from durus.sessions import Session, SharedStorage
from durus.storage import MemoryStorage
from durus.testing import commit, make_record
from durus.utils import int8_to_str

COUNTERS = [int8_to_str(number) for number in range(1, 6)]
THREADS = 6
ROUNDS = 60


@pytest.fixture(autouse=True)
def restless() -> Iterator[None]:
    """Have threads switch as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("strict", [False, True])
def test_nothing_is_lost_kept_or_stuck(strict: bool) -> None:
    """Of commits, syncs, packs and closes that race each has its effect once, and nothing stays."""
    shared = SharedStorage(MemoryStorage(), strict=strict)
    first = shared.new_session()
    first.new_oids(len(COUNTERS) + 1)
    root = make_record(ROOT_OID, COUNTERS)
    commit(first, root, *(_counter(oid, 0) for oid in COUNTERS))
    first.close()

    def work(seed: int) -> list[bytes]:
        random = Random(seed)
        session = shared.new_session()
        done: list[bytes] = []
        for _ in range(ROUNDS):
            choice = random.random()
            if choice < 0.1:
                session.close()
                session = shared.new_session()
            elif choice < 0.13:
                with suppress(DurusError):  # another pack is running
                    session.pack()
            elif choice < 0.2:
                # A snapshot reads one state, without a conflict.
                session.sync()
                numbers = _read_all(session)
                assert _read_all(session) == numbers
            else:
                session.sync()
                oid = random.choice(COUNTERS)
                with suppress(ConflictError):
                    _increment(session, oid)
                    done.append(oid)
        session.close()
        return done

    with ThreadPoolExecutor(THREADS) as threads:
        done = [oid for found in threads.map(work, range(THREADS)) for oid in found]
    session = shared.new_session()
    assert _read_all(session) == [done.count(oid) for oid in COUNTERS]
    assert len(done) > THREADS
    log = shared._log
    assert [*log._commits, *log._by_oid, *log._with_records] == []
    assert log._oid_count == log._byte_count == 0
    assert [*shared._unfinished, *shared._pending, *shared._queue] == []
    assert [*shared._sessions] == [session]


def _counter(oid: bytes, number: int) -> bytes:
    """Make a counter, which counts by how many references it has to others."""
    high, low = divmod(number, 256)
    return make_record(oid, payload=bytes([high, low]) * 8)


def _read(session: Session, oid: bytes) -> int:
    record = session.load(oid)
    return next(number for number in range(1000) if _counter(oid, number) == record)


def _read_all(session: Session) -> list[int]:
    assert split_oids(unpack_record(session.load(ROOT_OID))[2]) == COUNTERS
    return [_read(session, oid) for oid in COUNTERS]


def _increment(session: Session, oid: bytes) -> None:
    new = session.new_oid()
    session.begin()
    session.store(oid, _counter(oid, _read(session, oid) + 1))
    session.store(new, make_record(new))

    def refuse(stale: list[bytes]) -> None:
        if oid in stale:
            raise ConflictError([oid])

    session.end(refuse)
