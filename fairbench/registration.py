"""The decorators that register methods, class policies, datasets, models, attacks, losses and loggers under a name.

Their keyword arguments are literals: a listing reads them from the source and runs no plug-in code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fairbench import registry

__all__ = [
    "register_attack",
    "register_dataset",
    "register_logger",
    "register_loss",
    "register_method",
    "register_model",
    "register_policy",
]

C = TypeVar("C")


def register_method(name: str, **details: Any) -> Callable[[C], C]:
    """Register a Method class under `name`, or, with `base=`, a named composition of a base and class policies.

    Keyword arguments: `summary`, `citation`, `provenance` ("code", "paper", "reconstruction", "ablation", "own");
    for a composition `base`, `policies` (names) and `options` (hyper-parameters that differ from the parts' defaults).

    Raises InvalidInput for a name that cannot be part of a path or has another meaning, such as `all`, and for one that
    a file with other content has taken.
    """
    if "base" in details:  # its classes are looked up when the method is built
        registry.methods.register(name, None, details)
    return registry.methods.decorate(name, **details)


def register_policy(name: str, **details: Any) -> Callable[[C], C]:
    """Register a ClassPolicy class; keyword arguments: `summary`, `citation`.

    Raises InvalidInput for a name that cannot be part of a path, and for one that a file with other content has taken.
    """
    return registry.policies.decorate(name, **details)


def register_attack(name: str, **details: Any) -> Callable[[C], C]:
    """Register an attack: a function f(model, x, y, *, eps, norm, rng, ...) that returns x_adv.

    x and x_adv are float32 [B,C,H,W] in [0,1], y is int64 [B]. eps is in pixel units, norm is "Linf", "L2" or "L1"; a
    Literal as its type names those that the attack knows. rng, an ImageRNG, gives every image random numbers that do
    not depend on its batch. The model is frozen, in eval mode. Further keyword-only parameters, which need types, are
    arguments of the attack's name: `steps` is the K of `NAME-K`; `step`, in pixel units, may be given as `rel_step` in
    units of eps.

    Keyword arguments: `summary`; `ball=False` for an attack that need not stay in the ball; `whole_set=True` for one
    that needs all images at once; `copies=True` if it may craft with a faster copy of the model, "float32" if that copy
    must not compute in bfloat16. Images that break only the copy are attacked again on the model.

    Raises InvalidInput for a name that cannot be part of a path, and for one that a file with other content has taken.
    """
    return registry.attacks.decorate(name, **details)


def register_model(name: str, **details: Any) -> Callable[[C], C]:
    """Register an architecture: a function f(num_classes, shape, ...) that returns a torch Module.

    shape is (C, H, W). The module maps float32 [B,C,H,W] in [0,1] to logits [B, num_classes], and draws its weights
    from torch's global generator. Further parameters become arguments of the name, as in `resnet-micro:width=24`;
    values are converted to the types that they state. Keyword argument: `summary`.

    Raises InvalidInput for a name that cannot be part of a path, and for one that a file with other content has taken.
    """
    return registry.models.decorate(name, **details)


def register_dataset(name: str, **details: Any) -> Callable[[C], C]:
    """Register a dataset: a function f(root) that returns a `fairbench.data.Dataset`.

    root is the Path of the folder of downloads, which the function need not use. A Dataset has two Splits of uint8
    images [N,H,W,C] and int64 labels [N], and the names of the classes. Keyword arguments: `summary`; `classes`, their
    number.

    Raises InvalidInput for a name that cannot be part of a path, and for one that a file with other content has taken.
    """
    return registry.datasets.decorate(name, **details)


def register_loss(name: str, **details: Any) -> Callable[[C], C]:
    """Register a loss that attacks ascend: a function from logits float32 [B,C] and labels int64 [B] to [B].

    `pgd-20:loss=NAME` uses it. Keyword argument: `summary`.

    Raises InvalidInput for a name that cannot be part of a path, and for one that a file with other content has taken.
    """
    return registry.losses.decorate(name, **details)


def register_logger(name: str, **details: Any) -> Callable[[C], C]:
    """Register a Logger class, which `--log NAME:TARGET` creates with the text TARGET.

    Keyword arguments: `summary`; `needs`, a package that must be installed.

    Raises InvalidInput for a name that cannot be part of a path, and for one that a file with other content has taken.
    """
    return registry.loggers.decorate(name, **details)
