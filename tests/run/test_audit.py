from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from fairbench.errors import CorruptFile, InvalidInput, Missing, UnknownName
from fairbench.evaluation.evaluate import evaluate
from fairbench.evaluation.report import Report
from fairbench.evaluation.verdicts import Flag, Verdicts
from fairbench.models import build_model, open_model, save_checkpoint
from fairbench.models.checkpoint import weights_hash
from fairbench.report.text.audit import headline, render_report
from fairbench.run.audit import STANDARD, audit_model
from fairbench.suites.sections import ATTACKS

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1])
CLEAN = np.array([0, 0, 0, 1, 1, 1, 1, 1])
PGD = np.array([0, 0, 1, 1, 1, 1, 1, 1])


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    spec, shape = "small-cnn:width=4", (1, 8, 8)
    model = build_model(spec, num_classes=4, shape=shape)
    save_checkpoint(tmp_path / "net.safetensors", model, spec, 4, shape)
    return tmp_path / "net.safetensors"


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "test.npz",
        images=rng.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8),
        labels=np.arange(20) % 4,
        class_names=np.array(["ant", "bee", "cat", "dog"]),
    )
    return f"npz:{tmp_path}/test.npz"


def test_a_checkpoint_is_audited_with_progress_on_stderr_alone(checkpoint, images, capsys):
    report = audit_model(str(checkpoint), images, attacks=["clean", "fgsm"], eps=0.1)
    assert report.class_names == ("ant", "bee", "cat", "dog")
    assert list(report.verdicts) == ["clean", "fgsm"]
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.rpartition(" (")[0] for line in captured.err.splitlines()] == [
        "net.safetensors: clean 20/20",
        "net.safetensors: fgsm 20/20",
        "net.safetensors: done",
    ]
    assert not list(checkpoint.parent.glob("*.json"))
    plain = evaluate(str(checkpoint), images, attacks=["clean", "fgsm"], eps=0.1, batch_size=250)
    assert all(np.array_equal(report.verdicts[name], plain.verdicts[name]) for name in plain.verdicts)


