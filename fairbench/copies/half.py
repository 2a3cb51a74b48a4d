"""A bfloat16 copy of a network: approximate, and about twice as fast where the processor multiplies bfloat16."""

from __future__ import annotations

from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, fx, nn

from fairbench.copies.counted import Counted

__all__ = ["HalfPrecision", "multiplies_bf16"]


class HalfPrecision(Counted):
    """A copy of a traced network that computes in bfloat16 behind its first convolution.

    Images are not rounded, because near 1 a bfloat16 step is half a grey level. `exact` is a copy in float32. Raises
    ValueError for a network without a convolution.
    """

    def __init__(self, traced: fx.GraphModule, exact: nn.Module) -> None:
        super().__init__()
        self.exact, self.network = exact, deepcopy(traced)
        modules, kept = dict(self.network.named_modules()), set[str]()
        for node in self.network.graph.nodes:
            kept.add(str(node.target))
            if node.op == "call_module" and isinstance(modules[node.target], nn.Conv2d):
                break
        else:
            raise ValueError("a network without a convolution")
        with self.network.graph.inserting_after(node):
            rounded = self.network.graph.call_method("to", (node, torch.bfloat16))
        node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
        self.network.recompile()
        for name, tensor in chain(self.network.named_parameters(), self.network.named_buffers()):
            if tensor.is_floating_point() and not kept & {name, name.rpartition(".")[0]}:
                tensor.data = tensor.data.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """Map float32 [B,C,H,W] to float32 logits [B,classes]; the gradient for x is float32 as well."""
        return self.note(self.network(x).float())


def multiplies_bf16(device: torch.device) -> bool:
    """Tell whether a device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    features = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return any(feature is not None and feature() for feature in features)
