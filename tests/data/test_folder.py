from __future__ import annotations

import os
import struct
import zlib

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


# ---------------------------------------------------------------- pictures of more than 8 bits


def save(file, levels, **options):
    """Write an array as a picture: uint16 in mode I;16, int32 in mode I, float32 in mode F."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(file, **options)


GREY = np.arange(256)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_the_eight_bits_that_they_were_made_of(tmp_path, suffix):
    save(tmp_path / "a" / f"1.{suffix}", (257 * GREY).astype(np.uint16).reshape(16, 16))
    (image,) = read_folder(tmp_path)[0].images
    assert image.tolist() == np.repeat(GREY.reshape(16, 16, 1), 3, axis=2).tolist()


def test_every_level_of_sixteen_bits_is_rounded_to_the_nearest_of_eight(tmp_path):
    levels = np.arange(2**16)
    save(tmp_path / "a" / "1.png", levels.astype(np.uint16).reshape(256, 256))
    images = read_folder(tmp_path)[0].images
    assert images[0, ..., 0].ravel().tolist() == [(2 * level + 257) // 514 for level in levels.tolist()]


def test_whole_numbers_of_32_bits_are_levels_of_16(tmp_path):
    save(tmp_path / "a" / "1.tif", np.array([[0, 257, 65535]], dtype=np.int32))
    assert read_folder(tmp_path)[0].images[0, 0, :, 0].tolist() == [0, 1, 255]


def test_floats_are_in_0_1(tmp_path):
    save(tmp_path / "a" / "1.tif", np.array([[0, 0.2, 0.5, 1]], dtype=np.float32))
    assert read_folder(tmp_path)[0].images[0, 0, :, 1].tolist() == [0, 51, 128, 255]


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (np.array([[0, 70000]], dtype=np.int32), r"levels 0 to 70000 \(mode I\), not 0 to 65535"),
        (np.array([[-1, 0]], dtype=np.int32), r"levels -1 to 0 \(mode I\), not 0 to 65535"),
        (np.array([[0, 255]], dtype=np.float32), r"levels 0 to 255 \(mode F\), not 0 to 1"),
        (np.array([[-0.5, 1]], dtype=np.float32), r"levels -0\.5 to 1 \(mode F\), not 0 to 1"),
        (np.array([[np.nan, 1]], dtype=np.float32), r"levels nan to nan \(mode F\), not 0 to 1"),
        (np.array([[0, np.inf]], dtype=np.float32), r"levels 0 to inf \(mode F\), not 0 to 1"),
    ],
)
def test_levels_whose_white_is_not_known_are_refused(tmp_path, levels, said):
    save(tmp_path / "a" / "1.tif", levels)
    with pytest.raises(InvalidInput, match=rf"1\.tif: has {said}: store it in 8 bits$"):
        read_folder(tmp_path)


def test_twelve_bits_in_sixteen_are_refused_where_all_pictures_are_so(tmp_path):
    for number, top in enumerate((4095, 1023, 0)):
        save(tmp_path / "a" / f"{number}.png", np.array([[0, top]], dtype=np.uint16))
    with pytest.raises(InvalidInput, match=r"none of the 3 pictures of 16 bits or more has a level above 4095"):
        read_folder(tmp_path)


@pytest.mark.parametrize("bright", ["0.png", "1.png", "2.png"])
def test_dark_pictures_of_sixteen_bits_stay_dark_among_bright_ones(tmp_path, bright):
    for name in ("0.png", "1.png", "2.png"):
        save(tmp_path / "a" / name, np.array([[0, 65535 if name == bright else 4095]], dtype=np.uint16))
    found = read_folder(tmp_path)[0].images[:, 0, 1, 0]
    assert sorted(found.tolist()) == [16, 16, 255]


def _deep_png(file, levels):
    """Write uint16 [H,W,C] as a PNG of 16 bits a channel, which Pillow cannot write for colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, channels = levels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("channels", [2, 3, 4], ids=["grey and alpha", "colour", "colour and alpha"])
def test_sixteen_bits_a_channel_are_read_and_twelve_in_sixteen_refused(tmp_path, channels):
    _deep_png(tmp_path / "a" / "1.png", np.full((2, 2, channels), 200 * 257, np.uint16))
    assert np.unique(read_folder(tmp_path)[0].images).tolist() == [200]
    levels = np.full((2, 2, channels), 4095, np.uint16)
    if channels != 3:
        levels[..., -1] = 65535  # an opaque picture is dark all the same
    _deep_png(tmp_path / "a" / "1.png", levels)
    with pytest.raises(InvalidInput, match=r"1\.png: none of the 1 pictures of 16 bits or more has a level above 4095"):
        read_folder(tmp_path)


