"""A digit of run.json that flips on the disk: it still reads as a record, and only its own checksum tells."""

from __future__ import annotations

import shutil

import pytest

from fairbench.errors import CorruptFile
from fairbench.leaderboard import builder
from fairbench.results.folder import RunFolder
from fairbench.run.pipeline import execute_run, is_done


def test_a_flipped_digit_of_the_record_is_named_set_aside_and_the_run_made_again(whole, tmp_path, bits):
    shutil.copytree(whole.root / "results", tmp_path / "results")
    folder = RunFolder(tmp_path / "results" / whole.spec.folder)
    text = folder.run.read_text()
    field = text[text.index('"train_seconds": ') :].partition(",")[0]
    damaged = text.replace(field, f'"train_seconds": 9{field.rpartition(" ")[2]}', 1)
    folder.run.write_text(damaged)
    assert not is_done(whole.spec, folder)
    with pytest.raises(CorruptFile, match=r"run\.json: content does not match its own checksum"):
        builder.build_boards(tmp_path / "results", tmp_path / "leaderboards", "tiny")
    said = []
    execute_run(whole.spec, tmp_path / "results", say=said.append)
    aside = folder.path / "run.json.corrupt-1"
    assert said == [
        f"{folder.run}: content does not match its own checksum; moved to {aside.name}; the run replaces it",
    ]
    assert aside.read_text() == damaged
    aside.unlink()
    assert bits(tmp_path) == bits(whole.root)
    assert is_done(whole.spec, folder)
