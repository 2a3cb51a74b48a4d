"""Weights that others saved: read as plain tensors or not at all, and fitted to a named architecture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairbench.data.npz import read_arrays
from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.models.checkpoint import check_weights, read_tensors
from fairbench.models.pickled import read_pickle

__all__ = ["SUFFIXES", "fit", "read_pickle", "read_weights", "state_dict"]

PICKLES = (".pt", ".pth", ".ckpt", ".tar", ".bin")
SUFFIXES = (".safetensors", ".npz", *PICKLES)
# Where training scripts put the weights in what they save, and what wrappers put before every name.
NESTS = ("state_dict", "model_state_dict", "model", "net")
MAX_NESTS = 10
WRAPPERS = ("module.", "_orig_mod.", "model.")
# Counts the batches seen; no forward in eval mode reads it, and what older versions of torch saved lacks it.
COUNTER = "num_batches_tracked"


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read names and tensors of a `.safetensors`, `.npz` (an array a weight) or `torch.save` file, on the CPU.

    Raises Missing, InvalidInput for a file that ends otherwise, CorruptFile for one that is damaged, holds no state
    dict or would run code when it is unpickled.
    """
    if not path.is_file():
        raise Missing(f"{path}: {'is a folder, not a checkpoint' if path.is_dir() else 'no such file'}")
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    if path.suffix == ".npz":
        return {name: _as_tensor(path, name, array) for name, array in read_arrays(path).items()}
    if path.suffix not in PICKLES:
        raise InvalidInput(f"{path}: a checkpoint ends in one of {', '.join(SUFFIXES)}")
    return state_dict(path, read_pickle(path))


def state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """Find the names and tensors in what a training script saved; raises CorruptFile."""
    for _ in range(MAX_NESTS):
        if not isinstance(content, Mapping):
            break
        nested = next((content[name] for name in NESTS if isinstance(content.get(name), Mapping)), None)
        if nested is None:
            break
        content = nested
    if not isinstance(content, Mapping) or not content or not all(_is_weight(*item) for item in content.items()):
        raise CorruptFile(f"{path}: holds no state dict (names and tensors); save model.state_dict()")
    return dict(content)


def fit(path: Path, network: nn.Module, tensors: dict[str, Tensor], arch: str) -> nn.Module:
    """Load the tensors read from `path` into a network, without the wrappers' prefixes that it does not know.

    Raises InvalidInput that names the first missing and the first unexpected weights, CorruptFile for a shape, a type
    or a number that cannot be.
    """
    wanted = network.state_dict()
    tensors = _unwrap(tensors, wanted)
    missing = {name: value for name, value in wanted.items() if name not in tensors}
    if all(name.endswith(COUNTER) for name in missing):
        tensors, missing = {**tensors, **missing}, {}
    unexpected = [name for name in tensors if name not in wanted]
    if missing or unexpected:
        parts = [_first(word, names) for word, names in (("missing", missing), ("unexpected", unexpected)) if names]
        raise InvalidInput(f"{path}: its weights are not those of model {arch!r}: {'; '.join(parts)}")
    check_weights(path, network, tensors, arch)
    network.load_state_dict(tensors)
    return network


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout is torch.strided


def _as_tensor(path: Path, name: str, array: Any) -> Tensor:
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):
        raise CorruptFile(f"{path}: array {name!r} is {array.dtype}, which is no kind of weight") from None


def _unwrap(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip a prefix that all names have and the network does not expect, and the next one, as in module.model."""
    while not tensors.keys() & wanted.keys():
        prefix = next((one for one in WRAPPERS if all(name.startswith(one) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _first(word: str, names: Iterable[str]) -> str:
    """Write `missing 'a', 'b', 'c' and 5 more`."""
    every = sorted(names)
    shown, rest = ", ".join(map(repr, islice(every, 3))), len(every) - 3
    return f"{word} {shown}" + (f" and {rest} more" if rest > 0 else "")
