"""What strangers may send to do harm: nothing runs, nothing leaves its folder, no secret is kept, memory is bounded."""

from __future__ import annotations

import copy
import csv
import io
import pickle
import shutil
import string
import struct
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
import torch
import yaml
from fuzz.mutation import bytes_near, junk, texts, trees_near
from hypothesis import strategies as st

CLEAN = ["--attacks", "clean", "--eps", "0.1"]
ARCH = ["--arch", "small-cnn:width=4,batchnorm=true"]
CALLS = [
    "builtins.bytearray", "torch.Tensor", "torch.FloatStorage", "torch.storage.UntypedStorage", "torch.Size",
    "collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "_codecs.encode",
    "builtins.set", "os.system", "builtins.eval", "torch._utils._rebuild_meta_tensor_no_storage", "torch.device",
    "torch.load", "torch.zeros", "numpy.zeros", "torch._tensor._rebuild_from_type_v2", "operator.mul",
]  # fmt: skip
EVIL = "from pathlib import Path\nPath('ran').touch()\ndef build(num_classes, shape): ...\ndef loss(logits, y): ...\n"
PLACES = ["evil:build", "os:abort", "pgd-5:rel_step=0.5,loss=evil:loss", "evil:loss", "fgsm:loss=evil:loss:x"]
sizes = st.one_of(st.integers(-1, 5), st.sampled_from([10**5, 10**9, 2**31, 2**40, 2**63, 10**30]))


def _archive(path: Path, main: bytes, records: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", main)
        for name, content in records.items():
            archive.writestr(f"x/data/{name}", content)


def test_bytes_of_checkpoints_of_torch(bench, command, fuzz):
    network = torch.nn.Linear(3, 2)
    streams = {zipped: io.BytesIO() for zipped in (True, False)}
    for zipped, stream in streams.items():
        torch.save({"model": network.state_dict()}, stream, _use_new_zipfile_serialization=zipped)

    def body(content: bytes) -> None:
        Path("model.pt").write_bytes(content)
        assert command("evaluate", "model.pt", "--dataset", f"npz:{bench.data}", *ARCH, *CLEAN) == 2

    fuzz(st.sampled_from([stream.getvalue() for stream in streams.values()]).flatmap(bytes_near), body)


def test_pickles_inside_a_whole_archive(bench, command, fuzz):
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(1)}, "whole.pt")
    with zipfile.ZipFile("whole.pt") as archive:
        main = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))

    def body(main: bytes) -> None:
        _archive(Path("model.pt"), main, {"0": bytes(24), "1": bytes(4)})
        assert command("evaluate", "model.pt", "--dataset", f"npz:{bench.data}", *ARCH, *CLEAN) == 2

    fuzz(bytes_near(main), body)


def test_pickles_that_call_and_claim(bench, command, fuzz):
    def body(value: tuple[str, list[object], int]) -> None:
        module, _, name = value[0].rpartition(".")
        arguments = pickle.dumps(tuple(value[1]), 2)[2:-1]
        main = b"\x80\x02}X\x01\x00\x00\x00ac" + f"{module}\n{name}\n".encode() + arguments + b"Rs."
        _archive(Path("model.pt"), main, {"0": bytes(value[2])})
        assert command("evaluate", "model.pt", "--dataset", f"npz:{bench.data}", *ARCH, *CLEAN) == 2

    argument = st.one_of(sizes, st.lists(sizes, max_size=3).map(tuple), st.just("touch ran"), junk)
    fuzz(st.tuples(st.sampled_from(CALLS), st.lists(argument, max_size=6), st.integers(0, 100)), body)


