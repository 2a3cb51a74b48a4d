"""Which engine crafts adversarial images: the declared rule, and the engines that a machine has.

`tests/benchmarks/test_engines.py` prints the measurements that calibrated the rule. An evaluation reads no clock to
choose: the same network on the same kind of machine gets the same engine, however busy the machine is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from fairbench.copies.chain import can_compile
from fairbench.copies.graphed import Graphed
from fairbench.copies.half import HalfPrecision
from fairbench.copies.rewritten import Rewritten
from fairbench.errors import InvalidInput, Missing

__all__ = ["Engine", "default_engine", "float32_copy", "name_of", "require"]

# plain: the model itself, unless an attack asks for a copy. torch: copies that run torch's operations. c: as torch, but
# small networks run in C.
Engine = Literal["plain", "torch", "c"]


def default_engine(device: torch.device | str) -> Engine:
    """Return the engine of new evaluations on a device: "c" on a CPU with a C compiler, else "torch"."""
    return "c" if torch.device(device).type == "cpu" and can_compile() else "torch"


def require(engine: str) -> Engine:
    """Return the engine of this name; raises InvalidInput for another name, Missing for "c" without a compiler."""
    if engine not in ("plain", "torch", "c"):
        raise InvalidInput(f"engine {engine!r}: must be plain, torch or c")
    if engine == "c" and not can_compile():
        raise Missing("engine c: this machine has no working C compiler (set CC); results made with it need one")
    return engine  # type: ignore[return-value]


def name_of(network: nn.Module) -> str:
    """Name the kind of a crafting model: `c`, `torch`, `tf32` or `bfloat16` for a copy, `plain` for the model itself.

    `tf32` is `torch` with the factors of float32 products rounded to TF32, on CUDA.
    """
    if isinstance(network, Graphed):
        name = name_of(network.network)
        return "tf32" if name == "torch" and network.tf32 else name
    if isinstance(network, HalfPrecision):
        return "bfloat16"
    if isinstance(network, Rewritten):
        return "torch" if network.chain is None else "c"
    return "plain"


def float32_copy(network: nn.Module) -> nn.Module:
    """Return a crafting model that keeps its values in float32: the network itself unless it computes in bfloat16."""
    exact = getattr(network, "exact", None) if name_of(network) == "bfloat16" else None
    return exact or network
