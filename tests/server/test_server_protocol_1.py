"""Protocol 1, byte by byte as the clients of Durus 4.3 send it."""

from __future__ import annotations

from pathlib import Path
from struct import pack
from threading import Thread

import pytest

from durus.error import StorageWriteError
from durus.file_storage import FileStorage
from durus.storage import MemoryStorage
from durus.testing import commit
from durus.utils import int8_to_str

from .peers import OldPeer, Peer, record, serving


@pytest.fixture
def storage() -> MemoryStorage:
    """Make a storage with a root, and 1 that it refers to."""
    storage = MemoryStorage()
    commit(storage, record(0, [1]), record(1))
    return storage


def test_a_server_answers_v_with_its_version(tmp_path: Path) -> None:
    """V with version 1 is answered by version 1, and what follows is understood."""
    with serving(tmp_path), Peer(tmp_path / "s") as peer:
        peer.send(b"V\0\0\0\1")
        assert peer.read(4) == b"\0\0\0\1"
        peer.send(b"N")
        assert len(peer.read(8)) == 8


def test_another_version_is_told_ours_and_dropped(tmp_path: Path) -> None:
    """V with a version that nobody speaks is answered by 2, and the connection is closed."""
    with serving(tmp_path), Peer(tmp_path / "s") as peer:
        peer.send(b"V\0\0\0\7")
        assert peer.read(4) == b"\0\0\0\2"
        assert peer.is_dropped()


def test_n_and_m_give_oids_once(tmp_path: Path, storage: MemoryStorage) -> None:
    """N gives one oid, M as many as its byte says, and no client gets what another has got."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        a.send(b"N")
        given = a.read_oids(1) + b.new_oids(255) + a.new_oids(3) + b.new_oids(1)
        assert len(set(given)) == 260
        assert not {0, 1} & set(given)
        assert a.new_oids(0) == []


def test_l_gives_the_record(tmp_path: Path, storage: MemoryStorage) -> None:
    """L is answered by O, the length and the record, or by K if there is none."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as peer:
        peer.send(b"L" + int8_to_str(1))
        found = record(1)
        assert peer.read(5 + len(found)) == b"O" + pack(">L", len(found)) + found
        peer.send(b"L" + int8_to_str(99))
        assert peer.read(1) == b"K"


def test_b_gives_a_reply_for_each_oid_in_order(tmp_path: Path, storage: MemoryStorage) -> None:
    """B is answered by a load reply for each oid, also for one that is missing."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as peer:
        peer.send(b"B" + pack(">LQQQ", 3, 1, 99, 0))
        replies = [peer.read_load_reply() for _ in range(3)]
        assert replies == [record(1), b"K", record(0, [1])]
        peer.send(b"B" + pack(">L", 0))
        assert peer.load(1) == record(1)


def test_b_takes_more_than_the_sockets_hold(tmp_path: Path) -> None:
    """Thousands of large records come for one B, though the client reads only when all is sent."""
    storage = MemoryStorage()
    large = [record(n, payload=b"x" * 50_000) for n in range(100)]
    commit(storage, *large)
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as peer:
        numbers = [n % 100 for n in range(3000)]
        peer.send(b"B" + pack(">L", len(numbers)) + pack(f">{len(numbers)}Q", *numbers))
        for number in numbers:
            assert peer.read_load_reply() == large[number]


def test_requests_may_arrive_in_any_pieces(tmp_path: Path, storage: MemoryStorage) -> None:
    """A request that arrives byte by byte is answered as one that arrives at once."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as peer:
        for request in (b"L" + int8_to_str(1), b"B" + pack(">LQQ", 2, 1, 1), b"M\2"):
            for byte in request:
                peer.send(bytes([byte]))
        assert [peer.read_load_reply() for _ in range(3)] == [record(1)] * 3
        assert len(peer.read(16)) == 16


