"""What a disk may hold after a power cut, worked out from a log of changes.

The model, which grants a file system nothing that POSIX does not promise:

- A *node* is a file's content or a directory, apart from its names. A name is durable only after an
  fsync of the directory that holds it; a content only after an fsync or fdatasync of the file.
- Until then each change may have reached the disk or not, whatever came before or after it: writes
  in whole blocks or cut at any byte, the size grown with zeros where the data did not arrive, names
  in any combination. One change of names (a rename, say) is never half done.
- fdatasync covers a size that grew. A size that shrank needs fsync.
- After a sync of a file that failed, a later one proves nothing about what was written before it:
  the system may have dropped it from memory. (Names are not dropped so: a file system keeps its own
  changes, or refuses all writing.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import chain, combinations, pairwise
from pathlib import Path
from random import Random
from shutil import rmtree
from typing import TypeVar

__all__ = [
    "EVERYTHING",
    "ROOT",
    "Acknowledge",
    "Change",
    "Disk",
    "DiskState",
    "Names",
    "Plan",
    "Resize",
    "Sync",
    "Write",
    "clear",
]

_Item = TypeVar("_Item")

ROOT = 0
BLOCK_BYTES = (512, 4096)
# More than this many pending changes have too many subsets to try them all.
_MOST_FOR_ALL_SUBSETS = 5


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes put into a file."""

    node: int
    offset: int
    data: bytes

    def __str__(self) -> str:
        return f"write of {len(self.data)} bytes at {self.offset} of node {self.node}"


@dataclass(frozen=True, slots=True)
class Resize:
    """A file cut, or grown with zeros."""

    node: int
    size: int
    shrinks: bool

    def __str__(self) -> str:
        return f"node {self.node} resized to {self.size} bytes"


