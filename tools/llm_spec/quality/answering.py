"""What answers an assistant's jobs: a model through its chat template, or a control.

Several answers to one prompt are written side by side: the model reads the prompt once, and each
step reads the weights once for all rows. What one answer takes is timed on the first tokens of an
answer that is written alone.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
from mlx_lm import stream_generate
from mlx_lm.generate import generation_stream, wired_limit
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import apply_top_p

from llm_spec.model.release import has_chat_template

TEMPERATURE = 0.7
TOP_P = 0.95
AT_ONCE = 4
"""Rows that are written side by side: each holds a KV cache of its own."""
PACE = 32
"""Tokens that tell the speed of one answer, where several are written."""
CHUNK = 2048
"""Tokens of a prompt that are read at once, as in mlx-lm."""


@dataclass(frozen=True)
class Answer:
    """What came back. Times in seconds; None for a control, which computes nothing.

    `tokens_per_s` is the speed after the first token: the tokens that followed it over the time
    that they took. (mlx_lm's own `generation_tps` counts the first token too and is the higher,
    the shorter the answer.)
    """

    text: str
    finished: bool = True
    tokens: int | None = None
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    peak_bytes: int | None = None


Respond = Callable[[str, Sequence[int]], list[Answer]]
"""From a prompt and seeds to one answer per seed."""


def chat_prompt(tokenizer: Any, message: str) -> list[int]:
    """Return the token ids of one user message in the model's chat template, ready to answer.

    Models that can think aloud are asked not to. Raises ValueError if the tokenizer has no chat
    template.
    """
    if not has_chat_template(tokenizer):
        raise ValueError("this model has no chat template, so it cannot be asked as an assistant")
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": message}], add_generation_prompt=True, enable_thinking=False
    )
    return ids


def constant(text: str) -> Respond:
    """Return a control that gives one and the same answer to everything."""
    return lambda prompt, seeds: [Answer(text) for _ in seeds]


def copy_of_the_prompt(prompt: str, seeds: Sequence[int]) -> list[Answer]:
    """Answer with the prompt itself: a control."""
    return [Answer(prompt) for _ in seeds]


def responder(
    model: Any,
    tokenizer: Any,
    max_tokens: int = 256,
    tell: Callable[[float], None] = lambda answers: None,
) -> Respond:
    """Return a function that answers with a model. The same prompt and seed give the same text,
    alone or beside others, but for roundings.

    Times and memory are those of an answer that is written alone. Of several, the speed is that of
    the first `PACE` tokens, and the memory that of reading the prompt. MLX's peak-memory counter is
    reset. `tell` is given how many answers this function has written so far; parts of several
    count, too.
    """
    ends = set(tokenizer.eos_token_ids)
    written = 0

    def respond(prompt: str, seeds: Sequence[int]) -> list[Answer]:
        nonlocal written
        token_ids = chat_prompt(tokenizer, prompt)
        last = token_ids[-1]
        cache, seconds, peak = _read(model, token_ids[:-1])
        if len(seeds) == 1:
            answer = _alone(model, tokenizer, last, cache, seconds, seeds[0], max_tokens)
            written += 1
            tell(written)
            return [answer]
        read = _side_by_side(cache, 1)
        alone = _alone(model, tokenizer, last, cache, seconds, seeds[0], min(PACE, max_tokens))
        alone = replace(alone, peak_bytes=peak)
        answers = []
        for at in range(0, len(seeds), AT_ONCE):
            some = seeds[at : at + AT_ONCE]
            rows: list[list[int]] = [[] for _ in some]
            for n, step in enumerate(_steps(model, last, read, some), 1):
                for row, token in zip(rows, step, strict=True):
                    if not ends.intersection(row[-1:]):
                        row.append(token)
                tell(written + len(some) * n / max_tokens)
                if n == max_tokens or all(row[-1] in ends for row in rows):
                    break
            answers += [_answer(tokenizer, row, ends, alone) for row in rows]
            written += len(some)
        return answers

    return respond


def _read(model: Any, token_ids: list[int]) -> tuple[list[Any], float, int]:
    """A cache that holds a prompt, filled as mlx-lm does; the seconds and the peak memory that
    this took."""
    cache = make_prompt_cache(model)
    mx.reset_peak_memory()
    start = time.perf_counter()
    with wired_limit(model, [generation_stream]):
        for at in range(0, len(token_ids), CHUNK):
            model(mx.array([token_ids[at : at + CHUNK]]), cache=cache)
            mx.eval([entry.state for entry in cache])
            mx.clear_cache()
    return cache, time.perf_counter() - start, mx.get_peak_memory()


def _side_by_side(cache: list[Any], rows: int) -> list[Any]:
    """A copy of the cache of one sequence, as of so many rows that were read alike."""
    return [_repeated(entry, rows) for entry in copy.deepcopy(cache)]


def _repeated(part: Any, rows: int) -> Any:
    """A part of a cache with its arrays repeated, (1, …) to (rows, …); an array of one dimension
    is of all rows."""
    if isinstance(part, mx.array):
        return mx.repeat(part, rows, axis=0) if part.ndim > 1 else part
    if isinstance(part, (list, tuple)):
        return type(part)(_repeated(each, rows) for each in part)
    if hasattr(part, "__dict__"):
        vars(part).update({name: _repeated(each, rows) for name, each in vars(part).items()})
    return part


def _alone(
    model: Any, tokenizer: Any, last: int, cache: list[Any], seconds: float, seed: int, most: int
) -> Answer:
    """Write one answer of at most `most` tokens with mlx-lm, after a prompt that took so many
    `seconds` to read but for its `last` token."""
    pieces = []
    start = first = time.perf_counter()
    steps = stream_generate(
        model, tokenizer, [last], max_tokens=most, sampler=_draws([seed]), prompt_cache=cache
    )
    for n, step in enumerate(steps):
        if n == 0:
            first = time.perf_counter()
        pieces.append(step.text)
    end = time.perf_counter()
    tokens = step.generation_tokens
    return Answer(
        text=_said("".join(pieces)),
        finished=step.finish_reason == "stop",
        tokens=tokens,
        first_token_s=seconds + first - start,
        tokens_per_s=(tokens - 1) / (end - first) if tokens > 1 else None,
        peak_bytes=mx.get_peak_memory(),
    )


def _steps(model: Any, last: int, read: list[Any], seeds: Sequence[int]) -> Iterator[list[int]]:
    """The next token of each row, one per seed, step by step and without an end. As in mlx-lm, a
    step is computed while the one before is looked at."""
    cache, draw = _side_by_side(read, len(seeds)), _draws(seeds)

    def step(tokens: mx.array) -> mx.array:  # (rows,) to (rows,)
        logits = model(tokens[:, None], cache=cache)[:, -1]  # (rows, vocabulary)
        drawn = draw(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
        mx.async_eval(drawn)  # type: ignore[no-untyped-call]
        return drawn

    with wired_limit(model, [generation_stream]):
        tokens = step(mx.full((len(seeds),), last))
        while True:
            following = step(tokens)
            yield tokens.tolist()  # type: ignore[misc]
            tokens = following


def _draws(seeds: Sequence[int]) -> Callable[[mx.array], mx.array]:
    """A sampler, (rows, vocabulary) to (rows,): each row draws with random numbers of its seed."""
    keys = [mx.random.key(seed) for seed in seeds]

    def draw(logprobs: mx.array) -> mx.array:
        kept = apply_top_p(logprobs, TOP_P) / TEMPERATURE
        drawn = []
        for row, key in enumerate(keys):
            keys[row], now = mx.random.split(key)
            drawn.append(mx.random.categorical(kept[row], key=now))
        return mx.stack(drawn)

    return draw


def _answer(tokenizer: Any, token_ids: list[int], ends: set[int], alone: Answer) -> Answer:
    """What a row says, with the times and the memory of an answer that was written `alone`."""
    finished = token_ids[-1] in ends
    detokenizer = tokenizer.detokenizer
    detokenizer.reset()
    for id_ in token_ids[: len(token_ids) - finished]:
        detokenizer.add_token(id_)
    detokenizer.finalize()
    return replace(alone, text=_said(detokenizer.text), finished=finished, tokens=len(token_ids))


def _said(text: str) -> str:
    """An answer without the thoughts before it."""
    return text.rpartition("</think>")[2].strip()
