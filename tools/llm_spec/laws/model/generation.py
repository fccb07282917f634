"""Laws of generation: what mlx-lm's loops do with a model is what the model's logits say."""

from __future__ import annotations

import re
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import cache as caching
from mlx_lm.tokenizer_utils import NaiveStreamingDetokenizer, TokenizerWrapper

from llm_spec.laws.case import Case
from llm_spec.laws.execution import (
    expected_rows,
    generate_batch,
    generating,
    log_softmax,
    logits_of,
    renormalised,
)
from llm_spec.laws.finding import (
    Finding,
    law,
    law_of_code,
    not_applicable,
    same,
    vacuous,
    within_rounding,
)
from llm_spec.laws.model.batch import NO_BATCHES, can_batch, prompts_of, rows_of_batch
from llm_spec.laws.model.forward import LEAST_SPREAD, least_needed, looked_up, scales_of
from llm_spec.numerics import distances

STEPS, CHUNK = 5, 12


@law
def generation_follows_the_logits(case: Case) -> Finding:
    """Prompted in chunks, greedy generation gives the log-probabilities of one forward pass over
    its text, and takes the argmax."""
    prompt = case.token_ids[: 2 * len(case.token_ids) // 3]
    tokens, rows = [], []
    steps = generating.generate_step(
        mx.array(prompt), case.model, max_tokens=STEPS, prefill_step_size=CHUNK
    )
    for token, logprobs in steps:
        tokens.append(token)
        rows.append(np.array(logprobs.astype(mx.float32)))
    largest = [int(row.argmax()) for row in rows]
    if tokens != largest:
        return same("greedy tokens", tokens, largest)
    expected = expected_rows(case.model, prompt, tokens)
    missed = distances.distance(renormalised(np.stack(rows)), expected)
    text = case.on(prompt + tokens)
    return within_rounding("distance of generated log-probabilities", missed, text)


@law_of_code
def embeddings_can_prompt(case: Case) -> Finding:
    """Prompted by embeddings alone, in chunks, generation equals that from the token ids."""
    if not generating.does_model_support_input_embeddings(case.model):
        return not_applicable("it takes no input embeddings")
    prompt = case.token_ids[: 2 * len(case.token_ids) // 3]
    options = {"max_tokens": 3, "prefill_step_size": CHUNK}
    fed = looked_up(case.model, prompt)
    # A copy: gemma3 scales what it is given in place.
    with_ids, with_others = (
        logits_of(case.model, ids, input_embeddings=mx.array(fed)) for ids in (prompt, prompt[::-1])
    )
    if distances.distance(with_others, with_ids) > LEAST_SPREAD:
        return not_applicable("it needs the ids beside the embeddings")
    wanted = _log_probabilities(generating.generate_step(mx.array(prompt), case.model, **options))
    missed_by_scale = (
        distances.distance(
            _log_probabilities(
                generating.generate_step(
                    mx.array([], mx.int32), case.model, input_embeddings=scale * fed[0], **options
                )
            ),
            wanted,
        )
        for scale in scales_of(case.model, prompt, fed)
    )
    missed = least_needed(missed_by_scale, case.reordered)
    return within_rounding("distance of log-probabilities from those of the ids", missed, case)


def _log_probabilities(steps: Any) -> np.ndarray:
    return renormalised(np.stack([np.array(step[1].astype(mx.float32)) for step in steps]))


@law_of_code
def a_prompt_cache_goes_on(case: Case) -> Finding:
    """After generation the prompt cache holds the prompt and every generated token: another prompt
    continues both."""
    cut = len(case.token_ids) // 2
    cache = caching.make_prompt_cache(case.model)
    prompt, more = case.token_ids[:cut], case.token_ids[cut:]
    steps = generating.generate_step(
        mx.array(prompt), case.model, max_tokens=3, prompt_cache=cache, prefill_step_size=CHUNK
    )
    made = [token for token, _ in steps]
    text = case.on(prompt + made + more)
    rows = _log_probabilities(
        generating.generate_step(mx.array(more), case.model, max_tokens=1, prompt_cache=cache)
    )
    missed = distances.distance(rows, log_softmax(text.logits[-1:]))
    return within_rounding("distance from one pass over the whole text", missed, text)


@law_of_code
def text_ends_at_its_end(case: Case) -> Finding:
    """Generation of text stops at the first end-of-sequence token, without its text, or at the
    length asked for; and says which."""
    prompt = case.token_ids[:13]
    steps = generating.generate_step(mx.array(prompt), case.model, max_tokens=STEPS)
    free = [token for token, _ in steps]
    end = next((t for t in free[1:] if t != free[0]), free[0])
    seen, wanted = [], []
    for eos in (end, None):
        spelling = Spelling(eos)
        told = list(generating.stream_generate(case.model, spelling, prompt, max_tokens=STEPS))
        seen.append(("".join(part.text for part in told), told[-1].finish_reason))
        stop = free.index(eos) if eos in free else STEPS
        wanted.append((spelling.decode(free[:stop]), "stop" if eos in free else "length"))
    return same("texts, and why they end", seen, wanted)


@law_of_code
def speculation_is_greedy(case: Case) -> Finding:
    """With a draft model, greedy decoding gives the same tokens as without one, to the last one.

    The draft is the model itself with every fourth answer spoilt, so that drafts are both accepted
    and rejected.
    """
    if not caching.can_trim_prompt_cache(caching.make_prompt_cache(case.model)):
        return not_applicable("its cache cannot be trimmed")
    prompt, count = case.token_ids[:13], 2 * STEPS
    steps = generating.speculative_generate_step(
        mx.array(prompt),
        case.model,
        SpoiltDraft(case.model),
        num_draft_tokens=3,
        max_tokens=count,
        prefill_step_size=5,
    )
    tokens, rows, accepted = [], [], 0
    for token, logprobs, from_draft in steps:
        tokens.append(token)
        rows.append(np.array(logprobs.astype(mx.float32)))
        accepted += from_draft
    expected = expected_rows(case.model, prompt, tokens)
    greedy = [token == row.argmax() for token, row in zip(tokens, expected, strict=True)]
    agree = [*greedy, False].index(False)
    if agree < count:
        return same("tokens before the first that is not the argmax", agree, count)
    if not 0 < accepted < count - 1:
        return vacuous(f"{accepted} of {count} drafts were accepted")
    missed = distances.distance(renormalised(np.stack(rows)), expected)
    text = case.on(prompt + tokens)
    return within_rounding("distance of speculative log-probabilities", missed, text)


class SpoiltDraft:
    """A model whose every fourth answer is turned upside down."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._calls = 0

    def __call__(self, token_ids: mx.array, cache: list[Any]) -> mx.array:
        logits = self._model(token_ids, cache=cache)
        logits = logits[0] if isinstance(logits, tuple) else logits
        self._calls += 1
        return logits if self._calls % 4 else -logits

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


@law_of_code
def processors_see_everything(case: Case) -> Finding:
    """At every step a logits processor receives the whole prompt and all generated tokens."""
    prompt = case.token_ids[: 2 * len(case.token_ids) // 3]
    witness = Witness()
    steps = generating.generate_step(
        mx.array(prompt),
        case.model,
        max_tokens=3,
        prefill_step_size=CHUNK,
        logits_processors=[witness],
    )
    texts = [(prompt, [token for token, _ in steps], witness)]
    if can_batch(case):
        # The first leaves early, and the second has no processor.
        prompts, witnesses = prompts_of(case, (29, 8, 17)), [Witness(), None, Witness()]
        rows = generate_batch(
            case.model,
            prompts,
            (1, 2, 4),
            processors=[[each] if each else [] for each in witnesses],
        )
        texts += [
            (prompt, tokens, each)
            for prompt, (tokens, _, _), each in zip(prompts, rows, witnesses, strict=True)
            if each
        ]
    wrong = [
        f"{len(seen)} tokens at step {step} instead of {len(prompt) + step}"
        for prompt, tokens, witness in texts
        for step, seen in enumerate(witness.seen[: len(tokens)])
        if seen != prompt + tokens[:step]
    ]
    wrong += ["nothing" for _, tokens, witness in texts if len(witness.seen) < len(tokens)]
    return same("tokens given to a processor", wrong[0] if wrong else "all", "all")


class Spelling(TokenizerWrapper):
    """Every id is a word: `<7>`. The detokenizer is mlx-lm's naive one."""

    clean_up_tokenization_spaces = False
    bos_token = None

    def __init__(self, eos: int | None) -> None:
        self._eos_token_ids = set() if eos is None else {eos}
        self._detokenizer = NaiveStreamingDetokenizer(self)

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in re.findall(r"<(\d+)>", text)]

    def decode(self, ids: list[int]) -> str:
        return "".join(f"<{id_}>" for id_ in ids)


class Witness:
    """A logits processor that changes nothing and remembers the tokens that it was given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        self.seen.append(tokens.tolist())
        return logits


@law_of_code
def a_batch_stops_at_its_stop_tokens(case: Case) -> Finding:
    """A row of a batch ends at the first stop sequence that it generates, and not before."""
    if not can_batch(case):
        return not_applicable(NO_BATCHES)
    free = [tokens for tokens, _ in case.once(rows_of_batch)]
    stop = free[0][2:4]
    ends = [_first(tokens, stop) for tokens in free]
    stopped = rows_of_batch(case, stop_tokens=[stop])
    return same("tokens until the stop", [len(tokens) for tokens, _ in stopped], ends)


def _first(tokens: list[int], sequence: list[int]) -> int:
    """How many tokens there are up to the end of the first `sequence` in them."""
    width = len(sequence)
    for start in range(len(tokens) - width + 1):
        if tokens[start : start + width] == sequence:
            return start + width
    return len(tokens)
