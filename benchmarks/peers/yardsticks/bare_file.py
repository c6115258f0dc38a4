"""A file that grows by a write and an fdatasync a commit: what the disk and the system can do."""

from __future__ import annotations

import os

from benchmarks.peers.yardsticks._rows import RowPeer, Rows

__all__ = ["PEER"]


class _File(Rows):
    def __init__(self, path: str, *, synced: bool) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._synced = synced
        self._pending: list[bytes] = []

    def put(self, number: int, content: bytes) -> None:
        self._pending.append(content)

    def get(self, number: int) -> bytes:
        raise NotImplementedError  # it has no index

    def commit(self) -> None:
        os.write(self._descriptor, b"".join(self._pending))
        self._pending.clear()
        if self._synced:
            os.fdatasync(self._descriptor)


class _BareFile(RowPeer):
    def versions(self) -> dict[str, str]:
        return {}

    def rows(self, folder: str, *, synced: bool) -> Rows:
        return _File(f"{folder}/rows", synced=synced)


PEER = _BareFile()
