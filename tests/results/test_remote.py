"""Results at a URL, by the local file system and the one in memory that fsspec has."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from stored import CLEAN, PGD, build_board, run_spec, store

from fairbench.cli import app
from fairbench.cli.options import root_folder
from fairbench.errors import FairbenchError, InvalidInput, Missing
from fairbench.leaderboard import builder
from fairbench.leaderboard.board import load_leaderboard
from fairbench.results.folder import RunFolder
from fairbench.results.remote import Mirror, delivering, fetch_results, is_url, pushing

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install fsspec")
WEIGHTS = b"weights " * 100


def _machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From here on work as on another machine, in a working directory of its own."""
    folder.mkdir(exist_ok=True)
    monkeypatch.chdir(folder)


def _finish(mirror: Mirror, seed: int = 0, **changes: Any) -> RunFolder:
    """A finished run in the local folder of a URL, its weights included."""
    spec = run_spec(seed=seed)
    path = mirror.folder / "results" / spec.folder
    path.mkdir(parents=True, exist_ok=True)
    for name in ("best.safetensors", "last.safetensors"):
        (path / name).write_bytes(WEIGHTS)
    return store(mirror.folder / "results", spec, **changes)


def _content(root: Path) -> dict[str, bytes]:
    """What lies below results/ and leaderboards/ by relative path, without locks."""
    files = [path for name in ("results", "leaderboards") for path in (root / name).rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files if path.name[0] != "."}


def test_a_url_is_told_from_a_folder():
    assert all(map(is_url, ("s3://bucket/dir", "memory://x", "file:///tmp/x", "gs://b", "github+https://x")))
    assert not any(map(is_url, (None, "out", "./out", "/tmp/out", "C:/out", "a/b://c")))


def test_a_finished_run_arrives_whole_at_another_machine(tmp_path, monkeypatch):
    url = "memory://bucket/there"
    _machine(monkeypatch, tmp_path / "one")
    mirror = Mirror(url)
    mirror.pull()
    folder = _finish(mirror)
    RunFolder(mirror.folder / "results" / run_spec(seed=1).folder).write({"status": "trained"})
    (board,) = build_board(mirror.folder)
    mirror.push_runs()
    mirror.push_boards()
    ours = _content(mirror.folder)
    _machine(monkeypatch, tmp_path / "two")
    root = fetch_results(url)
    light = {name: content for name, content in ours.items() if "safetensors" not in name and folder.path.name in name}
    assert _content(root) == light | {"leaderboards/tiny/v1.csv": board.read_bytes()}
    again = Mirror(url)
    again.pull(weights_of=[str(run_spec().folder)])
    assert _content(root).keys() - light.keys() == {
        "leaderboards/tiny/v1.csv",
        f"results/{run_spec().folder}/best.safetensors",
        f"results/{run_spec().folder}/last.safetensors",
    }
    assert fetch_results(f"{url}/leaderboards/tiny/v1.csv").read_bytes() == board.read_bytes()
    assert fetch_results(f"{url}/results/{run_spec().folder}") == root / "results" / run_spec().folder


