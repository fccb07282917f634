"""Experiment 0: `llm-spec look` shows what the model computes, and nothing else."""

import base64
import gzip
import json
import re

import mlx.core as mx
import numpy as np
import pytest
from huggingface_hub import constants

from llm_spec.cli.command_line import main
from llm_spec.ledger.terminal import render
from llm_spec.look import maps, models, observation, page, terminal
from llm_spec.model import tokens
from llm_spec.numerics import distances
from llm_spec.numerics.sampling import softmax
from llm_spec.observe import trace as tracing

TEXT = "I wrote it all in the language Rust"
OTHER = "I scrubbed at the old brown Rust"
HOSTILE = "Rust \x1b[2J\u202e</script><script>alert(1)</script>"
STEPS = 6


def looked_at(subject, text=TEXT, generate=0, **options):
    opened = models.Opened(subject.name, subject.unpacked, subject.tokenizer, [])
    return observation.look(opened, text, generate=generate, **options)


def carried(html, name):
    """What a page holds for its script under this name, unpacked."""
    return gzip.decompress(base64.b64decode(re.search(rf'id="{name}">([^<]*)<', html)[1]))


def held_by(html):
    """Each text's maps as the page shows them: (heads, queries, keys) by layer."""
    data = json.loads(carried(html, "data-look"))
    numbers = np.frombuffer(carried(html, "data-maps"), "<u2")
    found, start = [], 0
    for text in data["texts"]:
        layers = []
        for layer in text["attention"]:
            shape = tuple(layer[side] for side in ("heads", "queries", "keys"))
            end = start + int(np.prod(shape))
            layers.append(numbers[start:end].reshape(shape) / data["unit"])
            start = end
        found.append(layers)
    return found


def read_it_backwards(monkeypatch):
    traced = tracing.trace
    monkeypatch.setattr(
        observation, "trace", lambda model, ids, **given: traced(model, ids[::-1], **given)
    )


@pytest.mark.claim(id="0.120", falsifier=read_it_backwards)
def test_look_shows_what_a_trace_of_the_same_text_computes(embedded, exhibit):
    """Norms, attention maps, logit lens and probabilities, against a trace without a cache."""
    look = looked_at(embedded)
    seen = tracing.trace(embedded.unpacked, tokens.prompt(embedded.tokenizer, TEXT))
    (shown,) = held_by(page.render_page("a model", [look]))
    lens = tracing.logit_lens(embedded.unpacked, seen)  # of the last token: (layers, vocabulary)
    expected = [softmax(layer) for layer in (*lens, seen.logits[-1])]
    said = [(row[-1], p) for row, p in zip(look.lens, expected)] + [(look.next, expected[-1])]
    apart = {
        "norms": np.abs(
            np.array([token.norm for token in look.tokens])
            - np.linalg.norm(seen.embeddings, axis=-1)
        ).max(),
        "attention": np.abs(np.array(shown) - np.array(seen.attention)).max(),
        "probabilities": max(abs(each.probability - p[each.id]) for few, p in said for each in few),
    }
    exhibit.table(
        [[part, float(far)] for part, far in apart.items()],
        columns=["part", "largest difference"], title="look against a trace",
    )  # fmt: skip
    worst = distances.worst([float(far) for far in apart.values()])

    says = exhibit.measured("largest difference", worst, should_be="at most 1e-4, half a step of "
                            "what is shown and as much for rounding")  # fmt: skip

    assert len(look.lens) == len(lens) > 1, (
        f"layers read out = {len(look.lens)}, but should be {len(lens)}"
    )
    assert worst <= 1 / maps.UNIT, says


def sharpen(monkeypatch):
    likeliest = observation.likeliest
    monkeypatch.setattr(
        observation,
        "likeliest",
        lambda tokenizer, logits, count: likeliest(tokenizer, logits / 0.7, count),
    )


