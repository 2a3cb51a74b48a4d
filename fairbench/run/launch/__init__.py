"""Launchers, which execute the runs of a plan: local processes, torchrun's ranks, or a Ray cluster."""

from __future__ import annotations

from fairbench.run.launch.local import launch_local
from fairbench.run.launch.progress import LogLines, ProgressView, RunView, Total, progress_view

__all__ = ["LogLines", "ProgressView", "RunView", "Total", "launch_local", "progress_view"]
