"""`python -m durus` is the `durus` command."""

from __future__ import annotations

import sys

from durus.cli import main

if __name__ == "__main__":
    sys.exit(main())
