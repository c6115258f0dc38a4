"""Power cuts and failing disks for code that calls the operating system through the name `os`.

Both stand-ins take the place of the module `os` in the module under test. `DiskRecorder` lets every
call through and writes down what it changes; from that log it rebuilds each content that the disk
may have after a power cut::

    recorder = DiskRecorder(tmp_path / "live")
    monkeypatch.setattr("my_storage._file.os", recorder)
    for k in range(1, 5):
        commit(k)
        recorder.acknowledge(k)
    for state in recorder.states():
        state.write_to(tmp_path / "cut")
        assert transactions_found(tmp_path / "cut") >= state.acknowledged, state.note

`FaultyDisk` makes chosen calls fail. The two can be stacked (`DiskRecorder(path, FaultyDisk())`),
to cut the power after a fault.

What a power cut may do is written at the top of `durus.testing._disk`. Reads need no recording, a
memory map for reading neither. Writing in a way that the log would miss (a Python file object, a
memory map, a call that is not modelled) is noticed by `DiskRecorder.states`.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from threading import RLock
from typing import Any

from durus.testing._disk import (
    EVERYTHING,
    ROOT,
    Acknowledge,
    Change,
    Disk,
    DiskState,
    Names,
    Plan,
    Resize,
    Sync,
    Write,
)

__all__ = ["DEFAULT_CRASH_POINTS", "DiskRecorder", "DiskState", "FaultyDisk", "crash_points"]

DEFAULT_CRASH_POINTS = 1500
_EDGE_BYTES = 96

_Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]

# These change the disk in ways that the log has no word for.
_NOT_MODELLED = frozenset(
    {
        "fdopen",
        "makedirs",
        "mkfifo",
        "mknod",
        "removedirs",
        "renames",
        "rmdir",
        "splice",
        "symlink",
    }
)


def crash_points(default: int = DEFAULT_CRASH_POINTS) -> int:
    """Give how many states to try of one recording: $DURUS_CRASH_POINTS, or `default`.

    0 stands for no limit.
    """
    return int(os.environ.get("DURUS_CRASH_POINTS") or default)


class DiskRecorder:
    """A stand-in for the module `os` that logs every change inside one directory.

    Args:
        directory: what the log is about. What it holds already counts as durable. Calls on paths
            outside it pass through unrecorded.
        system: what really does the work: the module `os`, or a `FaultyDisk`.

    It may be used from several threads; their calls are put in one order.
    """

    def __init__(self, directory: Path, system: Any = os) -> None:
        # Any: the module os, or another stand-in for it; both are used by attribute only.
        self.log: list[Change] = []
        self._system = system
        self._root = os.path.realpath(directory)
        self._lock = RLock()
        self._names: dict[tuple[int, str], int] = {}
        self._directories = {self._root: ROOT}
        self._open: dict[int, tuple[int, bool]] = {}
        self._next_node = ROOT + 1
        self._before: list[tuple[int, str, int, bytes | None]] = []
        self._take_stock()

    def __getattr__(self, name: str) -> Any:
        # Any: whatever the module os has under that name.
        if name in _NOT_MODELLED:
            raise NotImplementedError(f"DiskRecorder does not know what os.{name} does to a disk")
        return getattr(self._system, name)

    def acknowledge(self, number: int) -> None:
        """Note that the program has promised that everything up to `number` is durable."""
        with self._lock:
            self.log.append(Acknowledge(number))

    # What follows has the names and arguments of the module os.

    def open(self, path: _Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None or flags & getattr(os, "O_TMPFILE", 0) == os.O_TMPFILE:
            raise NotImplementedError("DiskRecorder does not know dir_fd and O_TMPFILE")
        with self._lock:
            fd: int = self._system.open(path, flags, mode)
            self._open.pop(fd, None)
            node = self._node_at(path)
            place = self._place(path)
            if node is None and place is not None:
                node = self._new_node()
                self._change_names((*place, node), what=f"create {place[1]!r}")
            elif node is not None and flags & os.O_TRUNC:
                self.log.append(Resize(node, 0, shrinks=True))
            if node is not None:
                self._open[fd] = (node, bool(flags & os.O_APPEND))
            return fd

    def close(self, fd: int) -> None:
        with self._lock:
            self._open.pop(fd, None)
            self._system.close(fd)

    def dup(self, fd: int) -> int:
        with self._lock:
            copy: int = self._system.dup(fd)
            if fd in self._open:
                self._open[copy] = self._open[fd]
            return copy

    def write(self, fd: int, data: Any) -> int:
        # Any: whatever has the buffer protocol.
        with self._lock:
            offset = self._position(fd)
            length: int = self._system.write(fd, data)
            self._note_write(fd, offset, bytes(memoryview(data).cast("B")[:length]))
            return length

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        # Any: whatever has the buffer protocol.
        with self._lock:
            length: int = self._system.pwrite(fd, data, offset)
            self._note_write(fd, offset, bytes(memoryview(data).cast("B")[:length]))
            return length

    def writev(self, fd: int, buffers: Sequence[Any]) -> int:
        with self._lock:
            offset = self._position(fd)
            length: int = self._system.writev(fd, buffers)
            self._note_write(fd, offset, b"".join(buffers)[:length])
            return length

    def pwritev(self, fd: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        with self._lock:
            length: int = self._system.pwritev(fd, buffers, offset, flags)
            self._note_write(fd, offset, b"".join(buffers)[:length])
            return length

    def sendfile(self, out_fd: int, in_fd: int, offset: int | None, count: int) -> int:
        with self._lock:
            source = self._position(in_fd) if offset is None else offset
            target = self._position(out_fd)
            length: int = self._system.sendfile(out_fd, in_fd, offset, count)
            self._note_write(out_fd, target, os.pread(in_fd, length, source))
            return length

    def copy_file_range(
        self,
        src: int,
        dst: int,
        count: int,
        offset_src: int | None = None,
        offset_dst: int | None = None,
    ) -> int:
        with self._lock:
            source = self._position(src) if offset_src is None else offset_src
            target = self._position(dst) if offset_dst is None else offset_dst
            length: int = self._system.copy_file_range(src, dst, count, offset_src, offset_dst)
            self._note_write(dst, target, os.pread(src, length, source))
            return length

    def ftruncate(self, fd: int, length: int) -> None:
        with self._lock:
            before = os.fstat(fd).st_size
            self._system.ftruncate(fd, length)
            if fd in self._open and before != length:
                self.log.append(Resize(self._open[fd][0], length, shrinks=length < before))

    def truncate(self, path: _Path | int, length: int) -> None:
        if isinstance(path, int):
            self.ftruncate(path, length)
            return
        with self._lock:
            before = os.stat(path).st_size
            self._system.truncate(path, length)
            node = self._node_at(path)
            if node is not None and before != length:
                self.log.append(Resize(node, length, shrinks=length < before))

    def posix_fallocate(self, fd: int, offset: int, length: int) -> None:
        with self._lock:
            before = os.fstat(fd).st_size
            self._system.posix_fallocate(fd, offset, length)
            if fd in self._open and offset + length > before:
                self.log.append(Resize(self._open[fd][0], offset + length, shrinks=False))

    def fsync(self, fd: int) -> None:
        self._sync(fd, self._system.fsync, data_only=False)

    def fdatasync(self, fd: int) -> None:
        self._sync(fd, self._system.fdatasync, data_only=True)

    def replace(self, src: _Path, dst: _Path) -> None:
        self._rename(src, dst, self._system.replace)

    def rename(self, src: _Path, dst: _Path) -> None:
        self._rename(src, dst, self._system.rename)

    def link(self, src: _Path, dst: _Path, *, follow_symlinks: bool = True) -> None:
        with self._lock:
            self._system.link(src, dst, follow_symlinks=follow_symlinks)
            place = self._place(dst)
            if place is not None:
                node = self._node_that_must_be_at(src)
                self._change_names((*place, node), what=f"link {_base(src)!r} as {place[1]!r}")

    def unlink(self, path: _Path) -> None:
        with self._lock:
            self._system.unlink(path)
            place = self._place(path)
            if place is not None:
                self._change_names((*place, None), what=f"unlink {place[1]!r}")

    def remove(self, path: _Path) -> None:
        self.unlink(path)

    def mkdir(self, path: _Path, mode: int = 0o777) -> None:
        with self._lock:
            self._system.mkdir(path, mode)
            place = self._place(path)
            if place is not None:
                node = self._new_node()
                self._directories[os.path.realpath(os.fsdecode(path))] = node
                self._change_names((*place, node), what=f"mkdir {place[1]!r}")

    # Here the names of the module os end.

    def states(
        self,
        limit: int | None = None,
        *,
        seed: int = 0,
        dense_bytes: int = 1024,
        stride_bytes: int | None = None,
        extra: int = 12,
    ) -> Iterator[DiskState]:
        """Yield what the disk may hold if the power fails at any point of the log.

        The same content is yielded again only if more had been acknowledged by then.

        Args:
            limit: the most states to give; what is left out is chosen at random. 0 for no limit,
                None for `crash_points()`.
            seed: makes the random choices.
            dense_bytes: writes of up to this length are cut at every byte, longer ones at every
                byte near their ends.
            stride_bytes: how far apart longer writes are cut elsewhere. The default is a hundredth
                of the write.
            extra: random outcomes at each point, besides the systematic ones.

        Raises:
            AssertionError: the log does not lead to what the directory holds, so that some write
                went round the recorder.
        """
        self.check_complete()
        random = Random(seed)  # noqa: S311 - it picks test cases
        cuts = partial(_cuts, dense_bytes=dense_bytes, stride_bytes=stride_bytes)
        plans = [
            (point, plan)
            for point, disk in self._follow()
            for plan in disk.plans(cuts, random, extra)
        ]
        chosen = _choose(plans, crash_points() if limit is None else limit, random)
        yield from _distinct(self._build(chosen))

    def check_complete(self) -> None:
        """Check that the log accounts for everything that the directory holds now.

        Raises:
            AssertionError: it does not, so that some write went round the recorder.
        """
        with self._lock:
            *_, (_, disk) = self._follow()
            expected = disk.state(EVERYTHING).files
        for name in sorted(expected.keys() | set(_relative_files(self._root))):
            path = Path(self._root, name)
            found = path.read_bytes() if path.is_file() else None
            if expected.get(name) != found:
                raise AssertionError(f"{path} was changed in a way that DiskRecorder did not see")

    def _build(self, chosen: dict[int, list[Plan]]) -> Iterator[DiskState]:
        for point, disk in self._follow():
            after = f"cut after change {point}"
            after += f" ({self.log[point - 1]}): " if point else ": "
            for plan in chosen.get(point, ()):
                yield disk.state(plan, after)

    def _follow(self) -> Iterator[tuple[int, Disk]]:
        """Yield, for each point of the log, the number of changes made and the disk then."""
        disk = Disk()
        for directory, name, node, content in self._before:
            if content is None:
                disk.add_directory(node)
            disk.add_durable(directory, name, node, content or b"")
        for node in self._directories.values():
            disk.add_directory(node)
        yield 0, disk
        for position, change in enumerate(self.log):
            disk.follow(position, change)
            yield position + 1, disk

    def _take_stock(self) -> None:
        numbers: dict[tuple[int, int], int] = {}
        for top, directories, files in os.walk(self._root):
            parent = self._directories[top]
            for name in directories:
                node = self._new_node()
                self._directories[os.path.join(top, name)] = node
                self._names[parent, name] = node
                self._before.append((parent, name, node, None))
            for name in files:
                path = Path(top, name)
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode):
                    raise NotImplementedError(f"DiskRecorder knows no file like {path}")
                identity = (status.st_dev, status.st_ino)
                node = numbers[identity] if identity in numbers else self._new_node()
                numbers[identity] = node
                self._names[parent, name] = node
                self._before.append((parent, name, node, path.read_bytes()))

    def _new_node(self) -> int:
        self._next_node += 1
        return self._next_node - 1

    def _place(self, path: _Path) -> tuple[int, str] | None:
        """Give the directory's node and the name, or None outside the recorded directory."""
        head, name = os.path.split(os.path.abspath(os.fsdecode(path)))
        directory = self._directories.get(os.path.realpath(head))
        return None if directory is None else (directory, name)

    def _node_at(self, path: _Path) -> int | None:
        directory = self._directories.get(os.path.realpath(os.fsdecode(path)))
        place = self._place(path)
        if directory is not None or place is None:
            return directory
        return self._names.get(place)

    def _node_that_must_be_at(self, path: _Path) -> int:
        node = self._node_at(path)
        if node is None:
            raise AssertionError(f"{path!r} was made in a way that DiskRecorder did not see")
        return node

    def _change_names(self, *changes: tuple[int, str, int | None], what: str) -> None:
        for directory, name, node in changes:
            if node is None:
                self._names.pop((directory, name), None)
            else:
                self._names[directory, name] = node
        self.log.append(Names(changes, what))

    def _rename(self, src: _Path, dst: _Path, call: Callable[[_Path, _Path], None]) -> None:
        with self._lock:
            old_place, new_place = self._place(src), self._place(dst)
            if old_place is None and new_place is None:
                call(src, dst)
                return
            if old_place is None or new_place is None or os.path.isdir(src):
                raise NotImplementedError("DiskRecorder knows renames of files in its directory")
            node = self._node_that_must_be_at(src)
            same = node == self._node_at(dst)
            call(src, dst)
            if not same:
                what = f"rename {old_place[1]!r} to {new_place[1]!r}"
                self._change_names((*old_place, None), (*new_place, node), what=what)

    def _position(self, fd: int) -> int:
        appends = self._open.get(fd, (ROOT, False))[1]
        return os.fstat(fd).st_size if appends else os.lseek(fd, 0, os.SEEK_CUR)

    def _note_write(self, fd: int, offset: int, data: bytes) -> None:
        if fd in self._open and data:
            self.log.append(Write(self._open[fd][0], offset, data))

    def _sync(self, fd: int, call: Callable[[int], None], *, data_only: bool) -> None:
        with self._lock:
            node = self._open.get(fd, (None, False))[0]
            try:
                call(fd)
            except OSError:
                if node is not None:
                    self.log.append(Sync(node, data_only, failed=True))
                raise
            if node is not None:
                self.log.append(Sync(node, data_only))


