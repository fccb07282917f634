"""Experiment 9: where a tokenizer may encode an end behind a text.

Directories are made by changing a whole one of 0.6 MB, as in test_0_model_directory.py.
"""

import pytest
from mlx_lm.utils import load_tokenizer
from tokenizers import Tokenizer, processors

from fixtures.doubles import damaged
from fixtures.doubles.damaged import copies
from llm_spec.laws.tokenizer import text


def end_behind_every_text(directory):
    """As the tokenizers of embedding models are written."""
    end = "<|im_end|>"
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}",
        special_tokens=[(end, tokenizer.token_to_id(end))],
    )  # fmt: skip
    tokenizer.save(str(directory / "tokenizer.json"))


def embeds(directory):
    end_behind_every_text(directory)
    damaged.holding("modules.json", b"[]")(directory)


def pass_over_the_modules(monkeypatch):
    monkeypatch.setattr(text.Path, "is_file", lambda path: False)


@pytest.mark.claim(id="9.195", falsifier=pass_over_the_modules)
def test_an_end_behind_a_text_is_wrong_where_an_answer_is_to_follow(exhibit, tmp_path):
    """The same tokenizer, in a model that answers and in one that sentence-transformers uses."""
    judged = {}
    for case, directory in copies(tmp_path, {"answers": end_behind_every_text, "embeds": embeds}):
        judged[case] = text.a_text_is_left_open(load_tokenizer(directory)).holds

    says = exhibit.measured("the law holds", judged, should_be={"answers": False, "embeds": None})

    assert judged == {"answers": False, "embeds": None}, says
