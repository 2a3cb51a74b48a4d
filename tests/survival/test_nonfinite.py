"""Numbers that are none, in weights and in data; a loss that is none is in test_cli and test_pipeline."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import fairbench
from fairbench.errors import Diverged, InvalidInput
from fairbench.method.method import Method
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_stops_the_run_and_keeps_the_last_good_epoch(whole, tmp_path, monkeypatch, value):
    step = Method.step

    def breaking(method, closure):
        output = step(method, closure)
        if method.context.epoch == 1:
            with torch.no_grad():
                list(method.context.model.parameters())[-1][0] = value
        return output

    (spec,) = plan(load_suite(str(whole.suite)).override({"recipe.batch_size": 64}))
    monkeypatch.setattr(Method, "step", breaking)
    with pytest.raises(Diverged, match=r"non-finite value in epoch 1, (batch 1|the weights after the last batch)"):
        execute_run(spec, tmp_path)
    folder = RunFolder(tmp_path / spec.folder)
    assert folder.read()["status"] == "diverged"
    assert json.loads(folder.status.read_text())["epoch"] == 1
    monkeypatch.undo()
    torch.set_num_threads(1)
    assert execute_run(spec, tmp_path)["status"] == "complete"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_no_number_is_refused(value):
    images = np.full((6, 1, 8, 8), 0.5, dtype=np.float32)
    images[4, 0, 2, 3] = value
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with pytest.raises(InvalidInput, match=r"finite|\[0, ?1\]|NaN|nan"):
        fairbench.evaluate(model, (images, np.arange(6) % 3), attacks=["clean"])
