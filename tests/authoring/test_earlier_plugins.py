"""Plug-in files written for earlier versions work unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairbench import authoring, registry
from fairbench.authoring.rehearsal import Rehearsal
from fairbench.method.composition import resolve_method

# README's example as it was until policies owned their vectors: it makes, keeps and hands out its own.
EARLIER = '''\
import torch

from fairbench import ClassPolicy, hyper, register_method, register_policy


@register_policy("worst_first", summary="Loss weights that grow with the class's adversarial error")
class WorstFirst(ClassPolicy):
    """Weight classes by a softmax of last epoch's adversarial training error."""

    supplies = ("weight",)
    sharpness: float = hyper(2.0, source="this example", ge=0)

    def setup(self, context):
        super().setup(context)
        self.weight = torch.ones(context.num_classes, device=context.device)

    def end_epoch(self, record):
        error = 1 - record.mean("correct_adv")
        self.weight = len(error) * torch.softmax(self.sharpness * error, dim=0)

    def vectors(self):
        return {"weight": self.weight}


register_method(
    "worst_first",
    base="trades",
    policies=["worst_first"],
    summary="TRADES with weights for the worst classes",
    citation="this README",
    provenance="own",
)
'''
# The same policy as a file would be written today.
TODAY = """\
import torch
from fairbench import ClassPolicy, hyper, register_policy

@register_policy("worst_first_today", summary="Loss weights that grow with the class's adversarial error")
class WorstFirst(ClassPolicy):
    supplies = ("weight",)
    sharpness: float = hyper(2.0, source="this example", ge=0)

    def end_epoch(self, record):
        error = 1 - record.mean("correct_adv")
        self.weight = len(error) * torch.softmax(self.sharpness * error, dim=0)
"""


@pytest.fixture(autouse=True)
def _plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files = {tmp_path / "worst_first.py": EARLIER, tmp_path / "today.py": TODAY}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(registry, "_plugin_files", dict.fromkeys(files))


def _trained(name: str) -> Rehearsal:
    rehearsal = Rehearsal(resolve_method(name))
    rehearsal.epoch()
    rehearsal.epoch()
    return rehearsal


def test_the_earlier_example_keeps_every_contract():
    findings = authoring.check_method("worst_first")
    assert findings
    assert [str(finding) for finding in findings if not finding.passed] == []


def test_it_trains_as_the_policy_that_leaves_its_vectors_to_the_base_class():
    earlier, today = _trained("worst_first"), _trained("trades+worst_first_today")
    assert earlier.method.class_state().keys() == today.method.class_state().keys() == {"weight"}
    assert torch.equal(earlier.method.class_state()["weight"], today.method.class_state()["weight"])
    assert float(earlier.method.class_state()["weight"].std()) > 0
    for ours, theirs in zip(earlier.model.parameters(), today.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert earlier.method.state_dict().keys() == today.method.state_dict().keys()
