"""What test_commit promises of FileStorage, FileStorage2 keeps."""

from __future__ import annotations

from . import test_commit
from .again import promises_of

globals().update(promises_of(test_commit))
