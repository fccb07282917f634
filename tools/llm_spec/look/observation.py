"""What is looked at: one text's way through a model, in plain values.

The prompt goes through the model once. What that pass did is shown, and the tokens that follow are
generated from the cache that it filled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.cache import make_prompt_cache

from llm_spec.look.models import CannotLook, Opened
from llm_spec.model import tokens
from llm_spec.model.release import has_chat_template
from llm_spec.observe.inputs import context_length
from llm_spec.observe.trace import Trace, TraceError, check_read_out, read_out, trace

LONGEST = 128
"""Tokens of a text: every head's map is shown, and grows with their square."""
CHARACTERS = 20_000
"""Of a text, so that one of a hundred megabytes is refused before it is cut into tokens."""
NEIGHBOURS, LIKELIEST, RUNNERS_UP, OF_A_LAYER = 5, 10, 4, 3
BLOCK = 2**25
"""Numbers that are worked on at once: 128 MiB of float32."""


@dataclass(frozen=True)
class Candidate:
    """A token that could come next."""

    token: str
    id: int
    probability: float


@dataclass(frozen=True)
class Token:
    """One token of the text. `neighbours` are the tokens whose embeddings point nearest its own,
    each with its cosine."""

    text: str
    id: int
    norm: float
    neighbours: list[tuple[str, float]]


@dataclass(frozen=True)
class Step:
    """One generated token: the most likely one, and its runners-up."""

    chosen: Candidate
    runners_up: list[Candidate]


@dataclass(frozen=True)
class Look:
    """All that is shown of one text."""

    text: str
    template: bool
    seen: Trace
    tokens: list[Token]
    lens: list[list[list[Candidate]]]
    """[layer][position]: the most likely next tokens, read out after that layer; of the last
    position alone where no more was asked for."""
    next: list[Candidate]
    """The most likely next tokens after the whole text, in descending order."""
    steps: list[Step]
    ended: bool
    """Whether the model ended its reply by itself."""


def look(
    model: Opened,
    text: str,
    template: bool = False,
    generate: int = 50,
    show: Callable[[Look], None] = lambda look: None,
    every_position: bool = True,
) -> Look:
    """Run `text` through `model` once, and generate greedily from there.

    Args:
        template: put the text into the chat template, as a user's message.
        generate: how many tokens at most.
        show: is given all but the generated tokens, before they are generated, with the logit lens
            of the last position.
        every_position: read every position through the logit lens, which takes seconds for a long
            text, and not only the last.

    Raises:
        CannotLook: the text is empty or too long, there is no chat template, or what the model
            computes is no number.
    """
    ids = token_ids(model, text, template)
    cache = make_prompt_cache(model.model)
    try:
        seen = trace(model.model, ids, cache=cache)
        if not np.isfinite(seen.logits).all():
            raise CannotLook(f"{model.name} predicts nothing: its logits are not finite.")
        lens = _lens(model, seen, positions=1)
    except TraceError as error:
        raise CannotLook(f"{model.name} cannot be looked at: {error}.") from error
    read = Look(
        text=text,
        template=template,
        seen=seen,
        tokens=_tokens(model, seen),
        lens=lens,
        next=likeliest(model.tokenizer, seen.logits[-1], LIKELIEST),
        steps=[],
        ended=False,
    )
    show(read)
    room = (context_length(model.model) or len(ids) + generate) - len(ids)
    steps, ended = _generate(model, seen.logits[-1], cache, min(generate, room))
    lens = _lens(model, seen, len(ids)) if every_position else lens
    return replace(read, lens=lens, steps=steps, ended=ended)


