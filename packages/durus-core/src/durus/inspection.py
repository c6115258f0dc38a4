"""Records as plain values, and paths between objects, without the classes that a database names.

A stored state is a pickle, and to load one as a program does imports and calls what it names. A
tool that looks at a database of somebody else must not, and often could not. Here a state becomes
builtin values; an object of any other class is an `Instance`, which keeps what the class would have
been given, and a persistent object is a `Reference`.

A path is written as a program would write it: `root["users"]["kim"].address[3]`. Its steps are

- `["kim"]`, `[3]`: a key or index of a PersistentDict, PersistentList or BTree, or of a dict, list
  or tuple inside a state. The nodes of a BTree are no steps: a node's path is that of its tree.
- `.address`: an attribute, of a persistent object or of a plain object in a state.
- `.__dict__["a b"]`: an attribute whose name is none.
- `.__getstate__()[0]`: a part of a state that is no dict.
- `{oid 17}`: object 17 where no key leads to it, as a member of a set, as a key or part of one, or
  beside a key of more than 200 characters.
"""

from __future__ import annotations

import ast
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from difflib import get_close_matches
from fractions import Fraction
from typing import Any
from uuid import UUID

from durus._stored_values import (
    UNTRUSTING,
    Instance,
    InstanceClass,
    Reference,
    ValueFinder,
    read_values,
)
from durus.error import (
    CorruptionError,
    CorruptRecordError,
    DurusKeyError,
    PathError,
)
from durus.serialize import (
    ROOT_OID,
    extract_class_path,
    split_oids,
    unpack_record,
)
from durus.storage import Storage
from durus.utils import int8_to_str

__all__ = [
    "Instance",
    "InstanceClass",
    "Reference",
    "find_paths",
    "gen_references",
    "read_state",
    "resolve",
]

_LONGEST_KEY = 200
_LONGEST_STEP = 1000  # pieces: a hostile state may be nested a million deep
_BATCH_SIZE = 100

# The containers, and the attribute that holds what is in them.
_CONTENTS = {
    "durus.persistent_dict.PersistentDict": "data",
    "durus.persistent_list.PersistentList": "data",
    "durus.persistent_set.PersistentSet": "s",
}
_NODE = "durus.btree.BNode"


def read_state(record: bytes, trust: Iterable[str] | None = ()) -> object:
    """Give the state in a record as plain values. No class is imported that is not trusted.

    Text of Python 2 is taken for UTF-8, other bytes in it as `surrogateescape` has them; a state
    that cannot be read so (it holds dates) is taken for Latin-1.

    Args:
        record: oid, length, data, refs.
        trust: names that are imported and used, as `Connection` has them; None: all.

    Returns:
        For nearly every class a dict of its attributes, or None. It may be nested deeply or hold
        itself, and a value may be in it in many places.

    Raises:
        CorruptRecordError: the record is malformed, its proof is wrong or its state is damaged; or
            a trusted class refuses what is stored for it.
    """
    return read_values(record, UNTRUSTING if trust == () else ValueFinder(trust))[1]


