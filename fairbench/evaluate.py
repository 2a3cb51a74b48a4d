"""Model x data x attacks -> Verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from fairbench.attacks import Attack, Ball, ImageRNG, frozen, resolve
from fairbench.attacks.pgd import Norm
from fairbench.data.dataset import Dataset
from fairbench.data.sources import load_test
from fairbench.errors import InvalidInput
from fairbench.models.zoo import open_model
from fairbench.verdicts import UNION, Report, Verdicts

__all__ = ["DEFAULT_ATTACKS", "Report", "Verdicts", "attack_verdicts", "evaluate"]

Pixels = NDArray[Any] | Tensor
Progress = Callable[[str, int, int], None]

DEFAULT_ATTACKS = ("clean", "fgsm", "pgd-20", "pgd-20:rel_step=0.25", "cw-30")


def evaluate(
    model: nn.Module | str | Path,
    dataset: str | Dataset | tuple[Pixels, ArrayLike],
    *,
    attacks: Sequence[str | Attack] | None = None,
    norm: Norm = "Linf",
    eps: float = 8 / 255,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Attack a model and report, class by class, what it withstands.

    `model` maps images in [0,1] to logits, or is the path of a checkpoint. `dataset` is a name, `npz:...`, a Dataset
    (its test split counts) or a pair of images and labels: uint8, or float in [0,1]; NumPy arrays [N,H,W,C], tensors
    [N,C,H,W]. `attacks` are names with arguments, by default DEFAULT_ATTACKS; "autoattack" adds the standard of the
    field, at hundreds of times the cost. "union" may be named and is always there. Raises InvalidInput and UnknownName.
    """
    module = _open(model, device)
    images, labels, class_names = _open_data(dataset)
    ball = Ball(norm, float(eps))
    named = DEFAULT_ATTACKS if attacks is None else [attacks] if isinstance(attacks, str) else attacks
    chosen = [attack if isinstance(attack, Attack) else resolve(attack, ball) for attack in named if attack != UNION]
    verdicts = attack_verdicts(
        module, images, labels, chosen, batch_size=batch_size, device=device, seed=seed, progress=progress
    )
    if class_names is None:
        class_names = tuple(str(number) for number in range(verdicts.num_classes))
    if len(class_names) != verdicts.num_classes:
        raise InvalidInput(f"the model has {verdicts.num_classes} logits, the data set {len(class_names)} classes")
    return Report(verdicts, class_names)


