"""FileStorage beside a dictionary, with crashes, lost indexes and readers among the moves."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from durus.file_storage import FileStorage
from durus.testing import StorageMachine

Model = tuple[dict[bytes, bytes], dict[bytes, bytes], dict[int, Any]]

# Small files do what large ones do: an index now and then, many steps a pack.
_MEASURES: dict[str, float] = {
    "_journal._TAIL_AT_COMMIT": 12,
    "_journal._TAIL_AT_CLOSE": 3,
    "_packer._STEP_S": -1,
    "_packer._WRITE_BYTES": 400,
    "_packer._LAST_BYTES": 0,
}


def _is_not_packing(self: FileMachine) -> bool:
    return self._packer is None


class FileMachine(StorageMachine):
    """Adds moves that only a file knows.

    Attributes:
        reader: another opening of the file, for reading.
        history: the length of the file after each commit since the last pack or crash, what must
            be there then, and the past that it has then.
    """

    storage: FileStorage

    def __init__(self) -> None:
        self._restore = _set_measures(_MEASURES)
        super().__init__()
        self.reader = FileStorage(self.path, readonly=True)
        self.known: dict[bytes, bytes] = {}
        self.history: list[tuple[int, Model]] = []
        self._inode = 0

    @property
    def path(self) -> Path:
        return self.directory / "app.durus"

    def open_storage(self) -> FileStorage:
        return FileStorage(self.path, durable=False)

    @initialize()
    def commit_the_root(self) -> None:
        """Begin as a Connection does."""
        super().commit_the_root()

    @precondition(_is_not_packing)
    @rule()
    def lose_the_index(self) -> None:
        """Remove the index file; what has it open may go on with it."""
        Path(f"{self.path}.index").unlink(missing_ok=True)

    @precondition(_is_not_packing)
    @rule(position=st.integers(0, 2**16), change=st.integers(1, 255))
    def damage_the_index(self, position: int, change: int) -> None:
        """Change a byte of the index file, and open again."""
        index = Path(f"{self.path}.index")
        self.storage.close()
        if index.exists():
            damaged = bytearray(index.read_bytes())
            damaged[position % len(damaged)] ^= change
            index.write_bytes(damaged)
        self.storage = self.open_storage()
        self.given = set(self.model) | set(self.doubtful)

    @precondition(_is_not_packing)
    @rule(back=st.integers(0, 5), part=st.floats(0, 1, exclude_max=True))
    def crash(self, back: int, part: float) -> None:
        """Cut the file somewhere after an earlier commit: that commit is the state again."""
        self._note()
        self.storage.close()
        at = max(len(self.history) - 1 - back, 0)
        length, (model, doubtful, past) = self.history[at]
        after = self.history[at + 1][0] if at + 1 < len(self.history) else length
        with self.path.open("r+b") as file:
            file.truncate(length + int(part * (after - length)))
        self.model, self.doubtful, self._past = dict(model), dict(doubtful), dict(past)
        del self.history[at + 1 :]
        self.storage = self.open_storage()
        self.given = set(self.model) | set(self.doubtful)
        assert self.path.stat().st_size == length

    @rule()
    def follow(self) -> None:
        """Let the reader see what is committed; all that changed for it is told."""
        changed = set(self.reader.sync())
        now = dict(self.reader.gen_oid_record())
        for oid in now.keys() | self.known.keys():
            assert oid in changed or now.get(oid) == self.known.get(oid)
        assert now == dict(self.storage.gen_oid_record())
        self.known = now

    @invariant()
    def history_is_known(self) -> None:
        """Every commit is noted, and what came before a pack forgotten."""
        self._note()

    def teardown(self) -> None:
        """Close everything, and put the measures back."""
        self.reader.close()
        super().teardown()
        self._restore()

    def _note(self) -> None:
        status = self.path.stat()
        if status.st_ino != self._inode:
            self.history.clear()
            self._inode = status.st_ino
        if self.history and self.history[-1][0] == status.st_size:
            self.history.pop()
        found = dict(self.model), dict(self.doubtful), dict(self._past)
        self.history.append((status.st_size, found))


def _set_measures(measures: dict[str, float]) -> Callable[[], None]:
    """Change constants of the package's modules; give what puts them back."""
    logging.getLogger("durus").setLevel(logging.ERROR)
    before = {}
    for name, value in measures.items():
        module_name, _, constant = name.partition(".")
        module = importlib.import_module(f"durus.file_storage.{module_name}")
        before[module, constant] = getattr(module, constant)
        setattr(module, constant, value)

    def restore() -> None:
        logging.getLogger("durus").setLevel(logging.NOTSET)
        for (module, constant), value in before.items():
            setattr(module, constant, value)

    return restore


TestFileMachine = FileMachine.TestCase
TestFileMachine.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