def gen_references(record: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield (step, oid) for each place in a state that refers to a persistent object.

    The step is that of a path (see the module): '["users"]', '.name', '["users"][3]'. It is empty
    from a BTree to its nodes.

    Raises:
        CorruptRecordError: as `read_state`.
    """
    class_name, state = read_values(record, UNTRUSTING)
    # The path to each part, its pieces linked backwards: joining them at once would take space in
    # proportion to the square of a depth that a hostile state chooses.
    waiting: list[tuple[_Place, Iterator[tuple[str | None, Any]]]] = [
        (_Place(), _gen_state_parts(class_name, state))
    ]
    seen: set[int] = set()
    while waiting:
        place, parts = waiting[-1]
        for piece, part in parts:
            if isinstance(part, Reference):
                yield place.step(piece, part.oid), part.oid
            elif _has_parts(part) and id(part) not in seen:
                seen.add(id(part))
                waiting.append((place.below(piece), _gen_parts(part)))
                break
        else:
            waiting.pop()


def find_paths(storage: Storage, oids: Collection[bytes]) -> dict[bytes, str]:
    """Give of each of `oids` that the root reaches its path: through the fewest objects.

    One walk from the root, breadth first, that stops when all are found. It reads the references
    of records, and of the states only those on the paths. What is not stored or damaged is not
    walked through, but has a path if something refers to it. Takes some 150 bytes of memory for
    each object that it comes to.

    Args:
        storage: where the objects are.
        oids: 8 bytes each.
    """
    wanted = set(oids)
    parents = _find_parents(storage, wanted)
    below: dict[bytes, set[bytes]] = {}
    for found in wanted & parents.keys():
        child = found
        while child != ROOT_OID:
            siblings = below.setdefault(parents[child], set())
            if child in siblings:
                break
            siblings.add(child)
            child = parents[child]
    paths = {ROOT_OID: "root"} if ROOT_OID in parents else {}
    waiting = deque(paths)
    while waiting:
        parent = waiting.popleft()
        if parent in below:
            for child, step in _steps_to(storage, parent, below[parent]).items():
                paths[child] = paths[parent] + step
                waiting.append(child)
    return {oid: path for oid, path in paths.items() if oid in wanted}


def resolve(storage: Storage, oid_or_path: str) -> bytes:
    """Give the oid that a person means.

    Args:
        storage: where the objects are.
        oid_or_path: an oid, decimal ("17") or hexadecimal ("0x11"), which need not be stored; or a
            path from the root (see the module): 'root["users"]["kim"]'. Quotes of either kind do.

    Raises:
        PathError: it is none of these, or no persistent object is there.
        CorruptionError: a record on the way is damaged.
    """
    text = oid_or_path.strip()
    if re.fullmatch("[0-9]+|0[xX][0-9a-fA-F]+", text) and len(text) <= _LONGEST_KEY:
        number = int(text, 16 if text[:2] in {"0x", "0X"} else 10)
        if number >= 1 << 64:
            raise PathError(f"an oid is less than 2 to the power of 64, got {text}", oid_or_path)
        return int8_to_str(number)
    pieces = _split_path(text)
    if pieces is None:
        raise PathError(
            f"tried to read {text!r:.200} as an oid or a path; an oid is a number such as 17 or"
            ' 0x11, a path is written as root["users"][3].name',
            oid_or_path,
        )
    oid, start = ROOT_OID, 0
    while start < len(pieces):
        oid, count = _follow(storage, oid, pieces, start)
        start += count
    return oid


# -- the places in a state ------------------------------------------------------------------------


class _Place:
    """Where in a state a walk is.

    Attributes:
        length: how many pieces lead there.
        is_keyed: False below something that no key leads to.
    """

    __slots__ = ("_above", "_piece", "is_keyed", "length")

    def __init__(self, above: _Place | None = None, piece: str | None = "") -> None:
        self._above = above
        self._piece = piece or ""
        self.length: int = 0 if above is None else above.length + 1
        self.is_keyed: bool = piece is not None and (above is None or above.is_keyed)

    def below(self, piece: str | None) -> _Place:
        if not self.is_keyed:
            return self
        return _Place(self, piece if self.length < _LONGEST_STEP else None)

    def step(self, piece: str | None, oid: bytes) -> str:
        """Give the step to an object that is referred to here."""
        pieces = [piece or ""] if self.is_keyed else [""]
        if piece is None or not self.is_keyed:
            pieces = [f"{{oid {int.from_bytes(oid, 'big')}}}"]
        place: _Place | None = self
        while place is not None:
            pieces.append(place._piece)
            place = place._above
        return "".join(reversed(pieces))


def _has_parts(value: object) -> bool:
    if isinstance(value, (dict, list, tuple, set, frozenset, deque, Instance)):
        return True
    return bool(getattr(value, "__dict__", None)) and not isinstance(value, type)


def _gen_state_parts(class_name: str, state: Any) -> Iterator[tuple[str | None, Any]]:
    """Yield (piece, part) of a whole state; the piece is None where no key leads to the part."""
    if not isinstance(state, dict):
        yield ".__getstate__()", state
        return
    is_node = class_name.startswith(_NODE)
    for name, part in dict.items(state):
        if name == _CONTENTS.get(class_name):
            yield from _gen_parts(part)
        elif name == "root" and isinstance(part, Reference) and part.class_name.startswith(_NODE):
            # A BTree, or of a class that inherits it.
            yield "", part
        elif is_node and name == "items" and isinstance(part, list):
            for item in part:
                yield from _gen_item_parts(item)
        elif is_node and name == "nodes" and isinstance(part, list):
            yield from (("", node) for node in part)
        else:
            yield _attribute(name), part


def _gen_item_parts(item: Any) -> Iterator[tuple[str | None, Any]]:
    if isinstance(item, (tuple, list)) and len(item) == 2:
        yield from _gen_pair_parts(*item)
    else:
        yield None, item


def _gen_pair_parts(key: Any, value: Any) -> Iterator[tuple[str | None, Any]]:
    yield None, key
    text = _key_text(key)
    yield None if text is None else f"[{text}]", value


def _gen_parts(value: Any) -> Iterator[tuple[str | None, Any]]:
    if isinstance(value, dict):
        for key, part in dict.items(value):
            yield from _gen_pair_parts(key, part)
    elif isinstance(value, (list, tuple, deque)):
        for index, part in enumerate(value):
            yield f"[{index}]", part
    elif isinstance(value, (set, frozenset)):
        yield from ((None, part) for part in value)
    elif isinstance(value, Instance):
        yield from _gen_instance_parts(value)
    for name, part in getattr(value, "__dict__", {}).items():
        yield _attribute(name), part


def _gen_instance_parts(value: Instance) -> Iterator[tuple[str | None, Any]]:
    yield from ((None, part) for part in value.args)
    yield from ((None, part) for part in value.kwargs.values())
    states = value.state if _is_slot_state(value.state) else (value.state,)
    for state in states:
        if isinstance(state, dict):
            for name, part in dict.items(state):
                yield _attribute(name), part
        else:
            yield ".__getstate__()", state
    for index, part in enumerate(value.items):
        yield f"[{index}]", part
    for key, part in value.pairs:
        yield from _gen_pair_parts(key, part)


def _is_slot_state(state: Any) -> bool:
    """Tell whether a state is what an object with slots has by default."""
    return (
        type(state) is tuple
        and len(state) == 2
        and (state[0] is None or isinstance(state[0], dict))
        and isinstance(state[1], dict)
    )


def _attribute(name: Any) -> str | None:
    if isinstance(name, str) and name.isidentifier() and len(name) <= _LONGEST_KEY:
        return f".{name}"
    text = _key_text(name)
    return None if text is None else f".__dict__[{text}]"


def _key_text(key: Any, depth: int = 0) -> str | None:
    """Give a key as a program would write it, or None if it cannot or that is too long."""
    text: str | None = None
    if isinstance(key, str):
        text = _quoted(str(key)) if len(key) <= _LONGEST_KEY else None
    elif isinstance(key, float):
        text = repr(key) if abs(key) < float("inf") else f'float("{key}")'
    elif key is None or isinstance(key, bool) or (isinstance(key, int) and key.bit_length() < 640):
        text = repr(key)
    elif isinstance(key, bytes):
        text = repr(key) if len(key) <= _LONGEST_KEY else None
    elif type(key) is tuple:
        if depth < 4 and len(key) <= _LONGEST_KEY:
            texts = [_key_text(part, depth + 1) for part in key]
            parts = [part for part in texts if part is not None]
            if len(parts) == len(key):
                text = f"({', '.join(parts)}{',' if len(key) == 1 else ''})"
    elif isinstance(key, (date, datetime, time, timedelta, Decimal, UUID, Fraction)):
        text = repr(key)
    return text if text is not None and len(text) <= 4 * _LONGEST_KEY else None


def _quoted(text: str) -> str:
    """Give a string's literal in double quotes."""
    literal = repr(text)
    if literal[0] == '"':
        return literal
    return '"' + literal[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'


# -- paths ----------------------------------------------------------------------------------------


def _find_parents(storage: Storage, oids: set[bytes]) -> dict[bytes, bytes]:
    """Walk from the root until it has come to all of `oids`.

    Returns:
        Of each object, from where the walk came to it first; the root is its own.
    """
    missing = oids - {ROOT_OID}
    parents = {ROOT_OID: ROOT_OID}
    waiting = deque([ROOT_OID])
    while missing and waiting:
        batch = [waiting.popleft() for _ in range(min(_BATCH_SIZE, len(waiting)))]
        for parent, record in _gen_readable(storage, batch):
            for child in split_oids(unpack_record(record)[2]):
                if child not in parents:
                    parents[child] = parent
                    missing.discard(child)
                    waiting.append(child)
    return parents


def _gen_readable(storage: Storage, oids: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield (oid, record) of those that are stored and are records."""
    try:
        records = list(storage.bulk_load(oids))
    except (DurusKeyError, CorruptionError):
        records = []
    if len(records) == len(oids):
        yield from _whole(zip(oids, records, strict=True))
    else:
        yield from _whole(_gen_one_by_one(storage, oids))


def _gen_one_by_one(storage: Storage, oids: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for oid in oids:
        try:
            yield oid, storage.load(oid)
        except (DurusKeyError, CorruptionError):
            continue


def _whole(records: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    for oid, record in records:
        try:
            unpack_record(record)
        except CorruptRecordError:
            continue
        yield oid, record


def _steps_to(storage: Storage, parent: bytes, children: set[bytes]) -> dict[bytes, str]:
    """Give of each child, which the parent's record refers to, the shortest step."""
    steps: dict[bytes, str] = {}
    try:
        for step, oid in gen_references(storage.load(parent)):
            if oid in children and (oid not in steps or len(step) < len(steps[oid])):
                steps[oid] = step
    except (DurusKeyError, CorruptionError):
        # Its references were readable, its state is not.
        pass
    for oid in children - steps.keys():
        steps[oid] = f"{{oid {int.from_bytes(oid, 'big')}}}"
    return steps


_NAME_PIECE = re.compile(r"\s*\.\s*([^\W\d]\w*)(\(\))?")
_OID_PIECE = re.compile(r"\s*\{\s*oid\s+([0-9]+)\s*\}")
_STRING = re.compile(r"""[A-Za-z]?("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", re.DOTALL)


def _split_path(text: str) -> list[str] | None:
    """Cut a path into pieces, each written as `gen_references` writes it; None if it is none."""
    if not text.startswith("root"):
        return None
    pieces: list[str] = []
    position = len("root")
    while position < len(text):
        if match := _NAME_PIECE.match(text, position):
            piece, end = f".{match[1]}{match[2] or ''}", match.end()
        elif match := _OID_PIECE.match(text, position):
            piece, end = f"{{oid {match[1]}}}", match.end()
        elif text[position] == "[" and (end := _end_of_key(text, position)):
            piece = f"[{_literal_text(text[position + 1 : end - 1].strip())}]"
        else:
            return None
        pieces.append(piece)
        position = end
    return pieces


def _end_of_key(text: str, start: int) -> int:
    """Give the position after the bracket that closes the one at `start`, 0 if none does."""
    depth, position = 0, start
    while position < len(text):
        if match := _STRING.match(text, position):
            position = match.end()
            continue
        depth += {"[": 1, "(": 1, "]": -1, ")": -1}.get(text[position], 0)
        position += 1
        if not depth:
            return position
    return 0


def _literal_text(text: str) -> str:
    """Give a key that a person wrote as `_key_text` would have."""
    try:
        return _key_text(ast.literal_eval(text)) or text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _follow(storage: Storage, oid: bytes, pieces: list[str], start: int) -> tuple[bytes, int]:
    """Take one step of a path: from an object to the next.

    Returns:
        The next object, and how many pieces lead to it.
    """
    counts = {"".join(pieces[start:end]): end - start for end in range(start + 1, len(pieces) + 1)}
    steps: list[str] = []
    waiting, seen = deque([oid]), {oid}
    while waiting:
        record = _load_on_path(storage, waiting.popleft(), pieces, start)
        for step, referred in gen_references(record):
            if step in counts:
                return referred, counts[step]
            if step:
                steps.append(step)
            elif referred not in seen:
                # A node of a BTree.
                seen.add(referred)
                waiting.append(referred)
    raise PathError(_explain_no_step(storage, oid, pieces, start, steps), "root" + "".join(pieces))


def _load_on_path(storage: Storage, oid: bytes, pieces: list[str], start: int) -> bytes:
    try:
        return storage.load(oid)
    except DurusKeyError as error:
        path = "root" + "".join(pieces)
        raise PathError(
            f"tried to follow {path}, and {'root' + ''.join(pieces[:start])} is oid"
            f" {int.from_bytes(oid, 'big')}, which is not stored",
            path,
        ) from error


def _explain_no_step(
    storage: Storage, oid: bytes, pieces: list[str], start: int, steps: list[str]
) -> str:
    rest = "".join(pieces[start:])
    steps = [step for step in steps if len(step) <= _LONGEST_KEY]
    near = get_close_matches(rest, steps[:1000], 3, 0.5) or steps[:3]
    has = f"; it has {', '.join(near)}" if near else "; it refers to no object"
    if len(steps) > len(near) and near:
        has += f" and {len(steps) - len(near):,} more"
    return (
        f"tried to follow root{''.join(pieces)}, and came as far as root{''.join(pieces[:start])}"
        f" (oid {int.from_bytes(oid, 'big')}, a {extract_class_path(storage.load(oid))}), which"
        f" refers to no persistent object at {rest}{has}"
    )
