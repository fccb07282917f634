"""Experiment 1: what generation really is: greedy, streamed and stopped."""

import importlib
import itertools
import sys

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm import tokenizer_utils
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper

from fixtures.doubles.sentencepiece import in_sentencepiece
from fixtures.doubles.tampered import TamperedModel
from fixtures.texts import prompts, strings
from llm_spec.laws.tokenizer.text import streamed
from llm_spec.ledger.evidence import Exhibits
from llm_spec.model import tokens

# The package exports a function of the same name, which hides the module from `import … as`.
cli = importlib.import_module("mlx_lm.generate")

N_TOKENS = 8  # long enough to leave the prompt behind, short enough for a slow CPU


def generate(subject, prompt, tokenizer, n_tokens=N_TOKENS):
    """Greedy generation: one of mlx_lm's responses per token."""
    return list(mlx_lm.stream_generate(subject.model, tokenizer, prompt, max_tokens=n_tokens))


def ending_with(tokenizer, *eos):
    """`tokenizer` whose texts end with the ids `eos` alone. Without one they go on, where a model
    would answer in one token."""
    same = TokenizerWrapper(tokenizer._tokenizer, lambda _: tokenizer.detokenizer)
    same._eos_token_ids = set(eos)
    return same


def prefer_another_token_each_time(trained):
    calls = itertools.count()

    def drift(logits):
        return logits.at[..., 1000 + next(calls)].add(100.0)

    return {"trained": trained.replacing(model=TamperedModel(trained.model, drift))}


@pytest.mark.claim(id="1.1", falsifier=prefer_another_token_each_time)
def test_greedy_generation_is_deterministic(trained, exhibit):
    """Tokens and log-probabilities of two runs; one token over and over would prove nothing."""
    endless = ending_with(trained.tokenizer)
    first, second = (generate(trained, prompts.FIRST_PROMPT, endless) for _ in range(2))
    show_generation(exhibit, trained, prompts.FIRST_PROMPT, first)
    ids = [[response.token for response in run] for run in (first, second)]
    same = sum(a == b for a, b in zip(*ids, strict=True))

    if len(set(ids[0])) < 3:
        pytest.skip(f"{trained.name} goes on with {ids[0]}, too few tokens to show anything")
    says = exhibit.measured("tokens equal in both runs", same, should_be=len(first))
    assert same == len(first), says

    logprobs = [np.array(mx.stack([r.logprobs for r in run])) for run in (first, second)]
    says = exhibit.measured("log-probabilities bit-identical", np.array_equal(*logprobs), True)
    assert np.array_equal(*logprobs), says


def show_generation(exhibit, subject, prompt, responses, n_runners_up=4):
    def named(id_, logprobs):
        return {"token": subject.tokenizer.decode([id_]), "probability": np.exp(logprobs[id_])}

    steps = []
    for response in responses:
        logprobs = np.array(response.logprobs)  # (vocabulary,)
        others = [i for i in np.argsort(-logprobs).tolist() if i != response.token]
        runners_up = [named(id_, logprobs) for id_ in others[:n_runners_up]]
        steps.append({**named(response.token, logprobs), "runners_up": runners_up, "ms": None})
    exhibit.add("generation", "greedy generation", prompt=prompt, steps=steps)


def take_the_second_best(monkeypatch):
    def second_best(logprobs):
        return mx.argsort(logprobs, axis=-1)[..., -2]

    monkeypatch.setattr(cli, "greedy_sampler", second_best)


@pytest.mark.claim(id="1.2", falsifier=take_the_second_best)
def test_each_token_is_the_argmax_of_the_logits_before_it(trained, exhibit):
    """One forward pass over the whole text, without a cache, predicts each generated token."""
    prompt = tokens.prompt(trained.tokenizer, prompts.PREDICTION_PROMPT)
    run = generate(trained, prompt, ending_with(trained.tokenizer))
    generated = [response.token for response in run]
    logits = trained.model(mx.array([prompt + generated]))[0]  # (tokens, vocabulary)
    expected = mx.argmax(logits[len(prompt) - 1 : -1], axis=-1).tolist()
    exhibit.table(
        [[trained.tokenizer.decode([a]), trained.tokenizer.decode([b])]
         for a, b in zip(generated, expected, strict=True)],
        columns=["generated", "argmax of one forward pass"],
        title=f"{prompts.PREDICTION_PROMPT} …",
    )  # fmt: skip

    agree = sum(a == b for a, b in zip(generated, expected, strict=True))
    says = exhibit.measured("tokens that are the argmax", agree, should_be=N_TOKENS)

    assert agree == N_TOKENS, says


def stutter(monkeypatch):
    add_token = BPEStreamingDetokenizer.add_token

    def twice_every_tenth(self, token):
        add_token(self, token)
        if len(self.tokens) % 10 == 0:
            add_token(self, token)

    monkeypatch.setattr(BPEStreamingDetokenizer, "add_token", twice_every_tenth)


