"""Protocol 2, frame by frame."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from struct import pack

import pytest

from durus.file_storage import FileStorage
from durus.storage import MemoryStorage
from durus.storage_server import Limits
from durus.testing import commit
from durus.utils import int8_to_str

from .peers import (
    ANSWERS,
    ASK,
    BYE,
    COMMIT,
    COMMITTED,
    CONFIRM,
    DESCRIBE,
    DESCRIPTION,
    DONE,
    ERROR,
    GIVE_UP,
    LOAD,
    LOAD_MANY,
    MORE,
    PACK,
    PROGRESS,
    RECORDS,
    STOP,
    STORE,
    SYNC,
    NewPeer,
    OldPeer,
    frame,
    record,
    serving,
    split_records,
)


@pytest.fixture
def storage() -> MemoryStorage:
    """Make a storage with a root, and 1 to 3 that it refers to."""
    storage = MemoryStorage()
    commit(storage, record(0, [1, 2, 3]), record(1), record(2), record(3))
    return storage


def test_a_load_is_answered_by_the_record(tmp_path: Path, storage: MemoryStorage) -> None:
    """LOAD without a budget brings the record that was asked for, and no other."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        assert peer.load(0) == [record(0, [1, 2, 3])]
        assert peer.error(LOAD, int8_to_str(99) + pack(">L", 0)) == {
            "error": "DurusKeyError",
            "message": "no record is stored under oid 99",
            "oid": int8_to_str(99).hex(),
        }


