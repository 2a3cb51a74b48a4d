"""A recording on the CPU that behaves as a CUDA graph: it keeps operations and tensors, and forgets all Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fairbench.kernels import dispatch, reference, using

T = TypeVar("T")

# What a CUDA device cannot do while a graph is recorded: tell the host a value, or take one from it.
HOST = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "lift_fresh", "_unique2"}


class Tape:
    """Records functions, counts recordings and replays; the first `broken` replays leave all tensors as they are."""

    def __init__(self, broken: int = 0) -> None:
        self.recorded = self.replayed = 0
        self.broken = broken

    def __call__(self, run: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Record `run`, after which all tensors are as they were before."""
        self.recorded += 1
        recording = _Recording()
        try:
            with recording:
                output = run()
        finally:
            recording.undo()

        def replay() -> None:
            self.replayed += 1
            if self.replayed > self.broken:
                recording.replay()

        return output, replay


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._known: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage | None]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        masks = [each for each in tree_leaves(args[1:]) if isinstance(each, Tensor) and each.dtype == torch.bool]
        if name in HOST or (name in ("index", "index_put", "index_put_") and masks):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        for tensor in _tensors((args, kwargs)):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._known:  # made before the recording
                self._known[storage.data_ptr()] = storage, storage.clone()
        output = func(*args, **kwargs)
        made = _tensors(output)
        for tensor in made:
            self._known.setdefault(tensor.untyped_storage().data_ptr(), (tensor.untyped_storage(), None))
        # aliases, because an operation such as squeeze_ may change the shape of a tensor itself
        self._calls.append((func, args, kwargs, [tensor.detach() for tensor in made]))
        return output

    def undo(self) -> None:
        """Give the tensors from before the recording their values back."""
        for storage, before in self._known.values():
            if before is not None:
                storage.copy_(before)

    @torch.no_grad()
    def replay(self) -> None:
        """Make every call again, on the same tensors, and write its results to those that it returned then."""
        for func, args, kwargs, made in self._calls:
            for old, new in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                if old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr():
                    old.copy_(new)


@torch.library.custom_op("fairbench_tests::uniform", mutates_args=())
def _uniform(index: Tensor, seed: int, numel: int, stream: int, restart: int) -> Tensor:
    return reference.philox_uniform(seed, index, numel, stream=stream, restart=restart)


@torch.library.custom_op("fairbench_tests::normal", mutates_args=())
def _normal(index: Tensor, seed: int, numel: int, stream: int, restart: int) -> Tensor:
    return reference.philox_normal(seed, index, numel, stream=stream, restart=restart).contiguous()


@contextmanager
def recordable_kernels(monkeypatch: Any) -> Iterator[None]:
    """Let a CPU compute as a CUDA device where it would ask the host: random numbers by numpy, checks of labels."""

    def drawn(operation: Any) -> Callable[..., Tensor]:
        return lambda seed, index, numel, *, stream=0, restart=0: operation(index, seed, numel, stream, restart)

    names = ("apgd_sign_step", "cw_margin", "dlr_margin", "projected_l2_step", "projected_sign_step")
    kernels = {name: getattr(reference, name) for name in names}
    random = {"philox_uniform": drawn(_uniform), "philox_normal": drawn(_normal)}
    monkeypatch.setattr(dispatch, "_triton", lambda: SimpleNamespace(**kernels, **random))
    monkeypatch.setattr(F, "one_hot", lambda y, classes: (y[:, None] == torch.arange(classes)).long())
    with using("triton"):
        yield


def _tensors(tree: Any) -> list[Tensor]:
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]
