"""Experiment 2: how text becomes tokens, on the embedded model, Qwen3 and Llama 3."""

import unicodedata
from functools import partial

import pytest

from fixtures.doubles.tampered import TamperedTokenizer
from fixtures.texts import prompts, strings
from llm_spec.model import tokens

WORD = "Rust"
HALF_A_PAIR = "half \ud83d pair"


def tampered(vocabulary, **changes):
    tokenizer = TamperedTokenizer(vocabulary.tokenizer, **changes)
    return {"vocabulary": vocabulary.replacing(tokenizer=tokenizer)}


def lower_the_case(vocabulary):
    return tampered(vocabulary, text=str.lower)


@pytest.mark.claim(id="2.1", falsifier=lower_the_case)
def test_the_plans_strings_have_the_recorded_ids_and_pieces(vocabulary, exhibit, snapshot):
    """Each colour is one token, with its id beside it; a broken piece is part of a character."""
    cuts = [tokens.tokenization(vocabulary.tokenizer, text) for text in prompts.TOKENIZER_STRINGS]
    exhibit.tokens(cuts, tokenizer=vocabulary.name, title="how the plan's strings are tokenised")
    facts = {cut["text"]: list(zip(cut["ids"], cut["pieces"], strict=True)) for cut in cuts}

    says = exhibit.measured("strings tokenised", len(facts), should_be="as in the snapshot")

    assert facts == snapshot, says


def drop_the_last_token(vocabulary):
    return tampered(vocabulary, ids=lambda ids: ids[:-1])


@pytest.mark.claim(id="2.2", falsifier=drop_the_last_token)
def test_decoding_the_ids_gives_the_text_back(vocabulary, exhibit):
    """Scripts, joined emoji, digits, code and white space, character for character."""
    tokenizer = vocabulary.tokenizer
    returned = {
        name: round_trip(tokenizer, text) == text for name, text in strings.ROUND_TRIP.items()
    }
    exhibit.table(
        [[name, strings.ROUND_TRIP[name], same] for name, same in returned.items()],
        columns=["kind", "text", "returned unchanged"],
        title="round trip",
    )
    lost = sorted(name for name, same in returned.items() if not same)

    says = exhibit.measured("strings that changed", lost, should_be="none")

    assert not lost, says


def teach_it_every_byte(vocabulary):
    complete = TamperedTokenizer(vocabulary.tokenizer)
    complete.get_vocab = tokens.byte_alphabet
    return {"vocabulary": vocabulary.replacing(tokenizer=complete)}


@pytest.mark.claim(id="2.3", falsifier=teach_it_every_byte)
def test_bytes_without_a_token_vanish_silently(vocabulary, exhibit):
    """A byte-level vocabulary should hold all 256 bytes; a missing byte is dropped, not refused."""
    missing = tokens.bytes_without_token(vocabulary.tokenizer)
    exhibit.text(" ".join(f"{b:02X}" for b in missing) or "none", title="bytes without a token")
    characters = [chr(byte) for byte in missing if byte < 0x80]  # the others are no text alone
    kept = [c for c in characters if round_trip(vocabulary.tokenizer, f"a{c}b") != "ab"]

    says = exhibit.measured(
        "bytes without a token", len(missing), should_be=vocabulary.facts["missing_bytes"]
    )

    assert len(missing) == vocabulary.facts["missing_bytes"], says
    assert not kept, f"characters kept = {kept!r}, but should be none"


def round_trip(tokenizer, text):
    return tokenizer.decode(tokens.encode(tokenizer, text))


def replace_what_is_not_text(vocabulary):
    def replaced(text):
        return text.encode("utf-8", "replace").decode()

    return tampered(vocabulary, text=replaced)


@pytest.mark.claim(id="2.4", falsifier=replace_what_is_not_text)
def test_half_a_surrogate_pair_is_refused(vocabulary, exhibit):
    """Half a surrogate pair is no character, so it must raise an error."""
    try:
        outcome = f"ids {tokens.encode(vocabulary.tokenizer, HALF_A_PAIR)}"
    except (UnicodeError, TypeError) as error:
        outcome = type(error).__name__

    says = exhibit.measured("encoding half a pair gives", outcome, should_be="an error")

    assert not outcome.startswith("ids"), says


