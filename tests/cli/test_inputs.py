"""Inputs and outputs of commands: encodings, home folders, pipes and devices, names of classes."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fairbench import cli
from fairbench.leaderboard import builder
from fairbench.leaderboard.board import load_leaderboard
from fairbench.run.pipeline import execute_run
from fairbench.run.plan import plan
from fairbench.suites.suite import load_suite

CLEAN = ["--attacks", "clean", "--eps", "0.1", "--no-flags"]
SECONDS = 60


@pytest.fixture(scope="module")
def bench(make_suite, tmp_path_factory) -> SimpleNamespace:
    """A finished run and its board."""
    root = tmp_path_factory.mktemp("bench")
    suite = make_suite(root / "suite", methods=["sat"], evaluation={"best": ["clean"], "last": [], "batch_size": 40})
    (spec,) = plan(load_suite(str(suite)))
    execute_run(spec, root / "results")
    (board,) = builder.build_boards(root / "results", root / "leaderboards", "tiny")
    run = root / "results" / spec.folder
    return SimpleNamespace(root=root, suite=suite, run=run, board=board, best=run / "best.safetensors")


@pytest.fixture
def command(own_handlers, monkeypatch, tmp_path) -> Callable[..., tuple[int, bytes, bytes]]:
    """Return `command(*arguments, encoding="utf-8") -> (exit code, stdout, stderr)`, which fails after a timeout."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, encoding: str = "utf-8") -> tuple[int, bytes, bytes]:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["fairbench", *map(str, arguments)])
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
            signal.alarm(SECONDS)
            try:
                with pytest.raises(SystemExit) as caught:
                    cli.main()
            finally:
                signal.alarm(0)
        for stream in streams:
            stream.flush()
        out, err = (stream.buffer.getvalue() for stream in streams)
        return int(caught.value.code or 0), out, err

    return call


def _npz(path: Path, names: list[str] | None = None) -> str:
    held = {"images": np.zeros((8, 8, 8, 1), np.uint8), "labels": np.arange(8) % 4}
    np.savez(path, **held, **({} if names is None else {"class_names": np.array(names)}))
    return f"npz:{path}"


# ---------------------------------------------------------------- encodings

COMMANDS: dict[str, list[str]] = {
    "help": ["--help"],
    "methods": ["methods"],
    "method": ["methods", "show", "sat"],
    "policies": ["policies"],
    "datasets": ["datasets"],
    "models": ["models"],
    "attacks": ["attacks"],
    "suites": ["suites"],
    "suite": ["suites", "digits"],
    "explain": ["explain", "worst"],
    "plan": ["run", "SUITE", "--dry-run"],
    "board": ["leaderboard", "show", "BOARD"],
    "board as markdown": ["leaderboard", "show", "BOARD", "--format", "markdown"],
    "board as latex": ["leaderboard", "show", "BOARD", "--format", "latex"],
    "board as csv": ["leaderboard", "show", "BOARD", "--format", "csv"],
    "show": ["show", "sat/0", "--out", "ROOT"],
    "evaluate": ["evaluate", "BEST", "--dataset", "DATA", *CLEAN],
    "evaluate as json": ["evaluate", "BEST", "--dataset", "DATA", *CLEAN, "--json"],
    "build": ["leaderboard", "build", "tiny", "--out", "ROOT"],
    "report": ["report", "RUN", "--out", "plot.svg"],
}


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
@pytest.mark.parametrize("name", COMMANDS)
def test_what_an_encoding_lacks_loses_no_output(bench, command, tmp_path, name, encoding):
    data = _npz(tmp_path / "data.npz", ["kočka", "$dog$", "鳥", "fish"])
    places = {"SUITE": bench.suite, "BOARD": bench.board, "ROOT": bench.root}
    places |= {"BEST": bench.best, "DATA": data, "RUN": bench.run}
    arguments = [places.get(word, word) for word in COMMANDS[name]]
    code, out, err = command(*arguments, encoding=encoding)
    assert code == 0, err.decode(encoding)
    assert (out + err).decode(encoding).strip()
    if name == "evaluate":
        assert r"ko\u010dka" in out.decode(encoding)


def test_a_table_is_drawn_in_what_the_encoding_has(bench, command):
    out = command("leaderboard", "show", bench.board, encoding="ascii")[1]
    assert b"\\u2" not in out  # no line of a table as an escape
    assert b"sat" in out


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_an_error_is_one_line_in_any_encoding(command, encoding):
    code, out, err = command("evaluate", "kočka→.pt", "--dataset", "digits", encoding=encoding)
    assert (code, out) == (2, b"")
    assert err.startswith(rb"fairbench: ko\u010dka\u2192.pt")
    assert err.count(b"\n") == 1


# ---------------------------------------------------------------- the home folder


