"""The steps in which mlx_lm.generate reads a prompt."""

from dataclasses import dataclass

# mlx_lm.generate feeds a prompt in pieces of this many tokens, and its last token by itself.
PREFILL_STEP = 2048


@dataclass(frozen=True)
class Step:
    """One forward pass: `tokens` were fed, and with them `seen` in all.

    After it the caches hold `allocated` bytes, of which the tokens seen so far fill `used`; the
    rest is room for tokens to come.
    """

    tokens: int
    seen: int
    allocated: int
    used: int


def pieces(prompt: int, prefill_step: int = PREFILL_STEP) -> list[int]:
    """In how many tokens at a time all but the last token of a prompt are fed."""
    whole, rest = divmod(prompt - 1, prefill_step)
    return [prefill_step] * whole + ([rest] if rest else [])
