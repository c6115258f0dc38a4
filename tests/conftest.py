"""What all tests share: how hypothesis works here."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Two slow cores run many environments at once: time says nothing about a test. The same examples
# come each time unless HYPOTHESIS_PROFILE=explore asks for new ones.
settings.register_profile(
    "repeat",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))
