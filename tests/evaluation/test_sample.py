from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import FakeData
from torchvision.models import mobilenet_v3_small
from torchvision.transforms import ToTensor

import fairbench
from fairbench.data.dataset import Dataset, Split
from fairbench.errors import InvalidInput
from fairbench.evaluation.sample import open_sample

COUNT = 12
LABELS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
# The first image of every class, then the second, in the dataset's order.
FIVE = [0, 1, 6, 7, 9]
NAMES = ("ant", "bee", "cat")


def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), dtype=np.uint8)


class ClassLabel:
    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = list(names)


class Columns:
    """The part of the interface of a Hugging Face dataset that is read, with a count of the rows that were."""

    def __init__(self, rows: list[dict[str, Any]], features: dict[str, Any]) -> None:
        self.rows, self.features, self.column_names, self.read = rows, features, list(rows[0]), 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return [row[key] for row in self.rows]
        self.read += 1
        return self.rows[key]

    def __iter__(self) -> Any:
        return (self[number] for number in range(len(self.rows)))

    def select(self, numbers: list[int]) -> Columns:
        return Columns([self[number] for number in numbers], self.features)


def _rows() -> list[dict[str, Any]]:
    return [
        {"id": number, "img": Image.fromarray(image), "label": int(label)}
        for number, (image, label) in enumerate(zip(_images(), LABELS, strict=True))
    ]


def _columns(**features: Any) -> Columns:
    return Columns(_rows(), {"label": ClassLabel(NAMES), **features})


def test_a_torchvision_model_and_a_loader_take_five_lines() -> None:
    torch.manual_seed(0)
    loader = DataLoader(FakeData(8, (3, 32, 32), num_classes=4, transform=ToTensor()), batch_size=4)
    model = mobilenet_v3_small(num_classes=4)
    report = fairbench.evaluate(model, loader, attacks=["clean", "pgd-20"], eps=8 / 255)
    assert report.worst <= report.average <= report.average(attack="clean") <= 1.0
    assert report.per_class["n"].sum() == 8


@pytest.mark.parametrize(
    "given",
    [
        lambda: (_images(), LABELS),
        lambda: (list(_images()), LABELS.tolist()),
        lambda: (torch.from_numpy(_images()).permute(0, 3, 1, 2), torch.from_numpy(LABELS)),
        lambda: Dataset("mine", Split(_images(), LABELS), Split(_images(), LABELS), NAMES),
        lambda: DataLoader(
            TensorDataset(torch.from_numpy(_images()).permute(0, 3, 1, 2), torch.from_numpy(LABELS)), batch_size=5
        ),
        lambda: TensorDataset(torch.from_numpy(_images()).permute(0, 3, 1, 2), torch.from_numpy(LABELS)),
        _columns,
    ],
)
def test_a_limit_takes_the_same_class_balanced_subset_of_every_kind(given: Any) -> None:
    sample = open_sample(given(), limit=np.int64(5))  # type: ignore[arg-type]
    assert np.asarray(sample.labels).tolist() == LABELS[FIVE].tolist()
    assert sample.subset_of == COUNT
    images = sample.images.permute(0, 2, 3, 1).numpy() if isinstance(sample.images, torch.Tensor) else sample.images
    assert np.array_equal(np.asarray(images), _images()[FIVE])
    for whole in (open_sample(given()), open_sample(given(), limit=COUNT), open_sample(given(), limit=999)):
        assert (len(whole.images), whole.subset_of) == (COUNT, None)


@pytest.mark.parametrize("limit", [0, -1, 2.0, True, "5"])
def test_a_limit_that_is_no_number_of_images_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidInput, match="limit must be a number of images"):
        open_sample((_images(), LABELS), limit)


def test_a_limit_leaves_no_class_without_an_image() -> None:
    with pytest.raises(InvalidInput, match="limit 2 leaves classes without an image: there are 3"):
        open_sample((_images(), LABELS), limit=2)


