"""Experiment 0: the example of the documentation for continuous integration, taken at its word."""

import shlex
import sys
from pathlib import Path

import pytest
import yaml

from fixtures.doubles.suite_run import ROOT, start_pytest

MODEL = "tiny-llama"
GUIDE = ROOT / "docs/judge.md"


def misspell_an_option(monkeypatch, tmp_path):
    guide = tmp_path / "judge.md"
    guide.write_text(GUIDE.read_text().replace("--junitxml", "--junit-file"))
    monkeypatch.setattr(sys.modules[__name__], "GUIDE", guide)


@pytest.mark.claim(id="0.99", falsifier=misspell_an_option)
def test_the_example_for_github_actions_can_be_run(exhibit):
    """YAML of the documentation: its steps, and whether pytest takes the options that it gives."""
    text = GUIDE.read_text().partition("```yaml\n")[2].partition("```")[0]
    workflow = yaml.safe_load(text)
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    exhibit.table([[step.get("name"), step.get("uses"), step.get("run")] for step in steps],
                  columns=["step", "action", "command"], title="the workflow")  # fmt: skip
    (command,) = [step["run"] for step in steps if "pytest" in step.get("run", "")]
    program, *arguments = shlex.split(command.replace("../model", MODEL))
    run = start_pytest(*arguments, "--claims")  # reads its options, and lists claims
    error = run.communicate(timeout=120)[1]

    says = exhibit.measured("exit code of pytest with these options", run.returncode, should_be=0)

    assert run.returncode == 0, f"{says}: {error.strip()[-200:]}"
    assert program == "pytest", f"program = {program}, but should be pytest"
    assert all(("uses" in step) != ("run" in step) for step in steps), (
        "a step of the workflow has neither uses nor run"
    )
    assert True in workflow, "the workflow has no trigger"  # YAML 1.1 reads `on` as true
    assert "secrets." not in text, "the workflow reads a secret, but should need none"
    kept = next(step for step in steps if "upload-artifact" in step.get("uses", ""))
    written = [Path(a).name for a in arguments if a.endswith((".json", ".html", ".xml"))]
    listed = [Path(line).name for line in kept["with"]["path"].split()]
    assert listed == written, f"files kept = {listed}, but should be {written}"