@pytest.mark.claim(id="1.3", falsifier=stutter)
def test_streamed_text_is_the_batch_decode_but_for_a_first_space(vocabulary, exhibit):
    """mlx-lm's byte-level detokenizer drops a leading space; nothing else differs."""
    tokenizer = vocabulary.tokenizer
    different = changed_by_streaming(tokenizer)
    first = tokens.encode(tokenizer, " Paris")
    exhibit.table(
        [["batch", repr(tokenizer.decode(first))], ["streamed", repr(streamed(tokenizer, first))]],
        columns=["decoded", "␣Paris"],
        title="a text that begins with a space",
    )

    says = exhibit.measured("texts whose streamed form differs", different, should_be=[])

    assert not different, says


def changed_by_streaming(tokenizer):
    """The names of the texts that its streaming detokenizer changes."""
    ids = {name: tokens.encode(tokenizer, text) for name, text in strings.ROUND_TRIP.items()}
    return [name for name, each in ids.items() if streamed(tokenizer, each) != due(tokenizer, each)]


def due(tokenizer, ids):
    """The text that streaming `ids` should give: decoded at once, but for what byte-level BPE
    drops."""
    drops = isinstance(tokenizer.detokenizer, BPEStreamingDetokenizer)
    text = tokenizer.decode(ids)
    return text.removeprefix(" ") if drops else text


def never_stop(monkeypatch):
    monkeypatch.setattr(TokenizerWrapper, "eos_token_ids", property(lambda self: set()))


@pytest.mark.claim(id="1.4", falsifier=never_stop)
def test_generation_stops_at_the_first_eos(trained, exhibit):
    """A token that the model will generate is declared an EOS; the text must end just before it."""
    free, outcome, expected = stopped(trained)
    exhibit.table(
        [["without an EOS", trained.tokenizer.decode(free)], ["with the EOS", outcome[1]]],
        columns=["generation", "text"],
        title=f"EOS = {free[N_TOKENS // 2]}",
    )

    says = exhibit.measured("finish reason and text", outcome, should_be=expected)

    assert outcome == expected, says


def stopped(subject):
    """Ids generated without an EOS; finish reason and text with one as EOS; what both should be."""
    tokenizer = subject.tokenizer
    run = generate(subject, prompts.FIRST_PROMPT, ending_with(tokenizer))
    free = [response.token for response in run]
    eos = free[N_TOKENS // 2]
    run = generate(subject, prompts.FIRST_PROMPT, ending_with(tokenizer, eos))
    outcome = run[-1].finish_reason, "".join(response.text for response in run)
    return free, outcome, ("stop", due(tokenizer, free[: free.index(eos)]))


def stream_as_if_byte_level(monkeypatch):
    monkeypatch.setattr(
        tokenizer_utils,
        "SPMStreamingDetokenizer",
        lambda tokenizer, trim_space: BPEStreamingDetokenizer(tokenizer),
    )


@pytest.mark.claim(id="0.86", falsifier=stream_as_if_byte_level)
def test_a_sentencepiece_tokenizer_streams_and_stops_as_claimed(models, exhibit):
    """Its detokenizer keeps the space that begins a text, and turns ▁ into spaces."""
    subject = in_sentencepiece(models["tiny-llama"])
    different = changed_by_streaming(subject.tokenizer)
    _, outcome, expected = stopped(subject)
    exhibit.table(
        [["changed texts", different, []], ["finish reason and text", outcome, expected]],
        columns=["", "seen", "expected"], title="letters and bytes, in SentencePiece's spelling",
    )  # fmt: skip
    seen = different, outcome

    says = exhibit.measured("changed texts; finish reason and text", seen, should_be=([], expected))

    assert expected[1], "expected text = '', but should not be empty"
    assert seen == ([], expected), says


def stop_at_the_models_own_end(monkeypatch):
    def also_its_own(tokenizer, *eos):
        ends = {*tokenizer.eos_token_ids, *eos}
        return TokenizerWrapper(tokenizer._tokenizer, lambda _: tokenizer.detokenizer, ends)

    monkeypatch.setattr(sys.modules[__name__], "ending_with", also_its_own)


OF_GENERATION = (
    test_greedy_generation_is_deterministic,
    test_each_token_is_the_argmax_of_the_logits_before_it,
    test_generation_stops_at_the_first_eos,
)


@pytest.mark.claim(id="0.165", falsifier=stop_at_the_models_own_end)
def test_a_model_that_answers_in_one_token_is_held_to_the_same_claims(embedded, exhibit):
    """SmolLM2, for which the first token of an answer ends it, as a classifier answers."""
    (first,) = generate(embedded, prompts.FIRST_PROMPT, embedded.tokenizer, n_tokens=1)
    eos = first.token
    brief = embedded.replacing(tokenizer=ending_with(embedded.tokenizer, eos))
    answer = generate(brief, prompts.FIRST_PROMPT, brief.tokenizer)
    verdicts = {spec.__name__: verdict_of(spec, brief) for spec in OF_GENERATION}
    exhibit.table(list(verdicts.items()), columns=["spec", "verdict"], title="a brief model")

    seen = set(verdicts.values())

    says = exhibit.measured("verdicts on the brief model", seen, should_be={"verified"})

    assert len(answer) == 1, f"the answer has {len(answer)} tokens, but should have 1"
    assert seen == {"verified"}, says


def verdict_of(spec, subject):
    silent = Exhibits(lambda record: None, subject.name, pytest.skip)
    try:
        spec(subject, silent)
    except (pytest.skip.Exception, AssertionError, IndexError) as outcome:
        return f"{type(outcome).__name__}: {outcome}"
    return "verified"