def test_a_commit_is_seen_by_others_when_they_sync(tmp_path: Path, storage: MemoryStorage) -> None:
    """C, the records and O; others see the old record until S tells them of the change, once."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        assert b.load(1) == record(1)
        assert a.begin_commit() == []
        a.end_commit(record(1, payload=b"new"))
        assert a.read(1) == b"O"
        assert a.load(1) == record(1, payload=b"new")
        assert b.load(1) == record(1)
        assert b.sync() == [1]
        assert b.load(1) == record(1, payload=b"new")
        assert b.sync() == []
        assert a.sync() == []


def test_c_tells_what_has_changed(tmp_path: Path, storage: MemoryStorage) -> None:
    """The reply to C has the oids that others changed; a length of 0 gives up without a reply."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        assert b.load(1) == record(1)
        a.commit(record(1, payload=b"new"))
        assert b.begin_commit() == [1]
        b.end_commit()
        assert b.load(1) == record(1, payload=b"new")
        assert b.commit(record(1, payload=b"newer")) == b"O"


def test_a_change_between_the_halves_of_a_commit_is_a_conflict(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """What the client has loaded and another changes after C makes the commit fail with I."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        b.load(0)
        b.load(1)
        assert b.begin_commit() == []
        assert a.commit(record(1, payload=b"new")) == b"O"
        b.end_commit(record(0, [1], b"from b"))
        assert b.read(1) == b"I"
        assert b.load(0) == record(0, [1])
        assert b.sync() == [1]


def test_a_change_of_what_the_client_does_not_know_is_no_conflict(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """What another changes after C, and the client has not loaded, it is told at its next sync."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        b.load(0)
        assert b.begin_commit() == []
        assert a.commit(record(1, payload=b"new")) == b"O"
        b.end_commit(record(0, [1], b"from b"))
        assert b.read(1) == b"O"
        assert b.sync() == [1]
        assert b.load(1) == record(1, payload=b"new")


def test_a_client_in_the_middle_of_a_commit_holds_nobody_up(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """While one client has sent half a commit, others load and commit; then it commits too."""
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        [new] = a.new_oids(1)
        assert a.begin_commit() == []
        half = transaction = pack(">L", 0)
        records = (record(0, [1, new]), record(new))
        transaction = b"".join(pack(">L", len(r) + 8) + r[:8] + r for r in records)
        half = (pack(">L", len(transaction)) + transaction)[:30]
        a.send(half)
        for number in range(20):
            assert b.commit(record(1, payload=b"%d" % number)) == b"O"
        a.send((pack(">L", len(transaction)) + transaction)[30:])
        assert a.read(1) == b"O"
        assert b.load(new) == b"K"
        assert b.sync() == [0, new]
        assert b.load(new) == record(new)


def test_what_a_pack_removes_between_the_halves_of_a_commit_is_no_conflict(
    tmp_path: Path, storage: MemoryStorage
) -> None:
    """Though the client has loaded it; to store it, or to refer to it, is one."""
    commit(storage, record(2), record(3), record(4))
    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        assert [b.load(n) for n in (0, 2)] == [record(0, [1]), record(2)]
        assert b.begin_commit() == []
        a.send(b"P")
        assert a.read(1) == b"O"
        b.end_commit(record(0, [1], b"from b"))
        assert b.read(1) == b"O"
        assert b.sync() == [2, 3, 4]
        for refers in (True, False):
            # What it is given may be an oid that was removed.
            a.sync()
            [new] = a.new_oids(1)
            assert a.commit(record(new)) == b"O"
            b.sync()
            assert b.load(new) == record(new)
            assert b.begin_commit() == []
            a.send(b"P")
            assert a.read(1) == b"O"
            b.end_commit(record(1, [new]) if refers else record(new))
            assert b.read(1) == b"I"


def test_p_packs(tmp_path: Path) -> None:
    """P is answered by O when what the root does not reach is gone; clients are told of it."""
    with FileStorage(tmp_path / "f") as storage:
        commit(storage, record(0, [1]), record(1), record(2))
        with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
            assert b.load(2) == record(2)
            a.send(b"P")
            assert a.read(1) == b"O"
            assert b.sync() == [2]
            assert b.load(2) == b"K"
            assert b.load(1) == record(1)


def test_a_second_p_joins_the_first(tmp_path: Path) -> None:
    """Two clients that ask for a pack at the same time both get an answer."""
    with FileStorage(tmp_path / "f") as storage:
        commit(storage, record(0, [1]), record(1), *(record(n) for n in range(2, 2000)))
        with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
            a.send(b"P")
            b.send(b"P")
            assert (a.read(1), b.read(1)) == (b"O", b"O")
            assert b.sync() == list(range(2, 2000))


def test_a_storage_packs_by_itself(tmp_path: Path) -> None:
    """With gcbytes, garbage is gone once so many bytes were committed."""
    storage = FileStorage(tmp_path / "f")
    commit(storage, record(0, [1]), record(1), record(2))
    with serving(tmp_path, storage, gcbytes=1000), OldPeer(tmp_path / "s") as peer:
        stale: list[int] = []
        while 2 not in stale:
            # Either request may be the one that tells it.
            stale += peer.begin_commit()
            peer.end_commit(record(1, payload=b"x" * 300))
            assert peer.read(1) == b"O"
            stale += peer.sync()
        assert peer.load(2) == b"K"


def test_a_dot_ends_the_connection(tmp_path: Path) -> None:
    """A client that leaves with a dot is disconnected, and the server serves on."""
    with serving(tmp_path), OldPeer(tmp_path / "s") as peer:
        peer.send(b".")
        assert peer.is_dropped()
        with OldPeer(tmp_path / "s") as other:
            assert other.load(0) == b"K"


@pytest.mark.parametrize("greets", [True, False])
def test_q_ends_the_server(tmp_path: Path, greets: bool) -> None:
    """Q of a process of the same user ends the server, with or without a V before it."""
    storage = MemoryStorage()
    with serving(tmp_path, storage) as server:
        with (OldPeer if greets else Peer)(tmp_path / "s") as peer:
            peer.send(b"Q")
            peer.wait_for_end()
        thread = Thread(target=server.stop)
        thread.start()
        thread.join()
        assert not (tmp_path / "s").exists()
        with pytest.raises(ValueError, match="closed"):
            storage.load(int8_to_str(0))


def test_two_clients_that_meet_at_an_empty_server(tmp_path: Path) -> None:
    """Both ask for the root; the first makes it under oid 0, and the second then gets that one."""
    with serving(tmp_path), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        assert a.load(0) == b"K"
        b.send(b"L" + int8_to_str(0))
        a.send(b"N")
        assert a.read_oids(1) == [0]
        assert a.commit(record(0)) == b"O"
        assert b.read_load_reply() == record(0)


def test_the_next_client_makes_the_root_if_the_first_has_left(tmp_path: Path) -> None:
    """Who leaves an empty server without a root leaves oid 0 to the one that comes next."""
    with serving(tmp_path), OldPeer(tmp_path / "s") as b:
        with OldPeer(tmp_path / "s") as a:
            assert a.load(0) == b"K"
            assert a.new_oids(1) == [0]
            b.send(b"L" + int8_to_str(0))
        assert b.read_load_reply() == b"K"
        assert b.new_oids(1) == [0]
        assert b.commit(record(0)) == b"O"


def test_a_failed_write_is_never_acknowledged(
    tmp_path: Path, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage refuses a commit: the client gets no O but is dropped, and others are served."""

    def refuse(handle_invalidations: object = None) -> None:
        raise StorageWriteError("the disk is full")

    with serving(tmp_path, storage), OldPeer(tmp_path / "s") as a, OldPeer(tmp_path / "s") as b:
        monkeypatch.setattr(storage, "end", refuse)
        a.begin_commit()
        a.end_commit(record(1, payload=b"new"))
        assert a.is_dropped()
        assert b.load(1) == record(1)
        monkeypatch.undo()
        assert b.commit(record(1, payload=b"later")) == b"O"
