"""Models of timm and torchvision with pretrained weights from those libraries' caches on this machine."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fairbench.errors import CorruptFile, Missing, UnknownName
from fairbench.models.architectures import normalized
from fairbench.models.foreign import fit, read_weights

__all__ = ["open_timm", "open_torchvision"]

# Networks whose pretrained weights expect the input in another scale, and what torchvision builds them with where it
# loads those weights itself.
_RESCALING = ("googlenet", "inception_v3")
_WITH_WEIGHTS = {"transform_input": True, "init_weights": False}


def open_torchvision(name: str) -> nn.Module:
    """Open a classifier of torchvision by its name, with its default weights and its normalisation.

    Raises UnknownName, and Missing where the weights are not in torch's cache; nothing is downloaded.
    """
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise UnknownName("model of torchvision", name, known)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    command = f"import torchvision; torchvision.models.get_model('{name}', weights='DEFAULT')"
    path = _cached(f"torchvision:{name}", weights.url, command)
    options = _WITH_WEIGHTS if name in _RESCALING else {}
    network = fit(path, torchvision.models.get_model(name, weights=None, **options), read_weights(path), name)
    recipe = weights.transforms()
    return normalized(network, recipe.mean, recipe.std, channels=3)


def open_timm(name: str) -> nn.Module:
    """Open a model of timm by its name, such as `resnet18.a1_in1k`, with its weights and its normalisation.

    Raises UnknownName, and Missing if timm is not installed or the weights are neither in torch's cache nor in that of
    the Hugging Face hub; nothing is downloaded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            timm = importlib.import_module("timm")
    except ImportError:
        raise Missing(f"timm:{name}: needs timm: pip install 'robust-fairbench[zoo]'") from None
    if not timm.is_model(name):
        raise UnknownName("model of timm", name, timm.list_models())
    described: Any = timm.models.get_pretrained_cfg(name)
    command = f"import timm; timm.create_model('{name}', pretrained=True)"
    path = _from_hub(described.hf_hub_id) if described and described.hf_hub_id else None
    if path is None:
        path = _cached(f"timm:{name}", described.url if described else None, command)
    tensors = read_weights(path)  # not by timm, which would unpickle any object
    try:
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors})
    except (RuntimeError, KeyError, ValueError) as error:
        raise CorruptFile(f"{path}: does not fit timm:{name}: {' '.join(str(error).split())[:200]}") from None
    return normalized(network, described.mean, described.std, channels=described.input_size[0])


def _cached(name: str, url: str | None, command: str) -> Path:
    """Find the file that `torch.hub` saved for a URL."""
    if not url:
        raise Missing(
            f'{name}: its weights are not on this machine; with a network, get them with: python -c "{command}"'
        )
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        raise Missing(f'{name}: no file {path}; with a network, get it with: python -c "{command}"')
    return path


def _from_hub(repository: str) -> Path | None:
    """Find the file that the Hugging Face hub's client saved for a repository."""
    hub = importlib.import_module("huggingface_hub")  # timm depends on it
    for file in ("model.safetensors", "pytorch_model.bin"):
        found = hub.try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            return Path(found)
    return None
