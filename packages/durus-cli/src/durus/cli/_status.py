"""`durus status`: how a running server does, asked from the server itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from durus.cli._access import access_options
from durus.cli._output import bytes_text, count_text, one_line, print_json, stdout_console
from durus.cli._server import require_server, server_status
from durus.cli._target import open_target, place_options, server_target

__all__ = ["status"]


# Where the name of a key is not clear enough for a person, or its unit stands in it.
_LABELS = {
    "name": "Storage",
    "held_bytes": "Held in memory",
    "unread_bytes": "Not yet read",
    "loads": "Objects loaded",
    "read_ahead": "Read ahead",
    "object_count": "Objects",
    "path": "File",
    "pid": "Process",
    "transaction_count": "Transactions",
    "accepted": "Connections",
    "bytes_in": "Received",
    "bytes_out": "Sent",
    "commit_latency_ms": "Commits took",
    "committed_bytes": "Committed",
    "size_bytes": "Size",
    "uptime_s": "Uptime",
}


@click.command(short_help="Ask a running server how it does.")
@click.argument("server", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for a program.")
@place_options
@access_options
def status(server: str | None, as_json: bool, **place: Any) -> None:
    """Tell what a running server serves, to whom, and how long that takes.

    SERVER is durus://HOST:PORT or durus+unix:PATH; or give its place by options.
    """
    require_server()
    place["wait"] = place["wait"] or 0.0
    target = server_target(server, **place)
    with open_target(target) as client:
        told = server_status(client)
    if as_json:
        print_json("status", {"address": target.name, **told})
    else:
        _print_table(stdout_console(), target.name, told)


def _print_table(console: Console, name: str, told: dict[str, Any]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("Server", Text(one_line(name)))
    for key, value in _facts(told):
        table.add_row(one_line(_label(key)), Text(one_line(_text(key, value))))
    console.print(table)


def _facts(told: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is told, what the storage tells of itself first; nothing of what it does not."""
    storage = told.get("storage")
    if isinstance(storage, dict):
        yield from ((key, value) for key, value in storage.items() if value is not None)
    for key, value in told.items():
        if value is not storage and value not in (None, {}):
            yield key, value


def _label(key: str) -> str:
    # A server may be newer than this command: whatever it tells is shown.
    known = _LABELS.get(key)
    return key.replace("_", " ").capitalize() if known is None else known


def _text(key: str, value: Any) -> str:
    if key == "protocols" and isinstance(value, dict):
        return ", ".join(f"{count} of version {version}" for version, count in value.items())
    if key == "pack" and isinstance(value, dict) and {"running", "kept", "done"} <= value.keys():
        return _pack_text(**value)
    if isinstance(value, dict):
        if value and all(part is None for part in value.values()):
            return "none yet"
        return ", ".join(f"{name} {_text(f'{name}_{key}', part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(_text(key, part) for part in value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key == "pid" or not isinstance(value, int | float):
        return str(value)
    words = key.split("_")
    if "bytes" in words:
        return bytes_text(int(value))
    if words[-1] == "s":
        return _duration_text(value)
    if words[-1] == "ms":
        return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _pack_text(*, running: bool, kept: int, done: int, **_: object) -> str:
    """Give the state of packing, such as "2 done, the last kept 1,000 objects"."""
    objects = count_text(kept, "object")
    if running:
        return f"under way, {objects} kept so far; {done:,} done"
    return f"{done:,} done, the last kept {objects}" if done else "none yet"


def _duration_text(seconds: float) -> str:
    """Give a duration as a person reads it, such as "3 days 04:05:06"."""
    days, rest = divmod(int(seconds), 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{count_text(days, 'day')} {clock}" if days else clock
