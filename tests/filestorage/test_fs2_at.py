"""What test_at promises of FileStorage, FileStorage2 keeps."""

from __future__ import annotations

from . import test_at
from .again import promises_of

globals().update(promises_of(test_at))
