"""Attacks that are added to a finished run: it stays finished under the protocols that it has."""

from __future__ import annotations

import pytest
from tiny_runs import ATTACKS, copy_runs, tiny_specs

from fairbench.leaderboard.builder import build_boards
from fairbench.run.pipeline import attack_checkpoint, execute_run, is_done

pytestmark = pytest.mark.usefixtures("one_thread")


class _Stopped(BaseException):
    """Ends a run as Ctrl-C does."""


def test_a_finished_run_stays_on_its_board_while_attacks_are_added_and_after_a_stop(
    finished, tiny, tmp_path, monkeypatch
):
    own, results = finished[0], tmp_path / "results"
    folder = copy_runs(finished, results)
    (board,) = build_boards(results, tmp_path / "leaderboards", own.suite)
    before, done = board.read_bytes(), []
    changed = tiny_specs(tiny, evaluation={**ATTACKS, "best": [*ATTACKS["best"], "fgsm", "pgd-20"]})[-1]
    changed = changed.model_copy(update={"custom": True, "changes": "c1", "command": "fairbench run --set"})

    def stopped_at_the_second(*arguments, **how):
        assert build_boards(results, tmp_path / "leaderboards", own.suite) == [board]
        assert board.read_bytes() == before
        assert is_done(own, folder)
        assert not is_done(changed, folder)
        if done:
            raise _Stopped
        done.append(attack_checkpoint(*arguments, **how))
        return done[0]

    monkeypatch.setattr("fairbench.run.pipeline.attack_checkpoint", stopped_at_the_second)
    with pytest.raises(_Stopped):
        execute_run(changed, results)
    assert folder.read()["status"] == "complete"
    assert folder.damage() == {}
    assert set(folder.read()["evaluations"]) == {*folder.read()["metrics"], "best/fgsm"}
    build_boards(results, tmp_path / "leaderboards", own.suite)
    assert board.read_bytes() == before
    monkeypatch.setattr("fairbench.run.pipeline.attack_checkpoint", attack_checkpoint)
    stages = []
    execute_run(changed, results, progress=lambda stage, *_: stages.append(stage))
    assert set(stages) == {"evaluate best/pgd-20"}
    assert is_done(changed, folder)


def test_a_finished_run_without_its_verdicts_is_not_complete_before_all_are_made_again(finished, tmp_path, monkeypatch):
    folder, seen = copy_runs(finished, tmp_path), []
    folder.verdicts.unlink()

    def watched(*arguments, **how):
        seen.append((folder.read()["status"], folder.verdicts.exists()))
        return attack_checkpoint(*arguments, **how)

    monkeypatch.setattr("fairbench.run.pipeline.attack_checkpoint", watched)
    execute_run(finished[0], tmp_path)
    assert seen == [("complete", False), ("trained", True), ("trained", True)]
    assert is_done(finished[0], folder)
