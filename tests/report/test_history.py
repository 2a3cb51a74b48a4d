import pandas as pd
import pytest

from fairbench.errors import CorruptFile, InvalidInput, Missing
from fairbench.report.history import class_state, draw, read_history
from fairbench.results.folder import RunFolder


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_history(
        [
            {"epoch": 0, "loss": 2.0, "average": 0.1, "worst": 0.0, "tau[0]": 1.0, "tau[1]": 1.0},
            {"epoch": 1, "loss": 1.5, "average": 0.3, "worst": 0.1, "tau[0]": 0.9, "tau[1]": 1.1},
        ]
    )
    folder.write({"method": "absld", "seed": 0, "class_names": ["cat", "<dog>"]})
    return folder.path


def test_class_state_is_split_off_by_name_and_class(run):
    vectors = class_state(read_history(run))
    assert list(vectors) == ["tau"]
    expected = pd.DataFrame({0: [1.0, 0.9], 1: [1.0, 1.1]})
    pd.testing.assert_frame_equal(vectors["tau"], expected)


def test_the_picture_names_the_classes_and_the_vectors(run, tmp_path):
    assert draw(run, tmp_path / "out.svg") == ["tau"]
    picture = (tmp_path / "out.svg").read_text(encoding="utf-8")
    assert "<!-- cat -->" in picture
    assert "tau by class" in picture
    assert "<dog>" not in picture


def test_bad_input_is_one_line(run, tmp_path):
    with pytest.raises(InvalidInput, match=r"\.svg, \.png, \.pdf"):
        draw(run, tmp_path / "out.exe")
    with pytest.raises(Missing, match="a run folder"):
        draw(tmp_path, tmp_path / "out.svg")
    assert not (tmp_path / "out.svg").exists()


@pytest.mark.parametrize("text", ["loss\nx\n", "hello\n"])
def test_a_history_without_epochs_is_no_history(run, text):
    (run / "history.csv").write_text(text)
    with pytest.raises(CorruptFile, match="not a history: it has no column 'epoch'"):
        read_history(run)
