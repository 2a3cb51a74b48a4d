"""Archives under a limit of number and size."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu.packing import Parcel, pack


def parcel(root: Path, name: str, size: int) -> Parcel:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(np.random.default_rng(size).bytes(size))
    return Parcel(root, [Path(name)])


def test_tar_unpacks_what_was_packed(tmp_path):
    files = [parcel(tmp_path / "from", f"results/a/{name}", 3000) for name in ("run.json", "verdicts.npz")]
    packed = pack(files, tmp_path, "board", max_files=1, max_bytes=100_000)
    (tmp_path / "to").mkdir()
    subprocess.run(["tar", "xzf", str(packed.archives[0])], cwd=tmp_path / "to", check=True)
    for each in files:
        assert (tmp_path / "to" / each.paths[0]).read_bytes() == (each.root / each.paths[0]).read_bytes()


def test_the_first_archive_with_room_is_filled_and_the_rest_is_named(tmp_path):
    sizes = {"a": 6000, "b": 6000, "c": 3000, "d": 6000, "e": 20_000, "f": 2000}
    parcels = [parcel(tmp_path, name, size) for name, size in sizes.items()]
    packed = pack(parcels, tmp_path, "board", max_files=2, max_bytes=10_000)
    assert packed.left_out == ["d", "e"]
    assert [path.name for path in packed.archives] == ["board-1.tar.gz", "board-2.tar.gz"]
    assert all(path.stat().st_size <= 10_000 for path in packed.archives)
    names = [subprocess.check_output(["tar", "tzf", path], text=True).split() for path in packed.archives]
    assert names == [["a", "c"], ["b", "f"]]


def test_files_of_one_parcel_stay_together(tmp_path):
    run = Parcel(tmp_path, [parcel(tmp_path, f"run/{name}", 4000).paths[0] for name in ("run.json", "verdicts.npz")])
    packed = pack([run], tmp_path, "board", max_files=3, max_bytes=6000)
    assert packed.archives == []
    assert packed.left_out == ["run"]


def test_archives_of_an_earlier_call_are_removed(tmp_path):
    (tmp_path / "board-3.tar.gz").touch()
    (tmp_path / "weights-1.tar.gz").touch()
    pack([parcel(tmp_path, "a", 10)], tmp_path, "board", max_files=1, max_bytes=1000)
    assert sorted(path.name for path in tmp_path.glob("*.gz")) == ["board-1.tar.gz", "weights-1.tar.gz"]


@given(sizes=st.lists(st.integers(0, 5000), max_size=8), number=st.integers(1, 3), limit=st.integers(500, 9000))
@pytest.mark.usefixtures("tmp_path_factory")
def test_limits_hold_and_every_parcel_is_packed_or_named(sizes, number, limit, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    parcels = [parcel(folder, f"file{place}", size) for place, size in enumerate(sizes)]
    packed = pack(parcels, folder, "board", max_files=number, max_bytes=limit)
    assert len(packed.archives) <= number
    assert all(path.stat().st_size <= limit for path in packed.archives)
    inside = [subprocess.check_output(["tar", "tzf", path], text=True).split() for path in packed.archives]
    assert sorted(sum(inside, packed.left_out)) == sorted(str(each.paths[0]) for each in parcels)
