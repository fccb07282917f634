#!/usr/bin/env bash
# A query that may see no key sees all of them, or nothing, or NaN: it depends on how that is said.
#
# MLX 0.32.4, Linux x86-64, CPU backend. mx.fast.scaled_dot_product_attention takes a mask as booleans or
# as numbers to add, and one expects False and -inf to mean the same. In a row where all is hidden (a
# padded place on the left of a batch) the boolean mask gives the mean of all values, hidden ones too; the
# additive one gives NaN. A NaN there does not stay there: one layer up, its key is hidden and its
# weight is 0, but 0 times NaN is NaN, and the sentence beside the padding is lost. With sinks, both masks
# give 0. Seen, values 0 to 3, row 0 hides all and row 1 hides keys 2 and 3, then the second layer's row 1:
#     boolean: row 0 1.5, row 1 0.5; second layer 0.5
#     additive: row 0 nan, row 1 0.5; second layer nan
#     boolean with a sink: row 0 0.0
#     additive with a sink: row 0 0.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import math

import mlx.core as mx

mx.set_default_device(mx.cpu)
visible = mx.array([[False] * 4, [True, True, False, False]])
masks = {"boolean": visible, "additive": mx.where(visible, 0.0, -mx.inf)}
keys, values = mx.zeros((1, 1, 4, 8)), mx.broadcast_to(mx.arange(4.0)[None, None, :, None], (1, 1, 4, 8))


def attended(mask, queries=2, values=values, **more):
    """The first feature of every row; all scores are equal, so a row is a mean of what it sees."""
    count = values.shape[2]
    out = mx.fast.scaled_dot_product_attention(
        mx.zeros((1, 1, queries, 8)), keys[:, :, :count], values, scale=1.0, mask=mask, **more
    )
    return out, out[0, 0, :, 0].tolist()


seen = {}
for name, mask in masks.items():
    out, rows = attended(mask)
    hides_row_0 = mx.array([[False, True]])
    if name == "additive":
        hides_row_0 = mx.where(hides_row_0, 0.0, -mx.inf)
    above = attended(hides_row_0, queries=1, values=out)[1][0]  # row 1 sees itself alone
    seen[name] = (*rows, above)
    print("{}: row 0 {:.1f}, row 1 {:.1f}; second layer {:.1f}".format(name, *seen[name]))
for name, mask in masks.items():
    seen[name, "sink"] = attended(mask, sinks=mx.zeros((1,)))[1][0]
    print(f"{name} with a sink: row 0 {seen[name, 'sink']}")
assert seen["boolean"] == (1.5, 0.5, 0.5)
assert seen["additive"][1] == 0.5
assert math.isnan(seen["additive"][0]) and math.isnan(seen["additive"][2])
assert seen["boolean", "sink"] == seen["additive", "sink"] == 0
PY
