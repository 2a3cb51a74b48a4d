from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import numpy as np
import torch
import torch._dynamo  # `pytester` forgets modules that a test imports first, and this one cannot be imported twice
from fabricated import store

from fairbench.evaluation.evaluate import evaluate
from fairbench.suites.sections import ThreatSection

pytest_plugins = ["pytester"]

ATTACKS = ("clean", "pgd-5:rel_step=0.5")
MODEL = """
import numpy as np
import torch

class Brightest(torch.nn.Module):
    '''The class is the brightest of four pixels; the first one is dimmed by `bias`.'''

    def __init__(self, bias=0.0):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(10.0))
        self.bias = torch.tensor([-bias, 0.0, 0.0, 0.0])

    def forward(self, x):
        return self.scale * (x.flatten(1) + self.bias)

def data():
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 4
    images = rng.uniform(0.0, 0.5, (400, 2, 2, 1)).astype(np.float32)
    images.reshape(400, 4)[np.arange(400), labels] = rng.uniform(0.4, 0.9, 400)
    return images, labels
"""
TESTS = """
import pytest
import torch
from brightest import Brightest, data

@pytest.mark.parametrize("bias", [0.002, 0.4])
def test_fairness(fairbench_gate, bias):
    outcome = fairbench_gate(Brightest(bias), data(), baseline=BASELINE, flags=False)
    assert outcome.checks[0].test == "paired"

def test_every_class(fairbench_gate):
    fairbench_gate(Brightest(0.4), data(), baseline=BASELINE, metric="class", attack="clean", flags=False)

def test_another_threat(fairbench_gate):
    fairbench_gate(Brightest(), data(), baseline=BASELINE, norm="Linf", eps=0.2, flags=False)

def test_other_images(fairbench_gate):
    images, labels = data()
    fairbench_gate(Brightest(), (images[:200], labels[:200]), baseline=BASELINE, flags=False)

def test_too_small(fairbench_gate):
    fairbench_gate(Brightest(), data(), baseline=BASELINE, require_mde=0.5, flags=False)

def test_no_baseline(fairbench_gate):
    fairbench_gate(Brightest(), data(), baseline="nowhere.csv")
"""


def test_the_fixture_passes_fails_and_refuses(pytester, tmp_path, monkeypatch):
    namespace: dict = {}
    exec(MODEL, namespace)
    images, labels = namespace["data"]()
    report = evaluate(namespace["Brightest"](), (images, labels), attacks=ATTACKS, eps=0.05)
    folder = store(tmp_path, labels, report.verdicts, names=report.class_names, threat=ThreatSection(eps=0.05))
    pytester.makepyfile(brightest=MODEL)
    pytester.makepyfile(f"BASELINE = {str(folder.path)!r}\n{TESTS}")
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, failed=6)
    result.stdout.fnmatch_lines(
        [
            "*test_fairness[[]0.4[]]*",
            "fairness gate: FAILED, 3 of 6 checks regressed",
            "sat seed 0  worst class*REGRESSION",
            "*test_every_class*",
            "sat seed 0  class 0 *REGRESSION",
            "*test_another_threat*",
            "fairness gate: no verdict: *threat models (Linf 0.05 and Linf 0.2)",
            "*test_other_images*",
            "fairness gate: no verdict: *different test images*",
            "*test_too_small*",
            "fairness gate: no verdict: too small to decide*",
            "*test_no_baseline*",
            "fairness gate: no verdict: nowhere.csv: no such file or folder*",
        ]
    )


def test_pytest_finds_the_plugin_and_it_is_light():
    assert [point.value for point in entry_points(group="pytest11", name="fairbench")] == ["fairbench.pytest_plugin"]
    code = (
        "import sys, fairbench.pytest_plugin\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_models_pixels_are_what_the_tests_say():
    # Of what the fixture's test takes for granted: the baseline is neither perfect nor hopeless.
    namespace: dict = {}
    exec(MODEL, namespace)
    images, labels = namespace["data"]()
    with torch.no_grad():
        logits = namespace["Brightest"]()(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert 0.8 < np.mean(logits.argmax(1).numpy() == labels) < 1.0
