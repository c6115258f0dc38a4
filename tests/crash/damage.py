"""Small files to damage, ways to damage them, and the judge of what is read afterwards."""

from __future__ import annotations

import logging
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any, Self

from durus.connection import Connection
from durus.error import CorruptionError, CorruptRecordError, DurusKeyError, StorageFormatError
from durus.serialize import ROOT_OID, check_proof
from durus.storage import MemoryStorage
from durus.testing.crash import crash_points
from durus.utils import int8_to_str

from .helpers import NAME, History, Records, make_record, reachable

INDEX = f"{NAME}.index"
# What a thread of a pack takes of the address space is 72 MiB, most of which it never touches.
SPARE_BYTES = 192 << 20
SECONDS = 20
HEADER_BYTES = 8

# So short a file may be one whose making was interrupted; longer ones are damaged.
NEW_FILE_BYTES = 64


@dataclass(frozen=True)
class Sample:
    """A small file with a known history.

    Attributes:
        files: its content, and its index file's if it has one.
        ends: state k is in the first ends[k] bytes; only states that can be cut out of the file.
    """

    files: dict[str, bytes]
    history: History
    ends: dict[int, int]

    @property
    def content(self) -> bytes:
        return self.files[NAME]

    @property
    def last(self) -> int:
        return self.history.base

    def has_proof(self, number: int, content: bytes) -> bool:
        """Tell whether the commit record of a state's transaction is in place in `content`.

        It is at the end of the transaction in SHELF-1, at its beginning in DFS20.
        """
        stop = self.ends[number]
        start = stop - 86
        if self.content.startswith(b"DFS20"):
            start = self.ends[number - 1]
            stop = start + 82
        return content[start:stop] == self.content[start:stop]

    def whole_before(self, offset: int) -> int:
        """Give the last state that is in the first `offset` bytes."""
        return max((k for k, end in self.ends.items() if end <= offset), default=-1)


def make_sample(open_storage: Callable[..., Any], directory: Path, shape: str) -> Sample:
    """Make a small file: never packed, packed, packed and committed to, or between long records."""
    history = History()
    path = directory / NAME
    ends: dict[int, int] = {}
    # Longer than what an index looks at of the journal when it is opened.
    padding = make_record(5, "long" * 1500) if shape == "between long records" else None

    def commit(refs: tuple[int, ...], *records: bytes) -> None:
        number = history.commit(storage, refs, *records)
        ends[number] = path.stat().st_size

    with open_storage(path) as storage:
        ends[0] = path.stat().st_size
        if padding:
            commit((5,), padding)
        commit((1, 2), make_record(1, "one", (2,)), make_record(2, "two"))
        commit((1, 2), make_record(1, "uno", (2,)))
        commit((1,), make_record(3, "garbage"))
        commit((1,), make_record(2, "due"))
        if padding:
            commit((1, 5), padding)
        elif shape != "never packed":
            storage.pack()
            ends = {history.base: path.stat().st_size}
        if shape == "packed, then committed":
            commit((1, 4), make_record(4, "four", (2,)))
            commit((1, 4), make_record(2, "dos"))
            commit((1, 4), make_record(1, "en", (2,)))
    files = {found.name: found.read_bytes() for found in directory.iterdir()}
    wanted = {name: content for name, content in files.items() if name in {NAME, INDEX}}
    return Sample(wanted, history, ends)


Damage = tuple[str, bytes]


def flips(content: bytes, start: int = 0, stop: int | None = None) -> Iterator[Damage]:
    """Every single bit, and every byte turned around, changed and zeroed."""
    for offset, byte in enumerate(content[start:stop], start):
        changed = {byte ^ (1 << bit) for bit in range(8)} | {byte ^ 0xFF, 0, 0xFF} - {byte}
        for other in sorted(changed):
            note = f"byte {offset} is {other:#04x} instead of {byte:#04x}"
            yield note, content[:offset] + bytes((other,)) + content[offset + 1 :]


def cuts(content: bytes) -> Iterator[Damage]:
    """Every shorter length, as it is and filled with zeros."""
    for length in range(len(content)):
        yield f"cut to {length} bytes", content[:length]
        zeros = bytes(len(content) - length)
        if content[length:] != zeros:
            yield f"zeros from byte {length}", content[:length] + zeros


def tails(content: bytes, random: Random) -> Iterator[Damage]:
    """Garbage after the end, or in place of it: noise, zeros, ones, and the file's own parts."""
    for length in [*range(1, 40), 86, 100, 1000, 5000]:
        yield f"{length} zeros after the end", content + bytes(length)
        yield f"{length} times 0xff after the end", content + b"\xff" * length
        yield f"{length} random bytes after the end", content + random.randbytes(length)
        start = random.randrange(len(content))
        yield f"bytes from {start} again after the end", content + content[start : start + length]
        cut = random.randrange(len(content))
        yield f"{length} random bytes from {cut}", content[:cut] + random.randbytes(length)
    yield "the whole file twice", content * 2
    yield "an honest looking huge length", content + int8_to_str(2**62) + b"x" * 50