def test_a_tilde_is_the_home_folder(bench, command, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    _npz(home / "data.npz")
    for number, out in enumerate((["--out", "~/a"], ["--out=~/b"])):
        assert command("evaluate", bench.best, "--dataset", "npz:~/data.npz", *CLEAN, *out)[0] == 0
        assert (home / "ab"[number]).is_dir()
    assert not (tmp_path / "~").exists()


# ---------------------------------------------------------------- pipes and devices


def _pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def _device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


@pytest.mark.parametrize("odd", [_pipe, _device])
def test_no_command_reads_a_pipe_or_a_device(bench, command, tmp_path, odd):
    data = f"npz:{bench.root}/suite/test.npz"
    for name, arguments in {
        "board.csv": ["leaderboard", "show", "board.csv"],
        "data.npz": ["evaluate", bench.best, "--dataset", "npz:data.npz", *CLEAN],
        "suite.yaml": ["run", "suite.yaml", "--dry-run"],
        "run/run.json": ["report", "run"],
        "model.pt": ["evaluate", "model.pt", "--arch", "small-cnn", "--dataset", data, *CLEAN],
        "model.npz": ["evaluate", "model.npz", "--arch", "small-cnn", "--dataset", data, *CLEAN],
        "model.safetensors": ["evaluate", "model.safetensors", "--dataset", data, *CLEAN],
        "pictures/test/a/1.png": ["evaluate", bench.best, "--dataset", "folder:pictures", *CLEAN],
        "base.csv": ["check", "--baseline", "base.csv", "--candidate", bench.board],
        "plugin.py": ["methods", "--plugin", "plugin.py"],
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        odd(tmp_path / name)
        code, _, err = command(*arguments)
        assert code == 2, (name, err)
        assert err.decode().splitlines()[-1].startswith("fairbench: "), name


@pytest.mark.parametrize("name", ["run.json", "history.csv", "verdicts.npz"])
def test_a_pipe_in_a_run_is_one_line(bench, command, tmp_path, name):
    for path in bench.run.iterdir():
        if path.name != name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    _pipe(tmp_path / name)
    code, _, err = command("report", tmp_path, "--out", "plot.svg")
    assert code in ((0, 2) if name == "verdicts.npz" else (2,))
    assert len(err.splitlines()) == (code == 2)


def test_a_leaderboard_has_a_size(bench, monkeypatch):
    monkeypatch.setattr("fairbench.leaderboard.edited_csv.MAX_BYTES", 100)
    with pytest.raises(Exception, match="larger than the 100 bytes allowed"):
        load_leaderboard(bench.board)


# ---------------------------------------------------------------- names of classes


def test_class_names_with_dollars_are_drawn_and_half_surrogates_are_escaped(bench, command, tmp_path):
    names = ["$x^{$", "a$b", "\udce9", "plain"]
    data = _npz(tmp_path / "data.npz", names)
    code, out, err = command("evaluate", bench.best, "--dataset", data, *CLEAN, "--out", "out", "--report", "page.html")
    assert code == 0, err
    for name in ("$x^{$", "a$b", r"\udce9", "plain"):
        assert name in out.decode()
    assert r"\udce9" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_an_empty_path_is_not_the_working_directory(command, bench, monkeypatch):
    """`--candidate "$UNSET"` in a folder with results compared the baseline with itself."""
    monkeypatch.chdir(bench.root)
    for arguments in (("--baseline", bench.board, "--candidate", ""), ("--baseline", "", "--candidate", bench.board)):
        code, _, err = command("check", *arguments)
        assert (code, err) == (2, b"fairbench: an empty path: give a folder, a file or a URL\n")
    before = sorted(bench.root.rglob("*"))
    evaluation, pages = ["evaluate", bench.best, "--dataset", "digits", *CLEAN], ["leaderboard", "html", bench.board]
    for words in (["run", bench.suite], evaluation, pages):
        code, _, err = command(*words, "--out", "")
        assert code == 2
        assert b"an empty path" in err
    assert sorted(bench.root.rglob("*")) == before


def test_a_world_size_that_is_no_number_is_one_line(command, bench, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "abc")
    code, _, err = command("tune", bench.suite, "--dry-run")
    assert code == 2
    assert b"unexpected" not in err


def test_without_a_home_folder_commands_work(command, bench, monkeypatch):
    def unknown(_path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", unknown)
    monkeypatch.delenv("FAIRBENCH_DATA", raising=False)
    assert command("evaluate", bench.best, "--dataset", "digits", *CLEAN, "--limit", "0")[0] == 2
    code, out, err = command("datasets")
    assert (code, err) == (0, b"")
    assert b"digits" in out


@pytest.mark.parametrize(
    ("words", "place"), [(["report", "RUN"], "report.svg"), (["leaderboard", "html", "BOARD"], "site/index.html")]
)
def test_an_output_has_the_place_that_the_help_names(bench, command, tmp_path, words, place):
    code, _, err = command(*({"RUN": bench.run, "BOARD": bench.board}.get(word, word) for word in words))
    assert code == 0, err
    assert (tmp_path / place).is_file()
