"""An adapter (LoRA, DoRA) beside its base: what it changes, and what fusing makes of both.

Loaded and fused by mlx-lm's own functions, as `mlx_lm.fuse` does.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import dequantize_model

from llm_spec.model.float32 import float32_fits, shared_copy, unpacked, widen
from llm_spec.model.storage import Way, grids_of, storage_of
from llm_spec.numerics import tolerances
from llm_spec.observe.hooks import patched
from llm_spec.observe.rounding import rounding_noise
from llm_spec.quality.arrays import share_beyond


@dataclass
class Adapted:
    """A base and its adapter. Models are made when first asked for, and once.

    `load` gives the base as stored, another object each time; `adapter` is the directory;
    `token_ids` are what logits are computed for: (tokens, vocabulary) float32.
    """

    load: Callable[[], nn.Module]
    adapter: Path
    token_ids: list[int]

    @cached_property
    def base(self) -> np.ndarray:
        """Logits of the base alone."""
        return self._logits(_to_compute_with(self.load()))

    @cached_property
    def model(self) -> nn.Module:
        """Base plus adapter, in float32 but for what is packed."""
        return _to_compute_with(self._adapted(_widened(self.load())))

    @cached_property
    def plus(self) -> np.ndarray:
        """Logits of base plus adapter, not fused."""
        return self._logits(self.model)

    @cached_property
    def fused(self) -> nn.Module:
        """Fused as `mlx_lm.fuse` stores it: what was packed is packed again."""
        return _fuse(self._adapted(self.load()), dequantize=False)

    @cached_property
    def fused_logits(self) -> np.ndarray:
        """Logits of the fused model, computed in float32."""
        return self._logits(_to_compute_with(_fuse(self._adapted(self.load()), dequantize=False)))

    @cached_property
    def unpacked_logits(self) -> np.ndarray:
        """Logits of the dequantised fuse, made and computed in float32."""
        with _unpacking_to_float32():
            model = _fuse(_widened(self._adapted(_widened(self.load()))), dequantize=True)
            return self._logits(_widened(dequantize_model(model)))

    @cached_property
    def rounding(self) -> float:
        """Bound on the distance of logits that the same sums in another order may show."""
        noise = rounding_noise(self.model, lambda: self._logits(self.model), self.plus)
        return tolerances.moved_by_rounding(mx.float32, noise)

    @property
    def is_packed(self) -> bool:
        """Whether any adapted module is packed again when it is fused."""
        return any("scales" in module for module in self.fused.modules())

    @property
    def settings(self) -> dict[str, Any]:
        """What adapter_config.json says."""
        path = self.adapter / "adapter_config.json"
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    @property
    def replaces_weights(self) -> bool:
        """Whether whole weights were trained ("full"), so that there is nothing to fuse."""
        return self.settings.get("fine_tune_type") == "full"

    def missed_targets(self) -> list[str]:
        """Target modules that the base lacks, and adapted ones without tensors in the file."""
        if self.replaces_weights:
            return []
        model, settings = self.load(), self.settings
        layers = model.layers[-max(settings["num_layers"], 0) :]
        known = {path for each in (*layers, model) for path, _ in each.named_modules()}
        keys = settings["lora_parameters"].get("keys") or []
        missing = [f"{key} is no module of the base" for key in keys if key not in known]
        loaded: Any = mx.load(str(self.adapter / "adapters.safetensors"))
        for path, module in _adapted_modules(self.model):
            leaves = [name for name in ("lora_a", "lora_b", "m") if name in module]
            lacking = [leaf for leaf in leaves if f"{path}.{leaf}" not in loaded]
            missing += [f"{path} lacks {', '.join(lacking)} in the file"] if lacking else []
        return missing

    def beyond_storage(self) -> dict[str, float]:
        """Of each fused matrix, the share of numbers that are not base plus adapter, rounded as it
        is stored; by path. NaN where the steps of its storage are not known.

        mlx-lm adds in the format of the base's weights: a sum rounds what it adds and itself, by
        half an eps each; unpacking, what starts each group; DoRA's norm of a row is also a square,
        a sum and a root: 1.5 eps at most.
        """
        base, fused = dict(self.load().named_modules()), dict(self.fused.named_modules())
        ways, grids = storage_of(self.fused), grids_of(self.fused)
        shares = {}
        for path, module in _adapted_modules(self.model):
            true = effective_weight(module)
            before = stored_weight(base[path])
            held = base[path].get("scales", base[path].weight).dtype
            eps = mx.finfo(held if mx.issubdtype(held, mx.floating) else mx.bfloat16).eps
            rounded = mx.abs(true) + mx.abs(true - before) + _unpacking(base[path])
            slack = (2 if "m" in module else 1) * eps * rounded
            way: Way = ways[f"{path}.weight"]
            grid = grids.get(f"{path}.weight")
            shares[path] = share_beyond(stored_weight(fused[path]), true, way, grid, slack)
        return shares

    def _adapted(self, model: nn.Module) -> nn.Module:
        adapted: nn.Module = load_adapters(model, str(self.adapter))
        adapted.eval()
        return adapted

    def _logits(self, model: nn.Module) -> np.ndarray:
        logits = model(mx.array([self.token_ids]))
        logits = logits[0] if isinstance(logits, tuple) else logits
        return np.array(logits[0].astype(mx.float32))


def effective_weight(module: Any) -> mx.array:
    """The matrix that an adapted module multiplies by, in float32: what it makes of unit vectors.

    (outputs, inputs); (experts, outputs, inputs) of experts; (rows, width) of an embedding.
    """
    if any("scales" in each for each in module.modules()):
        alone = nn.Module()
        alone.it = shared_copy(module)
        module = unpacked(alone).it
    if "embedding" in module:
        table: mx.array = module(mx.arange(module.lora_a.shape[0]))
        return table
    if module.lora_a.ndim == 3:
        experts, _, inputs = module.lora_a.shape
        indices = mx.broadcast_to(mx.arange(experts), (inputs, experts))
        given = module(mx.eye(inputs)[:, None, None], indices)[:, :, 0]
        return (given - _bias(module, given)).transpose(1, 2, 0)
    given = module(mx.eye(module.lora_a.shape[0]))
    return (given - _bias(module, given)).T


def _bias(module: Any, like: mx.array) -> mx.array:
    return module.linear.bias if "bias" in module.linear else mx.zeros_like(like[:1])


def stored_weight(module: Any) -> mx.array:
    """The matrix of a module in float32, unpacked where it is packed."""
    if "scales" not in module:
        weight: mx.array = module.weight.astype(mx.float32)
        return weight
    scales, biases = module.scales, module.get("biases")
    if biases is not None:
        scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
    how = module.group_size, module.bits, module.mode
    return mx.dequantize(module.weight, scales, biases, *how).astype(mx.float32)


def _unpacking(module: Any) -> mx.array:
    """What a number is added to where it is unpacked, at most; 0 where it is not packed."""
    if "biases" not in module:
        return mx.zeros(1)
    return mx.repeat(mx.abs(module.biases.astype(mx.float32)), module.group_size, -1)


def _adapted_modules(model: nn.Module) -> list[tuple[str, Any]]:
    found = [(path, module) for path, module in model.named_modules() if "lora_a" in module]
    return [(path, module) for path, module in found if isinstance(module.lora_a, mx.array)]


def _fuse(model: nn.Module, dequantize: bool) -> nn.Module:
    """As `mlx_lm.fuse` does."""
    fused = [
        (path, module.fuse(dequantize=dequantize))
        for path, module in model.named_modules()
        if hasattr(module, "fuse")
    ]
    if fused:
        model.update_modules(tree_unflatten(fused))
    return model


@contextmanager
def _unpacking_to_float32() -> Iterator[None]:
    """Let mx.dequantize give float32. Of mxfp4 and its like it gives bfloat16, to which mlx-lm then
    rounds base plus adapter."""
    dequantize = mx.dequantize

    def to_float32(*packed: Any, **how: Any) -> mx.array:
        return dequantize(*packed, **{"dtype": mx.float32, **how})

    with patched([(mx, "dequantize", to_float32)]):
        yield


def _to_compute_with(model: nn.Module) -> nn.Module:
    """`model` in float32, unpacked: that is exact, and what a device's own products of packed
    matrices round is no fault of an adapter. A GPU without room for it keeps what is packed."""
    fits = mx.default_device() == mx.cpu or float32_fits(model)
    model = _widened(model)
    return _widened(dequantize_model(model)) if fits else model


def _widened(model: nn.Module) -> nn.Module:
    mx.eval(widen(model).parameters())
    return model
