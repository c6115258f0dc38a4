"""lmdb: bytes by number in a memory-mapped file."""

from __future__ import annotations

import lmdb

from benchmarks.peers.yardsticks._rows import RowPeer, Rows

__all__ = ["PEER"]

MAP_BYTES = 1 << 30


class _Environment(Rows):
    def __init__(self, folder: str, *, synced: bool) -> None:
        self._environment = lmdb.open(f"{folder}/rows.lmdb", map_size=MAP_BYTES, sync=synced)
        self._transaction = self._environment.begin(write=True)

    def put(self, number: int, content: bytes) -> None:
        self._transaction.put(number.to_bytes(8), content)

    def get(self, number: int) -> bytes:
        content: bytes = self._transaction.get(number.to_bytes(8))
        return content

    def commit(self) -> None:
        self._transaction.commit()
        self._transaction = self._environment.begin(write=True)


class _Lmdb(RowPeer):
    counts_syncs = False  # it syncs in C

    def versions(self) -> dict[str, str]:
        return {"lmdb": lmdb.__version__}

    def rows(self, folder: str, *, synced: bool) -> Rows:
        return _Environment(folder, synced=synced)


PEER = _Lmdb()