@pytest.mark.claim(id="2.5", falsifier=lower_the_case)
def test_case_changes_the_ids(vocabulary, exhibit):
    """`Hello` and `hello`, `Rust` and `rust`, `MLX` and `mlx` have different ids."""
    pairs = [("Hello", "hello"), ("Rust", "rust"), ("MLX", "mlx")]
    cuts = [tokens.tokenization(vocabulary.tokenizer, text) for pair in pairs for text in pair]
    exhibit.tokens(cuts, tokenizer=vocabulary.name, title="upper and lower case")
    same = [a["text"] for a, b in zip(cuts[::2], cuts[1::2]) if a["ids"] == b["ids"]]

    says = exhibit.measured("words whose ids ignore case", same, should_be=[])

    assert not same, says


def strip_the_space(vocabulary):
    return tampered(vocabulary, text=str.strip)


@pytest.mark.claim(id="2.6", falsifier=strip_the_space)
def test_a_leading_space_changes_the_ids(vocabulary, exhibit):
    """The space belongs to the token that follows it, so a word has two spellings."""
    words = ["Rust", "Hello", "language"]
    cuts = [tokens.tokenization(vocabulary.tokenizer, text) for w in words for text in (w, f" {w}")]
    exhibit.tokens(cuts, tokenizer=vocabulary.name, title="with and without a space")
    same = [a["text"] for a, b in zip(cuts[::2], cuts[1::2]) if a["ids"] == b["ids"]]

    says = exhibit.measured("words whose ids ignore the space", same, should_be=[])

    assert not same, says


def look_at_what_follows(vocabulary):
    def contextual(ids):
        return [ids[0] + len(ids) % 7, *ids[1:]]

    return tampered(vocabulary, ids=contextual)


@pytest.mark.claim(id="2.7", falsifier=look_at_what_follows)
def test_rust_has_the_same_ids_in_both_contexts_and_often_more_than_one(vocabulary, exhibit):
    """The whole sequence of ids repeats: at the start of a text the word may be several tokens."""
    texts = [WORD, prompts.EXAMPLE, prompts.OTHER_CONTEXT, f" {WORD}"]
    alone, language, iron, spaced = (
        tokens.tokenization(vocabulary.tokenizer, text) for text in texts
    )
    exhibit.tokens([alone, language, iron, spaced], tokenizer=vocabulary.name, title="Rust")
    ids = alone["ids"]
    prefixes = [cut["ids"][: len(ids)] for cut in (language, iron)]

    says = exhibit.measured("ids of Rust in the two contexts", prefixes, should_be=[ids, ids])
    assert prefixes == [ids, ids], says

    counts, known = (len(ids), len(spaced["ids"])), (vocabulary.facts["rust_tokens"], 1)
    says = exhibit.measured("tokens of Rust and of ␣Rust", counts, should_be=known)
    assert counts == known, says


def begin_every_text_alike(vocabulary):
    return tampered(vocabulary, ids=lambda ids: [0, *ids])


@pytest.mark.claim(id="2.8", falsifier=begin_every_text_alike)
def test_where_a_bos_is_added_the_first_id_proves_nothing(vocabulary, exhibit):
    """With a BOS the first id is the same for any two texts, related or not."""
    texts = [prompts.EXAMPLE, prompts.OTHER_CONTEXT, "Zebras graze at dawn"]
    firsts = {text: vocabulary.tokenizer.encode(text)[0] for text in texts}
    exhibit.table(list(map(list, firsts.items())), columns=["text", "first id"], title="first ids")
    equal = len(set(firsts.values())) == 1

    says = exhibit.measured(
        "unrelated texts share their first id", equal, should_be=vocabulary.facts["adds_bos"]
    )

    assert equal == vocabulary.facts["adds_bos"], says


def take_the_added_ones_for_merged(vocabulary):
    forgetful = TamperedTokenizer(vocabulary.tokenizer)
    forgetful.get_added_vocab = dict
    return {"vocabulary": vocabulary.replacing(tokenizer=forgetful)}