def _choose(plans: list[tuple[int, Plan]], limit: int, random: Random) -> dict[int, list[Plan]]:
    """Keep the corners of every point, and as many of the others as the limit leaves room for."""
    if limit and len(plans) > limit:
        corners = [plan for plan in plans if plan[1].corner]
        others = [plan for plan in plans if not plan[1].corner]
        room = min(len(others), max(limit - len(corners), limit // 2))
        plans = corners + random.sample(others, room)
    chosen: dict[int, list[Plan]] = {}
    for point, plan in plans:
        chosen.setdefault(point, []).append(plan)
    return chosen


def _distinct(states: Iterator[DiskState]) -> Iterator[DiskState]:
    seen: dict[bytes, int] = {}
    for state in states:
        digest = state.digest()
        if seen.get(digest, -1) < state.acknowledged:
            seen[digest] = state.acknowledged
            yield state


def _cuts(length_bytes: int, dense_bytes: int, stride_bytes: int | None) -> Iterator[int]:
    """Give where to cut a write: a small one everywhere, a long one at its ends and between."""
    if length_bytes <= dense_bytes:
        yield from range(length_bytes)
        return
    stride = stride_bytes or max(1, length_bytes // 100)
    edge = min(_EDGE_BYTES, dense_bytes // 2)
    yield from range(edge)
    yield from range(edge, length_bytes - edge, stride)
    yield from range(length_bytes - edge, length_bytes)


def _relative_files(root: str) -> Iterator[str]:
    for top, _, files in os.walk(root):
        for name in files:
            yield os.path.relpath(os.path.join(top, name), root)


def _base(path: _Path) -> str:
    return os.path.basename(os.fsdecode(path))


@dataclass(slots=True)
class _Fault:
    """One order to fail. `skip` counts down the calls that may still pass."""

    kind: str
    error: int
    skip: int
    forever: bool
    name: str | None
    partial_bytes: int | None


_KINDS = {
    "read": ("read", "pread", "readv", "preadv"),
    "write": ("write", "pwrite", "writev", "pwritev", "sendfile", "copy_file_range"),
    "sync": ("fsync", "fdatasync"),
    "rename": ("rename", "replace"),
    "link": ("link",),
    "unlink": ("unlink", "remove"),
    "truncate": ("truncate", "ftruncate"),
    "allocate": ("posix_fallocate",),
    "mkdir": ("mkdir",),
    "open": ("open",),
}
_KIND_OF_CALL = {call: kind for kind, calls in _KINDS.items() for call in calls}


class FaultyDisk:
    """A stand-in for the module `os` whose calls fail when they are told to.

    Kinds of calls: "open" (of what is there), "create" (open with O_CREAT), "read", "write", "sync"
    (of a file), "sync_directory", "rename" (replace as well), "link", "unlink", "truncate",
    "allocate", "mkdir".

    Args:
        system: what does the work of the calls that do not fail.

    Attributes:
        calls: how many calls of each kind were made, failed ones included.
    """

    KINDS = (*_KINDS, "create", "sync_directory")

    def __init__(self, system: Any = os) -> None:
        # Any: the module os, or another stand-in for it; both are used by attribute only.
        self.calls: Counter[str] = Counter()
        self._system = system
        self._faults: list[_Fault] = []

    def __getattr__(self, name: str) -> Any:
        # Any: whatever the module os has under that name.
        found = getattr(self._system, name)
        return partial(self._call, name, found) if name in _KIND_OF_CALL else found

    def fail(
        self,
        kind: str,
        error: int = errno.EIO,
        *,
        call: int = 1,
        forever: bool = False,
        name: str | None = None,
        partial_bytes: int | None = None,
    ) -> None:
        """Make a call fail with the OSError of `error`.

        Args:
            kind: which kind of call, see above.
            error: the number of the error, such as errno.ENOSPC.
            call: which one from now on, counting from 1.
            forever: all of that kind after it fail as well (a full disk), until `heal()`.
            name: only calls on a file whose last path component ends with this. Calls on an open
                file know its name on Linux only.
            partial_bytes: of a write: this many bytes are written first, and the call returns their
                number, as a disk does that runs full. The next write fails.
        """
        if kind not in self.KINDS:
            raise ValueError(f"no such kind of call: {kind!r}; known: {', '.join(self.KINDS)}")
        self._faults.append(_Fault(kind, error, call - 1, forever, name, partial_bytes))

    def heal(self) -> None:
        """Forget every fault."""
        self._faults.clear()

    # Any: the arguments and result of whichever call of the module os it is.
    def _call(self, called: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        kind = self._kind(called, args)
        self.calls[kind] += 1
        fault = self._due(kind, args[0])
        if fault is None:
            return function(*args, **kwargs)
        if fault.partial_bytes is None or called not in ("write", "pwrite"):
            raise OSError(fault.error, os.strerror(fault.error))
        self._faults.append(_Fault(kind, fault.error, 0, fault.forever, fault.name, None))
        start = bytes(args[1])[: fault.partial_bytes]
        return function(args[0], start, *args[2:])

    def _kind(self, called: str, args: tuple[Any, ...]) -> str:
        kind = _KIND_OF_CALL[called]
        if kind == "open" and args[1] & os.O_CREAT:
            return "create"
        if kind == "sync" and stat.S_ISDIR(os.fstat(args[0]).st_mode):
            return "sync_directory"
        return kind

    def _due(self, kind: str, target: Any) -> _Fault | None:
        due = None
        for fault in list(self._faults):
            if fault.kind != kind or not _is_named(target, fault.name):
                continue
            if fault.skip > 0:
                fault.skip -= 1
            elif due is None:
                due = fault
        if due is not None and (not due.forever or due.partial_bytes is not None):
            self._faults.remove(due)
        return due


def _is_named(target: Any, name: str | None) -> bool:
    if name is None:
        return True
    path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else target
    return _base(path).endswith(name)
