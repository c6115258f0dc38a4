"""`durus status`: what a running server tells of itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("durus.storage_server", reason="durus-server is not installed here")

PAGE = Path(__file__).parents[2] / "docs" / "commands" / "status.md"


def test_json_counts_what_happened(durus: Any, serve: Any) -> None:
    """--json tells of loads, commits, conflicts, bytes and times since the start."""
    server = serve("app.durus").ready()
    before = server.status()
    server.shell("for n in range(3):\n    root['n'] = n\n    commit()\n")
    after = server.status()
    assert after["durus_status"] == 1
    assert after["commits"] - before["commits"] == 3 + 1  # the root makes one more
    assert after["conflicts"] == 0
    assert after["bytes_in"] > before["bytes_in"]
    assert after["bytes_out"] > before["bytes_out"]
    assert after["committed_bytes"] > before["committed_bytes"]
    assert after["uptime_s"] >= before["uptime_s"] >= 0
    times = after["commit_latency_ms"]
    assert 0 < times["p50"] <= times["p99"]
    assert after["pack"]["running"] is False
    server.stop()


def test_clients_are_counted(durus: Any, serve: Any) -> None:
    """Whoever is connected counts, the one that asks included."""
    server = serve("app.durus").ready()
    assert server.status()["clients"] == 1
    child = durus.on_terminal("-c", "--address", "a.sock")
    child.expect_exact(">>> ")
    assert server.status()["clients"] == 2
    child.close(force=True)
    server.stop()


def test_a_pack_is_counted(durus: Any, serve: Any, database: Path) -> None:
    """A pack that a client asked for is told when it is done."""
    server = serve(database).ready()
    durus("pack", *server.place)
    assert server.status()["pack"]["done"] == 1
    assert "1 done, the last kept 4 objects" in durus("status", *server.place).stdout
    server.stop()


def test_gcbytes(durus: Any, serve: Any) -> None:
    """With --gcbytes the server packs by itself when so many bytes were committed."""
    server = serve("app.durus", "--gcbytes", "1000").ready()
    assert server.status()["pack"]["done"] == 0
    server.shell("root['n'] = os.urandom(4096); commit()")
    while not server.status()["pack"]["done"]:
        pass
    server.stop()
    assert (durus.folder / "app.durus.prepack").exists()


def test_the_table(durus: Any, serve: Any) -> None:
    """Without --json it is a table for a person, a line each, with what --json has."""
    server = serve("app.durus").ready()
    printed = durus("status", *server.place).stdout
    assert re.search(r"^Commits took +none yet *$", printed, re.MULTILINE)
    assert re.search(r"^Pack +none yet *$", printed, re.MULTILINE)
    server.shell("root['n'] = 1; commit()")
    printed = durus("status", *server.place).stdout
    text = "\n".join(line.rstrip() for line in printed.splitlines())
    assert re.search(r"^Server +durus\+unix:a\.sock$", text, re.MULTILINE)
    assert re.search(r"^Uptime +00:0\d:\d\d$", text, re.MULTILINE)
    assert re.search(r"^Clients +1$", text, re.MULTILINE)
    assert re.search(r"^Commits +2$", text, re.MULTILINE)
    assert re.search(
        r"^Commits took +p50 [\d.]+ ms, p90 [\d.]+ ms, p99 [\d.]+ ms$", text, re.MULTILINE
    )
    assert re.search(r"^Received +[\d.]+ k?B$", text, re.MULTILINE)
    assert re.search(r"^Format +SHELF-1$", text, re.MULTILINE)
    server.stop()


def test_a_url(durus: Any, serve: Any) -> None:
    """The server may be named by its URL, and by nothing else then."""
    server = serve("app.durus").ready()
    assert json.loads(durus("status", "--json", "durus+unix:a.sock").stdout)["clients"] == 1
    assert "not both" in durus.error("status", "durus+unix:a.sock", "--port", "1", status=2)
    assert "durus://HOST:PORT" in durus.error("status", "app.durus", status=2)
    server.stop()


def test_nobody_there(durus: Any) -> None:
    """Without a server it is one line that says where, at once, and status 1."""
    assert "a.sock" in durus.error("status", "--address", "a.sock")
    assert "a.sock" in durus.error("status", "durus+unix:a.sock", "--json")


def test_every_key_is_on_the_page(durus: Any, serve: Any) -> None:
    """The page on the command has each key of the JSON."""
    server = serve("app.durus").ready()
    text = PAGE.read_text(encoding="utf-8")
    missing = [key for key in server.status() if f"`{key}`" not in text]
    assert missing == []
    server.stop()
