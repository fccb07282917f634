"""The process in which a model directory is tried. Run by `probe`, never imported.

Speaks JSON, a message a line: what it is about to do, what is wrong, and when it has done all. So
that nothing else gets among them, what libraries print goes to standard error.
"""

import functools
import json
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm_spec.directory import generation, head, packing
from llm_spec.directory.errors import BadModel, read_json, reason
from llm_spec.directory.explanation import explain, weight_files
from llm_spec.model.release import has_chat_template, taken
from llm_spec.processes.pipes import channel, tell
from llm_spec.text.untrusted import quoted

CONVERSATION = [
    {"role": "user", "content": "Hello."},
    {"role": "assistant", "content": "Hello, what can I do?"},
    {"role": "user", "content": "Nothing."},
]
# Some templates refuse a system message or an odd turn, as they may; but they must come to an end.
OTHER_CONVERSATIONS = (
    CONVERSATION[:1],
    [{"role": "system", "content": "Be brief."}, *CONVERSATION],
    [*CONVERSATION, {"role": "assistant", "content": "Nothing it is."}],
)
TEXT = "The capital of France is Paris. 3.14 × 2 = 6.28 … šípková růže 日本語 🙂\n" * 30
OF_A_TOKENIZER = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "tekken.json",
)  # fmt: skip
TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "tiktoken.model", "tekken.json", "vocab.json", "vocab.txt",
)  # fmt: skip


def main(view: Path, skip: list[str], say: Callable[[dict[str, Any]], None]) -> None:
    """Go through the stages but those in `skip`, and tell of each.

    Messages: {"stage"}, {"about", "problem"}, and at the end {"done"}, or {"fatal", "problem"}
    where the model cannot be had.
    """
    say({"stage": "importing"})
    import mlx_lm.utils  # noqa: F401  here, for it takes seconds that the first stage grants

    model: Any = None
    config = json.loads((view / "config.json").read_text(encoding="utf-8"))
    try:
        if "model" not in skip:
            say({"stage": "model"})
            model, config = declare(view)
    except BadModel as problem:
        say({"fatal": True, "problem": str(problem)})
        return
    loaded: dict[str, Any] = {}

    def load() -> None:
        loaded["tokenizer"] = load_tokenizer(view, config)

    stages: dict[str, Callable[[], None]] = {
        "packing": lambda: check_packing(model, view),
        "head": lambda: check_head(model, view),
        "tokenizer": load,
        "vocabulary": lambda: check_vocabulary(loaded["tokenizer"], model, view),
        "chat template": lambda: check_template(loaded["tokenizer"], view),
    }
    for stage, attempt in stages.items():
        if stage in skip or (stage in ("vocabulary", "chat template") and not loaded):
            continue
        say({"stage": stage})
        try:
            attempt()
        except BadModel as problem:
            say({"about": stage, "problem": str(problem)})
    say({"done": True})


def declare(view: Path) -> tuple[Any, dict[str, Any]]:
    """The model without its weights' values: names, shapes and kinds of numbers must fit."""
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model

    declared: dict[str, mx.Dtype] = {}
    load_weights = nn.Module.load_weights

    def watch(module: nn.Module, weights: Any, strict: bool = True) -> nn.Module:
        for name, array in tree_flatten(module.parameters()):
            declared[name] = array.dtype
        return load_weights(module, weights, strict=strict)

    nn.Module.load_weights = watch
    try:
        model, config = load_model(view, lazy=True, **taken(load_model, trust_remote_code=False))
    except Exception as error:
        raise BadModel(explain(error, view)) from error
    finally:
        nn.Module.load_weights = load_weights
    for name, array in tree_flatten(model.parameters()):
        wanted = declared.get(name, array.dtype)
        floats = mx.issubdtype(wanted, mx.floating), mx.issubdtype(array.dtype, mx.floating)
        if floats[0] != floats[1] or (not floats[0] and wanted != array.dtype):
            kinds = [str(dtype).removeprefix("mlx.core.") for dtype in (array.dtype, wanted)]
            raise BadModel(
                f"{weight_files(view)} gives {quoted(name)} as {kinds[0]}, but the model computes "
                f"with {'floating-point numbers' if floats[0] else kinds[1]}."
            )
    return model, config


