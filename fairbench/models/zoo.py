"""Opening any checkpoint a user names; a stranger's pickle is read as plain tensors or not at all."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.models.architectures import build_model, normalized
from fairbench.models.checkpoint import check_weights, load_checkpoint, read_tensors

__all__ = ["open_model"]

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt")
# Where training scripts put the weights in what they save, and what wrappers put before every name.
NESTS = ("state_dict", "model_state_dict", "model", "net")
WRAPPERS = ("module.", "_orig_mod.")


def open_model(
    source: str | Path,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    shape: tuple[int, int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """Open a checkpoint, `PATH` or `file:PATH`, as a network from [0,1] images to logits, on the CPU in eval mode.

    A `.safetensors` file that fairbench wrote needs nothing else. Other weights (`.safetensors`, and `.pt`, `.pth` or
    `.ckpt` state dicts) need `arch` with `num_classes` and `shape` (C, H, W), and the `mean` and `std` that their
    training subtracted and divided by. Raises Missing, UnknownName, InvalidInput, or CorruptFile for a file that is
    damaged, does not fit or would run code when it is unpickled.
    """
    path = _path(str(source))
    if path.suffix == ".safetensors":
        tensors, text = read_tensors(path)
        if arch is None or text is not None:
            return load_checkpoint(path, arch)[0].eval()
    else:
        tensors = _unpickle(path)
    if arch is None or num_classes is None or shape is None:
        raise InvalidInput(f"{path}: says nothing about its architecture; give arch (--arch), num_classes and shape")
    with torch.random.fork_rng(devices=[]):
        network = build_model(arch, num_classes=num_classes, shape=shape)
    tensors = _unwrap(tensors)
    check_weights(path, network, tensors, arch)
    network.load_state_dict(tensors)
    return normalized(network, mean, std, channels=shape[0]).eval()


def _path(source: str) -> Path:
    prefix, colon, rest = source.partition(":")
    if colon and prefix == "file":
        source = rest
    elif colon and prefix.isidentifier() and not Path(source).exists():
        raise UnknownName("model source", prefix, ["file"])
    path = Path(source)
    if not path.is_file():
        raise Missing(f"{path}: {'is a folder, not a checkpoint' if path.is_dir() else 'no such file'}")
    if path.suffix not in SUFFIXES:
        raise InvalidInput(f"{path}: a checkpoint ends in one of {', '.join(SUFFIXES)}")
    return path


def _unpickle(path: Path) -> dict[str, Tensor]:
    """Read a file of `torch.save` with nothing but tensors and plain containers allowed in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on formats that are refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CorruptFile(
            f"{path}: refused: it is damaged, or more than plain weights; save model.state_dict()"
        ) from None
    except Exception as error:  # the bytes are a stranger's: archive and tensor readers raise kinds of their own
        raise CorruptFile(f"{path}: not a readable checkpoint: {' '.join(str(error).split())[:200]}") from None
    for name in NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    if not isinstance(content, Mapping) or not content or not all(_is_weight(*item) for item in content.items()):
        raise CorruptFile(f"{path}: holds no state dict (names and tensors); save model.state_dict()")
    return dict(content)


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout is torch.strided


def _unwrap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors
