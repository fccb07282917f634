"""What a model takes at each bit width and context, by declaring it."""

from collections.abc import Iterable, Mapping
from typing import Any

from mlx import nn

from llm_spec.model.config import BadConfig, text_config
from llm_spec.model.declare import ERRORS, declare
from llm_spec.model.dry_run import dry_run
from llm_spec.model.packed import Alike, alike, packed
from llm_spec.model.repeats import Kinds, Repeats
from llm_spec.model.steps import Step
from llm_spec.observe.modules import walk
from llm_spec.performance.intermediate import working_set
from llm_spec.performance.plan import LONGEST_CONTEXT, ContextCost, Variant, followed
from llm_spec.performance.published import WIDTHS, Row
from llm_spec.performance.roofline import shares, weights_read

DEFAULT_CONTEXT = 32_768


def variants(
    name: str,
    config: Mapping[str, Any],
    widths: Iterable[int | None],
    fused: bool,
    longest: int = LONGEST_CONTEXT,
) -> list[Variant]:
    """Declare the model of `config` at each width (None: 16 bits, not packed) and take its measure.

    Contexts are followed as far as the model was made for, or to `longest` tokens; what a longer
    one costs is a line from there. Raises BadConfig where mlx-lm cannot build it.
    """
    model = declare(config, bits=None)
    # Counted before it runs: some models keep arrays of a pass.
    walked, kinds, found = walk(model), Kinds(), []
    plain = alike(walked, kinds)
    course, read = costs(model, Repeats(walked, kinds), config, longest, fused)
    for bits in widths:
        weights = plain if bits is None else packed(model, plain, bits)
        found.append(_variant(name, str(bits or 16), weights, course, read))
    return found


def stored(
    name: str,
    model: nn.Module,
    config: Mapping[str, Any],
    fused: bool,
    longest: int = LONGEST_CONTEXT,
) -> Variant:
    """A loaded model as it is stored. Its weights may be mapped and not read."""
    walked, kinds = walk(model), Kinds()
    weights = alike(walked, kinds)
    course, read = costs(model, Repeats(walked, kinds), config, longest, fused)
    return _variant(name, "{:.2g} stored", weights, course, read)


def _variant(
    name: str,
    width: str,
    weights: list[Alike],
    course: ContextCost,
    read: Mapping[str, float],
) -> Variant:
    stored, parameters = sum(m.bytes for m in weights), sum(m.parameters for m in weights)
    return Variant(
        name=name,
        width=width.format(8 * stored / parameters),
        bits=8 * stored / parameters,
        parameters=parameters,
        weights=stored,
        read=weights_read(weights, read),
        course=course,
    )


def costs(
    model: nn.Module, repeats: Repeats, config: Mapping[str, Any], longest: int, fused: bool
) -> tuple[ContextCost, dict[str, float]]:
    """What a context costs, and the share of each module's weights that a token reads."""
    limit = _context(config)
    try:
        run = dry_run(model, followed(limit, longest), repeats=repeats)
    except ERRORS as error:
        what = f"No pass of a model of type {config.get('model_type')!r} can be planned"
        raise BadConfig.after(what, error) from error
    working = working_set(model, run.calls, fused)
    course = ContextCost(run.steps, [working(step) for step in run.steps], limit)
    return course, shares(repeats.modules, run.calls)


def _context(config: Mapping[str, Any]) -> int:
    """The longest context that the model was made for, as far as its configuration says."""
    for level in (config, text_config(config)):
        said = level.get("max_position_embeddings")
        if isinstance(said, int) and said > 0:
            return min(said, LONGEST_CONTEXT)
    return DEFAULT_CONTEXT


def row(config: Mapping[str, Any]) -> Row:
    """What `published.toml` should hold of the model of `config`, by declaring it at every width.

    Of a model all of whose caches keep every token, as those of llama and qwen3 do.
    """
    found = variants("-", config, [None if width == 16 else width for width in WIDTHS], fused=True)
    plain = declare(config, bits=None)
    calls = dry_run(plain, 1).calls
    one, two = (Step(1, seen, 0, 0) for seen in (1, 2))
    fused, unfused = (working_set(plain, calls, fused=each) for each in (True, False))
    return Row(
        parameters=found[0].parameters,
        limit=found[0].course.limit,
        cache=dry_run(plain, 1).used,
        working=fused(one),
        score=unfused(two) - unfused(one),
        weights={each.width: each.weights for each in found},
        read={each.width: each.read for each in found},
    )
