"""mlx-lm's models without what else its package imports: tokenizers and a hub's client.

`import mlx_lm` imports transformers, which takes seconds of processor time. A model is declared by
mlx_lm.models and mlx_lm.utils alone, and these by MLX.
"""

import importlib.util
import sys
from types import ModuleType

# What mlx_lm.utils imports by name and declaring a model never calls.
UNUSED = {
    "mlx_lm.tokenizer_utils": ("TokenizerWrapper", "load"),
    "huggingface_hub": ("snapshot_download",),
}


def import_models_only() -> None:
    """Let this process import mlx_lm.utils and mlx_lm.models in a tenth of the time.

    For a process that only declares models and then ends: mlx_lm has no `load` or `generate` in it
    afterwards. Does nothing where mlx_lm has been imported.
    """
    spec = importlib.util.find_spec("mlx_lm")
    if spec is None or "mlx_lm" in sys.modules:
        return
    sys.modules["mlx_lm"] = importlib.util.module_from_spec(spec)  # its __init__ is not run
    for name, imported in UNUSED.items():
        module = sys.modules[name] = ModuleType(name)
        vars(module).update(dict.fromkeys(imported))