def splices(content: bytes, edges: list[int], random: Random, count: int) -> Iterator[Damage]:
    """Chunks removed, repeated and swapped: all of those between transactions, and random ones."""
    edges = sorted({0, *edges, len(content)})
    chunks = [(a, b) for a in edges for b in edges if a < b]
    places = [(a, b, c, d) for a, b in chunks for c, d in chunks if b <= c]
    for _ in range(count):
        a, b, c, d = sorted(random.randrange(len(content) + 1) for _ in range(4))
        chunks.append((a, b))
        places.append((a, b, c, d))
    for a, b in chunks:
        yield f"bytes {a}:{b} removed", content[:a] + content[b:]
        yield f"bytes {a}:{b} twice", content[:b] + content[a:]
        yield f"bytes {a}:{b} again at the end", content + content[a:b]
    for a, b, c, d in places:
        swapped = content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]
        yield f"bytes {a}:{b} and {c}:{d} swapped", swapped
        yield f"bytes {c}:{d} in place of {a}:{b}", content[:a] + content[c:d] + content[b:]
        yield f"bytes {a}:{b} in place of {c}:{d}", content[:c] + content[a:b] + content[d:]


def choose(damages: Iterator[Damage], content: bytes, random: Random) -> list[Damage]:
    """Give each damage that changes something, or as many at random as there is time for."""
    chosen = [damage for damage in damages if damage[1] != content]
    limit = crash_points()
    return random.sample(chosen, limit) if 0 < limit < len(chosen) else chosen


@contextmanager
def bounded(file_bytes: int) -> Iterator[None]:
    """Allow the file's size and 192 MiB of memory, and a time far above what anything takes."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"still busy after {SECONDS} s")

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most_bytes = pages * resource.getpagesize() + file_bytes + SPARE_BYTES
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


class Warnings(logging.Handler):
    """Counts what `durus` warns about, in place of showing it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1

    def __enter__(self) -> Self:
        logger = logging.getLogger("durus")
        self._propagate = logger.propagate
        logger.propagate = False
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("durus")
        logger.removeHandler(self)
        logger.propagate = self._propagate


def check_report(error: CorruptionError | StorageFormatError, path: Path) -> None:
    """Refuse a report that does not say which file, and where in it or which object."""
    assert error.path == str(path), f"the report names {error.path!r}"
    assert str(error)
    if isinstance(error, CorruptionError):
        assert error.offset is not None or error.oid is not None, "no offset and no oid"


def read_as_object(record: bytes, path: str) -> None:
    """Load a record as a Connection does.

    Raises:
        CorruptRecordError: it does not prove itself, or it claims to be one that need not.
    """
    if check_proof(record, path):
        return
    oid = record[:8]
    storage = MemoryStorage()
    storage.begin()
    storage.store(ROOT_OID, make_record(0, ""))
    storage.store(oid, record)
    storage.end()
    try:
        found = vars(Connection(storage)[oid])
    except CorruptRecordError as error:
        error.path = path
        raise
    raise AssertionError(f"read without a proof: {found}")


