"""What attacks are crafted with: the declared rule that picks an engine, and the engines that a machine has.

`tests/benchmarks/test_engines.py` prints the measurements that the rule was calibrated with. No clock is read when an
evaluation runs: the same network on the same kind of machine gets the same engine, whatever else the machine does.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from fairbench.copies.chain import can_compile
from fairbench.copies.half import HalfPrecision
from fairbench.copies.rewritten import Rewritten
from fairbench.errors import InvalidInput, Missing

__all__ = ["Engine", "default_engine", "name_of", "require"]

# plain: the model itself, unless an attack asks for a copy. torch: copies by torch's operations. c: small ones in C.
Engine = Literal["plain", "torch", "c"]


def default_engine(device: torch.device | str) -> Engine:
    """Return the engine of new evaluations on a device: C where the device is a CPU and a compiler is there."""
    return "c" if torch.device(device).type == "cpu" and can_compile() else "torch"


def require(engine: str) -> Engine:
    """Return the engine of that name; raises InvalidInput for another name, and Missing for C without a compiler."""
    if engine not in ("plain", "torch", "c"):
        raise InvalidInput(f"engine {engine!r}: is plain, torch or c")
    if engine == "c" and not can_compile():
        raise Missing("engine c: this machine has no working C compiler (set CC); results made with it need one")
    return engine  # type: ignore[return-value]


def name_of(network: nn.Module) -> str:
    """Name what a crafting model is: `c`, `torch` or `bfloat16` for copies, `plain` for a model itself."""
    if isinstance(network, HalfPrecision):
        return "bfloat16"
    if isinstance(network, Rewritten):
        return "torch" if network.chain is None else "c"
    return "plain"
