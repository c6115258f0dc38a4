"""What a server counts, for whoever watches it."""

from __future__ import annotations

import math
import time
from itertools import accumulate

__all__ = ["LatencyHistogram", "Metrics"]

# Each bucket ends 10 % above the one before it: from 1 us to half an hour in some 220.
_GROWTH = 1.1
_LOG_GROWTH = math.log(_GROWTH)
_FIRST_END_S = 1e-6
_BUCKET_COUNT = 224


class LatencyHistogram:
    """How long something took, counted in buckets, so that percentiles are good to 10 %."""

    def __init__(self) -> None:
        self.count = 0
        self._counts = [0] * _BUCKET_COUNT

    def add(self, duration_s: float) -> None:
        """Count one."""
        self.count += 1
        bucket = 0
        if duration_s > _FIRST_END_S:
            bucket = math.ceil(math.log(duration_s / _FIRST_END_S) / _LOG_GROWTH)
        self._counts[min(bucket, _BUCKET_COUNT - 1)] += 1

    def percentile_s(self, percent: float) -> float | None:
        """Give the duration that `percent` of all did not exceed; None when there were none."""
        if not self.count:
            return None
        missing = math.ceil(self.count * percent / 100)
        sums = accumulate(self._counts)
        bucket = next(bucket for bucket, so_far in enumerate(sums) if so_far >= missing)
        return _FIRST_END_S * _GROWTH**bucket


class Metrics:
    """The counters of one server since it was started.

    All but `flushes`, which belongs to the committer's thread, are changed in the event loop only.
    """

    __slots__ = (
        "_started_s",
        "accepted",
        "bytes_in",
        "bytes_out",
        "commit_latency",
        "commits",
        "committed_bytes",
        "conflicts",
        "dropped",
        "flushes",
        "is_packing",
        "loads",
        "pack_kept",
        "packs",
        "read_ahead",
        "refused",
    )

    def __init__(self) -> None:
        self._started_s = time.monotonic()
        self.accepted = 0
        self.refused = 0
        self.dropped = 0
        self.loads = 0
        self.read_ahead = 0
        self.commits = 0
        self.conflicts = 0
        self.committed_bytes = 0
        self.flushes = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.commit_latency = LatencyHistogram()
        self.is_packing = False
        self.pack_kept = 0
        self.packs = 0

    def as_dict(self) -> dict[str, object]:
        """Give all of them by name, as they stand in the answer to STATUS."""
        latency = self.commit_latency
        return {
            "uptime_s": time.monotonic() - self._started_s,
            "accepted": self.accepted,
            "refused": self.refused,
            "dropped": self.dropped,
            "loads": self.loads,
            "read_ahead": self.read_ahead,
            "commits": self.commits,
            "conflicts": self.conflicts,
            "committed_bytes": self.committed_bytes,
            "commits_per_sync": self.commits / self.flushes if self.flushes else None,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "commit_latency_ms": {
                f"p{percent}": _as_ms(latency.percentile_s(percent)) for percent in (50, 90, 99)
            },
            "pack": {"running": self.is_packing, "kept": self.pack_kept, "done": self.packs},
        }


def _as_ms(duration_s: float | None) -> float | None:
    return None if duration_s is None else round(duration_s * 1000, 3)