def _push_and_die(mirror: Mirror, moment: int) -> bool:
    """Push in a child that is killed in the middle of its n-th write or removal; False if it ends."""
    pid = os.fork()
    if pid == 0:
        from fsspec.implementations.local import LocalFileSystem

        seen = 0

        def dying(name: str) -> None:
            real = getattr(LocalFileSystem, name)

            def call(self: Any, first: Any, *rest: Any, **options: Any) -> Any:
                nonlocal seen
                seen += 1
                if seen > moment:
                    if name != "rm_file":  # half of a file is there when the process dies
                        content = Path(first).read_bytes() if name == "put_file" else rest[0]
                        Path(rest[0] if name == "put_file" else first).write_bytes(content[: len(content) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(self, first, *rest, **options)

            setattr(LocalFileSystem, name, call)

        for name in ("put_file", "pipe_file", "rm_file"):
            dying(name)
        try:
            mirror.push_runs()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("over", [False, True], ids=["new", "over an older copy"])
def test_a_copy_that_is_killed_half_way_is_no_run_and_is_made_whole_by_the_next(tmp_path, monkeypatch, capsys, over):
    moment = 0
    while True:
        here, url = tmp_path / f"one{moment}", f"file://{tmp_path}/there{moment}"
        _machine(monkeypatch, here)
        mirror = Mirror(url)
        mirror.pull()
        if over:  # of the same run, with one evaluation less
            _finish(mirror, predicted={"best/clean": CLEAN, "last/clean": CLEAN}, protocols={})
            mirror.push_runs()
        folder = _finish(mirror, predicted={"best/clean": PGD, "best/pgd-20": PGD, "last/clean": CLEAN})
        killed = _push_and_die(mirror, moment)
        _machine(monkeypatch, tmp_path / f"two{moment}")
        run = fetch_results(url) / "results" / run_spec().folder
        found = RunFolder(run)
        assert found.damage() == {}
        state = found.read()
        if not killed:
            assert state == _record_of(here, folder)
            break
        # A copy that was replaced is the old one, until its record is removed; it is never a mixture.
        assert state == {} or (over and moment == 0 and set(state["evaluations"]) == {"best/clean", "last/clean"})
        _machine(monkeypatch, here)
        again = Mirror(url)
        again.pull()
        again.push_runs()
        _machine(monkeypatch, tmp_path / f"three{moment}")
        assert RunFolder(fetch_results(url) / "results" / run_spec().folder).read() == _record_of(here, folder)
        moment += 1
    assert moment == (5 if over else 4)  # every write of a file, and the removal of the old record, was died in once
    assert "left out" in capsys.readouterr().err


def _record_of(here: Path, folder: RunFolder) -> dict[str, Any]:
    return RunFolder(here / folder.path).read()


def _flip_a_bit(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def _give_a_key_twice(content: bytes) -> bytes:
    return content.replace(b'"status"', b'"status": "failed", "status"', 1)


@pytest.mark.parametrize(
    ("name", "damage"), [("run.json", _flip_a_bit), ("run.json", _give_a_key_twice), ("verdicts.npz", _flip_a_bit)]
)
def test_a_run_that_is_damaged_there_is_named_left_out_and_replaced(tmp_path, monkeypatch, capsys, name, damage):
    url = f"file://{tmp_path}/there"
    _machine(monkeypatch, tmp_path / "one")
    mirror = Mirror(url)
    folder = _finish(mirror)
    mirror.push_runs()
    there = tmp_path / "there" / "results" / run_spec().folder / name
    there.write_bytes(damage(there.read_bytes()))
    _machine(monkeypatch, tmp_path / "two")
    assert RunFolder(fetch_results(url) / "results" / run_spec().folder).read() == {}
    said = capsys.readouterr().err
    assert said.startswith(f"{url}/results/{run_spec().folder}/{name}: ")
    assert said.endswith("; the run is left out, and `fairbench run` repeats it\n")
    with pushing(url, []):
        assert there.parent.joinpath("run.json.corrupt-1").exists()
    _machine(monkeypatch, tmp_path / "one")
    again = Mirror(url)
    again.pull()
    again.push_runs()
    assert there.read_bytes() == (folder.path / name).read_bytes()


@pytest.mark.parametrize("moment", ["before it is listed", "after it is listed"])
def test_a_run_that_lacks_a_file_there_is_left_out_and_no_obstacle_to_the_board(tmp_path, monkeypatch, capsys, moment):
    from fsspec.implementations.local import LocalFileSystem

    url = f"file://{tmp_path}/there"
    _machine(monkeypatch, tmp_path / "one")
    mirror = Mirror(url)
    folders = [_finish(mirror, seed=seed) for seed in (0, 1)]
    mirror.push_runs()
    there = tmp_path / "there" / "results" / run_spec().folder
    lost, find = there / "verdicts.npz", LocalFileSystem.find

    def listed(self: Any, *arguments: Any, **options: Any) -> Any:
        found = find(self, *arguments, **options)
        lost.unlink(missing_ok=True)
        return found

    if moment == "before it is listed":
        lost.unlink()
    else:
        monkeypatch.setattr(LocalFileSystem, "find", listed)
    _machine(monkeypatch, tmp_path / "two")
    for _ in range(2):
        root = root_folder(url, publish=False)
        said = capsys.readouterr().err
        assert said == (
            f"{url}/results/{run_spec().folder}/verdicts.npz: is missing; the run is left out, and `fairbench run` "
            "repeats it\n"
        )
        assert not (root / "results" / run_spec().folder / "run.json").exists()
        (board,) = build_board(root)
        assert "0" not in set(load_leaderboard(board)["seed"])
    with pushing(url, []):
        assert (there / "run.json.corrupt-1").exists()
    monkeypatch.setattr(LocalFileSystem, "find", find)
    _machine(monkeypatch, tmp_path / "one")
    with pushing(url, []):
        pass
    assert lost.read_bytes() == folders[0].verdicts.read_bytes()


@pytest.mark.parametrize("below", ["results/", "results/exp1", "leaderboards/a/results/b"])
def test_a_root_may_lie_below_a_folder_that_is_named_as_its_own(tmp_path, monkeypatch, below):
    url, there = f"file://{tmp_path}/s/{below}", tmp_path / "s" / below
    _machine(monkeypatch, tmp_path / "one")
    root = root_folder(url, publish=False)
    with pushing(url, [run_spec()]):
        assert _finish(Mirror(url)).path == root / "results" / run_spec().folder
    assert (there / "results" / run_spec().folder / "run.json").exists()
    _machine(monkeypatch, tmp_path / "two")
    assert not app(["leaderboard", "build", "tiny", "--out", url], standalone_mode=False)
    board = (there / "leaderboards" / "tiny" / "v1.csv").read_bytes()
    _machine(monkeypatch, tmp_path / "three")
    assert fetch_results(f"{url.rstrip('/')}/leaderboards/tiny/v1.csv").read_bytes() == board
    assert (fetch_results(url) / "leaderboards" / "tiny" / "v1.csv").read_bytes() == board
    assert (fetch_results(f"{url.rstrip('/')}/results/{run_spec().folder}") / "run.json").exists()


def test_a_suite_and_a_bucket_may_be_named_as_a_folder_of_a_root(tmp_path, monkeypatch):
    url = "memory://results/dir"
    _machine(monkeypatch, tmp_path / "one")
    for number, name in enumerate(("results", "leaderboards")):
        store(Mirror(url).folder / "results", run_spec(suite=name, seed=number))
        build_board(Mirror(url).folder, name)
    Mirror(url).push_runs()
    Mirror(url).push_boards()
    _machine(monkeypatch, tmp_path / "two")
    for number, name in enumerate(("results", "leaderboards")):
        run = run_spec(suite=name, seed=number)
        assert (fetch_results(f"{url}/results/{run.folder}") / "run.json").exists()
        assert load_leaderboard(fetch_results(f"{url}/leaderboards/{name}/v1.csv"))["suite"].unique() == [name]


def test_of_two_copies_the_one_with_more_evaluations_wins(tmp_path, monkeypatch):
    url = "memory://bucket/more"
    less = {"best/clean": CLEAN, "best/pgd-20": PGD, "last/clean": CLEAN}
    more = {**less, "best/cw-30": PGD}
    _machine(monkeypatch, tmp_path / "one")
    one = Mirror(url)
    _finish(one, predicted=less)
    one.push_runs()
    _machine(monkeypatch, tmp_path / "two")
    two = Mirror(url)
    _finish(two, predicted=more)
    two.pull()
    assert set(RunFolder(two.folder / "results" / run_spec().folder).read()["evaluations"]) == set(more)
    two.push_runs()
    _machine(monkeypatch, tmp_path / "one")
    assert set(RunFolder(fetch_results(url) / "results" / run_spec().folder).read()["evaluations"]) == set(more)


def test_a_copy_without_its_weights_is_not_pushed_and_made_again_when_the_whole_one_is_gone(
    tmp_path, monkeypatch, capsys
):
    url = f"file://{tmp_path}/there"
    _machine(monkeypatch, tmp_path / "one")
    mirror = Mirror(url)
    folder = _finish(mirror)
    mirror.push_runs()
    _machine(monkeypatch, tmp_path / "two")
    with pushing(url, [run_spec()], weights=False):
        pass
    run = RunFolder(fetch_results(url) / "results" / run_spec().folder)
    assert (run.run.exists(), run.best.exists()) == (True, False)
    shutil.rmtree(tmp_path / "there")
    with pushing(url, [run_spec(seed=1)]):
        assert run.run.exists()  # nobody asked for it
    with pushing(url, [run_spec()]):
        assert not run.run.exists()
    assert capsys.readouterr().err == f"{url}/results/{run_spec().folder}: is gone; it will run again\n"
    assert not (tmp_path / "there").exists() or not _content(tmp_path / "there")
    _machine(monkeypatch, tmp_path / "one")
    with pushing(url, [run_spec()]):
        pass
    assert (tmp_path / "there" / "results" / run_spec().folder / "run.json").read_bytes() == folder.run.read_bytes()


def test_a_lost_run_that_another_process_makes_again_meanwhile_stays(tmp_path, monkeypatch, capsys):
    url = f"file://{tmp_path}/there"
    _machine(monkeypatch, tmp_path / "one")
    mirror = Mirror(url)
    whole = _finish(mirror).path.resolve()
    mirror.push_runs()
    _machine(monkeypatch, tmp_path / "two")
    with pushing(url, [run_spec()], weights=False):
        pass
    run, lock = RunFolder(fetch_results(url) / "results" / run_spec().folder), RunFolder.lock
    shutil.rmtree(tmp_path / "there")
    capsys.readouterr()

    @contextmanager
    def lock_after_another(folder, *arguments):
        with lock(folder, *arguments):
            if folder.path == run.path:
                shutil.copytree(whole, run.path, dirs_exist_ok=True)
            yield

    monkeypatch.setattr(RunFolder, "lock", lock_after_another)
    with pushing(url, [run_spec()]):
        assert (run.run.exists(), run.best.exists()) == (True, True)
    assert capsys.readouterr().err == ""


def test_what_another_machine_has_put_there_meanwhile_stays(tmp_path, monkeypatch):
    url, run = f"file://{tmp_path}/there", str(run_spec().folder)
    there = tmp_path / "there" / "results" / run
    _machine(monkeypatch, tmp_path / "one")
    one = Mirror(url)
    one.pull()
    _finish(one)
    _machine(monkeypatch, tmp_path / "two")
    _finish(Mirror(url), created="2026-02-02T00:00:00Z")
    Mirror(url).push_run(run)
    first = there.joinpath("run.json").read_bytes()
    _machine(monkeypatch, tmp_path / "one")
    one.push_run(run)
    assert there.joinpath("run.json").read_bytes() == first
    there.joinpath("verdicts.npz").write_bytes(b"damaged")
    _machine(monkeypatch, tmp_path / "three")
    three = Mirror(url)
    three.pull()
    _finish(three)
    there.joinpath("run.json").unlink()
    three.push_run(run)
    three.set_damage_aside()  # of what it found damaged, not of what has come since
    assert RunFolder(there).damage() == {}
    assert RunFolder(there).read()["status"] == "complete"


def test_the_local_folders_of_urls_can_lie_elsewhere(tmp_path, monkeypatch):
    _machine(monkeypatch, tmp_path / "one")
    inside = Mirror("memory://bucket/x").folder
    assert inside.parent == Path("fairbench-out/mirrors")
    assert Mirror("memory://bucket/x", tmp_path / "home").folder == tmp_path / "home" / inside.name
    monkeypatch.setenv("FAIRBENCH_MIRRORS", str(tmp_path / "scratch"))
    assert Mirror("memory://bucket/x", tmp_path / "home").folder == tmp_path / "scratch" / inside.name


def test_runs_are_copied_while_others_run_and_boards_at_the_end(tmp_path, monkeypatch):
    url = "memory://bucket/while"
    _machine(monkeypatch, tmp_path / "one")
    monkeypatch.setattr("fairbench.results.remote.SECONDS_BETWEEN_PUSHES", 0.01)
    store_of = fsspec.filesystem("memory")

    def there() -> int:
        return len([path for path in store_of.find("/bucket/while") if path.endswith("run.json")])

    mirror = Mirror(url)
    with pushing(url, [run_spec()]):
        _finish(mirror)
        while not there():
            pass
        assert not store_of.exists("/bucket/while/leaderboards")
        _finish(mirror, seed=1)
        build_board(mirror.folder)
    assert there() == 2
    assert store_of.exists("/bucket/while/leaderboards/tiny/v1.csv")
    with suppress(KeyboardInterrupt), pushing(url, []):
        _finish(mirror, seed=2)
        raise KeyboardInterrupt
    with pushing(url, []):  # the next command copies what the interrupted one had finished
        assert there() == 3


def test_names_there_do_not_lead_out_of_the_folder_here(tmp_path, monkeypatch):
    url = f"file://{tmp_path}/there"
    _machine(monkeypatch, tmp_path / "one")
    mirror = Mirror(url)
    folder = _finish(mirror)
    shutil.copytree(folder.path, tmp_path / "there" / "results" / "tiny" / "sat" / "other" / "deeper")
    shutil.copytree(folder.path, tmp_path / "there" / "elsewhere" / "tiny" / "sat" / "x")
    _machine(monkeypatch, tmp_path / "two")
    assert _content(fetch_results(url)) == {}


def test_what_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FairbenchError, match=r"^nosuch://x: cannot be read or written: .*nosuch") as caught:
        fetch_results("nosuch://x")
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput, match="beside its `results`"):
        fetch_results("memory://bucket/board.csv")
    for path in ("leaderboards/tiny/v9.csv", "results/tiny/nosuch", "results/"):
        with pytest.raises(Missing, match="no such file, nor a finished run"):
            fetch_results(f"memory://bucket/{path}")
    with pytest.raises(InvalidInput, match="beside its `results`"):
        root_folder("memory://bucket/leaderboards/tiny/v1.csv", publish=False)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(Missing, match=r"^s3://b: needs .* not installed: pip install 'robust-fairbench\[remote\]'$"):
        fetch_results("s3://b")


def test_the_command_on_a_second_machine_finds_everything_done(make_suite, tmp_path, monkeypatch, capsys):
    suite = make_suite(
        tmp_path / "suite", methods=["sat"], evaluation={"best": ["clean"], "last": [], "batch_size": 40}
    )
    url = f"file://{tmp_path}/there"

    def command(machine: str, *words: str) -> tuple[str, str]:
        _machine(monkeypatch, tmp_path / machine)
        monkeypatch.setattr("sys.argv", ["fairbench", *words])
        assert not app(list(words), standalone_mode=False)
        return capsys.readouterr()

    first, _ = command("one", "run", str(suite), "--out", url)
    there = _content(tmp_path / "there")
    assert {Path(name).name for name in there} == {
        *("run.json", "verdicts.npz", "history.csv", "best.safetensors", "last.safetensors", "v1.csv")
    }
    second, said = command("two", "run", str(suite), "--out", url)
    assert "train" not in said
    assert second == first
    for words in (
        ["leaderboard", "build", "tiny", "--out", url],
        ["leaderboard", "show", f"{url}/leaderboards/tiny/v1.csv"],
        ["check", "--baseline", url, "--candidate", f"{url}/leaderboards/tiny/v1.csv"],
    ):
        command("three", *words)
        assert _content(tmp_path / "there") == there


def test_a_board_that_is_built_from_a_url_is_that_of_the_runs(tmp_path, monkeypatch):
    url = "memory://bucket/boards"
    _machine(monkeypatch, tmp_path / "one")
    mirror = Mirror(url)
    for seed in (0, 1, 2):
        _finish(mirror, seed=seed)
    (board,) = build_board(mirror.folder)
    mirror.push_runs()
    _machine(monkeypatch, tmp_path / "two")
    root = fetch_results(url)
    (other,) = builder.build_boards(root / "results", root / "leaderboards", "tiny")
    assert other.read_bytes() == (tmp_path / "one" / board).read_bytes()


def test_a_node_says_what_it_fetches_and_delivers(tmp_path, monkeypatch):
    url, said = f"file://{tmp_path}/there", []
    monkeypatch.setenv("FAIRBENCH_MIRRORS", str(tmp_path / "node"))
    with delivering(url, run_spec(), lambda *what: said.append(what)) as results:
        assert said == [("fetch", 0, 1, url)]
        store(results, run_spec())
    assert said[1:] == [("push", 0, 1, url)]
    assert RunFolder(tmp_path / "there" / "results" / run_spec().folder).run.exists()
