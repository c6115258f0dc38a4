"""The loops that are timed, the same for every peer, and what each of them must come to.

A task takes a `Peer` and what it needs to know, prepares without being timed, and gives the
function that is timed. What the function returns is compared with what the task expects, and what
it changed is counted by a process that opens the data afresh, so that a peer that did less, or
read other data, is found out.
"""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.peers.settings import Outcome, Settings, Task
from benchmarks.peers.tasks import files, loads_and_commits, objects, threads, trees

__all__ = ["TASKS", "Outcome", "Settings", "Task"]

TASKS: Mapping[str, Task] = {
    **objects.TASKS,
    **loads_and_commits.TASKS,
    **trees.TASKS,
    **files.TASKS,
    **threads.TASKS,
}
