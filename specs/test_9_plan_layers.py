"""Experiment 9: `llm-spec fit --model DIR` runs one layer of each kind, and computes none."""

import cProfile
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise

import mlx.core as mx
import mlx_lm.utils
import pytest
from mlx.utils import tree_flatten

from fixtures.synthetic.architectures import build_architecture, config_of, deepened
from llm_spec.model import dry_run, repeats
from llm_spec.model.declare import nothing_drawn, random_state_kept, signatures_kept
from llm_spec.observe import modules as walks
from llm_spec.performance import capacity

CONTEXT = 4096  # two whole pieces of a prompt
FEW_BYTES = 1_000_000
# Llama-like, with windows, hybrids of attention and recurrence, mixtures, caches of a model's own.
REPEATING = (
    "llama", "gemma3_text", "gemma3n", "gpt_oss", "qwen3_next", "granitemoehybrid", "jamba",
    "recurrent_gemma", "qwen3_moe", "deepseek_v3", "deepseek_v32", "deepseek_v41", "mamba2",
)  # fmt: skip


def leave_caches_empty(monkeypatch):
    monkeypatch.setattr(repeats, "_repeat", lambda effect, holders, updates: None)


@pytest.mark.claim(id="9.178", falsifier=leave_caches_empty)
def test_a_plan_is_the_same_where_every_layer_is_run(exhibit, monkeypatch):
    """Weights, bytes per token, and every step of a context, with one layer of each kind run and
    with all of them."""
    rows, wrong, repeated = [], [], Counter()
    repeat = repeats._repeat
    for name in REPEATING:
        config = config_of(name, num_hidden_layers=8) if name == "llama" else config_of(name)
        config |= {"max_position_embeddings": 4 * CONTEXT}

        def counted(*given, name=name):
            repeated[name] += 1
            return repeat(*given)

        with monkeypatch.context() as counting:
            counting.setattr(repeats, "_repeat", counted)
            cut = capacity.variants(name, config, [None, 4], fused=False)
        with monkeypatch.context() as every:
            every.setattr(repeats.Repeats, "called_once", lambda *_: nullcontext())
            whole = capacity.variants(name, config, [None, 4], fused=False)
        read = [plan[0].read + plan[0].course.read(CONTEXT) for plan in (cut, whole)]
        rows.append([name, repeated[name], *read])
        if cut != whole:
            wrong.append(name)
    exhibit.table(
        rows, columns=["architecture", "calls spared", "bytes read per token", "with every call"],
        title="plans",
    )  # fmt: skip

    says = exhibit.measured("architectures with another plan", wrong, should_be=[])

    assert not (idle := [name for name in REPEATING if not repeated[name]]), f"{idle} spare no call"
    assert not wrong, says


MOST_TIMES = 8  # measured: 5.2 (deepseek_v3) to 6.7 (deepseek_v41)
DEEP = (16, 32, 64)  # layers
DEEPENED = ("llama", "gemma3n", "llama4", "qwen3_next", "jamba", "falcon_h1", "deepseek_v41")


def look_for_each_layer(monkeypatch):
    """Each layer is looked for among all modules."""
    calls = repeats.Repeats._calls

    def searched(self, effect, module):
        assert any(id(each) == id(module) for each in reversed(self.modules.values()))
        return calls(self, effect, module)

    monkeypatch.setattr(repeats.Repeats, "_calls", searched)


