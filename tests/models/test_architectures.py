from __future__ import annotations

import pytest
import torch
from torch import nn

import fairbench.models
from fairbench.errors import InvalidInput, UnknownName
from fairbench.models.architectures import Normalize, build_model, is_registered, normalized
from fairbench.registry import models

ALL = ["mobilenet-v2", "preactresnet18", "resnet-micro", "resnet18", "small-cnn", "wrn-28-10", "wrn-34-10"]


def test_the_built_in_architectures_are_registered_with_a_summary():
    assert set(ALL) <= set(models.names())
    assert all(len(models.details(name)["summary"]) > 20 for name in ALL)


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 64, 48)])
def test_each_maps_a_batch_to_logits_without_allocating_on_meta(spec, shape):
    with torch.device("meta"):
        model = build_model(spec, num_classes=7, shape=shape)
        assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("spec", ["mobilenet-v2", "preactresnet18", "resnet18", "resnet-micro", "small-cnn"])
def test_weights_come_from_the_global_generator(spec):
    def first(seed):
        torch.manual_seed(seed)
        return next(build_model(spec, num_classes=2, shape=(3, 8, 8)).parameters())

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_normalisation_is_the_first_layer():
    torch.manual_seed(0)
    bare = build_model("small-cnn", num_classes=3, shape=(3, 8, 8))
    torch.manual_seed(0)
    model = build_model("small-cnn", num_classes=3, shape=(3, 8, 8), mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    x = torch.rand(2, 3, 8, 8)
    by_hand = torch.stack([(x[:, 0] - 0.5) / 0.5, (x[:, 1] - 0.25) / 0.25, x[:, 2] / 2], dim=1)
    assert torch.allclose(model(x), bare(by_hand), atol=1e-6)
    assert {"normalize.mean", "normalize.std"} < set(model.state_dict())
    assert normalized(bare, None, None, channels=3) is bare


def test_normalize_by_hand():
    out = Normalize([0.5], [0.25])(torch.tensor([[[[1.0, 0.0]]]]))
    assert out.tolist() == [[[[2.0, -2.0]]]]


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.5,), "mean must be one number for each of the 3 channels"),
        ((0, 0, 0), None, "std must be one number"),
        (None, (1, 1, 1), "mean must be one number"),
        ((0, 0, float("nan")), (1, 1, 1), "mean must be one number"),
        ((0, 0, 0), (1, 0, 1), "std must be positive"),
    ],
)
def test_normalisation_that_does_not_fit_is_refused(mean, std, message):
    with pytest.raises(InvalidInput, match=message):
        build_model("small-cnn", num_classes=3, shape=(3, 8, 8), mean=mean, std=std)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("resnet-18", UnknownName, "unknown model 'resnet-18'; did you mean 'resnet18'"),
        ("small-cnn:widht=8", UnknownName, "argument of model 'small-cnn': 'widht'; did you mean 'width'"),
        ("resnet18:width=8", UnknownName, "argument of model 'resnet18': 'width'"),
        ("small-cnn:width=0", InvalidInput, "width must be at least 1, got 0"),
        ("small-cnn:width=wide", InvalidInput, "model 'small-cnn:width=wide': width: input should be a valid integer"),
        ("resnet-micro:width=2.5", InvalidInput, "width: input should be a valid integer, .*, got 2.5"),
        ("resnet-micro:width=0__4", InvalidInput, "'resnet-micro:width=0__4': width: should be a number, got '0__4'"),
        ("small-cnn:batchnorm=maybe", InvalidInput, "batchnorm: input should be a valid boolean, .*, got 'maybe'"),
        ("small-cnn:batchnorm=2", InvalidInput, "batchnorm: input should be a valid boolean, .*, got 2"),
        ("small-cnn:width", InvalidInput, "expected key=value|no module|cannot be imported"),
        (
            "no_such_module:Net",
            InvalidInput,
            "no_such_module cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("torch.nn:Linaer", UnknownName, "unknown callable of module torch.nn: 'Linaer'; did you mean 'Linear'"),
        ("collections:OrderedDict", InvalidInput, "ValueError: no signature found"),
        ("collections:UserDict", InvalidInput, "returned UserDict, not a torch.nn.Module"),
        ("", InvalidInput, "a name is missing"),
    ],
)
def test_a_bad_spec_is_one_line(spec, kind, message):
    with pytest.raises(kind, match=message) as caught:
        build_model(spec, num_classes=3, shape=(1, 8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", 3), ("1", 3), ("yes", 3), ("false", 0), ("False", 0), ("0", 0), ("no", 0), ("off", 0)],
)
def test_an_argument_has_the_type_that_the_network_states(text, expected):
    model = build_model(f"small-cnn:batchnorm={text},width=4.0", num_classes=3, shape=(1, 8, 8))
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model) == expected
    assert model[0].out_channels == 4


