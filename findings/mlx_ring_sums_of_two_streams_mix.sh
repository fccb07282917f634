#!/usr/bin/env bash
# Sums of two MLX streams mix in a ring, so a generation that ends early spoils what is computed next.
#
# mlx 0.32.4, mlx-lm 0.32.2, CPU, two ranks of a ring on one machine. Each rank asks for a sum of ones in
# one stream and of hundreds in another, and then waits for both. Nothing is raised; each stream may get
# what the other rank sent for the other one. mlx-lm computes in a stream of its own, one token ahead:
# who leaves its loop and runs the sharded model again gets other logits, unless that stream is waited
# for. Seen:
#     sums of two streams: 163 to 236 of 300 wrong, in five runs
#     logits after a generation that was left: 11 and 12 of 60 wrong; after waiting for its stream: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
cat >rank.py <<'PY'
import importlib

import mlx.core as mx
from mlx_lm.models.llama import Model, ModelArgs

mx.set_default_device(mx.cpu)
group = mx.distributed.init(strict=True, backend="ring")
generate = importlib.import_module("mlx_lm.generate")
streams = [mx.new_stream(mx.cpu) for _ in range(2)]
wrong, tries = 0, 300
for _ in range(tries):
    sums = [
        mx.distributed.all_sum(mx.full((4096,), number), group=group, stream=stream)
        for number, stream in zip((1.0, 100.0), streams)
    ]
    mx.eval(sums)
    right = all((each == 2 * number).all().item() for each, number in zip(sums, (1.0, 100.0)))
    wrong += not right
if group.rank() == 0:
    print(f"sums of two streams: {wrong} of {tries} wrong", flush=True)
assert wrong, "no sum was wrong"

args = ModelArgs(
    model_type="llama", hidden_size=64, num_hidden_layers=16, intermediate_size=96, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, rms_norm_eps=1e-5, vocab_size=320)
mx.random.seed(0)
model = Model(args)
mx.eval(model.parameters())
model.shard(group)
ids = mx.arange(40)
before = model(ids[None])
mx.eval(before)
seen = {}
for waits in (False, True):
    seen[waits] = 0
    for _ in range(60):
        steps = generate.generate_step(ids, model, max_tokens=8)
        for _, _ in zip(range(2), steps):
            pass
        steps.close()
        if waits:
            mx.synchronize(generate.generation_stream)
        after = model(ids[None])
        seen[waits] += not mx.allclose(after, before, atol=1e-4).item()
        mx.synchronize(generate.generation_stream)
        mx.synchronize()
if group.rank() == 0:
    print(f"logits after a generation that was left: {seen[False]} of 60 wrong; "
          f"after waiting for its stream: {seen[True]} of 60 wrong", flush=True)
assert seen[False] > 0 == seen[True], seen
PY
"$folder/venv/bin/python" - >hosts.json <<'PY'
import json, socket

probes = [socket.socket() for _ in range(2)]
for probe in probes:
    probe.bind(("127.0.0.1", 0))
print(json.dumps([[f"127.0.0.1:{probe.getsockname()[1]}"] for probe in probes]))
PY
MLX_RANK=1 MLX_HOSTFILE=hosts.json timeout 120 "$folder/venv/bin/python" rank.py &
MLX_RANK=0 MLX_HOSTFILE=hosts.json timeout 120 "$folder/venv/bin/python" rank.py
wait $!