def load_tokenizer(view: Path, config: dict[str, Any]) -> Any:
    """mlx-lm's tokenizer, tried on a text."""
    from mlx_lm.utils import load_tokenizer

    names = [path.name for path in view.iterdir()]
    if not any(name in TOKENIZERS or name.endswith((".tiktoken", ".model")) for name in names):
        raise BadModel("tokenizer.json is missing, and there is no other tokenizer.")
    try:
        tokenizer = load_tokenizer(
            view, {"trust_remote_code": False}, eos_token_ids=config.get("eos_token_id")
        )
        ids = tokenizer.encode(TEXT)
        tokenizer.decode(ids)
    except Exception as error:
        if "custom code" in str(error):
            raise BadModel(
                "tokenizer_config.json wants code of its own to be run (auto_map), and no code of "
                "a model is run here."
            ) from error
        why = f"{type(error).__name__}: {reason(str(error), without=view)}"
        if _raised_by_the_config(error):
            raise BadModel(
                f"config.json is refused by transformers, which reads it to load the tokenizer "
                f"({why})."
            ) from error
        for name in OF_A_TOKENIZER:
            if name in names:
                read_json(view / name)  # tells which of them is not JSON
        raise BadModel(f"tokenizer.json and its like cannot be used ({why}).") from error
    if not ids:
        raise BadModel("tokenizer.json turns text into no token at all.")
    return tokenizer


def _raised_by_the_config(error: Exception) -> bool:
    """Whether transformers was reading config.json: its modules are called configuration_…"""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).name.startswith("configuration_") for frame in frames)


def check_packing(model: Any, view: Path) -> None:
    """What config.json says of packing must be what the weights are."""
    modules = {path: each for path, each in model.named_modules() if "scales" in each}
    content = json.loads((view / "config.json").read_text(encoding="utf-8"))
    if said := packing.held(content, modules):
        raise BadModel(said)


def check_head(model: Any, view: Path) -> None:
    """A stored head must be one that the model uses."""
    if said := head.unused(view, model):
        raise BadModel(said)


def check_vocabulary(tokenizer: Any, model: Any, view: Path) -> None:
    """Every id of the tokenizer, and every EOS, needs a row in the embedding table."""
    import mlx.nn as nn

    kinds = (nn.Embedding, nn.QuantizedEmbedding)
    tables = [module for _, module in model.named_modules() if isinstance(module, kinds)]
    if not tables:
        return
    rows = max(table.weight.shape[0] for table in tables)
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise BadModel(
            f"tokenizer.json: the largest id is {largest:,}, but the model's embedding has "
            f"{rows:,} rows."
        )
    eos = max(tokenizer.eos_token_ids, default=0)
    if eos >= rows:
        names = ("generation_config.json", "config.json")  # mlx-lm takes the former's, if it can
        said = [name for name in names if eos in generation.ends(view / name)]
        file = said[0] if said else "tokenizer_config.json"
        raise BadModel(f"{file}: eos_token_id {eos:,} has no row: the embedding has {rows:,}.")


def check_template(tokenizer: Any, view: Path) -> None:
    """The chat template, if there is one, must give text for an ordinary conversation."""
    if tokenizer.chat_template is None and not has_chat_template(tokenizer):
        return
    for conversation in OTHER_CONVERSATIONS:
        with suppress(Exception):
            tokenizer.apply_chat_template(conversation, tokenize=False)
    chat = {"add_generation_prompt": True, "tokenize": False}
    try:
        text = tokenizer.apply_chat_template(CONVERSATION, **chat)
    except Exception as error:
        why = f"{type(error).__name__}: {reason(str(error), without=view)}"
        raise BadModel(
            f"{template_file(view)}: the chat template cannot be filled in ({why})."
        ) from error
    if not isinstance(text, str) or not text.strip():
        raise BadModel(f"{template_file(view)}: the chat template makes nothing of a conversation.")


def template_file(view: Path) -> str:
    """Where transformers takes the chat template from."""
    files = ("chat_template.jinja", "chat_template.json")
    return next((name for name in files if (view / name).exists()), "tokenizer_config.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:], functools.partial(tell, channel()))
