#!/usr/bin/env bash
# In a batch of vllm-mlx a request is sampled with the temperature of whoever came first.
#
# vllm-mlx 0.6.0, mlx-lm 0.31.3 (the newest it takes), MLX 0.32.4, CPU, a tiny random model. One expects a
# batch to keep the settings of each request, as in vLLM and in mlx_lm.server. The scheduler of
# --continuous-batching has one sampler per batch. A request with another temperature, top_p or
# min_p joins while others run and gets theirs; the log says that it will get its own afterwards. So
# a request for temperature 0 answers at random when somebody else's runs at 1, and a draw is
# greedy beside a greedy one. The client is told nothing. top_k reaches no sampler at all. Seen, which of
# the answers of twenty batches are the greedy one:
#     temperature 0 alone:                20 of 20
#     temperature 0, where 1 came first:  0 of 20
#     temperature 1 alone:                0 of 20
#     temperature 1, where 0 came first:  20 of 20
#     temperature 1 with top_k 1, alone:  0 of 20
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  'mlx[cpu]==0.32.4' 'mlx-lm==0.31.3' 'transformers==5.24.0' 'psutil==7.2.2'
# Without what it needs for pictures and for its web page
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps 'vllm-mlx==0.6.0'
cd "$folder"
"$folder/venv/bin/python" - 2> errors <<'PY' || { tail -n 3 errors; exit 1; }
import mlx.core as mx
from mlx_lm.models import llama
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm_mlx.request import Request, SamplingParams
from vllm_mlx.scheduler import Scheduler

mx.set_default_device(mx.cpu)
mx.random.seed(0)
words = ["<eos>", *(f"w{number}" for number in range(63))]
fast = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, "<eos>"))
fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token="<eos>")
config = dict(
    model_type="llama", hidden_size=64, num_hidden_layers=1, intermediate_size=64, vocab_size=64,
    num_attention_heads=2, rms_norm_eps=1e-6, tie_word_embeddings=True,
)
model = llama.Model(llama.ModelArgs.from_dict(config))
COLD, HOT, TOP = {"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 1.0, "top_k": 1}


def last_answer(*requests):
    """The tokens of the last of some requests that come at once."""
    scheduler = Scheduler(model, tokenizer)
    for place, settings in enumerate(requests):
        sampling = SamplingParams(max_tokens=6, top_p=1.0, **settings)
        scheduler.add_request(Request(str(place), [2, 3, 4], sampling))
    answers = {}
    while scheduler.has_requests():
        for output in scheduler.step().outputs:
            if output.finished:
                answers[output.request_id] = output.output_token_ids
    return answers[str(len(requests) - 1)]


greedy = last_answer(COLD)
cases = {
    "temperature 0 alone:": [COLD],
    "temperature 0, where 1 came first:": [HOT, COLD],
    "temperature 1 alone:": [HOT],
    "temperature 1, where 0 came first:": [COLD, HOT],
    "temperature 1 with top_k 1, alone:": [TOP],
}
seen = []
for name, requests in cases.items():
    seen.append(sum(last_answer(*requests) == greedy for _ in range(20)))
    print(f"{name:<35} {seen[-1]} of 20")
cold, cold_second, hot, hot_second, top = seen
assert cold == 20 and hot < 5, "alone, a request does not have its own temperature"
assert cold_second < 5 and hot_second == 20, "beside another one, a request has its own temperature"
assert top < 5, "top_k 1 gives the greedy answer"
PY