def test_the_report_of_a_subset_says_so_and_has_its_verdicts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(90, 3))
    part = fairbench.evaluate(model, (_images(), LABELS), attacks=["clean"], limit=5, flags=False)
    alone = fairbench.evaluate(model, (_images()[FIVE], LABELS[FIVE]), attacks=["clean"], flags=False)
    assert part.verdicts["clean"].tolist() == alone.verdicts["clean"].tolist()
    assert part.subset == "class-balanced subset of 5 of 12 images"
    assert repr(part).startswith("class-balanced subset of 5 of 12 images under clean: ")
    assert part.as_dict()["subset"] == {"of": 12, "said": part.subset}
    assert part.subset in part.to_html()
    assert part.subset in part._repr_html_()
    assert alone.subset == ""
    assert "subset" not in alone.as_dict()


def test_columns_of_a_hugging_face_dataset_are_found_by_type_and_by_name() -> None:
    sample = open_sample(_columns())
    assert np.array_equal(sample.images, _images())
    assert (np.asarray(sample.labels).tolist(), sample.class_names) == (LABELS.tolist(), NAMES)
    rows = [{"picture": row["img"], "species": row["label"]} for row in _rows()]
    typed = open_sample(Columns(rows, {"picture": type("Image", (), {})(), "species": ClassLabel(NAMES)}))
    assert np.array_equal(typed.images, _images())


def test_of_a_subset_no_other_image_is_decoded() -> None:
    columns = _columns()
    open_sample(columns, limit=5)
    assert columns.read == 5


def test_what_is_unclear_in_a_hugging_face_dataset_is_refused_in_one_line() -> None:
    rows = [{"img": row["img"], "coarse": 0, "fine": row["label"]} for row in _rows()]
    two = Columns(rows, {"coarse": ClassLabel(("all",)), "fine": ClassLabel(NAMES)})
    with pytest.raises(InvalidInput, match=r"label columns coarse, fine: keep one, as with dataset.remove_columns"):
        open_sample(two)
    with pytest.raises(InvalidInput, match="no image column among text"):
        open_sample(Columns([{"text": "a"}], {}))

    splits = type("DatasetDict", (dict,), {"column_names": {"train": ["img"], "test": ["img"]}})
    with pytest.raises(InvalidInput, match=r"splits train, test: give one, as dataset\['test'\]"):
        open_sample(splits(train=two, test=two))


def test_class_names_must_fit_the_logits_where_the_dataset_declares_them() -> None:
    with pytest.raises(InvalidInput, match="the model has 4 logits, the dataset 3 classes"):
        open_sample(_columns()).names(4)
    guessed = FakeData(4, (3, 6, 5), num_classes=3, transform=ToTensor())
    guessed.classes = list(NAMES)
    sample = open_sample(DataLoader(guessed, batch_size=2))
    assert sample.names(3) == NAMES
    assert sample.names(4) == ("0", "1", "2", "3")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_datasets_of_the_library_itself(streamed: bool, kind: str | None) -> None:
    library = pytest.importorskip("datasets", reason="needs the optional package datasets")
    features = library.Features(
        {"id": library.Value("int64"), "img": library.Image(), "label": library.ClassLabel(names=list(NAMES))}
    )
    dataset = library.Dataset.from_list(_rows(), features=features)
    dataset = dataset.to_iterable_dataset() if streamed else dataset
    sample = open_sample(dataset if kind is None else dataset.with_format(kind), limit=5)
    images = sample.images
    if isinstance(images, torch.Tensor) and images.shape[1] == 3:
        images = images.permute(0, 2, 3, 1)
    assert np.array_equal(np.asarray(images), _images()[FIVE])
    assert np.asarray(sample.labels).tolist() == LABELS[FIVE].tolist()
    assert (sample.class_names, sample.subset_of) == (NAMES, COUNT)
