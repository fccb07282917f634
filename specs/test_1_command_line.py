"""Experiment 1: the command line, the speed that it reports, and answers without a network."""

import contextlib
import importlib
import io
import socket
import sys
import time
from types import SimpleNamespace

import mlx_lm
import pytest

from fixtures.models import subjects
from fixtures.texts import prompts
from llm_spec.model import release

# The package exports a function of the same name, which hides the module from `import … as`.
cli = importlib.import_module("mlx_lm.generate")

N_TOKENS = 8  # an answer's


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
    given = trained.model, trained.tokenizer
    bare, templated = (
        mlx_lm.generate(*given, prompt, max_tokens=N_TOKENS)
        for prompt in (prompts.CLI_PROMPT, chat)
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
    *_, last = mlx_lm.stream_generate(
        trained.model, trained.tokenizer, prompts.FIRST_PROMPT, max_tokens=N_TOKENS
    )
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
    answer = mlx_lm.generate(fresh.model, fresh.tokenizer, prompts.PREDICTION_PROMPT, max_tokens=1)
    exhibit.text(answer, title="answer of the fresh copy")

    says = exhibit.measured("network calls", len(attempts), should_be=0)

    assert not attempts, says
