"""The normalisation in front of a network: arithmetic on single pixels, such as `(x - mean) / std`."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["Front", "is_constant", "is_tensor", "readers"]

_ADDITIVE = {operator.add, operator.sub, torch.add, torch.sub, "add", "sub"}
_MULTIPLICATIVE = {operator.mul, torch.mul, "mul"}
_DIVISION = {operator.truediv, torch.div, torch.true_divide, "div", "true_divide"}


class Front:
    """The affine steps between the images and the first layer, as `x * scale + shift` with float32 [C,H,W] each.

    `last` is the node of the normalised images; without a normalisation it is the placeholder.
    """

    def __init__(self, traced: fx.GraphModule) -> None:
        self._traced, self._first = traced, next(iter(traced.graph.nodes))
        self._modules = dict(traced.named_modules())
        self.steps, self.last = list[fx.Node](), self._first
        while len(following := readers(self.last)) == 1 and self._is_step(following[0]):
            self.last = following[0]
            self.steps.append(self.last)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, computed from the current weights and buffers of the traced network."""
        shape = self._first.meta["tensor_meta"].shape[1:]
        with torch.enable_grad():
            zero = torch.zeros(1, *shape, requires_grad=True)
            shift = self._apply(zero)
            (scale,) = torch.autograd.grad(shift.sum(), zero)  # exact, unlike the difference of two values
        return scale[0].contiguous(), shift.detach()[0].contiguous()

    def _is_step(self, node: fx.Node) -> bool:
        if node.op == "call_module":
            module = self._modules[str(node.target)]
            return type(module).__module__.startswith("torchvision.") and type(module).__name__ == "Normalize"
        one_operand = node.target in _DIVISION and len(node.args) == 2 and node.args[0] is not self.last
        known = node.target in _ADDITIVE | _MULTIPLICATIVE | _DIVISION and not node.kwargs
        if not known or one_operand or len(node.args) != 2 or not is_tensor(node):
            return False
        same_shape = node.meta["tensor_meta"].shape == self._first.meta["tensor_meta"].shape
        others = [value for value in node.args if value is not self.last]
        return same_shape and len(others) == 1 and all(map(is_constant, others))

    def _apply(self, x: Tensor) -> Tensor:
        values: dict[fx.Node, Any] = {self._first: x}
        for node in self.steps:
            values[node] = self._run(node, values)
        result: Tensor = values[self.last]
        return result

    def _run(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        """Compute the value of a node, and first those of the constants that it reads."""
        if node in values:
            return values[node]
        args = fx.node.map_arg(node.args, lambda each: self._run(each, values))
        kwargs = fx.node.map_arg(node.kwargs, lambda each: self._run(each, values))
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._traced)
        if node.op == "call_module":
            return self._modules[str(node.target)](*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def is_constant(value: Any) -> bool:
    """Tell whether a node's argument is independent of the images: a number, or computed from weights and buffers."""
    if not isinstance(value, fx.Node):
        return isinstance(value, int | float)
    if value.op == "get_attr":
        return True
    inputs = value.all_input_nodes
    return value.op in ("call_function", "call_method") and bool(inputs) and all(map(is_constant, inputs))


def is_tensor(node: fx.Node) -> bool:
    """Tell whether the propagated value of a node is a tensor rather than, for example, a size."""
    return hasattr(node.meta.get("tensor_meta"), "shape")


def readers(node: fx.Node) -> list[fx.Node]:
    """Return the nodes that compute with the values of a node; nodes that only read its size are left out."""
    return [user for user in node.users if is_tensor(user)]
