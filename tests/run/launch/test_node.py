"""A run on a node of a cluster, without the cluster: the launcher's order, and folders in place of machines."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fairbench.results.folder import RunFolder
from fairbench.results.remote import Mirror
from fairbench.run.launch import node
from fairbench.suites.spec import RunSpec

pytest.importorskip("fsspec", reason="fsspec is not installed: pip install fsspec")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return `machine(name)`: work on another machine from here on, without files of the earlier ones."""

    def enter(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        monkeypatch.setenv("FAIRBENCH_MIRRORS", str(folder / "mirrors"))
        return folder / "mirrors"

    return enter


def _run(spec: RunSpec, **changes: Any) -> tuple[tuple[int, str], list[str]]:
    """Execute an order; returns its outcome and the reported stages."""
    stages: list[str] = []
    update = SimpleNamespace(remote=lambda _attempt, event: stages.append(event[0]))
    events = SimpleNamespace(update=update, say=SimpleNamespace(remote=lambda *_: None))
    order = {"spec": spec.model_dump(mode="json"), "results": "results", "url": None, "folder": "/nowhere"}
    order |= {"environment": {}, "attempt": (str(spec.folder), 1), **changes}
    return node.run_order(order, events), list(dict.fromkeys(stages))


def _upload(results: Path, url: str, *specs: RunSpec) -> None:
    mirror = Mirror(url)
    for spec in specs:
        shutil.copytree(results / spec.folder, mirror.folder / "results" / spec.folder)
    mirror.push_runs()


def test_a_run_is_at_the_url_with_nothing_of_the_launchers_machine_on_its_node(finished, machine, tmp_path):
    student, results = finished
    teacher = student.teacher
    url = f"file://{tmp_path}/there"
    machine("launcher")
    _upload(results, url, teacher)
    mirrors = machine("node")
    outcome, stages = _run(student, url=url)
    assert outcome == (0, "")
    assert (stages[0], stages[-1]) == ("fetch", "push")
    there = tmp_path / "there" / "results"
    assert {path.parent.name for path in there.rglob("run.json")} == {teacher.run_id, student.run_id}
    RunFolder(there / student.folder).verify()
    for name in ("best.safetensors", "last.safetensors", "verdicts.npz"):
        assert (there / student.folder / name).read_bytes() == (results / student.folder / name).read_bytes()
    assert len(list(mirrors.rglob("run.json"))) == 2
    machine("other")  # to which the same run is given once more, because nobody heard of its end
    before = (there / student.folder / "run.json").read_bytes()
    assert _run(student, url=url)[0] == (0, "")
    assert (there / student.folder / "run.json").read_bytes() == before


def test_a_node_says_what_it_cannot_do_without(finished, machine, tmp_path):
    student, _ = finished
    url = f"file://{tmp_path}/there"
    machine("node")
    missing = f"{url}/results/{student.teacher.folder}/best.safetensors"
    expected = f"absld seed 0: {missing}: missing or damaged; remove the run there to train it again"
    assert _run(student, url=url)[0] == (2, expected)
    where = f"/nowhere, which is not on node {os.uname().nodename}: give absolute paths"
    data = student.data.model_copy(update={"name": "npz:/data/train.npz,test.npz"})
    moved = student.model_copy(update={"data": data})
    assert _run(moved, url=url)[0] == (2, f"absld seed 0: test.npz is relative to {where}")
    given = student.model_copy(update={"teacher": "file:weights/t.safetensors#0123"})
    assert _run(given, url=url)[0] == (2, f"absld seed 0: weights/t.safetensors is relative to {where}")
    assert _run(student)[0] == (2, f"absld seed 0: /nowhere is not on node {os.uname().nodename}")
    code, said = _run(student, url="nosuch://x")[0]
    assert code == 2
    assert said.startswith("absld seed 0: nosuch://x: cannot be read or written: ")


def test_a_damaged_teacher_is_not_built_on(finished, machine, tmp_path):
    student, results = finished
    url = f"file://{tmp_path}/there"
    machine("launcher")
    _upload(results, url, student.teacher)
    folder = tmp_path / "there" / "results" / student.teacher.folder
    weights = bytearray((folder / "best.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "best.safetensors").write_bytes(weights)
    machine("node")
    code, said = _run(student, url=url)[0]
    assert code == 2
    assert "best.safetensors: missing or damaged" in said
    assert (folder / "run.json.corrupt-1").exists()
    assert not (folder / "run.json").exists()
