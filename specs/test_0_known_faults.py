"""Experiment 0: a known fault excuses its own failure and no other."""

import json

import mlx.core as mx
import pytest
from mlx_lm import utils

from fixtures.doubles.suite_run import plant as plant_in_a_run
from fixtures.doubles.suite_run import start_pytest
from fixtures.models import subjects
from fixtures.models.known_faults import Expected, faults_of, known_faults
from fixtures.models.law_verdict import hold_to_law
from fixtures.models.subjects import Subject
from fixtures.planted import MLX_LM
from fixtures.provision.catalogue import Entry
from fixtures.synthetic.architectures import shipped
from fixtures.synthetic.small_directory import write_architecture, write_model
from fixtures.synthetic.tiny import build_tiny
from llm_spec.laws import LAWS, OBJECT_LAWS, case
from llm_spec.laws.model import storage
from llm_spec.ledger.evidence import Exhibits
from llm_spec.numerics import device

LAW_OF = {law.__name__: law for law in LAWS}


def verdict(subject, law):
    """What becomes of a subject that is held to a law."""
    silent = Exhibits(lambda record: None, subject.name, pytest.skip)
    try:
        hold_to_law(subject, LAW_OF[law], silent)
    except pytest.xfail.Exception:
        return "known"
    except pytest.skip.Exception:
        return "not run"
    except AssertionError:
        return "refuted"
    return "verified"


def refuse(patch, model):
    def refusing(*_, **__):
        raise OSError("no room")

    for way in ("__init__", "__call__"):
        patch.setattr(type(model), way, refusing)


def refuse_to_quantise(patch, model):
    def refusing(*_, **__):
        raise OSError("no room")

    patch.setattr(utils, "quantize_model", refusing)


def magnify_with_a_cache(patch, model):
    run = type(model).__call__

    def magnified(self, inputs, cache=None, **options):
        return run(self, inputs, cache=cache, **options) * (1 if cache is None else 10)

    patch.setattr(type(model), "__call__", magnified)


def add_an_idle_weight(patch, model):
    patch.setitem(model, "spare", mx.ones(3))


def as_is(patch, model):
    pass


# A tiny architecture, the law that it is known to break, and what becomes of it.
BREAKAGES = [
    (Entry("a number", "", "", architecture="plamo3"), "cached_is_uncached", as_is, "known"),
    (Entry("a larger number", "", "", architecture="plamo3"), "cached_is_uncached",
     magnify_with_a_cache, "refuted"),
    (Entry("an exception", "", "", architecture="plamo3"), "cached_is_uncached",
     refuse, "refuted"),
    (Entry("a refusal", "", "", architecture="afm7"), "quantised_is_the_same_rounded",
     as_is, "known"),
    (Entry("another refusal", "", "", architecture="afm7"), "quantised_is_the_same_rounded",
     refuse_to_quantise, "refuted"),
    (Entry("a weight", "", "", retied="helium"), "every_weight_matters", as_is, "known"),
    (Entry("one weight more", "", "", retied="helium"), "every_weight_matters",
     add_an_idle_weight, "refuted"),
]  # fmt: skip


def excuse_everything(monkeypatch):
    monkeypatch.setattr(Expected, "explains", lambda self, finding: True)


@pytest.mark.claim(id="0.75", falsifier=excuse_everything)
def test_a_known_fault_excuses_no_larger_and_no_other_breakage(exhibit):
    """Tiny models that are known to break a law: as they are, and with a further fault."""
    rows, wrong = [], []
    for entry, law, plant, wanted in BREAKAGES:
        subject = Subject(entry)
        with pytest.MonkeyPatch.context() as patch:
            plant(patch, subject.case.model)
            found = verdict(subject, law)
        known = subject.known_fault(law)
        rows.append([subject.architecture, law, str(known.laws[law]), entry.name, found])
        wrong += [] if found == wanted else [f"{entry.name}: {found}"]
    exhibit.table(
        rows, columns=["architecture", "law", "known", "what it shows", "verdict"],
        title="what an entry excuses",
    )  # fmt: skip
    names = {*shipped(), MLX_LM}, {law.__name__ for law in (*LAWS, *OBJECT_LAWS)} | {"build"}
    strays = {n for f in known_faults() for n in set(f.architectures) - names[0]}
    strays |= {law for f in known_faults() for law in set(f.laws) - names[1]}

    says = exhibit.measured("wrong verdicts", wrong, should_be=[])

    assert not strays, f"names in known_faults.toml that are none = {strays}, but should be none"
    assert not wrong, says


