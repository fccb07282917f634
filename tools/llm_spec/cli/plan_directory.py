"""What a model directory takes, as stored and at each width: planned in a process of its own.

There mlx-lm's models are imported without its tokenizers (`models_only`), and what a stranger's
configuration makes of them is bounded in time and memory. What caches and layers a configuration
stands for is in mlx-lm's code and nowhere else, so the model is declared; no weight is read.
"""

import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llm_spec.directory import BadModel, files, weights
from llm_spec.directory import config as config_file
from llm_spec.model.models_only import import_models_only
from llm_spec.model.steps import Step
from llm_spec.performance.plan import ContextCost, Variant
from llm_spec.processes.child import Child, Stopped
from llm_spec.processes.pipes import channel, tell

SECONDS = 60.0


def planned(
    directory: Path, widths: list[int], fused: bool, longest: int, ranks: int = 1
) -> tuple[list[Variant], str]:
    """A model directory as stored, if it holds weights, and at each of `widths` (16: not packed);
    or what each of several ranks holds of it at the widths, and why they cannot share the others.

    Contexts are followed to `longest` tokens. Raises `BadModel`, one sentence.
    """
    numbers = ",".join(map(str, widths)), str(int(fused)), str(longest), str(ranks)
    child = Child("llm_spec.cli.plan_directory", os.path.abspath(directory), *numbers)
    try:
        answer = child.receive(SECONDS)
    except Stopped as end:
        raise BadModel(f"{directory}: planning for it {end}, and was stopped.") from None
    finally:
        child.close()
    if "problem" in answer:
        raise BadModel(f"{directory}: {answer['problem']}")
    return [_variant(values) for values in answer["found"]], answer["refused"]


def _variant(values: dict[str, Any]) -> Variant:
    course = values.pop("course")
    steps = [Step(**step) for step in course.pop("steps")]
    return Variant(**values, course=ContextCost(steps, **course))


def plan(
    directory: Path, widths: list[int], fused: bool, longest: int, ranks: int = 1
) -> tuple[list[Variant], str]:
    """What `planned` asks for, in this process. Raises `BadModel` or `BadConfig`."""
    from llm_spec.performance import capacity, shared_capacity  # here, for they import mlx-lm

    found = files.find(directory)
    config, name, as_stored = config_file.read(found), found.root.name, []
    packed = [None if width == 16 else width for width in widths]
    if ranks > 1:
        return shared_capacity.variants(name, config, packed, ranks, fused, longest)
    if found.weights:
        from llm_spec.directory.trial_load import declare

        weights.check(found, config, free=sys.maxsize, unpacked=False)
        with tempfile.TemporaryDirectory() as view:
            files.view(found, Path(view))
            as_stored = [capacity.stored(name, *declare(Path(view)), fused, longest)]
    if not widths:
        return as_stored, ""
    return [*as_stored, *capacity.variants(name, config, packed, fused, longest)], ""


def main(directory: str, widths: str, fused: str, longest: str, ranks: str) -> dict[str, Any]:
    """The process itself: its answer, {"found", "refused"} or {"problem"}."""
    from llm_spec.model.config import BadConfig

    import_models_only()
    import mlx.core as mx

    mx.set_default_device(mx.cpu)  # a GPU that computes nothing here would have to be woken first
    asked = [int(width) for width in widths.split(",") if width], bool(int(fused)), int(longest)
    try:
        found, refused = plan(Path(directory), *asked, int(ranks))
        return {"found": [asdict(variant) for variant in found], "refused": refused}
    except (BadModel, BadConfig) as error:
        return {"problem": str(error)}


if __name__ == "__main__":
    out = channel()
    tell(out, main(*sys.argv[1:]))
