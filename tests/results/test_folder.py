from __future__ import annotations

import csv
import json
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairbench.errors import CorruptFile, FairbenchError, InvalidInput
from fairbench.results.folder import SCHEMA, RunFolder, find_runs

LABELS = np.array([0, 1, 2, 1])
PREDICTED = {"best/clean": np.array([0, 1, 2, 1]), "best/autoattack": np.array([-1, 1, 0, 2])}


def test_a_record_is_read_back_with_its_schema_and_checksums(tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert folder.read() == {}
    folder.write_history([{"epoch": 0}])
    folder.write({"status": "trained", "value": 0.1, "files": "is replaced"})
    record = folder.read()
    assert list(record) == ["schema", "status", "value", "files"]
    assert (record["schema"], record["status"], record["value"]) == (SCHEMA, "trained", 0.1)
    assert list(record["files"]) == ["history.csv"]
    assert len(record["files"]["history.csv"]) == 64
    folder.verify()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 2}', '"text"', "{}"])
def test_what_is_no_record_names_the_file(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CorruptFile, match=str(tmp_path / "run.json")) as caught:
        RunFolder(tmp_path).read()
    assert "\n" not in str(caught.value)


def test_a_file_that_changed_is_found_and_one_that_was_left_out_is_not_missed(tmp_path):
    folder = RunFolder(tmp_path)
    folder.best.write_bytes(b"weights")
    folder.last.write_bytes(b"weights")
    folder.write({})
    folder.last.unlink()
    folder.verify()
    folder.best.write_bytes(b"weightz")
    with pytest.raises(CorruptFile, match=r"best\.safetensors: content does not match the checksum"):
        folder.verify()


