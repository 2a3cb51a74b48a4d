from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compilers import needs_compiler

from fairbench.copies import native

SOURCE = "int answer(void) { return %d; }\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own; C is compiled anew in each test."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    native.library.cache_clear()
    yield tmp_path / "home"
    native.library.cache_clear()


def _source(folder: Path, number: int = 42) -> Path:
    path = folder / "answer.c"
    path.write_text(SOURCE % number)
    return path


def _answer(code: ctypes.CDLL | None) -> int:
    assert code is not None
    return int(code.answer())


def _kept(home: Path) -> list[Path]:
    return sorted((home / ".cache" / "fairbench" / "native").iterdir())


@needs_compiler
def test_it_is_compiled_once_for_all_processes(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _source(tmp_path)
    assert _answer(native.library(source)) == 42
    (kept,) = _kept(home)
    native.library.cache_clear()
    monkeypatch.setattr(native, "_compile", lambda *args: pytest.fail("compiled again"))
    assert _answer(native.library(source)) == 42
    assert _kept(home) == [kept]


@needs_compiler
def test_other_code_is_another_file(tmp_path: Path, home: Path) -> None:
    assert _answer(native.library(_source(tmp_path))) == 42
    native.library.cache_clear()
    assert _answer(native.library(_source(tmp_path, 43))) == 43
    assert len(_kept(home)) == 2


@needs_compiler
def test_a_broken_file_is_made_anew(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _source(tmp_path)
    native.library(source)
    (kept,) = _kept(home)
    native.library.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    broken = tmp_path / "other" / kept.relative_to(home)
    broken.parent.mkdir(parents=True)
    broken.write_bytes(kept.read_bytes()[:100])
    assert _answer(native.library(source)) == 42
    assert broken.stat().st_size == kept.stat().st_size


@needs_compiler
def test_a_home_that_takes_no_files_is_none(tmp_path: Path, home: Path) -> None:
    home.write_text("a file")
    assert _answer(native.library(_source(tmp_path))) == 42
    assert home.read_text() == "a file"


@needs_compiler
def test_a_home_from_which_nothing_may_be_run(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = ctypes.CDLL

    def refuse(path: str) -> ctypes.CDLL:
        if Path(path).is_relative_to(home):
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(native.ctypes, "CDLL", refuse)
    assert _answer(native.library(_source(tmp_path))) == 42


@pytest.mark.parametrize("command", ["false", "no-such-compiler-anywhere"])
def test_without_a_compiler_there_is_nothing(
    command: str, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", command)
    monkeypatch.setattr(native.shutil, "which", lambda name: "/bin/false" if name == command == "false" else None)
    assert (native.compiler() is None) == (command != "false")
    assert native.library(_source(tmp_path)) is None
    assert not any(path.suffix == ".so" for path in _kept(home))


@needs_compiler
def test_the_compiler_is_the_one_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"env {next(iter(native.compiler() or ['cc']))}")
    assert (native.compiler() or [])[0] == "env"
    monkeypatch.delenv("CC")
    assert (native.compiler() or [""])[0] in ("cc", "gcc", "clang")


def test_what_does_not_compile_is_nothing(tmp_path: Path, home: Path) -> None:
    source = tmp_path / "wrong.c"
    source.write_text("int answer(void) { return }\n")
    assert native.library(source) is None
    assert native.library(tmp_path / "missing.c") is None
    assert _kept(home) == []


def _planted(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The source of the answer 42, and in a cache, under the name of its library, one that answers 13."""
    source = _source(tmp_path)
    native.library(source)
    (name,) = (path.name for path in _kept(home))
    native.library.cache_clear()
    (tmp_path / "evil").mkdir()
    native.library(_source(tmp_path / "evil", 13))
    (evil,) = (path for path in _kept(home) if path.name != name)
    native.library.cache_clear()
    monkeypatch.setenv("HOME", str(tmp_path / "shared"))
    planted = tmp_path / "shared" / ".cache" / "fairbench" / "native" / name
    planted.parent.mkdir(parents=True, mode=0o700)
    planted.write_bytes(evil.read_bytes())
    planted.chmod(0o755)
    return source, planted


@needs_compiler
@pytest.mark.parametrize("case", ["file", "folder", "owner", "link"])
def test_a_library_that_others_could_have_written_is_not_loaded(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    source, planted = _planted(tmp_path, home, monkeypatch)
    if case == "file":
        planted.chmod(0o757)
    elif case == "folder":
        planted.parent.chmod(0o777)
    elif case == "owner":
        monkeypatch.setattr(native.os, "geteuid", lambda: planted.stat().st_uid + 1)
    else:
        planted.rename(tmp_path / "elsewhere")
        planted.symlink_to(tmp_path / "elsewhere")
    assert _answer(native.library(source)) == 42


@needs_compiler
def test_what_killed_compilations_left_is_swept(tmp_path: Path, home: Path) -> None:
    native.library(_source(tmp_path))
    for name, age in (("tmpold", 3600), ("tmpnew", 0)):
        left = home / ".cache" / "fairbench" / "native" / name
        left.mkdir()
        os.utime(left, (time.time() - age,) * 2)
    native.library.cache_clear()
    native.library(_source(tmp_path, 43))
    assert [path.name for path in _kept(home) if path.is_dir()] == ["tmpnew"]
