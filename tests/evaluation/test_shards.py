from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import ENVIRONMENT, TORCHRUN, ends, start

from fairbench.distributed import KEPT
from fairbench.models import build_model, save_checkpoint
from fairbench.report.text.audit import render_report
from fairbench.run.audit import audit_model

EVALUATE = [sys.executable, "-W", "error", "-m", "fairbench", "evaluate"]
LONG = "pgd-1500:iterate=last"
LOST = "nothing is kept without --out"


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Every test here runs as a rank does."""


@pytest.fixture
def given(make_suite, tmp_path) -> tuple[str, str]:
    """A checkpoint, and 40 images as a dataset's name."""
    make_suite(tmp_path / "suite")
    torch.manual_seed(0)
    spec, shape = "small-cnn:width=4", (1, 8, 8)
    save_checkpoint(tmp_path / "net.safetensors", build_model(spec, num_classes=4, shape=shape), spec, 4, shape)
    return str(tmp_path / "net.safetensors"), f"npz:{tmp_path}/suite/test.npz"


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_two_ranks_share_the_images_and_make_the_files_and_words_of_one_process(given, tmp_path, monkeypatch):
    model, data = given
    # Five batches, the last of them shorter; an ensemble that is one batch by itself, and whose components are kept;
    # one that runs on three images of each of the four classes, in two batches.
    attacks = ["pgd-2:rel_step=1,iterate=last,loss=processes:counted", "autoattack:steps=4,queries=9"]
    attacks += ["autoattack-fast:queries=9,per_class=3,steps=4"]
    how = {"attacks": attacks, "eps": 0.02, "batch_size": 9}
    monkeypatch.setenv("COUNTS", str(tmp_path / "counts"))
    report = audit_model(model, data, **how, out=tmp_path / "alone")
    words = [*EVALUATE, model, "--dataset", data, "--attacks", ",".join(attacks), "--eps", "0.02", "--batch-size", "9"]
    first, second = ends(start(2, [*words, "--out", str(tmp_path / "ranks")], COUNTS=str(tmp_path / "counts")))
    assert (first[0], *second) == (0, 0, "", ""), (first, second)
    assert first[1].rstrip() == render_report(report).rstrip()
    assert _content(tmp_path / "ranks") == _content(tmp_path / "alone")
    assert 0 < report.summary("union").average < 1
    assert report.flags
    counts = {path.name: path.read_text().split() for path in tmp_path.glob("counts.*")}
    assert counts == {"counts.": list("9999999944"), "counts.0": list("999944"), "counts.1": list("9999")}


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False])
def test_a_killed_rank_ends_the_evaluation_with_one_line_and_one_process_goes_on(given, tmp_path, kept):
    model, data = given
    folder = tmp_path / "out"
    words = [*EVALUATE, model, "--dataset", data, "--attacks", LONG, "--batch-size", "9", "--no-flags"]
    ranks = start(2, [*words, "--out", str(folder)] if kept else words)
    assert ranks[0].stderr is not None
    next(line for line in ranks[0].stderr if f"{LONG} 9/40" in line)
    ranks[1].kill()
    (code, said, heard), _ = ends(ranks)
    assert (code, said) == (2, "")
    assert re.findall("^fairbench: .*", heard, re.MULTILINE) == [heard.splitlines()[-1]]
    assert heard.splitlines()[-1].startswith("fairbench: rank 0: another rank is gone or does not answer")
    assert heard.splitlines()[-1].endswith(KEPT if kept else LOST)
    assert folder.exists() == kept
    if kept:
        left = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
        assert left == [folder / "partial" / "0.jsonl"]
        how = {"attacks": [LONG], "batch_size": 9, "flags": False}
        found, expected = audit_model(model, data, **how, out=folder), audit_model(model, data, **how)
        assert np.array_equal(found.verdicts[LONG], expected.verdicts[LONG])


@pytest.mark.slow
def test_an_interrupt_of_torchrun_is_one_line(given, tmp_path):
    model, data = given
    words = [*TORCHRUN, "2", "-m", "fairbench", "evaluate", model, "--dataset", data, "--attacks", LONG]
    words += ["--batch-size", "9", "--no-flags", "--report", str(tmp_path / "page.html")]
    with subprocess.Popen(words, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True) as job:
        assert job.stderr is not None
        next(line for line in job.stderr if f"{LONG} 9/40" in line)
        os.killpg(job.pid, signal.SIGINT)  # as a terminal does
        _, heard = job.communicate(timeout=90)
    assert job.returncode != 0
    assert re.findall("^fairbench: .*", heard, re.MULTILINE) == [f"fairbench: stopped; {LOST}"]
    assert not (tmp_path / "page.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "value", "said"),
    [("--dataset", "nothing", "nothing"), ("--out", "file/in", "file"), ("--eps", "x", "--eps")],
)
def test_what_one_process_refuses_two_refuse_in_one_line(given, tmp_path, word, value, said):
    (tmp_path / "file").write_text("")
    model, data = given
    chosen = {"--dataset": data, "--attacks": "clean", word: value if word != "--out" else str(tmp_path / value)}
    spoken = ends(start(2, [*EVALUATE, model, *(part for pair in chosen.items() for part in pair)]))
    assert [code for code, *_ in spoken] == [2, 2]
    (line,) = [line for *_, heard in spoken for line in heard.splitlines() if line.startswith("fairbench: ")]
    assert said in line
