"""The two orders of the rows that a rotary embedding turns in pairs: side by side, or half a head
apart.

MLX and transformers have halves, Meta's files and llama.cpp's of its own type have pairs. Rows are
outputs, so packed words, scales, biases and what is added to the outputs all move alike.
"""

import mlx.core as mx


def in_halves(array: mx.array, head_width: int) -> mx.array:
    """Rows (outputs, …) of heads whose pairs lie side by side, with pairs half a head apart."""
    return _regrouped(array, head_width // 2, 2)


def in_pairs(array: mx.array, head_width: int) -> mx.array:
    """Rows (outputs, …) of heads whose pairs lie half a head apart, with pairs side by side."""
    return _regrouped(array, 2, head_width // 2)


def _regrouped(array: mx.array, groups: int, rows: int) -> mx.array:
    heads = array.reshape(-1, groups, rows, *array.shape[1:])  # (heads, groups, rows, …)
    return heads.swapaxes(1, 2).reshape(array.shape)
