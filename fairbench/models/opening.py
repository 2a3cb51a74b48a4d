"""Opening any model by name: a file, a name in a library's zoo, or a callable of a module."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.files import at_home
from fairbench.models.architectures import build_model, normalized
from fairbench.models.checkpoint import load_checkpoint, read_tensors
from fairbench.models.foreign import fit, read_weights
from fairbench.models.pretrained import open_timm, open_torchvision
from fairbench.models.robustbench import open_robustbench
from fairbench.plugins.calls import has_module, names_code

__all__ = ["SOURCES", "open_model"]

NAMED = {"robustbench": open_robustbench, "timm": open_timm, "torchvision": open_torchvision}
SHIPPED = "model_test"
SOURCES = ("file:PATH", *(f"{family}:NAME" for family in NAMED), f"pyautoattack:{SHIPPED}", "module:callable")


def open_model(
    source: str | Path,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    shape: tuple[int, int, int] | None = None,
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    weights: str | None = None,
    folder: Path | None = None,
) -> nn.Module:
    """Open a model as a network from [0,1] images to logits, on the CPU in eval mode; nothing is downloaded.

    `source` is a checkpoint, `PATH` or `file:PATH`; a name in a library's zoo, `robustbench:NAME`, `timm:NAME` or
    `torchvision:NAME`; `pyautoattack:model_test`, a non-robust ResNet-18 for CIFAR-10 that pyautoattack ships; or
    `module:callable`, which is called to make the network.

    A `.safetensors` file written by fairbench needs no other argument. Other weights (`.safetensors`, `.npz`, and
    `.pt`, `.pth`, `.ckpt`, `.tar` or `.bin` state dicts) need `arch`, a registered name or `module:callable`, with
    `num_classes` and `shape` (C, H, W), and the `mean` and `std` of the normalisation in their training. A checkpoint
    that has the classes of `class_names` in another order is refused.

    `folder` holds the files of RobustBench, `./models` by default.

    If a file holds weights and their average over training, `weights` selects "raw" or "ema", or the file's own key for
    either; by default the raw weights are read, with a message on stderr.

    Raises Missing, UnknownName, InvalidInput, or CorruptFile for a file that is damaged, does not fit or would run code
    when it is unpickled.
    """
    family, name = _split(str(source))
    with torch.random.fork_rng(devices=[]):  # building a network draws random weights
        if family == "file":
            path = at_home(name) if name.startswith("~/") else Path(name)
            return _open_file(path, arch, num_classes, shape, class_names, mean, std, weights).eval()
        if weights is not None:
            raise InvalidInput(
                f"{source}: brings its own weights; weights (--weights) is for a file that holds two kinds"
            )
        if arch is not None:
            raise InvalidInput(f"{source}: brings its own architecture; arch (--arch) is for weights in a file")
        if family == "module":
            return _call(name, num_classes, shape, mean, std).eval()
        if mean is not None or std is not None:
            raise InvalidInput(f"{source}: brings its own normalisation; leave out mean and std")
        if family == "pyautoattack":
            return _shipped(name).eval()
        if family == "robustbench" and folder is not None:
            return open_robustbench(name, folder).eval()
        return NAMED[family](name).eval()


def _split(source: str) -> tuple[str, str]:
    """Split a text into the kind of source and the name there. A file that exists takes precedence."""
    family, colon, name = source.partition(":")
    if family == "file" and colon:
        return "file", name
    if not colon or Path(source).exists() or not family.replace(".", "").isidentifier():
        return "file", source
    if family in NAMED or family == "pyautoattack":
        return family, name
    if names_code(source) and has_module(source):
        return "module", source
    raise UnknownName("model source", family, ["file", *NAMED, "pyautoattack"])


def _open_file(
    path: Path,
    arch: str | None,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    class_names: Sequence[str] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    weights: str | None,
) -> nn.Module:
    if path.suffix.lower() == ".safetensors" and (arch is None or read_tensors(path)[1] is not None):
        if mean is not None or std is not None:
            raise InvalidInput(f"{path}: brings its own normalisation; leave out mean and std")
        if weights is not None:
            raise InvalidInput(f"{path}: holds one kind of weights; leave out weights (--weights)")
        model, metadata = load_checkpoint(path, arch)
        metadata.check_order(path, class_names or ())
        return model
    tensors = read_weights(path, weights)
    if arch is None or num_classes is None or shape is None:
        others = [name for name, given in (("num_classes", num_classes), ("shape", shape)) if given is None]
        wanted = " and ".join(["arch (--arch NAME:ARGUMENT=VALUE,...; see `fairbench models`)", *others])
        raise InvalidInput(f"{path}: says nothing about its architecture; give {wanted}")
    network = build_model(arch, num_classes=num_classes, shape=shape)
    return normalized(fit(path, network, tensors, arch, weights), mean, std, channels=shape[0])


def _call(
    spec: str,
    num_classes: int | None,
    shape: tuple[int, int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> nn.Module:
    if num_classes is None or shape is None:
        raise InvalidInput(f"{spec}: a callable is asked for a network of num_classes and shape; give both")
    return build_model(spec, num_classes=num_classes, shape=shape, mean=mean, std=std)


def _shipped(name: str) -> nn.Module:
    if name != SHIPPED:
        raise UnknownName("model of pyautoattack", name, [SHIPPED])
    package = importlib.util.find_spec("pyautoattack")
    if package is None or package.origin is None:
        raise Missing(f"pyautoattack:{name}: needs pyautoattack: pip install pyautoattack")
    path = Path(package.origin).parent / "examples" / f"{SHIPPED}.pt"
    return fit(path, build_model("resnet18", num_classes=10, shape=(3, 32, 32)), read_weights(path), "resnet18")
