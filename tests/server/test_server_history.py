"""The past that a server tells: in parts, beside others, and not where there is none."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from struct import iter_unpack, pack
from typing import Any

import pytest

from durus.backends import open_storage
from durus.client_storage import ClientStorage, _protocol_2
from durus.error import DurusKeyError, NotSupportedError, ProtocolError, StorageError
from durus.file_storage import FileStorage
from durus.storage import Storage
from durus.storage_server import _history
from durus.storage_server._greeting import Greeter
from durus.storage_server._handshake import Handshake
from durus.testing import commit
from durus.utils import int8_to_str

from .peers import (
    CHANGED,
    CHANGES,
    COMMITS,
    HISTORY,
    LOAD,
    LOAD_AS_OF,
    RECORDS,
    ROOT,
    NewPeer,
    frame,
    record,
    serving,
    split_records,
)

NEWEST = (1 << 64) - 1


@pytest.fixture(params=["file", "sqlite"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A storage that keeps its history, with a root and an object; the server closes it."""
    if request.param == "sqlite":
        pytest.importorskip("durus.sqlite_storage", reason="durus-sqlite is not installed here")
    option = "?history=7d" if request.param == "sqlite" else ""
    storage = open_storage(f"{request.param}:{tmp_path / 'app.db'}{option}")
    commit(storage, record(0, [1]), record(1))
    return storage


@pytest.fixture
def path(storage: Storage, tmp_path: Path) -> Iterator[Path]:
    """Where a server serves it."""
    with serving(tmp_path, storage):
        yield tmp_path / "s"


def _told(path: Path, before: int = NEWEST, count: int = 10) -> list[int]:
    """Ask for commits, and give their serials."""
    with NewPeer(path) as peer:
        payload = peer.expect(COMMITS, HISTORY, pack(">QL", before, count))
    return [serial for serial, _ in iter_unpack(">Qq", payload)]


def test_commits_come_in_pages(
    path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits come the newest first, so many as were asked for, before the one that was named."""
    monkeypatch.setattr(_protocol_2, "MAX_COMMITS", 7)
    with ClientStorage(address=str(path)) as client:
        for n in range(30):
            commit(client, record(1, payload=b"%d" % n))
        found = [serial for serial, _ in client.gen_commits()]
        with open_storage(storage.describe().path or "", readonly=True) as beside:
            assert list(client.gen_commits()) == list(beside.gen_commits())
    assert _told(path, count=3) == found[:-4:-1]
    assert _told(path, before=found[4], count=100) == found[3::-1]
    assert _told(path, before=0) == []


def test_a_large_commit_comes_in_parts(path: Path, storage: Storage) -> None:
    """What a commit stored comes in parts of a bounded length, to any number of clients at once."""
    records = [record(1 + n, payload=b"%04d" % n * 1000) for n in range(200)]
    with ClientStorage(address=str(path)) as client:
        for oid in [client.new_oid() for _ in records[1:]]:
            assert 1 < int.from_bytes(oid) < 201
        commit(client, record(0, list(range(1, 201))), *records)
        serial = [serial for serial, _ in client.gen_commits()][-1]
        assert {found for _, found in client.gen_changes(serial)} >= set(records)
    peers = [NewPeer(path) for _ in range(_history._MOST_OPEN + 2)]
    found: list[list[bytes]] = [[] for _ in peers]
    is_last = False
    parts = 0
    while not is_last:
        parts += 1
        for peer, its in zip(peers, found, strict=True):
            payload = peer.expect(CHANGED, CHANGES, pack(">QL", serial, len(its)))
            assert len(payload) < _history._PART_BYTES + 5000
            is_last = payload[0] == 1
            its.extend(split_records(payload[1:]))
    assert parts == 7
    assert all(set(its) >= set(records) and len(its) == 201 for its in found)
    for peer in peers:
        peer.socket.close()


def test_after_a_pack(path: Path, storage: Storage) -> None:
    """What a pack forgot or removed is told as the storage itself does, and what came after it."""
    with ClientStorage(address=str(path)) as client:
        commit(client, record(0))
        *_, with_one, last = [serial for serial, _ in client.gen_commits()]
        assert client.load_as_of(int8_to_str(1), with_one) == record(1)
        client.pack()
        commit(client, record(0, payload=b"after"))
        with open_storage(storage.describe().path or "", readonly=True) as beside:
            assert list(client.gen_commits()) == list(beside.gen_commits())
            newest = [serial for serial, _ in beside.gen_commits()][-1]
        assert dict(client.gen_changes(newest)) == {ROOT: record(0, payload=b"after")}
        with pytest.raises(DurusKeyError):
            client.load_as_of(int8_to_str(1), newest)
        for serial in (newest + 1, NEWEST, 1 << 64, -1):
            with pytest.raises(StorageError):
                client.load_as_of(ROOT, serial)
        assert last < newest


@pytest.mark.parametrize(
    "request_", [(CHANGES, pack(">QL", 1, 0)), (LOAD_AS_OF, ROOT + pack(">Q", 1))]
)
def test_nobody_waits_for_the_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: tuple[int, bytes]
) -> None:
    """While it is read others load and commit; who has left is not read for; the next one is."""
    is_asked, may_go_on = threading.Event(), threading.Event()
    asked = []

    def wait(self: FileStorage, *arguments: Any) -> Any:
        asked.append(arguments)
        is_asked.set()
        may_go_on.wait()
        raise StorageError("told")

    with FileStorage(tmp_path / "f") as storage:
        commit(storage, record(0))
    with serving(tmp_path, FileStorage(tmp_path / "f")):
        monkeypatch.setattr(FileStorage, "gen_changes", wait)
        monkeypatch.setattr(FileStorage, "load_as_of", wait)
        kind, payload = request_
        with NewPeer(tmp_path / "s") as first, NewPeer(tmp_path / "s") as gone:
            first.send_frame(kind, payload)
            is_asked.wait()
            for _ in range(20):
                gone.send_frame(kind, payload)
            gone.socket.close()
            with NewPeer(tmp_path / "s") as peer:
                peer.load(0)
                peer.commit(record(0, payload=b"meanwhile"))
                assert peer.load(0) == [record(0, payload=b"meanwhile")]
                while peer.status()["clients"] > 2:
                    pass
            may_go_on.set()
            assert json.loads(first.read_frame()[2])["message"] == "told"
            # In order, also what was asked after it.
            first.send(frame(kind, 8, payload) + frame(LOAD, 9, ROOT + bytes(4)))
            assert [first.read_frame()[1] for _ in range(2)] == [8, 9]
    assert len(asked) == 2


def test_a_server_that_stops_gives_up_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the past is, the server ends."""
    is_asked = threading.Event()

    def go_on_for_ever(self: FileStorage) -> Iterator[tuple[int, Any]]:
        while True:
            is_asked.set()
            yield 1, _history._EPOCH

    with FileStorage(tmp_path / "f") as storage:
        commit(storage, record(0))
    with serving(tmp_path, FileStorage(tmp_path / "f")) as server:
        monkeypatch.setattr(FileStorage, "gen_commits", go_on_for_ever)
        with NewPeer(tmp_path / "s") as peer:
            peer.send_frame(HISTORY, pack(">QL", NEWEST, 1))
            is_asked.wait()
            server.stop()
            peer.wait_for_end()
    assert "durus-history" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (HISTORY, b""),
        (HISTORY, pack(">QL", 1, 0)),
        (HISTORY, pack(">QL", 1, 4097)),
        (CHANGES, pack(">Q", 1)),
        (LOAD_AS_OF, ROOT),
    ],
)
def test_what_is_no_question_ends_the_connection(tmp_path: Path, kind: int, payload: bytes) -> None:
    """A request of a wrong length, or for too much, is refused with a reason."""
    with serving(tmp_path), NewPeer(tmp_path / "s") as peer:
        peer.send_frame(kind, payload)
        _, number, answer = peer.read_frame()
        assert (number, json.loads(answer)["error"]) == (0, "ProtocolError")
        peer.wait_for_end()