class Sized(nn.Linear):
    """A class instead of a function."""

    def __init__(self, num_classes: int, shape: tuple[int, int, int], width: int = 3) -> None:
        super().__init__(width, num_classes)


def loose(num_classes, shape, *, bias=True, **more):
    assert more == {"kind": "odd", "copy": 3}
    return nn.Linear(shape[2], num_classes, bias=bias)


def unseen(num_classes: int, shape: Unseen, *, width: int = 3) -> Unseen:  # noqa: F821
    """Its types cannot be found, as those that a file imports for checkers only."""
    return nn.Linear(width, num_classes)


@pytest.mark.parametrize(
    ("build", "arguments", "inputs"), [(Sized, "width=5", 5), (loose, "kind=odd,copy=3", 8), (unseen, "width=5", 5)]
)
def test_plug_ins_state_their_types_or_take_any(monkeypatch, build, arguments, inputs):
    monkeypatch.setitem(models._loaded, "odd", build)
    monkeypatch.setitem(models._source, "odd", __file__)
    monkeypatch.setitem(models._details, "odd", {})
    model = build_model(f"odd:{arguments}", num_classes=2, shape=(1, 8, 8))
    assert model.in_features == inputs
    if build is Sized:
        with pytest.raises(InvalidInput, match="width: input should be a valid integer"):
            build_model("odd:width=wide", num_classes=2, shape=(1, 8, 8))


@pytest.mark.parametrize(("num_classes", "shape"), [(0, (1, 8, 8)), (2, (8, 8)), (2, (1, 0, 8))])
def test_sizes_that_make_no_network_are_refused(num_classes, shape):
    with pytest.raises(InvalidInput, match="needs a class and a shape"):
        build_model("small-cnn", num_classes=num_classes, shape=shape)


def test_a_callable_of_a_module_in_the_current_folder_is_called_with_what_it_takes(tmp_path, monkeypatch):
    (tmp_path / "my_fairbench_nets.py").write_text(
        "from torch import nn\n"
        "def plain():\n    return nn.Flatten()\n"
        "def sized(num_classes, shape):\n    return nn.Linear(shape[1], num_classes)\n"
        "def loose(**arguments):\n    return nn.Linear(len(arguments), arguments['num_classes'])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "my_fairbench_nets", raising=False)
    assert isinstance(build_model("my_fairbench_nets:plain", num_classes=4, shape=(1, 5, 6)), nn.Flatten)
    sized = build_model("my_fairbench_nets:sized", num_classes=4, shape=(1, 5, 6))
    assert (sized.in_features, sized.out_features) == (5, 4)
    loose = build_model("my_fairbench_nets:loose", num_classes=4, shape=(1, 5, 6))
    assert (loose.in_features, loose.out_features) == (1, 4)


def test_a_registered_name_is_told_from_a_callable():
    assert is_registered("small-cnn:width=8")
    assert not is_registered("torch.nn:Linear")


def test_public_names_are_there():
    for name in fairbench.models.__all__:
        assert getattr(fairbench.models, name).__name__ == name
