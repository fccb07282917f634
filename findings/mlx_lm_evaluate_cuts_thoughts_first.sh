#!/usr/bin/env bash
# mlx_lm.evaluate ends the answer of a model that thinks at the first comma of its thoughts.
#
# mlx-lm 0.32.2, lm_eval 0.4.13, CPU. A task's stop strings are for the answer. mlx_lm.evaluate cuts a
# text at the first of them, and then looks for the end of the thoughts, which is cut off by then: what
# it scores is the beginning of the thoughts. Natural Questions and TriviaQA stop at a newline, a full
# stop or a comma: an answer that follows thoughts is hardly ever seen there. lm_eval's own models
# remove thoughts first. The model here is a chain of words (its embeddings and its head are
# a permutation), asked by lm_eval's own Natural Questions task. Seen:
#     the model writes: '<think> let me see , it is a city in France </think> Paris'
#     mlx_lm.evaluate:  '<think> let me see ', exact match 0.0
#     lm_eval:          'Paris'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0' 'lm_eval==0.4.13' 'datasets==5.2.0'
cd "$folder"
export HF_HOME=$folder/hub HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$folder/venv/bin/python" - 2>errors.txt <<'PY' || { tail -n 20 errors.txt >&2; exit 1; }
import contextlib
import io
import json
import re
from pathlib import Path

import lm_eval
import mlx.core as mx
import yaml
from lm_eval.models.utils import postprocess_generated_text
from mlx.utils import tree_flatten
from mlx_lm import generate
from mlx_lm.evaluate import MLXLM
from mlx_lm.models import llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

mx.set_default_device(mx.cpu)
chain = ": <think> let me see , it is a city in France </think> Paris <eos>".split()
words = chain + ["<unk>"] * (len(chain) % 2)  # an even width, for the rotary embedding
size = len(words)
fast = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, "<eos>"))
fast.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<eos>")
tokenizer.save_pretrained("model")
config = dict(
    model_type="llama", hidden_size=size, num_hidden_layers=1, intermediate_size=2, vocab_size=size,
    num_attention_heads=1, rms_norm_eps=1e-6, tie_word_embeddings=False,
)
model = llama.Model(llama.ModelArgs.from_dict(config))
weights = dict(tree_flatten(model.parameters()))
weights["model.embed_tokens.weight"] = mx.eye(size)
weights["lm_head.weight"] = mx.roll(mx.eye(size), 1, axis=0)  # row i + 1 answers to word i
for name in ("self_attn.o_proj", "mlp.down_proj"):  # the layer adds nothing
    weights[f"model.layers.0.{name}.weight"] *= 0
mx.save_safetensors("model/model.safetensors", weights)
Path("model/config.json").write_text(json.dumps(config))

tasks = Path(lm_eval.__file__).parent / "tasks/nq_open/nq_open.yaml"
Path("questions.jsonl").write_text(
    json.dumps({"question": "what is the capital of France", "answer": ["Paris"]})
)
files = {"validation": str(Path("questions.jsonl").resolve())}
task = yaml.safe_load(tasks.read_text()) | {"dataset_path": "json"}
task |= {"dataset_kwargs": {"data_files": files}, "training_split": None}
lm = MLXLM("model")
with contextlib.redirect_stdout(io.StringIO()):  # speeds
    found = lm_eval.simple_evaluate(
        lm, tasks=[task], apply_chat_template=False, bootstrap_iters=0
    )
answer = found["samples"]["nq_open"][0]["resps"][0][0]
score = found["results"]["nq_open"]["exact_match,remove_whitespace"]
written = generate(lm._model, lm.tokenizer, "A:", max_tokens=64)
stops = task["generation_kwargs"]["until"]
right = postprocess_generated_text(written, stops, lm.tokenizer.think_end).strip()
print("the model writes:", repr(written))
print(f"mlx_lm.evaluate:  {answer!r}, exact match {score}")
print("lm_eval:         ", repr(right))
assert written.endswith("</think> Paris") and right == "Paris"
assert answer == re.split("[\n.,]", written)[0] and score == 0
PY
