"""A state as JSON: the half of `docs/formats/json-lines.md` that writes.

What JSON has stands for itself. Everything else is a *tag*: an object with a key that begins with
`$`. A dict that has such a key itself, or a key that is no text, is written as `$dict`.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timezone
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any
from uuid import UUID

from durus.tools._state_graph import Global, Made, Members, Pairs, Reference
from durus.utils import str_to_int8

__all__ = ["to_json"]

# The integers that a double can hold, rounded. Readers of JSON refuse or garble longer ones.
_INT_BITS = 1024

# What is nested deeper stands in the list of shared values. Readers of JSON have limits (jq had one
# of 256), and a step of ours is at most three of theirs.
_DEEPEST = 50

_LEAVES = frozenset(
    {type(None), bool, int, float, complex, str, bytes, timezone, Global, Reference}
)
_NAN = struct.pack(">d", float("nan"))


def to_json(state: Any) -> tuple[Any, list[Any]]:
    """Give a state as values that `json` writes.

    Args:
        state: as `read_graph` gives it.

    Returns:
        The state, and the values to which it refers by number.
    """
    encoder = _Encoder(_apart(state))
    value = encoder.encode(state)
    return value, encoder.encode_shared()


def _apart(state: Any) -> set[int]:
    """Give the ids of the values to be written once: those met twice, and those too deep."""
    seen: set[int] = set()
    apart: set[int] = set()
    waiting: list[tuple[Any, int]] = [(state, 0)]
    while waiting:
        value, depth = waiting.pop()
        if type(value) in _LEAVES or value == ():
            continue
        if id(value) in seen:
            apart.add(id(value))
            continue
        seen.add(id(value))
        if depth == _DEEPEST:
            apart.add(id(value))
            depth = 0
        waiting.extend((part, depth + 1) for part in _parts(value))
    return apart


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        yield from value
    elif isinstance(value, Members):
        yield from value.items
    elif isinstance(value, Pairs):
        yield from _flat(value.pairs)
    elif isinstance(value, Made):
        yield value.maker
        yield from value.args
        if value.kwargs is not None:
            yield value.kwargs
        yield from value.items
        yield from _flat(value.pairs)
        yield value.state


def _flat(pairs: list[tuple[Any, Any]]) -> Iterator[Any]:
    for pair in pairs:
        yield from pair


class _Encoder:
    def __init__(self, apart: set[int]) -> None:
        self._apart = apart
        self._number_of_id: dict[int, int] = {}
        self._shared: list[Any] = []

    def encode(self, value: Any) -> Any:
        if id(value) in self._apart and type(value) not in _LEAVES:
            number = self._number_of_id.setdefault(id(value), len(self._shared))
            if number == len(self._shared):
                self._shared.append(value)
            return {"$shared": number}
        return _ENCODE[type(value)](self, value)

    def encode_shared(self) -> list[Any]:
        """Give the values that stand apart; encoding one may add others."""
        encoded: list[Any] = []
        while len(encoded) < len(self._shared):
            value = self._shared[len(encoded)]
            encoded.append(_ENCODE[type(value)](self, value))
        return encoded

    def encode_all(self, values: Any) -> list[Any]:
        return [self.encode(value) for value in values]

    def encode_pairs(self, pairs: list[tuple[Any, Any]]) -> list[Any]:
        return [[self.encode(key), self.encode(value)] for key, value in pairs]

    def same(self, value: Any) -> Any:
        return value

    def int_(self, value: int) -> Any:
        return value if value.bit_length() <= _INT_BITS else {"$int": hex(value)}

    def float_(self, value: float) -> Any:
        if isfinite(value):
            return value
        packed = struct.pack(">d", value)
        is_other_nan = value != value and packed != _NAN  # noqa: PLR0124 - only a NaN is not itself
        return {"$float": f"0x{packed.hex()}" if is_other_nan else str(value)}

    def complex_(self, value: complex) -> Any:
        return {"$complex": [self.float_(value.real), self.float_(value.imag)]}

    def str_(self, value: str) -> Any:
        if _is_text(value):
            return value
        return {"$str": _base64(value.encode("utf-8", "surrogatepass"))}

    def bytes_(self, value: bytes) -> Any:
        return {"$bytes": _base64(value)}

    def bytearray_(self, value: bytearray) -> Any:
        return {"$bytearray": _base64(value)}

    def list_(self, value: list[Any]) -> Any:
        return self.encode_all(value)

    def tuple_(self, value: tuple[Any, ...]) -> Any:
        return {"$tuple": self.encode_all(value)}

    def members(self, value: Members) -> Any:
        return {"$frozenset" if value.is_frozen else "$set": self.encode_all(value.items)}

    def pairs(self, value: Pairs) -> Any:
        keys = {key for key, _ in value.pairs if type(key) is str and _is_text(key)}
        if len(keys) < len(value.pairs) or any(key.startswith("$") for key in keys):
            return {"$dict": self.encode_pairs(value.pairs)}
        return {key: self.encode(part) for key, part in value.pairs}

    def global_(self, value: Global) -> Any:
        return {"$global": str(value)}

    def reference(self, value: Reference) -> Any:
        return {"$ref": str_to_int8(value.oid), "class": str(value.klass)}

    def utc(self, _value: timezone) -> Any:
        return {"$call": "datetime.timezone", "args": [{"$timedelta": [0, 0, 0]}]}

    def made(self, value: Made) -> Any:
        readable = self._readable(value)
        if readable is not None:
            return readable
        maker = value.maker
        named = str(maker) if isinstance(maker, Global) else self.encode(maker)
        encoded = {"$call" if value.is_called else "$object": named}
        if value.args:
            encoded["args"] = self.encode_all(value.args)
        if value.kwargs is not None:
            encoded["kwargs"] = self.encode(value.kwargs)
        if value.items:
            encoded["items"] = self.encode_all(value.items)
        if value.pairs:
            encoded["pairs"] = self.encode_pairs(value.pairs)
        if value.has_state:
            encoded["state"] = self.encode(value.state)
        return encoded

    def _readable(self, made: Made) -> Any:
        """Give the tag of a type that has one, if it says all that is stored."""
        write = _READABLE.get(made.maker) if isinstance(made.maker, Global) else None
        if write is None or made.kwargs is not None or made.items or made.pairs:
            return None
        try:
            return write(self, made)
        except (ValueError, OverflowError, InvalidOperation):
            return None


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _base64(value: bytes | bytearray) -> str:
    return b64encode(value).decode()


def _args(made: Made, *types: type) -> tuple[Any, ...] | None:
    """Give what a call is given, if it is of these types and there is no state."""
    if not made.is_called or made.has_state or tuple(map(type, made.args)) != types:
        return None
    return made.args


def _moment(cls: type[datetime | time], length: int) -> Callable[[_Encoder, Made], Any]:
    """Give the writer of datetimes, or of times of day."""
    tag = f"${cls.__name__}"

    def write(encoder: _Encoder, made: Made) -> Any:
        if not made.is_called or made.has_state or not 1 <= len(made.args) <= 2:
            return None
        packed, *zone = made.args
        if type(packed) is not bytes or len(packed) != length:
            return None
        make: Any = cls
        value = make(packed)  # as it is pickled
        if value.__reduce_ex__(4)[1] != (packed,):
            return None
        is_utc = zone == [UTC]
        encoded = {tag: (value.replace(tzinfo=UTC) if is_utc else value).isoformat()}
        if zone and not is_utc:
            encoded["tz"] = encoder.encode(zone[0])
        return encoded | ({"fold": 1} if value.fold else {})

    return write


def _date(_encoder: _Encoder, made: Made) -> Any:
    args = _args(made, bytes)
    if args is None or len(args[0]) != 4:
        return None
    value: Any = date(*args)
    return {"$date": value.isoformat()} if value.__reduce_ex__(4)[1] == args else None


def _timedelta(_encoder: _Encoder, made: Made) -> Any:
    args = _args(made, int, int, int)
    return None if args is None else {"$timedelta": list(args)}


def _decimal(_encoder: _Encoder, made: Made) -> Any:
    args = _args(made, str)
    if args is None or not args[0].isascii():
        return None
    Decimal(args[0])
    return {"$decimal": args[0]}


def _uuid(_encoder: _Encoder, made: Made) -> Any:
    if made.is_called or made.args or type(made.state) is not Pairs:
        return None
    if [key for key, _ in made.state.pairs] != ["int"]:
        return None
    number = made.state.pairs[0][1]
    return {"$uuid": str(UUID(int=number))} if type(number) is int else None


_READABLE: dict[Global, Callable[[_Encoder, Made], Any]] = {
    Global("datetime", "date"): _date,
    Global("datetime", "datetime"): _moment(datetime, 10),
    Global("datetime", "time"): _moment(time, 6),
    Global("datetime", "timedelta"): _timedelta,
    Global("decimal", "Decimal"): _decimal,
    Global("uuid", "UUID"): _uuid,
}

_ENCODE: dict[type, Callable[[_Encoder, Any], Any]] = {
    type(None): _Encoder.same,
    bool: _Encoder.same,
    int: _Encoder.int_,
    float: _Encoder.float_,
    complex: _Encoder.complex_,
    str: _Encoder.str_,
    bytes: _Encoder.bytes_,
    bytearray: _Encoder.bytearray_,
    list: _Encoder.list_,
    tuple: _Encoder.tuple_,
    timezone: _Encoder.utc,
    Members: _Encoder.members,
    Pairs: _Encoder.pairs,
    Global: _Encoder.global_,
    Reference: _Encoder.reference,
    Made: _Encoder.made,
}