class Judge:
    """Opens a damaged file and says whether anything wrong was told as right."""

    def __init__(self, open_storage: Callable[..., Any], sample: Sample, directory: Path) -> None:
        self.open_storage = open_storage
        self.sample = sample
        self.directory = directory
        self.path = directory / NAME

    def put(self, files: dict[str, bytes]) -> None:
        """Make the directory hold these files only."""
        self.directory.mkdir(exist_ok=True)
        for path in self.directory.iterdir():
            path.unlink()
        for name, content in files.items():
            (self.directory / name).write_bytes(content)

    def judge(self, files: dict[str, bytes], *, readonly: bool = False, pack: bool = False) -> str:
        """Open damaged files, read everything, and say what became of it.

        Returns:
            "refused", "reported" (while reading), "set aside" or "cut" (an earlier state is seen),
            or "harmless".

        Raises:
            AssertionError: silently wrong, or reported in a way that is not documented.
        """
        self.put(files)
        with Warnings() as warnings, bounded(len(files[NAME])):
            try:
                storage = self.open_storage(self.path, readonly=readonly)
            except (CorruptionError, StorageFormatError) as error:
                return self._judge_refusal(error, files)
            with storage:
                number, reports = self._judge_reading(storage)
                torn = self._judge_number(number, reports, files[NAME], readonly=readonly)
                if torn == "set aside" and not readonly:
                    assert warnings.count, "no warning"
                if pack and not readonly and storage.can_pack:
                    reports += self._judge_pack(storage, number)
        if readonly:
            self._check_unchanged(files)
        return torn or ("reported" if reports else "harmless")

    def _judge_refusal(
        self, error: CorruptionError | StorageFormatError, files: dict[str, bytes]
    ) -> str:
        check_report(error, self.path)
        if isinstance(error, StorageFormatError):
            same = files[NAME][:HEADER_BYTES] == self.sample.content[:HEADER_BYTES]
            assert not same, f"the header is right, and yet: {error}"
        self._check_unchanged(files)
        return "refused"

    def _check_unchanged(self, files: dict[str, bytes]) -> None:
        found = {path.name: path.read_bytes() for path in self.directory.iterdir()}
        assert found.pop(NAME) == files[NAME], "the damaged file was changed"
        found.pop(INDEX, None)
        assert not found, f"new files: {sorted(found)}"

    def _judge_reading(self, storage: Any) -> tuple[int, int]:
        """Find the one state that agrees with all that is told as right."""
        oids = sorted(set().union(*self.sample.history.states))
        loaded = {oid: self._load(storage, oid) for oid in oids}
        reports = sum(record is CORRUPT for record in loaded.values())
        walked, whole = self._walk(storage)
        reports += not whole
        for number in reversed(range(len(self.sample.history.states))):
            expected = reachable(self.sample.history.states[number])
            if all(loaded[oid] in (record, CORRUPT) for oid, record in expected.items()):
                self._check_walk(walked, whole, expected)
                if not expected:
                    assert not any(loaded.values()), "an empty storage with objects in it"
                return number, reports
        raise AssertionError(f"in none of the known states: {loaded}")

    def _load(self, storage: Any, oid: bytes) -> bytes | None:
        """Load as a Connection does: a record that does not prove itself is a report."""
        try:
            record: bytes = storage.load(oid)
            read_as_object(record, str(self.path))
        except CorruptionError as error:
            check_report(error, self.path)
            return CORRUPT
        except DurusKeyError:
            return None
        return record

    def _walk(self, storage: Any) -> tuple[Records, bool]:
        walked = {}
        try:
            for oid, record in storage.gen_oid_record():
                try:
                    read_as_object(record, str(self.path))
                except CorruptRecordError:
                    record = CORRUPT  # noqa: PLW2901 - the report is what is found there
                walked[oid] = record
        except CorruptionError as error:
            check_report(error, self.path)
            return walked, False
        return walked, True

    def _check_walk(self, walked: Records, whole: bool, expected: Records) -> None:
        for oid, record in walked.items():
            wanted = expected.get(oid)
            known = record in self.sample.history.stored if wanted is None else record == wanted
            assert record is CORRUPT or known, f"a walk gives a wrong record of {oid!r}"
        assert not whole or not expected.keys() - walked.keys(), "a walk leaves out objects"

    def _judge_number(
        self, number: int, reports: int, content: bytes, *, readonly: bool
    ) -> str | None:
        """Allow an earlier state only by the rule of the torn tail, or where the file ends.

        Returns:
            "set aside" or "cut" if that was so, None for the last state.
        """
        sample = self.sample
        if number == sample.last:
            return None
        same = common_prefix(content, sample.content)
        whole = sample.whole_before(same)
        if number == 0 and whole < 0:
            assert len(content) < NEW_FILE_BYTES, "damage is taken for a new file"
            return "cut"
        # More than one place may be damaged: the first is then reported, and the last is torn.
        right = number == whole or (number > whole and reports)
        assert right, f"state {number} of a file that is right up to {same}"
        later = [k for k in sample.ends if k > number + 1]
        intact = [k for k in later if sample.has_proof(k, content)]
        assert not intact, f"a tail with the whole transactions up to {intact} was set aside"
        end = sample.ends[number]
        if not content[end:].strip(b"\0"):
            return "cut"
        if not readonly:
            torn = self.path.with_name(f"{NAME}.torn-{end}")
            assert torn.read_bytes() == content[end:], "not what was cut off"
        return "set aside"

    def _judge_pack(self, storage: Any, number: int) -> int:
        """Pack: what was right before is right after, or it is reported."""
        try:
            storage.pack()
        except CorruptionError as error:
            check_report(error, self.path)
            reports = 1
        else:
            reports = 0
        expected = reachable(self.sample.history.states[number])
        for oid, record in expected.items():
            found = self._load(storage, oid)
            assert found in (record, CORRUPT), f"after a pack: {found!r} for {oid!r}"
        return reports


CORRUPT = b"reported as damaged"


def common_prefix(one: bytes, other: bytes) -> int:
    """Give how many bytes two contents have in common at their start."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(at for at in range(length) if one[at] != other[at])
