"""The instrument behind every plan: what a run would allocate, without running the model."""

import mlx.core as mx
import pytest
from mlx_lm.models.cache import make_prompt_cache

from fixtures.synthetic.architectures import build_architecture
from llm_spec.model import dry_run, growth

# Caches that grow, turn, are trimmed, come in pairs, are shared, hold states, keep n-grams.
KINDS = ("llama", "gemma3_text", "llama4", "deepseek_v32", "gemma3n", "qwen3_next", "jamba",
         "longcat_flash_ngram")  # fmt: skip
PROMPT, PIECE = 150, 64


def feed_a_token_too_many(monkeypatch):
    honest = growth._feed
    monkeypatch.setattr(growth, "_feed", lambda cache, given, n: honest(cache, given, n + 1))


@pytest.mark.claim(id="0.92", falsifier=feed_a_token_too_many)
def test_a_dry_run_allocates_what_a_run_over_every_token_allocates(exhibit):
    """Bytes of the caches after each chunk of a prompt of 150 tokens, in eight kinds of model."""
    rows = []
    for kind in KINDS:
        model, _ = build_architecture(kind)
        dry = [(s.seen, s.allocated) for s in dry_run.dry_run(model, PROMPT, 1, PIECE).steps]
        rows.append((kind, str(dry), str(after_every_piece(model, [64, 64, 21, 1, 1]))))
    exhibit.table(rows, columns=["model", "dry run", "run"], title="tokens seen, bytes of caches")
    wrong = [kind for kind, dry, real in rows if dry != real]

    says = exhibit.measured("models with other cache bytes", wrong, should_be=[])

    assert not wrong, says


def after_every_piece(model, pieces):
    """Tokens seen and bytes of the caches as the model itself fills them."""
    caches, seen, found = make_prompt_cache(model), 0, []
    for tokens in pieces:
        model(mx.zeros((1, tokens), mx.int32), cache=caches)
        seen += tokens
        found.append((seen, sum(cache.nbytes for cache in caches)))
    return found


HYBRIDS = ("qwen3_next", "jamba", "nemotron_h", "falcon_h1")
LONG = 262_144


def run_over_every_token(monkeypatch):
    def feed_the_model(model, fed, repeats):
        caches, sizes = make_prompt_cache(model), []
        for tokens in fed[:1]:
            model(mx.zeros((1, tokens), mx.int32), cache=caches)
            sizes += [growth.held(caches)] * len(fed)
        return caches, sizes

    monkeypatch.setattr(dry_run, "grown", feed_the_model)


@pytest.mark.claim(id="0.93", falsifier=run_over_every_token)
def test_a_dry_run_of_any_length_runs_the_model_over_a_few_tokens(exhibit, monkeypatch):
    """A recurrence loops over tokens: 262,144 tokens would take minutes and gigabytes."""
    rows = []
    for kind in HYBRIDS:
        model, _ = build_architecture(kind)
        fed = count_tokens(model, monkeypatch)
        steps = dry_run.dry_run(model, LONG).steps
        rows.append((kind, steps[-1].seen, sum(fed)))
    exhibit.table(rows, columns=["model", "tokens", "tokens that it ran over"], title="dry runs")
    most = max(ran for _, _, ran in rows)

    assert {seen for _, seen, _ in rows} == {LONG}, (
        f"tokens seen = {rows}, but should be {LONG:,} each"
    )
    says = exhibit.measured("most tokens that a model ran over", most, should_be="at most 16")
    assert 1 <= most <= 16, says


def count_tokens(model, monkeypatch):
    """A list that gets the tokens of each pass of `model`."""
    fed, original = [], type(model).__call__

    def counted(self, inputs, *args, **kwargs):
        fed.append(inputs.shape[1] if self is model else 0)
        return original(self, inputs, *args, **kwargs)

    monkeypatch.setattr(type(model), "__call__", counted)
    return fed
