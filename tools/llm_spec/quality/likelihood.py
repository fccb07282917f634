"""How well a model predicts a text, and how far two models disagree about it.

Everything is teacher-forced: the model reads the true text, however wrong its own guesses are, so
that two models are compared at the same positions. Texts are taken in one forward pass.

Quality is bits per byte of UTF-8, which two tokenizers can be compared by; perplexity per token
is not. Nats of each token are summed in float64.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from math import log, log2
from typing import Any

import mlx.core as mx
import numpy as np

POSITIONS_AT_ONCE = 64  # bounds the float64 copies of logits


@dataclass(frozen=True)
class Encoded:
    """A text as token ids, and which part of it is predicted.

    The first `context` tokens are given: a BOS token where the tokenizer adds one, so that every
    byte of the text is predicted, and otherwise the text's own first token. `n_bytes` counts the
    bytes of the tokens after them.
    """

    token_ids: list[int]
    context: int
    n_bytes: int


@dataclass(frozen=True)
class Divergence:
    """How far a model's predictions are from a reference's, over paired positions.

    KL(reference ‖ model) is in nats per token. A flip is a position whose top token differs.
    """

    positions: int
    mean_kl: float
    p99_kl: float
    max_kl: float
    flips: int

    @classmethod
    def over(cls, kl: np.ndarray, flipped: np.ndarray) -> "Divergence":
        """Sum up what `position_kl` gives, over (positions,)."""
        p99 = float(np.quantile(kl, 0.99))
        flips = int(np.count_nonzero(flipped))
        return cls(len(kl), float(kl.mean()), p99, float(kl.max()), flips)

    @property
    def top1_agreement(self) -> float:
        """Return the share of positions, 0 to 1, at which both have the same top token."""
        return 1 - self.flips / self.positions


def encode(tokenizer: Any, text: str) -> Encoded:
    """Encode a text for scoring.

    A tokenizer may put a space before the text, or one for several, and write signs that Unicode
    takes for the same (NFKC): the text is then what its tokens give back. Raises ValueError if the
    tokenizer loses or changes more: bits per byte would count bytes that were never predicted.
    """
    token_ids = list(tokenizer.encode(text))
    decoded = _decode(tokenizer, token_ids)
    if _signs(decoded) == _signs(text):
        text = decoded
    if decoded != text:
        at = next((i for i, (a, b) in enumerate(zip(decoded, text)) if a != b), len(decoded))
        raise ValueError(
            f"the tokenizer does not give the text back: it differs from character {at} on, "
            f"at {text[at : at + 20]!r}"
        )
    for context in range(1, len(token_ids)):
        given = _decode(tokenizer, token_ids[:context])
        if text.startswith(given):  # false inside a character that spans several tokens
            return Encoded(token_ids, context, len(text.encode()) - len(given.encode()))
    raise ValueError(f"a text of {len(token_ids)} tokens leaves nothing to predict")


def _signs(text: str) -> str:
    """What a text says without its spaces."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def teacher_forced_logits(model: Any, token_ids: list[int]) -> mx.array:
    """Return the logits for every next token, (tokens - 1, vocabulary) in float32, in one pass."""
    logits = model(mx.array([token_ids[:-1]]))[0].astype(mx.float32)
    mx.eval(logits)
    return logits


def logprobs_of(logits: mx.array, token_ids: list[int]) -> np.ndarray:
    """Return what teacher-forced logits gave to the tokens that followed.

    `logits` is (tokens - 1, vocabulary); the result is (tokens - 1,) in nats, float64. Raises
    ValueError if a log-probability is not a finite number.
    """
    targets = np.array(token_ids[1:])[:, None]
    parts = [_logprobs(logits[rows], targets[rows]) for rows in _pieces(len(logits))]
    return finite(np.concatenate(parts))


