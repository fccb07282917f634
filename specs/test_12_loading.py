"""Experiment 12: one model on many ranks: models in directories, loaded by mlx-lm's `sharded_load`,
and packed ones.

A fault is planted on the ranks (`fixtures.ranks.faults`). `pytest specs/ --ranks N --model X` holds
any model to the claims of `test_12_sharing` that way.
"""

import time

import pytest

from llm_spec.numerics.distances import worst
from llm_spec.ranks import RanksFailed

LONGEST = 10.0  # seconds until a failure is told
SPARE = 2**20  # bytes: the tokenizer, and what Python reads


def scale_one_shard(on_3_ranks):
    return {"on_3_ranks": on_3_ranks.under("one_shard_is_scaled")}


@pytest.mark.claim(id="12.13", falsifier=scale_one_shard)
def test_the_embedded_model_on_3_ranks_is_the_whole_model(on_3_ranks, exhibit):
    """SmolLM2 has 9 heads and 3 KV heads. Its shards are unpacked to float32, as the whole is;
    tokens are the likeliest ones after each of the prompt's."""
    seen = on_3_ranks.seen
    exhibit.table(
        [[rank, each["logits"], each["digest"], each["layer_share"], each["read"]]
         for rank, each in enumerate(seen)],
        columns=["rank", "logits", "digest", "layers' bytes", "bytes read"],
        title=f"{on_3_ranks.architecture} on 3 ranks",
    )  # fmt: skip
    found, bound = worst(each["logits"] for each in seen), min(each["bound"] for each in seen)
    says = exhibit.measured("largest distance from the whole's logits", found, should_be=bound)

    assert len({each["digest"] for each in seen}) == 1, "ranks hold different logits"
    assert all(each["tokens"] == each["whole_tokens"] for each in seen), (
        "a rank generates other tokens than the whole model"
    )
    assert max(each["layer_share"] for each in seen) < 0.4, "a rank holds more than its part"
    assert found <= bound, says


def check_no_heads(on_2_ranks):
    return {"on_2_ranks": on_2_ranks.under("heads_are_not_checked")}


@pytest.mark.slow
@pytest.mark.claim(id="12.14", falsifier=check_no_heads)
def test_a_model_whose_heads_2_ranks_do_not_divide_is_refused(on_2_ranks, exhibit):
    """SmolLM2 on two ranks: one sentence names a rank, the number that cannot be divided and what
    mlx-lm makes of it."""
    with pytest.raises(RanksFailed) as refused:
        _ = on_2_ranks.seen
    found = str(refused.value)
    right = "n_heads = 9 cannot be divided among 2 ranks"
    says = exhibit.measured("what is said", found, should_be=right)

    assert found.startswith("Rank 0 raised CannotShare:"), says
    assert right in found, says


def read_all_on_every_rank(pipelined_directory):
    return {"pipelined_directory": pipelined_directory.under("every_rank_reads_all")}


@pytest.mark.claim(id="12.15", falsifier=read_all_on_every_rank)
def test_a_rank_of_a_pipeline_reads_the_weights_that_it_holds_and_no_others(
    pipelined_directory, exhibit
):
    """Bytes that the system counts while a rank loads its part, against the bytes of that part.
    All weights are in one file, of which MLX reads what is asked for."""
    seen = pipelined_directory.seen
    if seen[0]["read"] is None:
        pytest.skip("this system does not count what a process reads")
    rows = [[n, each["read"], each["bytes"], each["whole_bytes"]] for n, each in enumerate(seen)]
    exhibit.table(rows, columns=["rank", "bytes read", "bytes held", "of the whole"],
                  title="what ranks read")  # fmt: skip
    found = max(each["read"] - each["bytes"] for each in seen)
    says = exhibit.measured("bytes read beyond those held", found, should_be=SPARE)

    assert worst(each["logits"] for each in seen) == 0, (
        "logits of the pipeline differ from those of the whole model"
    )
    assert min(each["whole_bytes"] - each["bytes"] for each in seen) > 2 * SPARE, (
        "too small to tell"
    )
    assert found <= SPARE, says


def look_for_no_model(missing_directory):
    return {"missing_directory": missing_directory.under("nobody_looks_for_the_model")}


@pytest.mark.slow
@pytest.mark.claim(id="12.19", falsifier=look_for_no_model)
def test_a_rank_without_the_model_is_named(missing_directory, exhibit):
    """The last rank does not find the directory, while the others wait for it at the end of their
    loading."""
    _ = missing_directory.under("nothing").seen  # all ranks are there by now
    start = time.monotonic()
    with pytest.raises(RanksFailed) as failed:
        _ = missing_directory.seen
    seconds, last = time.monotonic() - start, missing_directory.ranks - 1
    found, right = str(failed.value), f"Rank {last} raised FileNotFoundError: there is no model"
    says = exhibit.measured("what is said", found, should_be=right)

    assert seconds <= LONGEST, (
        f"time to the message = {seconds:.1f} s, but should be at most {LONGEST:g} s"
    )
    assert found.startswith(right), says


def scale_packed_shards(packed_on_4_ranks):
    faulty = [each.under("one_shard_is_scaled") for each in packed_on_4_ranks]
    return {"packed_on_4_ranks": faulty}


@pytest.mark.slow
@pytest.mark.claim(id="12.20", falsifier=scale_packed_shards)
def test_packed_shards_on_4_ranks_compute_what_the_whole_packed_model_computes(
    packed_on_4_ranks, exhibit
):
    """4 bits per weight in groups of 32 and of 64, scales in float32: in one pass, in chunks and in
    a batch. All ranks have the same bits and make the same tokens as the whole."""
    rows, bits, tokens = [], [], []
    for each in packed_on_4_ranks:
        seen = each.seen
        ways = [worst(it[way] for it in seen) for way in ("logits", "cached", "batch")]
        rows.append([each.architecture, each.packed, *ways, min(it["bound"] for it in seen)])
        bits.append(len({it["digest"] for it in seen}))
        tokens += [it["tokens"] == it["whole_tokens"] for it in seen]
    columns = ["architecture", "group", "logits", "in chunks", "in a batch", "bound"]
    exhibit.table(rows, columns=columns, title="packed models on 4 ranks")
    found, bound = worst(it for row in rows for it in row[2:5]), min(row[5] for row in rows)
    says = exhibit.measured("largest distance from the whole's logits", found, should_be=bound)

    assert all(tokens), "a rank generates other tokens than the whole model"
    assert bits == [1] * len(rows), f"different logits among the ranks: {bits}"
    assert found <= bound, says
