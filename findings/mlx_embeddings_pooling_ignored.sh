#!/usr/bin/env bash
# mlx-embeddings averages the tokens of a BERT model whose own files say to take the first one.
#
# mlx-embeddings 0.1.0, mlx-vlm 0.7.10, mlx-lm 0.32.2, MLX 0.32.4. A sentence-transformers model states
# how to make one vector of many in 1_Pooling/config.json. The BGE models take the [CLS] token. The
# bert and xlm_roberta ports never read that file and average all tokens: the vectors have the right
# width and length 1, searches among them give something, and a search in an index made elsewhere
# from the same model compares two different things. Seen, for a tiny random model that says CLS, the
# cosine of text_embeds with the [CLS] state and with the mean of the states:
#     the cat sat on a mat: CLS 0.786, mean 1.000
#     a mat: CLS 0.819, mean 1.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0' 'requests==2.34.2' 'pillow==13.0.0'
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps 'mlx-embeddings==0.1.0' 'mlx-vlm==0.7.10'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import json
from pathlib import Path

import mlx.core as mx
import mlx_embeddings
from mlx.utils import tree_flatten
from mlx_embeddings.models import bert

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "cat", "sat", "on", "a", "mat"]
config = dict(
    model_type="bert", architectures=["BertModel"], vocab_size=len(WORDS), hidden_size=32,
    num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=32,
    type_vocab_size=2, layer_norm_eps=1e-12, hidden_act="gelu", pad_token_id=0,
)
transformer = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}
first = {
    "word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False,
}
model = Path("model")
(model / "1_Pooling").mkdir(parents=True)
(model / "vocab.txt").write_text("\n".join(WORDS))
for name, content in {
    "config.json": config, "modules.json": [transformer, pooling], "1_Pooling/config.json": first,
    "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True},
}.items():
    (model / name).write_text(json.dumps(content))
mx.random.seed(0)
weights = bert.Model(bert.ModelArgs.from_dict(config)).parameters()
mx.save_safetensors(str(model / "model.safetensors"), dict(tree_flatten(weights)))


def cosine(one, other):
    return float((one * other).sum() / mx.linalg.norm(one) / mx.linalg.norm(other))


loaded, tokenizer = mlx_embeddings.load(str(model))
for text in ("the cat sat on a mat", "a mat"):
    out = mlx_embeddings.generate(loaded, tokenizer, texts=[text])
    states, vector = out.last_hidden_state[0], out.text_embeds[0]
    with_first, with_mean = cosine(vector, states[0]), cosine(vector, states.mean(axis=0))
    print(f"{text}: CLS {with_first:.3f}, mean {with_mean:.3f}")
    assert with_first < 0.95 and with_mean > 0.9999
PY
