"""Weights saved by other programs: read as plain tensors only, and fitted to a named architecture."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
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
# Keys under which training scripts save the weights.
NESTS = ("state_dict", "model_state_dict", "model", "net", "params")
# The same for averages of the weights over training steps, saved beside the weights or alone.
AVERAGED_NESTS = (
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "model_ema_state_dict", "ema_model_state_dict"),
    *("net_ema", "ema_net", "ema", "averaged_model", "swa_model", "swa_state_dict", "shadow"),
    "params_ema",
)
AVERAGED_WRAPPERS = ("model_ema.", "ema_model.", "net_ema.", "ema_net.", "ema.", "averaged_model.", "swa_model.")
# Counts batches. A forward in eval mode does not read it, and files of older versions of torch lack it.
COUNTER = "num_batches_tracked"
# Names that averaging and profiling leave beside the weights, and parts of a training module outside the network.
IDLE = ("n_averaged", "total_ops", "total_params", COUNTER)
NO_NETWORK = ("criterion", "loss", "loss_fn", "loss_function", "optimizer", "metric", "metrics")
_DEEPEST = 8


def read_weights(path: Path, kind: str | None = None) -> dict[str, Tensor]:
    """Read names and tensors of a `.safetensors`, `.npz` (one array a weight) or `torch.save` file, on the CPU.

    `kind` as for `state_dict`. Raises Missing; InvalidInput for another suffix or an absent kind; CorruptFile for a
    file that is damaged, holds no state dict or would run code when it is unpickled.
    """
    if not path.is_file():
        raise Missing(f"{path}: {'is a folder, not a checkpoint' if path.is_dir() else 'no such file'}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _checked(path, read_tensors(path)[0], kind)
    if suffix == ".npz":
        return _checked(path, {name: _as_tensor(path, name, array) for name, array in read_arrays(path).items()}, kind)
    if suffix not in PICKLES:
        raise InvalidInput(f"{path}: a checkpoint ends in one of {', '.join(SUFFIXES)}")
    return state_dict(path, read_pickle(path), kind)


def state_dict(path: Path, content: Any, kind: str | None = None) -> dict[str, Tensor]:
    """Find the state dict in the object that a training script saved; raises CorruptFile.

    If there are weights and their average, `kind` chooses: "raw", "ema", or the file's own key. By default the raw
    weights are read, with a message on stderr. Raises InvalidInput for a kind that the file lacks.
    """
    wanted, content = kind, _exchanged(content)
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        there = [name for name in (*NESTS, *AVERAGED_NESTS) if isinstance(content.get(name), Mapping)]
        if wanted is not None and isinstance(content.get(wanted), Mapping):
            name, wanted = wanted, None
        elif not there:
            break
        else:
            name = _choose(path, there, wanted)
            if name in AVERAGED_NESTS:
                wanted = None  # chosen
        content = content[name]
    if not isinstance(content, Mapping) or not content or not all(_is_weight(*item) for item in content.items()):
        raise CorruptFile(f"{path}: holds no state dict (names and tensors); save model.state_dict()")
    return _checked(path, dict(content), wanted)


def fit(path: Path, network: nn.Module, tensors: dict[str, Tensor], arch: str, kind: str | None = None) -> nn.Module:
    """Load the tensors read from `path` into a network, without the wrappers' prefixes that it does not know.

    `kind` chooses between a training module's weights and their average, `model.` and `ema_model.`, as in `state_dict`.
    Counters and parts outside the network are left out. Raises InvalidInput that names the first missing and the first
    unexpected weights; CorruptFile for an invalid shape, type or number.
    """
    wanted = network.state_dict()
    tensors = _unwrap(_one_kind(path, tensors, wanted, kind), wanted)
    missing = {name: value for name, value in wanted.items() if name not in tensors}
    if all(name.rpartition(".")[2] in IDLE for name in missing):
        tensors, missing = {**tensors, **missing}, {}
    unexpected = [name for name in tensors if name not in wanted and not _is_idle(name)]
    if missing or unexpected:
        parts = [_first(word, names) for word, names in (("missing", missing), ("unexpected", unexpected)) if names]
        raise InvalidInput(f"{path}: its weights are not those of model {arch!r}: {'; '.join(parts)}")
    tensors = {name: value for name, value in tensors.items() if name in wanted}
    check_weights(path, network, tensors, arch)
    network.load_state_dict(tensors)
    return network


def _checked(path: Path, tensors: dict[str, Tensor], kind: str | None) -> dict[str, Tensor]:
    """Return a state dict unchanged; raises InvalidInput if it lacks the requested kind."""
    if kind == "raw" and "n_averaged" in tensors:
        raise InvalidInput(f"{path}: holds no raw weights, only those of an AveragedModel")
    if kind in (None, "raw") or (kind == "ema" and "n_averaged" in tensors):
        return tensors
    prefixes = AVERAGED_WRAPPERS if kind == "ema" else (f"{kind}.",)
    if not any(name.startswith(prefixes) for name in tensors):
        raise InvalidInput(f"{path}: holds no weights {kind!r}; leave out weights (--weights), or give raw or ema")
    return tensors


def _exchanged(content: Any) -> Any:
    """Undo the renaming of Lightning's WeightAveraging, which saves averaged weights under the name of the raw ones."""
    if isinstance(content, Mapping) and isinstance(content.get("current_model_state"), Mapping):
        return {"state_dict": content["current_model_state"], "state_dict_ema": content.get("state_dict")}
    return content


