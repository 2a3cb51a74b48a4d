"""The code on docs/python.md runs, in order, as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import FakeData
from torchvision.transforms import ToTensor

import fairbench
from fairbench import registry
from fairbench.models import build_model

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    loader = DataLoader(FakeData(120, (3, 8, 8), num_classes=4, transform=ToTensor()), batch_size=50)
    names = {"model": nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), "loader": loader}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)):
        exec(compile(block, f"python.md, block {number}", "exec"), names)
    assert capsys.readouterr().out.startswith("class-balanced subset of 100 of 120 images under clean, pgd-20: ")
    assert {path.name for path in tmp_path.iterdir()} >= {"evaluation", "report.json", "report.html"}
    assert "absld" in set(names["board"]["method"])
    assert names["network"](torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert not names["outcome"].passed
    assert build_model("linear:bias=false", num_classes=2, shape=(1, 4, 4))(torch.zeros(1, 1, 4, 4)).shape == (1, 2)
    found = fairbench.evaluate(
        names["model"], loader, attacks=["uniform:share=0.5"], norm="Linf", eps=0.1, limit=20, flags=False
    )
    assert list(found.verdicts) == ["uniform:share=0.5"]
    assert registry.loggers.details("lines") == {"summary": "a line an epoch in the file TARGET"}
