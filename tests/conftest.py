"""What all tests share: how hypothesis works here, and how much memory a test may take."""

from __future__ import annotations

import os
import resource

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

# A test that never stops growing ends with a MemoryError and its name, not with the machine.
_MOST_BYTES = 6 << 30
resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
