"""What the tests ask of either version over the wire: to serve a file, and to be clients.

Each function here is a task of `compat_runner`. An address is what `address=` takes: the path of a
Unix socket, "@name", or [host, port], which is how JSON spells a tuple.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import Any

import compat_containers
import compat_dump
import compat_files
import compat_wire_clauses
from compat_behaviour import outcome, show
from compat_corpus import big_bytes
from compat_model import Person

from durus.client_storage import ClientStorage
from durus.connection import ROOT_OID, Connection
from durus.error import ConflictError
from durus.persistent_dict import PersistentDict
from durus.storage_server import StorageServer

# The clients of this process, by names of the test's choice.
_clients: dict[str, Connection] = {}


def _place(address: str | list[Any]) -> Any:
    return tuple(address) if isinstance(address, list) else address


def serve(
    format: str,
    path: str,
    address: str | list[Any],
    readonly: bool = False,
    secret: str | None = None,
    **options: Any,
) -> None:
    """Serve a file until somebody stops the server; 4.3 then wants to end the process."""
    storage = compat_files.open_file(format, path, readonly=readonly)
    if secret is not None:
        options["secret"] = secret.encode()
    try:
        if readonly:
            options["readonly"] = True
        StorageServer(storage, address=_place(address), **options).serve()
    except SystemExit:
        pass
    except BaseException:
        storage.close()
        raise
    # The end of its process would have disconnected the clients of 4.3's server.
    gc.collect()


# -- clients ---------------------------------------------------------------------------------------


def open_client(
    address: str | list[Any], protocol: int | None = None, secret: str | None = None
) -> Any:
    """Connect; ours may be told to speak as to a server of 4.3, or to prove a secret."""
    storage_class = ClientStorage if protocol is None else _speaking(protocol)
    options = {} if secret is None else {"secret": secret.encode()}
    return storage_class(address=_place(address), **options)


def _speaking(protocol: int) -> Any:
    class OldClientStorage(ClientStorage):  # type: ignore[misc, unused-ignore]
        def _choose(self, transport: Any, version: int) -> int:
            # What a server of 4.3 would have answered.
            chosen: int = super()._choose(transport, version) if version <= protocol else protocol
            return chosen

    return OldClientStorage


def connect(name: str, address: str | list[Any], protocol: int | None = None) -> None:
    """Connect, and make the root if there is none."""
    _clients[name] = Connection(open_client(address, protocol))


def leave(name: str) -> None:
    _clients.pop(name).get_storage().close()


def leave_all() -> None:
    for name in list(_clients):
        leave(name)


def run(name: str, case: str, actions: list[list[Any]]) -> dict[str, Any]:
    """Do `actions` as a client, and give what it then sees."""
    compat_files.act(_clients[name], case, actions)
    return compat_files.view(_clients[name])


def view(name: str, sync: bool = True) -> dict[str, Any]:
    """Give all that a client sees, after a transaction boundary if `sync`."""
    if sync:
        _clients[name].abort()
    return compat_files.view(_clients[name])


def view_of_loaded(name: str) -> list[Any]:
    """Give the objects that a client sees, all of which it has loaded."""
    return compat_dump.dump(_clients[name])


def work(
    address: str | list[Any], case: str, actions: list[list[Any]], protocol: int | None = None
) -> dict[str, Any]:
    """Connect, do `actions`, give what is then seen, and leave."""
    storage = open_client(address, protocol)
    try:
        connection = Connection(storage)
        compat_files.act(connection, case, actions)
        return compat_files.view(connection)
    finally:
        storage.close()


def put(name: str, holder: str, key: Any, value: Any) -> None:
    """Change one entry of a PersistentDict of the root, which is made if there is none."""
    root = _clients[name].get_root()
    if holder not in root:
        root[holder] = PersistentDict()
    root[holder][key] = value


def get(name: str, holder: str) -> Any:
    """Give the entries of a PersistentDict of the root, and so count them as read."""
    root = _clients[name].get_root()
    return sorted([key, value] for key, value in root[holder].items()) if holder in root else None


def commit(name: str) -> Any:
    """Commit; give the outcome, and of a conflict what it is about."""
    return compat_wire_clauses.commit(_clients[name])


def abort(name: str) -> None:
    _clients[name].abort()


def pack(name: str) -> None:
    _clients[name].pack()


# -- scripts with several clients in one process ---------------------------------------------------


def run_clause(clause: str, address: str | list[Any], protocol: int | None = None) -> Any:
    """Run a function of compat_wire_clauses by its name; its clients are closed after it."""
    opened: list[Any] = []

    def open_storage() -> Any:
        opened.append(open_client(address, protocol))
        return opened[-1]

    try:
        return getattr(compat_wire_clauses, clause)(open_storage)
    finally:
        for storage in opened:
            try:
                storage.close()
            except OSError:
                # One of 4.3 that the script has closed: it cannot be closed again.
                continue


def run_operations(container: str, address: str | list[Any], protocol: int | None = None) -> Any:
    """Run every operation of compat_containers on a container that a server keeps."""
    storage = open_client(address, protocol)

    def stored(obj: Any) -> tuple[Connection, Any]:
        connection = Connection(storage)
        connection.get_root()["it"] = obj
        connection.commit()
        again = Connection(storage)
        return again, again.get_root()["it"]

    in_memory, compat_containers.stored = compat_containers.stored, stored
    try:
        return compat_containers.run_operations(container)
    finally:
        compat_containers.stored = in_memory
        storage.close()


def meet(address: str | list[Any], count: int, protocol: int | None = None) -> list[Any]:
    """Have so many clients connect at the same time, each in a thread; give what came of each."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def client(number: int) -> None:
        storage = open_client(address, protocol)
        barrier.wait()

        def work() -> Any:
            connection = Connection(storage)
            for _ in range(100):
                connection.get_root()[number] = Person(f"p{number}")
                try:
                    connection.commit()
                except ConflictError:
                    connection.abort()
                else:
                    return True
            return False

        results[number] = outcome(work)
        storage.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def die_in_a_commit(address: str | list[Any], when: str, protocol: int | None = None) -> None:
    """Change much, and be killed by the system before a commit is over.

    Args:
        when: "asked", after the first half of the commit; "sending", after a part of the second.
    """
    storage = open_client(address, protocol)
    connection = Connection(storage)
    root = connection.get_root()
    root["doomed"] = Person("doomed", payload=big_bytes(1, 300_000))
    other = Connection(open_client(address, protocol))
    other.get_root()["other"] = 1
    if when == "asked":
        # The root was changed by both: within the commit the client is told, and asks what it read.
        other.commit()
        end = storage.end
        storage.end = lambda _handle_invalidations: end(_die)
        connection.commit()
    storage.s = _DyingSocket(storage.s)
    connection.commit()


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _DyingSocket:
    """The socket of a client of 4.3, which dies when it has sent the half of something long."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    def sendall(self, data: bytes) -> None:
        self._half(data)
        self._socket.sendall(data)

    def send(self, data: bytes) -> int:
        self._half(data)
        sent: int = self._socket.send(data)
        return sent

    def _half(self, data: bytes) -> None:
        if len(data) > 100_000:
            self._socket.sendall(data[: len(data) // 2])
            _die()


def try_to_connect(address: str | list[Any], secret: str | None = None) -> Any:
    """Give the outcome of opening a client."""
    return outcome(lambda: open_client(address, secret=secret).close())


def stop(address: str | list[Any], secret: str | None = None) -> None:
    """Have a server of ours stop."""
    open_client(address, secret=secret).stop_server()


def load_root(name: str) -> int:
    """Ask the server for the root; give how long its record is."""
    return len(_clients[name].get_storage().load(ROOT_OID))


def change_once(address: str | list[Any], **arguments: Any) -> None:
    """Connect, change one entry as `put` does, commit, and leave."""
    connect("once", address)
    put("once", **arguments)
    _clients["once"].commit()
    leave("once")


def try_to_change(address: str | list[Any], protocol: int | None = None) -> Any:
    """Give what a client reads, and the outcome of a change and of a pack."""
    storage = open_client(address, protocol)
    connection = Connection(storage)
    read = show(sorted(connection.get_root().items()))

    def change() -> None:
        connection.get_root()["changed"] = True
        connection.commit()

    return [read, "raises" in outcome(change)]


def keys(address: str | list[Any], protocol: int | None = None) -> list[Any]:
    """Give the keys of the root, as a new client sees them."""
    storage = open_client(address, protocol)
    try:
        return sorted(Connection(storage).get_root())
    finally:
        storage.close()
