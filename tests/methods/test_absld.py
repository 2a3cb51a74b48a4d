from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.special import log_softmax, softmax
from torch import nn

import miniature
from fairbench.data import load_dataset
from fairbench.data.batch import Batch
from fairbench.method.composition import build_method, resolve_method
from fairbench.method.context import Context
from fairbench.method.record import ClassRecord
from fairbench.methods.absld import ABSLDTemperatures, absld_loss, scaled_rate, soften, update_temperatures
from fairbench.methods.rslad import rslad_loss
from fairbench.models import build_model
from fairbench.results.folder import RunFolder
from fairbench.run.plan import plan
from fairbench.suites.sections import Recipe
from fairbench.suites.suite import Suite
from fairbench.train.loop import train

# ---------------------------------------------------------------- the update rule


def test_update_by_hand():
    tau, risk = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 1.0, 1.0])
    # mean 2; gaps 2, -1, -1; the largest is 2
    torch.testing.assert_close(update_temperatures(tau, risk, 0.1, 0.5, 5.0), torch.tensor([0.9, 2.05, 3.05]))


def test_the_farthest_class_may_be_the_easiest():
    tau = update_temperatures(torch.ones(4), torch.tensor([1.0, 1.0, 1.0, 0.0]), 0.1, 0.5, 5.0)
    torch.testing.assert_close(tau, torch.tensor([1 - 0.1 / 3, 1 - 0.1 / 3, 1 - 0.1 / 3, 1.1]))


def test_temperatures_stop_at_their_bounds():
    tau, risk = torch.tensor([0.55, 4.95, 1.0]), torch.tensor([2.0, 0.0, 1.0])
    torch.testing.assert_close(update_temperatures(tau, risk, 0.1, 0.5, 5.0), torch.tensor([0.5, 5.0, 1.0]))


@given(st.integers(2, 200), st.floats(0, 1e6, width=32), st.sampled_from([torch.float32, torch.float64]))
def test_equal_risks_change_nothing(classes, risk, dtype):
    tau = torch.linspace(0.5, 5, classes, dtype=dtype)
    assert torch.equal(update_temperatures(tau, torch.full((classes,), risk, dtype=dtype), 0.1, 0.5, 5.0), tau)


@given(
    st.lists(st.integers(0, 1000).map(lambda n: n / 8), min_size=2, max_size=100).filter(lambda r: len(set(r)) > 1),
    st.floats(0, 0.4),
)
def test_the_farthest_moves_by_the_rate_and_each_against_its_gap(risks, rate):
    risk = torch.tensor(risks, dtype=torch.float64)
    tau = torch.full_like(risk, 1.0)
    moved = update_temperatures(tau, risk, rate, 0.5, 5.0) - tau
    gap = np.array(risks) - np.mean(risks)
    farthest = int(np.abs(gap).argmax())
    assert moved[farthest].item() == pytest.approx(-math.copysign(rate, gap[farthest]), abs=1e-12)
    np.testing.assert_allclose(moved.numpy(), -rate * gap / np.abs(gap).max(), atol=1e-9)


@given(st.lists(st.floats(0, 100, width=32), min_size=3, max_size=10), st.floats(0.125, 8))
def test_only_the_differences_of_the_risks_and_not_their_scale_count(risks, scale):
    risk = torch.tensor(risks, dtype=torch.float64)
    assume(risk.max() - risk.min() > 1e-3)
    tau = torch.ones_like(risk)
    expected = update_temperatures(tau, risk, 0.1, 0.5, 5.0)
    torch.testing.assert_close(update_temperatures(tau, risk * scale + 3, 0.1, 0.5, 5.0), expected, rtol=0, atol=1e-6)


def test_the_rate_is_exact_and_the_input_untouched():
    tau = torch.ones(10)
    after = update_temperatures(tau, torch.arange(10.0), 0.1, 0.5, 5.0)
    assert after[9].item() == pytest.approx(0.9, abs=1e-7)
    assert after[0].item() == pytest.approx(1.1, abs=1e-7)
    assert torch.equal(tau, torch.ones(10))


# ---------------------------------------------------------------- loss


def reference_kl(target: np.ndarray, logits: np.ndarray) -> np.ndarray:
    return (target * (np.log(target) - log_softmax(logits, axis=1))).sum(axis=1)


def test_loss_by_hand():
    log3, uniform = math.log(3), torch.tensor([[0.5, 0.5]])
    student = torch.tensor([[log3, 0.0]])  # KL(uniform || student) = log(4/3) / 2
    half = 0.5 * math.log(4 / 3)
    flat = torch.zeros(1, 2)
    assert absld_loss(student, flat, uniform, uniform).item() == pytest.approx(0.1 * 5 / 6 * half)
    assert absld_loss(flat, student, uniform, uniform).item() == pytest.approx(0.1 * 1 / 6 * half)


