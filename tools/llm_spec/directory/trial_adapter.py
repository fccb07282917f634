"""The process in which an adapter is put on its base. Run by `adapter`, never imported there.

Says one message: {"problem"}, a sentence, or nothing wrong.
"""

import re
import sys
from pathlib import Path
from typing import Any

from llm_spec.directory.errors import BadModel, reason
from llm_spec.directory.trial_load import declare
from llm_spec.processes.pipes import channel, tell
from llm_spec.text.untrusted import quoted


def problem_of(base: Path, adapter: Path) -> str | None:
    """Why mlx-lm cannot put the adapter on the base; no weight is read."""
    import mlx.nn as nn  # here: what it prints is no message
    from mlx_lm.tuner.utils import load_adapters

    load_weights = nn.Module.load_weights

    def check_first(module: nn.Module, weights: Any, strict: bool = True) -> nn.Module:
        check_tensors(module, weights)
        return load_weights(module, weights, strict=strict)

    try:
        model, _ = declare(base)
        nn.Module.load_weights = check_first  # releases before 0.32 load what fits, and say nothing
        load_adapters(model, str(adapter))
    except BadModel as problem:
        return str(problem)
    except Exception as error:
        return explain(error, adapter)
    finally:
        nn.Module.load_weights = load_weights
    return None


def check_tensors(module: Any, weights: Any) -> None:
    """Raise ValueError, as newer releases of mlx-lm do, where the module has no parameters of
    these names and shapes; `weights` is what `load_weights` is given."""
    from mlx.utils import tree_flatten

    if isinstance(weights, str):
        import mlx.core as mx

        stored: Any = mx.load(weights)
        weights = list(stored.items())
    has = {name: array.shape for name, array in tree_flatten(module.parameters())}
    wrong = [
        f"  {name}: adapter shape {array.shape} does not match {has[name]}"
        if name in has
        else f"  {name}: not an adapter parameter in the model"
        for name, array in weights
        if has.get(name) != array.shape
    ]
    if wrong:
        raise ValueError("\n".join(wrong))


def explain(error: Exception, adapter: Path) -> str:
    """What mlx-lm could not do with the adapter, as a sentence about its files."""
    text = str(error)
    wrong = re.findall(r"^  (.*): (not an adapter|adapter shape)(.*)$", text, re.MULTILINE)
    more = f" ({len(wrong)} tensors in all)" if len(wrong) > 1 else ""
    if wrong and wrong[0][1] == "not an adapter":
        return (
            f"adapters.safetensors holds {quoted(wrong[0][0])}, but adapter_config.json (keys, "
            f"num_layers) adapts no such module of this base{more}: is it the adapter's own base?"
        )
    if wrong:
        shapes = re.findall(r"\([\d, ]*\)", wrong[0][2])
        ours, bases = shapes if len(shapes) == 2 else ("another", "its own")
        return (
            f"adapters.safetensors gives {quoted(wrong[0][0])} the shape {ours}, but rank and this "
            f"base make it {bases}{more}: is it the adapter's own base?"
        )
    why = f"{type(error).__name__}: {reason(text, without=adapter)}"
    return f"adapter_config.json: mlx-lm cannot put this adapter on this base ({why})."


if __name__ == "__main__":
    out = channel()
    tell(out, {"problem": problem_of(*map(Path, sys.argv[1:3]))})
