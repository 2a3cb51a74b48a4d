from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from fairbench.attacks.projections import ascent_step, columns, distance, nearest_in_ball, nearest_on_hyperplane, unit
from fairbench.errors import InvalidInput

NORMS = ["Linf", "L2", "L1"]


def test_nearest_in_ball_by_hand() -> None:
    x, z = torch.tensor([[0.5, 0.5, 0.9]]), torch.tensor([[0.9, 0.4, 1.3]])
    assert torch.allclose(nearest_in_ball(z, x, 0.2, "Linf"), torch.tensor([[0.7, 0.4, 1.0]]))
    # the distance is sqrt(0.16 + 0.01 + 0.16) = 0.5745, so that half of it is kept
    assert torch.allclose(nearest_in_ball(z, x, 0.5744563, "L2"), torch.tensor([[0.9, 0.4, 1.0]]))
    assert torch.allclose(nearest_in_ball(z, x, 0.28722813, "L2"), torch.tensor([[0.7, 0.45, 1.0]]))
    # 0.4 and 0.1 and the room of 0.1 add up to 0.6; soft-thresholding by 0.15 leaves 0.25, 0 and 0.1
    assert torch.allclose(nearest_in_ball(z, x, 0.35, "L1"), torch.tensor([[0.75, 0.5, 1.0]]), atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.01, 3.0))
def test_l1_projection_is_the_nearest_point(seed: int, eps: float) -> None:
    draw = np.random.default_rng(seed)
    x, z = draw.random(5), draw.normal(0.5, 1.0, 5)
    ours = nearest_in_ball(torch.tensor(z[None]), torch.tensor(x[None]), eps, "L1")[0].numpy()
    # minimise over the two parts of the perturbation, d = p - q, which makes the ball linear
    found = minimize(
        lambda v: ((x + v[:5] - v[5:] - z) ** 2).sum(),
        np.zeros(10),
        jac=lambda v: np.concatenate((d := 2 * (x + v[:5] - v[5:] - z), -d)),
        bounds=[(0, 1 - value) for value in x] + [(0, value) for value in x],
        constraints={"type": "ineq", "fun": lambda v: eps - v.sum(), "jac": lambda v: -np.ones(10)},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert np.abs(ours - x).sum() <= eps + 1e-9
    assert ((ours >= 0) & (ours <= 1)).all()
    assert ((ours - z) ** 2).sum() <= found.fun + 1e-6


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.floats(0.0, 3.0))
def test_points_are_in_the_ball_and_in_the_box(seed: int, norm: str, eps: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, z = torch.rand(4, 1, 3, 3, generator=generator), 3 * torch.randn(4, 1, 3, 3, generator=generator)
    found = nearest_in_ball(z, x, eps, norm)  # type: ignore[arg-type]
    assert distance(found - x, norm).max() <= eps + 1e-5  # type: ignore[arg-type]
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.allclose(nearest_in_ball(x, x, eps, norm), x)  # type: ignore[arg-type]


def test_hyperplane_by_hand() -> None:
    x, w = torch.tensor([[0.5, 0.5, 0.9]]), torch.tensor([[1.0, -2.0, 1.0]])
    value = torch.tensor([-0.4])
    # Linf: 4 * 0.1 = 0.4 in all directions that raise it
    assert torch.allclose(nearest_on_hyperplane(x, w, value, "Linf"), torch.tensor([[0.6, 0.4, 1.0]]))
    # Linf with a pixel at its bound: 0.7 = (1 + 2) * 0.2 + 0.1
    bound = nearest_on_hyperplane(x, w, torch.tensor([-0.7]), "Linf")
    assert torch.allclose(bound, torch.tensor([[0.7, 0.3, 1.0]]))
    # L2: along w, 0.4 / 6 of it
    assert torch.allclose(nearest_on_hyperplane(x, w, value, "L2"), x + 0.4 / 6 * w)
    # L1: the steepest pixel alone
    assert torch.allclose(nearest_on_hyperplane(x, w, value, "L1"), torch.tensor([[0.5, 0.3, 0.9]]))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from(NORMS), st.floats(0.05, 0.95), st.booleans())
