#!/usr/bin/env bash
# In mlx_lm.chat every turn begins the conversation anew: the model reads the system prompt each time.
#
# mlx-lm 0.32.2, CPU, a tiny llama that always answers "yes". mlx_lm.chat keeps the KV cache over the turns,
# and gives the chat template the newest message alone, with the system prompt before it. So each
# turn adds the beginning-of-sequence token and the system prompt to the cache again (a template with a
# system prompt of its own, as Qwen2.5's, does so without --system-prompt), which no model was trained on.
# A long system prompt fills the context, and answers to a second question are not those of a server
# that was told the same conversation. Seen, what the model reads in two turns, and what its template
# makes of the conversation:
#     mlx_lm.chat: <s> [system] be brief </s> [user] hi </s> [assistant] yes </s> <s> [system] be brief </s> [user] bye </s> [assistant] yes </s>
#     template:    <s> [system] be brief </s> [user] hi </s> [assistant] yes </s> [user] bye </s> [assistant] yes </s>
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'mlx[cpu]==0.32.4' 'mlx-lm==0.32.2' 'transformers==5.23.0'
cd "$folder"
export HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PY'
import contextlib
import io
import json
import sys
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten
from mlx_lm import chat
from mlx_lm.models import llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

mx.set_default_device(mx.cpu)
words = "<s> </s> [system] [user] [assistant] be brief hi bye yes".split()
size = len(words)
fast = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, "<s>"))
fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>")
tokenizer.chat_template = (
    "<s>{% for m in messages %} [{{ m.role }}] {{ m.content }} </s>{% endfor %}"
    "{% if add_generation_prompt %} [assistant]{% endif %}"
)
tokenizer.save_pretrained("model")
config = dict(
    model_type="llama", hidden_size=size, num_hidden_layers=1, intermediate_size=2, vocab_size=size,
    num_attention_heads=1, rms_norm_eps=1e-6, tie_word_embeddings=False,
)
model = llama.Model(llama.ModelArgs.from_dict(config))
weights = dict(tree_flatten(model.parameters()))
weights["model.embed_tokens.weight"] = mx.eye(size)
head = mx.zeros((size, size))
for word, after in (("[assistant]", "yes"), ("yes", "</s>")):
    head[words.index(after), words.index(word)] = 9.0
weights["lm_head.weight"] = head
for name in ("self_attn.o_proj", "mlp.down_proj"):  # the layer adds nothing
    weights[f"model.layers.0.{name}.weight"] *= 0
mx.save_safetensors("model/model.safetensors", weights)
Path("model/config.json").write_text(json.dumps(config))

read, call = [], llama.Model.__call__


def listening(self, inputs, *args, **kwargs):
    read.extend(inputs.reshape(-1).tolist())
    return call(self, inputs, *args, **kwargs)


llama.Model.__call__ = listening
sys.argv = ["mlx_lm.chat", "--model", "model", "--system-prompt", "be brief"]
sys.stdin = io.StringIO("hi\nbye\nq\n")
with contextlib.redirect_stdout(io.StringIO()):
    chat.main()
seen = " ".join(words[id_] for id_ in read)
conversation = [{"role": "system", "content": "be brief"}]
for question in ("hi", "bye"):
    conversation.append({"role": "user", "content": question})
    conversation.append({"role": "assistant", "content": "yes"})
right = tokenizer.apply_chat_template(conversation, tokenize=False)
print("mlx_lm.chat:", seen)
print("template:   ", right)
again = "<s> [system] be brief </s> "
assert seen.count(again) == 2 and right.count(again) == 1
assert seen == right.replace("[user] bye", again + "[user] bye")
PY
