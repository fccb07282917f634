"""Experiment 12: one model on many ranks: what `llm-spec fit --ranks` plans for.

A plan runs nothing: mlx-lm splits a declared model for a group that is none.
"""

import re

import mlx.core as mx
import pytest

from fixtures.ranks.sizes import settings_for
from fixtures.synthetic.architectures import config_of, model_types
from llm_spec.cli.command_line import main
from llm_spec.model import sharding
from llm_spec.model.accounting import total_bytes
from llm_spec.model.declare import declare
from llm_spec.performance import shared_capacity

MAC = ("fit", "--chip", "M3 Pro", "--memory", "36GB", "--context", "2048", "--bits", "4")


def hold_all_on_every_rank(shared):
    return {"shared": shared.under("every_rank_holds_all")}


@pytest.mark.claim(id="12.21", falsifier=hold_all_on_every_rank)
def test_a_rank_holds_the_bytes_that_are_planned(shared, exhibit):
    """Bytes of the arrays that the first rank holds, and of those that are declared for it."""
    if shared.directory:
        pytest.skip("tiny models only: a directory's may be stored in other types")
    held = shared.seen_unless_known[0]["bytes"]
    config = config_of(shared.architecture, **settings_for(shared.architecture, shared.ranks))
    planned = total_bytes(shared_capacity.part(config, None, shared.ranks, mx.float32))
    whole = total_bytes(declare(config, None, dtype=mx.float32))
    exhibit.table(
        [["held", held], ["planned", planned], ["the whole model", whole]],
        columns=["", "bytes"], title=f"one of {shared.ranks} ranks",
    )  # fmt: skip
    says = exhibit.measured("bytes that a rank holds", held, should_be=planned)

    assert planned < whole, f"a rank's part = {planned} bytes, but the whole has {whole}"
    assert held == planned, says


def leave_out_without_a_word(monkeypatch):
    planned = shared_capacity.variants
    monkeypatch.setattr(shared_capacity, "variants", lambda *given: (planned(*given)[0], ""))


@pytest.mark.claim(id="12.22", falsifier=leave_out_without_a_word)
def test_a_plan_for_ranks_says_what_they_cannot_share(exhibit, capsys):
    """36 GB on each of two machines: SmolLM2 has 9 heads, and Llama 3.3 70B fits."""
    code = main([*MAC, "--ranks", "2"])
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    exhibit.table([[said]], columns=["said"], title="a plan for two ranks")
    refused = re.findall(r"Not shared: ([\w.-]+): at 16 bits, \S+ = (\d+)", said)

    says = exhibit.measured("models that two ranks cannot share", refused, [("smollm2-135m", "9")])

    assert code == 0, f"exit code {code}: {said}"
    assert "fits at 4 bits or more: llama-3.3-70b" in said, said
    assert refused == [("smollm2-135m", "9")], says


def expect_errors_of_values_alone(monkeypatch):
    monkeypatch.setattr(sharding, "REFUSED_WITH", (ValueError,))


@pytest.mark.claim(id="12.25", falsifier=expect_errors_of_values_alone)
def test_an_architecture_that_refuses_ranks_is_told_in_one_sentence(exhibit):
    """Tiny models that three ranks cannot divide. Some architectures raise a ValueError, and others
    assert."""
    rows, otherwise = [], []
    for name in ("llama", "deepseek_v41", "qwen3_5", "minimax_m3_vl"):
        if name not in model_types():
            continue
        try:
            shared_capacity.part(config_of(name), None, 3)
            said = "nothing"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        rows.append([name, said])
        if not said.startswith("CannotShare: ") or said.endswith("."):
            otherwise.append(f"{name}: {said}")
    exhibit.table(rows, columns=["architecture", "said"], title="three ranks")
    says = exhibit.measured("refusals that are told otherwise", otherwise, should_be=[])

    assert rows, "no architecture is asked"
    assert not otherwise, says
