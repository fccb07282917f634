"""Experiment 8: memory, divergence and bits per byte measure what their names say."""

import gc
import json

import mlx.core as mx
import numpy as np
import psutil
import pytest
from tokenizers import pre_tokenizers

from fixtures.texts.passages import fingerprint, passages
from llm_spec.cli import command_line, compare
from llm_spec.laws.tokenizer.text import byte_level
from llm_spec.ledger import claims, results
from llm_spec.ledger.records import About, Shown
from llm_spec.model import accounting
from llm_spec.numerics import units
from llm_spec.quality import likelihood

PAGE = 16_384  # what an allocation may be rounded up by


def count_the_process(monkeypatch):
    monkeypatch.setattr(mx, "get_active_memory", lambda: psutil.Process().memory_info().rss)


@pytest.mark.claim(id="8.10", falsifier=count_the_process)
def test_active_memory_counts_arrays_and_resident_set_size_does_not(trained, exhibit):
    """Resident set size includes Python and its libraries, and leaves out GPU buffers."""
    size = 2**24
    gc.collect()  # what earlier specs dropped must not be freed between the two measurements
    before = mx.get_active_memory()
    array = mx.zeros((size,), dtype=mx.uint8) + mx.array(1, dtype=mx.uint8)
    mx.eval(array)
    risen = mx.get_active_memory() - before
    resident = psutil.Process().memory_info().rss
    weights = accounting.total_bytes(trained.packed)
    exhibit.bars(
        {"the model's arrays": weights, "mx.get_active_memory": before, "resident set": resident},
        title="three measures of the model's memory", axis="bytes",
    )  # fmt: skip
    apart = abs(resident - mx.get_active_memory())

    says = exhibit.measured(
        "rise for an array of 16 MiB; difference of resident set and active memory",
        f"{units.show_bytes(risen, binary=True)}; {units.show_bytes(apart, binary=True)}",
        should_be="16 MiB, to within 16 KiB; over 16 MiB",
    )  # fmt: skip

    assert array.nbytes == size
    assert abs(risen - size) <= PAGE, says
    assert apart > size, says


SIZES = {0: "0 B", 999: "999 B", 1_500_000: "1.5 MB", 999_600_000: "1 GB", 36 * 2**30: "38.7 GB"}
MEMORY = {512: "512 B", 1000 * 2**20: "0.977 GiB", 36 * 2**30: "36 GiB"}  # as it is sold


def call_gibibytes_gigabytes(monkeypatch):
    monkeypatch.setattr(units, "BINARY", units.DECIMAL)


@pytest.mark.claim(id="8.40", falsifier=call_gibibytes_gigabytes)
def test_bytes_are_said_in_three_digits_and_gigabytes_apart_from_gibibytes(exhibit):
    """Memory sold as 36 GB is 36 GiB, which is 38.7 GB."""
    said = [units.show_bytes(size) for size in SIZES]
    said += [units.show_bytes(size, binary=True) for size in MEMORY]
    expected = [*SIZES.values(), *MEMORY.values()]
    rows = zip([*SIZES, *MEMORY], said, strict=True)
    exhibit.table(list(map(list, rows)), columns=["bytes", "shown as"], title="sizes")

    says = exhibit.measured("sizes", "; ".join(said), should_be="; ".join(expected))

    assert said == expected, says


def forget_to_normalise(monkeypatch):
    def unnormalised(logits):
        wide = np.array(logits, dtype=np.float64)
        wide -= wide.max(-1, keepdims=True)
        return wide, np.exp(wide)

    monkeypatch.setattr(likelihood, "log_softmax", unnormalised)


@pytest.mark.claim(id="8.16", falsifier=forget_to_normalise)
def test_divergence_is_the_textbook_kl(exhibit):
    """Against the definition in float64, on random logits: sum of p · (log p − log q)."""
    p_logits, q_logits = 3 * np.random.default_rng(0).standard_normal((2, 100, 500))
    found = likelihood.divergence(mx.array(p_logits), mx.array(q_logits))
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (p_logits, q_logits))
    expected = (p * np.log(p / q)).sum(-1).mean()
    flips = int((p.argmax(-1) != q.argmax(-1)).sum())

    says = exhibit.measured(
        "mean KL (nats) and flips", (round(found.mean_kl, 5), found.flips),
        should_be=(round(expected, 5), flips),
    )  # fmt: skip

    assert found.mean_kl == pytest.approx(expected, rel=1e-6), says
    assert found.flips == flips > 0, says


