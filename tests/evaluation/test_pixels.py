"""Images in every layout that NumPy and torch have: read as they look, or refused in one line."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from fairbench import evaluate
from fairbench.errors import InvalidInput
from fairbench.evaluation.pixels import arranged, as_input, as_labels, as_tensor, gathered

CPU = torch.device("cpu")
LABELS = np.arange(6) % 4


def _images(channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (6, 5, 4, channels), np.uint8)


def _mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(60, 16), nn.ReLU(), nn.Linear(16, 4))


def _conv(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4))


class _Viewed(nn.Module):
    """A network that flattens with `view`, which accepts contiguous activations only."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.layers = _conv(channels)

    def forward(self, x: Tensor) -> Any:
        convolution, activation, _, linear = self.layers
        return linear(activation(convolution(x)).view(len(x), -1))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["u1", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8", "longdouble"]),
    order=st.permutations(range(4)),
    backwards=st.lists(st.booleans(), min_size=4, max_size=4),
    packed=st.booleans(),
    writable=st.booleans(),
)
def test_an_array_reads_the_same_however_it_lies_in_memory(
    kind: str, order: list[int], backwards: list[bool], packed: bool, writable: bool
) -> None:
    images = _images() if kind == "u1" else (_images() / 255).astype(kind)
    array = np.ascontiguousarray(images.transpose(order)).transpose(np.argsort(order))
    for axis, flip in enumerate(backwards):
        array = np.flip(np.flip(array, axis).copy(), axis) if flip else array
    if packed:  # each number after a byte of something else, so that none is aligned
        record = np.zeros(images.shape, dtype=[("pad", "u1"), ("value", images.dtype)])
        record["value"] = array
        array = record["value"]
    array.flags.writeable = writable
    found = as_input(as_tensor(array), CPU)
    expected = torch.from_numpy(images.astype(np.float32) / (255 if kind == "u1" else 1)).permute(0, 3, 1, 2)
    assert torch.equal(found, expected)
    assert found.data_ptr() != array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_of_every_floating_type_are_images_and_never_the_callers_memory(dtype: torch.dtype) -> None:
    images = torch.rand(6, 3, 5, 4).to(dtype)
    found = as_input(as_tensor(images), CPU)
    assert found.dtype == torch.float32
    assert torch.equal(found, images.float())
    found.zero_()
    assert images.float().sum() > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(6, 3, 5, 4).to_sparse(), "plain tensor"),
        (torch.empty(6, 3, 5, 4, device="meta"), "not a meta one"),
        (torch.zeros(6, 3, 5, 4, dtype=torch.complex64), "not torch.complex64"),
        (torch.zeros(6, 3, 5, 4).to(torch.float8_e4m3fn), "not torch.float8_e4m3fn"),
        (torch.zeros(6, 3, 5, 4, dtype=torch.bool), "not torch.bool"),
        (np.ma.masked_less(np.full((6, 5, 4, 3), 0.5), 1), "masked array"),
        (np.zeros((6, 5, 4)), r"images\[\.\.\., None\]"),
        ([torch.zeros(3, 5, 4), torch.zeros(3, 4, 5)], "must share one shape"),
        ([np.zeros((5, 4, 3)), np.zeros((4, 5, 3))], "must share one shape"),
        ([], "must share one shape"),
    ],
)
def test_what_is_no_image_is_refused_in_one_line(images: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        evaluate(_mlp(), (images, LABELS), attacks=["clean"])
    assert "\n" not in str(caught.value)


def test_labels_as_a_list_of_tensors_and_labels_that_are_none() -> None:
    assert as_labels([torch.tensor(1), torch.tensor(2)], 2).tolist() == [1, 2]
    masked = np.ma.masked_array([1, 2], mask=[False, True])
    strange = (torch.ones(2).bfloat16(), [[1], [1, 2]], torch.ones(2, device="meta"), np.array([1, 2**64 - 1]), masked)
    for labels in strange:
        with pytest.raises(InvalidInput, match="label"):
            as_labels(labels, 2)


@pytest.mark.parametrize("kind", [float, np.float32, np.int16, torch.tensor, str, lambda label: torch.tensor([label])])
@pytest.mark.parametrize("batched", [False, True])
def test_labels_of_a_dataset_are_whole_numbers_of_any_kind(kind: Any, batched: bool) -> None:
    pairs = [(torch.zeros(3, 5, 4), kind(label)) for label in (0, 3)]
    labels = gathered(DataLoader(pairs, batch_size=2) if batched else pairs)[1]
    assert labels.tolist() == [0, 3]


@pytest.mark.parametrize("label", [0.7, np.float32(2.5), torch.tensor(1.2), float("nan"), None, [1, 2], "one"])
@pytest.mark.parametrize("batched", [False, True])
def test_labels_of_a_dataset_that_are_none_are_one_line(label: Any, batched: bool) -> None:
    """Mixed labels are fractions; cut down to whole numbers they would be other classes."""
    pairs = [(torch.zeros(3, 5, 4), label), (torch.zeros(3, 5, 4), label)]
    with pytest.raises(InvalidInput, match="its items must be pairs of image and label: ") as caught:
        gathered(DataLoader(pairs, batch_size=2) if batched else pairs)
    assert "\n" not in str(caught.value)


def test_grey_images_which_torch_calls_contiguous_in_any_layout_are_viewed() -> None:
    data = (_images(1), LABELS)
    ours, theirs = (
        evaluate(net, data, attacks=["clean", "pgd-20"], eps=0.1, flags=False) for net in (_Viewed(1), _conv(1))
    )
    for name in ("clean", "pgd-20"):
        assert np.array_equal(ours.verdicts[name], theirs.verdicts[name])


@pytest.mark.filterwarnings("ignore:the images have their axes in another order")
@pytest.mark.parametrize("build", [_mlp, _conv, _Viewed, lambda: _Viewed().double()])
def test_every_way_to_give_images_gives_the_same_verdicts(build: Any) -> None:
    images, labels = _images(), LABELS
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    expected = evaluate(build(), (images, labels), attacks=["clean", "pgd-20"], eps=0.1, flags=False)
    ways = {
        "array with channels first": images.transpose(0, 3, 1, 2),
        "tensor": tensor,
        "tensor with channels last": tensor.permute(0, 2, 3, 1),
        "list of tensors": list(tensor),
        "list of arrays": list(images),
        "list of pictures": [Image.fromarray(image) for image in images],
    }
    for name, way in ways.items():
        report = evaluate(build(), (way, list(labels)), attacks=["clean", "pgd-20"], eps=0.1, flags=False)
        found = {attack: verdict.tolist() for attack, verdict in report.verdicts.items()}
        assert found == {attack: verdict.tolist() for attack, verdict in expected.verdicts.items()}, name


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("as_list", [True, False])
def test_pictures_whose_numbers_are_no_rgb_are_refused(mode: str, as_list: bool) -> None:
    pictures = [Image.fromarray(image).convert(mode) for image in _images()]
    with pytest.raises(InvalidInput, match=f"^a picture of mode {mode} is not in RGB: "):
        as_tensor(pictures) if as_list else gathered((picture, 0) for picture in pictures)  # type: ignore[arg-type]


def test_axes_in_another_order_than_documented_are_remarked_upon() -> None:
    with pytest.warns(UserWarning, match="axes in another order"):
        report = evaluate(_mlp(), (_images().transpose(0, 3, 1, 2), LABELS), attacks=["clean"], flags=False)
    assert "axes in another order" in report.remarks[0]
    assert evaluate(_mlp(), (_images(), LABELS), attacks=["clean"], flags=False).remarks == ()


def test_the_order_of_axes_is_found_by_shape_and_then_by_the_model() -> None:
    def shapes(images: Any, taken: Any) -> tuple[list[int], bool]:
        found, other = arranged(images, lambda x: list(x.shape[1:]) in taken)
        return list(found.shape[1:]), other

    every = [[3, 5, 4], [5, 4, 3], [4, 3, 5], [12, 3, 5], [3, 5, 12], [3, 5, 3], [3, 3, 5], [4, 5, 6], [6, 4, 5]]
    assert shapes(np.zeros((2, 5, 4, 3)), every) == ([3, 5, 4], False)
    assert shapes(np.zeros((2, 3, 5, 4)), every) == ([3, 5, 4], True)
    assert shapes(torch.zeros(2, 5, 4, 3), every) == ([3, 5, 4], True)
    # twelve channels, and a picture of three rows: the model alone knows
    assert shapes(np.zeros((2, 3, 5, 12)), [[12, 3, 5]]) == ([12, 3, 5], False)
    assert shapes(np.zeros((2, 3, 5, 3)), every) == ([3, 3, 5], False)
    with pytest.raises(InvalidInput, match="neither 1 nor 3 channels"):
        shapes(torch.zeros(2, 4, 5, 6), [[4, 5, 6], [6, 4, 5]])


def test_loaders_and_datasets_of_torch() -> None:
    images, labels = torch.rand(7, 3, 5, 4), torch.arange(7) % 4
    pairs = TensorDataset(images, labels)
    for dataset in (pairs, DataLoader(pairs, batch_size=3), DataLoader(pairs, batch_size=None), iter(pairs)):
        x, y = gathered(dataset)
        assert torch.equal(x, images)
        assert y.tolist() == labels.tolist()
        with pytest.raises(InvalidInput, match="must be pairs of image and label"):
            gathered(TensorDataset(images))
    dictionaries = [{"image": images[0], "label": 1}]
    with pytest.raises(InvalidInput, match=r"must be pairs of image and label: TypeError: a dictionary of 'image'"):
        gathered(iter(dictionaries))
    with pytest.raises(InvalidInput, match="must be pairs of image and label"):
        gathered(TensorDataset(images, torch.eye(7)))
    whole = evaluate(_mlp(), DataLoader(pairs, batch_size=3), attacks=["pgd-20"], eps=0.1, flags=False)
    pair = evaluate(_mlp(), (images, labels), attacks=["pgd-20"], eps=0.1, flags=False)
    assert whole.verdicts["pgd-20"].tolist() == pair.verdicts["pgd-20"].tolist()


def test_loaders_whose_batches_come_from_a_batch_sampler() -> None:
    images, labels = torch.rand(7, 3, 5, 4), torch.arange(7) % 4
    pairs = TensorDataset(images, labels)
    sampler = BatchSampler(SequentialSampler(pairs), 3, drop_last=False)
    whole = [(images[:3], labels[:3]), (images[3:], labels[3:].tolist())]
    for dataset in (
        DataLoader(pairs, batch_sampler=sampler),
        DataLoader(pairs, sampler=sampler, batch_size=None),
        DataLoader(whole, batch_size=None),  # type: ignore[arg-type]
        iter(whole),
    ):
        x, y = gathered(dataset)
        assert torch.equal(x, images)
        assert y.tolist() == labels.tolist()
    with pytest.raises(InvalidInput, match="must be pairs of image and label"):
        gathered(iter([(images, 1)]))


def test_a_list_of_two_images_is_no_pair_of_images_and_labels() -> None:
    images: list[Tensor] = [torch.rand(3, 5, 4), torch.rand(3, 5, 4)]
    with pytest.raises(InvalidInput, match="images must be a tensor"):
        evaluate(_mlp(), images, attacks=["clean"])
