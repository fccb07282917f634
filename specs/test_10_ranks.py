"""Experiment 10: one model on two ranks: mlx_lm.server still answers what the model says.

The ranks are processes on this machine, in a ring of MLX's. A fault is a server that is tampered
with.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from llm_spec.numerics.distances import distance, worst
from llm_spec.serving import Server

RANKS, TOKENS = 2, 8
TAMPERED = (sys.executable, "-m", "fixtures.doubles.tampered_server")
PROMPTS = ("the cat sat on the mat", "Rust", "one two three four five six seven", "a")
TURNS = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "name a colour"}]
CLOSE = 1e-4  # of logprobs, in float32: the ranks' halves are added in another order


def add_no_partial_sums(served):
    return {"served": replace(served, program=(*TAMPERED, "add_no_partial_sums"))}


@pytest.mark.slow
@pytest.mark.claim(id="10.47", falsifier=add_no_partial_sums)
def test_a_server_on_2_ranks_gives_the_librarys_answers(served, exhibit):
    """Prompts one by one, all at once, and again out of the prompt cache; a chat; a seeded draw,
    which is served singly; and an ordinary request after one that is refused."""
    config = json.loads((served.path / "config.json").read_text(encoding="utf-8"))
    heads = [config.get(name, RANKS) for name in ("num_attention_heads", "num_key_value_heads")]
    if not hasattr(served.model, "shard") or any(count % RANKS for count in heads):
        pytest.skip(f"mlx-lm cannot share this model among {RANKS} ranks: heads = {heads}")
    server = Server(served.path, served.program, ranks=RANKS)
    sharded, rows, apart = served.by(server), [], []
    try:
        for prompt in PROMPTS:
            answer = sharded.client.complete(prompt, max_tokens=TOKENS, logprobs=True)
            said = served.library(served.encode(prompt), TOKENS)
            right = [step[id_] for step, id_ in zip(said.logprobs, said.ids, strict=True)]
            apart.append(distance(np.array(answer.logprobs), np.array(right)))
            rows.append((prompt, answer.text, said.text))
        alone = [said for *_, said in rows]

        def ask(prompt):
            return sharded.client.complete(prompt, max_tokens=TOKENS).text

        with ThreadPoolExecutor(len(PROMPTS)) as clients:
            texts = list(clients.map(ask, PROMPTS))
        rows += [(f"at once: {p}", *pair) for p, *pair in zip(PROMPTS, texts, alone, strict=True)]
        chat = sharded.client.chat(TURNS, max_tokens=TOKENS).text
        rows.append(("a chat", chat, served.library(served.render(TURNS), TOKENS).text))
        draw = {"seed": 1, "temperature": 2.0}
        drawn = sharded.client.complete(PROMPTS[0], max_tokens=TOKENS, **draw).text
        said = served.library(served.encode(PROMPTS[0]), TOKENS, seed=1, temp=2.0).text
        rows.append(("a seeded draw", drawn, said))
        refused = sharded.client.post("/v1/completions", b"{").status
        rows.append(("after a refusal", ask(PROMPTS[-1]), alone[-1]))
    finally:
        server.close()
    assert refused == 400, f"status of a body that is not JSON = {refused}, but should be 400"
    served.hold(exhibit, rows, "answers of 2 ranks")
    assert worst(apart) <= CLOSE, (
        f"largest distance of logprobs = {worst(apart):.3g}, but should be at most {CLOSE:g}"
    )
