"""Try a model directory in a process that can be ended when it runs too long or too wide."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llm_spec.directory.errors import BadModel
from llm_spec.processes.child import Child, Stopped


@dataclass(frozen=True)
class Stage:
    """One thing that is tried: its name, what a failure means, and how long it may take."""

    title: str
    problem: str | None
    """The key of the problem that a failure is; None where nothing can be checked without it."""
    seconds: float


STAGES = {
    "importing": Stage("mlx-lm", None, 120),
    "model": Stage("config.json and the weights", None, 60),
    "packing": Stage("what config.json says of packing", "packing", 10),
    "head": Stage("the head of the model", "head", 60),
    "tokenizer": Stage("tokenizer.json and its like", "tokenizer", 60),
    "vocabulary": Stage("the vocabulary of tokenizer.json", "vocabulary", 10),
    "chat template": Stage("the chat template of tokenizer_config.json", "chat template", 10),
}
TEXT_STAGES = ("tokenizer", "vocabulary", "chat template")


def run_probe(
    view: Path,
    on_stage: Callable[[str], None] = lambda stage: None,
    skip: Sequence[str] = (),
    *,
    needs_model: bool = True,
) -> dict[str, str]:
    """Declare the model, load the tokenizer and fill in the chat template of `view`, or go through
    all `STAGES` but those in `skip`.

    Returns sentences on what is wrong with the tokenizer, the vocabulary or the template. Raises
    `BadModel` where the model itself cannot be had, or says so of the "model" unless it is needed.
    """
    problems: dict[str, str] = {}
    skip = list(skip)
    while {*STAGES} - {*skip, "importing"}:
        stage, failure = _run(view, skip, problems, on_stage)
        if failure is None:
            return problems
        problem = STAGES[stage].problem
        if stage == "model" and not needs_model:
            problems["model"] = failure
            skip += ["model", "packing", "head", "vocabulary"]
            continue
        if problem is None:
            raise BadModel(failure)
        # What stopped the process is left out, and the rest is tried in a new one.
        problems[problem] = failure
        skip.append(stage)
    return problems


def _run(
    view: Path, skip: list[str], problems: dict[str, str], on_stage: Callable[[str], None]
) -> tuple[str, str | None]:
    """The stage that stopped the process and why; no reason if it came to its end."""
    stage = "importing"
    child = Child("llm_spec.directory.trial_load", str(view), *skip)
    try:
        while True:
            message = child.receive(STAGES[stage].seconds)
            if "stage" in message:
                stage = message["stage"]
                on_stage(STAGES[stage].title)
            elif message.get("fatal"):
                return stage, message["problem"]
            elif "problem" in message:
                problems[message["about"]] = message["problem"]
            elif message.get("done"):
                return stage, None
    except Stopped as end:
        return stage, f"Trying {STAGES[stage].title} {end}, and was stopped."
    finally:
        child.close()
