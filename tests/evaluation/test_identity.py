"""What identifies an evaluation from Python: its page says which weights, data, call and settings it is of."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import fairbench
from fairbench.data.dataset import Split, content_hash
from fairbench.evaluation.identity import data_hash
from fairbench.models.checkpoint import weights_hash
from fairbench.version import __version__

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(40) % 4
NAMES = ("a", "b", "c", "d")
STORED = content_hash(NAMES, Split(IMAGES, LABELS))


def _facts(page: str) -> dict[str, str]:
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page)
    return {name: re.sub("<[^>]*>", "", text).replace("&#39;", "'") for name, text in found}


def test_the_page_of_a_report_says_what_was_audited():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    report = fairbench.evaluate(model, (IMAGES, LABELS), attacks=["clean", "fgsm"], eps="8/255", limit=20, flags=False)
    facts = _facts(report.to_html())
    assert facts["weights"] == f"SHA-256 {weights_hash(model)}"
    assert facts["data hash"] == f"SHA-256 {content_hash(('0', '1', '2', '3'), Split(IMAGES[:20], LABELS[:20]))}"
    call = "fairbench.evaluate(&lt;Sequential&gt;, &lt;tuple&gt;, attacks=['clean', 'fgsm'], norm='Linf', eps=0.0313"
    assert facts["command"].startswith(call)
    assert facts["command"].endswith("seed=0, batch_size=250, limit=20)")
    assert facts["settings"] == f"device cpu, engine {report.verdicts.engine}, seed 0, batch size 250"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", facts["date"])
    assert facts["versions"].startswith(f"fairbench {__version__}, python ")
    assert f"torch {torch.__version__.partition('+')[0]}" in facts["versions"]


def test_a_model_without_weights_or_with_a_state_of_other_things_is_said_to_have_no_hash():
    class Odd(nn.Linear):
        def get_extra_state(self):
            return {"not": "a tensor"}

    plain = fairbench.evaluate(lambda x: x.flatten(1)[:, :4], (IMAGES, LABELS), attacks=["clean"], flags=False)
    assert _facts(plain.to_html())["weights"] == "none: the model has no parameters"
    odd = fairbench.evaluate(nn.Sequential(nn.Flatten(), Odd(192, 4)), (IMAGES, LABELS), attacks=["clean"], flags=False)
    assert _facts(odd.to_html())["weights"] == "no hash: the state holds more than plain tensors"


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.float() / 255, lambda x: x.double() / 255])
def test_images_of_eight_bits_have_the_hash_of_the_stored_dataset(convert, monkeypatch):
    monkeypatch.setattr("fairbench.evaluation.identity._BATCH", 7)
    images = convert(torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    assert data_hash(images, LABELS, NAMES) == STORED
    assert data_hash(images.flip(0), LABELS, NAMES) != STORED
    assert data_hash(images, LABELS[::-1].copy(), NAMES) != STORED


def test_images_between_the_grey_levels_have_a_hash_of_their_own():
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    between = images.clone()
    between[-1, 0, 0, 0] = 0.5001
    found = data_hash(between, LABELS, NAMES)
    assert found != STORED
    between[-1, 0, 0, 0] = 0.5002
    assert data_hash(between, LABELS, NAMES) != found