@pytest.mark.claim(id="2.9", falsifier=take_the_added_ones_for_merged)
def test_a_vocabulary_has_three_sizes(vocabulary, exhibit):
    """Merged tokens; merged and added tokens; rows of the embedding table."""
    tokenizer, facts = vocabulary.tokenizer, vocabulary.facts
    merged = len(set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()))
    sizes = [merged, len(tokenizer.get_vocab()), facts["vocab_rows"]]
    exhibit.table(
        [list(row) for row in zip(("merged", "with added ones", "embedding rows"), sizes)],
        columns=["what is counted", "size"],
        title="three sizes of a vocabulary",
    )
    known = [facts["merged_tokens"], facts["merged_tokens"] + facts["added_tokens"]]

    says = exhibit.measured("merged, and with added ones", sizes[:2], should_be=known)

    assert sizes[:2] == known, says
    assert sizes[1] <= sizes[2], f"{sizes[1]} tokens, but should be at most {sizes[2]} rows"


def read_only_german(vocabulary):
    def mostly_german(text):
        return text if "Zug" in text else 3 * text

    return tampered(vocabulary, text=mostly_german)


@pytest.mark.claim(id="2.10", falsifier=read_only_german)
def test_the_cheapest_language_depends_on_the_vocabulary(vocabulary, exhibit):
    """The same two sentences in nine languages; more tokens cost more time and memory."""
    counts = {
        language: len(tokens.encode(vocabulary.tokenizer, text))
        for language, text in strings.SENTENCES.items()
    }
    sizes = {language: len(text.encode()) for language, text in strings.SENTENCES.items()}
    exhibit.table(
        [[name, sizes[name], count, sizes[name] / count] for name, count in counts.items()],
        columns=["language", "bytes", "tokens", "bytes per token"],
        title="the same sentences in nine languages",
    )
    cheapest = min(counts, key=counts.__getitem__)
    known = vocabulary.facts["cheapest_language"]

    says = exhibit.measured("fewest tokens", f"{counts[cheapest]} in {cheapest}", should_be=known)

    assert cheapest == known, says


def shift_the_ids(vocabulary):
    shifted = TamperedTokenizer(vocabulary.tokenizer)
    shifted.decode = lambda ids: vocabulary.tokenizer.decode([id_ + 1 for id_ in ids])
    return {"vocabulary": vocabulary.replacing(tokenizer=shifted)}


@pytest.mark.claim(id="2.11", falsifier=shift_the_ids)
def test_the_plans_ids_stand_for_the_recorded_pieces(vocabulary, exhibit, snapshot):
    """Low ids were merged first and are short and common; an id past the end is empty."""
    size = len(vocabulary.tokenizer.get_vocab())
    ids = [id_ for id_ in prompts.VOCABULARY_IDS if id_ < size]
    facts = dict(zip(ids, tokens.token_texts(vocabulary.tokenizer, ids), strict=True))
    exhibit.table(list(map(list, facts.items())), columns=["id", "piece"], title="ids and pieces")

    says = exhibit.measured("ids decoded", len(facts), should_be="as in the snapshot")

    assert facts == snapshot, says


def compose_the_text(vocabulary):
    return tampered(vocabulary, text=partial(unicodedata.normalize, "NFC"))


@pytest.mark.claim(id="2.12", falsifier=compose_the_text)
def test_a_composing_tokenizer_returns_composed_text(vocabulary, exhibit):
    """é can be one character or e with a combining accent; NFC makes it one."""
    decomposed = unicodedata.normalize("NFD", "café naïve")
    returned = round_trip(vocabulary.tokenizer, decomposed)
    exhibit.table(
        [["given", len(decomposed)], ["returned", len(returned)]],
        columns=["text", "characters"],
        title="a decomposed text",
    )
    composed = returned != decomposed

    says = exhibit.measured(
        "text is normalised to NFC", composed, should_be=vocabulary.facts["composes"]
    )

    assert composed == vocabulary.facts["composes"], says