@pytest.mark.claim(id="0.121", falsifier=sharpen)
def test_generated_probabilities_are_the_softmax_of_each_step(embedded, exhibit):
    """Every step against one pass without a cache over the text and the generated tokens."""
    look = looked_at(embedded, generate=STEPS)
    steps = look.steps
    ids = [*look.seen.token_ids, *(step.chosen.id for step in steps)]
    logits = np.asarray(embedded.unpacked(mx.array([ids]))[0].astype(mx.float32))
    missed = []
    for step, row in zip(steps, logits[len(look.tokens) - 1 :]):
        probabilities = softmax(row)
        missed += [
            abs(each.probability - probabilities[each.id])
            for each in (step.chosen, *step.runners_up)
        ]
        best = max(each.probability for each in (step.chosen, *step.runners_up))
        assert step.chosen.probability == best, f"{step} is not the likeliest of its step"
    exhibit.table(
        [[step.chosen.token, step.chosen.probability] for step in steps],
        columns=["token", "probability"], title="what look generates",
    )  # fmt: skip
    worst = distances.worst([float(each) for each in missed])
    allowed = 1 / maps.UNIT

    says = exhibit.measured("largest difference", worst, should_be=f"at most {allowed:.1g}, "
                            "below what is shown")  # fmt: skip

    assert len(steps) == STEPS, f"{len(steps)} steps were generated, but should be {STEPS}"
    assert worst <= allowed, says


def scale_by_the_largest(monkeypatch):
    shown = maps._shown

    def scaled(seen, layer):
        it = shown(seen, layer)
        largest = it.weights.max(axis=-1, keepdims=True).clip(1)
        weights = (maps.UNIT * (it.weights / largest)).astype("<u2")
        return maps.LayerMaps(weights, it.in_order, it.sink)

    monkeypatch.setattr(maps, "_shown", scaled)


@pytest.mark.claim(id="0.122", falsifier=scale_by_the_largest)
def test_attention_rows_on_the_page_sum_to_one(embedded, exhibit):
    """Each weight is rounded to 0.01 %, so a row of n keys may miss 1 by n / 2 times that."""
    (layers,) = held_by(page.render_page("a model", [looked_at(embedded)]))
    sums = np.concatenate([layer.sum(axis=-1).ravel() for layer in layers])
    keys = layers[0].shape[-1]
    exhibit.table([[len(sums), sums.min(), sums.max()]], columns=["rows", "least", "most"],
                  title="sums of the rows that the page shows")  # fmt: skip
    worst, allowed = float(np.abs(sums - 1).max()), keys / 2 / maps.UNIT

    says = exhibit.measured("largest distance from 1", worst, should_be=f"at most {allowed:.1g}")

    assert keys > 1, "keys per row = 1, but should be more: a single weight is always 1"
    assert worst <= allowed + 1e-9, says


def leave_out_the_last_layer(monkeypatch):
    packed = maps.packed_maps
    monkeypatch.setattr(page, "packed_maps", lambda texts: packed([t[:-1] for t in texts]))


@pytest.mark.claim(id="0.123", falsifier=leave_out_the_last_layer)
def test_the_page_of_look_holds_every_head_of_both_texts(embedded, exhibit):
    """Counted in the data that the page carries, against the model's configuration."""
    looks = [looked_at(embedded, text) for text in (TEXT, OTHER)]
    html = page.render_page("a model", looks)
    data = json.loads(carried(html, "data-look"))
    numbers = len(carried(html, "data-maps")) // 2
    expected = sum(
        embedded.facts["layers"] * embedded.facts["n_heads"] * len(look.tokens) ** 2
        for look in looks
    )
    exhibit.table([[numbers, expected]], columns=["weights held", "weights computed"],
                  title="attention weights in the page")  # fmt: skip

    says = exhibit.measured("weights of all heads in the page", numbers, should_be=expected)

    assert len(data["texts"]) == 2, f"texts on the page = {len(data['texts'])}, but should be 2"
    assert numbers == expected, says


def believe_the_vocabulary(monkeypatch):
    for module in (terminal, page):
        monkeypatch.setattr(module, "piece", lambda text: text)


