"""What every comparison imports, once for all: the process that forks them loads this.

MLX and PyTorch are imported and compute nothing here, for their threads do not survive a fork.
"""

import importlib

MODULES = (
    "numpy",
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.masking_utils",
    "transformers.cache_utils",
)

for name in MODULES:
    importlib.import_module(name)
