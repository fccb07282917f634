#!/usr/bin/env bash
# llama.cpp does not load a GGUF that mlx_lm.fuse wrote; mended, it splits a sixth of all words otherwise.
#
# mlx-lm 0.32.2, llama.cpp b11549 (xllamacpp 2026.10.11549), CPU, a tiny float16 llama with a BPE tokenizer
# as Llama 2 and Mistral have it. mlx_lm.fuse --export-gguf writes the tokens' types as uint32, where GGUF's
# specification has int32, and llama.cpp refuses to load the file. Written anew with int32, the file loads, and words
# are split as no model was trained: all tokens have the score -1000, so llama.cpp joins from the left, and
# not by the order of the merges. That shows as worse answers, and in no message. With falling scores
# llama.cpp splits all words as tokenizers does. Seen, over the different words of mlx-lm's own LORA.md:
#     as written:         failed to load model: invalid gguf type for tokenizer.ggml.token_type
#     types as int32:     125 of 742 words are split otherwise: 'supports' is not ▁sup por ts but ▁sup port s
#     and scores as well: 0 of 742 words are split otherwise
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0' 'tokenizers==0.23.3' 'xllamacpp==2026.10.11549'
cd "$folder"
cat >write.py <<'PY'
"""A tiny model with an adapter, in the folders that mlx_lm.fuse takes."""
import json
from pathlib import Path

import mlx.core as mx
import mlx_lm
from mlx.utils import tree_flatten
from mlx_lm.models import llama
from mlx_lm.tuner.utils import linear_to_lora_layers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

mx.set_default_device(mx.cpu)
text = (Path(mlx_lm.__file__).parent / "LORA.md").read_text()
special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
trained = Tokenizer(models.BPE())
trained.pre_tokenizer = pre_tokenizers.Metaspace()
trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
trained.train_from_iterator([text], trainer)
bpe = json.loads(trained.to_str())["model"]
merges = [tuple(pair) for pair in bpe["merges"]]
fast = Tokenizer(
    models.BPE(bpe["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
)
fast.normalizer = normalizers.Sequence(
    [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
)
PreTrainedTokenizerFast(
    tokenizer_object=fast, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
).save_pretrained("model")
config = dict(
    model_type="llama", hidden_size=64, num_hidden_layers=1, intermediate_size=64, rms_norm_eps=1e-6,
    num_attention_heads=4, num_key_value_heads=4, vocab_size=fast.get_vocab_size(),
    tie_word_embeddings=False, rope_theta=10000.0, max_position_embeddings=512,
)
model = llama.Model(llama.ModelArgs.from_dict(config))
model.set_dtype(mx.float16)
Path("model/config.json").write_text(json.dumps(config))
mx.save_safetensors("model/model.safetensors", dict(tree_flatten(model.parameters())))
lora = {"num_layers": 1, "lora_parameters": {"rank": 2, "scale": 1.0, "dropout": 0.0}}
linear_to_lora_layers(model, 1, lora["lora_parameters"])
adapter = {name: array for name, array in tree_flatten(model.parameters()) if "lora_" in name}
Path("adapter").mkdir()
Path("adapter/adapter_config.json").write_text(json.dumps(lora))
mx.save_safetensors("adapter/adapters.safetensors", adapter)
words = [(word, fast.encode(word).ids) for word in dict.fromkeys(text.split())]
Path("words.json").write_text(json.dumps(words))
PY
cat >compare.py <<'PY'
import json
from pathlib import Path
from urllib.request import Request, urlopen

import mlx.core as mx
import xllamacpp
from tokenizers import Tokenizer


def differing(path):
    """The words that llama.cpp splits otherwise than tokenizers, with both ids."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.warmup = path, 64, False
    server = xllamacpp.Server(parameters)

    def split(word):
        body = json.dumps({"content": word}).encode()
        asked = Request(f"{server.listening_address}/tokenize", body)
        return json.load(urlopen(asked))["tokens"]

    words = json.loads(Path("words.json").read_text())
    found = [(word, ids, split(word)) for word, ids in words]
    return len(found), [entry for entry in found if entry[1] != entry[2]]


try:
    differing("fused/model.gguf")
    print("as written:         loaded")
except RuntimeError:
    log = Path("errors.txt").read_text()
    told = log.split("error loading model vocabulary: ")[1].splitlines()[0]
    print("as written:         failed to load model:", told)
    assert told == "invalid gguf type for tokenizer.ggml.token_type"
arrays, metadata = mx.load("fused/model.gguf", return_metadata=True)
kinds, scores = "tokenizer.ggml.token_type", "tokenizer.ggml.scores"
assert metadata[kinds].dtype == mx.uint32
assert set(metadata[scores].tolist()) == {-1000.0}
metadata[kinds] = metadata[kinds].astype(mx.int32)
mx.save_gguf("types.gguf", arrays, metadata)
metadata[scores] = -mx.arange(metadata[scores].size).astype(mx.float32)  # the order of the merges
mx.save_gguf("scores.gguf", arrays, metadata)
named = Tokenizer.from_file("model/tokenizer.json").id_to_token
count, other = differing("types.gguf")
word, right, wrong = other[0]
print(
    f"types as int32:     {len(other)} of {count} words are split otherwise: {word!r} is not",
    *map(named, right), "but", *map(named, wrong),
)
_, none = differing("scores.gguf")
print(f"and scores as well: {len(none)} of {count} words are split otherwise")
assert len(other) > count / 10 and not none
PY
export HF_HUB_OFFLINE=1
{
    "$folder/venv/bin/python" write.py
    "$folder/venv/bin/mlx_lm.fuse" --model model --adapter-path adapter --save-path fused --export-gguf --gguf-path model.gguf
} >written.txt 2>&1 || { tail -n 20 written.txt >&2; exit 1; }
"$folder/venv/bin/python" compare.py 2>errors.txt || { tail -n 20 errors.txt >&2; exit 1; }
