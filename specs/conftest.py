"""The ledger: every spec carries a claim, and every claim ends with a verdict."""

import re
import shlex
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import pytest
from rich.console import Console

from conftest import BLAS
from fixtures import seeds
from fixtures.inspected import GIVEN
from fixtures.roles import ROLES
from tools import claims, results, show

SPECS = Path(__file__).parent
LEDGER = pytest.StashKey[dict[str, claims.Claim]]()
RESULTS = pytest.StashKey[results.Results]()
REASONS = {
    "real": "a hub model; run it with -m real",
    "slow": "takes minutes; run it with -m slow",
    "browser": "opens a real browser; run it with -m browser",
}


def pytest_configure(config):
    try:
        for path in config.option.report:
            results.check_destination(path)
    except results.BadDestination as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[LEDGER] = _ledger()
    config.stash[RESULTS] = results.Results(config.stash[LEDGER])
    config.pluginmanager.register(Reporter(config))


def pytest_cmdline_main(config):
    if not config.option.claims:
        return None
    terminal = Console()
    terminal.print(show.ledger(_ledger().values()), soft_wrap=not terminal.is_terminal)
    return pytest.ExitCode.OK


def _ledger():
    try:
        return claims.read_ledger(SPECS / "claims.toml")
    except claims.LedgerError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    specs = [item for item in items if "benchmark" not in item.fixturenames]
    problems = claims.mismatches(
        config.stash[LEDGER],
        [(f"{item.path.name}::{item.originalname}", _claim(item)) for item in specs],
        complete=set(SPECS.glob("test_*.py")) <= {item.path for item in items},
    )
    if problems and hasattr(config, "workerinput"):
        config.workeroutput["problems"] = problems  # a worker's own error would not be readable
        items.clear()
    elif problems:
        raise pytest.UsageError("\n".join(problems))
    for item in specs:
        item.user_properties += [("claim", _claim(item)), ("subject", _subject(item))]
        config.stash[RESULTS].expect(_claim(item), _subject(item))
    if config.option.architectures:
        _group_by_subject(items)
    yield  # syrupy has to meet every spec, or it takes the snapshots of the others for unused
    if given := config.stash[GIVEN]:
        _deselect(config, items, [item for item in items if _subject(item) not in given])
    for item in items:
        if _is_unknown_fact(config, item):
            reason = f"no facts are known of {_subject(item)}"
            item.add_marker(pytest.mark.skip(reason=reason))
    for mark in REASONS:
        if mark not in config.option.markexpr:
            _deselect(config, items, [item for item in items if item.get_closest_marker(mark)])
    only_benchmarks = config.getoption("benchmark_only", False)
    _deselect(config, items, [item for item in items if (item in specs) == only_benchmarks])


def _claim(item):
    mark = item.get_closest_marker("claim")
    return mark.kwargs.get("id") if mark else None


def _subject(item):
    """The subject that the spec's role was given; `suite` for specs about the suite itself."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return next((parameters[role] for role in ROLES if role in parameters), "suite")


def _group_by_subject(items):
    """Model by model: whoever takes a run of specs builds a model once and then lets it go."""
    places = {subject: place for place, subject in enumerate(dict.fromkeys(map(_subject, items)))}
    items.sort(key=lambda item: places[_subject(item)])


def _is_unknown_fact(config, item):
    """Facts are held to the catalogue, which holds none of a model that it does not name."""
    entry = config.stash[GIVEN].get(_subject(item))
    claim = config.stash[LEDGER].get(_claim(item))
    return entry is not None and not entry.facts and claim is not None and claim.kind == "fact"


def _deselect(config, items, dropped):
    if dropped:
        items[:] = [item for item in items if item not in dropped]
        config.hook.pytest_deselected(items=dropped)


def pytest_deselected(items):
    for item in items:
        mark = next((mark for mark in REASONS if item.get_closest_marker(mark)), None)
        if _claim(item):
            given = item.config.stash[GIVEN]
            default = "not selected"
            if given and _subject(item) not in given:
                asked = "the architectures" if len(given) > 9 else ", ".join(given)
                default = f"only {asked} was asked for"
            elif item.config.getoption("benchmark_only", False):
                default = "only benchmarks were asked for"
            reason = REASONS.get(mark, default)
            item.config.stash[RESULTS].expect(_claim(item), _subject(item), reason)


@pytest.fixture
def planted_fault(request):
    """A fault of the past and a law that must see it; the first where no other is asked for."""
    from fixtures.planted import FAULTS  # here: it imports mlx-lm, which takes seconds

    return getattr(request, "param", (FAULTS[0], FAULTS[0].laws[0]))


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
                    self.write(show.exhibit(value))

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem, report):
        """What crashed its worker is refuted; pytest-xdist starts another for the rest."""
        crashed = _read_off(crashitem, self.config.stash[GIVEN])
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
        environment = results.environment(command, BLAS, interrupted, created, seeds.seeds())
        for path in self.config.option.report:
            try:
                results.write(self.results.document(environment), path)
            except OSError as error:
                self.write(f"The report {path} was not written: {error.strerror}.")
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter):
        for problem in self.problems:
            terminalreporter.write_line(f"ERROR: {problem}", red=True)
        if self.results.rows and not self.problems:
            terminalreporter.section("ledger")
            self.write(show.summary(self.results.rows, self.results.kill_rate))

    def write(self, renderable):
        writer = self.config.get_terminal_writer()
        writer.line()
        writer.write(show.render(renderable, writer.fullwidth, writer.hasmarkup))


def _read_off(node_id, given):
    """Claim and subject by the id of a spec: a worker that crashed can no longer tell them.

    Claims of many laws stand in the ids of their specs, `[mamba (tiny)-9.13 causality]`.
    """
    file, _, rest = node_id.partition("::")
    name, _, parameters = rest.partition("[")
    marks = getattr(getattr(import_module(f"specs.{Path(file).stem}"), name), "pytestmark", ())
    claims = [mark.kwargs["id"] for mark in marks if mark.name == "claim"]
    claims += re.findall(r"\b\d+\.\d+\b(?= )", parameters)
    subjects = [subject for subject in given if f"{subject}-" in parameters.replace("]", "-")]
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
