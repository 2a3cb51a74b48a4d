from __future__ import annotations

import json
import re

import pytest

from fairbench import registry
from fairbench.authoring.catalogue import describe_name, render_facts
from fairbench.errors import InvalidInput, UnknownName
from fairbench.method.composition import resolve_method
from fairbench.methods.trades import OWN_BALL


def _parameters(facts):
    return {row["name"]: row for row in facts["hyper_parameters"]}


def test_a_method_with_its_paper_and_its_parts():
    facts = describe_name(registry.methods, "absld")
    assert facts["kind"] == "method"
    assert facts["summary"].startswith("ABSLD: RSLAD with class-wise temperatures")
    assert "arXiv 2312.05508" in facts["citation"]
    assert facts["provenance"].startswith("paper: follows the paper")
    assert (facts["base"], facts["policies"], facts["needs"]) == ("rslad", ["absld_temperatures"], ["teacher"])
    assert {row["vector"] for row in facts["reads"]} >= {"temperature_adv", "temperature_clean"}
    assert all(row["meaning"] for row in facts["reads"])
    assert _parameters(facts)["absld.temperature_low"] == {
        "name": "absld.temperature_low",
        "type": "float",
        "default": 0.5,
        "source": "code: zhaoshiji123/ABSLD",
    }


def test_what_a_method_declares_about_its_paper(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    facts = describe_name(registry.methods, "dafa")
    assert facts["search_space"] == [
        {"name": "dafa.lam", "values": [0.5, 1.0, 1.5]},
        {"name": "dafa.beta", "values": [1.0, 3.0, 6.0]},
    ]
    recipe = {row["setting"]: row["value"] for row in facts["paper_recipe"]}
    assert (recipe["lr"], recipe["weight_decay"], recipe["nesterov"], recipe["epochs"]) == (0.1, 5e-4, True, 110)
    sentences = [row["sentence"] for row in facts["departures"]]
    assert sentences[0] == OWN_BALL
    assert len(set(sentences)) == len(sentences) == 4
    assert _parameters(facts)["dafa.lam"]["source"].endswith("; 1.5 above 10 classes")
    assert "dafa_weights.lam" not in _parameters(facts)  # dafa.lam sets it too
    order = _parameters(facts)["dafa.pass_order"]
    assert (order["type"], order["default"]) == ("word", "adv-clean")
    assert "; one of clean-adv, adv-clean, clean-adv-clean" in order["source"]
    lines = render_facts(facts).splitlines()
    assert "search space of tuning, beside the learning rate" in lines
    assert "optimiser of the paper" in lines
    assert lines[lines.index("departures from the authors' code") + 2] == f"  {sentences[0]}"


def test_a_method_that_declares_nothing_says_none():
    text = render_facts(describe_name(registry.methods, "sat"))
    assert re.search(r"^  search space +none$", text, re.MULTILINE)


def test_options_of_a_named_composition_are_its_defaults():
    row = _parameters(describe_name(registry.methods, "absld_released"))["absld_released.shared_storage"]
    assert row["default"] is True
    assert row["source"].startswith("set by absld_released; otherwise False (paper: ")


def test_a_composition_that_nobody_published():
    facts = describe_name(registry.methods, "rslad+absld_temperatures")
    assert facts["provenance"].startswith("composition: ")
    assert facts["citation"] == ""
    assert "absld_temperatures.temperature_rate" in _parameters(facts)
    assert "rslad.kl_scale" in _parameters(facts)


@pytest.mark.parametrize("name", [*registry.methods.names(), "rslad+absld_temperatures"])
def test_every_name_that_is_listed_can_be_set(name):
    facts = describe_name(registry.methods, name)
    given = {row["name"]: row["default"] for row in facts["hyper_parameters"]}
    assert resolve_method(name, given).options == resolve_method(name).options
    json.dumps(facts)


def test_two_parts_with_one_name_are_told_apart(tmp_path, monkeypatch):
    (tmp_path / "twice.py").write_text(
        "from fairbench import ClassPolicy, hyper, register_policy\n"
        "@register_policy('twice_weights')\n"
        "class Twice(ClassPolicy):\n"
        "    supplies = ('weight',)\n"
        "    beta: float = hyper(2.0, source='test')\n"
    )
    monkeypatch.setattr(registry, "_plugin_files", {tmp_path / "twice.py": None})
    rows = _parameters(describe_name(registry.methods, "trades+twice_weights"))
    assert rows["twice_weights.beta"]["default"] == 2.0
    assert rows["trades.beta"]["default"] == 6.0


def test_unknown_names_and_parts_that_do_not_fit_are_one_line():
    with pytest.raises(UnknownName, match=r"^unknown method 'absl'; did you mean 'absld'\?$"):
        describe_name(registry.methods, "absl")
    with pytest.raises(UnknownName, match=r"^unknown class policy 'absld_temp'; did you mean 'absld_temperatures'\?$"):
        describe_name(registry.methods, "rslad+absld_temp")
    with pytest.raises(InvalidInput, match="steers by temperature_adv"):
        describe_name(registry.methods, "sat+absld_temperatures")
    with pytest.raises(UnknownName, match=r"unknown dataset 'digit'; did you mean 'digits'"):
        describe_name(registry.datasets, "digit")


def test_a_class_policy():
    facts = describe_name(registry.policies, "absld_temperatures")
    assert [row["vector"] for row in facts["supplies"]] == ["temperature_adv", "temperature_clean"]
    assert "absld_temperatures.temperature_low" in _parameters(facts)


def test_a_data_set_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRBENCH_DATA", str(tmp_path))
    assert describe_name(registry.datasets, "digits")["found"] == "needs no download"
    assert describe_name(registry.datasets, "svhn")["found"] == "missing; get it with: fairbench datasets get svhn"
    (tmp_path / "train_32x32.mat").touch()
    assert describe_name(registry.datasets, "svhn")["found"] == f"found in {tmp_path}"


def test_models_and_attacks_list_their_arguments():
    model = describe_name(registry.models, "small-cnn")
    assert {"name": "width", "type": "int", "default": 16} in model["arguments"]
    attack = describe_name(registry.attacks, "pgd")
    rows = {row["name"]: row for row in attack["arguments"]}
    assert rows["steps"]["default"] == 20
    assert rows["iterate"]["type"] == "any | last"
    assert rows["loss"]["type"].endswith("| function")
    assert "eps" not in rows
    assert attack["usage"] == ["pgd", "pgd-STEPS", "pgd-STEPS:NAME=VALUE,..."]
    assert {"rel_step", "per_class"} < rows.keys()
    assert [row["name"] for row in describe_name(registry.attacks, "clean")["arguments"]] == ["per_class"]
    assert "per_class" not in {row["name"] for row in model["arguments"]}


@pytest.mark.parametrize("kind", ["methods", "policies", "datasets", "models", "attacks"])
def test_everything_registered_can_be_shown(kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    table = getattr(registry, kind)
    for name in table.names():
        facts = describe_name(table, name)
        text = render_facts(facts)
        assert text.splitlines()[0] == f"{name} ({table.kind})"
        assert facts["summary"].split()[0] in text
        json.dumps(facts)


def test_text_is_wrapped_and_aligned(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    rows = [
        {"name": "a.b", "default": 1 / 3, "source": "a long reason " * 5},
        {"name": "c", "default": (), "source": ""},
    ]
    facts = {"name": "x", "kind": "method", "summary": "word " * 20, "citation": "", "policies": [], "rows": rows}
    assert render_facts(facts).splitlines() == [
        "x (method)",
        "  summary   word word word word word word word word word",
        "            word word word word word word word word word",
        "            word word",
        "  policies  none",
        "",
        "rows",
        "  name  default   source",
        "  a.b   0.333333  a long reason a long reason a long reason",
        "                  a long reason a long reason",
        "  c     none",
    ]
