"""Experiment 0: the memory gate, which predicts a run's peak before anything is loaded."""

import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import psutil
import pytest

from fixtures.doubles import gguf_files
from fixtures.doubles.refusals import complaint, is_one_sentence
from fixtures.doubles.suite_run import start_pytest
from fixtures.models import inspection
from fixtures.provision import catalogue, provision
from fixtures.provision.catalogue import Entry
from fixtures.synthetic.architectures import build_architecture
from fixtures.synthetic.small_directory import write_small_model
from llm_spec.directory import room
from llm_spec.directory.files import find
from llm_spec.model.safetensors import read_header

HUNGRY = "1.7,1.8,9.20,9.43"
"""The claims whose specs take most: a model beside itself, gradients, a quantised copy."""
FACTOR = 2 / 3
"""How much of what is predicted a run takes at least."""
TELLS_ITS_PEAK = """
import pytest, resource
code = pytest.main()
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
raise SystemExit(code)
"""


def count_the_weights_alone(monkeypatch):
    monkeypatch.setattr(room.Room, "total", property(lambda each: each.stored + each.unpacked))


@pytest.mark.slow
@pytest.mark.claim(id="0.96", falsifier=count_the_weights_alone)
def test_a_run_takes_two_thirds_of_the_predicted_memory_at_least_and_all_of_it_at_most(
    embedded, exhibit
):
    """What the gate counts, and the peak of a process that runs the specs that take most."""
    if mx.default_device() != mx.cpu:
        pytest.skip("a process's resident set size counts no buffers of a GPU")
    found = find(embedded.path)
    tensors = read_header(found.root / "model.safetensors").tensors
    predicted = room.of_a_run([(tensors, embedded.config)], unpacked=True)
    run = start_pytest(
        "specs", "--model", embedded.name, "--claim", HUNGRY, "-q", program=TELLS_ITS_PEAK
    )
    output, _ = run.communicate()
    told = int(output.rpartition("peak")[2])
    peak = told if sys.platform == "darwin" else 1024 * told  # Linux tells kibibytes
    exhibit.bars(
        {"predicted": predicted.total / 1e9, "measured peak": peak / 1e9},
        title=f"a run on {embedded.name}", axis="memory (GB)",
    )  # fmt: skip
    share = peak / predicted.total

    says = exhibit.measured("peak over prediction", share, f"{FACTOR:.2f} to 1")

    assert run.returncode == pytest.ExitCode.OK, output[-2000:]
    assert FACTOR <= share <= 1, says


def look_at_no_sizes(monkeypatch):
    monkeypatch.setattr(inspection, "check_room", lambda *_, **__: None)


@pytest.mark.claim(id="0.97", falsifier=look_at_no_sizes)
def test_models_too_large_for_the_memory_are_refused_before_a_spec_runs(
    exhibit, tmp_path, monkeypatch
):
    """Each case where too little memory is free, and where just enough is."""
    named = catalogue.entry("smollm2-135m")
    cache, whole = tmp_path / "cache", provision.directory(named)
    cache.mkdir()
    (cache / named.name).symlink_to(whole)
    monkeypatch.setattr(provision, "cache_directory", lambda: cache)
    model, config = build_architecture("qwen2", vocab_size=gguf_files.ROWS)
    path = tmp_path / "small.gguf"
    gguf_files.write_gguf(path, "qwen2", model, config, gguf_files.byte_level())
    file = Entry("a GGUF file", "a file", "unknown", gguf=str(path))
    home = write_small_model(tmp_path / "small")
    directory = Entry("a directory", "a directory", "unknown", directory=str(home))
    # A directory is tried in a process of its own, which reads no weight.
    monkeypatch.setattr("llm_spec.directory.run_probe", lambda *_, **__: {})
    cases = {
        "a model of the catalogue": ([named], [], 1),
        "a GGUF file": ([file], [], 1),
        "a directory": ([directory], [], 1),
        "a model and its reference": ([directory], [named], 1),
        "two processes": ([named], [], 2),
    }
    rows = []
    for case, (given, reference, runs) in cases.items():
        needed = runs * predicted([*given, *reference])
        said = {}
        for free in (needed - 1, needed):
            monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))  # noqa: B023
            said[free] = complaint(lambda: provisioned(given, reference, tmp_path, runs))  # noqa: B023
        rows.append([case, needed, *said.values()])
    exhibit.table(
        rows, columns=["models", "predicted (bytes)", "said with a byte less", "said with enough"],
        title="refusals",
    )  # fmt: skip
    wrong = [
        case for case, _, less, enough in rows
        if enough is not None or not is_one_sentence(less) or "memory are free" not in less
    ]  # fmt: skip

    says = exhibit.measured("models let in, or refused without cause", wrong, should_be=[])

    assert not wrong, says


def predicted(entries):
    models = []
    for entry in entries:
        path = provision.directory(entry)
        tensors = read_header(path / "model.safetensors").tensors
        models.append((tensors, json.loads((path / "config.json").read_text())))
    return room.of_a_run(models, unpacked=mx.default_device() == mx.cpu).total


def provisioned(given, reference, tmp_path, runs):
    views = Path(tempfile.mkdtemp(dir=tmp_path))
    by_name = [{entry.name: entry for entry in entries} for entries in (given, reference)]
    inspection.provision_all(*by_name, views, runs)