def token_ids(model: Opened, text: str, template: bool) -> list[int]:
    """The ids that the model reads for `text`, as it is or inside the chat template."""
    if not text:
        raise CannotLook("The text is empty: write one between quotes.")
    if len(text) > CHARACTERS:
        raise CannotLook(
            f"The text has {len(text):,} characters, but at most {LONGEST} tokens can be shown: "
            "shorten it."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CannotLook("The text is not UTF-8: write it in the terminal's encoding.") from None
    ids = _templated(model, text) if template else tokens.prompt(model.tokenizer, text)
    if not ids:
        raise CannotLook(f"{model.name} has no token for this text: choose another.")
    if len(ids) > LONGEST:
        raise CannotLook(
            f"The text has {len(ids):,} tokens, but at most {LONGEST} can be shown: shorten it."
        )
    return ids


def _templated(model: Opened, text: str) -> list[int]:
    if not has_chat_template(model.tokenizer):
        raise CannotLook(f"{model.name} has no chat template: leave --template out.")
    messages = [{"role": "user", "content": text}]
    try:
        whole = model.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:
        # Whatever a foreign template raises; the text of TemplateFailed is safe to show.
        raise CannotLook(f"{model.name}: {error}.") from error
    return tokens.encode(model.tokenizer, whole)


def likeliest(tokenizer: Any, logits: np.ndarray, count: int) -> list[Candidate]:
    """The `count` most likely tokens by the softmax of `logits` (vocabulary,), in descending order;
    of equal ones the lower id first, as argmax has it."""
    few = np.argpartition(-logits, min(count, len(logits) - 1))[:count]
    first = sorted({int(np.argmax(logits)), *few.tolist()}, key=lambda id_: (-logits[id_], id_))
    # The softmax of a few: dividing the whole vocabulary takes longer than a layer.
    weights = np.exp(logits - logits.max())
    total = float(weights.sum(dtype=np.float64))
    return [
        Candidate(text, id_, float(weights[id_]) / total)
        for id_, text in zip(first[:count], token_texts(tokenizer, first[:count]))
    ]


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each id decoded alone; one that holds only a part of a character as its bytes, ‹F09F›."""
    texts = tokens.token_texts(tokenizer, ids)
    return [
        f"‹{tokens.piece_bytes(tokenizer, id_).hex().upper()}›" if "\ufffd" in text else text
        for id_, text in zip(ids, texts, strict=True)
    ]


def _lens(model: Opened, seen: Trace, positions: int) -> list[list[list[Candidate]]]:
    """Every layer's state read out at the last `positions`, several layers at once."""
    step = max(1, BLOCK // (positions * seen.logits.shape[1]))
    layers: list[list[list[Candidate]]] = []
    for start in range(0, len(seen.hidden_states), step):
        states = [layer[-positions:] for layer in seen.hidden_states[start : start + step]]
        logits, dtype = read_out(model.model, seen, np.concatenate(states))
        rows = [likeliest(model.tokenizer, row, OF_A_LAYER) for row in logits]
        layers += [rows[at : at + positions] for at in range(0, len(rows), positions)]
    check_read_out((logits[-positions:], dtype), seen.logits[-positions:])
    return layers


def _generate(
    model: Opened, logits: np.ndarray, cache: list[Any], most: int
) -> tuple[list[Step], bool]:
    """Greedy decoding from a filled cache, and whether the end-of-text token came."""
    ends = set(model.tokenizer.eos_token_ids)
    steps: list[Step] = []
    while len(steps) < most:
        chosen, *others = likeliest(model.tokenizer, logits, 1 + RUNNERS_UP)
        steps.append(Step(chosen, others))
        if chosen.id in ends:
            return steps, True
        if len(steps) < most:
            following = model.model(mx.array([[chosen.id]]), cache=cache)
            logits = np.asarray(following.reshape(-1).astype(mx.float32))
    return steps, False


def _tokens(model: Opened, seen: Trace) -> list[Token]:
    texts = token_texts(model.tokenizer, seen.token_ids)
    norms = np.linalg.norm(seen.embeddings, axis=-1).tolist()
    near = _neighbours(model, seen)
    return [
        Token(text, id_, norm, near[id_])
        for text, id_, norm in zip(texts, seen.token_ids, norms, strict=True)
    ]


def _neighbours(model: Opened, seen: Trace) -> dict[int, list[tuple[str, float]]]:
    """For each id of the text, the tokens nearest by the cosine of their rows of the table."""
    table = dict(model.model.named_modules())[seen.modules["embeddings"]]
    first = {id_: at for at, id_ in reversed(list(enumerate(seen.token_ids)))}
    ids = list(first)
    own = seen.embeddings[[first[id_] for id_ in ids]]  # (ids, hidden)
    rows = table.weight.shape[0]
    step = max(1, BLOCK // seen.embeddings.shape[1])
    blocks = [_cosines(_rows(table, at, min(at + step, rows)), own) for at in range(0, rows, step)]
    cosines = np.concatenate(blocks).T.copy()  # (ids, rows)
    found = {}
    for id_, row in zip(ids, cosines, strict=True):
        row[id_] = -np.inf
        nearest = np.argsort(-row)[:NEIGHBOURS].tolist()
        texts = token_texts(model.tokenizer, nearest)
        found[id_] = list(zip(texts, row[nearest].tolist(), strict=True))
    return found


def _rows(table: Any, start: int, stop: int) -> np.ndarray:
    """These rows of an embedding table, unpacked: (rows, hidden) in float32."""
    # A slice is no copy, where a look-up is one.
    plain = type(table) is nn.Embedding
    rows = table.weight[start:stop] if plain else table(mx.arange(start, stop))
    return np.asarray(rows.astype(mx.float32))


def _cosines(rows: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Of each of the `rows` with each of `own`: (rows, own)."""
    # MLX's CPU backend sums a row many times slower than NumPy does.
    norms = [np.sqrt(np.einsum("ij,ij->i", each, each)) for each in (rows, own)]
    return rows @ own.T / np.maximum(np.outer(*norms), 1e-12)


def parting(looks: Sequence[Look]) -> list[tuple[str, list[float]]]:
    """For each token that two texts share, how far its state lies apart after the embedding and
    after each layer: the distance over the mean of both norms. A token counts where it comes last.
    """
    one, other = (look.seen for look in looks)
    found = []
    for at, token in enumerate(looks[0].tokens):
        if token.id not in other.token_ids or token.id in one.token_ids[at + 1 :]:
            continue
        there = len(other.token_ids) - 1 - other.token_ids[::-1].index(token.id)
        pairs = [
            (one.embeddings[at], other.embeddings[there]),
            *((a[at], b[there]) for a, b in zip(one.hidden_states, other.hidden_states)),
        ]
        found.append((token.text, [_apart(a, b) for a, b in pairs]))
    return found


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    norms = float(np.linalg.norm(one) + np.linalg.norm(other)) / 2
    return float(np.linalg.norm(one - other)) / max(norms, 1e-12)