@pytest.mark.claim(id="9.180", falsifier=look_for_each_layer)
def test_a_further_layer_costs_a_plan_as_much_as_each_before_it(exhibit):
    """Calls of Python functions, which are the same on every machine: those that one more layer
    costs a plan at 16, 8 and 4 bits, and mlx-lm in making it."""
    rows = []
    for name in DEEPENED:
        calls_of(name, DEEP[0])  # what is looked up once is known from here on
        costs = [calls_of(name, layers) for layers in DEEP]
        made, planned = ([part[n] for part in costs] for n in (0, 1))
        rows.append([name, *slopes(made)[1:], *slopes(planned)])
    exhibit.table(
        rows, columns=["architecture", "to make it", "beyond 16", "beyond 32"],
        title="calls per layer",
    )  # fmt: skip

    growth = max(late / early for _, _, early, late in rows)
    times = max(late / made for _, made, _, late in rows)
    says = exhibit.measured("growth of a layer's cost", growth, should_be="at most 1.02")
    assert growth <= 1.02, f"{says}: {rows}"
    says = exhibit.measured("times what mlx-lm does", times, should_be=f"at most {MOST_TIMES}")
    assert times <= MOST_TIMES, f"{says}: {rows}"


def slopes(calls):
    """The calls per layer between each depth and the next."""
    points = pairwise(zip(DEEP, calls, strict=True))
    return [(more - few) / (deep - shallow) for (shallow, few), (deep, more) in points]


def calls_of(name, layers):
    """Calls that mlx-lm needs to make a model of so many layers, and that a plan needs."""
    config = deepened(config_of(name), layers) | {"max_position_embeddings": 2 * CONTEXT}
    make, plan = build, capacity.variants
    return counted(make, config), counted(plan, name, config, [None, 8, 4], True)


def build(config):
    with random_state_kept(), signatures_kept(), nothing_drawn():
        model, args = mlx_lm.utils._get_classes(config)
        return model(args.from_dict(dict(config)))


def counted(work, *given):
    """How many functions `work` calls."""
    profile = cProfile.Profile()
    profile.runcall(work, *given)
    return sum(each.callcount for each in profile.getstats())


def pass_lists_by(monkeypatch):
    monkeypatch.setattr(walks, "BRANCHES", (dict,))


@pytest.mark.claim(id="9.179", falsifier=pass_lists_by)
def test_modules_and_parameters_are_those_that_mlx_names(exhibit):
    """Every path, the order of parameters, and the objects themselves."""
    rows, wrong = [], []
    for name in REPEATING:
        model, _ = build_architecture(name)
        walk = walks.walk(model)
        found = walk.modules, list(walk.parameters.items())
        named = dict(model.named_modules()), tree_flatten(model.parameters())
        rows.append([name, *map(len, found), *map(len, named)])
        alike = found[0].keys() == named[0].keys() and [p for p, _ in found[1]] == [
            p for p, _ in named[1]
        ]
        if not alike or any(found[0][path] is not module for path, module in named[0].items()):
            wrong.append(name)
    exhibit.table(
        rows,
        columns=["architecture", "modules", "parameters", "modules by MLX", "parameters by MLX"],
        title="walks over a model",
    )

    says = exhibit.measured("architectures in which others are found", wrong, should_be=[])

    assert not wrong, says


def compute_what_is_asked_for(monkeypatch):
    monkeypatch.setattr(dry_run, "nothing_computed", nullcontext)


@pytest.mark.claim(id="9.181", falsifier=compute_what_is_asked_for)
def test_a_plan_computes_no_array(exhibit):
    """Bytes that MLX allocates for a plan. dbrx asks its arrays for the ids of experts, and its
    table alone takes 26 MB."""
    mx.reset_peak_memory()
    mx.eval(mx.zeros(FEW_BYTES))
    if mx.get_peak_memory() < FEW_BYTES:
        pytest.skip(f"MLX counts no memory on {mx.default_device()}")
    rows = []
    for name in (*REPEATING, "dbrx"):
        config = config_of(name) | {"vocab_size": 100_352}
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        capacity.variants(name, config, [None, 4], fused=True)
        rows.append([name, mx.get_peak_memory() - before])
    exhibit.table(rows, columns=["architecture", "bytes allocated"], title="plans")
    most = max(bytes_ for _, bytes_ in rows)

    says = exhibit.measured("bytes allocated", most, should_be=f"at most {FEW_BYTES:,}")

    assert most <= FEW_BYTES, says
