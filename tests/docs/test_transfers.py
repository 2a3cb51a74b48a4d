"""docs/transfers.py tells a network without useful gradients by the images of another one."""

from __future__ import annotations

import torch
from doc_scripts import doc_script
from torch import Tensor, nn

from fairbench.attacks import Ball


class Brightness(nn.Module):
    """Class 1 for images that are brighter than a half on average, from `levels` levels of grey or from all."""

    def __init__(self, levels: int | None) -> None:
        super().__init__()
        self.levels = levels
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, x: Tensor) -> Tensor:
        seen = x if self.levels is None else torch.round(x * self.levels) / self.levels  # no gradient
        score = self.scale * (seen.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack([-score, score], 1)


def test_images_of_another_network_break_what_hidden_gradients_protect():
    x = torch.tensor([0.40, 0.45, 0.55, 0.60])[:, None, None, None].expand(4, 1, 8, 8).contiguous()
    y = torch.tensor([0, 0, 1, 1])
    models = {"plain": Brightness(None), "hidden": Brightness(20), "teacher": Brightness(None)}
    rows = doc_script("transfers").measure(models, x, y, torch.arange(4), Ball(eps=0.2))
    found = {(row["method"], row["attack"]): (row["average"], row["worst"], row["surrogate"]) for row in rows}
    assert [key for key in found if key[0] == "teacher"] == []
    for attack in ("pgd-20", "pgd-t-20"):
        assert found["plain", attack] == ("0.0000", "0.0000", "")
        assert found["hidden", attack] == ("1.0000", "1.0000", "")
    assert found["hidden", "transfer-one"] == ("0.0000", "0.0000", "plain")
    assert found["hidden", "transfer-all"] == ("0.0000", "0.0000", "")
    assert found["plain", "transfer-one"] == ("0.0000", "0.0000", "teacher")
