"""Files that are nearly what they should be: arrays, pictures, boards, run records, checkpoints."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
from fuzz.mutation import bytes_near, junk, texts, trees_near
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fairbench.run.forecast import forecast

CLEAN = ["--attacks", "clean", "--eps", "0.1"]
TYPES = ["uint8", "int64", "int8", "uint64", "float32", "float64", "bool", "U3", "S3", "complex64", "datetime64[s]"]


def _arrays() -> st.SearchStrategy[np.ndarray]:
    shapes = st.one_of(
        st.sampled_from([(6, 8, 8, 1), (6, 8, 8, 3), (6,), ()]), hnp.array_shapes(min_dims=0, max_dims=5, max_side=6)
    )
    return st.sampled_from(TYPES).flatmap(lambda kind: hnp.arrays(kind, shapes))


def test_arrays(bench, command, fuzz):
    valid = {"images": np.zeros((6, 8, 8, 1), np.uint8), "labels": np.arange(6) % 4}
    names = st.one_of(st.just(valid["labels"]), _arrays())
    strategy = st.fixed_dictionaries(
        {}, optional={"images": st.one_of(st.just(valid["images"]), _arrays()), "labels": names, "class_names": names}
    )

    def body(arrays: dict[str, np.ndarray]) -> None:
        np.savez("data.npz", **arrays)
        command("evaluate", bench.run / "best.safetensors", "--dataset", "npz:data.npz", *CLEAN)

    fuzz(strategy, body)


def test_bytes_of_an_archive(bench, command, fuzz):
    np.savez_compressed("whole.npz", images=np.zeros((6, 8, 8, 1), np.uint8), labels=np.arange(6) % 4)
    content = Path("whole.npz").read_bytes()

    def body(content: bytes) -> None:
        Path("data.npz").write_bytes(content)
        command("evaluate", bench.run / "best.safetensors", "--dataset", "npz:data.npz", *CLEAN)

    fuzz(bytes_near(content), body)


def test_folders_of_pictures(bench, command, fuzz):
    whole = io.BytesIO()
    Image.new("RGB", (8, 8)).save(whole, "png")
    names = st.one_of(st.sampled_from(["a.png", "b.jpg", "c.txt", ".hidden", "d.PNG"]), st.text("abc.", max_size=9))
    picture = st.tuples(names, st.one_of(st.just(whole.getvalue()), bytes_near(whole.getvalue())))

    def body(classes: list[list[tuple[str, bytes]]]) -> None:
        shutil.rmtree("pictures", ignore_errors=True)
        for number, pictures in enumerate(classes):
            folder = Path("pictures/test") / f"class {number}"
            folder.mkdir(parents=True)
            for name, content in pictures:
                if name not in {"", ".", ".."}:
                    (folder / name).write_bytes(content)
        command("evaluate", bench.run / "best.safetensors", "--dataset", "folder:pictures", *CLEAN)

    fuzz(st.lists(st.lists(picture, max_size=3), max_size=4), body)


def test_boards(bench, command, fuzz):
    rows = list(csv.reader(bench.board.read_text().splitlines()))

    def body(rows: object) -> None:
        text = io.StringIO()
        if isinstance(rows, list):
            csv.writer(text).writerows(row if isinstance(row, list) else [row] for row in rows)
        Path("board.csv").write_text(text.getvalue(), encoding="utf-8", errors="replace")
        command("leaderboard", "show", "board.csv")

    fuzz(trees_near(rows), body)


def test_bytes_of_a_board(bench, command, fuzz):
    def body(content: bytes) -> None:
        Path("board.csv").write_bytes(content)
        command("leaderboard", "show", "board.csv")

    fuzz(bytes_near(bench.board.read_bytes()), body)


def test_records_of_runs(bench, command, copy, fuzz):
    target = copy / "results" / bench.spec.folder / "run.json"
    tree = json.loads(target.read_text())
    tree["files"] = {}
    del tree["checksum"]  # what is changed here is what a stranger wrote, not what a disk broke

    def body(tree: object) -> None:
        target.write_text(json.dumps(tree), encoding="utf-8", errors="replace")
        before = {path for path in copy.rglob("*") if "leaderboards" not in path.parts}
        command("leaderboard", "build", "tiny", "--out", copy)
        assert len(forecast([bench.spec], copy / "results")) == 1
        after = {path for path in copy.rglob("*") if "leaderboards" not in path.parts}
        assert after == before
        boards = {path.parent for path in (copy / "leaderboards").rglob("*") if path.is_file()}
        assert boards == {copy / "leaderboards" / "tiny"}

    fuzz(trees_near(tree), body)


def test_bytes_of_a_record_that_changed_are_never_built_upon(bench, command, copy, fuzz):
    target = copy / "results" / bench.spec.folder / "run.json"
    whole = target.read_bytes()

    def body(content: bytes) -> None:
        target.write_bytes(content)
        if command("leaderboard", "build", "tiny", "--out", copy) == 0:
            found = json.loads(content)  # without the field it is one from before there was a checksum
            assert "checksum" not in found or found == json.loads(whole)

    fuzz(bytes_near(whole), body)


def test_checkpoints(bench, command, fuzz):
    whole = (bench.run / "best.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def body(value: object) -> None:
        if isinstance(value, bytes):
            content = value
        else:
            text = json.dumps(value).encode(errors="replace")
            content = len(text).to_bytes(8, "little") + text + whole[8 + length :]
        Path("model.safetensors").write_bytes(content)
        command("evaluate", "model.safetensors", "--dataset", f"npz:{bench.data}", *CLEAN)

    fuzz(st.one_of(trees_near(header), bytes_near(whole), _with_texts(header)), body)


def _with_texts(header: dict) -> st.SearchStrategy[dict]:
    """The header with the values of its metadata, which are JSON inside text, changed from within."""
    (key,) = [key for key, value in header["__metadata__"].items() if value.startswith("{")]
    inner = trees_near(json.loads(header["__metadata__"][key]))
    return inner.map(lambda tree: {**header, "__metadata__": {**header["__metadata__"], key: json.dumps(tree)}})


def test_pickles_run_nothing(bench, command, fuzz):
    strategy = st.tuples(texts, junk, st.sampled_from(["os.system", "builtins.exec", "pathlib.Path.touch"]))

    def body(value: tuple[str, object, str]) -> None:
        module, _, name = value[2].rpartition(".")
        code = f"c{module}\n{name}\n(S'touch ran'\ntR.".encode()
        Path("model.pt").write_bytes(code)
        options = ["--dataset", f"npz:{bench.data}", *CLEAN]
        assert command("evaluate", "model.pt", *options) == 2
        assert not Path("ran").exists()

    fuzz(strategy, body)
