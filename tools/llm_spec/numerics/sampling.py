"""What the usual samplers are defined to do, in NumPy: the sets they keep and how draws are judged.

Written from the definitions and sharing no code with mlx-lm, so that its samplers can be compared
with them. Everything works on one distribution and in float64.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


def softmax(logits: Any, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (vocabulary,) of `logits` at a temperature above zero; -inf becomes 0."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    return weights / weights.sum()


def entropy(probabilities: np.ndarray) -> float:
    """Bits: 0 where one token is certain, log2(n) where n tokens are equally likely."""
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log2(positive)).sum())


def is_top_k(kept: np.ndarray, probabilities: np.ndarray, k: int) -> bool:
    """Whether `kept` (booleans) are k tokens than which no other is likelier.

    A test and not a set: where the k-th and the next are equally likely, either may stay.
    """
    if kept.sum() != k:
        return False
    return k == kept.size or probabilities[kept].min() >= probabilities[~kept].max()


def top_p(probabilities: np.ndarray, p: float) -> np.ndarray:
    """The nucleus, as booleans: the smallest set of most likely tokens that add up to `p`.

    Tokens as likely as the last of them stay with it, so that the set does not depend on order.
    Source: Holtzman et al. 2020, arXiv 1904.09751, section 3.1.
    """
    descending = np.sort(probabilities)[::-1]
    reached = np.cumsum(descending) >= min(p, 1.0)
    last = int(reached.argmax()) if reached.any() else descending.size - 1
    return probabilities >= descending[last]


def min_p(probabilities: np.ndarray, p: float) -> np.ndarray:
    """As booleans, the tokens at least `p` times as likely as the most likely one.

    Source: Nguyen et al. 2024, arXiv 2407.01082.
    """
    return probabilities >= p * probabilities.max()


def xtc(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """As booleans, what is left once top choices are excluded.

    Of the tokens likelier than `threshold` only the least likely stays; all others stay too.
    """
    top = probabilities > threshold
    return ~top | (probabilities == probabilities[top].min()) if top.any() else ~top


def repetition_penalty(logits: np.ndarray, tokens: Sequence[int], penalty: float) -> np.ndarray:
    """Logits with those of every token in `tokens` pushed down, once however often it occurs.

    Positive logits are divided by the penalty, negative ones multiplied.
    Source: Keskar et al. 2019, arXiv 1909.05858, section 4.1, with the sign taken into account.
    """
    seen = np.isin(np.arange(logits.size), tokens)
    pushed = np.where(logits > 0, logits / penalty, logits * penalty)
    return np.where(seen, pushed, logits)


def chi_square(counts: np.ndarray, probabilities: np.ndarray, fewest: float = 5.0) -> float:
    """How often fair draws would be as far from `probabilities` as `counts` are, or further.

    Pearson's test. Tokens expected fewer than `fewest` times are counted as one, for the test
    holds only where enough draws are expected.

    Returns:
        The p-value: 0 where a token of probability zero was drawn.

    Raises:
        ValueError: fewer than two outcomes are likely enough to be compared.
    """
    if counts[probabilities == 0].sum() > 0:
        return 0.0
    expected = counts.sum() * probabilities
    rare = expected < fewest
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    if wanted[-1] < fewest:  # too little even together: it joins the smallest of the others
        smallest = int(wanted[:-1].argmin())
        observed[smallest] += observed[-1]
        wanted[smallest] += wanted[-1]
        observed, wanted = observed[:-1], wanted[:-1]
    if wanted.size < 2:
        raise ValueError(f"{counts.sum()} draws leave fewer than two outcomes to tell apart")
    statistic = float(((observed - wanted) ** 2 / wanted).sum())
    return chi_square_tail(statistic, wanted.size - 1)


def chi_square_tail(statistic: float, degrees: int) -> float:
    """P(X >= statistic) of the chi-square distribution, exactly.

    The regularised upper incomplete gamma function Q(a, x) at a = degrees / 2, x = statistic / 2,
    built up by Q(a + 1, x) = Q(a, x) + x**a e**-x / gamma(a + 1) from Q(1/2, x) = erfc(sqrt(x)) or
    Q(0, x) = 0.
    """
    if degrees < 1 or statistic <= 0:
        return 1.0
    x = statistic / 2
    a, tail = (0.5, math.erfc(math.sqrt(x))) if degrees % 2 else (0.0, 0.0)
    while a < degrees / 2:
        tail += math.exp(a * math.log(x) - x - math.lgamma(a + 1))
        a += 1
    return min(tail, 1.0)
