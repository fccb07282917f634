"""Experiment 5, by an independent oracle: the same weights in transformers' eager Llama.

Needs the extra `parity` (PyTorch on the CPU); without it these claims are not run.
"""

import numpy as np
import pytest

from fixtures.doubles.transformers_llama import transformers_llama
from fixtures.texts.passages import passages
from fixtures.texts.prompts import PREDICTIONS
from llm_spec.model import tokens
from llm_spec.numerics import distances
from llm_spec.observe.trace import trace

TEXTS = (*PREDICTIONS, passages("prose")["prose"])  # four short prompts and one of a page


def oracle(subject):
    """What transformers' Llama makes of token ids, with the subject's float32 weights."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra: parity)")
    model = transformers_llama(subject)

    def run(ids):
        with torch.no_grad():
            return model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True)

    return run


def slow_the_rotation_down(embedded, monkeypatch):
    for layer in embedded.model.layers:
        monkeypatch.setattr(layer.self_attn.rope, "base", layer.self_attn.rope.base / 2)


@pytest.mark.claim(id="5.20", falsifier=slow_the_rotation_down)
def test_transformers_computes_the_same_states_maps_and_logits(embedded, exhibit):
    """Two libraries that share no code, on five texts; states relative to each token's norm."""
    run = oracle(embedded)
    rows = []
    for text in TEXTS:
        ids = tokens.encode(embedded.tokenizer, text)
        ours, theirs = trace(embedded.model, ids), run(ids)
        # transformers normalises the last state before it hands it out; the others pair up.
        states = zip(ours.hidden_states[:-1], theirs.hidden_states[1:-1], strict=True)
        maps = zip(ours.attention, theirs.attentions, strict=True)
        logits = theirs.logits[0].numpy()
        rows.append([
            len(ids),
            distances.worst(distances.distance(a, b[0].numpy()) for a, b in states),
            distances.worst(float(np.abs(a - b[0].numpy()).max()) for a, b in maps),
            float(np.abs(ours.logits - logits).max()),
            float((ours.logits.argmax(-1) == logits.argmax(-1)).mean()),
        ])  # fmt: skip
    names = ["tokens", "states (relative)", "attention", "logits", "top-1 agreement"]
    exhibit.table(rows, columns=names, title="largest differences, MLX against transformers")
    longest = max(row[0] for row in rows)
    states, maps, logits = (distances.worst(row[i] for row in rows) for i in (1, 2, 3))
    top1 = min(row[4] for row in rows)

    assert longest >= 150, f"longest text = {longest} tokens, but should be at least 150"
    says = exhibit.measured(
        "differences of states, attention, logits; top-1 agreement",
        f"{states:.1e}, {maps:.1e}, {logits:.1e}; {top1:.0%}",
        should_be="at most 5e-5, 5e-5, 5e-4; 100 %",
    )
    assert states <= 5e-5, says
    assert maps <= 5e-5, says
    assert logits <= 5e-4, says
    assert top1 == 1, says
