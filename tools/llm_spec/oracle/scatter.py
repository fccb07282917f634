"""Seeded weights for a transformers model, such that no part of it passes empty."""

from __future__ import annotations

import math
import zlib
from typing import Any

STEEP = 0.3  # scatter of a bias that chooses experts: less, and it changes no choice


def scatter(model: Any, seed: int, router_bias: float = 0.0) -> None:
    """Replace the parameters of a torch module, and the buffers that are biases, by seeded ones.

    What a constructor leaves constant (norms, biases, sinks) is scattered around its constant. Each
    array has a key of its own, made of the seed and its name. `router_bias` is added to each bias
    by which experts are chosen.
    """
    import torch

    arrays = dict(model.named_parameters())
    arrays |= {name: each for name, each in model.named_buffers() if name.endswith("bias")}
    embeddings = {
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Embedding)
    }
    with torch.no_grad():
        for name, array in arrays.items():
            if not array.is_floating_point():
                continue
            generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
            drawn = _drawn(name, array, name in embeddings, generator)
            array.copy_(drawn + router_bias if _chooses(name) else drawn)


def _drawn(name: str, array: Any, embeds: bool, generator: Any) -> Any:
    import torch

    last = name.rsplit(".", 1)[-1]
    noise = torch.randn(array.shape, generator=generator)
    if last in ("A_log", "A_logs"):
        return torch.log(1 + 7 * torch.rand(array.shape, generator=generator))
    if last == "dt_bias":
        # softplus of this lies between 0.01 and 0.3: memories of a few to a hundred tokens.
        spread = torch.rand(array.shape, generator=generator) * math.log(30)
        step = 0.01 * torch.exp(spread)
        return step + torch.log(-torch.expm1(-step))
    if embeds:
        return 0.5 * noise
    if array.ndim >= 2:
        is_convolution = "conv" in name
        fan_in = math.prod(array.shape[1:]) if is_convolution else max(array.shape[-2:])
        return noise / math.sqrt(fan_in)
    if _chooses(name):
        return STEEP * noise
    return array.float() + 0.1 * noise


def _chooses(name: str) -> bool:
    return "correction_bias" in name or "expert_bias" in name
