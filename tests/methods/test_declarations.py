"""Declarations of methods: departures, the optimiser of their paper, the search space of tuning, constants."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from fairbench import registry
from fairbench.method.composition import departures, method_parts, paper_recipe, resolve_method, search_space
from fairbench.suites.sections import Recipe

NAMES = [name for name in registry.methods.names() if registry.methods.entry(name).module.startswith("fairbench.")]


@pytest.mark.parametrize("name", NAMES)
def test_departures_are_sentences_and_the_papers_optimiser_is_a_recipe(name: str):
    assert all(len(sentence) > 20 and sentence.endswith(".") for sentence in departures(name))
    Recipe().override(paper_recipe(name), name)
    if registry.methods.details(name).get("provenance") not in ("ablation", "reconstruction"):
        assert paper_recipe(name).keys() >= {"lr", "weight_decay", "nesterov"}


@pytest.mark.parametrize("name", NAMES)
def test_every_value_that_tuning_tries_can_be_set_and_the_default_is_among_them(name: str):
    default = resolve_method(name)
    for key, values in search_space(name).items():
        assert len(set(values)) == len(values) >= 2
        found = [resolve_method(name, {key: value}) for value in values]
        assert default in found, key
        assert len({str(spec.options) for spec in found}) == len(values)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("trades", "trades.beta"),
        ("absld", "absld.kl_scale"),
        ("fair_rslad", "fair_rslad.kl_scale"),
        ("cfa_trades", "cfa_trades.lambda_1"),
        ("dafa", "dafa.lam"),
        ("wat", "wat.eta"),
        ("faal_trades", "faal_trades.radius"),
        ("ham", "ham.classify_step"),
        ("sat_awp", "sat_awp.gamma"),
        ("label_smoothing", "label_smoothing.smoothing"),
    ],
)
def test_the_main_knob_comes_first(name: str, first: str):
    assert next(iter(search_space(name))) == first


@pytest.mark.parametrize(
    "name", ["rslad", "absld", "absld_released", "fair_rslad", "mtard", "ard", "fair_ard", "adaad"]
)
def test_distillers_try_both_scales(name: str):
    assert search_space(name).get(f"{name}.kl_scale") == (0.1, 1.0)


def test_a_knob_that_policies_inherit_from_one_class_moves_them_together():
    options = resolve_method("dafa", {"dafa.lam": 0.5}).options
    assert (options["dafa_weights"]["lam"], options["dafa_margins"]["lam"]) == (0.5, 0.5)
    apart = resolve_method("dafa", {"dafa_weights.lam": 0.5}).options
    assert (apart["dafa_weights"]["lam"], apart["dafa_margins"]["lam"]) == (0.5, 1.0)


@pytest.mark.parametrize(
    ("name", "setting", "few", "many"),
    [
        ("adaad", "adaad.kl_scale", 0.1, 1.0),
        ("ard", "ard.kl_scale", 0.1, 0.01),
        ("fair_ard", "ard.kl_scale", 0.1, 0.01),
        ("rslad", "rslad.kl_scale", 0.1, 0.1),
        ("absld", "rslad.kl_scale", 0.1, 0.1),
        ("dafa", "dafa_weights.lam", 1.0, 1.5),
        ("dafa", "dafa_margins.lam", 1.0, 1.5),
        ("ham", "ham.begin", 49 / 120, 59 / 120),
        ("ham", "ham.classify_step", 3, 3),
    ],
)
def test_constants_of_cifar_10_and_of_cifar_100(name: str, setting: str, few: float, many: float):
    part, _, field = setting.partition(".")
    for classes, value in ((10, few), (11, many), (100, many)):
        assert resolve_method(name, num_classes=classes).options[part][field] == value
    given = resolve_method(name, {setting: few}, num_classes=100)
    assert given.options[part][field] == few


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("mart", {"lr": 0.01, "weight_decay": 3.5e-3, "nesterov": False, "epochs": 120}),
        ("dafa", {"lr": 0.1, "weight_decay": 5e-4, "nesterov": True, "epochs": 110}),
        ("fair_rslad", {"lr": 0.1, "weight_decay": 2e-4, "nesterov": True, "epochs": 300}),
        ("fair_ard", {"lr": 0.1, "weight_decay": 2e-4, "nesterov": True, "epochs": 200}),
        ("ham", {"lr": 0.1, "weight_decay": 2e-4, "nesterov": False, "epochs": 120}),
        ("cfa_trades", {"lr": 0.1, "weight_decay": 5e-4, "nesterov": False, "epochs": 200}),
        ("trades_awp", {"lr": 0.1, "weight_decay": 5e-4, "nesterov": False, "epochs": 200}),
        ("wat", {"lr": 0.1, "weight_decay": 2e-4, "nesterov": False, "epochs": 100}),
        ("faal", {"lr": 0.01, "weight_decay": 5e-4, "nesterov": False, "epochs": 2}),
    ],
)
def test_optimisers_of_the_scripts(name: str, own: dict):
    assert own.items() <= paper_recipe(name).items()


@pytest.mark.parametrize("name", NAMES)
def test_every_default_has_a_source(name: str):
    for part in method_parts(name)[1].values():
        assert all(row.source for row in part.hyper_parameters())


def test_method_files_are_short():
    folder = Path(registry.methods.entry("sat").path).parent
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in folder.glob("*.py")}
    assert {name: length for name, length in lengths.items() if length >= 120} == {}
    assert all(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) for path in folder.glob("*.py"))
