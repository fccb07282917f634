"""From the reports of specs to the ledger in the terminal and in files."""

import re
import shlex
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import pytest

from conftest import blas_in_use
from fixtures.models import seeds
from fixtures.models.inspection import NAMED_MODELS
from fixtures.provision import catalogue
from llm_spec.ledger import results, terminal
from llm_spec.report import destination

RESULTS = pytest.StashKey[results.Results]()


class Reporter:
    """Turns the reports of specs into rows, wherever the specs ran, and shows and writes them."""

    def __init__(self, config):
        self.config = config
        self.results = config.stash[RESULTS]
        self.reportable = not hasattr(config, "workerinput")
        self.problems = {}

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            self.results.add(_outcome(report), _reason(report), report.user_properties)
        if self.reportable and self.config.option.show and report.when == "call":
            for name, value in report.user_properties:
                if name == "exhibit":
                    self.write(terminal.exhibit(value))

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem, report):
        """What crashed its worker is refuted; pytest-xdist starts another for the rest."""
        crashed = _read_off(crashitem, {**catalogue.load(), **self.config.stash[NAMED_MODELS]})
        report.user_properties = [*crashed, ("measured", "the process = crashed")]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node):
        output = getattr(node, "workeroutput", {})
        self.problems |= dict.fromkeys(output.get("problems", ()))
        for expected in output.get("expected", ()):
            self.results.expect(*expected)

    def pytest_keyboard_interrupt(self):
        # Snapshots that were not reached are not unused; syrupy would say so, and change the code.
        self.config.option.disable_unused_snapshots = True

    def pytest_sessionfinish(self, session, exitstatus):
        if not self.reportable:
            self.config.workeroutput["expected"] = self.results.expected
            return
        if self.problems:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        if not self.config.option.report:
            return
        command = shlex.join(["pytest", *self.config.invocation_params.args])
        interrupted = exitstatus == pytest.ExitCode.INTERRUPTED
        created = datetime.now(UTC).isoformat(timespec="seconds")
        using = blas_in_use(self.config)
        environment = results.environment(command, using, interrupted, created, seeds.seeds())
        for path in self.config.option.report:
            try:
                destination.write(self.results.document(environment), path)
            except OSError as error:
                self.write(f"The report {path} was not written: {error.strerror}.")
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter):
        for problem in self.problems:
            terminalreporter.write_line(f"ERROR: {problem}", red=True)
        if self.results.rows and not self.problems:
            terminalreporter.section("ledger")
            self.write(terminal.summary(self.results.rows, self.results.kill_rate))

    def write(self, renderable):
        writer = self.config.get_terminal_writer()
        writer.line()
        writer.write(terminal.render(renderable, writer.fullwidth, writer.hasmarkup))


def _read_off(node_id, names):
    """Claim and subject by the id of a spec: a worker that crashed can no longer tell them.

    Claims of many laws stand in the ids of their specs, `[mamba (tiny)-9.13 causality]`.
    """
    file, _, rest = node_id.partition("::")
    name, _, parameters = rest.partition("[")
    marks = getattr(getattr(import_module(f"specs.{Path(file).stem}"), name), "pytestmark", ())
    claims = [mark.kwargs["id"] for mark in marks if mark.name == "claim"]
    claims += re.findall(r"\b\d+\.\d+\b(?= )", parameters)
    subjects = [subject for subject in names if f"{subject}-" in parameters.replace("]", "-")]
    subject = max(subjects, key=len, default="suite")
    return [("claim", claim) for claim in claims[:1]] + [("subject", subject)]


def _outcome(report):
    return "failed" if hasattr(report, "wasxfail") else report.outcome


def _reason(report):
    """The first line of why a spec failed or did not run."""
    if hasattr(report, "wasxfail"):
        return f"known: {report.wasxfail}"
    if report.skipped and isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    return crash.message.splitlines()[0].removeprefix("Failed: ") if crash else None
