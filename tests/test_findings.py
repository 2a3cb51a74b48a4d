"""docs/findings answers each question from the boards that are there, and says so where none is."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import stored
from doc_scripts import doc_script
from fabricated import store, verdicts

from fairbench.leaderboard import builder
from fairbench.suites.sections import MethodSpec, Selection

ROOT = Path(__file__).parent.parent
MODULES = ("evidence", "pairs", "measures", "trainings")
RIGHT = {  # of 50 images of each of three classes, by method and seed
    "rslad": ([40, 30, 10], [40, 30, 12], [40, 30, 11]),
    "absld": ([38, 30, 30], [38, 30, 31], [38, 30, 29]),
    "sat": ([30, 20, 20], [31, 20, 20], [30, 21, 20]),
    "trades": ([30, 25, 20], [30, 25, 21], [30, 26, 20]),
}


@pytest.fixture(scope="module")
def findings():
    """The modules of docs/findings, which are a script's and lie in no package."""
    folder = str(ROOT / "docs" / "findings")
    sys.path.insert(0, folder)
    try:
        loaded = {name: importlib.import_module(name) for name in MODULES}
        loaded["page"] = doc_script("findings/__main__")
        yield loaded
    finally:
        sys.path.remove(folder)
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A root with one made-up board of digits, and the published figures."""
    root = tmp_path_factory.mktemp("root")
    for method, seeds in RIGHT.items():
        for seed, right in enumerate(seeds):
            labels, robust = verdicts(right, 50)
            attacks = {"clean": labels, "pgd-20": robust}
            store(root / "results", labels, attacks, method=method, seed=seed, suite="digits", version=1)
    builder.build_boards(root / "results", root / "leaderboards", "digits")
    (root / "leaderboards" / "published").mkdir()
    published = ROOT / "leaderboards" / "published" / "published.csv"
    (root / "leaderboards" / "published" / "published.csv").write_bytes(published.read_bytes())
    return root


def test_a_difference_is_that_of_the_means_over_seeds(findings, root):
    evidence: ModuleType = findings["evidence"]
    (board,) = evidence.boards_of(root, "digits")
    pair = ("absld", "rslad")
    found = evidence.differences(board, [pair], ["pgd-20"], ["average", "worst"])
    worst = found[(*pair, "worst", "pgd-20")]
    assert worst.difference == pytest.approx((29 + 30 + 30) / 150 - (10 + 12 + 11) / 150)  # the worst class may change
    assert worst.low < worst.difference < worst.high
    assert worst.winner == "A"
    average = found[(*pair, "average", "pgd-20")]
    assert average.difference == pytest.approx((98 + 99 + 97) / 450 - (80 + 82 + 81) / 450)


def test_the_same_networks_on_a_second_board_are_no_further_evidence(findings, tmp_path):
    for suite, networks in (("digits-ablations", "a"), ("digits", "a"), ("cifar10-micro", "b")):
        for method in ("rslad", "absld"):
            for seed, right in enumerate(RIGHT[method]):
                labels, robust = verdicts(right, 50)
                attacks = {"clean": labels, "pgd-20": robust}
                run = store(tmp_path / "results", labels, attacks, method=method, seed=seed, suite=suite)
                record = run.read()
                run.write({**record, "weights": {"best": f"{networks}{method}{seed}", "last": ""}})
        builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", suite)
    pairs = [("absld", "rslad")]
    suites = ("digits-ablations", "digits", "cifar10-micro")
    found = findings["evidence"].newest_with(tmp_path, suites, pairs)
    assert [board.path.parent.name for board, _ in found] == ["digits-ablations", "cifar10-micro"]


def test_runs_without_an_averaged_epoch_are_named(findings, tmp_path):
    for method, fair in (("cfa_sat", (0, 0)), ("cfa_trades", (0, 3))):
        own = MethodSpec(name=method, base="sat", policies=("fawa",), provenance="paper")
        for seed, epochs in enumerate(fair):
            run = stored.store(tmp_path / "results", stored.run_spec(own, seed, suite="digits"))
            run.write_history([{"epoch": 0, "fair_epochs": 0}, {"epoch": 1, "fair_epochs": epochs}])
    builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "digits")
    (board,) = findings["evidence"].boards_of(tmp_path, "digits")
    assert findings["trainings"].without_averaging(tmp_path, board) == ["cfa_sat"]


def test_every_pair_stands_against_the_base_that_the_claims_page_names(findings):
    claims = doc_script("claims")
    assert set(findings["pairs"].BASES.items()) <= {*claims.FAIRNESS, *claims.OTHERS}


def test_what_is_significant_is_said_and_bold(findings, root):
    answer = findings["pairs"].adaptive(root)
    assert answer.status == "supported where bold"
    assert "absld has a higher worst class than rslad (digits v1: pgd-20, union)" in answer.said
    assert "Not measured: absld_uniform, absld_random, absld_manual, absld_reversed" in answer.said
    assert "**+37.3 [" in answer.tables[0]


def test_a_board_with_one_seed_has_differences_without_tests(findings, tmp_path):
    for method in ("rslad", "absld"):
        labels, robust = verdicts(RIGHT[method][0], 50)
        store(tmp_path / "results", labels, {"clean": labels, "pgd-20": robust}, method=method, suite="digits")
    builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "digits")
    answer = findings["pairs"].adaptive(tmp_path)
    assert answer.status == "exploratory"
    assert "1 seed, 0 tests" in answer.tables[0]
    assert "**" not in answer.tables[0]


def test_a_union_over_a_part_of_the_images_is_left_for_the_strongest_attack_on_all(findings, root, tmp_path):
    text = "cw-30:per_class=10"
    for method in ("sat", "trades", "rslad", "absld"):
        for seed, right in enumerate(RIGHT[method]):
            labels, robust = verdicts(right, 50)
            _, weaker = verdicts([number + 5 for number in right], 50)
            subset = np.where(np.tile(np.arange(50) >= 10, 3), -2, robust)  # -2: an image that was not attacked
            attacks = {"clean": labels, "fgsm": weaker, "pgd-20": robust, text: subset}
            store(tmp_path / "results", labels, attacks, method=method, seed=seed, suite="digits")
    builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "digits")
    evidence = findings["evidence"]
    assert [evidence.boards_of(place, "digits")[0].strongest for place in (root, tmp_path)] == ["union", "pgd-20"]
    (table,) = findings["pairs"].adaptive(tmp_path).tables
    assert "| method - base | average, pgd-20 | worst, pgd-20 | nsd, pgd-20 |\n" in table
    heads = [text.split(",")[1] for text in findings["measures"].metrics(tmp_path).tables]
    assert heads == [" pgd-20", " union"], "what a correction changes is larger for fewer images"


def test_a_published_claim_holds_only_if_the_interval_excludes_zero(findings):
    verdict = findings["pairs"]._verdict
    assert [verdict(5, 1, 3), verdict(5, -1, 3), verdict(5, -3, -1), verdict(-5, -3, -1), verdict(0, 1, 3)] == [
        "holds",
        "open",
        "contradicted",
        "holds",
        "open",
    ]


def test_a_claim_that_two_papers_make_of_one_pair_is_one_answer(findings, root, monkeypatch):
    claims = [("absld", "rslad", "paper A", 5.0), ("absld", "rslad", "paper B", 4.0), ("rslad", "sat", "paper B", -1.0)]
    monkeypatch.setattr(findings["pairs"], "_claims", lambda root: claims)
    answer = findings["pairs"].published(root)
    assert "3 claims of 2 sources" in answer.said
    assert "for each board: 2 holds, 0 contradicted, 0 open, 0 not tested." in answer.said
    assert answer.tables[0].count("absld - rslad") == 2


def test_a_table_of_scores_names_its_attack(findings, root, monkeypatch):
    seen = []
    monkeypatch.setattr(findings["measures"], "_optimism", lambda *found: seen.append(found[2]) or {"worst": [1.0]})
    (table,) = findings["measures"].selection(root).tables
    assert "less the test figure under pgd-20, points" in table
    assert seen == ["pgd-20"]


def test_ranks_that_two_metrics_share_have_tau_one(findings):
    import pandas as pd

    one = pd.Series({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4})
    assert findings["measures"]._agreement(one, one + 0.1) == ["1.00", "0"]
    assert findings["measures"]._agreement(one, -one) == ["-1.00", "3 (a)"]
    assert findings["measures"]._agreement(one, 0 * one) == ["undefined", "3 (a)"]
    noisy, equal = (pd.Series({"a": value, "b": 0.3, "c": 0.1}) for value in (0.1 + 0.2, 0.3))
    assert findings["measures"]._agreement(noisy, equal) == ["1.00", "0"], "a tie is no matter of rounding"
    assert findings["measures"]._first(noisy) == "2 methods tie"


def test_a_table_of_transfers_shows_hidden_gradients_and_belongs_to_one_board(findings, root, tmp_path):
    from shutil import copytree

    copytree(root, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "docs/findings/transfers/digits-v1.csv"
    path.parent.mkdir(parents=True)
    figures = {"absld": (98, 90, 80), "rslad": (80, 70, 85), "sat": (70, 60, 90), "trades": (75, 65, 80)}
    board = findings["evidence"].boards_of(tmp_path, "digits")[0].under("pgd-20")
    ids = dict(board[board["seed"] == "0"][["method", "run_id"]].to_numpy())
    rows = [
        f"{ids[method]},150,{method},{attack},{right / 150:.4f},{right / 200:.4f},2,"
        f"{'sat' if attack == 'transfer-one' else ''}"
        for method, own in figures.items()
        for attack, right in zip(("pgd-20", "pgd-t-20", "transfer-one"), own, strict=True)
    ]
    path.write_text(
        "\n".join(["run_id,n,method,attack,average,worst,worst_class,surrogate", *rows]) + "\n", encoding="utf-8"
    )
    shown = findings["measures"].attacks(tmp_path).tables[1]
    assert "may be a sign of hidden gradients: absld (53.3 % by sat, 65.3 % by itself).\n" in shown
    assert "| pgd-t-20 | -6.3 | 1.00 | 0 |" in shown  # (8 + 3 * 10) / 4 of 150 images fewer
    text = path.read_text(encoding="utf-8")
    for changed in (text.replace("0.6533", "0.6400"), text.replace(ids["sat"], "0" * 12)):
        path.write_text(changed, encoding="utf-8")
        said = findings["measures"].attacks(tmp_path).tables[1]
        assert "is of other checkpoints than the board's: not shown." in said


def test_selection_on_the_test_set_is_compared_seed_by_seed(findings, root, tmp_path):
    from shutil import copytree

    copytree(root, tmp_path, dirs_exist_ok=True)
    right = {0: [31, 20, 20], 1: [31, 20, 23], 2: [30, 21, 20]}  # of sat; seed 0 gains one image, seed 1 three
    for seed, own in right.items():
        labels, robust = verdicts(own, 50)
        attacks = {"clean": labels, "pgd-20": robust}
        changed = {"selection": Selection(rule="test"), "protocol": "b2", "custom": True}
        store(tmp_path / "results", labels, attacks, seed=seed, suite="digits", **changed)
    builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "digits")
    assert "the published rule is not measured" in findings["measures"].selection(root).said
    answer = findings["measures"].selection(tmp_path)
    assert "not measured" not in answer.said
    row = "| sat | 3 | +0.9 [+0.0, +2.0] | +0.0 [+0.0, +0.0] | +0.9 [+0.0, +2.0] | +0.0 [+0.0, +0.0] |"
    assert row in answer.tables[0]  # (1 + 3 + 0) / 3 of 150 images; the worst class, 20 of 50, stays


def test_another_network_stands_beside_the_suites_own(findings, root, tmp_path):
    from shutil import copytree

    copytree(root, tmp_path, dirs_exist_ok=True)
    for method, own in {"rslad": [40, 30, 12], "absld": [38, 30, 10]}.items():
        for seed in range(3):
            labels, robust = verdicts([own[0] - seed, *own[1:]], 50)
            attacks = {"clean": labels, "pgd-20": robust}
            changed = {"model": "resnet-micro", "protocol": "b2", "custom": True}
            store(tmp_path / "results", labels, attacks, method=method, seed=seed, suite="digits", **changed)
    builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "digits")
    assert findings["pairs"].elsewhere(root).status == "not measured"
    answer = findings["pairs"].elsewhere(tmp_path)
    heads, _, absld = answer.tables[0].splitlines()[2:]
    assert heads.startswith("| method - base | small-cnn, pgd-20 | resnet-micro, pgd-20 | small-cnn, union |")
    assert absld.startswith("| absld - rslad | **+37.3 [")
    assert "| -4.0 [" in absld
    assert "no two networks have opposite signs for 0 of 2 differences" in answer.said
    assert "settings of small-cnn (untuned: one recipe for all methods)" in answer.said


def test_methods_that_share_the_first_figure_tie(findings):
    import pandas as pd

    assert findings["measures"]._first(pd.Series({"a": 0.1, "b": 0.2})) == "b"
    assert findings["measures"]._first(pd.Series({"a": 0.2, "b": 0.2, "c": 0.1})) == "2 methods tie"
    assert findings["measures"]._lowest([0.2, 0.1, 0.1]) == {1, 2}


def test_without_boards_every_question_is_not_measured(findings, tmp_path):
    (tmp_path / "leaderboards" / "published").mkdir(parents=True)
    published = ROOT / "leaderboards" / "published" / "published.csv"
    (tmp_path / "leaderboards" / "published" / "published.csv").write_bytes(published.read_bytes())
    for question, answer in findings["page"].QUESTIONS:
        assert answer(tmp_path).status == "not measured", question


def test_the_page_answers_all_questions_from_the_committed_boards(findings):
    text = findings["page"].page(ROOT)
    assert re.findall(r"^## (\d+)\.", text, flags=re.MULTILINE) == [str(number) for number in range(1, 15)]
    # After a board or trials have changed: python docs/findings --write docs/findings.md
    assert text == (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
