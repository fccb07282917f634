"""Another implementation of the same model: transformers, held beside mlx-lm on the same weights.

One tiny seeded model is written by transformers and loaded by mlx-lm's own loader; their logits are
compared at every position. Needs PyTorch (extra: parity). Nothing here imports it before a
comparison starts, and a comparison runs in a process of its own.
"""
