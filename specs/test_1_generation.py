"""Experiment 1: what generation really is: greedy, streamed, stopped, timed, and at home."""

import contextlib
import importlib
import io
import itertools
import socket
import sys
import time
from types import SimpleNamespace

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest
from mlx_lm import tokenizer_utils
from mlx_lm.tokenizer_utils import BPEStreamingDetokenizer, TokenizerWrapper

from fixtures.doubles.sentencepiece import in_sentencepiece
from fixtures.doubles.tampered import TamperedModel
from fixtures.models import subjects
from fixtures.texts import prompts, strings
from llm_spec.laws.tokenizer.text import streamed
from llm_spec.model import release, tokens

# The package exports a function of the same name, which hides the module from `import … as`.
cli = importlib.import_module("mlx_lm.generate")

N_TOKENS = 8  # long enough to leave the prompt behind, short enough for a slow CPU


def generate(subject, prompt, max_tokens=N_TOKENS, tokenizer=None):
    """Greedy generation: one of mlx_lm's responses per token."""
    tokenizer = tokenizer or subject.tokenizer
    return list(mlx_lm.stream_generate(subject.model, tokenizer, prompt, max_tokens=max_tokens))


def prefer_another_token_each_time(trained):
    calls = itertools.count()

    def drift(logits):
        return logits.at[..., 1000 + next(calls)].add(100.0)

    return {"trained": trained.replacing(model=TamperedModel(trained.model, drift))}


@pytest.mark.claim(id="1.1", falsifier=prefer_another_token_each_time)
def test_greedy_generation_is_deterministic(trained, exhibit):
    """Tokens and log-probabilities of two runs; one token over and over would prove nothing."""
    first, second = (generate(trained, prompts.FIRST_PROMPT) for _ in range(2))
    show_generation(exhibit, trained, prompts.FIRST_PROMPT, first)
    ids = [[response.token for response in run] for run in (first, second)]
    same = sum(a == b for a, b in zip(*ids, strict=True))

    assert len(set(ids[0])) > 2, f"{ids[0]} repeats itself too much to show anything"
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
    generated = [response.token for response in generate(trained, prompt)]
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
    free = [response.token for response in generate(subject, prompts.FIRST_PROMPT)]
    eos = free[N_TOKENS // 2]
    tokenizer = subject.tokenizer
    ends = TokenizerWrapper(tokenizer._tokenizer, lambda _: tokenizer.detokenizer, [eos])
    run = generate(subject, prompts.FIRST_PROMPT, tokenizer=ends)
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


def ignore_the_template(monkeypatch):
    setup = cli.setup_arg_parser

    def ignoring():
        parser = setup()
        parser.set_defaults(ignore_chat_template=True)
        return parser

    monkeypatch.setattr(cli, "setup_arg_parser", ignoring)


@pytest.mark.claim(id="1.5", falsifier=ignore_the_template)
def test_the_command_line_speaks_through_the_chat_template(trained, exhibit, monkeypatch):
    """`mlx_lm.generate --prompt …` prints the answer to the templated prompt, not the bare one."""
    if not release.has_chat_template(trained.tokenizer):
        pytest.skip(f"{trained.name} has no chat template")
    message = [{"role": "user", "content": prompts.CLI_PROMPT}]
    chat = trained.tokenizer.apply_chat_template(message, add_generation_prompt=True)
    bare, templated = (
        "".join(r.text for r in generate(trained, prompt)) for prompt in (prompts.CLI_PROMPT, chat)
    )
    printed = run_the_command_line(trained, monkeypatch)
    exhibit.table(
        [["bare prompt", bare], ["through the template", templated], ["command line", printed]],
        columns=["", "text"], title=prompts.CLI_PROMPT,
    )  # fmt: skip

    assert bare != templated, "answers with and without the template are equal, but should differ"
    says = exhibit.measured("the command line prints", repr(printed), should_be=repr(templated))
    assert printed == templated, says


def run_the_command_line(subject, monkeypatch):
    arguments = ["mlx_lm.generate", "--model", str(subject.path), "--prompt", prompts.CLI_PROMPT]
    options = ["--max-tokens", str(N_TOKENS), "--verbose", "False"]
    monkeypatch.setattr(sys, "argv", arguments + options)

    # The command loads its own model; it is given the one that is loaded already.
    own = (subject.model, subject.tokenizer, {})
    monkeypatch.setattr(cli, "load", lambda *_, return_config=False, **__: own[: 2 + return_config])
    with contextlib.redirect_stdout(io.StringIO()) as output:
        cli.main()
    return output.getvalue().rstrip("\n")


def run_the_clock_double(monkeypatch):
    monkeypatch.setattr(cli, "time", SimpleNamespace(perf_counter=lambda: 2 * time.perf_counter()))


@pytest.mark.claim(id="1.6", falsifier=run_the_clock_double)
def test_reported_speed_agrees_with_the_wall_clock(trained, exhibit):
    """Tokens divided by the two reported rates are the seconds that mlx-lm counted."""
    start = time.perf_counter()
    last = generate(trained, prompts.FIRST_PROMPT)[-1]
    elapsed = time.perf_counter() - start
    reported = last.prompt_tokens / last.prompt_tps + last.generation_tokens / last.generation_tps
    exhibit.table(
        [["prompt", last.prompt_tokens, last.prompt_tps],
         ["generation", last.generation_tokens, last.generation_tps]],
        columns=["phase", "tokens", "tokens per second"],
        title="what mlx-lm reports",
    )  # fmt: skip
    share = reported / elapsed

    says = exhibit.measured("reported over elapsed time", share, should_be="0.9 to 1")

    assert 0.9 <= share <= 1, says


def call_home(monkeypatch):
    load_config = subjects.mlx_lm_utils.load_config

    def calling(path):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1)
        return load_config(path)

    monkeypatch.setattr(subjects.mlx_lm_utils, "load_config", calling)


@pytest.mark.claim(id="1.7", falsifier=call_home)
def test_a_cached_model_loads_and_answers_without_the_network(trained, exhibit, monkeypatch):
    """Attempts to open a connection fail and are counted while a fresh copy loads and answers."""
    attempts = []

    def refuse(*address, **_):
        attempts.append(address)
        raise OSError("the network is closed for this spec")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    fresh = trained.unloaded()
    answer = generate(fresh, prompts.PREDICTION_PROMPT, max_tokens=1)
    exhibit.text("".join(response.text for response in answer), title="answer of the fresh copy")

    says = exhibit.measured("network calls", len(attempts), should_be=0)

    assert not attempts, says
