"""What a specification is given: models, exhibits, snapshots. The rest is in fixtures/plugins."""

import os

from llm_spec.numerics import blas

# Before anything imports mlx.core, or it has no effect. Float32 is float32: left alone, MLX
# multiplies it with 10 bits of mantissa on NVIDIA's cards. Workers of pytest-xdist share the cores.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
PRELOADED = blas.preload(processes=int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))

# ruff: noqa: E402  nothing may come before the lines above
import pytest

from fixtures.models import roles
from fixtures.models.inspection import INSPECTIONS, NAMED_MODELS, REFERENCE, VIEWS
from fixtures.plugins.snapshots import PerSubject
from fixtures.plugins.stash import BLAS
from fixtures.texts.passages import passages
from llm_spec.ledger import records
from llm_spec.ledger.evidence import Exhibits

pytest_plugins = [
    "fixtures.plugins.model_options",
    "fixtures.plugins.collection",
    "fixtures.plugins.reporter",
    "fixtures.plugins.workers",
    "fixtures.plugins.missing_kernels",
]
REAL = pytest.mark.real
NOT_FINITE = "9.17"  # the claim that tells of a weight that is NaN, once, for all that use it
NO_REFERENCE = pytest.param(
    None, id="no reference", marks=pytest.mark.skip("name a reference: --reference Y")
)


def pytest_configure(config):
    # pytest-xdist's workers share the threads that are told of here.
    workers = config.getoption("numprocesses", None)
    config.stash[BLAS] = f"{PRELOADED}, shared by {workers} workers" if workers else str(PRELOADED)


def pytest_report_header(config):
    given = config.stash[NAMED_MODELS] or roles.names("trained", remote=False)
    held_to = "".join(f"; reference: {name}" for name in config.stash[REFERENCE])
    from llm_spec.numerics import device  # here: MLX takes seconds, and a wrong option none

    return (
        f"model: {', '.join(given)}{held_to}; device: {device.kind_and_name()}; "
        f"BLAS: {config.stash[BLAS]}"
    )


def pytest_generate_tests(metafunc):
    """A fixture named after a role runs its spec on every subject that plays the role."""
    given = metafunc.config.stash[NAMED_MODELS]
    for role in roles.ROLES:
        if role in metafunc.fixturenames:
            # Roles that no given model plays keep their embedded subjects, to be told as not run.
            names = roles.names(role, given) or roles.names(role)
            remote = [() if n in given or n not in roles.remote() else REAL for n in names]
            subjects = [pytest.param(n, marks=m) for n, m in zip(names, remote, strict=True)]
            metafunc.parametrize(role, subjects, indirect=True)
    if "reference" in metafunc.fixturenames:
        named = list(metafunc.config.stash[REFERENCE]) or [NO_REFERENCE]
        metafunc.parametrize("reference", named, indirect=True)


@pytest.fixture(scope="session")
def models(request):
    """Every subject by name, each loaded at most once a session."""
    from fixtures.models.subjects import Subjects  # here, for the same reason

    stash = request.config.stash
    return Subjects({**stash[NAMED_MODELS], **stash[REFERENCE]}, stash[INSPECTIONS], stash[VIEWS])


def _role(role):
    # Function-scoped, for a role only looks a subject up: pytest then keeps the plan's order
    # instead of grouping the specs by subject.
    @pytest.fixture(name=role)
    def subject(request, models):
        subject = models[getattr(request, "param", roles.ROLES[role].default)]
        part = roles.ROLES[role]
        judged = part.part == "tokenizer" or part.is_declared or _is_about_weights(request.node)
        if not judged and subject.not_finite:
            pytest.skip(f"not judged: {subject.not_finite} (claim 9.17)")
        if role == "trained" and not subject.is_trained:
            pytest.skip(f"{subject.name} predicts no better than letter pairs: it is not trained")
        return subject

    return subject


def _is_about_weights(item):
    claim = item.get_closest_marker("claim")
    return claim is not None and claim.kwargs["id"] == NOT_FINITE


trained, embedded, subject = _role("trained"), _role("embedded"), _role("subject")
declared, shape, vocabulary = _role("declared"), _role("shape"), _role("vocabulary")
directory, any_model, any_head = _role("directory"), _role("any_model"), _role("any_head")
architecture, served_model = _role("architecture"), _role("served_model")


@pytest.fixture
def reference(request, models):
    """The model that --reference names; for falsifiers, the embedded one."""
    return models[getattr(request, "param", roles.ROLES["directory"].default)]


@pytest.fixture
def planted_fault(request):
    """A fault of the past, a law that must see it and the number format it is planted in; the first
    where no other is asked for."""
    from fixtures.planted import FAULTS, FORMATS  # here: it imports mlx-lm, which takes seconds

    return getattr(request, "param", (FAULTS[0], next(iter(FAULTS[0].laws)), FORMATS[0]))


@pytest.fixture
def scored_texts():
    """The beginning of each passage: what a model and its reference are scored on."""
    return {name: text[:600] for name, text in passages().items()}


@pytest.fixture
def exhibit(request):
    """Records what the spec saw, before its verdict."""

    properties = request.node.user_properties
    about = records.about(properties)
    subject = about.subject if about else "suite"
    return Exhibits(lambda it: properties.append(records.as_property(it)), subject, pytest.skip)


@pytest.fixture
def snapshot(snapshot):
    """syrupy's snapshots, one set a subject. Discrete facts only: no floats, times or prose."""
    return snapshot.use_extension(PerSubject)