def test_the_standard_attacks_are_the_default(checkpoint, images, monkeypatch):
    asked = []
    monkeypatch.setattr("fairbench.run.audit.evaluate", lambda *_, attacks, **__: asked.extend(attacks))
    audit_model(str(checkpoint), images)
    assert tuple(attack.text for attack in asked) == STANDARD == (*ATTACKS, "autoattack")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"model": "nowhere.safetensors"}, Missing, "nowhere.safetensors: no such file"),
        ({"dataset": "digit"}, UnknownName, "did you mean 'digits'"),
        ({"dataset": "npz:nowhere.npz"}, Missing, "nowhere.npz: no such file"),
        ({"attacks": ["pgdd-20"]}, UnknownName, "did you mean"),
        ({"norm": "L3"}, InvalidInput, "L3"),
        ({"eps": -1.0}, InvalidInput, "eps"),
        ({"attacks": ["pgd-20:step=0.0001"]}, InvalidInput, "1.5 eps"),
    ],
)
def test_what_cannot_be_audited_is_one_line(checkpoint, images, change, kind, message):
    arguments = {"model": str(checkpoint), "dataset": images, "attacks": ["clean"], **change}
    with pytest.raises(kind) as caught:
        audit_model(arguments.pop("model"), arguments.pop("dataset"), **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_made_costs_no_evaluation(checkpoint, images, monkeypatch):
    monkeypatch.setattr("fairbench.run.audit.evaluate", None)
    with pytest.raises(InvalidInput, match=f"^--out {checkpoint}/report: cannot be written: "):
        audit_model(str(checkpoint), images, out=checkpoint / "report")


def test_a_report_is_saved_where_it_is_asked_for(checkpoint, images, tmp_path):
    report = audit_model(str(checkpoint), images, attacks=["clean"], out=tmp_path / "new" / "report")
    assert json.loads((tmp_path / "new" / "report" / "report.json").read_text()) == report.as_dict()


def test_a_page_is_written_where_it_is_asked_for_with_what_was_asked(checkpoint, images, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    report = audit_model(
        str(checkpoint), images, attacks=["clean", "fgsm"], eps=8 / 255, page=page, command="fairbench evaluate net"
    )
    text = page.read_text(encoding="utf-8")
    assert f'<h1><span class="of">net.safetensors</span> {headline(report)}' in text.replace("\u00a0", " ")
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert (facts["data"], facts["threat model"], facts["attacks"]) == (images, "Linf, eps 8/255", "clean, fgsm")
    weights = open_model(str(checkpoint), num_classes=4, shape=(1, 8, 8))
    assert facts["weights"] == f"SHA-256 {weights_hash(weights)}"
    assert facts["command"] == "<code>fairbench evaluate net</code>"
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", facts["date"])
    assert f"torch {torch.__version__.partition('+')[0]}" in facts["versions"]
    assert "net.safetensors: flow between classes 1/1" in capsys.readouterr().err


def test_a_model_without_gradients_keeps_its_evaluation_and_its_page(images, tmp_path, monkeypatch, capsys):
    (tmp_path / "hard_labels.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes, shape):\n        super().__init__()\n\n    def forward(self, x):\n"
        "        bright = (x.mean((1, 2, 3)) > 0.5).long()\n"
        "        return torch.nn.functional.one_hot(bright, 4).float()\n"
    )
    monkeypatch.chdir(tmp_path)
    report = audit_model("hard_labels:Net", images, attacks=["clean"], flags=False, page=tmp_path / "page.html")
    assert headline(report) in (tmp_path / "page.html").read_text(encoding="utf-8").replace("\u00a0", " ")
    said = "page.html: without robustness by eps, flow and images: the model's logits have no gradient"
    assert said in capsys.readouterr().err


def test_a_subset_is_marked_in_the_table_the_page_and_the_folder_and_is_not_the_whole(checkpoint, images, tmp_path):
    said = "class-balanced subset of 8 of 20 images"
    out, page = tmp_path / "out", tmp_path / "page.html"
    report = audit_model(str(checkpoint), images, attacks=["clean"], limit=8, out=out, page=page, flags=False)
    assert report.subset == said
    assert f"Note: {said}" in render_report(report).splitlines()
    assert said in page.read_text(encoding="utf-8")
    assert json.loads((out / "report.json").read_text())["subset"] == {"of": 20, "said": said}
    again = audit_model(str(checkpoint), images, attacks=["clean"], limit=8, out=out, flags=False)
    assert (again.subset, again.as_dict()) == (said, report.as_dict())
    whole = audit_model(str(checkpoint), images, attacks=["clean"], out=out, flags=False)
    assert (whole.subset, len(whole.verdicts.labels)) == ("", 20)
    assert audit_model(str(checkpoint), images, attacks=["clean"], limit=20, out=out, flags=False).subset == ""


def test_others_weights_are_opened_as_they_were_trained(checkpoint, images, tmp_path):
    model = open_model(checkpoint)
    np.savez(tmp_path / "theirs.npz", **{name: value.numpy() for name, value in model.state_dict().items()})
    options = {"attacks": ["clean"], "arch": "small-cnn:width=4"}
    theirs = audit_model(str(tmp_path / "theirs.npz"), images, **options)
    assert np.array_equal(
        theirs.verdicts["clean"], audit_model(str(checkpoint), images, attacks=["clean"]).verdicts["clean"]
    )
    shifted = audit_model(str(tmp_path / "theirs.npz"), images, mean=[0.9], std=[0.1], **options)
    assert not np.array_equal(theirs.verdicts["clean"], shifted.verdicts["clean"])


def test_a_damaged_checkpoint_is_named(checkpoint, images):
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CorruptFile, match=str(checkpoint)):
        audit_model(str(checkpoint), images, attacks=["clean"])


def test_the_dictionary_by_hand():
    report = Report(Verdicts(LABELS, {"clean": CLEAN, "pgd-20": PGD}, 2), ("cat", "dog"))
    found = report.as_dict()
    assert found["betrayed_class"] == "cat"
    assert found["class_names"] == ["cat", "dog"]
    assert list(found["attacks"]) == ["clean", "pgd-20", "union"]
    union = found["attacks"]["union"]
    assert (union["n"], union["average"], union["worst"], union["worst_class"]) == (8, 0.75, 0.5, 0)
    assert union["per_class"] == [0.5, 1.0]
    assert union["nsd"] == 0.3333  # both classes deviate by 0.25 from a mean of 0.75
    assert found["attacks"]["clean"]["worst"] == 0.75
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["flags"] == {}


def test_flags_are_in_the_dictionary():
    report = Report(Verdicts(LABELS, {"clean": CLEAN}, 2), ("cat", "dog"), {"small-n": Flag(4.0, True)})
    assert report.as_dict()["flags"] == {"small-n": {"value": 4.0, "red": True}}


def test_flags_are_shown_the_red_ones_as_such(checkpoint, images):
    report = audit_model(str(checkpoint), images, attacks=["clean"])
    lines = render_report(report).splitlines()
    assert lines[1] == "Red flags: small-n. The robust accuracies may be too high."  # 5 images a class
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row for row in rows if row[0] in report.flags] == [
        [name, f"{flag.value:.4g}", "red" if flag.red else ""] for name, flag in report.flags.items()
    ]
    assert ["small-n", "5", "red"] in rows
    unchecked = audit_model(str(checkpoint), images, attacks=["clean"], flags=False)
    assert unchecked.flags == {}
    assert render_report(unchecked).splitlines()[-1] == "Sanity checks: not run."


