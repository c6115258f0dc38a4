"""One object of a database as a person or another program reads it, without its class.

`read_object` tells of a record; `gen_lines` makes an indented tree of a state, and `json_value`
makes JSON of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from durus.error import CorruptRecordError
from durus.inspection import Instance, InstanceClass, Reference, gen_references, read_state
from durus.serialize import check_proof, extract_class_path, unpack_record
from durus.storage import Storage

__all__ = ["ShownObject", "class_of", "describe_record", "gen_lines", "json_value", "read_object"]

_INDENT = "  "
_LONGEST_VALUE = 100
_LONGEST_LINE = 72
_MOST_PARTS = 20
_DEEPEST = 8
_DEEPEST_IN_FULL = 1000  # a hostile state may be nested a million deep
_DEEPEST_IN_JSON = 100


@dataclass(frozen=True, slots=True)
class ShownObject:
    """What a record tells.

    Attributes:
        oid: 8 bytes.
        class_name: "module.Name".
        record_bytes: the length of the record.
        is_compressed: its state is.
        proof: "right"; "none" for a record of Durus 4.3, which carries none; or "wrong".
        references: where in the state an object is referred to, and its oid; see
            `durus.inspection.gen_references`.
        state: as `durus.inspection.read_state` gives it; None if it cannot be read.
        damage: why the record cannot be read, or None.
    """

    oid: bytes
    class_name: str
    record_bytes: int
    is_compressed: bool
    proof: str
    references: list[tuple[str, bytes]]
    state: object
    damage: CorruptRecordError | None


def read_object(storage: Storage, oid: bytes, trust: Iterable[str] | None = ()) -> ShownObject:
    """Tell of an object.

    Args:
        storage: where it is.
        oid: 8 bytes.
        trust: names whose classes are imported and used, as `Connection` has them.

    Raises:
        DurusKeyError: nothing is stored under `oid`.
        CorruptionError: the storage itself finds damage.
    """
    return describe_record(storage.load(oid), trust)


def describe_record(record: bytes, trust: Iterable[str] | None = ()) -> ShownObject:
    """Tell of a record, whichever version of an object it is.

    Raises:
        CorruptRecordError: its lengths do not fit.
    """
    oid, data, _ = unpack_record(record)
    proof, references, state, damage = "wrong", [], None, None
    try:
        proof = "right" if check_proof(record) else "none"
        state = read_state(record, trust)
        references = list(gen_references(record))
    except CorruptRecordError as error:
        damage = error
    return ShownObject(
        oid,
        extract_class_path(record),
        len(record),
        _is_compressed(data),
        proof,
        references,
        state,
        damage,
    )


def class_of(storage: Storage, oid: bytes) -> str | None:
    """Give "module.Name" of the class of an object, None if it is not stored."""
    try:
        return extract_class_path(storage.load(oid))
    except KeyError:
        return None


def _is_compressed(data: bytes) -> bool:
    """Tell from the first byte after the pickle of the class, in the forms that Durus writes."""
    name = data.find(b"\n", data.find(b"\n") + 1) + 1
    start = data.find(b".", name) + 1
    return data[start : start + 1] == b"x"


# -- a tree ---------------------------------------------------------------------------------------


def gen_lines(state: object, *, full: bool = False) -> Iterator[tuple[str, str]]:
    """Yield the lines of an indented tree, each as (what it tells of, indented; what that is).

    A container is shown once: where it is again, in itself perhaps, a line says so.

    Args:
        state: as `durus.inspection.read_state` gives it.
        full: leave nothing out; else long values, many parts and deep ones are cut.
    """
    deepest = _DEEPEST_IN_FULL if full else _DEEPEST
    waiting: list[Iterator[tuple[str, Any]]] = [iter([("", state)])]
    if isinstance(state, dict) and state:
        waiting = [((f".{name}", part) for name, part in state.items())]
    counts = [0]
    seen = {id(state)}
    while waiting:
        depth = len(waiting) - 1
        found = next(waiting[-1], None)
        if found is None:
            waiting.pop()
            counts.pop()
            continue
        label, part = found
        if counts[-1] >= _MOST_PARTS and not full:
            more = 1 + sum(1 for _ in waiting.pop())
            counts.pop()
            yield _INDENT * depth + "...", f"{more:,} more"
            continue
        counts[-1] += 1
        short = _short(part)
        if short is not None:
            yield _INDENT * depth + label, short
        elif not _is_container(part):
            yield _INDENT * depth + label, _value_text(part, full=full)
        elif id(part) in seen and depth:
            yield _INDENT * depth + label, f"{_head(part)}, shown above"
        elif depth >= deepest:
            yield _INDENT * depth + label, f"{_head(part)}, not shown: too deep"
        else:
            seen.add(id(part))
            yield _INDENT * depth + label, _head(part)
            waiting.append(_gen_parts(part))
            counts.append(0)


def _is_container(value: object) -> bool:
    if isinstance(value, (dict, list, tuple, set, frozenset, deque, Instance)):
        return True
    return bool(getattr(value, "__dict__", None)) and not isinstance(value, type)


def _head(value: Any) -> str:
    """Give the line of a container whose parts are in lines of their own."""
    if isinstance(value, Instance):
        return f"a {value.class_name}"
    kind = type(value).__name__
    if isinstance(value, (dict, list, tuple, set, frozenset, deque)):
        return f"{kind} of {len(value):,}"
    return f"a {type(value).__module__}.{kind}"


def _gen_parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((_key_text(key), part) for key, part in dict.items(value))
    elif isinstance(value, (set, frozenset)):
        yield from (("-", part) for part in value)
    elif isinstance(value, (list, tuple, deque)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, Instance):
        yield from _gen_instance_parts(value)
    else:
        yield from ((f".{name}", part) for name, part in vars(value).items())


def _gen_instance_parts(value: Instance) -> Iterator[tuple[str, Any]]:
    yield from ((f"argument {index}", part) for index, part in enumerate(value.args))
    yield from ((f"argument {name}", part) for name, part in value.kwargs.items())
    state = value.state
    states = state if type(state) is tuple and len(state) == 2 else (state,)
    if all(part is None or isinstance(part, dict) for part in states):
        for part in states:
            yield from ((f".{name}", each) for name, each in dict.items(part or {}))
    else:
        yield "state", state
    yield from ((f"[{index}]", part) for index, part in enumerate(value.items))
    yield from ((_key_text(key), part) for key, part in value.pairs)


def _key_text(key: object) -> str:
    return _value_text(key, full=False) if not _is_container(key) else _short(key) or _head(key)


def _short(value: Any) -> str | None:
    """Give a small container of small values on one line, or None."""
    if isinstance(value, Instance) or not _is_container(value):
        return None
    if type(value) not in {dict, list, tuple, set, frozenset} or len(value) > _MOST_PARTS:
        return None
    parts = [*value, *value.values()] if isinstance(value, dict) else list(value)
    if any(_is_container(part) or len(_value_text(part, full=False)) > 40 for part in parts):
        return None
    text = _safe_repr(value)
    return text if len(text) <= _LONGEST_LINE else None


def _value_text(value: object, *, full: bool) -> str:
    if isinstance(value, (str, bytes, bytearray)) and len(value) > _LONGEST_VALUE and not full:
        unit = "characters" if isinstance(value, str) else "bytes"
        return f"{value[:_LONGEST_VALUE]!r} ... of {len(value):,} {unit}"
    if isinstance(value, (Reference, InstanceClass)):
        return repr(value)
    text = _safe_repr(value)
    return text if full or len(text) <= 2 * _LONGEST_VALUE else text[:_LONGEST_VALUE] + " ..."


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - Python refuses large numbers, a trusted class anything
        if isinstance(value, int):
            return hex(value)
        return f"<a {type(value).__name__} that cannot be shown: {type(error).__name__}>"


# -- JSON -----------------------------------------------------------------------------------------


def json_value(value: object) -> Any:
    """Give what `json.dumps` takes, with everything that is in `value`.

    None, bool, int, float, str, list and a dict whose keys are str are themselves. All else is a
    dict with a key that begins with "$": `{"$oid": 17, "class": ...}` a persistent object,
    `{"$bytes": hex}`, `{"$tuple": [...]}`, `{"$set": [...]}`, `{"$pairs": [[key, value], ...]}` a
    dict with other keys, `{"$class": ..., "args": ..., "state": ...}` an object of another class,
    `{"$value": text, "type": ...}` any other value, `{"$again": ...}` what stands further up
    already, and `{"$deep": ...}` what is nested deeper than 100.
    """
    return _json_value(value, 0, set())


def _json_value(value: Any, depth: int, seen: set[int]) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if abs(value) < float("inf") else {"$value": repr(value), "type": "float"}
    if isinstance(value, Reference):
        return {"$oid": int.from_bytes(value.oid, "big"), "class": value.class_name}
    if isinstance(value, (bytes, bytearray)):
        return {"$bytes": value.hex()}
    if not _is_container(value):
        return {"$value": _safe_repr(value), "type": type(value).__name__}
    if depth >= _DEEPEST_IN_JSON:
        return {"$deep": _head(value)}
    if id(value) in seen:
        return {"$again": _head(value)}
    if isinstance(value, Instance) or not hasattr(value, "__len__") or len(value):
        seen.add(id(value))
    return _json_container(value, depth + 1, seen)


def _json_container(value: Any, depth: int, seen: set[int]) -> Any:
    if isinstance(value, dict):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _json_value(part, depth, seen) for key, part in dict.items(value)}
        return {"$pairs": _json_pairs(dict.items(value), depth, seen)}
    if isinstance(value, Instance):
        return _json_instance(value, depth, seen)
    if isinstance(value, (set, frozenset)):
        return {"$set": [_json_value(part, depth, seen) for part in value]}
    if isinstance(value, (list, tuple, deque)):
        parts = [_json_value(part, depth, seen) for part in value]
        return parts if isinstance(value, list) else {f"${type(value).__name__}": parts}
    kind = type(value)
    return {
        "$class": f"{kind.__module__}.{kind.__qualname__}",
        "state": _json_value(vars(value), depth, seen),
    }


def _json_instance(value: Instance, depth: int, seen: set[int]) -> dict[str, Any]:
    found: dict[str, Any] = {"$class": value.class_name}
    if value.args:
        found["args"] = [_json_value(part, depth, seen) for part in value.args]
    if value.kwargs:
        found["kwargs"] = _json_value(value.kwargs, depth, seen)
    if value.state is not None:
        found["state"] = _json_value(value.state, depth, seen)
    if value.items:
        found["items"] = [_json_value(part, depth, seen) for part in value.items]
    if value.pairs:
        found["pairs"] = _json_pairs(value.pairs, depth, seen)
    return found


def _json_pairs(pairs: Iterable[tuple[Any, Any]], depth: int, seen: set[int]) -> list[list[Any]]:
    return [[_json_value(key, depth, seen), _json_value(part, depth, seen)] for key, part in pairs]