def test_requests_are_answered_in_order_without_waiting(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """A client may send hundreds of requests at once, and gets the answers in their order."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        numbers = range(2000)
        load = int8_to_str(1) + pack(">L", 0)
        peer.send(b"".join(frame(LOAD, number, load) for number in numbers))
        for number in numbers:
            assert peer.read_frame()[:2] == (RECORDS, number)


def test_a_request_may_arrive_byte_by_byte(tmp_path: Path, storage: MemoryStorage) -> None:
    """However the bytes of a request arrive, it is answered once."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        for byte in frame(LOAD, 9, int8_to_str(1) + pack(">L", 0)):
            peer.send(bytes([byte]))
        assert peer.read_frame() == (RECORDS, 9, pack(">L", len(record(1))) + record(1))


def test_transactions_need_not_wait_for_each_other(tmp_path: Path, storage: MemoryStorage) -> None:
    """A client may send the next transaction, about what it has just made, before an answer."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        [new] = peer.new_oids(1)
        for round_ in range(20):
            peer.store(record(1, [2, new], b"%d" % round_), record(new, payload=b"%d" % round_))
            peer.send_frame(COMMIT)
        for _ in range(20):
            assert peer.read_frame()[0] == COMMITTED
        assert peer.load(new) == [record(new, payload=b"19")]


def test_a_record_that_is_refused_is_an_error_of_the_commit(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """Nothing answers a STORE; what is wrong with it is the answer to the COMMIT, and is over."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        peer.store(record(1, payload=b"bad")[:-1], record(2))
        peer.store(record(3))
        assert peer.error(COMMIT)["error"] == "CorruptRecordError"
        assert peer.commit(record(2, payload=b"good")) == []
        assert storage.load(int8_to_str(2)) == record(2, payload=b"good")


def test_read_ahead_brings_what_is_referred_to(tmp_path: Path, storage: MemoryStorage) -> None:
    """With a budget, the records that the one asked for refers to come along, within the budget."""
    size = len(record(1)) + 4
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        assert peer.load(0, budget=3 * size) == [record(0, [1, 2, 3]), *map(record, (1, 2, 3))]
        assert peer.load(0, budget=2 * size) == [record(0, [1, 2, 3]), record(1), record(2)]
        assert peer.load(0, budget=1) == [record(0, [1, 2, 3])]


def test_read_ahead_goes_on_beside_what_was_asked_for(tmp_path: Path) -> None:
    """An object without references brings those that follow it in a container sent before."""
    storage = MemoryStorage()
    commit(storage, record(0, [3, 5, 9]), *(record(n) for n in (3, 4, 5, 9)))
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        peer.load(0, budget=1)
        assert peer.load(3, budget=10_000) == [record(3), record(5), record(9)]


def test_read_ahead_of_unrelated_objects_follows_the_oids(tmp_path: Path) -> None:
    """An object of no known container brings those with the next oids, which were made with it."""
    storage = MemoryStorage()
    commit(storage, *(record(n) for n in (3, 4, 5, 9)))
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        assert peer.load(3, budget=10_000) == [record(3), record(4), record(5)]


def test_read_ahead_stays_within_the_servers_limit(tmp_path: Path) -> None:
    """However much a client asks for, a reply brings no more than the server's own limit."""
    storage = MemoryStorage()
    commit(storage, *(record(n, payload=b"x" * 1000) for n in range(100)))
    limits = Limits(read_ahead_bytes=10_000)
    with serving(tmp_path, storage, limits=limits), NewPeer(tmp_path / "s") as peer:
        assert 2 <= len(peer.load(0, budget=0xFFFFFFFF)) <= 11


def test_load_many_answers_each_oid_in_order(tmp_path: Path, storage: MemoryStorage) -> None:
    """Records, and a word in place of a length for what is not stored or too new."""
    with (
        serving(tmp_path, storage),
        NewPeer(tmp_path / "s") as peer,
    ):
        oids = pack(">4Q", 1, 99, 0, 1)
        one, root = record(1), record(0, [1, 2, 3])
        assert peer.expect(ANSWERS, LOAD_MANY, oids) == b"".join(
            (
                pack(">L", len(one)) + one,
                b"\xff\xff\xff\xff",
                pack(">L", len(root)) + root,
                pack(">L", len(one)) + one,
            )
        )
        assert peer.expect(ANSWERS, LOAD_MANY) == b""


def test_a_long_answer_to_load_many_comes_in_parts(tmp_path: Path) -> None:
    """Megabytes come as MORE frames of moderate size, the last as ANSWERS, none missing."""
    storage = MemoryStorage()
    large = [record(n, payload=b"x" * 50_000) for n in range(50)]
    commit(storage, *large)
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        oids = pack(">5000Q", *(n % 50 for n in range(5000)))
        number = peer.send_frame(LOAD_MANY, oids)
        found = 0
        kind = MORE
        while kind == MORE:
            kind, answered, payload = peer.read_frame()
            assert answered == number
            assert len(payload) < 400_000
            for each in split_records(payload):
                assert each == large[found % 50]
                found += 1
        assert (kind, found) == (ANSWERS, 5000)


def test_new_oids_are_nobody_elses(tmp_path: Path, storage: MemoryStorage) -> None:
    """NEW_OIDS gives as many as it says, and no client gets what another has got."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        given = a.new_oids(8192) + b.new_oids(255) + a.new_oids(1)
        assert len(set(given)) == 8448
        assert min(given) > 3


def test_a_commit_of_what_nobody_else_touched_takes_one_round_trip(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """COMMIT is answered by COMMITTED at once, with what is stale and was not loaded."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        assert b.load(2) == [record(2)]
        assert a.commit(record(1, payload=b"new")) == []
        assert b.commit(record(2, payload=b"new")) == [1]
        assert b.sync() == []
        assert a.sync() == [2]
        assert a.load(2) == [record(2, payload=b"new")]


def test_a_transaction_may_come_in_many_frames(tmp_path: Path, storage: MemoryStorage) -> None:
    """STORE adds to the transaction; a later record of the same object replaces the earlier one."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        peer.store(record(1, payload=b"first"))
        peer.store(record(2, payload=b"second"), record(3))
        peer.store(record(1, payload=b"last"))
        assert peer.commit() == []
        assert peer.load(1) + peer.load(2) == [
            record(1, payload=b"last"),
            record(2, payload=b"second"),
        ]


def test_a_sync_between_the_records_of_a_transaction_leaves_it_whole(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """What a client stored before and after it moved is looked at anew, in turns, and committed."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        new = a.new_oids(100)
        a.store(*(record(number) for number in new[:80]))
        b.commit(record(2, payload=b"b"))
        assert a.sync() == [2]
        a.store(*(record(number) for number in new[80:]))
        a.commit(record(1, new))
        assert b.sync() == [1, *new]
        assert b.load(1) == [record(1, new)]
        assert b.load(new[0]) == [record(new[0])]


def test_what_is_wrong_after_a_sync_is_refused(tmp_path: Path, storage: MemoryStorage) -> None:
    """The oid of a stored object that a pack has removed by then is nobody's any more."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        a.store(record(3, payload=b"a"))
        b.commit(record(0, [1, 2]))
        b.send_frame(PACK)
        while b.read_frame()[0] != DONE:
            pass
        assert a.sync() == [0, 3]
        assert a.error(COMMIT)["error"] == "UnissuedOidError"
        assert a.commit(record(1, payload=b"a")) == []


def test_a_client_is_asked_about_what_it_has_loaded(tmp_path: Path, storage: MemoryStorage) -> None:
    """ASK tells what is stale and loaded; CONFIRM commits nevertheless, and tells the rest."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        b.load(1)
        b.load(2)
        a.commit(record(1, payload=b"new"), record(3, payload=b"new"))
        b.store(record(2, payload=b"new"))
        assert b.expect(ASK, COMMIT) == b"\0" + int8_to_str(1)
        assert b.expect(COMMITTED, CONFIRM) == int8_to_str(3)
        assert b.load(1) == [record(1, payload=b"new")]
        assert a.sync() == [2]


def test_a_client_that_is_asked_may_give_up(tmp_path: Path, storage: MemoryStorage) -> None:
    """After GIVE_UP nothing of the transaction is left, and the next one is a new one."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        b.load(1)
        a.commit(record(1, payload=b"new"))
        b.store(record(2, payload=b"never"))
        b.expect(ASK, COMMIT)
        b.send_frame(GIVE_UP)
        assert b.sync() == [1]
        assert b.commit(record(3, payload=b"b")) == []
        assert b.load(2) == [record(2)]


def test_what_is_stored_wrongly_after_an_ask_is_not_confirmed(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """CONFIRM is refused for what a STORE brought since the ASK, and stores nothing of the rest."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        b.load(1)
        a.commit(record(1, payload=b"new"))
        b.store(record(2, payload=b"never"))
        b.expect(ASK, COMMIT)
        b.store(record(1000))
        assert b.error(CONFIRM)["error"] == "UnissuedOidError"
        assert b.load(2) == [record(2)]
        assert b.commit(record(3, payload=b"b")) == [1]


def test_what_changes_after_an_ask_is_asked_about_too(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """A change between ASK and CONFIRM of something else that was loaded is another ASK."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        b.load(1)
        b.load(3)
        a.commit(record(1, payload=b"new"))
        b.store(record(2, payload=b"new"))
        assert b.expect(ASK, COMMIT) == b"\0" + int8_to_str(1)
        a.commit(record(3, payload=b"new"))
        assert b.expect(ASK, CONFIRM) == b"\0" + int8_to_str(3)
        assert b.expect(COMMITTED, CONFIRM) == b""


def test_what_was_loaded_again_after_an_ask_is_asked_about_again(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """A client that loads the old state again between ASK and CONFIRM is told again."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        b.load(1)
        a.commit(record(1, payload=b"new"))
        b.store(record(2, payload=b"new"))
        b.expect(ASK, COMMIT)
        assert b.load(1) == [record(1)]
        assert b.expect(ASK, CONFIRM) == b"\0" + int8_to_str(1)


def test_what_came_by_read_ahead_counts_as_loaded(tmp_path: Path, storage: MemoryStorage) -> None:
    """A record that a client got without asking for it is asked about if it goes stale."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        b.load(0, budget=10_000)
        a.commit(record(3, payload=b"new"))
        b.store(record(1, payload=b"new"))
        assert b.expect(ASK, COMMIT) == b"\0" + int8_to_str(3)


def test_what_a_client_has_stored_counts_as_loaded(tmp_path: Path, storage: MemoryStorage) -> None:
    """An object that a client made is asked about if another changes it."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        [new] = b.new_oids(1)
        b.commit(record(0, [1, 2, 3, new]), record(new))
        a.sync()
        a.commit(record(new, payload=b"a"))
        b.store(record(1, payload=b"b"))
        assert b.expect(ASK, COMMIT) == b"\0" + int8_to_str(new)


def test_a_commit_of_nothing_is_a_commit(tmp_path: Path, storage: MemoryStorage) -> None:
    """COMMIT without STORE is answered by COMMITTED with what is stale."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        a.commit(record(1, payload=b"new"))
        assert b.commit() == [1]
        assert b.commit() == []


def test_commits_may_follow_each_other_without_waiting(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """Transactions and syncs that are sent at once are done one after the other."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        for number in range(50):
            peer.store(record(1, payload=b"%d" % number))
            peer.send_frame(COMMIT)
            peer.send_frame(SYNC)
        answers = [peer.read_frame()[0] for _ in range(100)]
        assert answers.count(COMMITTED) == 50
        assert peer.load(1) == [record(1, payload=b"49")]


def test_an_error_says_what_is_wrong(tmp_path: Path, storage: MemoryStorage) -> None:
    """A commit that the server refuses is answered with the error's name, and the client stays."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        peer.store(record(77))
        assert peer.error(COMMIT)["error"] == "UnissuedOidError"
        [new] = peer.new_oids(1)
        peer.store(record(new, [88]))
        error = peer.error(COMMIT)
        assert (error["error"], error["oids"]) == ("WriteConflictError", [int8_to_str(88).hex()])
        assert peer.commit(record(new)) == []


def test_a_too_large_transaction_is_refused_with_a_reason(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """The answer to COMMIT says so; nothing is stored, and a smaller one goes through."""
    limits = Limits(transaction_bytes=100_000)
    with serving(tmp_path, storage, limits=limits), NewPeer(tmp_path / "s") as peer:
        for _ in range(5):
            peer.store(record(1, payload=b"x" * 30_000))
        error = peer.error(COMMIT)
        assert (error["error"], "100000 bytes" in error["message"]) == ("StorageError", True)
        assert peer.commit(record(1, payload=b"small")) == []


def test_a_pack_reports_and_is_done(tmp_path: Path) -> None:
    """PACK is answered by DONE when garbage is gone, perhaps after PROGRESS."""
    with FileStorage(tmp_path / "f") as storage:
        commit(storage, record(0, [1]), *(record(n) for n in range(1, 3000)))
        with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
            number = peer.send_frame(PACK)
            kind = PROGRESS
            while kind == PROGRESS:
                kind, answered, _ = peer.read_frame()
                assert answered == number
            assert kind == DONE
            assert peer.load(1) == [record(1)]
            assert peer.status()["pack"] == {"running": False, "kept": 2, "done": 1}


def test_packs_do_not_follow_at_once(tmp_path: Path, storage: MemoryStorage) -> None:
    """The next one waits for as long as the limits say; clients go on, and the server ends."""
    limits = Limits(pack_pause_s=3600.0)
    with serving(tmp_path, storage, limits=limits), NewPeer(tmp_path / "s") as peer:
        peer.send_frame(PACK)
        while peer.read_frame()[0] != DONE:
            pass
        assert peer.status()["pack"] == {"running": False, "kept": 4, "done": 1}
        peer.send_frame(PACK)
        assert peer.load(1) == [record(1)]
        assert peer.status()["pack"] == {"running": True, "kept": 0, "done": 1}


def test_commits_go_on_while_the_storage_is_packed(tmp_path: Path) -> None:
    """Another client commits between the steps of a pack; nothing of it is lost."""
    with FileStorage(tmp_path / "f") as storage:
        commit(storage, record(0, [*range(1, 5000)]), *(record(n) for n in range(1, 5000)))
        with serving(tmp_path, storage), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
            a.send_frame(PACK)
            for number in range(1, 200):
                b.commit(record(number, payload=b"b"))
            while a.read_frame()[0] != DONE:
                pass
            a.sync()
            assert all(a.load(n) == [record(n, payload=b"b")] for n in range(1, 200))


def test_a_storage_that_cannot_be_packed_says_so(
    tmp_path: Path, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PACK is answered by the storage's own error."""
    monkeypatch.setattr(storage, "can_pack", False)
    monkeypatch.delattr(MemoryStorage, "get_packer")
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        assert peer.error(PACK)["error"] == "NotSupportedError"


def test_a_client_that_gives_up_for_what_is_stale_is_a_conflict_that_counts(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """It is counted as if the server had refused; one that gives up for itself is not."""
    with (
        serving(tmp_path, storage),
        NewPeer(tmp_path / "s") as peer,
        NewPeer(tmp_path / "s") as other,
    ):
        peer.load(1)
        other.commit(record(1, payload=b"x"))
        peer.store(record(2))
        peer.expect(ASK, COMMIT)
        peer.send_frame(GIVE_UP)
        peer.store(record(2))
        peer.send_frame(GIVE_UP)
        assert peer.status()["conflicts"] == 1


def test_wrong_credentials_are_counted(tmp_path: Path, storage: MemoryStorage) -> None:
    """Who is not let in is among those that STATUS calls refused."""
    with serving(tmp_path, storage, secret=b"sesame"), NewPeer(tmp_path / "s", b"sesame") as peer:
        with NewPeer(tmp_path / "s", enter=False) as stranger:
            assert stranger.introduce(b"guess")[0] == ERROR
        assert peer.status()["refused"] == 1


def test_status_tells_what_was_done(tmp_path: Path, storage: MemoryStorage) -> None:
    """STATUS counts clients, loads, commits, conflicts and bytes, and how long commits took."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer, OldPeer(tmp_path / "s"):
        peer.load(0, budget=10_000)
        peer.commit(record(1, payload=b"x"))
        peer.store(record(2, [99]))
        peer.error(COMMIT)
        status = peer.status()
        assert status["clients"] == 2
        assert status["protocols"] == {"1": 1, "2": 1}
        counted = {key: status[key] for key in ("loads", "read_ahead", "commits", "conflicts")}
        assert counted == {"loads": 1, "read_ahead": 3, "commits": 1, "conflicts": 1}
        latency = status["commit_latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        assert status["bytes_in"] > 100 < status["bytes_out"]
        assert status["commits_per_sync"] == 1
        assert status["uptime_s"] > 0


def test_describe_gives_the_storages_description(tmp_path: Path) -> None:
    """DESCRIBE is what the storage tells of itself, its time in microseconds since the epoch."""
    with FileStorage(tmp_path / "f") as storage:
        commit(storage, record(0))
        told = storage.describe()
        with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
            found = json.loads(peer.expect(DESCRIPTION, DESCRIBE))
    assert found["format"] == "SHELF-1"
    assert found["transaction_count"] == 1
    assert told.last_commit_time is not None
    assert found["last_commit_time"] == round(told.last_commit_time.timestamp() * 1e6)


def test_stop_is_acknowledged(tmp_path: Path, storage: MemoryStorage) -> None:
    """STOP of a process of the same user is answered by DONE, and then the server is gone."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        assert peer.expect(DONE, STOP) == b""
        peer.wait_for_end()


def test_bye_ends_the_connection(tmp_path: Path) -> None:
    """A client that says BYE is disconnected."""
    with serving(tmp_path), NewPeer(tmp_path / "s") as peer:
        peer.send_frame(BYE)
        assert peer.is_dropped()


def test_frames_are_compressed_if_both_say_so(tmp_path: Path) -> None:
    """A long answer comes compressed, and compressed requests are understood."""
    storage = MemoryStorage()
    long = record(0, payload=b"x" * 10_000)
    commit(storage, long)
    with serving(tmp_path, storage), NewPeer(tmp_path / "s", compress=True) as peer:
        peer.send(frame(LOAD | 0x40, 7, zlib.compress(bytes(8) + pack(">L", 0))))
        size = int.from_bytes(peer.read(4), "big")
        assert size < 1000
        kind, payload = peer.read(1)[0], peer.read(size - 1)[4:]
        assert kind == RECORDS | 0x40
        assert zlib.decompress(payload) == pack(">L", len(long)) + long
        stored = record(0, payload=b"y" * 100_000)
        peer.send(frame(STORE | 0x40, 8, zlib.compress(pack(">L", len(stored)) + stored)))
        peer.expect(COMMITTED, COMMIT)
        assert peer.load(0) == [stored]


def test_two_clients_that_meet_at_an_empty_server(tmp_path: Path) -> None:
    """Both ask for the root; the answer to the second waits until the first has made it."""
    with serving(tmp_path), NewPeer(tmp_path / "s") as a, NewPeer(tmp_path / "s") as b:
        root = int8_to_str(0) + pack(">L", 0)
        assert a.error(LOAD, root)["error"] == "DurusKeyError"
        number = b.send_frame(LOAD, root)
        assert 0 in a.new_oids(3)
        a.commit(record(0))
        assert b.read_frame() == (RECORDS, number, pack(">L", len(record(0))) + record(0))


def test_who_waits_for_a_root_that_never_comes_is_told_in_the_end(tmp_path: Path) -> None:
    """A client that found no root and makes none holds the others up for a limited time."""
    limits = Limits(root_s=0.01)
    with (
        serving(tmp_path, limits=limits),
        NewPeer(tmp_path / "s") as a,
        NewPeer(tmp_path / "s") as b,
    ):
        root = int8_to_str(0) + pack(">L", 0)
        assert a.error(LOAD, root)["error"] == "DurusKeyError"
        assert b.error(LOAD, root)["error"] == "DurusKeyError"
        assert 0 in b.new_oids(2)


def test_a_client_that_was_idle_for_long_is_told_to_forget_all(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """When more has changed than is kept, SYNC says that anything may have."""
    with (
        serving(tmp_path, storage, limits=Limits(log_oids=1000)),
        NewPeer(tmp_path / "s") as a,
        NewPeer(tmp_path / "s") as b,
    ):
        b.load(1)
        news = a.new_oids(300)
        refs = [1, 2, 3, *news]
        small = [record(n) for n in news]
        a.commit(record(0, refs), *small)
        for _ in range(4):
            a.commit(*small)
        assert b.sync() is None
        assert b.sync() == []
        assert b.load(0) == [record(0, refs)]


def test_errors_of_one_request_leave_the_others_alone(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """Of three requests that are sent at once the second fails, and the third is answered."""
    with serving(tmp_path, storage), NewPeer(tmp_path / "s") as peer:
        budget = pack(">L", 0)
        for number in (1, 99, 2):
            peer.send_frame(LOAD, int8_to_str(number) + budget)
        assert [peer.read_frame()[:2] for _ in range(3)] == [(RECORDS, 1), (ERROR, 2), (RECORDS, 3)]
        assert peer.new_oids(1)
