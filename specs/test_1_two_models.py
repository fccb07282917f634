"""Experiment 1: a smaller model, or a smaller file, beside the larger one."""

import mlx_lm
import pytest

from fixtures.texts import prompts
from fixtures.texts.passages import passages
from llm_spec.model import quantisation
from llm_spec.quality import ladder, likelihood


def round_nothing(monkeypatch):
    monkeypatch.setattr(quantisation, "round_trip", lambda weight, scheme: weight)


@pytest.mark.claim(id="1.8", falsifier=round_nothing)
def test_a_smaller_file_of_the_same_model_predicts_worse(trained, exhibit):
    """Bits per byte of a fixed passage: what the model needs to write it; lower is better."""
    opening = passages("prose")["prose"][:400]
    costs = {"as stored": likelihood.bits_per_byte(trained.model, trained.tokenizer, opening)}
    smaller = quantisation.Scheme("3 bits", bits=3, group_size=64)
    with ladder.stored_as(trained.model, smaller, quantisation.round_trip):
        costs["3 bits"] = likelihood.bits_per_byte(trained.model, trained.tokenizer, opening)
    exhibit.bars(costs, title="cost of the same text", axis="bits per byte")

    says = exhibit.measured(
        "bits per byte at 3 bits per weight", costs["3 bits"], f"above {costs['as stored']:.4g}"
    )

    assert costs["3 bits"] > costs["as stored"], says


def swap_the_models(models):
    return {"models": {"llama-3.2-3b": models["qwen3-8b"], "qwen3-8b": models["llama-3.2-3b"]}}


@pytest.mark.real
@pytest.mark.claim(id="1.9", falsifier=swap_the_models)
def test_the_8b_predicts_better_than_the_3b_and_answers_slower(models, exhibit):
    """Bits per byte compare two tokenizers fairly; tokens per second would not."""
    text = "\n".join(passages().values())
    measured = {}
    for name in ("llama-3.2-3b", "qwen3-8b"):
        subject = models[name]
        cost = likelihood.bits_per_byte(subject.model, subject.tokenizer, text)
        *_, last = mlx_lm.stream_generate(
            subject.model, subject.tokenizer, prompts.COMPARISON_PROMPT, max_tokens=100
        )
        measured[name] = (cost, last.generation_tps)
    exhibit.table(
        [[name, *figures] for name, figures in measured.items()],
        columns=["model", "bits per byte", "tokens per second"],
        title=prompts.COMPARISON_PROMPT,
    )
    (small_cost, small_speed), (big_cost, big_speed) = measured.values()

    says = exhibit.measured("8B's bits per byte", big_cost, should_be=f"below {small_cost:.4g}")
    assert big_cost < small_cost, says
    says = exhibit.measured("8B's tokens per second", big_speed, f"below {small_speed:.4g}")
    assert big_speed < small_speed, says