@pytest.mark.claim(id="0.124", falsifier=believe_the_vocabulary)
def test_what_look_shows_can_command_neither_terminal_nor_page(embedded, exhibit):
    """A text of control sequences, direction overrides and markup is looked at."""
    look = looked_at(embedded, HOSTILE, generate=2)
    parts = terminal.reading("a \x1b[31mmodel", look), terminal.generated(look)
    shown = "".join(render(part, 100, colour=False) for part in parts)
    html = page.render_page("a <b>model", [look])
    data = json.dumps(json.loads(carried(html, "data-look")), ensure_ascii=False)
    texts = {"terminal": shown, "page": html, "data": data}
    commands = {
        place: [sign for sign in ("\x1b", "\u202e", "<script>alert", "<b>") if sign in text]
        for place, text in texts.items()
    }
    exhibit.text(shown[:2000], title="a hostile text on a terminal")
    found = sorted({repr(sign) for signs in commands.values() for sign in signs})

    says = exhibit.measured("control characters and markup", found, should_be=[])

    assert "␛" in shown, "signs shown = none, but should hold ␛"
    assert found == [], says


def show_any_length(monkeypatch):
    monkeypatch.setattr(observation, "LONGEST", 10**9)


def asked(capsys, *arguments):
    code = main(["look", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.err.strip(), told.out


@pytest.mark.claim(id="0.125", falsifier=show_any_length)
def test_what_look_cannot_show_is_refused_in_one_sentence(
    embedded, exhibit, capsys, monkeypatch, tmp_path
):
    """Exit code 2 and one line on standard error, with nothing on standard output."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    loaded = models.Opened(embedded.name, embedded.unpacked, embedded.tokenizer, [])
    monkeypatch.setattr(models, "_load", lambda *_: loaded)  # once for all questions
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file.html").mkdir()
    questions = {
        "no text": [""],
        "a long text": ["word " * 200, "--tokens", 0],
        "100,000 tokens": ["word " * 100_000],
        "no model": [TEXT, "--model", ""],
        "an unknown model": [TEXT, "--model", "no such model"],
        "a model with too long a name": [TEXT, "--model", "m" * 300],
        "a model that nobody has here": [TEXT, "--model", "nobody/nothing"],
        "a directory without a model": [TEXT, "--model", tmp_path / "empty"],
        "a page that is a directory": [TEXT, "-o", tmp_path / "a file.html"],
        "a page in no directory": [TEXT, "-o", tmp_path / "none" / "page.html"],
        "a page as PDF": [TEXT, "-o", tmp_path / "page.pdf"],
        "too many tokens": [TEXT, "--tokens", 10**6],
    }
    answers = {name: asked(capsys, *question) for name, question in questions.items()}
    exhibit.table(
        [[name, code, told] for name, (code, told, _) in answers.items()],
        columns=["question", "exit code", "answer"], title="what look refuses",
    )  # fmt: skip
    wrong = [
        name for name, (code, told, out) in answers.items()
        if code != 2 or out or "\n" in told or not told.endswith(".")
    ]  # fmt: skip

    says = exhibit.measured("questions without exit code 2 and one line", wrong, should_be=[])

    assert wrong == [], says


def forget_the_template(monkeypatch):
    templated = observation._templated

    def bare(model, text):
        templated(model, text)  # a model without a template is still refused
        return tokens.encode(model.tokenizer, text)

    monkeypatch.setattr(observation, "_templated", bare)


@pytest.mark.claim(id="0.126", falsifier=forget_the_template)
def test_with_template_the_model_reads_its_chat_template(embedded, exhibit):
    """The ids are those of the template's own text; a tokenizer without one is refused."""
    opened = models.Opened(embedded.name, embedded.unpacked, embedded.tokenizer, [])
    ids = observation.token_ids(opened, TEXT, template=True)
    rendered = embedded.tokenizer.apply_chat_template(
        [{"role": "user", "content": TEXT}], tokenize=False, add_generation_prompt=True
    )
    exhibit.text(rendered, title="the text in its chat template")

    class Bare:
        has_chat_template = False

    with pytest.raises(models.CannotLook, match="no chat template") as refused:
        observation.token_ids(models.Opened("bare", None, Bare(), []), TEXT, template=True)

    read = embedded.tokenizer.decode(ids)
    says = exhibit.measured("text that the model reads", read, should_be=rendered)

    assert str(refused.value).count(".") == 1, refused.value
    assert read == rendered != TEXT, says
