"""Experiment 1: a smaller model, or a smaller file, beside the larger one."""

import time

import mlx_lm
import numpy as np
import pytest

from fixtures.texts import prompts
from fixtures.texts.passages import passages
from llm_spec.model import quantisation, tokens
from llm_spec.quality import ladder, likelihood


def round_nothing(monkeypatch):
    monkeypatch.setattr(quantisation, "round_trip", lambda weight, scheme: weight)


@pytest.mark.claim(id="1.8", falsifier=round_nothing)
def test_a_smaller_file_of_the_same_model_predicts_worse(trained, exhibit):
    """Bits per byte of a fixed passage: what the model needs to write it; lower is better."""
    opening = passages("prose")["prose"][:400]
    model = trained.unpacked  # what is packed cannot be rounded anew
    costs = {"as stored": likelihood.bits_per_byte(model, trained.tokenizer, opening)}
    smaller = quantisation.Scheme("3 bits", bits=3, group_size=64)
    with ladder.stored_as(model, smaller, quantisation.round_trip):
        costs["3 bits"] = likelihood.bits_per_byte(model, trained.tokenizer, opening)
    exhibit.bars(costs, title="cost of the same text", axis="bits per byte")

    says = exhibit.measured(
        "bits per byte at 3 bits per weight", costs["3 bits"], f"above {costs['as stored']:.4g}"
    )

    assert costs["3 bits"] > costs["as stored"], says


N_TOKENS = 12  # as little as shows what each has to say
TURNS = 2  # so that what else the machine does slows both models


def change_places(side_by_side):
    names, both = list(side_by_side), list(side_by_side.values())
    return {"side_by_side": dict(zip(names, reversed(both), strict=True))}


@pytest.mark.claim(id="1.40", falsifier=change_places)
def test_gemma_3_of_270m_predicts_better_than_smollm2_of_135m_and_generates_more_slowly(
    side_by_side, exhibit
):
    """Two families and two tokenizers: bits per byte compare them fairly, bits per token would not.
    Speed is each model's fastest step, in one run."""
    texts = [text[:400] for text in passages("prose", "exposition").values()]
    costs, speeds, answers = {}, {}, {}
    for name, subject in side_by_side.items():
        each = [likelihood.bits_per_byte(subject.model, subject.tokenizer, t) for t in texts]
        costs[name] = sum(each) / len(each)
    for name, subject in [*side_by_side.items()] * TURNS:
        answers[name], speed = answer(subject)
        speeds[name] = max(speed, speeds.get(name, 0))
    exhibit.bars(costs, title="cost of the same texts", axis="bits per byte")
    exhibit.table(
        [["bits per byte", *costs.values()], ["tokens per second", *speeds.values()],
         ["answer", *answers.values()]],
        columns=["", *side_by_side], title=prompts.COMPARISON_PROMPT,
    )  # fmt: skip
    smaller, larger = side_by_side

    says = exhibit.measured(
        f"{larger}'s bits per byte", costs[larger], should_be=f"below {costs[smaller]:.4g}"
    )
    assert costs[larger] < costs[smaller], says
    says = exhibit.measured(
        f"{larger}'s tokens per second", speeds[larger], should_be=f"below {speeds[smaller]:.4g}"
    )
    assert speeds[larger] < speeds[smaller], says


def answer(subject):
    """What a model answers to the plan's prompt, and the tokens per second of its fastest step."""
    ids = tokens.prompt(subject.tokenizer, prompts.COMPARISON_PROMPT)
    said, times = [], []
    for response in mlx_lm.stream_generate(
        subject.model, subject.tokenizer, ids, max_tokens=N_TOKENS
    ):
        said.append(response.text)
        times.append(time.perf_counter())
    return "".join(said), 1 / min(np.diff(times[2:]))


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
