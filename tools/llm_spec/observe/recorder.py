"""What a trace keeps of a forward pass: parts found by what flows through them, not by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from llm_spec.observe.attention import AttentionCall, widened


class TraceError(Exception):
    """A forward pass that cannot be traced, or whose trace would not be true."""


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The model's layers in order, as mlx-lm counts them."""
    layers = getattr(model, "layers", None)
    if not layers:
        raise TraceError(f"{type(model).__name__} does not say which of its modules are its layers")
    return list(layers)


def layer_names(model: nn.Module) -> list[str]:
    """The module path of every layer, such as `model.layers.0`."""
    paths = {id(module): path for path, module in model.named_modules()}
    return [paths.get(id(layer), f"layers.{i}") for i, layer in enumerate(layers_of(model))]


class PassRecorder:
    """A `recording.Watcher` that keeps the residual stream and hands on every use of attention.

    `on_attention` is called as attention happens; its arrays are lazy still.
    """

    def __init__(
        self,
        model: nn.Module,
        token_ids: list[int],
        on_attention: Callable[[AttentionCall], None],
    ) -> None:
        layers = layers_of(model)
        self.on_attention = on_attention
        self.embeddings: mx.array | None = None  # (1, tokens, width)
        self.embedding_path: str | None = None
        self.hidden_states: list[Any] = [None] * len(layers)
        self.caches: dict[int, Any] = {}
        """The cache that each layer's keys came from."""
        self.unread: dict[int, str] = {}
        """Modules of layers whose softmax was seen, but not what its weights were applied to."""
        self._stream_shape: tuple[int, ...] | None = None
        self._token_ids = token_ids
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._layers = {id(layer): i for i, layer in enumerate(layers)}
        self._owners = _owners(layers)
        self._active: list[nn.Module] = []
        self._used: int | None = None
        self._given_out: dict[int, tuple[Any, Any]] = {}
        self._pending: tuple[mx.array, nn.Module, int | None] | None = None
        self._outputs: list[tuple[int, str, str | None]] = []
        self._previous: tuple[str | None, Any] = (None, None)

    def forget_states(self) -> None:
        """Let go of the arrays noted so far."""
        self.hidden_states = [None] * len(self.hidden_states)
        self.embeddings, self._previous = None, (None, None)

    def norm_and_head(self, vocabulary: int) -> tuple[str | None, str | None]:
        """Paths of the module that made the logits, and of the one whose output it was given."""
        found = [(norm, path) for width, path, norm in self._outputs if width == vocabulary]
        return found[-1] if found else (None, None)

    # Modules

    def entered(self, module: nn.Module, *args: Any, **_: Any) -> None:
        given = _first(args)
        if given is not None and self._are_token_ids(given) and not module.children():
            self._check_vocabulary(module)
        elif given is not None:
            self._note_layers_used_in_parts(module, given)
        self._active.append(module)

    def left(self, output: Any, module: nn.Module, *args: Any, **_: Any) -> None:
        while self._active and self._active.pop() is not module:
            pass  # a module that caught an exception of one of its parts
        if self._pending is not None and self._pending[1] is module:
            self._give_up()
        if id(module) in self._layers:
            self.hidden_states[self._layers[id(module)]] = snapshot(output)
        given = _first(args)
        if given is None or not isinstance(output, mx.array):
            return
        path = self._paths.get(id(module))
        if self._are_token_ids(given):
            if self._stream_shape is None and output.ndim > given.ndim:
                self.embeddings, self.embedding_path = output[...], path
                self._stream_shape = output.shape
        elif path is not None:
            norm = self._previous[0] if self._previous[1] is given else None
            self._outputs.append((output.shape[-1], path, norm))
        if self._previous[1] is not output:
            self._previous = (path, output)  # not the parent that returns it too

    def _check_vocabulary(self, module: nn.Module) -> None:
        rows = module.weight.shape[0] if "weight" in module else 0
        outside = [token for token in self._token_ids if not 0 <= token < rows]
        if self._stream_shape is None and rows and outside:
            raise TraceError(
                f"token id {outside[0]} is outside the vocabulary: "
                f"{self._paths.get(id(module))} has {rows} rows"
            )

    def _note_layers_used_in_parts(self, module: nn.Module, given: mx.array) -> None:
        """A model may use the parts of its layers without calling the layers: then what the first
        part of a layer is given is what the layer before it gave."""
        owner = self._owners.get(id(module))
        inside = any(id(part) in self._owners for part in self._active)
        if inside or id(module) in self._layers:
            return
        if owner != self._used and given.shape == self._stream_shape:
            if self._used is not None:
                self.hidden_states[self._used] = given[...]
            self._used = owner

    def _layer(self) -> int | None:
        owners = (self._owners.get(id(module)) for module in reversed(self._active))
        return next((owner for owner in owners if owner is not None), self._used)

    def _are_token_ids(self, array: mx.array) -> bool:
        return array.shape == (1, len(self._token_ids)) and mx.issubdtype(array.dtype, mx.integer)

    # Attention

    def cached(self, output: Any, cache: Any, *_: Any, **__: Any) -> None:
        keys = output[0]
        self._given_out[id(keys)] = keys, cache
        layer = self._layer()
        if layer is not None:
            self.caches.setdefault(layer, cache)

    def fused(self, output: mx.array, q: mx.array, k: mx.array, v: mx.array, **how: Any) -> None:
        layer = self._layer()
        if layer is not None and id(k) in self._given_out:
            self.caches.setdefault(layer, self._given_out[id(k)][1])  # another layer's keys
        mask, sinks = how.get("mask"), how.get("sinks")
        self._attended(
            values=v,
            output=output,
            queries=q,
            keys=k,
            scale=float(how["scale"]),
            mask=mask,
            sinks=sinks,
        )

    def normalised(self, output: mx.array, scores: mx.array, axis: Any = None, **_: Any) -> None:
        last = axis in (-1, scores.ndim - 1, [-1], (-1,))
        queries_and_keys = scores.ndim in (4, 5) and scores.shape[-2] == len(self._token_ids)
        if last and queries_and_keys and scores.shape[0] == 1:
            self._give_up()
            if self._active:
                self._pending = (output[...], self._active[-1], self._layer())

    def multiplied(self, output: mx.array, a: mx.array, b: mx.array, **_: Any) -> None:
        if self._pending is not None and a.shape == self._pending[0].shape and b.ndim >= 4:
            weights, self._pending = self._pending[0], None
            batch, length, size = weights.shape[0], *weights.shape[-2:]
            self._attended(
                values=b.reshape(batch, -1, *b.shape[-2:]),
                output=output.reshape(batch, -1, length, output.shape[-1]),
                weights=weights.reshape(batch, -1, length, size),
            )

    def multiplied_packed(
        self,
        output: mx.array,
        a: mx.array,
        b: mx.array,
        scales: mx.array,
        biases: mx.array | None = None,
        transpose: bool = True,
        *_: Any,
        **how: Any,
    ) -> None:
        if self._pending is not None and not transpose:
            self.multiplied(output, a, mx.dequantize(b, scales, biases, **how))

    def _attended(self, **parts: Any) -> None:
        module = self._paths.get(id(self._active[-1]), "") if self._active else ""
        dtype = parts["output"].dtype
        parts = {n: widened(p) if isinstance(p, mx.array) else p for n, p in parts.items()}
        self.on_attention(AttentionCall(self._layer(), module, dtype, **parts))

    def _give_up(self) -> None:
        if self._pending is not None:
            _, module, layer = self._pending
            if layer is not None:
                self.unread[layer] = self._paths.get(id(module), "")
        self._pending = None


def stream(output: Any, tokens: int) -> mx.array:
    """A layer's output as (tokens, width) float32. Of several parts the first is the stream; where
    there are several streams, they lie side by side."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    axis = 1 if output.shape[1] == tokens else output.shape.index(tokens)
    return mx.moveaxis(output, axis, 0).reshape(tokens, -1).astype(mx.float32)


def snapshot(output: Any) -> Any:
    """`output` with its arrays as they are now."""
    if isinstance(output, mx.array):
        return output[...]
    if isinstance(output, (tuple, list)):
        return type(output)([snapshot(part) for part in output])
    return output


def _first(args: tuple[Any, ...]) -> mx.array | None:
    return args[0] if args and isinstance(args[0], mx.array) else None


def _owners(layers: list[nn.Module]) -> dict[int, int]:
    """Which layer each module is in; modules that layers share are in none."""
    owners: dict[int, int] = {}
    shared = set()
    for i, layer in enumerate(layers):
        for module in layer.modules():
            if owners.setdefault(id(module), i) != i:
                shared.add(id(module))
    return {module: owner for module, owner in owners.items() if module not in shared}
