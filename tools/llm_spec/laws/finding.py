"""What a law found, and the bounds that it holds a measured value to."""

from __future__ import annotations

import dataclasses
import functools
import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import mlx.core as mx

from llm_spec.laws.case import Case
from llm_spec.model.release import lacking
from llm_spec.numerics import tolerances
from llm_spec.numerics.units import short_exponents, show_number
from llm_spec.text.untrusted import one_line

NOT_FINITE = "its logits are not finite (finite_logits and weights_are_finite tell where)"
ROUNDING_ALONE = "rounding alone moves its logits by"
# What MLX says of products that CUDA lacks, of those that its CPU does in float32 only, and of what
# no GPU can do, such as receiving from another rank.
NO_KERNEL = (
    "No implementation for problem shape",
    "Currently only supports float32",
    "has no CUDA implementation",
)
LACKS_KERNEL = "MLX cannot compute it on this device"

Cause = Literal["measured", "control", "raised"]
"""Why a finding is what it is: what was measured, a control that failed, or an exception."""


@dataclass(frozen=True)
class Finding:
    """Whether a law holds for a case. `holds` is None where it does not apply, with the reason."""

    what: str
    measured: float | str | None = None
    should_be: str = ""
    holds: bool | None = None
    law: str = ""
    cause: Cause = "measured"
    bound: float | None = None
    """The most that `measured` may be, where the law sets such a bound."""
    judged_in: tuple[str, ...] = ()
    """The types of the weights that the law was held against, where they are not in float32 only:
    `("bfloat16", "float32")` once both the weights as stored and a float32 copy kept it."""

    @property
    def says(self) -> str:
        """One sentence: measured and expected, or why the law does not apply."""
        if self.holds is None:
            return f"does not apply: {self.what}"
        shown = show_number(self.measured) if isinstance(self.measured, float) else self.measured
        where = f" [weights in {' and '.join(self.judged_in)}]" if self.judged_in else ""
        return f"{self.what} = {shown}, but should be {self.should_be}{where}"


def within(what: str, measured: float, bound: float) -> Finding:
    """`measured` must not exceed `bound`; a NaN does."""
    should_be = short_exponents(f"at most {bound:.2g}") if bound else "0"
    return Finding(what, float(measured), should_be, bool(measured <= bound), bound=bound)


def within_rounding(what: str, measured: float, case: Case, times: float = 1) -> Finding:
    """`measured`, a distance between two ways to add the same numbers, must be what rounding does.

    In float32 it must not exceed `case.reordered`, or else what `tolerances.moved_by_rounding`
    makes of this model's own noise, `case.noise`, which is measured only where the first bound does
    not suffice and the most that noise may excuse would. In a half type only noise counts: a bound
    made of its unit of rounding would let through an error of 140 %. What is not finite is never
    what rounding does.

    A model that chooses (experts, blocks, n-grams) jumps where a choice was close, and three passes
    may all choose alike: a distance that could be a jump is held to `case.largest_jump`. Where that
    is more than may be excused, in a half type, a distance that is no larger says nothing of this
    type: the float32 copy is what can be judged.

    `times` is for a comparison in which more than the order of sums differs.
    """
    derived = case.reordered if case.dtype == mx.float32 else 0.0
    if measured <= derived:
        return within(what, measured, derived)
    most = tolerances.most_moved(case.dtype)
    if case.dtype == mx.float32 and not measured <= times * most:
        return within(what, measured, times * most)  # whatever the noise is: nobody measures it
    noise = case.noise
    excused = times * tolerances.moved_by_rounding(case.dtype, noise)
    jumps = most < tolerances.roundings(case.dtype) * noise < math.inf
    if measured > excused and (jumps or measured <= times * most):
        noise = case.largest_jump
        excused = times * tolerances.moved_by_rounding(case.dtype, noise)
    moved = times * tolerances.roundings(case.dtype) * noise
    if case.dtype != mx.float32 and excused < measured <= moved < math.inf:
        return not_applicable(f"{ROUNDING_ALONE} {noise:.2g} in this type")
    return within(what, measured, max(derived, excused))


def within_exactness(what: str, measured: float, case: Case) -> Finding:
    """`measured`, a distance between the same sums in the same order, must be 0 on a CPU. Other
    devices may choose another kernel, so there it must be what rounding does."""
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    return within(what, measured, 0) if on_cpu else within_rounding(what, measured, case)


