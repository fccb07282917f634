"""A model directory of any size held to transformers, layer by layer, in float32."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_spec.numerics.distances import distance, worst
from llm_spec.oracle.comparison import CANNOT, one_line
from llm_spec.oracle.pair import BOUND, Mend, Outcome

SHARE = 0.8
"""Of the memory that is free, how much both float32 copies and what loads them may take."""
COPIES = 3
"""Float32 copies that are held at once, at most: mlx-lm's, transformers', and one on its way."""


class Refused(Exception):
    """A directory that cannot be held to transformers, and why, in one sentence."""


def compare_directory(
    path: Path, texts: Mapping[str, Sequence[int]], mend: Mend | None = None
) -> Outcome:
    """Hold mlx-lm's float32 copy of a directory to transformers with the same weights.

    A quantised directory is unpacked first, so that the code is judged and not the storage. Code
    from the directory is never run: whoever calls has refused a directory that asks for it.

    Args:
        texts: token ids by name.
        mend: run in this process before a side is made.

    Returns an outcome whose distances are "logits" and "stored" by tokens of a text, and "states"
    by layer; `first` is the first layer whose states differ by more than `BOUND`. "stored" is how
    far the logits move when each weight moves by half of what its number format rounds off.
    """
    if mend:
        mend()
    try:
        ours, config, rounding = _ours(path)
    except CANNOT as error:
        return Outcome("not loaded", _told(error), "mlx-lm")
    try:
        theirs = _theirs(path, ours, config)
    except CANNOT as error:
        return Outcome("not built", _told(error), "transformers")
    try:
        return _compared(ours, theirs, list(texts.values()), rounding)
    except CANNOT as error:
        return Outcome("not computed", _told(error))


def _told(error: BaseException) -> str:
    return str(error) if isinstance(error, Refused) else one_line(error)


def _compared(ours: Any, theirs: Any, texts: list[Sequence[int]], rounding: float) -> Outcome:
    import torch

    from llm_spec.observe.trace import trace

    logits: dict[int, float] = {}
    states: dict[int, float] = {}
    plain: list[np.ndarray] = []
    for ids in texts:
        with torch.no_grad():
            said = theirs(torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
        seen = trace(ours, ids, verify=False)
        plain.append(np.asarray(seen.logits, np.float32))
        logits[len(ids)] = distance(plain[-1], said.logits[0].numpy())
        # transformers normalises the last state before it hands it out; the others pair up.
        pairs = zip(seen.hidden_states[:-1], said.hidden_states[1:-1], strict=True)
        for layer, (state, other) in enumerate(pairs):
            apart = distance(np.asarray(state, np.float32), other[0].numpy())
            states[layer] = worst([states.get(layer, 0.0), apart])
    _move(ours, rounding)
    stored = {
        len(ids): distance(np.asarray(trace(ours, ids, verify=False).logits, np.float32), before)
        for ids, before in zip(texts, plain, strict=True)
    }
    found = {"logits": logits, "states": states, "stored": stored}
    first = next((layer for layer, each in states.items() if not each <= BOUND), None)
    return Outcome("compared", distances=found, first=first)


def _move(model: Any, by: float) -> None:
    """Move each value of each weight by a share of itself, up or down, in place."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    for place, (name, array) in enumerate(tree_flatten(model.parameters())):
        if mx.issubdtype(array.dtype, mx.floating):
            signs = mx.random.bernoulli(0.5, array.shape, key=mx.random.key(place))
            moved = array * mx.where(signs, 1 + by, 1 - by).astype(array.dtype)
            mx.eval(moved)
            model.load_weights([(name, moved)], strict=False)


def _ours(path: Path) -> tuple[Any, dict[str, Any], float]:
    """mlx-lm's model in float32, its configuration, and half of what its number format rounds off,
    relative to a weight."""
    import mlx.core as mx
    import psutil
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model

    from llm_spec.model.accounting import total_parameters
    from llm_spec.model.float32 import float32_copy

    model, config = load_model(path, lazy=True)
    needs, free = COPIES * 4 * total_parameters(model), psutil.virtual_memory().available
    if needs > SHARE * free:
        raise Refused(
            f"the model in float32 on both sides takes {needs / 1e9:.1f} GB of memory at most, and "
            f"{SHARE:.0%} of what is free are {SHARE * free / 1e9:.1f} GB."
        )
    kinds = [a.dtype for _, a in tree_flatten(model.parameters())]
    floats = [mx.finfo(kind).eps for kind in kinds if mx.issubdtype(kind, mx.floating)]
    return float32_copy(model), config, float(max(floats)) / 2


def _theirs(path: Path, ours: Any, config: Mapping[str, Any]) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    model_type = config["model_type"]
    if model_type not in CONFIG_MAPPING_NAMES:
        raise Refused(f"transformers has no model of type {model_type}, which mlx-lm has.")
    packed = "quantization" in config or "quantization_config" in config
    return _with_weights_of(ours, config) if packed else _from_files(path)


def _from_files(path: Path) -> Any:
    """transformers' own reading of the directory."""
    import torch
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(
        path, trust_remote_code=False, local_files_only=True, output_loading_info=True,
        dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
    )  # fmt: skip
    lost = sorted({*told["missing_keys"], *map(str, told["mismatched_keys"])})
    if lost:
        raise Refused(_other_names("transformers reads", lost))
    return model.eval()


def _with_weights_of(ours: Any, config: Mapping[str, Any]) -> Any:
    """transformers' model with the weights that mlx-lm has unpacked, where both name them alike."""
    import torch
    from mlx.utils import tree_flatten
    from transformers import AutoConfig, AutoModelForCausalLM

    packing = ("quantization", "quantization_config")
    stated = {name: value for name, value in config.items() if name not in packing}
    read = AutoConfig.for_model(**json.loads(json.dumps(stated)))
    model = AutoModelForCausalLM.from_config(
        read, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32,
        trust_remote_code=False,
    ).eval()  # fmt: skip
    weights = {k: torch.from_numpy(np.array(v)) for k, v in tree_flatten(ours.parameters())}
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    tied = {"lm_head.weight"} if read.tie_word_embeddings else set()
    if lost := [*unexpected, *sorted({*missing} - tied)]:
        raise Refused(_other_names("unpacked by mlx-lm", lost))
    return model


def _other_names(what: str, names: Sequence[str]) -> str:
    return (
        f"{len(names)} weights have other names or shapes on the two sides, {what}, such as "
        f"{names[0]}: compare the directory that this one was converted from."
    )