def test_dark_pictures_among_bright_ones_are_named(tmp_path, capsys):
    save(tmp_path / "a" / "1.png", np.array([[0, 65535]], dtype=np.uint16))
    _deep_png(tmp_path / "a" / "2.png", np.full((1, 2, 3), 4095, np.uint16))
    save(tmp_path / "b" / "3.png", np.array([[0, 257]], dtype=np.uint16))
    read_folder(tmp_path)
    said = capsys.readouterr().err
    assert "a/2.png: read as dark: 2 of 3 pictures of 16 bits or more have no level above 4095 of 65535" in said
    assert said.count("\n") == 1


def test_pictures_of_8_bits_do_not_make_dark_ones_of_16_bits_right(tmp_path):
    write(tmp_path / "a" / "1.png", (255, 255, 255), size=(2, 1))
    save(tmp_path / "a" / "2.png", np.array([[0, 4095]], dtype=np.uint16))
    with pytest.raises(InvalidInput, match=r"2\.png: none of the 1 pictures"):
        read_folder(tmp_path)


def test_floats_have_a_known_white_and_may_be_dark(tmp_path, capsys):
    save(tmp_path / "a" / "1.tif", np.array([[0, 0.05]], dtype=np.float32))
    assert read_folder(tmp_path)[0].images[0, 0, :, 0].tolist() == [0, 13]
    save(tmp_path / "a" / "2.png", np.array([[0, 65535]], dtype=np.uint16))
    assert len(read_folder(tmp_path)[0]) == 2
    assert capsys.readouterr() == ("", "")
    (tmp_path / "a" / "2.png").unlink()
    save(tmp_path / "a" / "2.tif", np.ones((1, 2), dtype=np.float32))
    save(tmp_path / "a" / "3.png", np.array([[0, 4095]], dtype=np.uint16))  # bright floats do not make it right
    with pytest.raises(InvalidInput, match=r"3\.png: none of the 1 pictures of 16 bits"):
        read_folder(tmp_path)


def test_sixteen_bits_for_three_colours_together_may_be_dark(tmp_path):
    pixel = struct.pack("<H", 1 << 5)  # 5 bits of red, 6 of green, 5 of blue
    header = struct.pack("<IiiHHIIiiIIIII", 40, 1, 1, 1, 16, 3, 4, 0, 0, 0, 0, 0xF800, 0x7E0, 0x1F)[:52]
    (tmp_path / "a").mkdir()
    content = struct.pack("<2sIHHI", b"BM", 14 + len(header) + 4, 0, 0, 14 + len(header)) + header + pixel + b"\0\0"
    (tmp_path / "a" / "1.bmp").write_bytes(content)
    assert read_folder(tmp_path)[0].images[0, 0, 0].tolist() == [0, 4, 0]


def test_the_first_of_several_frames_is_read_and_the_pictures_are_counted(tmp_path, capsys):
    frames = [Image.new("RGB", (4, 3), (level, level, level)) for level in (8, 200, 100)]
    (tmp_path / "a").mkdir()
    for name, kind in (("1.png", "GIF"), ("2.png", "PNG"), ("3.webp", "WEBP"), ("4.tif", "TIFF")):
        more = {"lossless": True} if kind == "WEBP" else {}
        frames[0].save(tmp_path / "a" / name, kind, save_all=True, append_images=frames[1:], **more)
        frames[0].save(tmp_path / "a" / f"single-{name}", kind, **more)
    assert np.unique(read_folder(tmp_path)[0].images).tolist() == [8]
    said = capsys.readouterr().err
    assert said == f"{tmp_path}/a/1.png: only its first frame is read: 4 of 8 pictures have several\n"


def test_transparency_is_ignored(tmp_path):
    write(tmp_path / "a" / "1.png", (255, 7, 0, 0), mode="RGBA")
    assert read_folder(tmp_path)[0].images[0, 0, 0].tolist() == [255, 7, 0]


# ---------------------------------------------------------------- orientation


TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_a_picture_is_turned_as_its_exif_orientation_says(tmp_path, orientation, suffix):
    stored = np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    save(tmp_path / "a" / f"1.{suffix}", stored, exif=exif, **options)
    assert read_folder(tmp_path)[0].images[0].tolist() == TURNS[orientation](stored).tolist()


