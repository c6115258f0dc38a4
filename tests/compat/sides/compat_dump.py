"""A whole object graph as JSON values that two versions of Durus can be compared by.

Two dumps are equal only if the graphs are: class paths, states as `__getstate__` gives them, order
of dictionaries, references, sharing and cycles inside a state, and what the containers show through
their public methods.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import deque
from typing import Any

from durus.btree import BNode, BTree
from durus.connection import ROOT_OID, Connection
from durus.persistent import PersistentObject
from durus.persistent_dict import PersistentDict
from durus.persistent_list import PersistentList
from durus.persistent_set import PersistentSet

# Longer bytes and strings are dumped by their digest.
_LONGEST_SHOWN = 200

# Lists and dictionaries with more members are dumped by the digest of what would be shown.
_MOST_SHOWN = 300


def dump(connection: Connection, by_oid: bool = True) -> list[Any]:
    """Give every object that the root reaches, breadth first.

    Args:
        by_oid: label the objects by their oids, which makes the dumps of one file comparable;
            otherwise by the order in which they are met, which makes files that were written
            independently comparable.
    """
    return _Dump(by_oid).walk(connection[ROOT_OID])


class _Dump:
    def __init__(self, by_oid: bool) -> None:
        self._by_oid = by_oid
        # The objects are held, so that no id() is used again while the dump is made.
        self._labels: dict[int, tuple[int, Any]] = {}
        self._waiting: deque[Any] = deque()

    def walk(self, root: Any) -> list[Any]:
        self._label(root)
        dumped = []
        while self._waiting:
            persistent = self._waiting.popleft()
            dumped.append(self._dump_object(persistent))
        return sorted(dumped, key=lambda entry: entry["label"]) if self._by_oid else dumped

    def _label(self, persistent: Any) -> int:
        key = id(persistent)
        if key not in self._labels:
            number = len(self._labels)
            if self._by_oid:
                number = int.from_bytes(persistent._p_oid, "big")
            self._labels[key] = (number, persistent)
            self._waiting.append(persistent)
        return self._labels[key][0]

    def _dump_object(self, persistent: Any) -> dict[str, Any]:
        if persistent._p_is_ghost():
            persistent._p_load_state()
        # Numbers the plain containers of one state; it holds them too, for the same reason.
        memo: dict[int, tuple[int, Any]] = {}
        state = persistent.__getstate__()
        if type(state) is dict:
            # Attributes by name: the order of slots is nobody's business.
            state = dict(sorted(state.items()))
        entry = {"label": self._label(persistent), "class": _path(type(persistent))}
        if isinstance(persistent, BTree) and not self._by_oid:
            # Into which nodes a tree puts its items is up to each version.
            state["root"] = list(persistent.items())
            return {**entry, "state": self._encode(state, memo)}
        entry["state"] = self._encode(state, memo)
        view = _view(persistent)
        if view is not None:
            entry["view"] = self._encode(view, memo)
        return entry

    def _encode(self, value: Any, memo: dict[int, tuple[int, Any]]) -> Any:
        if isinstance(value, PersistentObject):
            return ["ref", self._label(value), _path(type(value))]
        if value is None or type(value) in (bool, str, int, float, complex, bytes, bytearray):
            return _encode_scalar(value)
        if isinstance(value, type):
            return ["class", _path(value)]
        if id(value) in memo:
            return ["again", memo[id(value)][0]]
        if type(value) is tuple:
            return ["tuple", [self._encode(item, memo) for item in value]]
        memo[id(value)] = (len(memo), value)
        if type(value) is list:
            return ["list", _shorten([self._encode(item, memo) for item in value])]
        if type(value) is dict:
            pairs = [[self._encode(k, memo), self._encode(v, memo)] for k, v in value.items()]
            return ["dict", _shorten(pairs)]
        if type(value) in (set, frozenset):
            members = [self._encode(item, memo) for item in sorted(value, key=_sort_key)]
            return [type(value).__name__, members]
        return ["object", _path(type(value)), self._encode_plain_object(value, memo)]

    def _encode_plain_object(self, value: Any, memo: dict[int, tuple[int, Any]]) -> Any:
        reduced = value.__reduce_ex__(2)
        if isinstance(reduced, str):
            return reduced
        parts = []
        for part in reduced[1:]:
            kept = part if part is None or isinstance(part, (tuple, dict, list)) else list(part)
            parts.append(self._encode(kept, memo))
        return parts


def _shorten(members: list[Any]) -> list[Any]:
    if len(members) <= _MOST_SHOWN:
        return members
    return [len(members), hashlib.sha256(json.dumps(members).encode()).hexdigest()]


def _encode_scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # As text: a number in JSON need not survive beyond 2**53.
        return ["int", str(value)]
    if isinstance(value, float):
        return ["float", "nan" if math.isnan(value) else value.hex()]
    if isinstance(value, complex):
        return ["complex", repr(value)]
    name = type(value).__name__
    encoded = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)
    if len(encoded) > _LONGEST_SHOWN:
        return [name, len(value), hashlib.sha256(encoded).hexdigest()]
    return [name, value if isinstance(value, str) else encoded.hex()]


def _view(persistent: Any) -> Any:
    """Give what a container shows through its public methods; None for other objects."""
    if isinstance(persistent, PersistentDict):
        return [len(persistent), list(persistent.items())]
    if isinstance(persistent, PersistentList):
        return [len(persistent), list(persistent)]
    if isinstance(persistent, PersistentSet):
        return [len(persistent), set(persistent)]
    if isinstance(persistent, BTree):
        return _btree_view(persistent)
    if isinstance(persistent, BNode):
        return [persistent.get_count(), persistent.is_leaf(), persistent.minimum_degree]
    return None


def _btree_view(tree: BTree) -> list[Any]:
    items = list(tree.items())
    found = [tree[key] is value or tree[key] == value for key, value in items]
    backward = list(tree.items_backward()) == items[::-1]
    ends = [tree.get_min_item(), tree.get_max_item()] if items else []
    return [len(tree), tree.get_depth(), tree.get_node_count(), items, all(found), backward, ends]


def _sort_key(member: Any) -> str:
    """Order the members of a set alike everywhere; persistent members go by their names."""
    if isinstance(member, PersistentObject):
        return f"{_path(type(member))} {getattr(member, 'name', '')}"
    return f"{type(member).__name__} {member!r}"


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
