"""The two sides: a model that transformers writes, and what mlx-lm loads from it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llm_spec.oracle.pair import File, Pair
from llm_spec.oracle.scatter import scatter


def build(pair: Pair) -> Any:
    """transformers' model of the pair, in eager float32, with scattered weights.

    Raises whatever transformers raises.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    settings, model_type = pair.settings, pair.file.within or pair.model_type
    if pair.file.text_only:
        settings = pair.settings["text_config"]
        model_type = settings["model_type"]
    config = CONFIG_MAPPING[model_type](**copy.deepcopy(dict(settings)))
    sees = model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    auto = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    torch.manual_seed(pair.seed)
    model = auto.from_config(
        config, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32
    )
    model.eval()
    scatter(model, pair.seed, pair.router_bias)
    return model


def write(model: Any, pair: Pair, folder: Path) -> list[str]:
    """Save the model as transformers does; unless the pair is as written today, write the settings
    of the pair into config.json, and name the weights, as published models have them.

    Returns the settings of the pair that transformers left out.
    """
    today, settings = pair.as_written_today, pair.settings
    model.save_pretrained(folder, save_original_format=today or pair.file.original_format)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    if pair.file.text_only:
        config = {"model_type": pair.model_type, "text_config": config}
        file.write_text(json.dumps(config))
        _rename(folder / "model.safetensors", pair.file)
    elif pair.file.within and not today:
        settings = settings["text_config"]
        config = config["text_config"] | {"model_type": pair.model_type}
    other_names = getattr(model.config, "attribute_map", {})
    unwritten = [n for n in sorted(_unwritten(config, settings)) if n not in other_names]
    if today:
        return unwritten
    _overlay(config, settings)
    file.write_text(json.dumps(config))
    renamed = pair.file.names or pair.file.transposed or pair.file.dropped
    if renamed and not pair.file.text_only:
        _rename(folder / "model.safetensors", pair.file)
    return unwritten


def _unwritten(config: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and isinstance(config.get(name), dict):
            yield from (f"{name}.{inner}" for inner in _unwritten(config[name], value))
        elif value is not None and config.get(name) != value:
            yield name


def _rename(file: Path, published: File) -> None:
    from safetensors.torch import load_file, save_file

    arrays = {}
    for name, array in load_file(file).items():
        if published.dropped and re.search(published.dropped, name):
            continue
        for pattern, replacement in published.names:
            name = re.sub(pattern, replacement, name)
        swapped = published.transposed and re.search(published.transposed, name)
        arrays[name] = array.transpose(-1, -2).contiguous() if swapped else array
    save_file(arrays, file, metadata={"format": "pt"})


def _overlay(config: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if isinstance(value, Mapping) and isinstance(config.get(name), dict):
            _overlay(config[name], value)
        else:
            config[name] = copy.deepcopy(value)


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """mlx-lm's model of a directory and its configuration. Raises whatever mlx-lm raises."""
    from mlx_lm.utils import load_model

    return load_model(folder)


def theirs(model: Any, ids: list[list[int]]) -> np.ndarray:
    """transformers' logits (prompts, tokens, vocabulary) of prompts of one length, no cache."""
    import torch

    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor(ids), use_cache=False).logits.float().numpy()
    return logits


def prompt(vocabulary: int, tokens: int, seed: int) -> list[int]:
    """Seeded token ids above the special ones; a shorter prompt is the start of a longer one."""
    drawn = np.random.default_rng(seed).integers(10, vocabulary, 1000)
    return [int(each) for each in drawn[:tokens]]
