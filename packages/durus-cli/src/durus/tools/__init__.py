"""What the commands do, for programs: each module works on any storage and prints nothing."""

from __future__ import annotations

import durus.backends  # noqa: F401 - first of all, for it refuses to load beside an old Durus
