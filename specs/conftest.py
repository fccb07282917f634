"""The ledger: every spec carries a claim, and every claim ends with a verdict."""

from pathlib import Path

import pytest
from rich.console import Console

from fixtures.models.inspection import NAMED_MODELS
from fixtures.models.roles import ROLES
from llm_spec.ledger import claims, results, terminal
from llm_spec.report import destination
from specs.reporter import RESULTS, Reporter

SPECS = Path(__file__).parent
LEDGER = pytest.StashKey[dict[str, claims.Claim]]()
REASONS = {
    "real": "a hub model; run it with -m real",
    "slow": "takes minutes; run it with -m slow",
    "idle": "wants an idle machine for many minutes; run it with -m idle",
    "browser": "opens a real browser; run it with -m browser",
}


def pytest_configure(config):
    try:
        for path in config.option.report:
            destination.check_destination(path)
    except destination.BadDestination as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[LEDGER] = _ledger()
    config.stash[RESULTS] = results.Results(config.stash[LEDGER])
    config.pluginmanager.register(Reporter(config))


def pytest_cmdline_main(config):
    if not config.option.claims:
        return None
    console = Console()
    console.print(terminal.ledger(_ledger().values()), soft_wrap=not console.is_terminal)
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
    if given := config.stash[NAMED_MODELS]:
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
    entry = config.stash[NAMED_MODELS].get(_subject(item))
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
            given = item.config.stash[NAMED_MODELS]
            default = "not selected"
            if given and _subject(item) not in given:
                default = f"only {', '.join(given)} was asked for"
                if item.config.option.architectures:
                    default = "only architectures were asked for"
            elif item.config.getoption("benchmark_only", False):
                default = "only benchmarks were asked for"
            reason = REASONS.get(mark, default)
            item.config.stash[RESULTS].expect(_claim(item), _subject(item), reason)


@pytest.fixture
def planted_fault(request):
    """A fault of the past and a law that must see it; the first where no other is asked for."""
    from fixtures.planted import FAULTS  # here: it imports mlx-lm, which takes seconds

    return getattr(request, "param", (FAULTS[0], FAULTS[0].laws[0]))