def test_what_is_no_number_is_null():
    report = Report(Verdicts(np.array([0, 0]), {"clean": np.array([1, 1])}, 2), ("cat", "dog"))
    found = report.as_dict()["attacks"]["clean"]
    assert (found["nsd"], found["worst"], found["per_class"]) == (None, 0.0, [0.0, None])


def test_a_saved_report_holds_figures_and_verdicts(tmp_path):
    report = Report(Verdicts(LABELS, {"clean": CLEAN, "pgd-20": PGD}, 2), ("cat", "dog"))
    report.save(tmp_path / "new" / "folder")
    assert json.loads((tmp_path / "new" / "folder" / "report.json").read_text()) == report.as_dict()
    with np.load(tmp_path / "new" / "folder" / "verdicts.npz") as arrays:
        assert {name: arrays[name].tolist() for name in arrays.files} == {
            "labels": LABELS.tolist(),
            "clean": CLEAN.tolist(),
            "pgd-20": PGD.tolist(),
        }


def _outputs(case, folder, checkpoint):
    """The arguments `out` and `page` of a case that is refused."""
    run, data = folder / "run", folder / "test.npz"
    run.mkdir()
    (run / "run.json").write_text("{}")
    return {
        "a run": {"out": run},
        "a folder": {"page": run},
        "the checkpoint": {"page": checkpoint},
        "the data": {"page": data},
        "a link to the data": {"page": _link(folder / "link.html", data)},
        "its own report": {"out": folder / "out", "page": folder / "out" / "report.json"},
        "below a file": {"page": data / "page.html"},
        "its own folder": {"out": folder / "out", "page": folder / "out"},
        "a device": {"page": Path("/dev/null")},
    }[case]


@pytest.mark.parametrize("dataset", ["npz:~/test.npz", "folder:~/images"])
def test_a_page_replaces_no_data_that_is_named_in_another_way(checkpoint, images, tmp_path, monkeypatch, dataset):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("fairbench.run.audit.evaluate", lambda *_, **__: pytest.fail("attacks"))
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "a.png").write_bytes(b"an image")
    page = tmp_path / ("test.npz" if dataset.startswith("npz") else "images/cat/a.png")
    with pytest.raises(InvalidInput, match="is a file that this command reads"):
        audit_model(str(checkpoint), dataset, attacks=["clean"], page=page)


@pytest.mark.parametrize("written", ["{}/other.safetensors", "file:{}/other.safetensors", "~/other.safetensors"])
def test_a_page_replaces_no_file_that_an_attack_reads(checkpoint, images, tmp_path, monkeypatch, written):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("fairbench.run.audit.evaluate", lambda *_, **__: pytest.fail("attacks"))
    page = tmp_path / "other.safetensors"
    page.write_bytes(checkpoint.read_bytes())
    with pytest.raises(InvalidInput, match="is a file that this command reads"):
        audit_model(str(checkpoint), images, attacks=[f"transfer:surrogate={written.format(tmp_path)}"], page=page)
    assert page.read_bytes() == checkpoint.read_bytes()


def _link(path, target):
    path.symlink_to(target)
    return path


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("a run", "is the folder of a run, whose verdicts it would replace"),
        ("a folder", "is a folder; give a file, such as "),
        ("the checkpoint", "is a file that this command reads"),
        ("the data", "is a file that this command reads"),
        ("a link to the data", "is a file that this command reads"),
        ("its own report", "--out keeps its own report.json there"),
        ("below a file", "cannot be written: Not a directory"),
        ("its own folder", "is a folder; give a file, such as "),
        ("a device", "cannot be written: not a regular file"),
    ],
)
def test_outputs_that_would_replace_a_file_are_refused_before_any_attack(
    checkpoint, images, tmp_path, monkeypatch, case, said
):
    monkeypatch.setattr("fairbench.run.audit.evaluate", lambda *_, **__: pytest.fail("attacks"))
    outputs = _outputs(case, tmp_path, checkpoint)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InvalidInput, match=said):
        audit_model(str(checkpoint), images, attacks=["clean"], **outputs)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_the_help_names_the_attacks_that_run_by_default(fairbench):
    said = " ".join(fairbench("evaluate", "--help")[1].replace("│", " ").split())
    assert f"(default: {', '.join(STANDARD)})" in said
