from __future__ import annotations

import json
from pathlib import Path

import pytest
from doc_scripts import doc_script

from fairbench.leaderboard.columns import ROLES
from fairbench.results.folder import RunFolder
from fairbench.run import costs
from fairbench.run.benchmark import prepare_plan

NETWORK = "small-cnn:width=16,batchnorm=true"


def test_the_shipped_costs_hold_every_committed_method_and_are_scaled_by_the_probe(monkeypatch):
    reference = costs._table()["probe"]
    monkeypatch.setattr(costs, "probe", lambda: costs.Probe(reference, 2.0))
    (sat,) = prepare_plan("digits", methods=["sat"], seeds=[0])
    assert costs.cost_key(sat) == f"{NETWORK} digits cpu"
    slow = costs.shipped(sat)
    monkeypatch.setattr(costs, "probe", lambda: costs.Probe(2 * reference, 1.0))
    found = costs.shipped(sat)
    assert slow == found  # half the speed takes as long as half of every core
    table = costs._table()["costs"][f"{NETWORK} digits cpu"]
    results = Path(__file__).parents[2] / "results" / "digits"
    trained = {path.parent.parent.name for path in results.glob("*/*/run.json")}
    assert {"sat", "absld"} < trained - set(ROLES) <= set(found.epochs)  # a teacher may be another network
    assert found.epoch("sat") == pytest.approx(2 * table["epochs"]["sat"])
    assert found.attack("pgd-20") == pytest.approx(2 * table["attacks"]["pgd-20"] * 500)
    assert found.attack("pgd-20", 3) == pytest.approx(2 * table["attacks"]["pgd-20"] * 30)
    assert found.attack("another") is None
    assert found.start == pytest.approx(2 * costs.START_SECONDS)
    assert costs.shipped(sat.model_copy(update={"model": "another"})) is None


def test_runs_with_fewer_training_images_have_costs_of_their_own():
    (sat,) = prepare_plan("digits", methods=["sat"], seeds=[0])
    fewer = sat.model_copy(update={"data": sat.data.model_copy(update={"train_per_class": 50})})
    assert costs.cost_key(fewer) == f"{NETWORK} digits:50 cpu"
    assert costs.shipped(fewer) is None
    table = costs._table()["costs"]
    assert "resnet-micro cifar10-exact:1100 cpu" in table


def test_costs_are_medians_by_epoch_and_image(finished, tmp_path, monkeypatch):
    spec, results = finished
    record = RunFolder(results / spec.folder).read()
    monkeypatch.setattr(costs, "probe", lambda: costs.Probe(0.5, 3.0))
    found = costs.collect(results)
    json.dumps(found)
    assert found["probe"] == 0.5
    (key,) = found["costs"]
    assert key == f"{spec.model} {spec.data.name} cpu"
    table = found["costs"][key]
    images = len(RunFolder(results / spec.folder).read_verdicts()["labels"])
    assert (table["images"], table["classes"]) == (images, len(record["class_names"]))
    seconds = record["cost"]["train_seconds"] / spec.recipe.epochs
    assert table["epochs"][spec.label] == pytest.approx(seconds, rel=0.01)


def test_the_probe_takes_about_a_second_and_measures_something():
    found = costs.probe()
    assert 0 < found.seconds < 1
    assert found.load >= 1


def test_the_script_prints_what_it_measured_and_writes_only_the_file_it_is_told(tmp_path, monkeypatch, capsys):
    """It had ignored its arguments, `--help` too, and overwritten the file of the package."""
    script, target = doc_script("costs"), Path(costs.__file__).parent / costs.FILE
    before, path = target.read_bytes(), tmp_path / "costs.json"
    table = {"probe": 0.5, "costs": {f"{NETWORK} digits cpu": {"epochs": {"sat": 2.0}, "attacks": {}}}}
    monkeypatch.setattr(script, "SUITES", {"digits": "digits"})
    monkeypatch.setattr(script, "collect", lambda results: table)
    monkeypatch.setattr(script, "epoch_seconds", lambda spec: 1.0)
    monkeypatch.setattr(script.torch, "set_num_threads", lambda number: None)
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert "--write" in capsys.readouterr().out
    script.main([])
    printed = json.loads(capsys.readouterr().out)
    assert printed["costs"][f"{NETWORK} digits cpu"]["epochs"] == {"sat": 1.0}
    script.main(["--write", str(path)])
    assert json.loads(path.read_text()) == printed
    assert target.read_bytes() == before
