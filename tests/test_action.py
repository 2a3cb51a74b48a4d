"""The reusable action and our own workflow: valid, pinned, with least rights, and deaf to what inputs would inject."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
ACTION = ROOT / "action.yml"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
SCHEMAS = [(ACTION, "vendor.github-actions"), *((path, "vendor.github-workflows") for path in WORKFLOWS)]


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("path", "schema"), SCHEMAS, ids=lambda value: getattr(value, "name", None))
def test_files_follow_githubs_schema(path, schema):
    done = tool("check-jsonschema", "--builtin-schema", schema, path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_finds_nothing_of_weight():
    done = tool("zizmor", "--offline", "--no-progress", "--min-severity=medium", ACTION, *WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_the_linter_would_have_found_an_injection(tmp_path):
    text = ACTION.read_text(encoding="utf-8").replace('"--baseline=$BASELINE"', '"--baseline=${{ inputs.baseline }}"')
    (tmp_path / "action.yml").write_text(text, encoding="utf-8")
    done = tool("zizmor", "--offline", "--no-progress", "--min-severity=medium", tmp_path / "action.yml")
    assert done.returncode != 0
    assert "template-injection" in done.stdout


def test_steps_are_pinned_by_commit_and_rights_are_to_read():
    assert WORKFLOWS
    for path in (ACTION, *WORKFLOWS):
        for used in re.findall(r"uses: (.+)", path.read_text(encoding="utf-8")):
            assert used == "./" or re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", used), used
    for path in WORKFLOWS:
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["permissions"] == {"contents": "read"}


def test_no_module_of_the_pull_request_is_imported_by_the_installation(tmp_path):
    (step,) = [one for one in yaml.safe_load(ACTION.read_text())["runs"]["steps"] if "-m venv" in one.get("run", "")]
    for name in ("venv", "pip", "sitecustomize", "json"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "python").write_text(f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    (bin_folder / "python").chmod(0o755)
    environment = {
        "PATH": f"{bin_folder}:/usr/bin:/bin",
        "RUNNER_TEMP": str(tmp_path / "temp"),
        "GITHUB_ACTION_PATH": str(tmp_path / "there is no package"),  # pip starts and finds nothing to install
        "PYTHONPATH": str(tmp_path),
    }
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "there is no package" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def check(tmp_path):
    """Run the action's own script with these inputs and a `fairbench` that notes its arguments and does as told."""
    (step,) = [one for one in yaml.safe_load(ACTION.read_text())["runs"]["steps"] if one.get("id") == "check"]
    names = {variable: value.split(".")[1].strip(" }") for variable, value in step["env"].items()}
    inputs = yaml.safe_load(ACTION.read_text())["inputs"]

    def run(code: int = 0, says: str = "the report", **given: str):
        binary = tmp_path / "fairbench" / "bin" / "fairbench"
        binary.parent.mkdir(parents=True, exist_ok=True)
        note = f"printf '%s\\n' \"$@\" > {tmp_path}/arguments\nprintf '{says}'\nexit {code}\n"
        binary.write_text(f"#!/usr/bin/env bash\n{note}")
        binary.chmod(0o755)
        values = {name: given.get(name, str(inputs[name].get("default", ""))) for name in names.values()}
        environment = {variable: values[name] for variable, name in names.items()}
        environment |= {"PATH": "/usr/bin:/bin", "RUNNER_TEMP": str(tmp_path)}
        environment |= {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "GITHUB_OUTPUT": str(tmp_path / "output")}
        # As GitHub runs `shell: bash`.
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, (tmp_path / "arguments").read_text().splitlines()

    return run


@pytest.mark.parametrize("code", [0, 1, 2])
def test_the_action_ends_as_the_gate_does_and_reports(check, tmp_path, code):
    says = "### fairness gate: FAILED, 1 of 2 checks regressed" if code == 1 else "the report"
    returned, arguments = check(code, says=says, baseline="a.csv", candidate="b")
    assert returned == code
    assert arguments == [
        "check", "--baseline=a.csv", "--candidate=b", "--max-drop=2.0", "--metric=worst,average,class",
        "--attack=union", "--alpha=0.05", "--unit=checkpoint", "--runs=1", "--format=markdown",
    ]  # fmt: skip
    assert (tmp_path / "summary").read_text() == says
    outputs = (tmp_path / "output").read_text().splitlines()
    assert outputs == [f"exit-code={code}", f"report={tmp_path}/fairbench-check.md"]


def test_what_could_not_be_compared_is_said_in_the_summary(check, tmp_path):
    assert check(2, says="", baseline="a", candidate="b")[0] == 2
    assert "could not be compared" in (tmp_path / "summary").read_text()


@pytest.mark.parametrize("says", ["", "the report", "### fairness gate: passed, no regression in 1 check"])
def test_an_end_with_1_that_reports_no_regression_is_2(check, tmp_path, says):
    assert check(1, says=says, baseline="a", candidate="b")[0] == 2
    assert "exit-code=2" in (tmp_path / "output").read_text().splitlines()


OPTIONAL = {"methods": "shared", "seeds": "0,1", "max-slowdown": "1.5", "require-mde": "3", "pin": "abc"}


def test_optional_inputs_become_options(check):
    _, arguments = check(**{"baseline": "a", "candidate": "b", **OPTIONAL})
    assert arguments[-len(OPTIONAL) :] == [f"--{name}={value}" for name, value in OPTIONAL.items()]


def test_scripts_need_no_newer_bash_than_that_of_macos():
    """Version 3.2 has no `${name,,}` and the like, no associative arrays and no `mapfile`."""
    newer = re.compile(r"\$\{\w+(\[\S\])?(\^|,|@[A-Za-z])|declare -[Agn]|local -[An]|mapfile|readarray|\|&|&>>")
    scripts = [step["run"] for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"] if "run" in step]
    assert scripts
    for script in scripts:
        lines = [line for line in script.splitlines() if not line.lstrip().startswith("#")]
        assert [line for line in lines if newer.search(line)] == []


def test_the_defaults_are_those_of_the_command():
    import inspect

    from fairbench.cli.check import check_command

    inputs = yaml.safe_load(ACTION.read_text())["inputs"]
    for name, parameter in inspect.signature(check_command).parameters.items():
        if name != "format_" and parameter.default is not inspect.Parameter.empty:
            default = "" if parameter.default is None else str(parameter.default)
            assert inputs[name.replace("_", "-")]["default"] == default, name


@pytest.mark.parametrize("evil", ['"; touch pwned; "', "$(touch pwned)", "`touch pwned`", "a\ntouch pwned", "--help"])
def test_inputs_are_never_run(check, tmp_path, evil):
    code, arguments = check(baseline=evil, candidate=evil, **{"max-slowdown": evil})
    assert code == 0
    assert "\n".join(arguments).count(evil) == 3
    assert all(not line.startswith("--help") for line in arguments)
    assert not (tmp_path / "pwned").exists()


def test_every_option_of_the_action_is_one_of_the_command(check):
    from fairbench.cli.check import check_command

    _, arguments = check(**{"baseline": "a", "candidate": "b", **OPTIONAL})
    options = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in arguments[1:]}
    assert options - {"format"} <= set(check_command.__annotations__)
