"""Experiment 9: is this model directory right? First its files other than the weights."""

import json
import shutil
from dataclasses import replace

import mlx.core as mx
import pytest

from fixtures.doubles.damaged import setting
from fixtures.doubles.tampered import TamperedModel
from fixtures.models.subjects import Subject
from fixtures.texts.passages import passages
from llm_spec.directory import trial_load
from llm_spec.laws.tokenizer.support import support
from llm_spec.model.release import has_chat_template
from llm_spec.numerics.distances import worst
from llm_spec.quality import likelihood


def copied(directory, into):
    """`directory`'s small files in `into`, and links to its weights: to be damaged there."""
    into.mkdir(exist_ok=True)
    for path in directory.path.resolve().iterdir():
        if path.suffix == ".safetensors":
            (into / path.name).symlink_to(path.resolve())
        else:
            shutil.copy(path, into / path.name)
    return into


def as_subject(directory, path):
    """`directory`, read from `path` instead."""
    entry = replace(directory.entry, directory=str(path), wheel=None, hub=None)
    return {"directory": Subject(entry).replacing(path=path)}


def problems_of(directory):
    """What is wrong with tokenizer, vocabulary and template: as inspected, or tried here."""
    if directory.inspected:
        return directory.inspected.problems
    messages = []
    trial_load.main(directory.path, [], messages.append)
    return {message["about"]: message["problem"] for message in messages if "about" in message}


def add_tokens_without_rows(directory, tmp_path):
    path = copied(directory, tmp_path / "more-tokens")
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    added = dict(tokenizer["added_tokens"][0], id=10**6, content="<|too far|>")
    tokenizer["added_tokens"].append(added)
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    return as_subject(directory, path)


@pytest.mark.claim(id="9.1", falsifier=add_tokens_without_rows)
def test_the_tokenizer_loads_and_each_id_has_a_row(directory, exhibit):
    """A token without a row would get another token's embedding, or none."""
    found = problems_of(directory)
    wrong = [found[about] for about in ("tokenizer", "vocabulary") if about in found]
    exhibit.text("\n".join(wrong) or "it loads, and its ids fit", title="tokenizer")

    says = exhibit.measured("tokenizer and vocabulary", wrong or "fit", should_be="fit")

    assert not wrong, says


def state_other_bits(directory, tmp_path):
    path = copied(directory, tmp_path / "other-bits")
    stated = directory.config.get("quantization") or {"group_size": 64, "bits": 4}
    setting(quantization={**stated, "bits": 12 - stated["bits"]})(path)
    return as_subject(directory, path)


@pytest.mark.claim(id="9.127", falsifier=state_other_bits)
def test_weights_are_packed_as_the_configuration_says(directory, exhibit):
    """Bits, group size and mode of every packed module, as mlx-lm finds them in the files."""
    problem = problems_of(directory).get("packing")
    exhibit.text(problem or "weights are packed as stated, or not at all", title="packing")

    says = exhibit.measured("packing", problem or "as stated", should_be="as stated")

    assert not problem, says


def store_a_head_beside_a_tied_one(directory, tmp_path):
    path = copied(directory, tmp_path / "own-head")
    setting(tie_word_embeddings=True)(path)
    head = {"lm_head.weight": mx.ones((2, 4), mx.float16)}
    mx.save_safetensors(str(path / "model-head.safetensors"), head)
    return as_subject(directory, path)


@pytest.mark.claim(id="9.175", falsifier=store_a_head_beside_a_tied_one)
def test_a_stored_head_is_used(directory, exhibit):
    """A tied head is the embedding's copy, or is not stored: mlx-lm drops what the files hold."""
    problem = problems_of(directory).get("head")
    exhibit.text(problem or "the head is used, or not stored", title="head")

    says = exhibit.measured("a stored head", problem or "used", should_be="used")

    assert not problem, says


def reach_for_python(directory, tmp_path):
    path = copied(directory, tmp_path / "reaching")
    setting("tokenizer_config.json", chat_template="{{ messages.__class__.__mro__ }}")(path)
    return as_subject(directory, path)


@pytest.mark.claim(id="9.2", falsifier=reach_for_python)
def test_the_chat_template_makes_text_of_a_conversation(directory, exhibit):
    """User, assistant, user: rendered in bounded time and inside the sandbox."""
    problem = problems_of(directory).get("chat template")
    if not problem:
        if not has_chat_template(directory.tokenizer):
            pytest.skip(f"{directory.name} has no chat template")
        chat = {"tokenize": False, "add_generation_prompt": True}
        text = directory.tokenizer.apply_chat_template(trial_load.CONVERSATION, **chat)
        exhibit.text(text, title="a conversation as the model reads it")

    says = exhibit.measured("chat template", problem or "renders", should_be="renders")

    assert not problem, says


def fail_with_tools(directory, tmp_path):
    path = copied(directory, tmp_path / "without-tools")
    template = directory.tokenizer.chat_template
    failing = "{% if tools %}{{ tools[0].schema.name.upper() }}{% endif %}"
    setting("tokenizer_config.json", chat_template=failing + template)(path)
    return as_subject(directory, path)


@pytest.mark.claim(id="9.126", falsifier=fail_with_tools)
def test_the_chat_template_takes_or_refuses_what_an_assistant_sends(directory, exhibit):
    """System messages, tools, thoughts: taken, ignored, refused by the template's own words, or
    failed with. A template that fails ends a request that mlx-lm had taken."""
    if problem := problems_of(directory).get("chat template"):
        pytest.skip(f"not judged: {problem} (claim 9.2)")
    if not has_chat_template(directory.tokenizer):
        pytest.skip(f"{directory.name} has no chat template")
    tried = support(directory.tokenizer)
    exhibit.table(
        [[each.title, each.says] for each in tried], columns=["given", "result"],
        title="what the chat template accepts",
    )  # fmt: skip
    failed = [f"not with {each.title} ({each.says})" for each in tried if each.fails]

    says = exhibit.measured("inputs on which the chat template fails", failed, should_be=[])

    assert not failed, says


def shift_the_vocabulary(directory):
    return {
        "directory": directory.replacing(
            model=TamperedModel(directory.model, lambda logits: mx.roll(logits, 1, axis=-1))
        )
    }


@pytest.mark.claim(id="9.3", falsifier=shift_the_vocabulary)
def test_the_model_predicts_ordinary_text_better_than_letter_pairs(directory, exhibit):
    """Bits per byte, against the best table of letter pairs for the text."""
    texts = passages("prose")
    pairs = likelihood.bigram_bits_per_byte(texts.values())
    costs = {
        name: likelihood.bits_per_byte(directory.model, directory.tokenizer, text)
        for name, text in texts.items()
    }
    exhibit.bars({**costs, "letter pairs": pairs}, title="cost of a text", axis="bits per byte")
    most = worst(costs.values())

    says = exhibit.measured("bits per byte", most, should_be=f"below {pairs:.2f}", bound=pairs)

    assert most < pairs, says
