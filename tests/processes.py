"""Ranks as processes of their own, as torchrun starts them, and what they say."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from torch import Tensor

from fairbench.losses import cross_entropy

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}


def start(world: int, words: list[str], **environment: str) -> list[subprocess.Popen[str]]:
    """Start ranks as torchrun does, but with nothing that looks after them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {**ENVIRONMENT, "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **environment}
    return [
        subprocess.Popen(
            words,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]


def ends(ranks: list[subprocess.Popen[str]], seconds: float = 120) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each, within so many seconds."""
    try:
        spoken = [rank.communicate(timeout=seconds) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    return [(rank.returncode, *words) for rank, words in zip(ranks, spoken, strict=True)]


def counted(logits: Tensor, y: Tensor) -> Tensor:
    """A cross-entropy [B] that notes how many images it was asked about, in a file of its rank's."""
    with Path(f"{os.environ['COUNTS']}.{os.environ.get('RANK', '')}").open("a") as handle:
        handle.write(f"{len(y)} ")
    return cross_entropy(logits, y)