def excuse_on_every_device(monkeypatch):
    first = lambda self, law: next(iter(faults_of(self.architecture, law)), None)  # noqa: E731
    monkeypatch.setattr(Subject, "known_fault", first)


@pytest.mark.claim(id="0.131", falsifier=excuse_on_every_device)
def test_a_fault_of_one_kind_of_device_is_known_there_only(exhibit):
    """dbrx's experts cannot be packed on CUDA; elsewhere nothing excuses them."""
    subject, there = Subject(Entry("dbrx", "", "", architecture="dbrx")), []
    for kind in device.KINDS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(device, "kind", lambda kind=kind: kind)
            there += [kind] if subject.known_fault("quantised_is_the_same_rounded") else []
    exhibit.table([[kind, kind in there] for kind in device.KINDS], ["device", "known"], "dbrx")

    says = exhibit.measured("devices on which the fault is known", there, should_be=["cuda"])

    assert there == ["cuda"], says


TIED = {"tie_word_embeddings": True}
NO_WINDOW = {"sliding_window": None, "layer_types": None}
# Module and settings of a tiny directory, a law, and what becomes of it.
DIRECTORIES = [
    ("phi3", TIED, "a_spare_head_is_dropped", "known"),
    ("olmo3", TIED, "a_spare_head_is_dropped", "known"),
    ("mamba2", TIED, "a_spare_head_is_dropped", "known"),
    ("qwen3_5", TIED, "a_spare_head_is_dropped", "known"),
    ("seed_oss", TIED, "quantised_is_the_same_rounded", "known"),
    ("seed_oss", {}, "quantised_is_the_same_rounded", "verified"),
    ("mamba", {"model_type": "falcon_mamba"}, "batch_rows_are_alone", "known"),
    ("llama", {"model_type": "mistral"}, "speculation_is_greedy", "known"),
    ("llama", {"model_type": "mistral", **NO_WINDOW}, "speculation_is_greedy", "verified"),
]


def go_by_the_name(monkeypatch):
    monkeypatch.setattr(Subject, "architecture", property(lambda s: s.config["model_type"]))


@pytest.mark.claim(id="0.76", falsifier=go_by_the_name)
def test_a_known_fault_is_recognised_in_a_directory(exhibit, tmp_path):
    """Tiny model directories: the type that their config names, and what becomes of them as they
    are, and broken otherwise."""
    rows, wrong = [], []
    for place, (module, settings, law, wanted) in enumerate(DIRECTORIES):
        path = write_architecture(tmp_path / str(place), module, **settings)
        subject = Subject(Entry(path.name, "", "", directory=str(path))).replacing(path=path)
        found = [verdict(subject, law)]
        with pytest.MonkeyPatch.context() as patch:
            refuse(patch, subject.case.model)
            again = subject.case.on(subject.case.token_ids)  # keeps nothing of the healthy one
            found.append(verdict(subject.replacing(case=again), law))
        called = subject.config["model_type"]
        rows.append([called, str(settings), law, str(subject.known_fault(law)), *found])
        if found != [wanted, "refuted"]:
            wrong.append(f"{called}: {' and '.join(found)}")
    exhibit.table(
        rows, columns=["model_type", "settings", "law", "known", "as it is", "broken otherwise"],
        title="known faults of directories",
    )  # fmt: skip

    says = exhibit.measured("directories judged otherwise", wrong, should_be=[])

    assert not wrong, says


def cut_the_sentence(monkeypatch):
    whole = storage.within_rounding
    monkeypatch.setattr(
        storage, "within_rounding", lambda what, *rest: whole(what.split(";")[0], *rest)
    )


