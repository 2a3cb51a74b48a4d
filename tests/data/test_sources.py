from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import fairbench.data
from fairbench.data.sources import data_root, download, load_dataset, load_test
from fairbench.errors import InvalidInput, Missing, UnknownName
from fairbench.registry import datasets


def save(file, labels, **more):
    np.savez(file, images=np.zeros((len(labels), 2, 2, 1), dtype=np.uint8), labels=np.array(labels), **more)
    return str(file)


def test_digits_are_split_by_class_and_spread_over_the_grey_levels():
    data = load_dataset("digits")
    assert (len(data.train), len(data.test)) == (1297, 500)
    assert np.bincount(data.test.labels).tolist() == [50] * 10
    assert data.shape == (1, 8, 8)
    levels = np.unique(np.concatenate([data.train.images, data.test.images]))
    assert levels.tolist() == [round(level * 255 / 16 + 1e-9) for level in range(17)]


def test_digits_are_the_same_for_good():
    assert load_dataset("digits").hash == "842f35be8071feb08f5a0cf9d97caa78bcc6cc7d9ecd9c41626b865e8ad8a001"


def test_reading_digits_npz_and_listing_names_imports_no_torch(tmp_path):
    file = save(tmp_path / "set.npz", [0, 1])
    code = (
        "import sys; from fairbench.data import load_dataset; from fairbench.registry import datasets, models;"
        f"load_dataset('digits'); load_dataset('npz:{file},{file}'); print(datasets.names(), models.names());"
        "assert 'torch' not in sys.modules; assert 'torchvision' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("digits", "cifar10", "cifar100", "svhn", "mnist", "small-cnn", "resnet18", "wrn-34-10"):
        assert f"'{name}'" in done.stdout


def test_every_registration_has_a_summary():
    for name in ("digits", "cifar10", "cifar100", "svhn", "mnist"):
        assert len(datasets.details(name)["summary"]) > 20


def test_npz_files_make_a_data_set_with_names_from_either(tmp_path):
    train, test = save(tmp_path / "a.npz", [0, 2, 1]), save(tmp_path / "b.npz", [2, 2])
    assert load_dataset(f"npz:{train},{test}").class_names == ("0", "1", "2")
    named = save(tmp_path / "c.npz", [0, 1], class_names=np.array(["x", "y", "z"]))
    assert load_dataset(f"npz:{train},{named}").class_names == ("x", "y", "z")
    assert load_dataset(f"npz:{named},{test}").class_names == ("x", "y", "z")


def test_npz_files_that_do_not_fit_together_are_refused(tmp_path):
    few, many = save(tmp_path / "a.npz", [0, 1]), save(tmp_path / "b.npz", [0, 7])
    with pytest.raises(InvalidInput, match="test label 7 at position 1 is out of range: there are 2 classes"):
        load_dataset(f"npz:{few},{many}")
    with pytest.raises(InvalidInput, match=r"b\.npz: labels must be 0 to C-1, .* 1 is absent while 7 is present"):
        load_dataset(f"npz:{many},{few}")
    named = [save(tmp_path / f"{name}.npz", [0, 1], class_names=np.array([name, "z"])) for name in "xy"]
    with pytest.raises(InvalidInput, match="different class_names"):
        load_dataset("npz:" + ",".join(named))


@pytest.mark.parametrize(
    ("names", "message"),
    [(["x", "x"], "'x' appears more than once"), (["x", " "], "must be texts that are")],
)
def test_class_names_are_distinct_and_not_empty_in_every_file(tmp_path, names, message):
    good, bad = (
        save(tmp_path / f"{len(each)}{each[1]}.npz", [0, 1], class_names=np.array(each)) for each in (["x", "y"], names)
    )
    for load, rest in ((load_test, bad), (load_dataset, f"{bad},{bad}"), (load_dataset, f"{good},{bad}")):
        with pytest.raises(InvalidInput, match=rf"{re.escape(bad)}: class name.*{message}"):
            load(f"npz:{rest}")


def test_a_wild_label_does_not_make_as_many_class_names(tmp_path):
    wild = save(tmp_path / "a.npz", [0, 10**15])
    with pytest.raises(InvalidInput, match="1 is absent while 1000000000000000 is present"):
        load_dataset(f"npz:{wild},{wild}")


@pytest.mark.parametrize("rest", ["", "train.npz", "train.npz,", ",test.npz"])
def test_npz_needs_both_files(rest):
    with pytest.raises(InvalidInput, match="expected npz:TRAIN,TEST"):
        load_dataset(f"npz:{rest}")


def test_a_single_npz_file_is_enough_to_test_on(tmp_path):
    split, names = load_test("npz:" + save(tmp_path / "a.npz", [1, 0]))
    assert split.labels.tolist() == [1, 0]
    assert names == ("0", "1")
    pair = f"npz:{save(tmp_path / 'b.npz', [0, 1, 2])},{tmp_path / 'a.npz'}"
    assert load_test(pair)[0].labels.tolist() == [1, 0]
    assert load_test(pair)[1] == ("0", "1", "2")
    assert len(load_test("digits")[0]) == 500


def picture(file, size=(3, 3)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_a_folder_has_train_and_test_or_val(tmp_path, test_name):
    for part in ("train", test_name):
        for name in ("cat", "dog"):
            picture(tmp_path / part / name / "1.png")
    data = load_dataset(f"folder:{tmp_path}")
    assert data.class_names == ("cat", "dog")
    assert len(data.test) == 2


def test_folders_that_lack_a_split_or_differ_in_classes_are_refused(tmp_path):
    picture(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(Missing, match=r"expected the folders .*/train and .*/test \(or val\)"):
        load_dataset(f"folder:{tmp_path}")
    picture(tmp_path / "test" / "dog" / "1.png")
    with pytest.raises(InvalidInput, match="classes that are in one split only: cat, dog"):
        load_dataset(f"folder:{tmp_path}")


def test_the_test_split_can_be_a_folder_of_classes(tmp_path):
    for name in ("bus", "train"):  # a class may have the name of a split
        picture(tmp_path / "photos" / name / "1.png")
    split, class_names = load_test(f"folder:{tmp_path / 'photos'}")
    assert class_names == ("bus", "train")
    assert (split.labels.tolist(), split.images.shape) == ([0, 1], (2, 3, 3, 3))
    with pytest.raises(Missing, match="nowhere: no such folder"):
        load_test(f"folder:{tmp_path}/nowhere")


@pytest.mark.parametrize("only", ["train", "test"])
def test_a_folder_of_one_split_is_no_folder_of_classes(tmp_path, only):
    picture(tmp_path / only / "cat" / "1.png")
    with pytest.raises(Missing, match=r"expected the folders .*/train and .*/test \(or val\)"):
        load_test(f"folder:{tmp_path}")
    picture(tmp_path / "train" / "cat" / "1.png")
    picture(tmp_path / "test" / "cat" / "1.png")
    assert load_test(f"folder:{tmp_path}")[1] == ("cat",)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownName, match="unknown dataset 'cifar-10'; did you mean 'cifar10'"):
        load_dataset("cifar-10")
    with pytest.raises(UnknownName, match="unknown dataset 'zip:a'"):
        load_dataset("zip:a")


def test_the_data_folder_is_the_users_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRBENCH_DATA", str(tmp_path))
    assert data_root() == tmp_path
    with pytest.raises(Missing, match=f"'svhn' is not in {tmp_path}; get it with: fairbench datasets get svhn"):
        load_dataset("svhn")
    monkeypatch.delenv("FAIRBENCH_DATA")
    assert data_root().parts[-3:] == (".cache", "fairbench", "data")


def test_downloading_what_needs_no_download_opens_it(tmp_path):
    assert download("digits", tmp_path).name == "digits"
    with pytest.raises(UnknownName):
        download("nothing", tmp_path)


def test_a_registered_function_must_return_a_data_set(monkeypatch):
    monkeypatch.setitem(datasets._loaded, "odd", lambda _root: None)
    with pytest.raises(InvalidInput, match="'odd': its function returned NoneType, not a Dataset"):
        load_dataset("odd")


def test_public_names_are_there():
    for name in fairbench.data.__all__:
        assert getattr(fairbench.data, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = fairbench.data.nothing


def test_the_first_images_of_every_class_are_kept_for_training(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        np.savez(tmp_path / f"{name}.npz", images=rng.integers(0, 256, (9, 4, 4, 1), np.uint8), labels=np.arange(9) % 3)
    name = f"npz:{tmp_path / 'train.npz'},{tmp_path / 'test.npz'}"
    whole, part = load_dataset(name), load_dataset(name, train_per_class=2)
    assert part.train.images.tolist() == whole.train.images[:6].tolist()
    assert part.test.images.tolist() == whole.test.images.tolist()
    assert part.hash != whole.hash
    with pytest.raises(InvalidInput, match="cannot take 4 images of every class: class 0 has 3"):
        load_dataset(name, train_per_class=4)


def test_the_number_of_classes_that_a_registration_states_is_that_of_the_dataset():
    stated = {name: entry.details.get("classes") for name, entry in datasets.scan().items()}
    assert stated["digits"] == load_dataset("digits").num_classes
    summaries = {name: str(entry.details["summary"]) for name, entry in datasets.scan().items()}
    named = {name: int(found[1]) for name, text in summaries.items() if (found := re.search(r"of (\d+) classes", text))}
    assert named.items() <= stated.items()
    assert {"cifar10", "cifar100", "tiny-imagenet"} <= named.keys()
