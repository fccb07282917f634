#!/usr/bin/env bash
# mlx_lm.evaluate gives any model without a beginning-of-sequence token 100 % on BLiMP.
#
# mlx-lm 0.32.2, lm_eval 0.4.13, CPU, a tiny random llama. BLiMP asks which of two sentences is likelier,
# the good one first, with an empty context. lm_eval's interface says that such a text is conditioned on
# the BOS or EOS token, and its own models do so. MLXLM.loglikelihood takes an empty context for a
# question that was cut away, and scores each answer minus infinity: the first of equals is chosen. The
# tokenizers of GPT-2, Pythia and SmolLM2 add no BOS, nor does Qwen's, which meets this with
# --no-apply-chat-template (an empty turn of the user is a context). XNLI and PAWS-X ask with an empty
# context, too: their accuracy is the share of the first label. Seen, with lm_eval's own BLiMP task over
# eight pairs of sentences, and the pairs turned round:
#                    good first   bad first   log-likelihoods of the first pair
#     mlx_lm.evaluate     1.000       1.000   -inf, -inf
#     after <eos>         0.500       0.500   -7.03, -6.60
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0' 'lm_eval==0.4.13' 'datasets==5.2.0'
cd "$folder"
export HF_HOME=$folder/hub HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"$folder/venv/bin/python" - 2>errors.txt <<'PY' || { tail -n 20 errors.txt >&2; exit 1; }
import json
from pathlib import Path

import lm_eval
import mlx.core as mx
import numpy as np
import yaml
from mlx.utils import tree_flatten
from mlx_lm.evaluate import MLXLM
from mlx_lm.models import llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAIRS = [
    ("the cat sleeps", "the cat sleep"), ("the cats sleep", "the cats sleeps"),
    ("the dog runs", "the dog run"), ("the dogs run", "the dogs runs"),
    ("a cat sees a dog", "a cat see a dog"), ("the cats see a dog", "the cats sees a dog"),
    ("the dog that sleeps runs", "the dog that sleeps run"),
    ("the dogs that sleep run", "the dogs that sleep runs"),
]

mx.set_default_device(mx.cpu)
words = ["<eos>", *sorted({word for pair in PAIRS for text in pair for word in text.split()})]
fast = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, "<eos>"))
fast.pre_tokenizer = pre_tokenizers.Whitespace()
PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<eos>").save_pretrained("model")
config = dict(
    model_type="llama", hidden_size=32, num_hidden_layers=2, intermediate_size=64,
    num_attention_heads=4, rms_norm_eps=1e-6, vocab_size=len(words), tie_word_embeddings=False,
)
mx.random.seed(0)
model = llama.Model(llama.ModelArgs.from_dict(config))
Path("model/config.json").write_text(json.dumps(config))
mx.save_safetensors("model/model.safetensors", dict(tree_flatten(model.parameters())))
lines = [json.dumps({"sentence_good": good, "sentence_bad": bad}) for good, bad in PAIRS]
Path("pairs.jsonl").write_text("\n".join(lines))

template = Path(lm_eval.__file__).parent / "tasks/blimp/_template_yaml"
blimp = yaml.safe_load(template.read_text()) | {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"train": str(Path("pairs.jsonl").resolve())}},
}
turned = blimp["doc_to_choice"].replace("good", "?").replace("bad", "good").replace("?", "bad")
tasks = [{**blimp, "task": "good"}, {**blimp, "task": "bad", "doc_to_choice": turned}]
lm = MLXLM("model")
found = lm_eval.simple_evaluate(
    lm, tasks=tasks, apply_chat_template=lm.use_chat_template, bootstrap_iters=0
)
told = {name: result["acc,none"] for name, result in found["results"].items()}
scores = [response[0][0] for response in found["samples"]["good"][0]["resps"]]


def log_likelihood(text):
    """Of all tokens of the text after <eos>, in NumPy from the model's logits."""
    ids = [0, *fast.encode(text).ids]
    logits = np.array(lm._model(mx.array(ids)[None])[0], np.float64)  # (tokens, vocabulary)
    rows = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(row[id_] for row, id_ in zip(rows, ids[1:]))


own = np.array([[log_likelihood(text) for text in pair] for pair in PAIRS])
share = float((own[:, 0] > own[:, 1]).mean())
print("               good first   bad first   log-likelihoods of the first pair")
print(f"mlx_lm.evaluate     {told['good']:.3f}       {told['bad']:.3f}   {scores[0]}, {scores[1]}")
print(f"after <eos>         {share:.3f}       {1 - share:.3f}   {own[0, 0]:.2f}, {own[0, 1]:.2f}")
assert told == {"good": 1.0, "bad": 1.0} and scores == [-np.inf, -np.inf]
assert np.isfinite(own).all() and 0 < share < 1
PY
