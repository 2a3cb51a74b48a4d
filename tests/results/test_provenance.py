from __future__ import annotations

import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from fairbench import __version__
from fairbench.results import provenance


def checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository in which the package lies as it does in its own, and which `provenance` takes for its home."""
    for name in ("fairbench/results/provenance.py", "methods/sat.py", "setup.cfg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run(["git", *identity, *command], cwd=folder, check=True)
    monkeypatch.setattr(provenance, "__file__", str(folder / "fairbench" / "results" / "provenance.py"))
    return folder


def test_a_clean_checkout_names_its_commit(tmp_path, monkeypatch):
    home = checkout(tmp_path, monkeypatch)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=home, capture_output=True, text=True, check=True)
    assert provenance.code_state() == (head.stdout.strip(), False)


def test_this_checkout_names_its_commit():
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert provenance.code_state()[0] == head.stdout.strip()


def test_a_copy_inside_another_repository_has_no_commit(tmp_path, monkeypatch):
    home = checkout(tmp_path / "outer" / "vendor", monkeypatch)
    shutil.rmtree(home / ".git")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    (home.parent / ".gitignore").write_text("vendor\n")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "outer")):
        subprocess.run(["git", *identity, *command], cwd=home.parent, check=True)
    assert provenance.code_state() == ("unknown", False)
    (home.parent / ".gitignore").unlink()  # not ignored and not tracked either
    assert provenance.code_state() == ("unknown", False)
    for command in (("add", "."), ("commit", "-q", "-m", "vendored")):
        subprocess.run(["git", *identity, *command], cwd=home.parent, check=True)
    assert len(provenance.code_state()[0]) == 40


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"])
def test_the_environment_does_not_lead_git_elsewhere(tmp_path, monkeypatch, variable):
    other = checkout(tmp_path / "other", monkeypatch)
    place = {"GIT_DIR": other / ".git", "GIT_WORK_TREE": other, "GIT_INDEX_FILE": other / ".git" / "index"}[variable]
    subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", "second"],
        cwd=other,
        check=True,
    )
    home = checkout(tmp_path / "home", monkeypatch)
    expected = provenance.code_state()
    (other / "fairbench" / "results" / "provenance.py").write_text("changed")
    monkeypatch.setenv(variable, str(place))
    assert provenance.code_state() == expected
    assert expected[1] is False
    (home / ".git").rename(home / "hidden")
    assert provenance.code_state() == ("unknown", False)


def test_a_source_that_git_ignores_is_dirty(tmp_path, monkeypatch):
    home = checkout(tmp_path, monkeypatch)
    (home / ".git" / "info" / "exclude").write_text("methods/mine.py\n")
    (home / "methods" / "mine.py").write_text("")
    assert provenance.code_state()[1] is True


@pytest.mark.parametrize(
    ("changed", "dirty"),
    [
        ("fairbench/results/provenance.py", True),
        ("methods/new.py", True),
        ("setup.cfg", False),
        ("results/run.json", False),
    ],
)
def test_only_changed_code_is_dirty(tmp_path, monkeypatch, changed, dirty):
    home = checkout(tmp_path, monkeypatch)
    (home / changed).parent.mkdir(parents=True, exist_ok=True)
    (home / changed).write_text("changed")
    commit, found = provenance.code_state()
    assert len(commit) == 40
    assert found is dirty


def test_an_installation_has_no_commit_even_inside_another_repository(tmp_path, monkeypatch):
    home = checkout(tmp_path, monkeypatch)
    (home / "setup.cfg").unlink()
    assert provenance.code_state() == ("unknown", False)


def test_no_repository_and_no_git(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "fairbench" / "results" / "provenance.py"))
    assert provenance.code_state() == ("unknown", False)
    monkeypatch.setenv("PATH", "")
    assert provenance.code_state() == ("unknown", False)


def test_versions_of_what_results_depend_on(monkeypatch):
    found = provenance.package_versions()
    assert found["fairbench"] == __version__
    assert found["python"] == platform.python_version()
    assert found["torch"] == version("torch")
    assert found["pyautoattack"] == version("pyautoattack")
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert list(provenance.package_versions()) == ["fairbench", "python", "torch"]


def test_the_processor_has_a_name(monkeypatch):
    assert provenance.processor()
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "flags\t: fast\nmodel name\t: Abacus 3: the next\n" * 2)
    assert provenance.processor() == "Abacus 3: the next"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    assert provenance.processor() == platform.machine()


def test_created_is_utc_now_to_the_second():
    text = provenance.created_now()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
    assert abs((datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds()) < 5


def test_the_record_holds_all_of_it():
    record = provenance.as_record()
    assert list(record) == ["commit", "dirty", "packages", "processor", "created"]
    assert record["packages"] == provenance.package_versions() | provenance.cuda_version()
    assert (record["commit"], record["dirty"]) == provenance.code_state()


@pytest.mark.parametrize(("built_with", "expected"), [("12.8", {"cuda": "12.8"}), (None, {})])
def test_the_cuda_version_is_that_torch_was_built_with(monkeypatch, built_with, expected):
    monkeypatch.setattr("torch.version.cuda", built_with)
    assert provenance.cuda_version() == expected
