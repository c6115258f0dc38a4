"""What test_index promises of FileStorage, FileStorage2 keeps."""

from __future__ import annotations

from . import test_index
from .again import promises_of

_OF_THE_MAP = frozenset(
    {
        "test_map_serves_where_there_is_no_index",
        "test_map_of_ours_with_any_byte_changed_is_reported",
    }
)

globals().update(promises_of(test_index, but_for=_OF_THE_MAP))
