"""Results depend on the code of plug-ins: a changed file makes what it made anew, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored import run_spec, store
from tiny_runs import ATTACKS, copy_runs, refuse, tiny_specs
from tunings import TUNING, entry, write

from fairbench import registry
from fairbench.errors import InvalidInput
from fairbench.leaderboard.builder import build_boards
from fairbench.results.mirrored import bytes_of, has_more
from fairbench.run.benchmark import prepare_plan
from fairbench.run.pipeline import execute_run, is_done

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = """
from torch import nn
from fairbench import register_model

@register_model("flat", summary="one layer")
def flat(num_classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))
"""
ATTACK = """
from fairbench import register_attack, register_loss

@register_attack("darker", summary="the darkest image of the ball")
def darker(model, x, y, *, eps, norm, rng):
    return (x - eps).clamp(0, 1)

@register_loss("plain", summary="minus the logit of the true class")
def plain(logits, y):
    return -logits.gather(1, y[:, None])[:, 0]
"""


def plugged(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return registry.add_plugin(path)


def test_code_of_the_package_is_not_hashed(finished):
    assert [spec.source_hash for spec in (finished[0], finished[0].teacher)] == [None, None]


def test_a_changed_network_is_another_run_of_the_student_and_not_of_its_teacher(tiny, tmp_path):
    path = plugged(tmp_path / "network.py", NETWORK)
    before = tiny_specs(tiny, model="flat", teacher__model="small-cnn:width=4")
    path.write_text(NETWORK + "# changed\n", encoding="utf-8")
    after = tiny_specs(tiny, model="flat", teacher__model="small-cnn:width=4")
    assert [spec.label for spec in after] == ["teacher", "absld"]
    assert [a.run_id == b.run_id for a, b in zip(before, after, strict=True)] == [True, False]
    assert len(before[-1].source_hash or "") == 12
    path.write_text(NETWORK, encoding="utf-8")
    assert tiny_specs(tiny, model="flat", teacher__model="small-cnn:width=4") == before


def test_a_network_named_by_its_module_counts_by_its_file(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks_of_mine.py").write_text(NETWORK, encoding="utf-8")
    before = tiny_specs(tiny, model="networks_of_mine:flat")[-1]
    (tmp_path / "networks_of_mine.py").write_text(NETWORK + "# changed\n", encoding="utf-8")
    assert tiny_specs(tiny, model="networks_of_mine:flat")[-1].run_id != before.run_id


@pytest.mark.parametrize("attack", ["darker", "pgd-20:loss=plain"])
def test_the_attack_that_selects_the_epoch_counts_and_only_where_it_selects(tiny, tmp_path, attack):
    path, hashes = plugged(tmp_path / "attack.py", ATTACK), {}
    for rule in ("validation", "last"):
        for text in (ATTACK, ATTACK + "# changed\n"):
            path.write_text(text, encoding="utf-8")
            spec = tiny_specs(tiny, selection={"rule": rule, "attack": attack})[-1]
            hashes.setdefault(rule, []).append(spec.source_hash)
    assert hashes["last"] == [None, None]
    assert len({None, *hashes["validation"]}) == 3


def test_a_changed_attack_is_run_again_and_no_other(finished, tiny, tmp_path, monkeypatch):
    path, folder = plugged(tmp_path / "attack.py", ATTACK), copy_runs(finished, tmp_path)
    spec = tiny_specs(tiny, evaluation={**ATTACKS, "best": [*ATTACKS["best"], "darker"]})[-1]
    monkeypatch.setattr("fairbench.run.pipeline.train", refuse)
    before = execute_run(spec, tmp_path)
    assert is_done(spec, folder)
    stored = bytes_of(folder)
    path.write_text(ATTACK + "# changed\n", encoding="utf-8")
    assert not is_done(spec, folder)
    stages: list[str] = []
    after = execute_run(spec, tmp_path, progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"evaluate best/darker"}
    assert is_done(spec, folder)
    sources = [record["evaluations"]["best/darker"]["source_hash"] for record in (before, after)]
    assert len(set(sources)) == 2
    assert "source_hash" not in after["evaluations"]["best/clean"]
    assert has_more(folder, stored)  # a copy at a URL is replaced


def test_settings_that_were_tuned_with_another_version_of_a_network_are_void(make_suite, tmp_path):
    path = plugged(tmp_path / "network.py", NETWORK)
    suite = str(make_suite(tmp_path / "suite", model="flat", tuning=TUNING))
    source = prepare_plan(suite, methods=["sat"], root=tmp_path)[-1].source_hash
    write(suite, tmp_path, sat=entry(suite, tmp_path, {"lr": 0.05}, source=source))
    assert prepare_plan(suite, methods=["sat"], root=tmp_path)[-1].tuning == "tuned"
    path.write_text(NETWORK + "# changed\n", encoding="utf-8")
    assert prepare_plan(suite, methods=["sat"], root=tmp_path)[-1].tuning == "untuned"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"source_hash": "aa"}, "the network small-cnn, selected by validation"),
        ({}, "best/pgd-20"),
    ],
)
def test_a_board_does_not_mix_versions_of_a_plugin(tmp_path, changes, what):
    results, boards = tmp_path / "results", tmp_path / "leaderboards"
    first = store(results, run_spec("sat", **changes))
    build_boards(results, boards, "tiny")
    second = store(results, run_spec("trades"))
    if not changes:
        record = second.read()
        record["evaluations"]["best/pgd-20"]["source_hash"] = "bb"
        second.write(record)
    before = (boards / "tiny" / "v1.csv").read_bytes()
    with pytest.raises(InvalidInput) as caught:
        build_boards(results, boards, "tiny")
    assert all(text in str(caught.value) for text in (str(first.run), str(second.run), what, "run the older again"))
    assert (boards / "tiny" / "v1.csv").read_bytes() == before
