"""New oids for what the root reaches, in an order in which what is read together lies together.

All that an object refers to gets its oids at once, in the order of its state; then each of these
does the same, depth first. So the items of a list or of the node of a B-tree are neighbours, and
not far behind comes what hangs on each. As an object's references have their new oids when it is
read, one reading is enough.

Depth-first without the neighbours, and breadth-first, were measured as well: how many pages of 4
KiB hold what is read of 30,000 objects in a B-tree, each with two parts of 1,000 bytes. 50 objects
in the order of their keys lie in 6 pages; depth-first in 28, breadth-first in 4, under the oids of
keys that came at random in 36. An object with its parts and the path to it, most of which a small
cache has, takes 3.5 reads; 3.1, 3.5, and 3.2 where object and parts were committed together.
Breadth-first, what hangs on an object would be further away the deeper it hangs and the more
objects there are.

In a record the oid in each reference is replaced, and nothing else. The rewritten record is read
again: it must refer to the right objects in the right places, and be the same in all others.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

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

_OID_LENGTH = 8  # in bytes, or in characters of a text that is encoded
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


_KEPT = "it keeps the oid of an object as data of its own, which would name another object"


class _UncertainError(Exception):
    """Why a record cannot be rewritten."""


@dataclass(slots=True)
class _References:
    """What a record refers to.

    Attributes:
        opened: the record.
        oids: of each reference, in the order of the state.
        origins: of each the offset of the instruction that makes its oid.
        steps: the instructions that make or take what may be an oid, and those that frame others.
            All of them may take more memory than there is.
        step_count: how many instructions there are.
    """

    opened: OpenRecord
    oids: list[bytes] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    step_count: int = 0


def _find_references(record: bytes) -> _References:
    opened = open_record(record)
    if not opened.refs and opened.data.find(b"Q", opened.state_start) < 0:
        # The instruction that makes a reference is nowhere.
        return _References(opened)
    try:
        found = _read(opened)
    except CorruptRecordError as error:
        raise _UncertainError(f"{error} ('durus check' tells what is damaged)") from error
    if {*found.oids, opened.oid} != {*split_oids(opened.refs), opened.oid}:
        raise _UncertainError(
            "its list of references is not what its state refers to ('durus check' tells more)"
        )
    return found


def _read(opened: OpenRecord) -> _References:
    found = _References(opened)
    for step in gen_record_steps(opened):
        found.step_count += 1
        op, _, _, taken, given = step
        if op == "BINPERSID":
            oid, origin = _oid_of(taken[0])
            found.oids.append(oid)
            found.origins.append(origin)
            found.steps.append(step)
        elif (
            (given is not None and _may_be_oid(given))
            or (taken and any(map(_may_be_oid, taken)))
            or op == "FRAME"
        ):
            found.steps.append(step)
    return found


def _may_be_oid(value: Any) -> bool:
    """Tell whether a value may be an oid, or a tuple that begins with one."""
    if isinstance(value, Items) and len(value.values) == 2:
        value = value.values[0]
    return isinstance(value, (Bytes, Text)) and len(value.value) == _OID_LENGTH


def _oid_of(pair: Any) -> tuple[bytes, int]:
    """Give the oid of a reference, and the offset of the instruction that makes it."""
    if isinstance(pair, Items) and len(pair.values) == 2:
        oid = pair.values[0]
        # Python 2 had texts for bytes.
        if (
            isinstance(oid, (Bytes, Text))
            and isinstance(oid.value, bytes)
            and len(oid.value) == _OID_LENGTH
        ):
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
    if not found.oids:
        return close_record(replace(old, oid=oid), old.data, old.state_start)
    oids = [number(referred) for referred in found.oids]
    edits = _edits(found.steps, dict(zip(found.origins, oids, strict=True)))
    data = apply_edits(old.data, edits)
    new = replace(old, oid=oid, data=data, refs=b"".join(sorted({*oids} - {oid})))
    reread = _read(new)
    if reread.oids != oids or not _is_same_but_for(edits, found, reread):
        raise _UncertainError("what it became does not refer to the right objects")
    return close_record(new, data, new.state_start)


def _edits(steps: list[Step], oids: dict[int, bytes]) -> list[Edit]:
    """Give what replaces the oids, which are given by the offset of what makes each."""
    _refuse_other_uses(steps, oids)
    edits = [
        (step.start, step.end, _code(step, oids[step.start]))
        for step in steps
        if step.start in oids
    ]
    if any(len(code) != end - start for start, end, code in edits):
        # Their lengths would no longer be right, and only readers of unbuffered files need them.
        edits += [(step.start, step.end, b"") for step in steps if step.op == "FRAME"]
    return sorted(edits)


def _refuse_other_uses(steps: list[Step], origins: Collection[int]) -> None:
    """Refuse a record in which what makes the oid of a reference makes something else as well.

    A pickler writes an object once. So a program that keeps `other._p_oid` beside `other` in a
    state may have one instruction for both.
    """
    pairs = {id(step.taken[0]) for step in steps if step.op == "BINPERSID"}
    # Where the oid is a text that is encoded: what the function is given.
    arguments = {
        id(step.taken[1])
        for step in steps
        if step.op == "REDUCE" and isinstance(step.given, Bytes) and step.given.origin in origins
    }
    parts = pairs | arguments
    for step in steps:
        for place, value in enumerate(step.taken):
            if isinstance(value, (Bytes, Text)):
                if value.origin in origins and (place or id(step.given) not in parts):
                    raise _UncertainError(_KEPT)
            elif isinstance(value, Items):
                if id(value) in pairs and step.op != "BINPERSID":
                    raise _UncertainError(_KEPT)
                if id(value) in arguments and not isinstance(step.given, Bytes):
                    raise _UncertainError(_KEPT)


def _code(step: Step, oid: bytes) -> bytes:
    """Give an instruction that makes another oid as one made the old oid."""
    if isinstance(step.given, Bytes):
        return b"C\x08" + oid
    if isinstance(step.given.value, bytes):
        return b"U\x08" + oid
    text = oid.decode("latin-1").encode()
    return b"X" + len(text).to_bytes(4, "little") + text


def _is_same_but_for(edits: list[Edit], old: _References, new: _References) -> bool:
    """Tell whether undoing the edits gives the old pickles, and each instruction has its place."""
    undoing: list[Edit] = []
    grown = 0
    for start, end, code in edits:
        undoing.append((start + grown, start + grown + len(code), old.opened.data[start:end]))
        grown += len(code) - (end - start)
    removed = sum(not code for _, _, code in edits)
    return (
        apply_edits(new.opened.data, undoing) == old.opened.data
        and new.step_count == old.step_count - removed
    )
