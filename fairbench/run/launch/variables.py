"""The environment variables of a worker process: threads, and folders of compiled code that all workers share."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["worker_variables"]

# torch keeps what torch.compile makes below the temporary folder, which a machine may empty.
CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
COMPILERS = "TORCHINDUCTOR_COMPILE_THREADS"


def worker_variables(threads: int, jobs: int = 1) -> dict[str, str]:
    """Return this process's variables and those of a worker, one of `jobs`, that computes in so many threads.

    Code that one worker compiles is read by all others, now and in later launches, from
    `~/.cache/fairbench/compiled`, unless the user chose other folders. The workers share the processors for compiling.
    """
    count = str(threads)
    inherited = dict(os.environ)
    added = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "PYTHONUNBUFFERED": "1"}
    if jobs > 1 and COMPILERS not in inherited:
        added[COMPILERS] = str(max(1, (os.cpu_count() or 1) // jobs))
    folder = _private_folder()
    if folder is not None:
        added |= {name: str(folder / part) for name, part in CACHES.items() if name not in inherited}
    return inherited | added


def _private_folder() -> Path | None:
    """Return the folder of compiled code; None if it cannot be made, or if another user could put code into it."""
    try:
        folder = Path.home() / ".cache" / "fairbench" / "compiled"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except (OSError, RuntimeError):
        return None
    own = found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return folder if own and os.access(folder, os.W_OK) else None
