"""The rule by which a model is judged beside a reference: what storage explains, and what not.

The reference is stored as coarsely as the subject is, and what that costs it is the floor of each
figure: a subject that is the reference, converted, lands there.

The rule. Rounding errors add up as independent ones do, so every figure of power (KL, bits, squares
of distances) grows with the square of the rounding step: one bit fewer makes four times the floor,
as claim 8.15 measures, and half a bit two times. So a figure up to twice its floor is *verified*:
whoever rounds may choose other scales and other numbers to round than MLX does, and half a bit is
room for that. Over four times its floor it is *refuted*: the subject errs as if it were stored with
a bit less than it is, and that is no rounding. Between the two it is *inconclusive*. Noise that the
device shows when it repeats itself is added to both bounds; luck, which a few passages may have, is
no evidence and widens only the second. No floor lies under what the same sums in another order may
change, for a model that is computed in another order is the same model.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from llm_spec.numerics import tolerances

HALF_A_BIT, A_BIT = 2.0, 4.0
VERDICTS = ("refuted", "inconclusive", "verified")


@dataclass(frozen=True)
class Figure:
    """One figure of the subject's distance from its reference, and what it is judged by."""

    value: float
    floor: float
    """What the reference shows when it is stored as the subject is."""
    noise: float = 0.0
    """What the reference shows when it is computed twice."""
    sampling_error: float = 0.0
    """Twice the standard error over passages, of a figure that may fall either way."""

    @property
    def expected(self) -> float:
        """The most that is verified."""
        return HALF_A_BIT * self.floor + tolerances.repeated(self.noise)

    @property
    def bound(self) -> float:
        """The most that is not refuted."""
        return A_BIT * self.floor + tolerances.repeated(self.noise) + self.sampling_error

    @property
    def detectable(self) -> float:
        """The smallest change on top of honest rounding that is refuted, in the figure's unit."""
        return self.bound - self.floor

    @property
    def verdict(self) -> str:
        if self.value <= self.expected:
            return "verified"
        return "inconclusive" if self.value <= self.bound else "refuted"


def worst(figures: Iterable[Figure]) -> str:
    """The verdict on several figures: all must be verified, and one can refute."""
    verdicts = {figure.verdict for figure in figures}
    return next(verdict for verdict in VERDICTS if verdict in verdicts)
