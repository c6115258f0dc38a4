"""A process that runs functions by name: one JSON request a line in, one JSON reply a line out.

Request: {"task": "module:function", "arguments": {...}}. Reply: {"result": ...} or
{"error": [names of the exception's classes], "message": ..., "traceback": ...}. State lives until
the process ends.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from typing import Any


def main() -> None:
    # Durus 4.3 prints while it works, so what is printed goes to stderr and only replies to stdout.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as replies:
        os.dup2(2, 1)
        for line in sys.stdin:
            replies.write(json.dumps(_reply(json.loads(line))) + "\n")
            replies.flush()


def _reply(request: dict[str, Any]) -> dict[str, Any]:
    try:
        module, function = request["task"].split(":")
        return {
            "result": getattr(importlib.import_module(module), function)(**request["arguments"])
        }
    except Exception as error:  # noqa: BLE001 - it is the reply
        return {
            "error": [cls.__name__ for cls in type(error).__mro__],
            "message": str(error),
            "traceback": traceback.format_exc(),
        }


if __name__ == "__main__":
    main()
