"""The intermediate results of a step, estimated from the calls of a pass that computes nothing."""

from collections.abc import Callable

from mlx import nn

from llm_spec.model.dry_run import Call
from llm_spec.model.steps import Step
from llm_spec.observe.modules import modules_of

# Results of one layer that are alive at once, in rows as wide as the layer's widest result and as
# the hidden state. Counted in a Llama layer (gate, up, activation, product; the residual, its norm,
# queries before and after rotation, attention's output before and after projection, two sums) and
# agrees with the peak of SmolLM2 at 128 to 2,048 tokens.
WIDEST_ALIVE = 4
HIDDEN_ALIVE = 8


def working_set(model: nn.Module, calls: list[Call], fused: bool) -> Callable[[Step], int]:
    """Estimate the bytes of intermediate results that a step of `model` needs, from the `calls` of
    a pass over one token.

    Unless attention is `fused`, and on the CPU it is not, it also holds a score per head, query and
    key. Returns a function from a step to bytes.
    """
    inside = {id(m) for layer in getattr(model, "layers", []) for m in modules_of(layer).values()}
    rows = [call.output.nbytes for call in calls if id(call.module) in inside]
    embedding = calls[0].output
    alive = WIDEST_ALIVE * max(rows, default=0) + HIDDEN_ALIVE * embedding.nbytes
    heads = getattr(getattr(model, "args", None), "num_attention_heads", 0)
    score = 0 if fused else heads * embedding.dtype.size
    return lambda step: step.tokens * (alive + step.seen * score)
