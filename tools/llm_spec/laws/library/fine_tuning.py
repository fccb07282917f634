"""Laws of mlx-lm's fine-tuning: which adapters it loads, and how it shuffles."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from llm_spec.laws.finding import Finding, law, same

WIDTH, RANK, LAYERS = 8, 2, 2
ADAPTERS = {
    "its own": ("layers.0.projection.lora_a", WIDTH),
    "of more layers": (f"layers.{LAYERS}.projection.lora_a", WIDTH),
    "of another width": ("layers.0.projection.lora_a", 2 * WIDTH),
}
"""The name of an adapter's tensor, and how wide the layer is that it was made for."""
TEXTS, SEEDS = 24, (0, 7)


@law
def adapters_of_another_base_are_refused() -> Finding:
    """`load_adapters` raises where the model has no tensor of a name and shape."""
    loaded = [what for what, (name, width) in ADAPTERS.items() if _loads(name, width)]
    return same("adapters that load", loaded, ["its own"])


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(WIDTH, WIDTH)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [Layer() for _ in range(LAYERS)]


def _loads(name: str, width: int) -> bool:
    from mlx_lm.tuner import utils  # here: it takes half a second

    parameters = {"rank": RANK, "scale": 1.0, "dropout": 0.0, "keys": ["projection"]}
    config = {"num_layers": LAYERS, "lora_parameters": parameters, "fine_tune_type": "lora"}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        (path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        mx.save_safetensors(str(path / "adapters.safetensors"), {name: mx.ones((width, RANK))})
        try:
            utils.load_adapters(Model(), directory)
        except (ValueError, IndexError):  # the second: mlx-lm 0.28
            return False
    return True


@law
def batches_follow_their_seed() -> Finding:
    """One seed gives one order of batches, whatever was drawn before, and another seed another."""
    orders = {seed: {_order(seed, before) for before in (1, 2)} for seed in SEEDS}
    wrong = [f"seed {seed}" for seed, seen in orders.items() if len(seen) > 1]
    wrong += ["all seeds"] * (not wrong and orders[SEEDS[0]] == orders[SEEDS[1]])
    return same("orders that do not follow the seed", wrong, [])


def _order(seed: int, before: int) -> tuple[int, ...]:
    """The texts as they come, one per batch, after NumPy was seeded with `before`."""
    from mlx_lm.tuner import trainer  # here: it takes half a second

    texts = [([number] * 4, 0) for number in range(TEXTS)]
    kept = np.random.get_state()  # noqa: NPY002  what mlx-lm shuffles with
    try:
        np.random.seed(before)  # noqa: NPY002
        batches = trainer.iterate_batches(texts, 1, 64, seed=seed)
        return tuple(int(batch[0, 0].item()) for batch, _ in batches)
    finally:
        np.random.set_state(kept)  # noqa: NPY002
