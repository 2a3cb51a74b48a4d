"""What contributors meet: templates, hooks, the citation and the workflows are valid and agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml

from fairbench.version import __version__

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FILES = [
    *((path, "github-issue-forms") for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("[!c]*.yml"))),
    (GITHUB / "ISSUE_TEMPLATE" / "config.yml", "github-issue-config"),
    (GITHUB / "dependabot.yml", "dependabot"),
    (ROOT / "CITATION.cff", "citation-file-format"),
]


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("path", "schema"), FILES, ids=lambda value: getattr(value, "name", None))
def test_files_follow_their_schema(path, schema):
    command = [str(Path(sys.executable).with_name("check-jsonschema")), "--default-filetype", "yaml"]
    command += ["--builtin-schema", f"vendor.{schema}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_is_of_this_version():
    assert read(ROOT / "CITATION.cff")["version"] == __version__
    protocol = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert f"version = {{{__version__}}}" in protocol
    assert f"It holds for version {__version__}." in protocol


def test_ci_runs_on_every_python_that_the_package_supports():
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    oldest = int(config["options"]["python_requires"].removeprefix(">=3."))
    listed = re.findall(r"Python :: (3\.\d+)", config["metadata"]["classifiers"])
    pythons = read(GITHUB / "workflows" / "ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in range(oldest, 14)] == listed


def test_ci_builds_the_site_with_its_notebooks_and_warnings_as_errors():
    steps = read(GITHUB / "workflows" / "ci.yml")["jobs"]["docs"]["steps"]
    (build,) = [step["run"] for step in steps if "sphinx-build" in step.get("run", "")]
    assert "-W" in build.split()
    assert "nb_execution_mode" not in build


def test_the_hooks_are_the_linters_of_ci():
    hooks = [
        hook["entry"].split() for repo in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]
    ]
    for line in ("ruff check", "ruff format --check", "mypy"):
        assert line in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
        assert any(hook[: len(line.split())] == line.split() for hook in hooks)
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = " ".join(setup["options.extras_require"][extra] for extra in ("dev", "test"))
    installed = set(re.findall(r"^[\w-]+", extras.replace(" ", "\n"), flags=re.MULTILINE))
    assert {hook[0] for hook in hooks} <= installed  # the hooks run what the environment has


def test_a_release_is_a_tag_and_is_uploaded_only_after_it_was_checked():
    workflow = read(GITHUB / "workflows" / "publish.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads the key `on` as True
    runs = [step.get("run", "") for step in workflow["jobs"]["publish"]["steps"]]
    (checked,) = [number for number, run in enumerate(runs) if ".ci/package" in run]
    (uploaded,) = [number for number, run in enumerate(runs) if "uv publish" in run]
    assert checked < uploaded


@pytest.mark.parametrize("script", ["run", "package"])
def test_scripts_of_ci_are_valid_bash_and_stop_at_an_error(script):
    path = ROOT / ".ci" / script
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    assert re.search(r"^set -euo pipefail$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_image_runs_as_a_user_without_rights():
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert lines.index("USER runner") < lines.index('ENTRYPOINT ["fairbench"]')
