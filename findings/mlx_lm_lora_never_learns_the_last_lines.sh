#!/usr/bin/env bash
# mlx_lm.lora learns the last lines of train.jsonl in no epoch, and always joins the same texts in a batch.
#
# mlx-lm 0.32.2. One expects each epoch to shuffle the texts, so that what is left over of one epoch is
# learned in another. The batches are cut once, and only their order is shuffled; what does not fill a batch
# is left out for ever, without a word. It should be the longest texts, as the texts are sorted before,
# but what is sorted by is the number of keys of a line of JSON: the file keeps its order (mlx-lm issue 596),
# and short texts are padded to their long neighbours. Seen, ten texts in batches of four:
#     epoch 1: [[5, 6, 7, 8], [1, 2, 3, 4]]
#     epoch 2: [[1, 2, 3, 4], [5, 6, 7, 8]]
#     in 100 epochs never: [9, 10]
#     of 100 long texts among 300 short ones: 73% padding; sorted by length: 0.4%
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.24.0' 'numpy==2.4.6'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from itertools import islice
from types import SimpleNamespace

import numpy as np
from mlx_lm.tuner.datasets import CacheDataset, create_dataset
from mlx_lm.tuner.trainer import iterate_batches


class Numbers:
    """Each word of a text is its token."""

    eos_token_id = 0

    def encode(self, text):
        return [int(word) for word in text.split()]


def dataset_of(texts):
    return create_dataset([{"text": text} for text in texts], Numbers(), SimpleNamespace())


def padding(dataset):
    batches = list(iterate_batches(dataset, 4, 2048))
    return 1 - sum(int(lengths[:, 1].sum()) for _, lengths in batches) / sum(batch.size for batch, _ in batches)


np.random.seed(0)
ten = CacheDataset(dataset_of([str(number) for number in range(1, 11)]))  # as mlx_lm.lora passes it
steps = [batch[:, 0].tolist() for batch, _ in islice(iterate_batches(ten, 4, 2048, loop=True), 200)]
print("epoch 1:", steps[:2])
print("epoch 2:", steps[2:4])
never = sorted(set(range(1, 11)) - {text for batch in steps for text in batch})
print("in 100 epochs never:", never)
mixed = dataset_of(["1 " * (31 if place % 4 else 991) for place in range(400)])
as_lora, by_length = padding(CacheDataset(mixed)), padding([mixed.process(line) for line in mixed])
print(f"of 100 long texts among 300 short ones: {as_lora:.0%} padding; sorted by length: {by_length:.1%}")
assert never == [9, 10] and {tuple(batch) for batch in steps} == {(1, 2, 3, 4), (5, 6, 7, 8)}
assert as_lora > 0.5 and by_length < 0.05
PY
