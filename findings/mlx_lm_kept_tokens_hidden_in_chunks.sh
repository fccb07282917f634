#!/usr/bin/env bash
# A rotating KV cache keeps its first tokens, and its mask hides them while a prompt is read.
#
# MLX 0.32.4, mlx-lm 0.32.2, Linux x86-64, CPU. RotatingKVCache(keep=4) is what --max-kv-size makes: the
# first four tokens stay in memory because attention leans on them. Its mask knows the window and not
# what is kept: of a chunk that is read after the window has filled, the first token sees the kept ones
# and the later ones do not. A single token, in decoding, sees them again. Seen, with a window of 8, 2
# kept, and token 15 the last of a chunk of four:
#     the keys handed out:   0 1 7 8 9 10 11 12 13 14 15
#     the last query's:      8 9 10 11 12 13 14 15
#     one token later:       0 1 and 6 others
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import mlx.core as mx
from mlx_lm.models.cache import RotatingKVCache

WINDOW, KEPT = 8, 2
cache, fed = RotatingKVCache(max_size=WINDOW, keep=KEPT), 0


def feed(count):
    """The keys that the cache hands out, and those that its mask shows to the last query."""
    global fed
    mask = cache.make_mask(count, window_size=WINDOW, return_array=True)
    numbers = mx.arange(fed, fed + count, dtype=mx.float32).reshape(1, 1, count, 1)
    fed += count
    keys = [int(key) for key in cache.update_and_fetch(numbers, numbers)[0].reshape(-1).tolist()]
    seen = keys if mask is None else [k for k, shown in zip(keys, mask[-1].tolist()) if shown]
    return keys, seen


feed(12)
keys, seen = feed(4)
_, later = feed(1)
print("the keys handed out:  ", *keys)
print("the last query's:     ", *seen)
print("one token later:      ", *[key for key in later if key < KEPT], "and", len(later) - KEPT, "others")
assert keys[:KEPT] == [0, 1] and not {0, 1} & set(seen) and {0, 1} <= set(later)
PY