def _logprobs(logits: mx.array, targets: np.ndarray) -> np.ndarray:
    """What `log_softmax` gives to one target a row, to 1e-7 nats: (positions,) in float64.

    `logits` is (positions, vocabulary), `targets` (positions, 1). Exponentials are taken in
    float32, which is four times as fast; each is off by 6e-8 of itself, and so is their sum.
    """
    rows = np.array(logits.astype(mx.float32))
    of_targets = np.take_along_axis(rows, targets, axis=-1)[:, 0].astype(np.float64)
    top = rows.max(-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        rows -= top
        totals = np.exp(rows, out=rows).sum(-1, dtype=np.float64)
        return of_targets - top[:, 0] - np.log(totals)


def finite(logprobs: np.ndarray) -> np.ndarray:
    """Return log-probabilities as they are. Raises ValueError if one is not a finite number."""
    broken = int(np.count_nonzero(~np.isfinite(logprobs)))
    if broken:
        raise ValueError(f"{broken} of {len(logprobs)} log-probabilities are not finite numbers")
    return logprobs


def token_logprobs(model: Any, token_ids: list[int]) -> np.ndarray:
    """Return the log-probability, in nats, of each token but the first, given those before it."""
    return logprobs_of(teacher_forced_logits(model, token_ids), token_ids)


def bits_per_byte(model: Any, tokenizer: Any, text: str) -> float:
    """Return the bits that the model needs for a byte of the text (8 is no knowledge at all)."""
    encoded = encode(tokenizer, text)
    return bits(token_logprobs(model, encoded.token_ids), encoded) / encoded.n_bytes


def bits(logprobs: np.ndarray, encoded: Encoded) -> float:
    """Return the bits spent on the predicted tokens; `logprobs` as `logprobs_of` gives them."""
    return -float(logprobs[encoded.context - 1 :].sum()) / log(2)


def divergence(reference_logits: mx.array, logits: mx.array) -> Divergence:
    """Compare two models' logits at the same positions, both (positions, vocabulary).

    Raises ValueError as `position_kl` does.
    """
    return Divergence.over(*position_kl(reference_logits, logits))


def position_kl(reference_logits: mx.array, logits: mx.array) -> tuple[np.ndarray, np.ndarray]:
    """Return KL(reference ‖ model) at each position, in nats, and where the top token flips.

    Logits are (positions, vocabulary); the results are (positions,) in float64 and in bool.

    Each vocabulary entry contributes p·(d + exp(-d) - 1), with d = log p - log q: never negative,
    exactly 0 for equal logits, and in sum the KL divergence, because p and q both sum to 1. The
    textbook sum p·d loses small divergences to rounding. Raises ValueError for different shapes
    or logits that are not finite.
    """
    if reference_logits.shape != logits.shape:
        raise ValueError(
            f"logits of shape {logits.shape} cannot be paired with {reference_logits.shape}"
        )
    parts = []
    for rows in _pieces(len(logits)):
        p_logits, q_logits = reference_logits[rows], logits[rows]
        if not all(bool(mx.isfinite(each).all()) for each in (p_logits, q_logits)):
            raise ValueError(f"logits at positions {rows.start} and after are not finite numbers")
        parts.append(softmax_kl(log_softmax(p_logits), log_softmax(q_logits)))
    kl, flipped = zip(*parts)
    return np.concatenate(kl), np.concatenate(flipped)


Softmax = tuple[np.ndarray, np.ndarray]


def softmax_kl(reference: Softmax, model: Softmax) -> tuple[np.ndarray, np.ndarray]:
    """Return what `position_kl` does, of what `log_softmax` gave for both."""
    (log_p, p), (log_q, _) = reference, model
    difference = log_p - log_q
    flipped = log_p.argmax(-1) != log_q.argmax(-1)
    terms = np.expm1(-difference)
    terms += difference
    return np.einsum("ij,ij->i", p, terms), flipped


def log_softmax(logits: mx.array) -> Softmax:
    """Return log-probabilities and probabilities, both (positions, vocabulary) in float64.

    NumPy adds them up, for `mx.logsumexp` on a CPU misses up to 8e-4 on a large vocabulary. A row
    that holds NaN or plus infinity becomes NaN.
    """
    wide = np.array(logits.astype(mx.float32), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        wide -= wide.max(-1, keepdims=True)
    shares = np.exp(wide)
    totals = shares.sum(-1, keepdims=True)
    shares /= totals
    wide -= np.log(totals)
    return wide, shares


def _pieces(positions: int) -> list[slice]:
    starts = range(0, positions, POSITIONS_AT_ONCE)
    return [slice(start, start + POSITIONS_AT_ONCE) for start in starts]


def bigram_bits_per_byte(texts: Iterable[str]) -> float:
    """Return the least that any byte-bigram model could need on these texts, in bits per byte.

    It is their own conditional entropy, H(byte | byte before it), counted over all of them: a
    bigram model fitted to the very texts it is scored on. A language model that needs more has
    learned nothing that letter pairs do not show.
    """
    pairs: Counter[tuple[int, int]] = Counter()
    for text in texts:
        pairs.update(pairwise(text.encode()))
    firsts: Counter[int] = Counter()
    for (first, _), count in pairs.items():
        firsts[first] += count
    total = pairs.total()
    if total == 0:
        raise ValueError("texts of fewer than two bytes hold no pair")
    return sum(n * log2(firsts[first] / n) for (first, _), n in pairs.items()) / total


def _decode(tokenizer: Any, token_ids: list[int]) -> str:
    return tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
