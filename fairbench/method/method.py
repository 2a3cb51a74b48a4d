"""`Method`, the base class of training methods.

A method is a base objective (the attack's and the training's) and any number of class policies, each of which supplies
vectors over classes that the objective reads: "weight", "margin", "temperature_adv" and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fairbench.attacks import ImageRNG, frozen, inner_maximisation
from fairbench.data.batch import Batch
from fairbench.errors import InvalidInput
from fairbench.losses import HardLabels, cross_entropy
from fairbench.method.context import Context
from fairbench.method.policy import ClassPolicy, Stateful
from fairbench.method.record import AttackOutput, ClassRecord, StepOutput

__all__ = ["Method"]


class Method(Stateful):
    """One training run's objective and class-wise state. The one required hook is `loss`.

    `reads` names the class vectors that the objective uses; `needs` names what the run must provide, of "teacher",
    "natural_teacher", "warm_start" and "method_split". The attack starts from `attack_start` noise, clipped to [0,1] if
    `clip_start` is set, with the network in `attack_mode`.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    attack_start: ClassVar[Literal["uniform", "gaussian"]] = "uniform"
    clip_start: ClassVar[bool] = False
    attack_mode: ClassVar[Literal["eval", "train"]] = "eval"
    policies: Sequence[ClassPolicy] = ()

    @property
    def required(self) -> frozenset[str]:
        """Everything that the objective and its policies need."""
        return frozenset(self.needs).union(*(policy.needs for policy in self.policies))

    def setup(self, context: Context) -> None:
        """Receive the run's context and create state; called once, before training."""
        self.context = context
        for policy in self.policies:
            policy.setup(context)

    def begin_epoch(self, context: Context) -> None:
        """Prepare an epoch, whose number is `context.epoch`."""
        for policy in self.policies:
            policy.begin_epoch(context)

    def sampling(self) -> Tensor | None:
        """Return class probabilities float [C] for drawing the next batch: the product of the policies' probabilities.

        They need not sum to 1. An epoch is then as many draws with replacement as there are images. None, the result if
        no policy samples, stands for every image once an epoch.
        """
        found = [given for policy in self.policies if (given := policy.sampling()) is not None]
        return reduce(torch.mul, found) if found else None

    def augment(self, batch: Batch) -> Batch:
        """Change a batch after the recipe's own augmentation."""
        return batch

    def attack_loss(self, model: nn.Module, batch: Batch, memo: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """Return the objective of the inner maximisation, logits [B,C] -> [B]; `memo` keeps tensors for the loss.

        An objective with a method `gradient`, as `losses.HardLabels` and `losses.SoftLabels`, is faster on a CPU.
        """
        return HardLabels(batch.y)

    def attack(self, model: nn.Module, batch: Batch) -> AttackOutput:
        """Inner maximisation: K projected sign steps of `attack_loss` inside each sample's own Linf ball.

        `model` maps images to logits as the context's does; it may be a faster copy of that without weights to train.
        """
        memo = dict[str, Tensor]()
        with frozen(model, mode=self.attack_mode):
            loss = self.attack_loss(model, batch, memo)
            steps = self.context.recipe.attack_steps
            x_adv, survived = self.ascend(model, batch, loss, start=self.start(batch), steps=steps)
        return AttackOutput(x_adv, survived, memo=memo)

    def ball(self, y: Tensor) -> Tensor:
        """Radius of each sample's ball, float32 [B], in pixel units: epsilon times its class's margin."""
        return self.context.threat.eps * self.per_sample("margin", y)

    def start(self, batch: Batch) -> Tensor:
        """Start of the inner maximisation, float32 [B,C,H,W]: uniform noise in the ball, or Gaussian noise of 0.001."""
        rng = ImageRNG(self.context.seed, batch.index, stream=self.context.epoch + 1)
        if self.attack_start == "uniform":
            start = batch.x + (rng.uniform(batch.x.shape) * 2 - 1) * self.ball(batch.y).view(-1, 1, 1, 1)
        else:
            start = batch.x + 0.001 * rng.normal(batch.x.shape)
        return start.clamp(0, 1) if self.clip_start else start

    def ascend(
        self, model: nn.Module, batch: Batch, loss: Callable[[Tensor], Tensor], *, start: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Take `steps` projected sign steps that ascend `loss`, logits [B,C] -> [B], of a frozen model.

        Returns x_adv float32 [B,C,H,W], and int64 [B]: the number of iterates, each before its step, that are
        classified correctly. Raises InvalidInput for a norm other than Linf.
        """
        if self.context.threat.norm != "Linf":
            raise InvalidInput(
                f"method {type(self).__name__} trains in the Linf ball, not in {self.context.threat.norm}"
            )
        x_adv, survived = inner_maximisation(
            model,
            batch.x,
            loss=loss,
            eps=self.ball(batch.y),
            step=self.context.threat.eps * self.context.recipe.attack_rel_step * self.per_sample("step", batch.y),
            steps=steps,
            start=start,
            correct_with=batch.y,
        )
        assert survived is not None  # the labels were given
        return x_adv, survived

    def loss(self, model: nn.Module, batch: Batch, attacked: AttackOutput) -> StepOutput:
        """Outer minimisation: the loss to be differentiated with respect to the model's parameters."""
        raise InvalidInput(f"method {type(self).__name__} has no loss")

    def step(self, closure: Callable[[], StepOutput]) -> StepOutput:
        """Run the closure (zero gradients, loss, backward) inside the policies' `around`, then one optimiser step."""
        for policy in self.policies:
            closure = partial(policy.around, closure)
        output = closure()
        self.context.optimizer.step()
        return output

    def end_epoch(self, record: ClassRecord) -> None:
        """Update class-wise state from the epoch's record."""
        for policy in self.policies:
            policy.end_epoch(record)

    def export_model(self) -> nn.Module:
        """Return the model to select and test: the trained one, or what the policies return in its place."""
        return reduce(lambda model, policy: policy.export_model(model), self.policies, self.context.model)

    def vector(self, name: str) -> Tensor:
        """Return class vector `name` float32 [C]: the product over the policies that supply it, ones without any."""
        supplied = [policy.vectors()[name] for policy in self.policies if name in policy.supplies]
        return reduce(torch.mul, supplied, torch.ones(self.context.num_classes, device=self.context.device))

    def per_sample(self, name: str, y: Tensor) -> Tensor:
        """Return class vector `name` read at labels y int64 [B]; float32 [B]."""
        return self.vector(name)[y]

    def sample_weights(self, y: Tensor, *vectors: str) -> Tensor:
        """Factor float32 [B] of each sample's loss: "weight" times the vectors named, read at labels y int64 [B]."""
        factors = []
        for name in ("weight", *vectors):
            factor = self.per_sample(name, y)
            if any(name in policy.batch_normalised for policy in self.policies):
                factor = factor / factor.mean()
            factors.append(factor)
        return reduce(torch.mul, factors)

    def mean(self, values: Tensor, y: Tensor, *vectors: str) -> Tensor:
        """Mean over the batch of per-sample values [B], scaled by "weight" and by the vectors named."""
        return (values * self.sample_weights(y, *vectors)).mean()

    def passes(
        self, model: nn.Module, batch: Batch, attacked: AttackOutput, order: str, *, silent: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Forward the images of a step in train mode, in an order such as "clean-adv-clean"; logits [B,C] by kind.

        The first pass of a kind gives its logits, with gradients unless `silent` names it. Repeated passes, which the
        scripts of many methods make, move the running statistics of BatchNorm and nothing else.
        """
        images, logits = {"clean": batch.x, "adv": attacked.x_adv}, dict[str, Tensor]()
        for kind in order.split("-"):
            with torch.set_grad_enabled(kind not in logits and kind not in silent):
                found = model(images[kind])
            logits.setdefault(kind, found)
        return logits

    def statistics(self, batch: Batch, attacked: AttackOutput, output: StepOutput) -> dict[str, Tensor]:
        """Per-sample values for the class record: the standard ones, then those that policies request."""
        values: dict[str, Tensor] = {}
        for branch, logits in (("adv", output.logits_adv), ("clean", output.logits_clean)):
            if logits is not None:
                values[f"ce_{branch}"] = cross_entropy(logits.detach(), batch.y)
                values[f"correct_{branch}"] = logits.detach().argmax(dim=1) == batch.y
        if attacked.survived is not None:
            values["survived"] = attacked.survived
        for policy in self.policies:
            values.update(policy.statistics(batch, attacked, output))
        return values

    def teacher_logits(self, x: Tensor) -> Tensor:
        """Teacher logits [B,C] without gradient; raises InvalidInput when the run has no teacher."""
        if self.context.teacher is None:
            raise InvalidInput(f"method {type(self).__name__} needs a teacher and the suite names none")
        with torch.no_grad():
            return self.context.teacher(x).float()  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Tensor]:
        """All state, the policies' under `<position>:<name>`; a resume loses what is not in it."""
        state = super().state_dict()
        for position, policy in enumerate(self.policies):
            state |= {f"{position}:{name}": value for name, value in policy.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict({name: value for name, value in state.items() if ":" not in name})
        for position, policy in enumerate(self.policies):
            prefix = f"{position}:"
            policy.load_state_dict(
                {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            )

    def class_state(self) -> dict[str, Tensor]:
        """Return the class-wise state that `history.csv` records, every tensor of shape [C], by name.

        A name that several policies use keeps its `<position>:`.
        """
        return self._state_of((self.context.num_classes,))

    def scalar_state(self) -> dict[str, float]:
        """Return the finite scalars that `history.csv` records, such as ABSLD's rate, named as in `class_state`."""
        return {name: float(value) for name, value in self._state_of(()).items() if value.isfinite()}

    def _state_of(self, shape: tuple[int, ...]) -> dict[str, Tensor]:
        """The tensors of one shape by name, without the weights of modules."""
        named = {name: value for name, value in self.state_dict().items() if value.shape == shape and "/" not in name}
        short = [name.rpartition(":")[2] for name in named]
        return {
            last if short.count(last) == 1 else name: value
            for (name, value), last in zip(named.items(), short, strict=True)
        }
