"""Checks of the values that a method's hooks return: each raises HookError, in one line, at the first breach."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairbench.authoring.rehearsal import HookError, Rehearsal, Step
from fairbench.data.batch import Batch
from fairbench.method.record import AttackOutput

__all__ = ["check_attack", "check_export", "check_gradient", "check_step", "check_vectors", "some"]

TOLERANCE = 1e-6  # rounding of x + eps, with x in [0,1] in float32


def check_attack(rehearsal: Rehearsal, batch: Batch, original: Tensor, attacked: AttackOutput) -> None:
    """Check an augmented batch and its attack's output; `original` is a copy of its images before the attack."""
    if not len(batch.x) == len(batch.y) == len(batch.index):
        raise HookError(f"augment returned {len(batch.x)} images, {len(batch.y)} labels and {len(batch.index)} indices")
    if not torch.equal(batch.x, original):
        raise HookError("attack changed the clean images in place")
    _check_images(original, attacked.x_adv)
    _check_ball(rehearsal, batch.y, (attacked.x_adv - original).abs().flatten(1).amax(dim=1))
    for name, values in (("survived", attacked.survived), ("keep", attacked.keep)):
        if values is not None and values.shape != batch.y.shape:
            raise HookError(f"attack returned {name} of shape {list(values.shape)}, not [{len(batch.y)}]")


def check_step(rehearsal: Rehearsal, step: Step) -> None:
    """Check everything that the hooks exchanged in one step."""
    check_attack(rehearsal, step.batch, step.original, step.attacked)
    size, epoch = len(step.batch.y), rehearsal.context.epoch
    for name, logits in (("logits_adv", step.output.logits_adv), ("logits_clean", step.output.logits_clean)):
        if logits is not None and logits.shape != (size, rehearsal.classes):
            raise HookError(f"loss returned {name} of shape {list(logits.shape)}, not [{size}, {rehearsal.classes}]")
    if not torch.isfinite(step.output.loss):
        raise HookError(f"loss returned {float(step.output.loss.detach())} in epoch {epoch}")
    if not all(torch.isfinite(gradient).all() for gradient in rehearsal.gradients):
        raise HookError(f"the gradient of the loss is not finite in epoch {epoch}")


def check_gradient(rehearsal: Rehearsal) -> None:
    """Check that the last loss depends on the parameters."""
    if not any(gradient.any() for gradient in rehearsal.gradients):
        raise HookError("the loss has no gradient with respect to any parameter of the model")


def check_vectors(rehearsal: Rehearsal) -> None:
    """Check that each policy supplies the vectors that it declares: positive finite numbers, one a class."""
    for policy in rehearsal.method.policies:
        name = type(policy).__name__
        with rehearsal.calling(f"vectors of {name}"):
            supplied = dict(policy.vectors())
        if set(supplied) != set(policy.supplies):
            raise HookError(f"{name} declares {list(policy.supplies)}, but vectors returns {list(supplied)}")
        for vector, values in supplied.items():
            fault = _vector_fault(values, rehearsal.classes)
            if fault:
                raise HookError(f"{name}: vector {vector!r} {fault} {_when(rehearsal)}")
    with rehearsal.calling("sampling"):
        sampled = rehearsal.method.sampling()
    fault = "" if sampled is None else _vector_fault(sampled, rehearsal.classes)
    if fault:
        raise HookError(f"the vector of class probabilities that sampling returns {fault} {_when(rehearsal)}")
    with rehearsal.calling("class_state"):
        rehearsal.method.class_state()


def check_export(rehearsal: Rehearsal) -> nn.Module:
    """Check that the exported model classifies and fits the architecture that will load it; returns the model."""
    with rehearsal.calling("export_model"):
        model = rehearsal.method.export_model()
    if not isinstance(model, nn.Module):
        raise HookError(f"export_model returned a {type(model).__name__}, not a module")
    with rehearsal.calling("the exported model"), torch.no_grad():
        logits = model(rehearsal.batches[0].x)
    expected = (len(rehearsal.batches[0].y), rehearsal.classes)
    if not isinstance(logits, Tensor) or logits.shape != expected or not torch.isfinite(logits).all():
        raise HookError(f"the exported model does not return finite logits of shape {list(expected)}")
    names = model.state_dict().keys() ^ rehearsal.model.state_dict().keys()
    if names:
        raise HookError(f"export_model: {some(sorted(names))} is not in both the exported and the trained model")
    return model


def some(names: Sequence[str]) -> str:
    """Format up to three names, and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _check_images(x: Tensor, x_adv: object) -> None:
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape or x_adv.dtype != torch.float32:
        found = f"{x_adv.dtype} {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise HookError(f"attack returned x_adv as {found}, not torch.float32 {tuple(x.shape)}")
    if x_adv.requires_grad:
        raise HookError("attack returned an x_adv that still requires a gradient: detach it")
    if not torch.isfinite(x_adv).all():
        raise HookError("attack returned pixels that are not finite")
    low, high = float(x_adv.min()), float(x_adv.max())
    if low < 0 or high > 1:
        raise HookError(f"attack leaves the box [0,1]: pixels from {low:.4g} to {high:.4g}")


def _check_ball(rehearsal: Rehearsal, y: Tensor, distance: Tensor) -> None:
    """Compare each image's distance with its own radius, eps times its class's present margin."""
    with rehearsal.calling("vector('margin')"):
        radius = rehearsal.context.threat.eps * rehearsal.method.per_sample("margin", y)
    worst = int((distance - radius).argmax())
    if distance[worst] > radius[worst] + TOLERANCE:
        raise HookError(
            f"attack leaves the ball: an image of class {int(y[worst])} moved by {float(distance[worst]):.4g}, "
            f"its radius is {float(radius[worst]):.4g}"
        )


def _vector_fault(values: object, classes: int) -> str:
    if not isinstance(values, Tensor) or values.shape != (classes,):
        found = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        return f"has shape {found}, not [{classes}],"
    if not torch.isfinite(values).all():
        return "is not finite"
    return "is not positive" if not (values > 0).all() else ""


def _when(rehearsal: Rehearsal) -> str:
    epoch = rehearsal.context.epoch
    return "after setup" if epoch == 0 else f"after epoch {epoch}"