def count_tokens_as_bytes(monkeypatch):
    encode = likelihood.encode

    def short(tokenizer, text):
        encoded = encode(tokenizer, text)
        return likelihood.Encoded(encoded.token_ids, encoded.context, len(encoded.token_ids))

    monkeypatch.setattr(likelihood, "encode", short)


@pytest.mark.claim(id="8.17", falsifier=count_tokens_as_bytes)
def test_bits_per_byte_shares_the_bits_among_the_bytes_predicted(vocabulary, exhibit):
    """A model that knows nothing of 2^18 tokens spends 18 bits on each, in any language. A BOS
    token is given and counts no byte; without one, the text's first token is given."""
    text = "Rust: " + passages("languages")["languages"][-40:]
    token_ids = list(vocabulary.tokenizer.encode(text))
    given = vocabulary.tokenizer.decode(token_ids[:1], skip_special_tokens=True)
    n_bytes = len(text.encode()) - len(given.encode())
    expected = 18 * (len(token_ids) - 1) / n_bytes

    found = likelihood.bits_per_byte(know_nothing, vocabulary.tokenizer, text)

    says = exhibit.measured(
        f"bits per byte of {len(token_ids)} tokens, {n_bytes} bytes of them predicted", found,
        should_be=f"{expected:.4g}",
    )  # fmt: skip
    assert found == pytest.approx(expected, rel=1e-6), says


def take_the_text_itself_alone(monkeypatch):
    monkeypatch.setattr(likelihood, "_signs", str)


@pytest.mark.claim(id="8.44", falsifier=take_the_text_itself_alone)
def test_a_space_that_a_tokenizer_adds_is_given_and_counts_no_byte(exhibit):
    """Six letters and spaces become seven tokens, of which the first is the space before them."""
    tokenizer, text = byte_level(), "a word"
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    given = tokenizer.decode(tokenizer.encode(text))
    try:
        found = likelihood.bits_per_byte(know_nothing, tokenizer, text)
    except ValueError as problem:
        found = str(problem)

    says = exhibit.measured(f"bits per byte of {text!r}, read as {given!r}", found, should_be=18)

    assert given == f" {text}", f"the tokenizer gives back {given!r}, but should add a space"
    assert found == pytest.approx(18, rel=1e-6), says


def know_nothing(token_ids):
    return mx.zeros((*token_ids.shape, 2**18))


def compare_any_texts(monkeypatch):
    monkeypatch.setattr(compare, "other_texts", lambda before, after: None)


@pytest.mark.claim(id="8.21", falsifier=compare_any_texts)
def test_costs_on_different_passages_are_not_compared(tmp_path, capsys, exhibit):
    """`llm-spec compare` on two runs that differ in one letter of one passage."""
    texts = passages()
    others = {**texts, "prose": texts["prose"] + "."}
    files = {name: a_ladder_on(tmp_path / f"{name}.json", fingerprint(t))
             for name, t in (("A", texts), ("same", texts), ("other", others))}  # fmt: skip
    ends = {}
    for name in ("same", "other"):
        code = command_line.main(["compare", str(files["A"]), str(files[name])])
        ends[name] = code, capsys.readouterr().err.strip()
    exhibit.table(
        [[name, *end] for name, end in ends.items()],
        columns=["passages", "exit code", "message"], title="llm-spec compare",
    )  # fmt: skip
    codes = {name: code for name, (code, _) in ends.items()}

    says = exhibit.measured("exit codes", codes, should_be={"same": 0, "other": 2})

    assert codes == {"same": 0, "other": 2}, says
    assert "different passages" in ends["other"][1], says


def a_ladder_on(path, passages):
    """Results of one ladder, measured on these passages, as the suite writes them."""
    ledger = {"8.12": claims.Claim("8.12", "A quantised model diverges", "law", "8", "none")}
    found = results.Results(ledger)
    seen = Shown({"kind": "ladder", "title": "a ladder", "passages": passages, "rungs": []})
    found.add(results.Report("passed", [About("8.12", "a model"), seen]))
    environment = results.environment("pytest", "BLAS", partial=False, created="now", seeds={})
    path.write_text(json.dumps(found.document(environment)))
    return path
