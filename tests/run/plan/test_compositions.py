"""Methods composed of a base and policies, from the package and from a plug-in."""

from __future__ import annotations

import pytest
from planned import PLUGIN, suite

from fairbench.errors import InvalidInput, UnknownName
from fairbench.method.composition import build_method, resolve_method
from fairbench.run.plan import plan


def test_a_named_composition_resolves_to_its_parts():
    absld, released = resolve_method("absld"), resolve_method("absld_released")
    assert (absld.base, absld.policies, absld.provenance, absld.source_hash) == (
        "rslad",
        ("absld_temperatures",),
        "paper",
        "",
    )
    assert absld.options["rslad"] == {"kl_scale": 0.1, "clean_share": 1 / 6}
    assert absld.options["absld_temperatures"]["shared_storage"] is False
    assert released.options["absld_temperatures"]["shared_storage"] is True
    method = build_method(released)
    assert [type(part).__name__ for part in (method, *method.policies)] == ["RSLAD", "ABSLDTemperatures"]
    assert method.policies[0].shared_storage is True
    assert method.required == {"teacher"}


def test_a_composition_in_place_has_the_same_parts_under_its_own_name():
    composed, absld = resolve_method("rslad+absld_temperatures"), resolve_method("absld")
    assert (composed.name, composed.provenance) == ("rslad+absld_temperatures", "composition")
    assert (composed.base, composed.policies, composed.options) == (absld.base, absld.policies, absld.options)


@pytest.mark.parametrize("base", ["sat", "trades"])
def test_a_policy_that_steers_what_the_base_does_not_read_is_refused(base):
    message = f"^{base}[+]absld_temperatures: .* steers by temperature_adv, temperature_clean, which .* does not read"
    with pytest.raises(InvalidInput, match=message):
        plan(suite(), methods=["rslad", f"{base}+absld_temperatures"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absdl", r"unknown method 'absdl'; did you mean 'absld'\?"),
        ("rslad+absld_temperature", r"unknown class policy '.*'; did you mean 'absld_temperatures'\?"),
        ("rslad+", "unknown class policy ''"),
        ("", "unknown method ''"),
        ("absld_temperatures", "unknown method 'absld_temperatures'; did you mean"),
        ("absld+absld_temperatures", "absld[+]absld_temperatures: absld_temperatures is in it twice"),
    ],
)
def test_a_wrong_method_is_one_line(name, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        plan(suite(), methods=[name])


@pytest.mark.usefixtures("_plugins")
def test_compositions_of_a_plugin_resolve_or_are_refused(tmp_path):
    weighed = resolve_method("weighed")
    assert weighed.options == {"tuned": {"rate": 0.75}, "weigher": {"rate": 1.0, "strength": 3.0}}
    assert len(weighed.source_hash) == 12
    with pytest.raises(UnknownName, match=r"unknown option of misspelt 'wiegher.strength'; did you mean 'weigher.str"):
        resolve_method("misspelt")
    with pytest.raises(InvalidInput, match=r"^tower: None is no Method$"):
        resolve_method("tower")


@pytest.mark.usefixtures("_plugins")
def test_a_source_hash_covers_plugins_and_not_the_package(tmp_path):
    before = resolve_method("tuned").source_hash
    (tmp_path / "mine.py").write_text(PLUGIN + "\n# a new version\n")
    assert resolve_method("tuned").source_hash != before
    assert resolve_method("sat").source_hash == ""
