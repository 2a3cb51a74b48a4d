from __future__ import annotations

import pytest
import torch

from fairbench.authoring.rehearsal import Rehearsal
from fairbench.errors import InvalidInput
from fairbench.losses import cross_entropy, kl_divergence
from fairbench.method.composition import resolve_method
from fairbench.method.held_out import attacked_split, class_means


def _context():
    context = Rehearsal(resolve_method("wat")).context
    context.method_split = type(context.method_split)(
        torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 4, torch.arange(20)
    )
    return context


def test_class_means_by_hand():
    values, y = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 0, 1, 3])
    assert class_means(values, y, 4).tolist() == [1.5, 4.0, 0.0, 8.0]


@pytest.mark.parametrize("objective", ["ce", "kl"])
def test_the_attack_raises_its_objective_and_leaves_the_model_alone(objective):
    context = _context()
    context.model.train()
    before = {name: value.clone() for name, value in context.model.state_dict().items()}
    seen = attacked_split(context, steps=5, objective=objective)
    if objective == "ce":
        assert (cross_entropy(seen.adv, seen.y) > cross_entropy(seen.clean, seen.y)).all()
    else:
        assert (kl_divergence(seen.clean.softmax(dim=1), seen.adv) > 1e-4).all()
    assert seen.y.tolist() == (torch.arange(20) % 4).tolist()
    assert not seen.adv.requires_grad
    assert context.model.training
    assert all(value.requires_grad and value.grad is None for value in context.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in context.model.state_dict().items())


@pytest.mark.parametrize(("objective", "clipped"), [("ce", True), ("kl", False)])
def test_the_uniform_start_is_clipped_and_the_gaussian_one_is_not(objective, clipped):
    context, shown = _context(), []
    split = context.method_split
    context.method_split = type(split)(torch.zeros_like(split.x), split.y, split.index)
    context.model.register_forward_pre_hook(lambda _, images: shown.append(images[0].detach().clone()))
    attacked_split(context, steps=1, objective=objective)
    start = shown[1]  # after the clean images
    assert (float(start.min()) >= 0) == clipped
    assert float(start.max()) > 0


def test_clean_logits_are_those_of_the_model_in_eval_mode():
    context = _context()
    with torch.no_grad():
        expected = context.model.eval()(context.method_split.x)
    torch.testing.assert_close(attacked_split(context, steps=1).clean, expected)


def test_neither_batch_size_nor_the_number_of_images_around_one_changes_its_logits():
    whole, parts = _context(), _context()
    parts.recipe = parts.recipe.model_copy(update={"batch_size": 3})
    torch.testing.assert_close(attacked_split(whole, steps=3).adv, attacked_split(parts, steps=3).adv)


def test_the_noise_is_new_in_every_epoch():
    context = _context()
    first = attacked_split(context, steps=1).adv
    context.epoch = 1
    assert not torch.equal(first, attacked_split(context, steps=1).adv)


def test_a_run_without_a_method_split_is_told_what_is_missing():
    context = _context()
    context.method_split = None
    with pytest.raises(InvalidInput, match=r'add "method_split" to `needs`, and data\.method_per_class'):
        attacked_split(context, steps=1)
