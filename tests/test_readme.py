import re
from pathlib import Path

import numpy as np
import torch
from torch import nn

import fairbench
from fairbench import authoring, registry

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_method_in_the_readme_is_whole_short_and_keeps_every_contract(tmp_path):
    method = BLOCKS[0]
    assert method.count("\n") < 40
    plugin = tmp_path / "worst_first.py"
    plugin.write_text(method, encoding="utf-8")
    registry.add_plugin(plugin)
    findings = authoring.check("worst_first")
    assert findings
    assert [str(finding) for finding in findings if not finding.passed] == []


def test_the_evaluation_in_the_readme_runs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images, labels = np.random.default_rng(0).random((40, 8, 8, 1), dtype=np.float32), np.arange(40) % 10
    code = BLOCKS[1].replace('"autoattack"', '"cw-30"').replace("import fairbench\n", "")
    names = {"fairbench": fairbench, "model": model, "images": images, "labels": labels}
    exec(compile(code, "README.md", "exec"), names)
    assert 0 <= names["report"].worst <= names["report"].average <= 1


def test_every_command_in_the_readme_exists():
    commands = set(re.findall(r"^    fairbench ([a-z-]+)", README, flags=re.MULTILINE))
    from fairbench.cli import app

    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    assert commands
    assert commands <= known