def test_loss_agrees_with_float64():
    rng = np.random.default_rng(0)
    adv, clean, teacher = rng.normal(0, 3, (3, 16, 10))
    soft_adv, soft_clean = softmax(teacher / 2, axis=1), softmax(teacher / 0.5, axis=1)
    expected = 0.1 * (5 / 6 * reference_kl(soft_adv, adv).mean() + 1 / 6 * reference_kl(soft_clean, clean).mean())
    ours = absld_loss(*(torch.from_numpy(array) for array in (adv, clean, soft_adv, soft_clean)))
    assert ours.shape == ()
    assert ours.item() == pytest.approx(expected, rel=1e-5)


def test_loss_on_ten_classes_is_the_released_mean_over_elements():
    torch.manual_seed(0)
    adv, clean, teacher = torch.randn(3, 8, 10)
    soft = torch.softmax(teacher, dim=1)
    released = nn.KLDivLoss(reduction="mean")
    with pytest.warns(UserWarning, match="batchmean"):
        terms = [released(torch.log_softmax(logits, dim=1), soft) for logits in (adv, clean)]
    torch.testing.assert_close(absld_loss(adv, clean, soft, soft), 5 / 6 * terms[0] + 1 / 6 * terms[1])


def test_loss_with_all_temperatures_at_one_is_that_of_rslad():
    torch.manual_seed(0)
    adv, clean, teacher = torch.randn(3, 8, 7)
    soft = soften(teacher, torch.arange(8) % 7, torch.ones(7))
    assert torch.equal(absld_loss(adv, clean, soft, soft), rslad_loss(adv, clean, teacher))


# ---------------------------------------------------------------- the policy in the method


def context(model: nn.Module | None = None, **settings) -> Context:
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    recipe = Recipe(attack_steps=2, attack_rel_step=0.5)
    return miniature.context(model, **{"recipe": recipe, "epochs": 300, **settings})


@pytest.mark.parametrize(
    ("name", "adv", "clean"), [("absld", (2.0, 2.0), (5.0, 5.0)), ("absld_released", (10.0, 10.0), (10.0, 10.0))]
)
def test_targets_of_the_paper_and_of_the_released_script(name, adv, clean):
    """Temperatures of 2 and 5 soften by 2 and 5 in the paper, by 10 in the published script."""
    method = build_method(resolve_method(name))
    method.setup(context())
    (policy,) = method.policies
    policy.temperature_adv = torch.tensor([1.0, 2.0, 1.0])
    policy.temperature_clean = torch.tensor([1.0, 5.0, 1.0])
    z, y = torch.tensor([[3.0, -1.0, 0.5], [0.0, 4.0, 2.0]]), torch.tensor([1, 1])
    for vector, divisors in (("temperature_adv", adv), ("temperature_clean", clean)):
        expected = torch.softmax(z / torch.tensor(divisors)[:, None], dim=1)
        torch.testing.assert_close(soften(z, y, method.vector(vector)), expected)


class Teacher(nn.Module):
    """Returns the same logits for every image."""

    def forward(self, x):
        return torch.tensor([3.0, -1.0, 0.5]).expand(len(x), 3)


def test_the_method_minimises_absld_loss():
    method = build_method(resolve_method("absld"))
    method.setup(context(teacher=Teacher()))
    (policy,) = method.policies
    policy.temperature_adv = torch.tensor([2.0, 0.5, 1.0])
    policy.temperature_clean = torch.tensor([5.0, 1.0, 3.0])
    drawn = Batch(torch.rand(6, 1, 2, 2), torch.arange(6) % 3, torch.arange(6))
    model = method.context.model
    attacked = method.attack(model, drawn)
    output = method.loss(model, drawn, attacked)
    z = Teacher()(drawn.x)
    targets = [soften(z, drawn.y, tau) for tau in (policy.temperature_adv, policy.temperature_clean)]
    torch.testing.assert_close(output.loss, absld_loss(model(attacked.x_adv), model(drawn.x), *targets))
    torch.testing.assert_close(output.logits_adv, model(attacked.x_adv))
    torch.testing.assert_close(output.logits_clean, model(drawn.x))


def record(adv: list[float], clean: list[float]) -> ClassRecord:
    found = ClassRecord(3, torch.device("cpu"))
    found.add(torch.arange(3), {"ce_adv": torch.tensor(adv), "ce_clean": torch.tensor(clean)})
    return found


def test_each_set_follows_the_risk_of_its_own_branch():
    policy = ABSLDTemperatures()
    policy.setup(context())
    policy.end_epoch(record([3.0, 0.0, 0.0], [0.0, 1.0, 2.0]))
    torch.testing.assert_close(policy.temperature_adv, torch.tensor([0.9, 1.05, 1.05]))
    torch.testing.assert_close(policy.temperature_clean, torch.tensor([1.1, 1.0, 0.9]))
    assert set(policy.state_dict()) == {"temperature_adv", "temperature_clean", "temperature_rate_in_use"}


