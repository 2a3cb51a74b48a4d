"""Files of a run that differ from what was written."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_runs import FILES, bits, copy_runs, refuse

from fairbench.errors import CorruptFile, Missing
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run, is_done

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("status", ["complete", "trained"])
def test_a_damaged_file_is_named_moved_aside_and_made_again(finished, tmp_path, name, status):
    spec, results = finished
    folder = copy_runs(finished, tmp_path)
    path = folder.path / name
    folder.write({**folder.read(), "status": status})
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2
    if name == "run.json":
        del damaged[middle:]
    else:
        damaged[middle] ^= 1
    path.write_bytes(damaged)
    assert not is_done(spec, folder)
    said = []
    execute_run(spec, tmp_path, say=said.append)
    (line,) = said
    assert line.startswith(f"{path}: ")
    assert line.endswith(f"moved to {name}.corrupt-1; the run replaces it")
    assert path.with_name(f"{name}.corrupt-1").read_bytes() == damaged
    assert bits(folder) == bits(RunFolder(results / spec.folder))
    assert is_done(spec, folder)
    execute_run(spec, tmp_path, say=refuse)


def test_a_second_damage_does_not_overwrite_what_was_moved_aside(finished, tmp_path):
    folder = copy_runs(finished, tmp_path)
    for text in ("once", "twice"):
        folder.verdicts.write_text(text)
        execute_run(finished[0], tmp_path)
    assert [folder.path.joinpath(f"verdicts.npz.corrupt-{n}").read_text() for n in (1, 2)] == ["once", "twice"]


@pytest.mark.parametrize("name", ["resume", "best"])
def test_a_training_whose_checkpoint_is_damaged_starts_over_and_says_so(finished, tmp_path, name, monkeypatch):
    spec, results = finished
    folder = copy_runs(finished, tmp_path, student=False)

    def interrupted(stage: str, done: int, *_: Any) -> None:
        if (stage, done) == ("train", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_run(spec, tmp_path, progress=interrupted)
    damaged = bytearray(getattr(folder, name).read_bytes())
    damaged[-5] ^= 1  # in a weight: safetensors itself sees nothing wrong with it
    getattr(folder, name).write_bytes(damaged)
    if name == "best":  # or the next epoch would replace it anyway
        monkeypatch.setattr("fairbench.train.selection.average", lambda *_: -1.0)
    said = []
    execute_run(spec, tmp_path, say=said.append)
    assert len(said) == 1
    assert said[0].startswith(str(getattr(folder, name)))
    assert said[0].endswith("trained again from the start")
    assert folder.path.joinpath(f"{name}.safetensors.corrupt-1").read_bytes() == damaged
    if name == "resume":
        assert bits(folder) == bits(RunFolder(results / spec.folder))


def test_a_teacher_that_is_damaged_or_missing_is_named(finished, tmp_path):
    spec = finished[0]
    with pytest.raises(Missing, match=r"teacher/.*best\.safetensors: the teacher has not been trained yet"):
        execute_run(spec, tmp_path)
    copy_runs(finished, tmp_path, student=False)
    teacher = RunFolder(tmp_path / spec.teacher.folder)
    teacher.best.write_bytes(teacher.best.read_bytes()[:-9])
    with pytest.raises(CorruptFile, match=str(teacher.best)):
        execute_run(spec, tmp_path)


def test_a_teacher_whose_weights_are_gone_is_trained_again_once_its_record_is_removed_as_the_message_says(
    finished, tmp_path
):
    spec = finished[0]
    copy_runs(finished, tmp_path, student=False)
    teacher = RunFolder(tmp_path / spec.teacher.folder)
    before = bits(teacher)
    for path in (teacher.best, teacher.last):
        path.unlink()
    with pytest.raises(Missing) as refused:
        execute_run(spec, tmp_path)
    assert str(refused.value) == (
        f"{teacher.best}: the teacher is trained, but its weights are not here; remove {teacher.run} to train it again"
    )
    teacher.run.unlink()
    execute_run(spec.teacher, tmp_path)
    assert bits(teacher) == before
