"""The hot parts in Python and in C, by name, for tests that run on both."""

from __future__ import annotations

from types import ModuleType


def find_twins(pure: ModuleType) -> dict[str, ModuleType]:
    """Give a pure module, and its twin in C where that was built: "pure" and "c"."""
    twins = {"pure": pure}
    try:
        from durus import _speedups
    except ImportError:
        return twins
    return twins | {"c": _speedups}