@dataclass(frozen=True, slots=True)
class Names:
    """Names set to a node or removed (None), all at once. `what` says it for people."""

    changes: tuple[tuple[int, str, int | None], ...]
    what: str

    def __str__(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Sync:
    """An fsync (of a file or directory) or fdatasync that returned, or failed."""

    node: int
    data_only: bool
    failed: bool = False

    def __str__(self) -> str:
        call = "fdatasync" if self.data_only else "fsync"
        return f"{'failed ' if self.failed else ''}{call} of node {self.node}"


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The program under test promised that everything up to `number` survives."""

    number: int

    def __str__(self) -> str:
        return f"acknowledged {self.number}"


Change = Write | Resize | Names | Sync | Acknowledge


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one unsynced change.

    Attributes:
        kept: the parts of a write that arrived, as (start, stop); None when all of it did. A change
            that is no write arrives with None and is lost otherwise.
        grown: the file's size covers the whole write, with zeros where nothing arrived.
    """

    kept: tuple[tuple[int, int], ...] | None
    grown: bool = False


FULL = Fate(None)
MISSING = Fate(())
ZEROED = Fate((), grown=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """One outcome at one point of the log: the fate of every unsynced change.

    Attributes:
        note: the outcome in words.
        default: the fate of each write and resize that `fates` does not name by log position.
        names: the log positions of the changes of names that arrived; None for all.
        corner: one of the few that no sampling should leave out.
    """

    note: str
    default: Fate
    fates: Mapping[int, Fate] = field(default_factory=dict)
    names: frozenset[int] | None = None
    corner: bool = False


EVERYTHING = Plan("all of it reached the disk", FULL, corner=True)


@dataclass(frozen=True)
class DiskState:
    """One content of the disk that a power cut may leave.

    Attributes:
        note: which cut and which outcome, for the message of a failing test.
        acknowledged: the highest number that had been acknowledged by then; 0 for none.
        names: path relative to the recorded directory -> node. Names of one node are hard links.
        contents: node -> bytes.
        directories: relative paths of directories, parents first.
    """

    note: str
    acknowledged: int
    names: Mapping[str, int]
    contents: Mapping[int, bytes]
    directories: Sequence[str] = ()

    @property
    def files(self) -> dict[str, bytes]:
        """Every file's content by its relative path."""
        return {name: self.contents[node] for name, node in self.names.items()}

    def digest(self) -> bytes:
        """Tell states apart by what is on the disk, however it came about."""
        groups: dict[int, int] = {}
        hashed = blake2b(repr(self.directories).encode(), digest_size=16)
        for name, node in sorted(self.names.items()):
            group = groups.setdefault(node, len(groups))
            content = self.contents[node]
            hashed.update(f"{name}\0{group}\0{len(content)}\0".encode())
            hashed.update(content)
        return hashed.digest()

    def write_to(self, directory: Path) -> None:
        """Make `directory` hold this state and nothing else; it is made if it is not there."""
        clear(directory)
        for name in self.directories:
            (directory / name).mkdir()
        first_names: dict[int, str] = {}
        for name, node in self.names.items():
            first = first_names.setdefault(node, name)
            if first == name:
                (directory / name).write_bytes(self.contents[node])
            else:
                (directory / name).hardlink_to(directory / first)


def clear(directory: Path) -> None:
    """Make `directory` exist and hold nothing."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            rmtree(path)
        else:
            path.unlink()


@dataclass(slots=True)
class _Pending:
    """A change that is not known to be durable."""

    position: int
    change: Write | Resize
    settled: bool = False
    doomed: bool = False


@dataclass(slots=True)
class _PendingNames:
    """A change of names, and the directories whose fsync it still waits for."""

    position: int
    change: Names
    waits_for: set[int]


@dataclass(slots=True)
class _Node:
    durable: bytearray
    pending: list[_Pending] = field(default_factory=list)


class Disk:
    """Follows the log change by change, and tells what a power cut may leave at each point."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self._nodes: dict[int, _Node] = {}
        self._directories = {ROOT}
        self._names: dict[tuple[int, str], int] = {}
        self._pending_names: list[_PendingNames] = []

    def add_directory(self, node: int) -> None:
        """Tell that `node` is a directory."""
        self._directories.add(node)

    def add_durable(self, directory: int, name: str, node: int, content: bytes = b"") -> None:
        """Put a file or directory there from before the log."""
        self._names[directory, name] = node
        if node not in self._directories:
            self._nodes[node] = _Node(bytearray(content))

    def follow(self, position: int, change: Change) -> None:
        """Take the log's next change."""
        match change:
            case Write() | Resize():
                self._node(change.node).pending.append(_Pending(position, change))
            case Names():
                waits_for = {directory for directory, _, _ in change.changes}
                self._pending_names.append(_PendingNames(position, change, waits_for))
            case Sync():
                self._sync(change)
            case Acknowledge():
                self.acknowledged = max(self.acknowledged, change.number)

    def _node(self, node: int) -> _Node:
        return self._nodes.setdefault(node, _Node(bytearray()))

    def _sync(self, sync: Sync) -> None:
        if sync.node in self._directories:
            if not sync.failed:
                self._sync_names(sync)
            return
        node = self._node(sync.node)
        for pending in node.pending:
            if sync.failed:
                pending.doomed = True
            elif not pending.doomed:
                shrinks = isinstance(pending.change, Resize) and pending.change.shrinks
                pending.settled |= not (sync.data_only and shrinks)
        while node.pending and node.pending[0].settled:
            _apply(node.durable, node.pending.pop(0).change, FULL)

    def _sync_names(self, sync: Sync) -> None:
        for pending in self._pending_names:
            pending.waits_for.discard(sync.node)
        while self._pending_names and not self._pending_names[0].waits_for:
            self._rename(self._names, self._pending_names.pop(0).change)

    def state(self, plan: Plan, note: str = "") -> DiskState:
        """Build what the disk holds if the power fails now and `plan` is what became of it."""
        entries = dict(self._names)
        for pending in self._pending_names:
            arrived = plan.names is None or pending.position in plan.names
            if arrived or not pending.waits_for:
                self._rename(entries, pending.change)
        directories, names = self._walk(entries)
        contents = {node: self._content(node, plan) for node in set(names.values())}
        return DiskState(f"{note}{plan.note}", self.acknowledged, names, contents, directories)

    def _content(self, number: int, plan: Plan) -> bytes:
        node = self._node(number)
        content = bytearray(node.durable)
        for pending in node.pending:
            fate = FULL if pending.settled else plan.fates.get(pending.position, plan.default)
            _apply(content, pending.change, fate)
        return bytes(content)

    def _walk(self, entries: dict[tuple[int, str], int]) -> tuple[list[str], dict[str, int]]:
        """Find what the names reach from the root: a directory may be missing with all it holds."""
        directories: list[str] = []
        names: dict[str, int] = {}
        waiting = [(ROOT, "")]
        for directory, prefix in waiting:
            for (parent, name), node in entries.items():
                if parent != directory:
                    continue
                if node in self._directories:
                    directories.append(prefix + name)
                    waiting.append((node, f"{prefix}{name}/"))
                else:
                    names[prefix + name] = node
        return directories, names

    @staticmethod
    def _rename(entries: dict[tuple[int, str], int], change: Names) -> None:
        for directory, name, node in change.changes:
            if node is None:
                entries.pop((directory, name), None)
            else:
                entries[directory, name] = node

    def plans(
        self, cuts: Callable[[int], Iterator[int]], random: Random, extra: int
    ) -> Iterator[Plan]:
        """Yield the outcomes to try if the power fails now.

        Args:
            cuts: gives the places at which to cut a write of so many bytes.
            random: makes the outcomes that are not tried systematically.
            extra: how many of those.
        """
        writes = [
            pending
            for node in self._nodes.values()
            for pending in node.pending
            if not pending.settled
        ]
        writes.sort(key=lambda pending: pending.position)
        names = [pending.position for pending in self._pending_names if pending.waits_for]
        yield EVERYTHING
        if not writes and not names:
            return
        yield Plan("nothing unsynced reached the disk", MISSING, names=frozenset(), corner=True)
        if writes:
            yield Plan("unsynced data is zeros", ZEROED, corner=True)
            yield Plan("unsynced data is missing", MISSING, corner=True)
            yield from _torn(writes[-1], cuts)
            yield from _single_fates(writes)
            yield from _block_subsets(writes)
        if names:
            yield from _name_subsets(names, with_data=bool(writes))
        if len(writes) + len(names) > 1:
            for _ in range(extra):
                yield _random_plan(writes, names, random)


def _apply(content: bytearray, change: Write | Resize, fate: Fate) -> None:
    if isinstance(change, Resize):
        if fate.kept is None:
            _resize(content, change.size)
        return
    length = len(change.data)
    kept = ((0, length),) if fate.kept is None else fate.kept
    stop = length if fate.grown else max((stop for _, stop in kept), default=0)
    if stop and change.offset + stop > len(content):
        _resize(content, change.offset + stop)
    for start, stop in kept:
        content[change.offset + start : change.offset + stop] = change.data[start:stop]


def _resize(content: bytearray, size: int) -> None:
    if size < len(content):
        del content[size:]
    else:
        content.extend(bytes(size - len(content)))


def _torn(pending: _Pending, cuts: Callable[[int], Iterator[int]]) -> Iterator[Plan]:
    """Cut the last write, with and without zeros up to its end."""
    change = pending.change
    if not isinstance(change, Write):
        return
    for cut in cuts(len(change.data)):
        for grown in (False, True):
            fate = Fate(((0, cut),) if cut else (), grown)
            note = f"the {change} stopped after {cut}{', zeros follow' if grown else ''}"
            yield Plan(note, FULL, {pending.position: fate})


def _single_fates(writes: list[_Pending]) -> Iterator[Plan]:
    """Each change lost alone, each kept alone: the simplest ways to be out of order."""
    if len(writes) < 2:
        return
    for pending in writes:
        at = pending.position
        yield Plan(f"the {pending.change} (change {at}) is missing", FULL, {at: MISSING})
        yield Plan(f"the {pending.change} (change {at}) is zeros", FULL, {at: ZEROED})
        yield Plan(f"only the {pending.change} (change {at}) is there", MISSING, {at: FULL})


def _block_subsets(writes: list[_Pending]) -> Iterator[Plan]:
    """Every subset of the unsynced blocks, where there are few."""
    for block_bytes in BLOCK_BYTES:
        pieces = [
            (pending.position, piece)
            for pending in writes
            if isinstance(pending.change, Write)
            for piece in _blocks(pending.change, block_bytes)
        ]
        if not 2 <= len(pieces) <= _MOST_FOR_ALL_SUBSETS + 1:
            continue
        for subset in _subsets(pieces):
            for grown in (False, True):
                yield _block_plan(subset, grown, block_bytes, writes)


def _block_plan(
    subset: Sequence[tuple[int, tuple[int, int]]],
    grown: bool,
    block_bytes: int,
    writes: list[_Pending],
) -> Plan:
    fates = {
        pending.position: Fate(
            tuple(piece for position, piece in subset if position == pending.position), grown
        )
        for pending in writes
        if isinstance(pending.change, Write)
    }
    size = "full size" if grown else "as long as its data"
    return Plan(f"blocks of {block_bytes} that arrived: {list(subset)}, {size}", FULL, fates)


def _blocks(write: Write, block_bytes: int) -> list[tuple[int, int]]:
    """Give the parts of a write that lie in one block of the file each, as (start, stop)."""
    end = write.offset + len(write.data)
    first = write.offset - write.offset % block_bytes
    edges = [write.offset, *range(first + block_bytes, end, block_bytes), end]
    return [
        (start - write.offset, stop - write.offset)
        for start, stop in pairwise(edges)
        if start < stop
    ]


def _name_subsets(names: list[int], *, with_data: bool) -> Iterator[Plan]:
    """Names in every combination, or where there are many: each prefix, each lost, each alone."""
    if len(names) <= _MOST_FOR_ALL_SUBSETS:
        chosen = {frozenset(subset) for subset in _subsets(names)}
    else:
        chosen = {frozenset(names[:count]) for count in range(len(names) + 1)}
        chosen |= {frozenset({name}) for name in names}
        chosen |= {frozenset(names) - {name} for name in names}
    for kept in sorted(chosen, key=sorted):
        lost = sorted(set(names) - kept)
        note = f"changes of names {sorted(kept)} arrived, {lost} did not"
        yield Plan(f"{note}, all data", FULL, names=kept)
        if with_data:
            yield Plan(f"{note}, no unsynced data", MISSING, names=kept)
            yield Plan(f"{note}, unsynced data is zeros", ZEROED, names=kept)


def _subsets(items: Sequence[_Item]) -> Iterator[tuple[_Item, ...]]:
    return chain.from_iterable(combinations(items, count) for count in range(len(items) + 1))


def _random_plan(writes: list[_Pending], names: list[int], random: Random) -> Plan:
    fates = {pending.position: _random_fate(pending.change, random) for pending in writes}
    kept = frozenset(name for name in names if random.random() < 0.5)
    lost = sorted(set(names) - kept)
    shown = {position: (fate.kept, fate.grown) for position, fate in fates.items()}
    return Plan(f"fates {shown}, changes of names {lost} lost", FULL, fates, kept)


def _random_fate(change: Write | Resize, random: Random) -> Fate:
    plain = random.choice((FULL, FULL, MISSING, ZEROED, None))
    if plain is not None or isinstance(change, Resize):
        return plain or MISSING
    grown = random.random() < 0.5
    if random.random() < 0.3:
        return Fate(((0, random.randint(0, len(change.data))),), grown)
    blocks = _blocks(change, random.choice(BLOCK_BYTES))
    return Fate(tuple(block for block in blocks if random.random() < 0.5), grown)