def test_a_check_reads_the_record_once_and_refuses_a_damaged_one(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write({})
    read, count = RunFolder.read, []
    monkeypatch.setattr(RunFolder, "read", lambda self: count.append(self) or read(self))
    folder.verify()
    assert len(count) == 1
    folder.run.write_text(folder.run.read_text().replace('"files"', '"filez"'))
    with pytest.raises(CorruptFile, match=r"run\.json: content does not match its own checksum$") as caught:
        folder.verify()
    assert caught.value.path == folder.run


def test_a_record_has_its_own_checksum(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write({"status": "trained", "value": 0.125, "text": "ä", "nested": {1: [2, None, float("inf")]}})
    text = folder.run.read_text()
    assert list(json.loads(text))[-1] == "checksum"
    assert "checksum" not in folder.read()
    for old, new in (("0.125", "0.135"), ("trained", "trainee"), ('"files": {}', '"files": {"best.safetensors": ""}')):
        folder.run.write_text(text.replace(old, new))
        with pytest.raises(CorruptFile, match=r"run\.json: content does not match its own checksum$"):
            folder.read()
        assert folder.damage() == {folder.run: f"{folder.run}: content does not match its own checksum"}
    folder.run.write_text(
        text.replace("\n", "\r\n ").replace("0.125", "1.25e-1")
    )  # written in another way, but the same
    assert folder.read()["value"] == 0.125
    folder.write({**folder.read(), "value": 0.25})
    assert folder.read()["value"] == 0.25


def test_any_flipped_bit_of_a_record_is_found_or_changes_nothing(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write({"status": "trained", "seed": 7, "cost": {"flops": 123456}})
    whole, record = folder.run.read_bytes(), folder.read()
    silent, named = 0, set()
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            folder.run.write_bytes(changed)
            try:
                found = folder.read()
            except CorruptFile as error:
                named.add(error.path)
                continue
            silent += 1
            assert {name: found[name] for name in record} == record
    assert named == {folder.run}  # so that it is set aside and replaced
    assert silent < 8 * len("checksum") + 8 * whole.count(b" ")  # its field's name, or a space that is another space


def test_a_record_from_before_there_was_a_checksum_is_valid(tmp_path):
    folder = RunFolder(tmp_path)
    folder.run.write_text('{"schema": 1, "status": "trained", "files": {}}')
    assert folder.read()["status"] == "trained"
    assert folder.damage() == {}


def test_verdicts_are_read_back(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_verdicts() == {}
    folder.write_verdicts(LABELS, PREDICTED)
    found = folder.read_verdicts()
    assert list(found) == ["labels", *PREDICTED]
    assert found["labels"].tolist() == LABELS.tolist()
    assert found["best/autoattack"].tolist() == [-1, 1, 0, 2]
    assert {array.dtype for array in found.values()} == {np.dtype(np.int64)}
    before = folder.verdicts.read_bytes()
    folder.write_verdicts(LABELS, PREDICTED)
    assert folder.verdicts.read_bytes() == before


def test_verdicts_are_vouched_for_by_the_record_alone(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_verdicts(LABELS, PREDICTED)
    folder.best.write_bytes(b"weights")
    folder.write({"status": "trained"})
    record = folder.read()
    folder.best.write_bytes(b"others")
    assert list(folder.vouched_verdicts(record)) == ["labels", *PREDICTED]
    folder.write_verdicts(LABELS, {"best/clean": LABELS})  # readable, but not what the record was written for
    with pytest.raises(CorruptFile, match=r"verdicts\.npz: content does not match the checksum in run\.json"):
        folder.vouched_verdicts(record)
    with pytest.raises(CorruptFile, match="does not match the checksum"):  # a record that vouches for nothing
        folder.vouched_verdicts({**record, "files": {}})
    folder.verdicts.unlink()
    assert folder.vouched_verdicts(record) == {}


@settings(deadline=None)
@given(data=st.data())
def test_damaged_verdicts_are_refused_by_name_or_read_whole(data, tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.write_verdicts(np.arange(300) % 7, {"best/clean": np.arange(300) % 5})
    content = bytearray(folder.verdicts.read_bytes())
    where = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[where:]
    else:
        content[where] ^= data.draw(st.integers(1, 255))
    folder.verdicts.write_bytes(bytes(content))
    message, found = f"{folder.verdicts}", {}
    try:
        found = folder.read_verdicts()
    except CorruptFile as error:
        message = str(error)
    assert str(folder.verdicts) in message
    assert "\n" not in message
    assert all(array.dtype == np.int64 for array in found.values())


def test_verdicts_that_are_pickles_are_not_opened(tmp_path):
    folder = RunFolder(tmp_path)
    np.savez(folder.verdicts, labels=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CorruptFile, match=r"verdicts\.npz: .*pickled Python objects, which are never loaded"):
        folder.read_verdicts()


def test_history_has_a_column_for_everything_any_epoch_knew(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_history([{"epoch": 0, "loss": 0.1 + 0.2}, {"epoch": 1, "loss": 1e-9, "score": 0.5}])
    with folder.history.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["epoch", "loss", "score"]
    assert [row["score"] for row in rows] == ["", "0.5"]
    assert float(rows[0]["loss"]) == 0.1 + 0.2


def test_resume_files_are_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    folder.resume.touch()
    folder.status.touch()
    folder.drop_resume()
    folder.drop_resume()
    assert list(tmp_path.iterdir()) == []


def test_who_holds_the_lock_works_alone_and_removes_what_a_killed_one_left(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write({})
    for name in (".best.safetensors.x1.safetensors", ".run.json.y2.json", ".mine"):
        (folder.path / name).touch()
    waited, entered = threading.Event(), threading.Event()

    def other():
        with RunFolder(folder.path).lock(waited.set):
            entered.set()

    with folder.lock():
        assert sorted(path.name for path in folder.path.iterdir()) == [".mine", "run.json"]
        thread = threading.Thread(target=other)
        thread.start()
        assert waited.wait(10)
        assert not entered.is_set()
    thread.join(10)
    assert entered.is_set()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    for act in (lambda run: run.write({}), lambda run: run.lock().__enter__(), lambda run: run.write_history([])):
        with pytest.raises(FairbenchError, match="cannot be written") as caught:
            act(RunFolder(tmp_path / "file" / "run"))
        assert str(tmp_path / "file") in str(caught.value)


def test_only_complete_runs_of_the_suite_are_found_in_order(tmp_path, monkeypatch):
    # A status and an id are enough.
    monkeypatch.setattr("fairbench.results.folder.check_record", lambda record, _: record)
    runs = [("tiny", "b", "2", "complete"), ("tiny", "a", "9", "complete"), ("tiny", "a", "1", "trained")]
    runs += [("tiny", "a", "3", "diverged"), ("tiny", "a", "0", "complete"), ("other", "a", "5", "complete")]
    for suite, method, run_id, status in runs:
        RunFolder(tmp_path / suite / method / run_id).write({"status": status, "run_id": run_id})
    (tmp_path / "tiny" / "a" / "empty").mkdir()
    found = find_runs(tmp_path, "tiny")
    assert [(folder.path.name, record["run_id"]) for folder, record in found] == [("0", "0"), ("9", "9"), ("2", "2")]
    assert find_runs(tmp_path, "nothing") == []


@pytest.mark.parametrize("level", ["results", "results/digits", "results/digits/sat", "results/digits/sat/run"])
def test_a_run_is_not_written_through_a_linked_folder(tmp_path, level):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "out" / level
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with (
        pytest.raises(InvalidInput, match=f"^{link}: is a link"),
        RunFolder(tmp_path / "out/results/digits/sat/run").lock(),
    ):
        pass
    assert list(elsewhere.iterdir()) == []


def test_a_run_is_written_where_the_folder_given_is_a_link(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "scratch")
    folder = RunFolder(tmp_path / "out/results/digits/sat/run")
    with folder.lock():
        folder.write({"status": "trained"})
    assert (tmp_path / "scratch/results/digits/sat/run/run.json").is_file()
