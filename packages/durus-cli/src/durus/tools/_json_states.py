"""A state from its JSON: the half of `docs/formats/json-lines.md` that reads.

The pickle is written by opcodes, so a class is only a name here. Values are written in the order in
which a pickler would, each container with an entry in the memo where the state shares any: so a
state that a pickler can write loads as it did.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from base64 import b64decode
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from math import isinf
from typing import Any
from uuid import UUID

from durus.tools._state_graph import Global
from durus.utils import int8_to_str

__all__ = ["parse_line", "shown", "to_pickle"]

_LONGEST_REPR = 60

# A tuple that is met again in one of its parts is begun again there, as by a pickler: the time that
# takes grows with the square of its parts. So there is an end: of opcodes and values to write, with
# what every value of the state may need. A pickler's recursion usually ends far below it.
_MOST_STEPS = 5_000_000
_MOST_STEPS_FOR_A_VALUE = 20


def parse_line(line: bytes) -> Any:
    """Give the JSON of a line.

    Raises:
        ValueError: it is none, or says something that no state can hold.
    """
    try:
        return _decode(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg} at column {error.colno}") from error
    except RecursionError:
        raise ValueError("it is nested too deeply; deep values stand under 'shared'") from None


def to_pickle(state: Any, shared: list[Any]) -> tuple[bytes, set[bytes]]:
    """Give the pickle of a state, and the oids to which it refers.

    Args:
        state: the state, and
        shared: the values to which it refers by number; both as `parse_line` gives them.

    Raises:
        ValueError: they say something that no state can hold.
    """
    writer = _Writer(shared)
    writer.write(state)
    return writer.get_pickle(), writer.oids


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"an object has the key {repeated!r:.60} twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"{text:.40} is more than a float can hold")
    return value


def _short_int(text: str) -> int:
    # A double has 309 digits at most, and reading takes time in proportion to the square.
    if len(text) > 310:
        raise ValueError(f"an integer of {len(text)} digits is written as $int, in hexadecimal")
    return int(text)


def _no_constant(text: str) -> Any:
    raise ValueError(f'{text} is no JSON; it is written as {{"$float": ...}}')


_decode = json.JSONDecoder(
    object_pairs_hook=_unrepeated,
    parse_float=_finite,
    parse_int=_short_int,
    parse_constant=_no_constant,
).decode

# Of what has an id in the memo, nothing may be made for the moment: another could get its id.
_UTC = {"$call": "datetime.timezone", "args": [{"$timedelta": [0, 0, 0]}]}

# What is to be written next, besides values: opcodes as they are (bytes), or a step (a tuple). JSON
# has neither.
_Todo = list[Any]

# Of a value its key in the memo: ("shared", number), the id of its JSON, or None for no entry.
_Key = Any


class _Writer:
    """Writes one pickle. Nothing here calls itself: a state may be nested as deep as it likes."""

    def __init__(self, shared: list[Any]) -> None:
        self.oids: set[bytes] = set()
        self._shared = shared
        self._chunks: list[bytes] = [b"\x80\x04"]
        self._memo: dict[Any, int] = {}
        self._memo_count_at: dict[int, int] = {}
        self._hashable: set[int] = set()
        self._step_count = 0
        self._most_steps = 0
        self._todo: _Todo = []

    def get_pickle(self) -> bytes:
        """Give what was written."""
        self._chunks.append(pickle.STOP)
        return b"".join(self._chunks)

    def write(self, value: Any) -> None:
        """Write a value, and all that it holds."""
        todo = self._todo = [value]
        self._state = value
        chunks = self._chunks
        while todo:
            step = todo.pop()
            if type(step) is bytes:
                chunks.append(step)
            elif type(step) is tuple:
                step[0](self, *step[1:])
            else:
                opened = self._opened(step, None)
                self._step_count += len(opened)
                opened.reverse()
                todo += opened

    def _opened(self, value: Any, key: _Key) -> _Todo:
        """Give what a value is written as: opcodes, steps, and the values that it holds."""
        open_ = _OPEN.get(type(value))
        if open_ is None:
            raise ValueError(f"a {type(value).__name__} is no value of JSON")
        if key is None and self._shared:
            # It may lie on a cycle, and then it ends that only if it is written once.
            key = id(value)
        return open_(self, value, key)

    def _keep(self, key: _Key) -> None:
        if key is not None:
            self._memo[key] = len(self._memo)
            self._chunks.append(pickle.MEMOIZE)

    def _got(self, key: _Key) -> bytes:
        """Give the opcodes that fetch what the memo has under a key."""
        number = self._memo[key]
        if number < 256:
            return pickle.BINGET + bytes([number])
        return pickle.LONG_BINGET + struct.pack("<I", number)

    def _close(self, opcode: bytes, key: _Key) -> None:
        """End what was begun by a mark, unless one of its parts has led to it and written it."""
        if key in self._memo:
            self._chunks.append(pickle.POP_MARK + self._got(key))
        else:
            self._chunks.append(opcode)
            self._keep(key)

    def _fill(self, key: _Key, rest: _Todo) -> None:
        """Go on with an object that is made, unless its arguments have led to it."""
        if key in self._memo:
            self._chunks.append(pickle.POP + self._got(key))
        else:
            self._keep(key)
            self._todo.extend(reversed(rest))

    def _scalar(self, opcodes: bytes, key: _Key) -> _Todo:
        return [opcodes, (_Writer._keep, key)] if type(key) is tuple else [opcodes]

    def _none(self, _value: None, key: _Key) -> _Todo:
        return self._scalar(pickle.NONE, key)

    def _bool(self, value: bool, key: _Key) -> _Todo:
        return self._scalar(pickle.NEWTRUE if value else pickle.NEWFALSE, key)

    def _int(self, value: int, key: _Key) -> _Todo:
        return self._scalar(_int_opcodes(value), key)

    def _float(self, value: float, key: _Key) -> _Todo:
        return self._scalar(pickle.BINFLOAT + struct.pack(">d", value), key)

    def _str(self, value: str, key: _Key) -> _Todo:
        if value in self._memo:
            return self._scalar(self._got(value), key)
        return [*self._scalar(_str_opcodes(value), key), (_Writer._keep, value)]

    def _list(self, value: list[Any], key: _Key) -> _Todo:
        return self._container(pickle.EMPTY_LIST, value, pickle.APPENDS, key)

    def _dict(self, value: dict[str, Any], key: _Key) -> _Todo:
        if len(value) == 1:
            (tag,) = value
            if tag in _TAGS:
                return _TAGS[tag][0](self, value, key)
        tags = [name for name in value if name[:1] == "$"]
        if not tags:
            parts = [part for pair in value.items() for part in pair]
            return self._container(pickle.EMPTY_DICT, parts, pickle.SETITEMS, key)
        tag, *others = tags
        if others or tag not in _TAGS:
            raise ValueError(
                f"{shown(value)} has the key {shown([*others, tag][0])}, which is no tag here;"
                ' a dict with a key that begins with "$" is written as $dict'
            )
        open_, allowed = _TAGS[tag]
        unknown = value.keys() - allowed - {tag}
        if unknown:
            raise ValueError(f"beside {tag} stands {shown(min(unknown))}")
        return open_(self, value, key)

    def _container(self, empty: bytes, parts: list[Any], opcode: bytes, key: _Key) -> _Todo:
        if key in self._memo:
            return [self._got(key)]
        return [empty, (_Writer._keep, key), *_marked(parts, opcode)]

    def _tag_shared(self, value: dict[str, Any], key: _Key) -> _Todo:
        number = _int_of(value["$shared"], 0, len(self._shared) - 1, "$shared")
        fetched = [(_Writer._fetch, number)]
        return [*fetched, (_Writer._keep, key)] if type(key) is tuple else list(fetched)

    def _fetch(self, number: int) -> None:
        key = ("shared", number)
        if key in self._memo:
            self._chunks.append(self._got(key))
            return
        memo_count = self._memo_count_at.get(number)
        if memo_count is not None:
            self._check_begun(number, memo_count)
        self._memo_count_at[number] = len(self._memo)
        opened = self._opened(self._shared[number], key)
        self._step_count += len(opened)
        opened.reverse()
        self._todo += opened

    def _check_begun(self, number: int, memo_count: int) -> None:
        """Refuse what is met while it is being written, if nothing came of that, or too much."""
        if memo_count == len(self._memo):
            raise ValueError(f"shared value {number} is made of itself")
        if not self._most_steps:
            values = _count_values([self._state, self._shared])
            self._most_steps = _MOST_STEPS + _MOST_STEPS_FOR_A_VALUE * values
        if self._step_count > self._most_steps:
            raise ValueError(f"shared value {number} is made of itself in too many ways")

    def _tag_tuple(self, value: dict[str, Any], key: _Key) -> _Todo:
        return self._tuple(_list_of(value["$tuple"], "$tuple"), key)

    def _tuple(self, items: list[Any], key: _Key) -> _Todo:
        if not items:
            return self._scalar(pickle.EMPTY_TUPLE, key)
        if key in self._memo:
            return [self._got(key)]
        return [pickle.MARK, *items, (_Writer._close, pickle.TUPLE, key)]

    def _tag_set(self, value: dict[str, Any], key: _Key) -> _Todo:
        items = _list_of(value["$set"], "$set")
        self._check_hashable(items, "a member of a set")
        return self._container(pickle.EMPTY_SET, items, pickle.ADDITEMS, key)

    def _tag_frozenset(self, value: dict[str, Any], key: _Key) -> _Todo:
        if key in self._memo:
            return [self._got(key)]
        items = _list_of(value["$frozenset"], "$frozenset")
        self._check_hashable(items, "a member of a set")
        return [pickle.MARK, *items, (_Writer._close, pickle.FROZENSET, key)]

    def _tag_dict(self, value: dict[str, Any], key: _Key) -> _Todo:
        parts = _flat_pairs(value["$dict"], "$dict")
        self._check_hashable(parts[::2], "a key of a dict")
        return self._container(pickle.EMPTY_DICT, parts, pickle.SETITEMS, key)

    def _check_hashable(self, values: list[Any], role: str) -> None:
        """Refuse what no state can have there: it would not load."""
        for value in values:
            found = value
            if isinstance(value, dict) and "$shared" in value:
                number = _int_of(value["$shared"], 0, len(self._shared) - 1, "$shared")
                if number in self._hashable:
                    continue
                self._hashable.add(number)
                found = self._shared[number]
            if isinstance(found, list) or (
                isinstance(found, dict)
                and (not any(name[:1] == "$" for name in found) or found.keys() & _UNHASHABLE)
            ):
                raise ValueError(f"{shown(found)} cannot be {role}")

    def _tag_int(self, value: dict[str, Any], key: _Key) -> _Todo:
        text = _text_of(value["$int"], "$int")
        if not re.fullmatch("-?0x[0-9a-f]+", text):
            raise ValueError(f'$int is a text such as "0x1f", got {shown(text)}')
        return self._int(int(text, 16), key)

    def _tag_float(self, value: dict[str, Any], key: _Key) -> _Todo:
        return self._scalar(_float_opcodes(value["$float"]), key)

    def _tag_complex(self, value: dict[str, Any], key: _Key) -> _Todo:
        parts = _list_of(value["$complex"], "$complex")
        if len(parts) != 2:
            raise ValueError(f"$complex has two parts, got {shown(parts)}")
        opcodes = b"".join(
            _float_opcodes(part["$float"])
            if isinstance(part, dict) and part.keys() == {"$float"}
            else pickle.BINFLOAT + struct.pack(">d", _number_of(part))
            for part in parts
        )
        return self._calling("builtins.complex", [opcodes], key)

    def _tag_str(self, value: dict[str, Any], key: _Key) -> _Todo:
        text = _base64_of(value["$str"], "$str").decode("utf-8", "surrogatepass")
        return self._str(text, key)

    def _tag_bytes(self, value: dict[str, Any], key: _Key) -> _Todo:
        return self._scalar(_bytes_opcodes(_base64_of(value["$bytes"], "$bytes")), key)

    def _tag_bytearray(self, value: dict[str, Any], key: _Key) -> _Todo:
        # BYTEARRAY8 is of protocol 5, and Durus 4.3 runs on Pythons without it.
        content = _bytes_opcodes(_base64_of(value["$bytearray"], "$bytearray"))
        return self._calling("builtins.bytearray", [content], key)

    def _tag_ref(self, value: dict[str, Any], key: _Key) -> _Todo:
        oid = int8_to_str(_int_of(value["$ref"], 0, 2**64 - 1, "$ref"))
        self.oids.add(oid)
        klass = self._global(_text_of(value.get("class"), "the class of a $ref"))
        reference = [pickle.SHORT_BINBYTES + b"\x08" + oid, *klass, pickle.TUPLE2]
        return [*reference, *self._scalar(pickle.BINPERSID, key)]

    def _tag_global(self, value: dict[str, Any], key: _Key) -> _Todo:
        found = self._global(_text_of(value["$global"], "$global"))
        return [*found, *self._scalar(b"", key)]

    def _global(self, text: str) -> _Todo:
        return [(_Writer._name, Global.parse(text))]

    def _name(self, found: Global) -> None:
        if found in self._memo:
            self._chunks.append(self._got(found))
        else:
            self._chunks.append(pickle.GLOBAL + f"{found.module}\n{found.name}\n".encode())
            self._keep(found)

    def _calling(self, maker: str, args: list[Any], key: _Key) -> _Todo:
        """Give a call whose arguments lead nowhere; they may be opcodes."""
        if key in self._memo:
            return [self._got(key)]
        made = [pickle.MARK, *args, pickle.TUPLE, pickle.REDUCE, (_Writer._keep, key)]
        return [*self._global(maker), *made]

    def _tag_object(self, value: dict[str, Any], key: _Key) -> _Todo:
        made: _Todo = [pickle.NEWOBJ]
        if "kwargs" in value:
            kwargs = value["kwargs"]
            if not isinstance(kwargs, dict):
                raise ValueError(f"kwargs is a dict, got {shown(kwargs)}")
            made = [kwargs, pickle.NEWOBJ_EX]
        return self._made(value, value["$object"], made, key)

    def _tag_call(self, value: dict[str, Any], key: _Key) -> _Todo:
        return self._made(value, value["$call"], [pickle.REDUCE], key)

    def _made(self, value: dict[str, Any], maker: Any, made: _Todo, key: _Key) -> _Todo:
        if key in self._memo:
            return [self._got(key)]
        if isinstance(maker, str):
            named = self._global(maker)
        elif isinstance(maker, dict):
            named = [maker]
        else:
            raise ValueError(f"an object is made by a class, got {shown(maker)}")  # noqa: TRY004 - the input's, not the caller's
        args = _list_of(value.get("args", []), "args")
        rest = _marked(_list_of(value.get("items", []), "items"), pickle.APPENDS)
        rest += _marked(_flat_pairs(value.get("pairs", []), "pairs"), pickle.SETITEMS)
        if "state" in value:
            rest += [value["state"], pickle.BUILD]
        return [*named, pickle.MARK, *args, pickle.TUPLE, *made, (_Writer._fill, key, rest)]

    def _tag_decimal(self, value: dict[str, Any], key: _Key) -> _Todo:
        text = _text_of(value["$decimal"], "$decimal")
        try:
            Decimal(text)
        except InvalidOperation:
            raise ValueError(f"$decimal is a number as text, got {shown(text)}") from None
        return self._calling("decimal.Decimal", [text], key)

    def _tag_uuid(self, value: dict[str, Any], key: _Key) -> _Todo:
        number = UUID(_text_of(value["$uuid"], "$uuid")).int
        if key in self._memo:
            return [self._got(key)]
        made = [*self._global("uuid.UUID"), pickle.EMPTY_TUPLE, pickle.NEWOBJ]
        state = [pickle.EMPTY_DICT, "int", number, pickle.SETITEM, pickle.BUILD]
        return [*made, (_Writer._keep, key), *state]

    def _tag_timedelta(self, value: dict[str, Any], key: _Key) -> _Todo:
        parts = _list_of(value["$timedelta"], "$timedelta")
        if len(parts) != 3 or any(type(part) is not int for part in parts):
            raise ValueError(f"$timedelta is days, seconds, microseconds; got {shown(parts)}")
        return self._calling("datetime.timedelta", parts, key)

    def _tag_date(self, value: dict[str, Any], key: _Key) -> _Todo:
        moment = date.fromisoformat(_text_of(value["$date"], "$date"))
        return self._calling("datetime.date", [_packed(moment)], key)

    def _tag_datetime(self, value: dict[str, Any], key: _Key) -> _Todo:
        moment = datetime.fromisoformat(_text_of(value["$datetime"], "$datetime"))
        return self._moment(value, moment, "datetime", key)

    def _tag_time(self, value: dict[str, Any], key: _Key) -> _Todo:
        moment = time.fromisoformat(_text_of(value["$time"], "$time"))
        return self._moment(value, moment, "time", key)

    def _moment(self, value: dict[str, Any], moment: Any, name: str, key: _Key) -> _Todo:
        zone = moment.tzinfo
        if zone not in {None, UTC} or (zone is not None and "tz" in value):
            raise ValueError(
                f"{shown(moment.isoformat())} has an offset; +00:00 may stand there, and any"
                " other time zone under tz"
            )
        moment = moment.replace(tzinfo=None, fold=_int_of(value.get("fold", 0), 0, 1, "fold"))
        args: list[Any] = [_packed(moment)]
        if zone is not None:
            args.append(_UTC)
        elif "tz" in value:
            args.append(value["tz"])
        return self._made({"args": args}, f"datetime.{name}", [pickle.REDUCE], key)


def _count_values(value: Any) -> int:
    """Count the values of JSON in a value, itself included."""
    count = 0
    waiting = [value]
    while waiting:
        found = waiting.pop()
        count += 1
        if isinstance(found, list):
            waiting += found
        elif isinstance(found, dict):
            waiting += found.values()
    return count


def _marked(parts: list[Any], opcode: bytes) -> _Todo:
    return [pickle.MARK, *parts, opcode] if parts else []


def _packed(moment: Any) -> bytes:
    """Give the opcodes of what a date or time of ours is pickled as."""
    return _bytes_opcodes(moment.__reduce_ex__(4)[1][0])


def _int_opcodes(value: int) -> bytes:
    if 0 <= value < 256:
        return pickle.BININT1 + bytes([value])
    if -(2**31) <= value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    encoded = pickle.encode_long(value)
    if len(encoded) < 256:
        return pickle.LONG1 + bytes([len(encoded)]) + encoded
    return pickle.LONG4 + struct.pack("<i", len(encoded)) + encoded


def _str_opcodes(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    opcodes = (pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8)
    return _with_length(encoded, opcodes)


def _bytes_opcodes(value: bytes) -> bytes:
    return _with_length(value, (pickle.SHORT_BINBYTES, pickle.BINBYTES, pickle.BINBYTES8))


def _with_length(content: bytes, opcodes: tuple[bytes, bytes, bytes]) -> bytes:
    length_bytes = len(content)
    if length_bytes < 2**8:
        return opcodes[0] + bytes([length_bytes]) + content
    if length_bytes < 2**32:
        return opcodes[1] + struct.pack("<I", length_bytes) + content
    return opcodes[2] + struct.pack("<Q", length_bytes) + content


def _float_opcodes(text: Any) -> bytes:
    if text in ("inf", "-inf", "nan"):
        return pickle.BINFLOAT + struct.pack(">d", float(text))
    if isinstance(text, str) and re.fullmatch("0x[0-9a-f]{16}", text):
        return pickle.BINFLOAT + bytes.fromhex(text[2:])
    raise ValueError(f"$float is inf, -inf, nan or 16 hexadecimal digits, got {shown(text)}")


def _list_of(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is a list, got {shown(value)}")  # noqa: TRY004 - the input's, not the caller's
    return value


def _flat_pairs(value: Any, name: str) -> list[Any]:
    pairs = _list_of(value, name)
    if any(not isinstance(pair, list) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"{name} is a list of [key, value], got {shown(pairs)}")
    return [part for pair in pairs for part in pair]


def _text_of(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is a text, got {shown(value)}")  # noqa: TRY004 - the input's, not the caller's
    return value


def _number_of(value: Any) -> float:
    if type(value) not in {int, float}:
        raise ValueError(f"$complex is made of numbers, got {shown(value)}")
    return float(value)


def _int_of(value: Any, least: int, most: int, name: str) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is an integer from {least} to {most}, got {shown(value)}")
    return value


def _base64_of(value: Any, name: str) -> bytes:
    text = _text_of(value, name)
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{name} is base64: {error}") from error


def shown(value: Any) -> str:
    """Give a value of JSON as an error shows it."""
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{value!r:.{_LONGEST_REPR}}"


_Open = Callable[[_Writer, Any, _Key], _Todo]

_OPEN: dict[type, _Open] = {
    type(None): _Writer._none,
    bool: _Writer._bool,
    int: _Writer._int,
    float: _Writer._float,
    str: _Writer._str,
    list: _Writer._list,
    dict: _Writer._dict,
}

_UNHASHABLE = {"$bytearray", "$dict", "$set"}
_MADE = {"args", "items", "pairs", "state"}

# Of each tag what reads it, and what may stand beside it.
_TAGS: dict[str, tuple[_Open, set[str]]] = {
    "$bytearray": (_Writer._tag_bytearray, set()),
    "$bytes": (_Writer._tag_bytes, set()),
    "$call": (_Writer._tag_call, _MADE),
    "$complex": (_Writer._tag_complex, set()),
    "$date": (_Writer._tag_date, set()),
    "$datetime": (_Writer._tag_datetime, {"tz", "fold"}),
    "$decimal": (_Writer._tag_decimal, set()),
    "$dict": (_Writer._tag_dict, set()),
    "$float": (_Writer._tag_float, set()),
    "$frozenset": (_Writer._tag_frozenset, set()),
    "$global": (_Writer._tag_global, set()),
    "$int": (_Writer._tag_int, set()),
    "$object": (_Writer._tag_object, _MADE | {"kwargs"}),
    "$ref": (_Writer._tag_ref, {"class"}),
    "$set": (_Writer._tag_set, set()),
    "$shared": (_Writer._tag_shared, set()),
    "$str": (_Writer._tag_str, set()),
    "$time": (_Writer._tag_time, {"tz", "fold"}),
    "$timedelta": (_Writer._tag_timedelta, set()),
    "$tuple": (_Writer._tag_tuple, set()),
    "$uuid": (_Writer._tag_uuid, set()),
}
