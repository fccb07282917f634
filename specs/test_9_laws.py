"""Experiment 9: the laws that every model, every tokenizer and mlx-lm itself must keep.

A law is a function of `llm_spec.laws`; its docstring says what it holds, and `claims.toml` which
claim it decides. Whether it applies is read off the model. `pytest specs/ --architectures` holds a
tiny model of every architecture to them all; what is known to be broken upstream stands in
`fixtures/models/known_faults.toml` with its evidence.
"""

from pathlib import Path

import pytest
from mlx_lm import tokenizer_utils
from mlx_lm.models import cache

from fixtures import planted
from fixtures.models.known_faults import faults_of
from fixtures.models.law_verdict import (
    hold_to_finding,
    hold_to_law,
    record_finding,
    text_finding,
)
from fixtures.plugins.collection import ledger_of
from llm_spec import laws
from llm_spec.model.accounting import total_parameters

LEDGER = ledger_of(Path(__file__).parent)
CLAIMS = {claim.law: claim.id for claim in LEDGER.values() if claim.law}
# A head that is tied shares an array: these laws see what can go wrong with that.
OF_THE_HEAD = (
    "finite_logits",
    "reloaded_is_the_same",
    "quantised_is_the_same_rounded",
    "every_weight_matters",
    "a_spare_head_is_dropped",
    "the_configuration_declares_the_weights",
)
# mlx-lm's loops, which are the same around every architecture.
OF_THE_LOOPS = (
    "rows_keep_their_samplers",
    "text_ends_at_its_end",
    "processors_see_everything",
    "a_batch_stops_at_its_stop_tokens",
    "answers_keep_their_order",
)
# What transformers 5 would write says something about a port, and nothing about a directory.
OF_A_PORT = ("rope_parameters_are_read",)


def called(names):
    return [law for law in laws.LAWS if law.__name__ in names]


def of_any_model():
    others = OF_THE_HEAD + OF_THE_LOOPS + OF_A_PORT
    return [law for law in laws.LAWS if law.__name__ not in others]


def claimed(some_laws, falsifier):
    """Each law with the claim that it decides, for a spec to be held to one by one."""
    cases = []
    for law in some_laws:
        id_ = CLAIMS.get(law.__name__)
        assert id_, f"claims.toml has no claim that the law {law.__name__!r} decides"
        claim = pytest.mark.claim(id=id_, falsifier=falsifier(law))
        cases.append(pytest.param(law, id=f"{id_} {law.__name__}", marks=[claim]))
    return cases


def with_fault(law, monkeypatch):
    """What the law must find wrong once its first fault is planted: a subject and its config."""
    fault = planted.for_law(law.__name__)
    return fault.into(monkeypatch, *planted.build(fault))


def planted_under(role):
    """Falsifiers for specs whose subject plays `role`."""

    def falsifier(law):
        def plant(monkeypatch, request):
            model, config = with_fault(law, monkeypatch)
            case = laws.Case(model, planted.PROMPT, config)
            return {role: request.getfixturevalue(role).replacing(case=case)}

        return plant

    return falsifier


def planted_in_mlx_lm(law):
    """Where the law is known to be broken, another breakage must be told from the known one."""

    def plant(monkeypatch):
        with_fault(law, monkeypatch)

    return break_otherwise if faults_of(planted.MLX_LM, law.__name__) else plant


def break_otherwise(monkeypatch):
    def refusing(*_, **__):
        raise OSError("no room")

    monkeypatch.setattr(cache.BatchRotatingKVCache, "__init__", refusing)
    monkeypatch.setattr(tokenizer_utils.NaiveStreamingDetokenizer, "add_token", refusing)


def planted_in_a_tokenizer(law):
    def plant(monkeypatch, directory):
        return {"directory": directory.replacing(tokenizer=with_fault(law, monkeypatch)[0])}

    return plant


def build_nothing(any_head):
    return {"any_head": any_head.replacing(model=None)}


@pytest.mark.claim(id="9.10", falsifier=build_nothing)
def test_the_model_is_built_from_its_configuration(any_head, exhibit):
    """Built, given weights and sanitized as a load would: then it has parameters."""
    what, cause = {"what": "parameters", "should_be": "above 0", "law": "build"}, "measured"
    try:
        parameters = total_parameters(any_head.model)
    except Exception as error:
        parameters, cause = f"{type(error).__name__}: {error}", "raised"
    built = cause == "measured" and parameters > 0

    finding = laws.Finding(**what, measured=parameters, holds=built, cause=cause)

    hold_to_finding(finding, any_head.known_fault("build"), exhibit, name=any_head.name)


@pytest.mark.parametrize("law", claimed(of_any_model(), planted_under("any_model")))
def test_a_model_keeps_the_law(any_model, law, exhibit):
    hold_to_law(any_model, law, exhibit)


@pytest.mark.parametrize("law", claimed(called(OF_THE_HEAD), planted_under("any_head")))
def test_a_model_keeps_the_law_with_its_head_tied_and_untied(any_head, law, exhibit):
    hold_to_law(any_head, law, exhibit)


@pytest.mark.parametrize("law", claimed(called(OF_THE_LOOPS), planted_under("served_model")))
def test_mlx_lm_serves_a_model_by_the_law(served_model, law, exhibit):
    hold_to_law(served_model, law, exhibit)


@pytest.mark.parametrize("law", claimed(called(OF_A_PORT), planted_under("architecture")))
def test_a_port_keeps_the_law(architecture, law, exhibit):
    hold_to_law(architecture, law, exhibit)


@pytest.mark.parametrize("law", claimed(laws.OBJECT_LAWS, planted_in_mlx_lm))
def test_mlx_lm_keeps_the_law(law, exhibit):
    known = next(iter(faults_of(planted.MLX_LM, law.__name__)), None)

    hold_to_finding(law(), known, exhibit, name=planted.MLX_LM)


@pytest.mark.parametrize("law", claimed(laws.TEXT_LAWS, planted_in_a_tokenizer))
def test_a_tokenizer_keeps_the_law(directory, law, exhibit):
    finding = text_finding(directory, law)
    says = record_finding(finding, exhibit)

    assert finding.holds, says
