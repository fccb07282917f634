"""What a plan comes to, in sentences: the largest models that fit, and which one to take."""

from collections.abc import Sequence

from llm_spec.numerics.units import show_bytes
from llm_spec.performance.plan import Machine, Variant
from llm_spec.text.untrusted import visible

COMFORTABLE_BITS = 4.0


def conclusions(machine: Machine, found: Sequence[Variant], context: int) -> list[str]:
    """A summary of the table: the largest models that fit with `context` tokens, in sentences."""
    fitting = [v for v in found if v.fits(machine, context)]
    if not fitting:
        return [f"None of these fits with {context:,} tokens."]
    sentences = []
    wide = [v for v in fitting if v.bits >= COMFORTABLE_BITS]
    largest = max(wide, key=lambda v: (v.parameters, v.bits), default=None)
    if largest is not None:
        sentences.append(
            f"The largest of these that fits at 4 bits or more: {_about(machine, largest)}."
        )
    any_width = max(fitting, key=lambda v: (v.parameters, v.bits))
    if any_width is not largest:
        sentences.append(
            f"The largest that fits at any of these widths: {_about(machine, any_width)}."
        )
    return sentences


def advice(
    machine: Machine, found: Sequence[Variant], context: int, speed: float, share: float
) -> list[str]:
    """What to take for `speed` tokens per second after `context` tokens, where `share` per cent of
    a ceiling is reached, in sentences: the largest that fits and is as fast, at the most bits."""
    if machine.bandwidth is None:
        return []
    expected = {
        id(v): share / 100 * ceiling
        for v in found
        if v.fits(machine, context) and v.bits >= COMFORTABLE_BITS
        if (ceiling := v.ceiling(machine, context))
    }
    said = [
        "Speeds are ceilings: bandwidth over the bytes that each token must read. Expect "
        f"{share:g} % of them (--share); `llm-spec measure` tells what this machine reaches."
    ]
    fitting = [v for v in found if id(v) in expected]
    wanted = f"{speed:g} tokens per second after {context:,} tokens"
    if best := max(
        (v for v in fitting if expected[id(v)] >= speed),
        key=lambda v: (v.parameters, v.bits),
        default=None,
    ):
        expect = f"expect {_rate(expected[id(best)])} tokens per second"
        return [*said, f"For {wanted}: {_about(machine, best)}; {expect}."]
    if fitting:
        fastest = max(fitting, key=lambda v: expected[id(v)])
        at = f"{visible(fastest.name)} at {fastest.width} bits"
        reaches = f"the fastest, {at}, about {_rate(expected[id(fastest)])}"
        return [*said, f"No listed model that fits reaches {wanted}; {reaches}."]
    return said


def _rate(tokens: float) -> str:
    return f"{tokens:,.0f}" if tokens >= 100 else f"{tokens:.3g}"


def _about(machine: Machine, variant: Variant) -> str:
    return (  # the name may be a directory's, and anybody's choice
        f"{visible(variant.name)}, {variant.parameters / 1e9:.1f} billion weights in "
        f"{show_bytes(variant.weights)} at {variant.width} bits, with up to "
        f"{variant.longest(machine):,} tokens"
    )
