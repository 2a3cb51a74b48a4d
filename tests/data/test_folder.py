from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fairbench.data.folder import read_folder
from fairbench.errors import CorruptFile, InvalidInput, Missing


def write(file, value, size=(4, 3), mode="RGB"):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(file)


def test_classes_and_pictures_come_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "dog" / "a.png", (0, 0, 255))
    write(tmp_path / "cat" / "2.png", (0, 255, 0))
    write(tmp_path / "cat" / "1.PNG", (255, 0, 0))
    (tmp_path / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    split, names = read_folder(tmp_path)
    assert names == ("cat", "dog")
    assert split.labels.tolist() == [0, 0, 1]
    assert split.images.shape == (3, 3, 4, 3)
    assert split.images[:, 0, 0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_grey_pictures_become_rgb(tmp_path):
    write(tmp_path / "a" / "grey.png", 7, mode="L")
    assert np.unique(read_folder(tmp_path)[0].images).tolist() == [7]


def test_a_picture_of_another_size_is_named(tmp_path):
    write(tmp_path / "a" / "1.png", 0)
    write(tmp_path / "a" / "2.png", 0, size=(5, 3))
    with pytest.raises(InvalidInput, match=r"2\.png: is 5x3, but the first picture is 4x3; all must share one size"):
        read_folder(tmp_path)


@pytest.mark.parametrize("position", [0, 1])
def test_a_truncated_picture_is_named(tmp_path, position):
    for name in ("0.png", "1.png"):
        write(tmp_path / "a" / name, 0, size=(40, 30))
    damaged = tmp_path / "a" / f"{position}.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(CorruptFile, match=rf"{position}\.png: not a readable picture") as caught:
        read_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_only_formats_of_pictures_are_opened_whatever_a_name_says(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: ran.append(1))
    write(tmp_path / "a" / "0.eps", 0)  # PostScript is a program, which Pillow gives to an interpreter
    (tmp_path / "a" / "0.eps").rename(tmp_path / "a" / "0.png")
    with pytest.raises(CorruptFile, match=r"0\.png: not a readable picture"):
        read_folder(tmp_path)
    assert ran == []


def test_the_name_of_a_skipped_file_stays_on_its_line(tmp_path, capsys):
    write(tmp_path / "a" / "0.png", 0)
    (tmp_path / "a" / "x\nfairbench: passed").write_text("no picture")
    read_folder(tmp_path)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_no_picture_is_named(tmp_path):
    write(tmp_path / "a" / "1.png", 0)
    (tmp_path / "a" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(CorruptFile, match=r"0\.png: not a readable picture"):
        read_folder(tmp_path)


def test_empty_folders_and_classes_are_named(tmp_path):
    with pytest.raises(Missing, match="no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(InvalidInput, match="needs one folder a class"):
        read_folder(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="empty: no picture"):
        read_folder(tmp_path)


def test_more_than_a_split_may_take_is_refused_before_it_is_allocated(tmp_path, monkeypatch):
    write(tmp_path / "a" / "1.png", 0)
    monkeypatch.setattr("fairbench.data.folder.MAX_BYTES", 35)
    with pytest.raises(InvalidInput, match="1 pictures of 4x3 exceed 35 bytes"):
        read_folder(tmp_path)