def test_sizes_are_compared_once_pictures_are_turned(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    save(tmp_path / "a" / "1.png", np.zeros((3, 4, 3), np.uint8), exif=exif)
    write(tmp_path / "a" / "2.png", 0, size=(3, 4))
    assert read_folder(tmp_path)[0].images.shape == (2, 4, 3, 3)
    write(tmp_path / "a" / "3.png", 0, size=(4, 3))
    with pytest.raises(InvalidInput, match=r"3\.png: is 4x3, but the first picture is 3x4"):
        read_folder(tmp_path)


def test_a_deep_picture_is_turned_too(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 8
    levels = (257 * np.arange(245, 251)).astype(np.uint16).reshape(2, 3)
    save(tmp_path / "a" / "1.png", levels, exif=exif)
    assert read_folder(tmp_path)[0].images[0, ..., 0].tolist() == [[247, 250], [246, 249], [245, 248]]


# ---------------------------------------------------------------- which files


def test_sub_folders_are_read_as_torchvision_reads_them(tmp_path):
    from torchvision.datasets import ImageFolder

    names = ["b.png", "a/2.png", "a/10.png", "a/b/1.png", "a.png", "B.png", "a-b/1.png", "ä/1.png"]
    for number, name in enumerate(names):
        write(tmp_path / "cat" / name, (number, 0, 0))
        write(tmp_path / "Dog" / name, (100 + number, 0, 0))
    split, classes = read_folder(tmp_path)
    theirs = ImageFolder(str(tmp_path))
    assert list(classes) == theirs.classes
    assert split.labels.tolist() == theirs.targets
    assert split.images[:, 0, 0, 0].tolist() == [np.asarray(picture)[0, 0, 0] for picture, _ in theirs]


def test_a_linked_folder_is_read_and_a_loop_ends(tmp_path):
    write(tmp_path / "apart" / "1.png", (9, 0, 0))
    write(tmp_path / "data" / "cat" / "1.png", (1, 0, 0))
    (tmp_path / "data" / "cat" / "more").symlink_to(tmp_path / "apart")
    (tmp_path / "data" / "cat" / "loop").symlink_to(tmp_path / "data" / "cat")
    assert read_folder(tmp_path / "data")[0].images[:, 0, 0, 0].tolist() == [1, 9]


def test_hidden_files_are_passed_over_in_silence(tmp_path, capsys):
    write(tmp_path / "cat" / "1.png", 0)
    for name in ("._1.png", ".DS_Store", ".thumbs/2.png"):
        path = tmp_path / "cat" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\5\x16\7")
    (tmp_path / "._cat").mkdir()
    split, names = read_folder(tmp_path)
    assert (len(split), names) == (1, ("cat",))
    assert capsys.readouterr() == ("", "")


def test_files_that_are_not_read_are_named(tmp_path, capsys):
    write(tmp_path / "cat" / "1.png", 0)
    (tmp_path / "cat" / "notes.txt").write_text("")
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "none.png")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "zero.png").symlink_to("/dev/zero")
    assert len(read_folder(tmp_path)[0]) == 1
    assert capsys.readouterr().err == (
        f"{tmp_path}: not read, because they are no pictures or links to nothing: "
        "cat/gone.png, cat/notes.txt, cat/pipe.png, cat/zero.png\n"
    )
    for number in range(7):
        (tmp_path / "cat" / f"{number}.gif").write_text("")
    read_folder(tmp_path)
    assert capsys.readouterr().err.endswith("cat/0.gif, cat/1.gif, cat/2.gif, cat/3.gif, cat/4.gif and 6 more\n")


def test_names_that_are_no_text_are_escaped(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    write(folder / "1.png", 0)
    (folder / os.fsdecode(b"\xff.txt")).touch()
    assert read_folder(tmp_path)[1] == ("caf\\udce9",)
    assert r"caf\udce9/\udcff.txt" in capsys.readouterr().err


# ---------------------------------------------------------------- pictures of strangers


def test_a_small_file_may_not_take_much_memory(tmp_path):
    write(tmp_path / "a" / "1.png", 0, size=(7100, 7100), mode="1")
    assert (tmp_path / "a" / "1.png").stat().st_size < 20_000
    with pytest.raises(InvalidInput, match=r"1 pictures of 7100x7100 exceed .* bytes, the most that files of their"):
        read_folder(tmp_path)
    write(tmp_path / "a" / "1.png", 0, size=(4097, 4097), mode="1")
    with pytest.raises(InvalidInput, match=r"1\.png: 4097x4097 is more than the 16777216 pixels allowed"):
        read_folder(tmp_path)


def test_many_small_files_may_not_take_much_memory_together(tmp_path):
    write(tmp_path / "a" / "0.png", 0, size=(2000, 2000), mode="1")
    for number in range(1, 20):
        os.link(tmp_path / "a" / "0.png", tmp_path / "a" / f"{number}.png")
    with pytest.raises(InvalidInput, match="20 pictures of 2000x2000 exceed"):
        read_folder(tmp_path)


def test_a_picture_of_more_pixels_than_pillow_allows_is_one_line(tmp_path, recwarn):
    write(tmp_path / "a" / "1.png", 0, size=(10_000, 10_000), mode="1")
    with pytest.raises(CorruptFile, match=r"1\.png: not a readable picture: Image size \(100000000 pixels\) exceeds"):
        read_folder(tmp_path)
    assert not recwarn.list


def test_photographs_that_compress_well_are_read(tmp_path):
    smooth = np.add.outer(np.arange(1000), np.arange(1000)) // 8
    for number in range(60):  # 180 MB, more than is always free to take
        save(tmp_path / "a" / f"{number}.jpg", np.stack([smooth + number % 5] * 3, 2).astype(np.uint8), quality=90)
    files = sum(file.stat().st_size for file in (tmp_path / "a").iterdir())
    assert read_folder(tmp_path)[0].images.nbytes > 5 * files
