"""What every specification is given: exhibits and snapshots. The rest is in fixtures/plugins."""

import os

from llm_spec.numerics import blas

# Before anything imports mlx.core, or it has no effect. Float32 is float32: left alone, MLX
# multiplies it with 10 bits of mantissa on NVIDIA's cards. Workers of pytest-xdist share the cores.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
PRELOADED = blas.preload(processes=int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))

# ruff: noqa: E402  nothing may come before the lines above
import pytest

from fixtures.models import roles
from fixtures.models.inspection import NAMED_MODELS, REFERENCE
from fixtures.plugins.stash import BLAS
from llm_spec.ledger import records
from llm_spec.ledger.evidence import Exhibits

pytest_plugins = [
    "fixtures.plugins.model_options",
    "fixtures.plugins.collection",
    "fixtures.plugins.subjects",
    "fixtures.plugins.serving",
    "fixtures.plugins.oracle",
    "fixtures.plugins.ranks",
    "fixtures.plugins.own_jobs",
    "fixtures.plugins.reporter",
    "fixtures.plugins.running",
    "fixtures.plugins.progress",
    "fixtures.plugins.proofs",
    "fixtures.plugins.healthy_runs",
    "fixtures.plugins.workers",
    "fixtures.plugins.missing_here",
    "fixtures.plugins.other_releases",
    "fixtures.plugins.interruption",
]


FEW = 6  # models that the header names


def pytest_configure(config):
    # pytest-xdist's workers share the threads that are told of here.
    workers = config.getoption("numprocesses", None)
    config.stash[BLAS] = f"{PRELOADED}, shared by {workers} workers" if workers else str(PRELOADED)


def pytest_report_header(config):
    named = config.stash[NAMED_MODELS].values()
    given = list(config.stash[NAMED_MODELS]) or roles.names("trained", remote=False)
    told = ", ".join(given[:FEW]) + (f" and {len(given) - FEW} others" if len(given) > FEW else "")
    held_to = "".join(
        f"; reference: {name}{', the model itself' if roles.is_among(entry, named) else ''}"
        for name, entry in config.stash[REFERENCE].items()
    )
    from llm_spec.numerics import device  # here: MLX takes seconds, and a wrong option none

    return f"model: {told}{held_to}; device: {device.kind_and_name()}; BLAS: {config.stash[BLAS]}"


@pytest.fixture
def planted_fault(request):
    """A fault of the past, a law that must see it and the number format it is planted in; the first
    where no other is asked for."""
    from fixtures.planted import FAULTS, FORMATS  # here: it imports mlx-lm, which takes seconds

    return getattr(request, "param", (FAULTS[0], next(iter(FAULTS[0].laws)), FORMATS[0]))


@pytest.fixture
def exhibit(request):
    """Records what the spec saw, before its verdict."""

    properties = request.node.user_properties
    about = records.about(properties)
    subject = about.subject if about else "suite"
    return Exhibits(lambda it: properties.append(records.as_property(it)), subject, pytest.skip)