def test_a_server_without_history(tmp_path: Path) -> None:
    """It says so when a client comes, and when it is asked all the same."""
    with serving(tmp_path), NewPeer(tmp_path / "s") as peer:
        assert peer.hello["history"] is False
        error = peer.error(HISTORY, pack(">QL", NEWEST, 1))
        assert error["error"] == "NotSupportedError"
        assert peer.expect(0x93, 0x12) == b"\0"


def test_an_older_server(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of ours that does not know the requests is never sent one: it would hang up."""
    told = Handshake._hello

    def hello_of_before(self: Handshake) -> bytes:
        found = json.loads(told(self))
        del found["history"]
        return json.dumps(found).encode()

    monkeypatch.setattr(Handshake, "_hello", hello_of_before)
    _check_refused(path, 2)


def test_a_server_of_protocol_1(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server as that of Durus 4.3 is not asked either."""
    choose = Greeter._choose

    def choose_1(self: Greeter, version: int) -> None:
        if version == 2:
            self._connection.send(pack(">L", 1))
            self._connection.drop("it is not served")
        else:
            choose(self, version)

    monkeypatch.setattr(Greeter, "_choose", choose_1)
    _check_refused(path, 1)


def _check_refused(path: Path, version: int) -> None:
    with ClientStorage(address=str(path)) as client:
        assert client._server.version == version
        assert not client.keeps_history
        for ask in (
            client.gen_commits,
            lambda: next(client.gen_changes(1)),
            lambda: client.load_as_of(ROOT, 1),
        ):
            with pytest.raises(NotSupportedError, match="give the file that it serves"):
                ask()
        assert client.load(ROOT) == record(0, [1])


@pytest.mark.parametrize(
    ("kind", "answer", "payload"),
    [
        (HISTORY, COMMITS, bytes(15)),
        (HISTORY, COMMITS, pack(">Qq", 5, 0) * 2),
        (HISTORY, COMMITS, pack(">Qq", 5, 1 << 62)),
        (CHANGES, CHANGED, b""),
        (CHANGES, CHANGED, b"\0"),
        (CHANGES, CHANGED, b"\1" + pack(">L", 13) + record(1)),
        (CHANGES, CHANGED, b"\2"),
        (LOAD_AS_OF, RECORDS, b"\0\0"),
        (LOAD_AS_OF, RECORDS, pack(">L", len(record(1))) + record(1)),
        (LOAD_AS_OF, RECORDS, pack(">L", 12) + record(0)),
    ],
)
def test_an_answer_that_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch, kind: int, answer: int, payload: bytes
) -> None:
    """A client takes no answer that is cut, in no order, or of another object."""
    with ClientStorage(address=str(path)) as client:
        assert client.keeps_history
        server: Any = client._server

        def ask(asked: int, _: bytes, due: int, read: Any) -> Any:
            assert (asked, due) == (kind, answer)
            return read(payload)

        monkeypatch.setattr(server, "_ask", ask)
        with pytest.raises(ProtocolError):
            if kind == HISTORY:
                client.gen_commits()
            elif kind == CHANGES:
                list(client.gen_changes(1))
            else:
                client.load_as_of(ROOT, 1)
