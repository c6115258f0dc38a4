"""Protocol 1, as Durus 4.3 speaks it (docs/formats/wire-1.md): what client and server share.

Source of the names: durus.storage_server of Durus 4.3.
"""

from __future__ import annotations

__all__ = ["STATUS_INVALID", "STATUS_KEYERROR", "STATUS_OKAY"]

STATUS_OKAY = b"O"
STATUS_INVALID = b"I"
STATUS_KEYERROR = b"K"
