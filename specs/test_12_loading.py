"""Experiment 12: one model on many ranks: models in directories, loaded by mlx-lm's `sharded_load`.

A fault is planted on the ranks (`fixtures.ranks.faults`). `pytest specs/ --ranks N --model X` holds
any model to the claims of `test_12_sharing` that way.
"""

import pytest

from llm_spec.numerics.distances import worst
from llm_spec.ranks import RanksFailed

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

    assert len({each["digest"] for each in seen}) == 1, "the ranks' logits differ"
    assert all(each["tokens"] == each["whole_tokens"] for each in seen), "tokens differ"
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

    assert worst(each["logits"] for each in seen) == 0, "the pipeline is not the whole model"
    assert min(each["whole_bytes"] - each["bytes"] for each in seen) > 2 * SPARE, (
        "too small to tell"
    )
    assert found <= SPARE, says
