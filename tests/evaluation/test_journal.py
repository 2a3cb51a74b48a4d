from __future__ import annotations

import json
import os
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairbench.errors import FairbenchError
from fairbench.evaluation.batches import BatchVerdicts
from fairbench.evaluation.journal import Journal

ABOUT = {"key": "best/pgd-20", "images": 9}
BATCHES = [
    BatchVerdicts([1, 2, 3], {}),
    BatchVerdicts([4, 0, 1], {"clean": [4, 0, -1], "square": [-1, -1, 1]}),
    BatchVerdicts([7, 7, 7], {}),
]


def _write(path, batches=BATCHES, about=ABOUT):
    journal = Journal(path, about)
    for number, batch in enumerate(batches):
        journal.cost = lambda number=number: {"forwards": number}
        journal.append(batch)
    return journal


def test_batches_are_read_back_with_what_they_cost_and_more_are_added(tmp_path):
    path = tmp_path / "new" / "partial.jsonl"
    _write(path, BATCHES[:2])
    again = Journal(path, ABOUT)
    assert again.batches == BATCHES[:2]
    assert again.spent == {"forwards": 1}
    again.append(BATCHES[2])
    assert Journal(path, ABOUT).batches == BATCHES
    again.remove()
    again.remove()
    assert not path.exists()


def test_nothing_is_written_before_the_first_batch(tmp_path):
    journal = Journal(tmp_path / "partial.jsonl", ABOUT)
    assert (journal.batches, journal.spent) == ([], {})
    assert list(tmp_path.iterdir()) == []


def test_a_journal_of_something_else_is_written_over(tmp_path):
    path = tmp_path / "partial.jsonl"
    _write(path)
    other = {**ABOUT, "key": "best/fgsm"}
    assert Journal(path, other).batches == []
    _write(path, BATCHES[2:], other)
    assert Journal(path, other).batches == BATCHES[2:]
    assert Journal(path, ABOUT).batches == []


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_whatever_is_cut_off_or_changed_only_whole_batches_are_believed(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "partial.jsonl"
    _write(path)
    content = bytearray(path.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[where:]
    else:
        content[where] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    journal = Journal(path, ABOUT)
    found = list(journal.batches)
    assert found == BATCHES[: len(found)]
    assert len(found) < len(BATCHES)
    journal.append(BATCHES[len(found)])
    assert Journal(path, ABOUT).batches == BATCHES[: len(found) + 1]


def test_the_disk_is_waited_for_every_two_seconds_at_most(tmp_path, monkeypatch):
    now, synced = 100.0, []
    monkeypatch.setattr("fairbench.evaluation.journal.time.monotonic", lambda: now)
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(now))
    journal = Journal(tmp_path / "partial.jsonl", ABOUT)
    for now in (100.5, 101.9, 102.0, 103.9, 104.5):  # noqa: B007
        journal.append(BatchVerdicts([1], {}))
    assert synced == [102.0, 104.5]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FairbenchError, match=r"partial\.jsonl: cannot be written"):
        Journal(tmp_path / "file" / "partial.jsonl", ABOUT).append(BATCHES[0])


def test_every_line_is_a_checksum_and_json(tmp_path):
    path = tmp_path / "partial.jsonl"
    _write(path)
    lines = path.read_text().splitlines()
    assert [len(line.partition(" ")[0]) for line in lines] == [8] * 4
    assert json.loads(lines[2].partition(" ")[2])["components"] == BATCHES[1].components


def test_nothing_is_written_through_a_link_nor_read_from_a_pipe(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "partial.jsonl"
    victim.write_text("precious")
    path.symlink_to(victim)
    with pytest.raises(FairbenchError, match=f"^{path}: cannot be written: "):
        _write(path)
    assert victim.read_text() == "precious"
    path.unlink()
    os.mkfifo(path)
    assert Journal(path, ABOUT).batches == []


def test_a_line_whole_and_of_something_else_ends_what_is_read(tmp_path):
    path = tmp_path / "partial.jsonl"
    _write(path, BATCHES[:1])
    text = b'{"predicted": [1]}'
    with path.open("ab") as file:
        file.write(b"%08x %s\n" % (crc32(text), text))
    assert Journal(path, ABOUT).batches == BATCHES[:1]