def attack_verdicts(
    model: nn.Module,
    images: Pixels,
    labels: ArrayLike,
    attacks: Sequence[Attack],
    *,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Verdicts:
    """Run every attack on every image and look at what it made, in float32 on the plain model in eval mode.

    Images and labels as for `evaluate`. `device` moves the model there; by default it stays where it is. `progress` is
    called with the attack's text, the images done and N. The model's flags and gradients are left as they were. Raises
    InvalidInput for images outside [0,1], labels that are no class, a model that cannot take the images or whose
    logits are not finite, and for an attack that leaves its ball.
    """
    pixels, truth = _as_tensor(images), _as_labels(labels, len(images))
    if not attacks or batch_size < 1:
        raise InvalidInput("an evaluation needs at least one attack" if not attacks else f"batch_size is {batch_size}")
    where = torch.device(device) if device is not None else _device_of(model)
    model.to(where)
    with frozen(model), _full_precision(where):
        num_classes = _count_classes(model, _as_input(pixels[:batch_size], where))
        if truth.max() >= num_classes:
            raise InvalidInput(
                f"label {truth.max()} at {truth.argmax()}: the model has logits for 0..{num_classes - 1}"
            )
        predicted = {
            attack.text: _run(attack, model, pixels, truth, batch_size, where, seed, progress) for attack in attacks
        }
    return Verdicts(truth, predicted, num_classes)


def _run(
    attack: Attack,
    model: nn.Module,
    pixels: Tensor,
    truth: NDArray[np.int64],
    batch_size: int,
    device: torch.device,
    seed: int,
    progress: Progress | None,
) -> NDArray[np.int64]:
    labels, total = torch.from_numpy(truth), len(truth)
    predicted: list[Tensor] = []
    size = min(attack.batch_size or batch_size, total)
    for start in range(0, total, size):
        stop = min(start + size, total)
        x, y = _as_input(pixels[start:stop], device), labels[start:stop].to(device)
        x_adv = attack.craft(model, x, y, ImageRNG(seed, torch.arange(start, stop, device=device)))
        _check_inside(attack, x, x_adv)
        predicted += [_logits(model, part).argmax(1).cpu() for part in torch.split(x_adv, batch_size)]
        if progress is not None:
            progress(attack.text, stop, total)
    return torch.cat(predicted).numpy()


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(x)
    if not logits.isfinite().all():
        raise InvalidInput("the model's logits are not finite: it has NaN or infinite weights, or overflows")
    return logits


def _count_classes(model: nn.Module, x: Tensor) -> int:
    """Number of logits, from a first look at some images, so that a model that does not fit fails before any attack."""
    try:
        logits = _logits(model, x)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shape = "x".join(str(side) for side in x.shape[1:])
        raise InvalidInput(f"the model cannot take float32 images of {shape}: {str(error).splitlines()[0]}") from error
    if logits.shape[:-1] != x.shape[:1] or logits.shape[-1] < 2:
        raise InvalidInput(f"the model must return logits [N,C] with C at least 2, not {list(logits.shape)}")
    return logits.shape[-1]


def _check_inside(attack: Attack, x: Tensor, x_adv: Tensor) -> None:
    """Refuse images that the threat does not allow: a verdict on one would say nothing. One sync with the device."""
    if x_adv.shape != x.shape:
        raise InvalidInput(f"{attack.text}: made images of shape {list(x_adv.shape)} from {list(x.shape)}")
    inside = (x_adv >= 0).all() & (x_adv <= 1).all()
    if attack.threat is not None:
        order = torch.inf if attack.threat.norm == "Linf" else 2
        distance = (x_adv - x).flatten(1).norm(order, dim=1)
        inside &= (distance <= attack.threat.eps * (1 + 1e-5) + 1e-6).all()
    if not inside:
        raise InvalidInput(f"{attack.text}: made images outside its ball or outside [0,1]")


def _as_tensor(images: Pixels) -> Tensor:
    """Return images as a tensor [N,C,H,W], uint8 or float in [0,1]; a NumPy array keeps its layout in memory."""
    if isinstance(images, Tensor):
        tensor = images.detach()
    else:
        array = np.asarray(images)
        if array.dtype.kind not in "uf" or array.ndim != 4:
            raise InvalidInput(f"images must be uint8 or float [N,H,W,C], not {array.dtype} {list(array.shape)}")
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy()).permute(0, 3, 1, 2)
    if tensor.dim() != 4 or tensor.numel() == 0:
        raise InvalidInput(f"images must be a tensor [N,C,H,W] with images in it, not {list(tensor.shape)}")
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise InvalidInput(f"images must be uint8, or float in [0,1], not {tensor.dtype}")
    outside = ~((tensor >= 0) & (tensor <= 1)).flatten(1).all(1)
    if outside.any():
        raise InvalidInput(f"image {int(outside.nonzero()[0])} has pixels outside [0,1] or NaN; 0..255 must be uint8")
    return tensor


def _as_labels(labels: ArrayLike | Tensor, count: int) -> NDArray[np.int64]:
    array = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.dtype.kind not in "iu" or array.shape != (count,):
        raise InvalidInput(f"{count} images need {count} whole-number labels, not {array.dtype} {list(array.shape)}")
    if array.min() < 0:
        raise InvalidInput(f"label {array.min()} at {array.argmin()} is negative")
    return array.astype(np.int64)


def _as_input(pixels: Tensor, device: torch.device) -> Tensor:
    """Return float32 [B,C,H,W] in [0,1] on the device; uint8 travels there before it grows fourfold."""
    moved = pixels.to(device)
    return moved.float().div_(255.0) if moved.dtype == torch.uint8 else moved.float()


def _open(model: nn.Module | str | Path, device: str | torch.device | None) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    opened = open_model(str(model))
    return opened.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _open_data(dataset: str | Dataset | tuple[Pixels, ArrayLike]) -> tuple[Pixels, ArrayLike, tuple[str, ...] | None]:
    if isinstance(dataset, str):
        split, class_names = load_test(dataset)
        return split.images, split.labels, class_names
    if isinstance(dataset, Dataset):
        return dataset.test.images, dataset.test.labels, dataset.class_names
    if not isinstance(dataset, tuple | list) or len(dataset) != 2:
        raise InvalidInput("dataset must be a name, a Dataset, or a pair of images and labels")
    return dataset[0], dataset[1], None


def _device_of(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Switch off what rounds below float32 behind a model's back: autocast, and TF32 and bfloat16 inside products."""
    backends: Any = torch.backends
    cudnn, mkldnn = backends.cudnn, backends.mkldnn
    settings = [cudnn.conv, cudnn.rnn, backends.cuda.matmul, mkldnn.conv, mkldnn.matmul]
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
