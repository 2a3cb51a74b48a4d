from __future__ import annotations

import torch

from fairbench.models.densenet import DenseLayer, densenet_bc_100


def test_parameters_and_layers_are_those_of_the_paper():
    """Table 2 of the paper: 0.8 M parameters; 100 layers count convolutions and the last linear layer."""
    with torch.device("meta"):
        model = densenet_bc_100(10, (3, 32, 32))
    assert sum(p.numel() for p in model.parameters()) == 769_162
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(layers) == 100


def test_a_layer_keeps_its_input_and_adds_the_growth():
    x = torch.randn(2, 5, 4, 4)
    out = DenseLayer(5, 3).eval()(x)
    assert out.shape == (2, 8, 4, 4)
    assert torch.equal(out[:, :5], x)


def test_transitions_halve_channels_and_pixels():
    with torch.device("meta"):
        model, x = densenet_bc_100(10, (3, 32, 32)), torch.zeros(1, 3, 32, 32)
        shapes = []
        for name, layer in model.named_children():
            x = layer(x)
            if name.startswith(("block", "transition")):
                shapes.append(tuple(x.shape[1:]))
    assert shapes == [(216, 32, 32), (108, 16, 16), (300, 16, 16), (150, 8, 8), (342, 8, 8)]