def test_hyperplane_against_a_solver(seed: int, norm: str, share: float, up: bool) -> None:
    draw = np.random.default_rng(seed)
    x, w = draw.random(6), draw.normal(0.0, 1.0, 6)
    sign = 1.0 if up else -1.0
    reach = np.abs(w) @ np.where(sign * w > 0, 1 - x, x)
    gap = share * reach
    ours = nearest_on_hyperplane(
        torch.tensor(x[None]),
        torch.tensor(w[None]),
        torch.tensor([-sign * gap]),
        norm,  # type: ignore[arg-type]
    )[0].numpy()
    assert w @ (ours - x) == pytest.approx(sign * gap, abs=1e-6)
    assert ((ours >= -1e-12) & (ours <= 1 + 1e-12)).all()
    assert _size(ours - x, norm) <= _solve(x, w, sign * gap, norm) + 1e-6


def _size(delta: np.ndarray, norm: str) -> float:  # type: ignore[type-arg]
    return float(np.linalg.norm(delta, {"Linf": np.inf, "L2": 2, "L1": 1}[norm]))


def _solve(x: np.ndarray, w: np.ndarray, gap: float, norm: str) -> float:  # type: ignore[type-arg]
    """Smallest size of d with w @ d = gap and x + d in [0,1]: linear programs, and a small quadratic one."""
    n, bounds = len(x), list(zip(-x, 1 - x, strict=True))
    eye, one = np.eye(n), np.ones((n, 1))
    if norm == "Linf":
        cost, upper = np.r_[np.zeros(n), 1.0], np.block([[eye, -one], [-eye, -one]])
        found = linprog(cost, upper, np.zeros(2 * n), np.r_[w, 0.0][None], [gap], [*bounds, (0, None)])
        return float(found.fun)
    if norm == "L1":
        cost, upper = np.r_[np.zeros(n), np.ones(n)], np.block([[eye, -eye], [-eye, -eye]])
        found = linprog(cost, upper, np.zeros(2 * n), np.r_[w, np.zeros(n)][None], [gap], bounds + [(0, None)] * n)
        return float(found.fun)
    found = minimize(
        lambda d: d @ d,
        np.zeros(n),
        jac=lambda d: 2 * d,
        bounds=bounds,
        constraints={"type": "eq", "fun": lambda d: w @ d - gap, "jac": lambda d: w},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return float(np.sqrt(found.fun))


@pytest.mark.parametrize("norm", NORMS)
def test_out_of_reach_is_the_corner_and_no_slope_stays(norm: str) -> None:
    x = torch.tensor([[0.2, 0.7], [0.2, 0.7]])
    w, value = torch.tensor([[1.0, -3.0], [0.0, 0.0]]), torch.tensor([-50.0, -1.0])
    found = nearest_on_hyperplane(x, w, value, norm)  # type: ignore[arg-type]
    assert torch.equal(found, torch.tensor([[1.0, 0.0], [0.2, 0.7]]))


def test_many_pixels_at_their_bounds_are_solved_to_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = torch.rand(200, 3072, generator=generator), torch.randn(200, 3072, generator=generator)
    for share in (0.1, 0.5, 0.9, 0.99):
        gap = share * (w.abs() * torch.where(w > 0, 1 - x, x)).sum(1)
        for norm in ("Linf", "L2", "L1"):
            found = nearest_on_hyperplane(x, w, -gap, norm)  # type: ignore[arg-type]
            assert float(((w * (found - x)).sum(1) / gap - 1).abs().max()) < 2e-3


def test_unit_and_columns() -> None:
    grad = torch.tensor([[3e-25, 4e-25], [0.0, 0.0], [-2.0, 0.0]])
    assert torch.allclose(unit(grad), torch.tensor([[0.6, 0.8], [0.0, 0.0], [-1.0, 0.0]]))
    assert columns(torch.ones(3), torch.zeros(3, 1, 2, 2)).shape == (3, 1, 1, 1)


def test_steepest_ascent_has_a_step_in_linf_and_l2_alone() -> None:
    x, gradient = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([[[[3.0, 4.0]]]])
    assert torch.allclose(ascent_step("Linf")(x, gradient, x, 0.2, 0.1), torch.tensor([[[[0.6, 0.6]]]]))
    assert torch.allclose(ascent_step("L2")(x, gradient, x, 0.2, 0.1), torch.tensor([[[[0.56, 0.58]]]]))
    with pytest.raises(InvalidInput, match="Linf and L2, not in L1"):
        ascent_step("L1")
