"""What is measured: one row a workload."""

from __future__ import annotations

from benchmarks.workloads.embedded import EMBEDDED
from benchmarks.workloads.model import FIGURES, Figure, Target, Workload
from benchmarks.workloads.served import SERVED

__all__ = ["FIGURES", "WORKLOADS", "Figure", "Target", "Workload"]

WORKLOADS = {workload.name: workload for workload in [*EMBEDDED, *SERVED]}