def _choose(path: Path, there: Sequence[str], kind: str | None) -> str:
    """Choose a key under which a file holds weights; without a requested kind, report the choice."""
    raw = [name for name in there if name in NESTS]
    averaged = [name for name in there if name in AVERAGED_NESTS]
    if kind == "raw" and not raw:
        raise InvalidInput(f"{path}: holds no raw weights, only {', '.join(there)}")
    if kind == "ema" and averaged:
        return averaged[0]
    if kind is None and averaged:
        _say(path, raw or averaged, averaged)
    return (raw or averaged)[0]


def _say(path: Path, read: Sequence[str], averaged: Sequence[str]) -> None:
    """Report which weights are read: averaged ones only, or raw ones beside averaged ones."""
    if read[0] in averaged:
        print(f"{path}: read the averaged weights, {read[0]!r}: it holds no others", file=sys.stderr)
        return
    print(
        f"{path}: read the raw weights, {read[0]!r}; it holds averaged ones too, {averaged[0]!r}: "
        "--weights ema (weights='ema') reads those",
        file=sys.stderr,
    )


def _one_kind(
    path: Path, tensors: dict[str, Tensor], wanted: Mapping[str, Tensor], kind: str | None
) -> dict[str, Tensor]:
    """Choose between weights and their average in a single state dict, as training modules save them."""
    prefix = next((one for one in AVERAGED_WRAPPERS if any(name.startswith(one) for name in tensors)), None)
    if prefix is None or any(name.startswith(prefix) for name in wanted):
        return tensors
    averaged = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    raw = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    beside = [name for name, value in raw.items() if not _is_idle(name)]
    if kind in ("ema", prefix, prefix.removesuffix(".")) or (kind is None and not beside):
        if kind is None:
            _say(path, [prefix], [prefix])
        return averaged
    if kind is None:
        _say(path, [beside[0].partition(".")[0] + "."], [prefix])
    return raw


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor) and value.layout is torch.strided


def _as_tensor(path: Path, name: str, array: Any) -> Tensor:
    try:
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError):
        raise CorruptFile(f"{path}: array {name!r} is {array.dtype}, which is no kind of weight") from None


def _unwrap(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip the prefixes that wrappers add to all names, as in module.model, if names that are expected remain."""
    found = tensors
    while not (found.keys() & wanted.keys()):
        prefixes = {name.partition(".")[0] + "." for name in found if not _is_idle(name)}
        if len(prefixes) != 1:
            return tensors
        (prefix,) = prefixes
        found = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    return found


def _is_idle(name: str) -> bool:
    """Tell by its name whether a tensor has no effect on a network's forward in eval mode."""
    return name.rpartition(".")[2] in IDLE or name.partition(".")[0] in NO_NETWORK


def _first(word: str, names: Iterable[str]) -> str:
    """Write `missing 'a', 'b', 'c' and 5 more`."""
    every = sorted(names)
    shown, rest = ", ".join(map(repr, islice(every, 3))), len(every) - 3
    return f"{word} {shown}" + (f" and {rest} more" if rest > 0 else "")
