"""New oids for what the root reaches, in an order in which what is read together lies together.

All that an object refers to gets its oids at once, in the order of its state; then each of these
does the same, depth first. So the items of a list or of the node of a B-tree are neighbours, and
not far behind comes what hangs on each. Breadth-first, the parts of an object would be further away
the more objects there are; depth-first alone, the items of a list would be as far apart as what
hangs on them is large. And as an object's references have their new oids when it is read, one
reading is enough.

In a record the oid in each reference is replaced, and nothing else. The rewritten record is read
again: it must refer to the right objects in the right places, and be the same in all others.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from durus.error import CorruptRecordError, DurusError, DurusKeyError
from durus.inspection import find_paths
from durus.serialize import ROOT_OID, split_oids
from durus.storage import Storage, check_record
from durus.tools.pickles import (
    Bytes,
    Edit,
    Items,
    OpenRecord,
    Step,
    Text,
    apply_edits,
    close_record,
    gen_record_steps,
    open_record,
)
from durus.utils import int8_to_str, str_to_int8

__all__ = ["RenumberError", "gen_renumbered"]

_PAGE_WORDS = 64
_MOST_PATH = 200


class RenumberError(DurusError, ValueError):
    """An object cannot get another oid, or not with certainty."""


def gen_renumbered(source: Storage) -> Iterator[tuple[bytes, bytes]]:
    """Yield (new oid, record) of each object that the root reaches, the root first, with oid 0.

    The same state gives the same every time. Memory is taken for two numbers an object; where oids
    are far apart, for up to 64 times as much.

    Args:
        source: a session that sees one state.

    Raises:
        RenumberError: a record cannot be rewritten with certainty, an object that is referred to
            is not stored, or there are records but no root.
        CorruptRecordError: a record is damaged.
    """
    if not _has_root(source):
        return
    numbers = _Numbers()
    numbers.add(ROOT_OID)
    waiting = array("Q", [0])
    while waiting:
        oid = int8_to_str(waiting.pop())
        try:
            record = source.load(oid)
        except DurusKeyError:
            raise RenumberError(
                f"tried to renumber {_name(source, oid)}, which is referred to but not stored;"
                " remove that reference, or copy without renumbering"
            ) from None
        check_record(oid, record)
        try:
            found = _find_references(record)
            fresh = [referred for referred in found.oids if numbers.add(referred)]
            waiting.extend(map(str_to_int8, reversed(fresh)))
            renumbered = _renumber(found, numbers.__getitem__)
        except _UncertainError as error:
            raise RenumberError(
                f"tried to renumber {_name(source, oid)}, but {error}; copy without renumbering"
            ) from error
        yield renumbered[:8], renumbered


def _has_root(source: Storage) -> bool:
    try:
        source.load(ROOT_OID)
    except DurusKeyError:
        if next(iter(source.gen_oid_record()), None) is None:
            return False
        raise RenumberError(
            f"tried to renumber what the root of {source} reaches, but there is no root; copy"
            " without renumbering"
        ) from None
    return True


def _name(source: Storage, oid: bytes) -> str:
    path = find_paths(source, {oid})[oid]
    return f"oid {str_to_int8(oid)} ({path:.{_MOST_PATH}})"


class _Numbers:
    """The new oid of each old one, given in the order in which they are added.

    Old oids are mostly close together: pages of numbers take some 10 bytes each.
    """

    def __init__(self) -> None:
        # In each page a new oid plus one for each old one, or 0.
        self._pages: dict[int, array[int]] = {}
        self._count = 0

    def add(self, oid: bytes) -> bool:
        """Give the next number to an oid; False if it has one."""
        page_number, place = divmod(str_to_int8(oid), _PAGE_WORDS)
        page = self._pages.get(page_number)
        if page is None:
            page = self._pages[page_number] = array("Q", bytes(8 * _PAGE_WORDS))
        if page[place]:
            return False
        self._count += 1
        page[place] = self._count
        return True

    def __getitem__(self, oid: bytes) -> bytes:
        page_number, place = divmod(str_to_int8(oid), _PAGE_WORDS)
        return int8_to_str(self._pages[page_number][place] - 1)


# One record.


class _UncertainError(Exception):
    """Why a record cannot be rewritten."""


@dataclass(frozen=True, slots=True)
class _References:
    """What a record refers to.

    Attributes:
        opened: the record.
        steps: the instructions of its pickles; none if it refers to nothing.
        oids: of each reference, in the order of the state.
    """

    opened: OpenRecord
    steps: list[Step]
    oids: list[bytes]


def _find_references(record: bytes) -> _References:
    opened = open_record(record)
    if not opened.refs and b"Q" not in opened.data[opened.state_start :]:
        # The instruction that makes a reference is nowhere.
        return _References(opened, [], [])
    try:
        steps = list(gen_record_steps(opened))
    except CorruptRecordError as error:
        raise _UncertainError(f"{error} ('durus check' tells what is damaged)") from error
    oids = [_oid_of(step)[0] for step in steps if step.op == "BINPERSID"]
    if set(oids) | {opened.oid} != {*split_oids(opened.refs), opened.oid}:
        raise _UncertainError(
            "its list of references is not what its state refers to ('durus check' tells more)"
        )
    return _References(opened, steps, oids)


def _oid_of(step: Step) -> tuple[bytes, int]:
    """Give the oid of a reference, and the offset of the instruction that made it."""
    pair = step.taken[0]
    if isinstance(pair, Items) and len(pair.values) == 2:
        oid = pair.values[0]
        # Python 2 had texts for bytes.
        if isinstance(oid, (Bytes, Text)) and isinstance(oid.value, bytes) and len(oid.value) == 8:
            return oid.value, oid.origin
    raise _UncertainError("it refers to an object in a way that Durus does not")


def _renumber(found: _References, number: Callable[[bytes], bytes]) -> bytes:
    """Give the record under its new oid, with new oids in its references.

    Args:
        found: the record.
        number: gives the new oid of an old one.
    """
    old = found.opened
    oid = number(old.oid)
    if not found.steps:
        return close_record(replace(old, oid=oid), old.data, old.state_start)
    data = apply_edits(old.data, _edits(found.steps, number))
    refs = b"".join(sorted({number(referred) for referred in found.oids} - {oid}))
    new = replace(old, oid=oid, data=data, refs=refs)
    _check(found, new, number)
    return close_record(new, data, new.state_start)


def _edits(steps: list[Step], number: Callable[[bytes], bytes]) -> list[Edit]:
    # By the offset of the instruction that makes an oid.
    oids = {origin: number(oid) for oid, origin in map(_oid_of, _references(steps))}
    _refuse_other_uses(steps, oids)
    edits = [
        (step.start, step.end, _code(step, oids[step.start]))
        for step in steps
        if step.start in oids
    ]
    if any(len(code) != end - start for start, end, code in edits):
        # Their lengths would no longer be right, and only readers of unbuffered files need them.
        edits += [(step.start, step.end, b"") for step in steps if step.op == "FRAME"]
    return edits


def _references(steps: list[Step]) -> Iterator[Step]:
    return (step for step in steps if step.op == "BINPERSID")


def _refuse_other_uses(steps: list[Step], origins: dict[int, bytes]) -> None:
    """Refuse a record in which what makes the oid of a reference makes something else as well.

    A pickler writes an object once. So a program that keeps `other._p_oid` beside `other` in a
    state has one instruction for both.
    """
    pairs = {id(step.taken[0]) for step in _references(steps)}
    arguments = {
        id(step.taken[1])
        for step in steps
        if step.op == "REDUCE" and isinstance(step.given, Bytes) and step.given.origin in origins
    }
    for step in steps:
        for place, value in enumerate(step.taken):
            if isinstance(value, (Bytes, Text)) and value.origin in origins:
                is_right = place == 0 and id(step.given) in pairs | arguments
            elif isinstance(value, Items) and id(value) in pairs:
                is_right = step.op == "BINPERSID"
            elif isinstance(value, Items) and id(value) in arguments:
                is_right = step.op == "REDUCE" and isinstance(step.given, Bytes)
            else:
                continue
            if not is_right:
                raise _UncertainError(
                    "it keeps the oid of an object as data of its own, which would name another"
                    " object"
                )


def _code(step: Step, oid: bytes) -> bytes:
    """Give an instruction that makes another oid as one made the old oid."""
    if isinstance(step.given, Bytes):
        return b"C\x08" + oid
    if isinstance(step.given.value, bytes):
        return b"U\x08" + oid
    text = oid.decode("latin-1").encode()
    return b"X" + len(text).to_bytes(4, "little") + text


def _check(found: _References, new: OpenRecord, number: Callable[[bytes], bytes]) -> None:
    """Read what was rewritten, and see that it says the same of the right objects."""
    old = found.opened
    origins = {_oid_of(step)[1] for step in _references(found.steps)}
    steps = list(gen_record_steps(new))
    pairs = zip(_framed(found.steps), _framed(steps), strict=True)
    is_right = all(
        was.start in origins or old.data[was.start : was.end] == new.data[now.start : now.end]
        for was, now in pairs
    )
    oids = [_oid_of(step)[0] for step in _references(steps)]
    if not is_right or oids != [number(oid) for oid in found.oids]:
        raise _UncertainError("what it became does not refer to the right objects")


def _framed(steps: list[Step]) -> list[Step]:
    return [step for step in steps if step.op != "FRAME"]
