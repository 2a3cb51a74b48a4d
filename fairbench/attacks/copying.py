"""Making the copies that craft: which one a network gets, and how near its logits must be to the network's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import torch
from torch import Tensor, nn

from fairbench.copies import Counted, Folded, Graphed, HalfPrecision, Rewritten, folded, multiplies_bf16
from fairbench.cost import FlopMeter
from fairbench.kernels import philox_uniform

__all__ = ["chain_of", "exact_copy", "graphed_copy", "half_copy", "has_graphs", "tried"]

# The largest error of a copy's logits, as a share of how far logits of one image lie from their mean, and the number of
# random images that it is measured on.
_TOLERANCE = 1e-3
_TRIED = 16

# The fewest floating-point operations an image for which a copy may compute in bfloat16, and the largest error of its
# logits, as a share of the image's largest logit.
_LARGE = 2e8
_HALF_TOLERANCE = 0.05


def exact_copy(model: nn.Module, x: Tensor, *, native: bool) -> tuple[Folded, Rewritten] | None:
    """Return a folded network and a float32 copy, or None if x float32 [B,C,H,W] has other logits or none can be made.

    With `native` the copy runs in C where it can.
    """
    try:
        network = folded(model)
        with torch.no_grad():
            wanted = model(x)
    except Exception:
        return None
    spread = (wanted - wanted.mean(1, keepdim=True)).abs().max()
    for in_c in (True, False) if native else (False,):
        with suppress(Exception), torch.no_grad():
            fast = Rewritten(network, x, native=in_c)
            if bool((fast(x) - wanted).abs().max() <= _TOLERANCE * spread):
                return network, fast
    return None


def half_copy(network: Folded, fast: Rewritten, x: Tensor) -> HalfPrecision | None:
    """Return a bfloat16 copy, or None if the processor or the network does not gain by it."""
    convolutions = [part for part in network.traced.modules() if isinstance(part, nn.Conv2d)]
    grouped = any(part.groups > 1 for part in convolutions)
    if grouped or not multiplies_bf16(x.device) or _flops(network.traced, x[:1]) < _LARGE:
        return None
    try:
        half = HalfPrecision(network.traced, fast)
        with torch.no_grad():
            wanted, got = fast(x), half(x)
    except Exception:
        return None
    error = (got - wanted).abs().amax(1) / wanted.abs().amax(1)
    return half if error.max() < _HALF_TOLERANCE else None


def has_graphs(device: torch.device) -> bool:
    """Tell whether copies on a device run as recorded passes."""
    return device.type == "cuda"


def graphed_copy(copy: nn.Module, fast: Rewritten, x: Tensor) -> nn.Module:
    """Return a copy whose passes are CUDA graphs, in TF32 if its logits of x are near enough to those of float32."""
    exact = Graphed(fast, tf32=False)
    quick = Graphed(fast, tf32=True, exact=exact)
    with torch.no_grad():
        wanted, got = exact(x), quick(x)
    error = (got - wanted).abs().amax(1) / wanted.abs().amax(1)
    if error.max() >= _HALF_TOLERANCE:
        quick = exact
    return Graphed(copy, tf32=True, exact=quick) if isinstance(copy, HalfPrecision) else quick


def chain_of(copy: nn.Module) -> Iterator[Counted]:
    """Yield a copy and the more exact ones that it names."""
    while isinstance(copy, Counted):
        yield copy
        copy = getattr(copy, "exact", None)  # type: ignore[assignment]


def tried(like: Tensor) -> Tensor:
    """Return the random images on which a copy is compared with its model."""
    index = torch.arange(_TRIED, device=like.device)
    return philox_uniform(0, index, like[0].numel()).view(-1, *like.shape[1:])


def _flops(network: nn.Module, x: Tensor) -> int:
    with FlopMeter() as meter, torch.no_grad():
        network(x)
    return int(meter.total)
