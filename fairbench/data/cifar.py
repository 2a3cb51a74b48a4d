"""The binary version of CIFAR-10 and CIFAR-100, and the subset of CIFAR-10 of which every copy has the exact pixels.

The binary version is plain bytes, so that reading it runs no code. Its content hash is verified (Krizhevsky, "Learning
Multiple Layers of Features from Tiny Images", 2009).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairbench.data.dataset import Dataset, Split
from fairbench.errors import CorruptFile, InvalidInput, Missing

__all__ = ["BINARY", "CIFAR100_HASH", "EXACT_HASH", "INEXACT_TEST", "INEXACT_TRAIN", "exact", "read_binary", "verified"]

# Folder, training files, test file, class names, and label bytes before each image (the last is the fine label).
BINARY = {
    "cifar10": (
        "cifar-10-batches-bin",
        tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test_batch.bin",
        "batches.meta.txt",
        1,
    ),
    "cifar100": ("cifar-100-binary", ("train.bin",), "test.bin", "fine_label_names.txt", 2),
}
PIXELS = 3 * 32 * 32

# Official positions of the images that some copies have as JPEG approximations only.
INEXACT_TRAIN = (
    *(1299, 2110, 3998, 4298, 5949, 7066, 7237, 7248, 7630, 8006, 8831, 8968, 9415, 12762, 12834, 13546, 21493, 25728),
    *(26098, 26927, 27621, 28435, 28728, 29694, 29747, 31367, 31462, 31625, 31663, 32777, 33641, 33661, 34067, 34276),
    *(34387, 34825, 35160, 35646, 36733, 37329, 37474, 37567, 38384, 38925, 39358, 39385, 39613, 39840, 39888, 39971),
    *(41779, 42004, 42389, 42611, 43357, 43883, 44882, 45168, 45240, 46175, 46435, 46538, 46624, 47393, 47597, 48081),
    *(48124, 48333, 48821, 48836, 49321, 49429, 49631, 49830, 49857),
)
INEXACT_TEST = (
    *(1259, 1369, 1422, 2245, 2737, 2935, 3695, 3718, 4085, 4496, 5791, 5896, 6286, 7580, 7707, 7724, 7832, 8117, 8551),
    9254,
)
EXACT_HASH = "cd79aace09aba1d629a2c7a8e0612008f8b4f2ba711b9ae4cdaab392b9bee790"
CIFAR100_HASH = "e03c63f50644e33fc606317f2eeef01db22ddecbb604e498f66e4d25ffc2ceb1"


def read_binary(name: str, root: Path) -> Dataset:
    """Read the binary version of `cifar10` or `cifar100` below `root`, not yet verified; raises Missing and
    CorruptFile.
    """
    folder, train_files, test_file, names_file, label_bytes = BINARY[name]
    home = root / folder
    splits: list[Split] = []
    for files in (train_files, (test_file,)):
        rows = np.concatenate([_rows(home / file, label_bytes) for file in files])
        images = rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        splits.append(Split(np.ascontiguousarray(images), rows[:, label_bytes - 1].astype(np.int64)))
    try:
        class_names = tuple((home / names_file).read_text(encoding="utf-8").split())
        return Dataset(name, splits[0], splits[1], class_names)
    except (OSError, UnicodeDecodeError, InvalidInput) as error:
        raise CorruptFile(f"{home}: {error}") from None


def exact(whole: Dataset) -> Dataset:
    """Return CIFAR-10 without `INEXACT_TRAIN` and `INEXACT_TEST`, as `cifar10-exact`; the other images keep their
    order.
    """
    train, test = (
        Split(np.delete(split.images, positions, axis=0), np.delete(split.labels, positions))
        for split, positions in ((whole.train, list(INEXACT_TRAIN)), (whole.test, list(INEXACT_TEST)))
    )
    return Dataset("cifar10-exact", train, test, whole.class_names)


def verified(dataset: Dataset, expected: str, where: Path) -> Dataset:
    """Return the dataset if it has the expected content hash; raises CorruptFile otherwise."""
    if dataset.hash != expected:
        raise CorruptFile(f"{where}: the images or labels differ from the official ones of {dataset.name!r}")
    return dataset


def _rows(path: Path, label_bytes: int) -> NDArray[np.uint8]:
    """Return the records of one file as uint8 [N, labels + pixels]."""
    if not path.is_file():
        raise Missing(f"{path}: no such file")
    size, record = path.stat().st_size, label_bytes + PIXELS
    if size == 0 or size % record or size > 100_000 * record:
        raise CorruptFile(f"{path}: {size} bytes are no whole number of records of {record} bytes")
    return np.fromfile(path, np.uint8).reshape(-1, record)
