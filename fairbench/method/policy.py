"""Class policies, which steer any objective class by class, and the state that they share with methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fairbench.data.batch import Batch
from fairbench.method.context import Context
from fairbench.method.record import AttackOutput, ClassRecord, StepOutput
from fairbench.method.tunable import Tunable

__all__ = ["VECTORS", "ClassPolicy", "Stateful"]

VECTORS = {
    "weight": "scale of all of a sample's loss terms",
    "weight_adv": "scale of a sample's adversarial term",
    "weight_clean": "scale of a sample's clean term",
    "margin": "scale of a sample's perturbation budget (epsilon)",
    "step": "scale of a sample's attack step",
    "beta": "scale of a sample's robustness regulariser (TRADES)",
    "temperature_adv": "temperature of the teacher's soft label in the adversarial branch",
    "temperature_clean": "temperature of the teacher's soft label in the clean branch",
}


class Stateful(Tunable):
    """Hyper-parameters plus state: every tensor and module attribute is saved and restored without a declaration.

    The trainer saves what the context holds (the model, the teachers). `own_recipe` names the settings of the suite's
    recipe that a fine-tuning method must replace, its `epochs` as a share of the warm start's. `paper_recipe` names the
    optimiser settings of the authors (lr, weight_decay, nesterov, epochs, milestones as shares of the epochs), which
    tuning tries and a run ignores. `departures` lists the differences from the authors' code, a sentence each.
    """

    own_recipe: ClassVar[Mapping[str, Any]] = {}
    paper_recipe: ClassVar[Mapping[str, Any]] = {}
    departures: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    context: Context

    def state_dict(self) -> dict[str, Tensor]:
        """Return a copy of every tensor attribute by its name, and of every module's weights as `name/weight`."""
        state: dict[str, Tensor] = {}
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                state[name] = value.detach().clone()
            elif isinstance(value, nn.Module):
                state |= {f"{name}/{key}": weight.detach().clone() for key, weight in value.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors that `setup` created, modules' weights included."""
        modules: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            owner, _, key = name.partition("/")
            if key:
                modules.setdefault(owner, {})[key] = value
                continue
            now = getattr(self, name, None)
            setattr(self, name, value.clone() if now is None else value.to(now.device, now.dtype).clone())
        for owner, weights in modules.items():
            getattr(self, owner).load_state_dict(weights)


class ClassPolicy(Stateful):
    """A rule that steers an objective class by class: vectors over classes, updated once per epoch.

    `supplies` names the vectors (see VECTORS). Each is a tensor attribute of that name, which `setup` fills with ones
    and `end_epoch` replaces, so that most policies define `end_epoch` alone. A policy that overrides `vectors` computes
    them from state of its own. Vectors also in `batch_normalised` are divided by their mean over each batch. A policy
    may also wrap the optimisation step or hand out other weights than the model's. `needs` as for Method.
    """

    supplies: ClassVar[tuple[str, ...]] = ()
    batch_normalised: ClassVar[tuple[str, ...]] = ()

    def setup(self, context: Context) -> None:
        """Create the class-wise state, ones for every vector; called once, before training."""
        self.context = context
        if type(self).vectors is ClassPolicy.vectors:
            for name in self.supplies:
                setattr(self, name, torch.ones(context.num_classes, device=context.device))

    def begin_epoch(self, context: Context) -> None:
        """Look at the model or the method split before an epoch."""

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> Mapping[str, Tensor]:
        """Per-sample values [B] or [B,K] that the record sums by class for this policy."""
        return {}

    def end_epoch(self, record: ClassRecord) -> None:
        """Update the class-wise state from the epoch's record."""

    def vectors(self) -> Mapping[str, Tensor]:
        """Return the vectors in force now, each float32 [C]; those of all policies are multiplied."""
        return {name: getattr(self, name) for name in self.supplies}

    def sampling(self) -> Tensor | None:
        """Return class probabilities float [C] to draw the next batch with, or None; read before each batch."""
        return None

    def around(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """Run the closure (zero gradients, loss, backward); AWP perturbs the weights before it."""
        return closure()

    def export_model(self, model: nn.Module) -> nn.Module:
        """Return the model to select and test, by default the one given; averages of weights return the average."""
        return model
