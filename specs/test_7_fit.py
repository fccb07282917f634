"""Experiment 7: which models fit in memory, and answers to questions that make no sense."""

import contextlib
import io
import json

import pytest

from llm_spec.cli import command_line, fit
from llm_spec.model import safetensors
from llm_spec.model.declare import published
from llm_spec.model.packed import packed
from llm_spec.performance import capacity, chips
from llm_spec.performance.plan import Machine

GIB = 2**30
CONTEXT = 2048


def plan_for_sixteen_gigabytes(monkeypatch):
    metal_limit = chips.metal_limit
    monkeypatch.setattr(chips, "metal_limit", lambda ram: metal_limit(16 * GIB))


@pytest.mark.claim(id="7.16", falsifier=plan_for_sixteen_gigabytes)
def test_the_largest_that_fits_in_36_gb_has_32_billion_weights(exhibit):
    """At 4 bits and 2,048 tokens; macOS lets the GPU keep 27 of 36 GB resident."""
    chip = chips.one_of(chips.named("M3 Pro"))
    machine = Machine(chips.metal_limit(36 * GIB), chip.bandwidth, chip.name, fused=True)
    found = planned(longest=CONTEXT)
    record_fit(exhibit, found, machine)
    fitting = [v for v in found if v.fits(machine, CONTEXT)]
    largest = max(fitting, key=lambda v: v.parameters, default=None)

    assert len(fitting) < len(found), f"models that fit = all {len(found)}, but should be fewer"
    says = exhibit.measured("largest model that fits", largest and largest.name, "qwen3-32b")
    assert largest is not None, says
    assert largest.name == "qwen3-32b", says


def planned(longest):
    """The published models at 4 bits."""
    return [
        variant
        for model in published().values()
        for variant in capacity.variants(model.name, model.config, [4], fused=True, longest=longest)
    ]


def record_fit(exhibit, found, machine):
    """The figures behind the plan, for a page that answers the same question for other machines."""
    known = {chip.name: chip.bandwidth for chip in chips.table()}
    exhibit.add(
        "fit",
        "which models fit in an M3 Pro with 36 GB",
        machine={"name": machine.about, "memory": 36 * GIB, "bandwidth": machine.bandwidth},
        chips=[{"name": name, "bandwidth": bandwidth} for name, bandwidth in known.items()],
        usable_share=machine.budget / (36 * GIB),
        contexts=[CONTEXT],
        models=[
            {"name": v.name, "bits": v.width, "weights_bytes": v.weights, "read_bytes": v.read,
             "kv_bytes": [v.course.read(CONTEXT)],
             "working_bytes": v.course.beyond(CONTEXT) - v.course.read(CONTEXT)}
            for v in found
        ],
    )  # fmt: skip


def store_eight_bits(monkeypatch):
    monkeypatch.setattr(capacity, "packed", lambda model, plain, bits: packed(model, plain, 8))


@pytest.mark.claim(id="7.17", falsifier=store_eight_bits)
def test_qwen3_8b_needs_five_gigabytes_and_not_seven(exhibit):
    """Weights, the KV cache of 2,048 tokens, and the intermediate results of one layer."""
    model = published()["qwen3-8b"]
    [variant] = capacity.variants(model.name, model.config, [4], fused=True, longest=CONTEXT)
    cache = variant.course.read(CONTEXT)
    exhibit.table(
        [["weights", variant.weights / 1e9, "~5"], ["keys and values", cache / 1e9, "~2"],
         ["intermediate results", (variant.course.beyond(CONTEXT) - cache) / 1e9, "–"],
         ["in all", variant.needs(CONTEXT) / 1e9, "~7"]],
        columns=["Qwen3-8B at 4 bits, 2,048 tokens", "GB", "the plan (GB)"],
        title="what the primary model needs",
    )  # fmt: skip
    needs = variant.needs(CONTEXT) / 1e9

    says = exhibit.measured("GB needed", needs, should_be="4.9 to 5.4")

    assert 4.9 <= needs <= 5.4, says


def header(entry, data=b"1234"):
    """A safetensors file with one tensor that is described by `entry`."""
    text = json.dumps({"w": entry}).encode()
    return len(text).to_bytes(8, "little") + text + data


HONEST = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
LIES = {
    "an empty file": b"",
    "a header longer than the file": (1 << 62).to_bytes(8, "little") + b"{}",
    "a header that is not JSON": (4).to_bytes(8, "little") + b"{{{{",
    "a header nested without end": (10**5).to_bytes(8, "little") + b"[" * 10**5,
    "less data than promised": header(HONEST, data=b""),
    "more data than promised": header(HONEST, data=b"12345678"),
    "a shape of other bytes": header(HONEST | {"shape": [1000]}),
    "a shape beyond counting": header(HONEST | {"shape": [10**40] * 9}),
    "a negative shape": header(HONEST | {"shape": [-1, -1]}),
    "an unknown type": header(HONEST | {"dtype": "F33"}),
    "a hole in the data": header(HONEST | {"data_offsets": [4, 8]}, data=b"12345678"),
    "a tensor that is a number": header(7),
}


def believe_every_header(monkeypatch):
    believed = safetensors.Header({}, 8)
    monkeypatch.setattr(safetensors, "_read", lambda path: believed)


@pytest.mark.claim(id="7.18", falsifier=believe_every_header)
def test_a_weights_file_that_lies_is_refused_in_one_sentence(tmp_path, exhibit):
    """Anybody may have written the files whose bytes are counted."""
    path, said = tmp_path / "model.safetensors", {}
    for lie, content in LIES.items():
        path.write_bytes(content)
        try:
            safetensors.read_header(path)
            said[lie] = "believed"
        except ValueError as error:
            said[lie] = str(error)
    exhibit.table(list(said.items()), columns=["the file holds", "message"], title="faulty headers")
    path.write_bytes(header(HONEST))

    assert safetensors.read_header(path).data_bytes in (0, 4), "an honest file should be read"
    believed = [lie for lie, answer in said.items() if not answer.startswith(path.name)]
    says = exhibit.measured("faulty headers that are believed", believed, should_be=[])
    assert not believed, says


QUESTIONS = [
    ["--memory", "0"], ["--memory", "99999TB"], ["--memory", "plenty"], ["--bandwidth", "0GB/s"],
    ["--memory", "36GB", "--chip", "M9"], ["--memory", "36GB", "--chip", "M3 Max"],
    ["--chip", "M3 Pro"], ["--bits", "7"], ["--context", "0"], ["--model", "no/such/directory"],
    ["--model", ""], ["--model", "m" * 300], ["--memory", ""], ["--memory", "36GB", "--chip", ""],
    ["--bandwidth", ""], ["--leave", ""],
]  # fmt: skip


def plan_for_anything(monkeypatch):
    monkeypatch.setattr(fit, "run", lambda args: 0)


@pytest.mark.claim(id="7.19", falsifier=plan_for_anything)
def test_a_question_that_makes_no_sense_gets_a_sentence_and_exit_code_2(exhibit):
    """`llm-spec fit` with impossible amounts, chips and models."""
    answers = []
    for question in QUESTIONS:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = command_line.main(["fit", *question])
        answers.append((" ".join(question), code, said.getvalue().strip()))
    exhibit.table(answers, columns=["question", "exit code", "answer"], title="llm-spec fit")
    wrong = [q for q, code, said in answers if code != 2 or not said or "\n" in said]

    says = exhibit.measured("questions without exit code 2 and one line", wrong, should_be=[])

    assert not wrong, says
