"""Checkpoints: weights and all that is needed to use them, in one safetensors file. Opening one runs no code of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fairbench.data.dataset import check_class_names
from fairbench.errors import CorruptFile, Diverged, InvalidInput, Missing
from fairbench.files import atomic, parse_json
from fairbench.models.architectures import build_model, check_normalisation, is_registered
from fairbench.plugins.calls import parse_call
from fairbench.registry import models

__all__ = ["Metadata", "check_weights", "load_checkpoint", "read_tensors", "save_checkpoint", "weights_hash"]

KEY = "fairbench"
FORMAT = 1
MAX_FLOAT32 = torch.finfo(torch.float32).max
# The most memory that a file may request besides its weights; the library reads headers of up to 100 MB.
MAX_HEADER = 10_000_000
MAX_METADATA = 1_000_000
# A large width costs no memory before shapes are compared; a large depth does, because layers are made one by one.
MAX_ARGUMENT = 1_000_000
MAX_DEPTH = 1_000
KINDS = {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.bool}
KINDS |= {torch.int8, torch.int16, torch.int32, torch.int64}


@dataclass(frozen=True)
class Metadata:
    """A checkpoint's metadata; `extra` holds whatever else was saved with the weights, as JSON values."""

    spec: str
    num_classes: int
    shape: tuple[int, int, int]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.spec, str) or not self.spec:
            raise InvalidInput(f"spec must be a model's name, got {self.spec!r}")
        if len(self.shape) != 3 or not all(_is_count(side) for side in (self.num_classes, *self.shape)):
            raise InvalidInput(
                f"num_classes and shape must be counts, got {self.num_classes!r:.40}, {self.shape!r:.80}"
            )
        for values in (self.mean, self.std):
            if values is not None and not all(map(_is_finite, values)):
                raise InvalidInput(f"mean and std must be finite numbers, got {values!r:.80}")
        check_normalisation(self.mean, self.std, channels=self.shape[0])
        if self.class_names:
            check_class_names(self.class_names)
        if len(self.class_names) not in (0, self.num_classes):
            raise InvalidInput(f"{self.num_classes} classes but {len(self.class_names)} class_names")

    def check_order(self, path: Path, class_names: Sequence[str]) -> None:
        """Raise InvalidInput if a dataset has the classes of the file at `path` in another order."""
        if self.class_names != tuple(class_names) and sorted(self.class_names) == sorted(class_names):
            theirs, ours = (", ".join(map(repr, names[:6])) for names in (class_names, self.class_names))
            raise InvalidInput(f"{path}: its classes are in the order {ours}, those of the dataset in {theirs}")

    def build(self, spec: str) -> nn.Module:
        """Build the network that the weights are for."""
        return build_model(spec, num_classes=self.num_classes, shape=self.shape, mean=self.mean, std=self.std)


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    spec: str,
    num_classes: int,
    shape: tuple[int, int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    class_names: Sequence[str] = (),
    **extra: Any,
) -> None:
    """Write a model's weights and metadata to `path`, atomically; equal inputs give equal bytes.

    `extra` must be JSON values. Raises Diverged for weights that are not finite, InvalidInput for metadata that
    `load_checkpoint` would refuse.
    """
    metadata = Metadata(spec, num_classes, shape, _floats(mean), _floats(std), tuple(class_names), extra)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    bad = _first_not_finite(tensors)
    if bad is not None:
        raise Diverged(f"{path}: not written, because weight {bad!r} is not finite")
    try:
        text = json.dumps({"format": FORMAT, **asdict(metadata)}, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: metadata is not JSON: {error}") from None
    if len(text) > MAX_METADATA:
        raise InvalidInput(f"{path}: metadata of {len(text)} characters, more than the {MAX_METADATA} allowed")
    with atomic(Path(path)) as temporary:
        temporary.write_bytes(save(tensors, metadata={KEY: text}))  # save_file replaces the file: mode 0600, no lock


def load_checkpoint(path: str | Path, arch: str | None = None) -> tuple[nn.Module, Metadata]:
    """Read a file of `save_checkpoint`: the model on the CPU, and its metadata. Global random state is unchanged.

    A file cannot name code to run: for a model that is not registered, `arch` has to repeat its name. Raises Missing if
    there is no file, and CorruptFile for invalid content.
    """
    path = Path(path)
    tensors, text = read_tensors(path)
    if text is None:
        raise CorruptFile(f"{path}: holds no fairbench metadata, so that its architecture is not known")
    metadata = _parse(path, text)
    spec = arch or metadata.spec
    if arch is None and not is_registered(spec):
        raise InvalidInput(
            f"{path}: needs model {spec!r}, which is not registered; add its --plugin or name it as --arch"
        )
    if arch is None:
        _check_arguments(path, spec, tensors)
    # Built on the meta device first, to refuse a file that requests a gigantic network; some plug-ins cannot be.
    try:
        with torch.device("meta"):
            check_weights(path, metadata.build(spec), tensors, spec)
    except InvalidInput as error:
        if _is_built_in(spec):
            raise CorruptFile(f"{path}: {error}") from error
    with torch.random.fork_rng(devices=[]):
        try:
            model = metadata.build(spec)
        except InvalidInput as error:
            raise CorruptFile(f"{path}: {error}") from error
    check_weights(path, model, tensors, spec)
    model.load_state_dict(tensors)
    return model, metadata


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Read the tensors of a safetensors file, and fairbench's metadata if present; raises Missing, CorruptFile."""
    if not path.is_file():
        raise Missing(f"{path}: {'is a folder, not a checkpoint' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes, more than the {MAX_HEADER} allowed")
        with safe_open(path, framework="pt") as archive:
            text = (archive.metadata() or {}).get(KEY)
            if text is not None and len(text) > MAX_METADATA:
                raise ValueError(f"metadata of {len(text)} characters, more than the {MAX_METADATA} allowed")
            return {name: archive.get_tensor(name) for name in archive.keys()}, text  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise CorruptFile(f"{path}: not a readable safetensors file: {' '.join(str(error).split())[:200]}") from None


def check_weights(path: Path, model: nn.Module, tensors: Mapping[str, Tensor], spec: str) -> None:
    """Raise CorruptFile unless the tensors have a model's names, shapes and types, and are finite."""
    wanted = model.state_dict()
    for name in sorted(wanted.keys() ^ tensors.keys()):
        raise CorruptFile(f"{path}: weight {name!r} is {'missing' if name in wanted else 'not one'} of model {spec!r}")
    for name, value in tensors.items():
        if value.dtype not in KINDS:
            raise CorruptFile(f"{path}: weight {name!r} is {value.dtype}, which is no kind of weight")
        have, need = (tuple(tensor.shape) for tensor in (value, wanted[name]))
        if have != need:
            raise CorruptFile(f"{path}: weight {name!r} has shape {have}, but model {spec!r} needs {need}")
        if value.is_floating_point() != wanted[name].is_floating_point():
            raise CorruptFile(
                f"{path}: weight {name!r} is {value.dtype}, but model {spec!r} needs {wanted[name].dtype}"
            )
    bad = _first_not_finite(tensors)
    if bad is not None:
        raise CorruptFile(f"{path}: weight {bad!r} is not finite")


def weights_hash(model: nn.Module) -> str:
    """Return the sha256 hex of a model's parameters and buffers, sorted by name: names, types, shapes and bytes."""
    digest = sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_arguments(path: Path, spec: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a number in a model's name that needs far more weights than the file has, before anything is built.

    Each layer of a depth has at least one tensor, and a width is a side of one of the tensors.
    """
    shown = max([len(tensors), *(side for value in tensors.values() for side in value.shape)])
    for name, value in parse_call(spec).arguments.items():
        allowed = max(shown, MAX_DEPTH if name == "depth" else MAX_ARGUMENT)
        if isinstance(value, int | float) and not abs(value) <= allowed:
            raise CorruptFile(f"{path}: model {spec!r:.80}: {name} is larger than its weights can be of")


def _is_built_in(spec: str) -> bool:
    name = spec.partition(":")[0]
    return is_registered(spec) and models.entry(name).module.startswith("fairbench.")


def _parse(path: Path, text: str) -> Metadata:
    try:
        content = parse_json(text.encode())
        if content.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        content["shape"] = tuple(content["shape"])
        content["class_names"] = tuple(content["class_names"])
        for name in ("mean", "std"):
            content[name] = None if content[name] is None else tuple(content[name])
        if not isinstance(content["extra"], dict):
            raise TypeError("extra is not an object")
        return Metadata(**content)
    except KeyError as error:
        raise CorruptFile(f"{path}: its metadata lacks {error}") from None
    except (InvalidInput, ValueError, TypeError, AttributeError) as error:
        raise CorruptFile(f"{path}: its metadata is not valid: {error}") from None


def _first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    return next((name for name, value in tensors.items() if not bool(torch.isfinite(value).all())), None)


def _floats(values: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if values is None else tuple(float(value) for value in values)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= MAX_FLOAT32


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