def test_archives_that_claim(bench, command, fuzz):
    def header(claim: tuple[str, list[int], bool]) -> bytes:
        shape = "(" + "".join(f"{side}," for side in claim[1]) + ")"
        text = f"{{'descr': {claim[0]!r}, 'fortran_order': {claim[2]}, 'shape': {shape}, }}".ljust(117) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()

    kinds = st.sampled_from(["|u1", "<i8", "<U0", "<U1", "|S0", "|V0", "<U100000000", "<f2", "|O", "<M8[s]"])
    claim = st.tuples(kinds, st.lists(sizes, max_size=4), st.booleans())
    held = st.sampled_from([0, 1, 4, 100, 10**6, 10**8])

    def body(arrays: dict[str, tuple[tuple[str, list[int], bool], int]]) -> None:
        with zipfile.ZipFile("data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (claimed, zeros) in arrays.items():
                with archive.open(f"{name}.npy", "w") as entry:
                    entry.write(header(claimed))
                    for _ in range(0, zeros, 10**6):
                        entry.write(bytes(min(zeros, 10**6)))
        command("evaluate", bench.run / "best.safetensors", "--dataset", "npz:data.npz", *CLEAN)

    names = st.sampled_from(["images", "labels", "class_names"])
    fuzz(st.dictionaries(names, st.tuples(claim, held), min_size=1), body)


def test_suites_that_name_code(bench, command, fuzz):
    tree = yaml.safe_load(bench.suite.read_text())
    Path("evil.py").write_text(EVIL)

    def body(value: tuple[object, list[object], str]) -> None:
        near, path, place = copy.deepcopy(value)
        owner = near
        for key in path[:-1]:
            owner = owner.setdefault(key, {}) if isinstance(owner, dict) else {}
        if isinstance(owner, dict):
            owner[path[-1]] = [place] if path[-1] in ("best", "last", "evaluation.best") else place
        Path("suite.yaml").write_text(yaml.safe_dump(near), encoding="utf-8")
        command("run", "suite.yaml", "--dry-run")
        command("run", "suite.yaml", "--dry-run", "--quick")
        assert not Path("ran").exists()

    paths = st.sampled_from(
        [
            ["model"], ["teacher", "model"], ["natural_teacher", "model"], ["warm_start", "model"], ["methods"],
            ["selection", "attack"], ["evaluation", "best"], ["evaluation", "last"], ["quick", "model"],
            ["quick", "evaluation.best"], ["data", "name"], ["teacher", "method"], ["teacher", "checkpoint"],
        ]
    )  # fmt: skip
    fuzz(st.tuples(st.one_of(st.just(tree), trees_near(tree)), paths, st.sampled_from(PLACES)), body)


def test_secrets_of_urls(command, fuzz):
    characters = string.ascii_letters + string.digits + "/+=!$%&*-_.~"
    secrets = st.text(characters, min_size=6, max_size=20).map(lambda text: f"Zq7{text}9xW")
    schemes = st.sampled_from(["s3", "memory", "file", "nowhere", "http", "a::s3", "zip", "github+https"])
    words = st.sampled_from(
        [
            ["leaderboard", "build", "tiny", "--out"], ["show", "sat/0", "--out"], ["show", "sat/0", "--board"],
            ["evaluate", "x", "--dataset", "digits", "--out"], ["report", "x", "--out"], ["leaderboard", "show"],
            ["leaderboard", "html", "digits", "--out"], ["check", "--baseline", "x", "--candidate"], ["report"],
            ["evaluate", "x", "--dataset"], ["run", "digits", "--dry-run", "--out"], ["results", "check"],
        ]
    )  # fmt: skip

    def body(value: tuple[list[str], str, str, str]) -> None:
        words, scheme, secret, form = value
        written = secret if form == "raw" else quote(secret, safe="")
        place = {"query": f"host/dir?token={written}", "raw": f"user:{written}@host/dir"}
        command(*words, f"{scheme}://{place.get(form, f'user:{written}@host/dir')}")
        for text in (command.said, *map(str, Path().rglob("*"))):
            assert written not in text
            assert secret not in text

    fuzz(st.tuples(words, schemes, secrets, st.sampled_from(["raw", "quoted", "query"])), body)


def test_boards_that_steer_a_terminal_or_a_spreadsheet(bench, command, fuzz):
    rows = list(csv.reader(bench.board.read_text().splitlines()))
    evil = st.sampled_from(["\x1b[2J", "\x1b]0;x\x07", "=cmd|' /C calc'!A0", "@x", "0; rm -rf ~", "\u202e", "+1"])

    def body(value: tuple[int, int, str, list[str]]) -> None:
        changed = [list(row) for row in rows]
        changed[1 + value[0] % (len(rows) - 1)][value[1] % len(rows[0])] = value[2]
        text = io.StringIO()
        csv.writer(text).writerows(changed)
        Path("board.csv").write_text(text.getvalue(), encoding="utf-8")
        command(*value[3], *(["--board"] if value[3][0] == "show" else []), "board.csv")
        assert not {"\x1b", "\x07", "\u202e"} & set(command.said)
        commands = command.said.partition("to make it again")[2].splitlines()[1:]
        assert all(line.split()[0] in {"git", "pip", "fairbench", "it"} for line in commands if line.strip())
        if "csv" in value[3]:
            cells = [cell for row in csv.reader(command.said.splitlines()) for cell in row]
            assert not [cell for cell in cells if cell[:1] in ("=", "@")]

    shown = st.sampled_from([["show", "sat/0"], ["leaderboard", "show", "--format", "csv"], ["leaderboard", "show"]])
    numbers = st.integers(0, 1000)
    fuzz(st.tuples(numbers, numbers, evil, shown), body)


def test_folders_of_methods(command, fuzz):
    pieces = st.sampled_from(
        [
            "@register_method('x')\nclass X: ...\n", "register_method(", "x = ((((", "raise SystemExit\n", "(" * 300,
            "register_policy('sat')\n", "register_method('../x', base='sat')\n", "\0", "\udcff",
            "x = " + "-" * 5000 + "1\n",
            "register_method('y', base='sat', policies=['" + "z" * 50 + "'])\n", "open('ran', 'w')\n",
        ]
    )  # fmt: skip
    content = st.one_of(st.lists(pieces, max_size=4).map("".join), texts)

    def body(value: tuple[str, str, list[str]]) -> None:
        shutil.rmtree("methods", ignore_errors=True)
        Path("methods").mkdir()
        path = Path("methods") / "mine.py"
        if value[0] == "file":
            path.write_bytes(value[1].encode("utf-8", "surrogateescape" if "\udcff" in value[1] else "replace"))
        elif value[0] == "link":
            path.symlink_to("mine.py")
        else:
            path.mkdir()
        command(*value[2])
        assert not Path("ran").exists()

    kinds = st.sampled_from(["file", "file", "file", "link", "folder"])
    fuzz(st.tuples(kinds, content, st.sampled_from([["methods"], ["methods", "show", "sat"], ["policies"]])), body)


def test_links_in_a_folder_of_results(bench, command, fuzz, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("precious")
    names = ["results", "results/tiny", "leaderboards", "leaderboards/tiny", "leaderboards/tiny/.boards.lock"]
    names += ["leaderboards/tiny/.builds.lock", "leaderboards/tiny/v1.csv", f"results/{bench.spec.folder}/verdicts.npz"]

    def body(value: tuple[str, bool]) -> None:
        shutil.rmtree("root", ignore_errors=True)
        for name in ("results", "leaderboards"):
            shutil.copytree(bench.root / name, Path("root") / name)
        link = Path("root") / value[0]
        if link.is_dir():
            shutil.rmtree(link)
        link.unlink(missing_ok=True)
        link.symlink_to(victim / "file" if value[1] else victim)
        command("leaderboard", "build", "tiny", "--out", "root")
        assert [path.name for path in victim.iterdir()] == ["file"]
        assert (victim / "file").read_text() == "precious"

    fuzz(st.tuples(st.sampled_from(names), st.booleans()), body)


@pytest.mark.parametrize("option", ["--eps", "--seed", "--batch-size", "--mean", "--std"])
def test_numbers_of_any_size(bench, command, fuzz, option):
    digits = st.text("0123456789٣²₂", min_size=1, max_size=30)
    long = st.integers(1, 6000).map(lambda count: "9" * count)
    number = st.one_of(digits, long, st.floats().map(str), st.tuples(digits, digits).map("/".join), junk.map(str))

    def body(text: str) -> None:
        words = [f"{option}={text}", "--dataset", f"npz:{bench.data}", "--attacks", "clean", "--no-flags"]
        command("evaluate", bench.run / "best.safetensors", *words)

    fuzz(number, body)
