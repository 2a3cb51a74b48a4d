import pytest

from fairbench import catalogue, registry
from fairbench.errors import UnknownName


def _settings(facts):
    return {row["setting"]: row for row in facts["hyper_parameters"]}


def test_a_named_composition_shows_parts_settings_defaults_and_sources():
    facts = catalogue.describe(registry.methods, "absld")
    assert (facts["base"], facts["policies"], facts["needs"]) == ("rslad", ["absld_temperatures"], ["teacher"])
    assert facts["provenance"].startswith("paper")
    assert "2312.05508" in facts["citation"]
    settings = _settings(facts)
    assert settings["absld.temperature_rate"]["default"] == 0.1
    assert settings["absld.kl_scale"]["source"].startswith("code: zibojia/RSLAD")
    assert settings["absld.shared_storage"]["default"] is False


def test_options_of_a_named_composition_replace_the_defaults():
    assert _settings(catalogue.describe(registry.methods, "absld_released"))["absld_released.shared_storage"]["default"]


def test_a_free_combination_says_that_no_paper_reports_it():
    facts = catalogue.describe(registry.methods, "rslad+absld_temperatures")
    assert facts["provenance"].startswith("composition")
    assert "rslad+absld_temperatures.temperature_low" in _settings(facts)


@pytest.mark.parametrize(
    ("registered", "name", "wanted"),
    [
        (registry.policies, "absld_temperatures", "supplies: temperature_adv, temperature_clean"),
        (registry.attacks, "pgd", "arguments: norm=Linf, steps=20"),
        (registry.models, "small-cnn", "arguments: width=16"),
        (registry.datasets, "digits", "kind: data set"),
    ],
)
def test_every_registry_can_be_shown(registered, name, wanted):
    assert wanted in catalogue.render(catalogue.describe(registered, name))


def test_the_table_lines_up():
    lines = catalogue.render(catalogue.describe(registry.methods, "trades")).splitlines()
    header = next(line for line in lines if line.lstrip().startswith("setting"))
    row = next(line for line in lines if "trades.beta" in line)
    assert header.index("default") == row.index("6")


@pytest.mark.parametrize("registered", [registry.methods, registry.attacks])
def test_an_unknown_name_is_one_error(registered):
    with pytest.raises(UnknownName, match="unknown"):
        catalogue.describe(registered, "no_such_thing")
