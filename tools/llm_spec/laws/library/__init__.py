"""Laws of mlx-lm's own objects: caches, samplers, detokenizers and smaller parts."""
