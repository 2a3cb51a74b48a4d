"""Death at a chosen moment: a process that kills itself before or after its n-th rename."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def die_at_rename(moment: int) -> None:
    """Have this process, a forked child, killed before (even moment) or after (odd) rename number moment // 2."""
    renames, replace = 0, Path.replace

    def dying(source: Path, target: Path) -> Path:
        nonlocal renames
        if moment == 2 * renames:
            os.kill(os.getpid(), signal.SIGKILL)
        done = replace(source, target)
        if moment == 2 * renames + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        renames += 1
        return done

    Path.replace = dying
