"""Experiment 9: what `llm-spec fit` says: of published models, and of what a token reads."""

import contextlib
import io
import json
import subprocess
import sys

import pytest

from fixtures.synthetic.architectures import build_architecture
from llm_spec.cli import command_line, fit, fit_advice
from llm_spec.model import growth
from llm_spec.model.declare import declare
from llm_spec.model.declare import published as published_models
from llm_spec.performance import capacity, published, roofline
from llm_spec.performance.plan import Machine

MOST_SECONDS = 1.0  # of one core
# What a planner's process says of itself once it has planned: modules, and seconds of one core.
PLAN = """
import json, resource, sys
from llm_spec.cli.command_line import main
code = main(json.loads(sys.argv[1]))
used = resource.getrusage(resource.RUSAGE_SELF)
slow = sorted({"mlx_lm", "transformers", "torch"} & sys.modules.keys())
print(json.dumps([code, slow, used.ru_utime + used.ru_stime]))
"""
ANOTHER_MACHINE = ["fit", "--chip", "M3 Pro", "--memory", "36GB"]


def a_layer_less(monkeypatch):
    """One row is that of the model with one layer fewer."""
    config = published_models()["qwen3-8b"].config
    fewer = {**config, "num_hidden_layers": config["num_hidden_layers"] - 1}
    rows = {**published.rows(), "qwen3-8b": capacity.row(fewer)}
    monkeypatch.setattr(published, "rows", lambda: rows)


@pytest.mark.claim(id="9.156", falsifier=a_layer_less)
def test_the_table_of_published_models_says_what_declaring_them_says(exhibit):
    """Every row, and what is planned from it, against the declared model's arrays and caches."""
    rows, models = published.rows(), published_models()
    widths = [None if width == 16 else width for width in published.WIDTHS]
    wrong = {
        name: f"should be {capacity.row(model.config)}"
        for name, model in models.items()
        if name in rows
        and published.variants(name, published.WIDTHS, fused=False)
        != capacity.variants(name, model.config, widths, fused=False)
    }
    exhibit.table(
        [[name, row.parameters / 1e9, row.weights["4"] / 1e9, row.read["4"] / 1e9, row.cache / 1e3]
         for name, row in rows.items()],
        columns=["model", "parameters (billions)", "GB at 4 bits", "GB read per token at 4 bits",
                 "KV cache per token (kB)"],
        title="published models",
    )  # fmt: skip

    says = exhibit.measured("rows that declaring a model does not give", wrong, should_be={})

    assert list(rows) == list(models), f"rows = {list(rows)}, but should be {list(models)}"
    assert not wrong, says


def import_mlx_lm_first(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PLAN", "import mlx_lm" + PLAN)


@pytest.mark.claim(id="9.157", falsifier=import_mlx_lm_first)
def test_a_plan_for_another_machine_takes_a_second_and_no_mlx_lm(exhibit):
    """A process of its own: what it imported, and how long it computed, from Python's start on."""
    done = subprocess.run(
        [sys.executable, "-c", PLAN, json.dumps(ANOTHER_MACHINE)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *table, last = done.stdout.splitlines()
    code, slow, seconds = json.loads(last)
    exhibit.text("\n".join(table), title=" ".join(ANOTHER_MACHINE))

    says = exhibit.measured(
        "seconds of one core, libraries imported", (round(seconds, 2), slow),
        should_be=f"at most {MOST_SECONDS:g}, none",
    )  # fmt: skip

    assert code == 0, f"exit code = {code}, but should be 0: {done.stderr}"
    assert not slow, says
    assert seconds <= MOST_SECONDS, says


def prefer_the_largest(monkeypatch):
    ceiling = fit.Variant.ceiling
    monkeypatch.setattr(
        fit.Variant, "ceiling", lambda self, machine, context: 1e6 * ceiling(self, machine, context)
    )


@pytest.mark.claim(id="9.158", falsifier=prefer_the_largest)
def test_the_model_that_is_advised_is_as_fast_as_asked(exhibit):
    """In 36 GB and 150 GB/s: a mixture, of which few experts are read, before the largest."""
    machine = Machine(29 * 10**9, 150e9, "-", fused=True)
    found = [v for name in published.rows() for v in published.variants(name, [8, 4], fused=True)]
    said = {
        speed: fit_advice.advice(machine, found, 2048, speed, 60.0)[-1]
        for speed in (4, 10, 60, 10_000)
    }
    exhibit.table(
        [[speed, text] for speed, text in said.items()], columns=["tokens per second", "said"],
        title="what is advised",
    )  # fmt: skip
    wanted = {4: "qwen3-32b", 10: "qwen3-30b-a3b", 60: "smollm2-135m", 10_000: "No listed model"}
    wrong = {
        speed: said[speed] for speed, name in wanted.items()
        if f": {name}," not in said[speed] and not said[speed].startswith(name)
    }  # fmt: skip

    says = exhibit.measured("advice that is another", wrong, should_be={})

    assert not wrong, says


def cut_columns(monkeypatch):
    monkeypatch.setattr(fit, "WIDEST", 10)


@pytest.mark.claim(id="9.159", falsifier=cut_columns)
def test_no_column_of_a_plan_is_cut(exhibit, monkeypatch):
    """Six contexts, which no line of 80 columns holds; and models by their names."""
    monkeypatch.setenv("COLUMNS", "80")
    names = ["--model", "qwen3-8b", "--model", "llama-3.1-8b"]
    contexts = ["--context", "2k,4k,8k,16k,32k,64k,128k"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = command_line.main([*ANOTHER_MACHINE, *names, *contexts])
    exhibit.text(said.getvalue(), title="a wide plan")
    lines = said.getvalue().splitlines()
    models = [line.split()[0] for line in lines if line.startswith(("qwen3", "llama", "smol"))]

    says = exhibit.measured("cells that are cut", said.getvalue().count("…"), should_be=0)

    assert code == 0, f"exit code = {code}, but should be 0"
    assert "…" not in said.getvalue(), says
    assert models == ["qwen3-8b", "llama-3.1-8b"], f"{models}, but should be the two models named"


HYBRIDS = ("gemma3_text", "gpt_oss", "recurrent_gemma", "qwen3_next")
CONTEXT = 4096  # two whole pieces of a prompt, and far past every window


def read_all_that_a_cache_holds(monkeypatch):
    monkeypatch.setattr(growth, "_seen", lambda array, window: array.nbytes)


@pytest.mark.claim(id="9.160", falsifier=read_all_that_a_cache_holds)
def test_a_ceiling_counts_what_the_next_token_reads(exhibit):
    """Bytes read per token after 4,096, planned, and by the declared model's own step there. After
    a long piece of a prompt a rotating cache holds more than its window."""
    seen = {}
    for name in HYBRIDS:
        _, config = build_architecture(name)
        config |= {"max_position_embeddings": 4 * CONTEXT}
        [planned] = capacity.variants(name, config, [None], fused=True)
        step = roofline.decode_read(declare(config, bits=None), CONTEXT).total
        seen[name] = planned.read + planned.course.read(CONTEXT), step
    exhibit.table(
        [[name, *figures] for name, figures in seen.items()],
        columns=["architecture", "bytes planned", "bytes of the step"], title="read per token",
    )  # fmt: skip
    wrong = {name: figures for name, figures in seen.items() if figures[0] != figures[1]}

    says = exhibit.measured("bytes planned and read, where they differ", wrong, should_be={})

    assert not wrong, says
