"""What test_pack promises of FileStorage, FileStorage2 keeps."""

from __future__ import annotations

from . import test_pack
from .again import promises_of

_OF_SHELF = frozenset(
    {
        "test_file_packed_by_durus_4_3_is_used_as_it_is",
        "test_damaged_map_of_durus_4_3_is_noticed",
        "test_damaged_map_of_durus_4_3_is_noticed_in_the_past",
        # These look for commit records; test_fs2_format has the like.
        "test_commits_during_a_pack_keep_order_time_and_serial",
        "test_base_is_the_state_when_the_pack_began",
    }
)

globals().update(promises_of(test_pack, but_for=_OF_SHELF))