def same(what: str, measured: Any, expected: Any) -> Finding:
    """`measured` must equal `expected`."""
    return Finding(what, _shown(measured), _shown(expected), measured == expected)


def _shown(value: Any) -> str:
    is_empty = isinstance(value, (list, tuple, set, dict)) and not value
    return "none" if is_empty else str(value)


def not_applicable(reason: str) -> Finding:
    """The law does not apply."""
    return Finding(reason)


def vacuous(control: str) -> Finding:
    """The law's control failed: its verdict would say nothing."""
    return Finding("control", control, "a difference that can be seen", False, cause="control")


Law = Callable[[Case], Finding]
ObjectLaw = Callable[[], Finding]
TextLaw = Callable[[Any], Finding]
AnyLaw = TypeVar("AnyLaw", Law, ObjectLaw, TextLaw)


def law(check: AnyLaw) -> AnyLaw:
    """Name the finding after its law, and turn an exception of the model's code into a refutation.

    The exception of a model that cannot do what it is asked is as wrong as a wrong number.

    Where weights are in a half type or packed, the law is held against them and, where memory
    allows, against a float32 copy. Either can refute: the copy shows small faults of the code, and
    the weights as stored show what only happens to their type.

    A model whose logits are not finite breaks the laws of numbers; all others do not judge it.
    """

    @functools.wraps(check)
    def checked(*given: Any) -> Finding:
        of_model = given and isinstance(given[0], Case)
        return _on_both(check, given[0]) if of_model else _tried(check, given)

    return checked


def law_of_code(check: Law) -> Law:
    """A law of code that does the same whatever weights it is given: masks, caches and batches.

    A CPU computes packed products seven times slower, so there a float32 copy is judged alone. The
    products are what packing changes, and other laws hold them too.
    """

    @functools.wraps(check)
    def checked(case: Case) -> Finding:
        is_slow = case.is_packed and mx.default_device() == mx.cpu
        return _on_both(check, (case.float32 or case) if is_slow else case)

    return checked


def law_of_storage(check: Law) -> Law:
    """A law of how weights are stored: held against the model as it is, and against no copy."""

    @functools.wraps(check)
    def checked(case: Case) -> Finding:
        return _judged(check, case)

    return checked


def law_of_numbers(check: Law) -> Law:
    """A law that tells of NaN: held against a model that computes NaN, where others say nothing."""

    @functools.wraps(check)
    def checked(case: Case) -> Finding:
        return _tried(check, (case,))

    return checked


def _on_both(check: Callable[..., Finding], case: Case) -> Finding:
    if (copy := case.float32) is case:
        return _judged(check, case)
    stored = str(case.dtype).removeprefix("mlx.core.")
    if copy is None:
        return dataclasses.replace(_judged(check, case), judged_in=(stored,))
    # The copy goes first: where it shows a fault, nobody has to measure what rounding does.
    found = dataclasses.replace(_judged(check, copy), judged_in=("float32",))
    if found.holds is False:
        return found
    as_stored = dataclasses.replace(_judged(check, case), judged_in=(stored,))
    if not (found.holds and as_stored.holds):
        return found if as_stored.holds is None else as_stored
    return dataclasses.replace(found, judged_in=(stored, "float32"))


def _judged(check: Callable[..., Finding], case: Case) -> Finding:
    """What the law finds of a model that computes numbers."""

    def of_numbers(case: Case) -> Finding:
        return check(case) if case.is_finite else not_applicable(NOT_FINITE)

    return _tried(functools.wraps(check)(of_numbers), (case,))


def lacks_kernel(error: Exception) -> bool:
    """Whether it says that MLX has no kernel on this device for what was to be computed."""
    return any(says in str(error) for says in NO_KERNEL)


def _tried(check: Callable[..., Finding], given: tuple[Any, ...]) -> Finding:
    try:
        finding = check(*given)
    except Exception as error:
        finding = Finding("raised", _sentence(error), "no exception", False, cause="raised")
        if lacks_kernel(error):
            finding = not_applicable(f"{LACKS_KERNEL}: {_sentence(error)}")
        if lacks := lacking(error):
            finding = not_applicable(lacks)
    return dataclasses.replace(finding, law=check.__name__)


def _sentence(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = one_line(str(error).partition("\n")[0], 200)
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})"