@pytest.mark.claim(id="0.78", falsifier=cut_the_sentence)
def test_a_law_says_which_half_of_it_is_left_out(exhibit):
    """Claim 9.43 dequantises small models only: its message for a larger one says so."""
    subject = Subject(Entry("tiny", "", "", architecture="qwen3"))
    rows = []
    for room in (storage.ROOM, 2**18):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(storage, "ROOM", room)
            found = storage.quantised_is_the_same_rounded(subject.case)
        rows.append([room / 2**20, "not dequantised" in found.what, found.says])
    exhibit.table(
        rows, columns=["room (MiB)", "says that half is left out", "finding"], title="claim 9.43"
    )
    told = [row[1] for row in rows]

    says = exhibit.measured("the message says so, with and without room", told, [False, True])

    assert told == [False, True], says


def take_it_for_unpacked(monkeypatch):
    for module in (subjects, case):
        monkeypatch.setattr(module, "is_float32", lambda model: True)


@pytest.mark.claim(id="0.79", falsifier=take_it_for_unpacked)
def test_a_model_that_cannot_be_unpacked_is_judged_as_it_is_stored(exhibit, tmp_path):
    """A tiny directory whose layers mlx-lm cannot dequantise, and laws that rebuild its model."""
    if device.kind() == "cuda":
        pytest.skip("CUDA has no kernel for this model's packed weights (known_faults.toml)")
    path = write_architecture(tmp_path / "prism", "prism_hadamard_qwen35")
    subject = Subject(Entry("prism", "", "", directory=str(path))).replacing(path=path)
    found = {law: verdict(subject, law) for law in ("reloaded_is_the_same", "rope_base_is_read")}
    exhibit.table(list(map(list, found.items())), ["law", "verdict"], title="a Hadamard pack")
    stored = sum("scales" in module for _, module in subject.case.model.named_modules())

    says = exhibit.measured("verdicts", set(found.values()), should_be={"verified"})

    assert set(found.values()) == {"verified"}, says
    assert stored == 2, f"modules that stay packed = {stored}, but should be 2"


def weights(name):
    """The tiny llama with one weight that is NaN, or with weights so large that logits are."""
    model, config = build_tiny("tiny-llama")
    if name == "a weight is NaN":
        model.layers[1].mlp.up_proj.weight[3, 5] = float("nan")
    else:
        model.lm_head.weight *= 1e38
    return model, config


HAND_OUT_WHATEVER_IT_HOLDS = """
def pytest_collection_finish(session):
    from fixtures.models.subjects import Subject
    Subject.not_finite = ""
"""


def hand_out_whatever_it_holds(monkeypatch, tmp_path):
    plant_in_a_run(monkeypatch, tmp_path, HAND_OUT_WHATEVER_IT_HOLDS)


@pytest.mark.slow
@pytest.mark.claim(id="0.77", falsifier=hand_out_whatever_it_holds)
def test_a_weight_that_is_no_number_is_told_once(exhibit, tmp_path):
    """Some specs of experiments 4, 5 and 9 on two models: one holds a NaN, and one computes it
    from weights that are all finite."""
    names = ["a weight is NaN", "logits are NaN"]
    paths = [write_model(tmp_path / name, *weights(name)) for name in names]
    run = start_pytest(
        "specs/test_4_weights.py", "specs/test_5_attention.py", "specs/test_9_laws.py",
        "-k", "test_4 or test_5 or 9.11 or 9.12 or 9.13 or 9.17",
        *(f"--model={path}" for path in paths), "--report", tmp_path / "results.json",
    )  # fmt: skip
    said = "".join(run.communicate())
    exhibit.text(said[-2000:], title="what a run says of the two models")
    rows = json.loads((tmp_path / "results.json").read_text())["claims"]
    red = {
        path.name: sorted(
            row["id"] for row in rows if row["subject"] == str(path) and row["verdict"] == "refuted"
        )
        for path in paths
    }
    unjudged = [row["reason"] or "" for row in rows if row["subject"] == str(paths[0])]
    told = [why for why in unjudged if "up_proj.weight holds 1 of" in why and "9.17" in why]

    says = exhibit.measured("red where one weight is NaN", red[names[0]], should_be=["9.17"])

    assert "9.11" in red[names[1]], f"red where logits are = {red[names[1]]}, but should hold 9.11"
    assert red[names[0]] == ["9.17"], says
    assert len(told) > 5, f"claims that say why they are not judged = {told}, but should be many"
