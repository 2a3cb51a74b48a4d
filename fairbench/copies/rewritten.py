"""A copy of a network in eval mode with BatchNorm folded into convolutions, which can follow the network's weights.

On a CPU a small network runs in C if C is allowed and can be compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights

from fairbench.copies.chain import Chain
from fairbench.copies.counted import Counted
from fairbench.copies.tracing import has_hooks
from fairbench.copies.tracing import traced as trace

__all__ = ["Folded", "Rewritten", "folded"]


class Folded(NamedTuple):
    """A traced copy of a network, and for each convolution's name the name of the BatchNorm that was folded into it."""

    traced: fx.GraphModule
    norms: dict[str, str]


class Rewritten(Counted):
    """Maps images float32 [B,C,H,W], shaped like `like`, to the logits of a folded network; differentiable in the
    images.
    """

    def __init__(self, network: Folded, like: Tensor, *, native: bool = True, limit: int | None = None) -> None:
        """With `native` False no layer runs in C; `limit` as for `Chain.of`."""
        super().__init__()
        self.traced, self._norms = deepcopy(network.traced), network.norms
        self.chain: Chain | None = None
        if native and like.device.type == "cpu":
            _Shapes(self.traced).run(like[:1])
            self.chain = Chain.of(self.traced, limit)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B,classes]."""
        return self.note((self.chain or self.traced)(x))

    def logits_and_gradient(self, x: Tensor, loss: Callable[..., Tensor], *target: Tensor) -> tuple[Tensor, Tensor]:
        """As `fairbench.attacks.gradient.logits_and_gradient`, for a copy that runs in C."""
        assert self.chain is not None
        self.passed(len(x), len(x))
        return self.chain.logits_and_gradient(x, loss, *target)

    @torch.no_grad()
    def load(self, model: nn.Module) -> None:
        """Copy the weights and running statistics of the network that this is a copy of."""
        sources = dict(model.named_modules())
        for name, module in self.traced.named_modules():
            source = sources.get(name)
            if isinstance(source, nn.Conv2d) and name in self._norms:
                weight, bias = _fused(source, sources[self._norms[name]])
                module.weight.copy_(weight)
                module.bias.copy_(bias)
            elif source is not None:
                _copy_own(source, module)
        if self.chain is not None:
            self.chain.load()


class _Shapes(fx.Interpreter):
    """Runs a traced network and records the shape of each node's result if it is a tensor.

    torch.fx has `ShapeProp` for this, which prints the traceback of a node that raises.
    """

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; a tensor on the meta device records its shape."""
        found = super().run_node(n)
        if isinstance(found, Tensor):
            n.meta["tensor_meta"] = found.detach().to("meta")
        return found


def folded(model: nn.Module) -> Folded:
    """Trace a copy of a model in eval mode, and fold each BatchNorm that is the only reader of a convolution into it.

    Raises whatever torch.fx raises for a model that cannot be traced.
    """
    traced = trace(model)
    modules, norms = dict(traced.named_modules()), dict[str, str]()
    for node in list(traced.graph.nodes):
        if node.op == "call_method" and node.target == "view":
            node.target = "reshape"  # copies are in channels-last order, where an image is no contiguous row
        norm = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d) or not norm.track_running_stats:
            continue
        before = node.args[0]
        conv = modules.get(before.target) if before.op == "call_module" else None
        if not isinstance(conv, nn.Conv2d) or len(before.users) > 1 or _uses(traced, before) > 1:
            continue
        if has_hooks(conv) or has_hooks(norm):  # they would see other values
            continue
        traced.set_submodule(before.target, fuse_conv_bn_eval(conv, norm))
        norms[before.target] = node.target
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    _tidy(traced)
    return Folded(traced.to(memory_format=torch.channels_last), norms)


def _fused(conv: nn.Conv2d, norm: nn.Module | None) -> tuple[Tensor, Tensor | None]:
    if norm is None:
        return conv.weight, conv.bias
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    statistics = norm.running_mean, norm.running_var, norm.eps
    return fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, norm.weight, norm.bias)


def _copy_own(source: nn.Module, module: nn.Module) -> None:
    """Copy a module's own parameters and buffers, not its children's; constants of a trace have no source."""
    values = dict(source.named_parameters(recurse=False)) | dict(source.named_buffers(recurse=False))
    for each in (module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
        for name, value in each:
            if name in values:
                value.copy_(values[name])


def _tidy(traced: fx.GraphModule) -> None:
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()


def _uses(traced: fx.GraphModule, node: fx.Node) -> int:
    return sum(other.op == "call_module" and other.target == node.target for other in traced.graph.nodes)