@pytest.mark.parametrize(
    ("epochs", "epoch", "rate"),
    [
        (300, 213, 0.1),  # the paper's epochs 215, 260 and 285 count from 1, and the drop holds at the end of each
        (300, 214, 0.01),
        (300, 258, 0.01),
        (300, 259, 0.001),
        (300, 284, 0.0001),
        (150, 106, 0.2),
        (150, 107, 0.02),
        (60, 41, 0.5),
        (60, 42, 0.05),
        (60, 56, 0.0005),
        (3, 1, 0.5),
        (3, 2, 0.0005),
    ],
)
def test_the_rate_drops_with_the_schedule_scaled_to_the_suites_epochs(epochs, epoch, rate):
    policy = ABSLDTemperatures()
    policy.setup(context(epochs=epochs, epoch=epoch))
    policy.end_epoch(record([3.0, 0.0, 0.0], [0.0, 0.0, 0.0]))
    assert 1 - policy.temperature_adv[0].item() == pytest.approx(rate, rel=2e-3)
    assert policy.temperature_clean.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("epochs", "rate"), [(15, 0.5), (30, 0.5), (60, 0.5), (100, 0.3), (150, 0.2), (200, 0.15), (300, 0.1), (600, 0.05)]
)
def test_the_rate_keeps_the_share_of_the_run_in_which_temperatures_reach_their_bounds(epochs, rate):
    assert scaled_rate(epochs) == pytest.approx(rate, abs=1e-15)


@given(st.integers(60, 10_000))
def test_from_sixty_epochs_on_the_rate_times_the_epochs_is_constant(epochs):
    assert scaled_rate(epochs) * epochs == pytest.approx(30)


def test_the_authors_rate_can_be_chosen_for_every_schedule():
    policy = ABSLDTemperatures(temperature_rate=0.1)
    policy.setup(context(epochs=60))
    policy.end_epoch(record([3.0, 0.0, 0.0], [0.0, 0.0, 0.0]))
    torch.testing.assert_close(policy.temperature_adv, torch.tensor([0.9, 1.05, 1.05]))


def test_the_bounds_are_hyper_parameters():
    policy = ABSLDTemperatures(temperature_low=0.95, temperature_high=1.02)
    policy.setup(context())
    policy.end_epoch(record([3.0, 0.0, 0.0], [3.0, 0.0, 0.0]))
    torch.testing.assert_close(policy.temperature_adv, torch.tensor([0.95, 1.02, 1.02]))


# ---------------------------------------------------------------- real steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return `weights(method, **settings)`: the last weights after three epochs of training through the trainer."""
    home = tmp_path_factory.mktemp("absld")
    rng = np.random.default_rng(0)
    for split, per_class in (("train", 12), ("test", 2)):
        labels = np.arange(3 * per_class) % 3
        images = (rng.integers(0, 120, (len(labels), 8, 8, 1)) + 50 * labels[:, None, None, None]).astype(np.uint8)
        np.savez(home / f"{split}.npz", images=images, labels=labels)
    suite = Suite.model_validate(
        {
            "name": "tiny",
            "data": {"name": f"npz:{home}/train.npz,{home}/test.npz", "validation_per_class": 2},
            "model": "small-cnn:width=4,batchnorm=true",
            "teacher": {"method": "trades"},
            "threat": {"eps": 0.1},
            "recipe": {"epochs": 3, "batch_size": 10, "crop_padding": 1, "attack_steps": 3},
            "selection": {"attack": "pgd-2:rel_step=0.75"},
            "evaluation": {"best": ["clean"], "last": ["clean"]},
            "methods": ["absld"],
        }
    )
    dataset = load_dataset(suite.data.name)
    torch.manual_seed(7)
    teacher = build_model(suite.model, num_classes=3, shape=dataset.shape).eval().requires_grad_(False)

    def weights(method: str, **settings: float) -> dict[str, torch.Tensor]:
        overrides = {f"{method}.{key}": value for key, value in settings.items()}
        spec = plan(suite, methods=[method], overrides=overrides)[-1]
        folder = RunFolder(home / method / "-".join(["run", *settings]))
        folder.path.mkdir(parents=True, exist_ok=True)
        train(spec, folder, dataset, teacher=teacher)
        return load_file(folder.last)

    weights.home = home
    return weights


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_absld_with_rate_zero_is_rslad_bit_for_bit(trained):
    rslad = trained("rslad")
    assert same(trained("absld", temperature_rate=0.0), rslad)
    assert same(trained("absld_released", temperature_rate=0.0), rslad)
    assert all(torch.isfinite(value).all() for value in rslad.values())


def test_the_rate_of_every_epoch_stands_in_the_history(trained):
    """By hand for three epochs: min(0.5, 0.1 * 300 / 3), dropped three times before the last update of the run."""
    trained("absld")
    rows = RunFolder(trained.home / "absld" / "run").read_history()
    assert [float(row["temperature_rate_in_use"]) for row in rows] == pytest.approx([0.5, 0.5, 0.0005], rel=1e-12)
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    moved = [float(rows[0][f"temperature_adv[{number}]"]) - 1 for number in range(3)]
    assert max(map(abs, moved)) == pytest.approx(0.5, abs=1e-6)


def test_absld_with_its_rate_is_neither_rslad_nor_the_released_script(trained):
    assert not same(trained("absld"), trained("rslad+absld_temperatures", temperature_rate=0.0))
    assert not same(trained("absld", shared_storage=False), trained("absld_released"))
