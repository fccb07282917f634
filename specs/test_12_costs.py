"""Experiment 12: one model on many ranks: what `llm-spec measure --ranks` says of it.

The models have random weights. A fault is planted in the ranks' program, or in what is made of
their answers.
"""

import sys
from dataclasses import replace

import pytest

from llm_spec.cli import measure_ranks
from llm_spec.cli.command_line import main
from llm_spec.numerics.timing import Sample
from llm_spec.performance import rank_costs
from llm_spec.performance.rank_costs import Decoding

NAME = "tiny"
FEW = ("--bits", "16", "--context", "16", "--generate", "4", "--rounds", "2")


def share_nothing(monkeypatch):
    program = (sys.executable, "-m", "fixtures.doubles.rank_without_shards")
    monkeypatch.setattr(measure_ranks, "PROGRAM", program)


@pytest.mark.slow
@pytest.mark.claim(id="12.16", falsifier=share_nothing)
def test_measure_tells_what_a_rank_holds_and_how_often_ranks_add_up(
    tiny_published, exhibit, capsys, tmp_path
):
    """llama adds partial sums up after attention and after its feed-forward block, in each layer.
    Two ranks hold half of the layers' weights each, and all of the embedding and the head."""
    file = tmp_path / "measured.json"
    code = main(["measure", NAME, *FEW, "--ranks", "1,2", "--batch", "2", "-o", str(file)])
    said = capsys.readouterr()
    one, two = measure_ranks.read(file)
    exhibit.table(
        [[line] for line in said.out.splitlines()], columns=["line"], title="what measure says"
    )
    layers, width = tiny_published["num_hidden_layers"], tiny_published["hidden_size"]
    copied = 2 * tiny_published["vocab_size"] * width * 4  # bytes: the embedding and the head
    found = [each["reductions"] for each in (*one, *two)]
    expected = [0, 2 * layers, 2 * layers]
    says = exhibit.measured("reductions per token of each rank", found, should_be=expected)

    assert code == 0, f"exit code {code}: {said.err}"
    assert "2 ranks decode" in said.out, said.out
    assert found == expected, says
    held = [(each["weights"] - copied) / (one[0]["weights"] - copied) for each in two]
    assert all(0.5 <= part < 0.55 for part in held), (
        f"parts of the layers held = {held}, but should be 0.5 to 0.55"
    )
    assert all(each["batch"] > 0 and each["rows"][0]["decode"][0] > 0 for each in two), two


ONE = Decoding(1, Sample((125.0,)), Sample((7850.0,)), 4_260_000_000, 4_600_000_000, 4e12)
TWO = Decoding(
    2, Sample((84.0,)), Sample((13600.0,)), 2_500_000_000, 2_600_000_000, 4e12, 72, 81e-6
)


def save_nothing(monkeypatch):
    monkeypatch.setattr(rank_costs, "saved_per_token", lambda one, many: 0.0)


@pytest.mark.claim(id="12.17", falsifier=save_nothing)
def test_one_sentence_says_whether_ranks_are_faster_and_why(exhibit):
    """Figures of an 8B model on one and on two fast GPUs: 72 reductions of 81 µs take 5.83 ms, and
    1.76 GB at 4 TB/s take 440 µs. Then without reductions, and with rates that the spread hides."""
    cases = [
        (ONE, TWO, ("2 ranks decode slower than one (84.0 against 125.0 tok/s)",
                    "72 reductions of 81 µs take 5.83 ms", "1.76 GB that a rank reads less save "
                    "440 µs at most", "3.9 ms more are measured")),
        (ONE, replace(TWO, decode=Sample((200.0,))), ("faster than one", "3 ms less")),
        (replace(ONE, decode=Sample((120.0, 80.0, 84.0, 90.0))), TWO, ("neither faster nor",)),
        (ONE, replace(TWO, bandwidth=2e12), ("save nothing at 50% of the bandwidth",)),
    ]  # fmt: skip
    said = [rank_costs.compared(one, many) for one, many, _ in cases]
    exhibit.table([[each] for each in said], columns=["sentence"], title="figures and sentences")
    missing = [
        part
        for each, (_, _, parts) in zip(said, cases, strict=True)
        for part in parts
        if part not in each
    ]
    says = exhibit.measured("parts that the sentences lack", missing, should_be=[])

    assert not missing, says


def let_every_mistake_pass(monkeypatch):
    monkeypatch.setattr(measure_ranks, "run", lambda *_: 0)


@pytest.mark.slow
@pytest.mark.claim(id="12.18", falsifier=let_every_mistake_pass)
def test_numbers_of_ranks_that_make_no_sense_are_refused(tiny_published, exhibit, capsys):
    """Exit codes: 2 for a question that makes no sense, 1 for ranks that failed. No rank is started
    for the first. The tiny llama is 128 wide and has 4 heads, 2 KV heads and blocks of 192; packed
    in groups of 64, a half of a block is a group and a half."""
    cases = [
        (("--ranks", "0"), 2, "--ranks"),
        (("--ranks", "two"), 2, "--ranks"),
        (("--ranks", "2", "--batch", "-1"), 2, "--batch should be 0 to 1,024, not -1"),
        (("--ranks", "2", "--backend", "nccl"), 1, "this MLX has no backend 'nccl'"),
        (("--ranks", "3"), 1, "Rank 0 raised CannotShare: 3 ranks cannot share"),
        (("--ranks", "4"), 1, "n_kv_heads = 2 cannot be divided among 4 ranks"),
        (("--ranks", "2", "--bits", "4"), 1, "quantization group size 64"),
    ]
    rows, wrong = [], []
    for options, right_code, right in cases:
        code = main(["measure", NAME, *FEW, *options])
        said = capsys.readouterr().err.strip()
        rows.append([" ".join(options), code, said])
        if (code, said.count("\n")) != (right_code, 0) or right not in said:
            wrong.append(rows[-1])
    exhibit.table(rows, columns=["options", "exit code", "sentence"], title="mistakes")
    says = exhibit.measured("mistakes told otherwise", wrong, should_be=[])

    assert not wrong, says
