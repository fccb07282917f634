"""Experiment 7: how long a reply takes: the plan's arithmetic, and a reply timed from outside."""

import time

import pytest

from fixtures.texts import prompts
from llm_spec.model.release import has_chat_template
from llm_spec.quality import answering, assistant


def count_half_the_tokens(monkeypatch):
    monkeypatch.setattr(
        assistant, "reply_seconds", lambda first, tokens, speed: first + (tokens / 2 - 1) / speed
    )


@pytest.mark.claim(id="7.24", falsifier=count_half_the_tokens)
def test_a_reply_at_the_plans_speeds_takes_three_to_seven_seconds(exhibit):
    """150 tokens (7) to 200 (7a) at 30 to 50 per second, without the time to first token."""
    times = {
        f"{tokens} tokens at {speed}/s": assistant.reply_seconds(1 / speed, tokens, speed)
        for tokens in (150, 200)
        for speed in (30, 50)
    }
    exhibit.bars(times, title="time of the plan's replies", axis="s")
    least, most = min(times.values()), max(times.values())

    says = exhibit.measured(
        "shortest and longest reply", f"{least:.1f} and {most:.1f} s", should_be="3.0 and 6.7 s"
    )

    assert (round(least, 1), round(most, 1)) == (3.0, 6.7), says


def forget_the_first_token(monkeypatch):
    monkeypatch.setattr(
        assistant, "reply_seconds", lambda first, tokens, speed: (tokens - 1) / speed / 2
    )


@pytest.mark.claim(id="7.25", falsifier=forget_the_first_token)
def test_first_token_and_speed_account_for_the_whole_reply(trained, exhibit):
    """A reply of a few tokens to the plan's e-mail, timed from outside."""
    if not has_chat_template(trained.tokenizer):
        pytest.skip("this model has no chat template")
    answering.responder(trained.model, trained.tokenizer, max_tokens=2)("Hello", [0])  # warms up
    respond = answering.responder(trained.model, trained.tokenizer, max_tokens=12)
    start = time.perf_counter()
    (answer,) = respond(prompts.ASSISTANT_PROMPTS["reply"], [0])
    elapsed = time.perf_counter() - start
    exhibit.table(
        [[answer.first_token_s, answer.tokens_per_s, (answer.peak_bytes or 0) / 1e9, answer.text]],
        columns=["first token (s)", "tok/s", "peak memory (GB)", "first words"],
        title=f"the first {answer.tokens} tokens of a reply",
    )
    accounted = assistant.reply_seconds(answer.first_token_s, answer.tokens, answer.tokens_per_s)

    says = exhibit.measured(
        "share of the wall-clock time accounted for", accounted / elapsed, should_be="0.9 to 1"
    )

    assert 0.9 <= accounted / elapsed <= 1, says
