from __future__ import annotations

import pytest
import torch

from fairbench.authoring.rehearsal import HookError, Rehearsal
from fairbench.method.composition import resolve_method


def _labels(rehearsal):
    return [batch.y.tolist() for batch in rehearsal.batches]


def test_the_images_are_what_was_asked_for():
    rehearsal = Rehearsal(resolve_method("sat"), (1, 2, 5), batch_size=3, order="by class")
    assert _labels(rehearsal) == [[0, 1, 1], [2, 2, 2], [2, 2]]
    x = torch.cat([batch.x for batch in rehearsal.batches])
    assert x.shape == (8, 3, 8, 8)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)
    index = torch.cat([batch.index for batch in rehearsal.batches])
    assert len(index.unique()) == 8
    assert int(index.max()) < rehearsal.context.train_size
    assert rehearsal.context.class_counts.tolist() == [1, 2, 5]


def test_a_method_gets_what_it_needs_and_no_more():
    assert Rehearsal(resolve_method("sat")).context.teacher is None
    teacher = Rehearsal(resolve_method("rslad")).context.teacher
    assert teacher is not None
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_rehearsals_made_alike_end_alike():
    first, second = (Rehearsal(resolve_method("absld")) for _ in range(2))
    assert _labels(first) == _labels(second)
    for rehearsal in (first, second):
        rehearsal.epoch()
        torch.rand(7)
    for ours, theirs in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert first.context.epoch == 1


def test_what_a_hook_raises_names_the_hook_and_the_line():
    rehearsal = Rehearsal(resolve_method("sat"))
    with pytest.raises(HookError, match=r"^end_epoch raised ValueError: no luck \(test_rehearsal.py:\d+\)$"):  # noqa: SIM117
        with rehearsal.calling("end_epoch"):
            _fail()
    assert rehearsal.watch.hook is None


def _fail():
    raise ValueError("no\n luck")


def test_batches_are_drawn_by_the_classes_that_the_method_samples():
    rehearsal = Rehearsal(resolve_method("cfol"), (4, 8, 20))
    plain = [len(batch.y) for batch in rehearsal.batches]
    rehearsal.method.sampling = lambda: torch.tensor([0.0, 1.0, 0.0])
    drawn = [rehearsal.drawn(number) for number in range(len(plain))]
    assert [len(batch.y) for batch in drawn] == plain
    assert {int(y) for batch in drawn for y in batch.y} == {1}
    assert len({int(i) for batch in drawn for i in batch.index}) > 4
    rehearsal.method.sampling = lambda: None
    assert rehearsal.drawn(1) is rehearsal.batches[1]
