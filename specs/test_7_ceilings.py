"""Experiment 7: the bytes that each token reads, and the speed that published bandwidths allow."""

import pytest

from fixtures.synthetic.architectures import config_of
from llm_spec.model.accounting import groups, total_bytes
from llm_spec.model.declare import declare, published
from llm_spec.numerics.units import show_size
from llm_spec.performance import chips, roofline


def read_the_whole_table(monkeypatch):
    monkeypatch.setattr(roofline, "_share", lambda call: 1.0)


@pytest.mark.claim(id="7.4", falsifier=read_the_whole_table)
def test_a_decoded_token_reads_all_weights_but_the_untied_embedding_table(shape, exhibit):
    """One row of an untied embedding table is read; a tied table is also the head, read whole."""
    [table, *_] = groups(shape.packed)
    read = roofline.decode_read(shape.packed, context=1).weights
    exhibit.table(
        [["stored", total_bytes(shape.packed) / 1e9], ["embedding table", table.bytes / 1e9],
         ["read per token", read / 1e9]],
        columns=["weights", "GB"],
        title=f"{shape.name}, tied: {shape.facts['tied']}",
    )  # fmt: skip
    rows = 1 if shape.facts["tied"] else table.logical_shape[0]
    expected = total_bytes(shape.packed) - table.bytes + table.bytes // rows

    says = exhibit.measured(
        "weights read per token", show_size(read, expected),
        should_be=f"predicted {show_size(expected, read)}",
    )  # fmt: skip

    assert read == expected, says


def read_of_a_mixture(exhibit, model, title, experts_named, left_out):
    """Bytes of weights that a token reads of a mixture of experts, and those that it must: all but
    the rows of the table that it does not look up, and but for so many of so many experts."""
    stored, read = total_bytes(model), roofline.decode_read(model, context=1).weights
    experts = sum(g.bytes for g in groups(model) if experts_named in g.name)
    exhibit.bars(
        {"stored": stored / 1e9, "in experts": experts / 1e9, "read per token": read / 1e9},
        title=f"{title} at 4 bits", axis="GB",
    )  # fmt: skip
    [table, *_] = groups(model)
    row = table.bytes // table.logical_shape[0]
    some, of_all = left_out
    return read, stored - table.bytes + row - experts * some // of_all


def use_all_experts(monkeypatch):
    config = published()["qwen3-30b-a3b"].config
    monkeypatch.setitem(config, "num_experts_per_tok", config["num_experts"])


@pytest.mark.claim(id="7.5", falsifier=use_all_experts)
def test_of_a_mixture_of_experts_a_token_reads_only_those_it_is_sent_to(exhibit):
    """Qwen3-30B-A3B uses 8 of 128 experts per layer: 30B weights in memory, 3B read per token."""
    model = declare(published()["qwen3-30b-a3b"].config)
    read, expected = read_of_a_mixture(exhibit, model, "Qwen3-30B-A3B", ".switch_mlp.", (120, 128))

    says = exhibit.measured(
        "weights read per token", show_size(read, expected),
        should_be=f"predicted {show_size(expected, read)}",
    )  # fmt: skip

    assert read == expected, says


DBRX = {
    "d_model": 6144, "n_layers": 40, "n_heads": 48, "vocab_size": 100_352,
    "attn_config": {"kv_n_heads": 8, "clip_qkv": 8.0, "rope_theta": 500_000.0},
    "ffn_config": {"ffn_hidden_size": 10_752, "moe_num_experts": 16, "moe_top_k": 4},
}  # fmt: skip


def look_at_stacked_experts_alone(monkeypatch):
    monkeypatch.setattr(roofline, "_left_out", lambda modules, called: iter(()))


@pytest.mark.claim(id="7.44", falsifier=look_at_stacked_experts_alone)
def test_of_experts_in_a_list_a_token_reads_only_those_it_is_sent_to(exhibit):
    """dbrx keeps its 16 experts one by one, asks for the ids of 4, and calls those."""
    model = declare(config_of("dbrx") | DBRX)
    read, expected = read_of_a_mixture(exhibit, model, "dbrx", ".experts.", (12, 16))

    says = exhibit.measured(
        "weights read per token", show_size(read, expected),
        should_be=f"predicted {show_size(expected, read)}",
    )  # fmt: skip

    assert read == expected, says


CEILINGS = {"llama-3.2-3b": (82, "60–80"), "qwen3-8b": (35, "30–50"), "qwen3-14b": (19, "15–25")}
PLANS_CHIP = "M3 Pro"


def ceilings(chip, context=128):
    """Tokens per second that `chip` allows each of the plan's models at 4 bits."""
    [chip] = chips.named(chip)
    return {
        name: roofline.decode_read(declare(published()[name].config), context).ceiling(
            chip.bandwidth
        )
        for name in CEILINGS
    }


def take_an_m2_pro(monkeypatch):
    named = chips.named
    monkeypatch.setattr(chips, "named", lambda name: named("M2 Pro"))


@pytest.mark.claim(id="7.6", falsifier=take_an_m2_pro)
def test_an_m3_pro_allows_35_tokens_a_second_of_qwen3_8b(exhibit):
    """Apple publishes 150 GB/s for an M3 Pro; contexts of 128 tokens, 4 bits per weight."""
    found = ceilings(PLANS_CHIP)
    exhibit.table(
        [[name, plan, found[name]] for name, (_, plan) in CEILINGS.items()],
        columns=["model at 4 bits", "the plan (tok/s)", "at most (tok/s)"],
        title=f"decoding on an {PLANS_CHIP}",
    )
    rounded = {name: round(ceiling) for name, ceiling in found.items()}
    expected = {name: ceiling for name, (ceiling, _) in CEILINGS.items()}

    says = exhibit.measured("tokens per second at most", rounded, should_be=expected)

    assert rounded == expected, says


def take_an_m4_max(monkeypatch):
    named = chips.named
    monkeypatch.setattr(chips, "named", lambda name: named("M4 Max")[-1:])


@pytest.mark.claim(id="7.7", falsifier=take_an_m4_max)
def test_a_reply_of_150_tokens_takes_over_four_seconds_on_an_m3_pro(exhibit):
    """The least time that Qwen3-8B at 4 bits takes to generate 60 to 200 tokens."""
    rate = ceilings(PLANS_CHIP)["qwen3-8b"]
    exhibit.bars(
        {f"{count} tokens": count / rate for count in (60, 100, 150, 200)},
        title=f"the least time for a reply on an {PLANS_CHIP}",
        axis="seconds",
    )

    says = exhibit.measured("least seconds for 150 tokens", 150 / rate, should_be="above 4")

    assert 150 / rate > 4, says
