"""Laws of text: what a tokenizer and its streaming detokenizer make of it.

`TEXT_LAWS` take any tokenizer of mlx-lm (a `TokenizerWrapper`). The laws without arguments hold
mlx-lm's three detokenizers to vocabularies of bytes made here, whose tokens cut every character of
more than one byte in pieces.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

from mlx_lm import tokenizer_utils
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llm_spec.laws.finding import Finding, law, not_applicable, same

TEXTS = (
    "Hello, world! It's 3 o'clock.",
    " leads with a space,  has two , and ends with one ",
    "naïve café, Straße, Ελληνικά, русский язык",
    "日本語のテキスト。漢字かな交じり文",
    "🙂👩‍👩‍👧‍👦🇫🇷 and after",
    "line one\nline two\n\n\tindented\r\nlast\n",
    "def f(x):\n    return x ** 2  # ½",
    "a",
    "I cannot go, I do not know, and it isn't so: don't, won't, can't. Never say yes to no.",
    "JUMPING wizards vex 4567890 bold quick fox: +1 % of $2 & <3> @ [4] {5} ~ ^ _ | \\ / = ; '6'!",
)
# As tokens are spelled that nobody says: <|im_start|>, <｜User｜>, <start_of_turn>, [INST].
MARKER = re.compile(r"<[|｜][^<>\s]{1,40}[|｜]>|</?[A-Za-z_]{1,40}>|\[/?[A-Za-z_]{2,40}\]")
WORD = re.compile(r"[▁Ġ ]?[A-Za-z]{2,}")  # with the space before it, as vocabularies spell it
SPACES = "▁Ġ "  # as vocabularies spell the space before a word
FEW, SOME = 3, 64  # words that tell, and that are tried
# What stands for no letter of its own in a regular expression: escapes, sets, groups.
NOTATION = re.compile(
    r"\\[pP]\{[^}]*\}|\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\.|\[[^\]]*\]|\(\?[a-z:=!<]*"
)


@law
def streaming_is_decoding(tokenizer: Any) -> Finding:
    """Token by token, a streaming detokenizer gives the text that decoding gives at once, and
    never takes back a character that it gave. A space before all others may be left out."""
    wrong = []
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        said = streamed(tokenizer, ids)
        decoded = tokenizer.decode(ids)
        if said.removeprefix(" ") != decoded.removeprefix(" "):
            wrong.append(f"{said!r} of {decoded!r}")
    return same("texts that streaming changes", wrong[:2], [])


@law
def decoding_gives_the_words_back(tokenizer: Any) -> Finding:
    """Decoding the tokens of a text returns its words, and no part of the tokenizer replaces one
    word by another.

    How much space stands between words may change, and so may signs that Unicode takes for the
    same (NFKC). Text that the vocabulary has no token for is left out.
    """
    wrong = [f"{old!r} is written {new!r}" for old, new in _replaced(tokenizer)]
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        decoded = tokenizer.decode(ids)
        if tokenizer.unk_token_id not in ids and _words(tokenizer, decoded) != _words(
            tokenizer, text
        ):
            wrong.append(f"{text!r} is {decoded!r}")
    return same("words that decoding changes", wrong[:3], [])


def _words(tokenizer: Any, text: str) -> list[str]:
    words = unicodedata.normalize("NFKC", text).split()
    # Such tokenizers take the space before a full stop away.
    tidy = getattr(tokenizer, "clean_up_tokenization_spaces", False)
    return ["".join(words)] if tidy else words


def _replaced(tokenizer: Any) -> list[tuple[str, str]]:
    """Pieces of words that a normaliser or a decoder writes in another way, and how."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = [json.loads(backend.to_str())] if backend is not None else []
    pending = [each for part in parts for each in (part["normalizer"], part["decoder"])]
    found = []
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        elif isinstance(part, dict):
            pending += part.values()
            if part.get("type") == "Replace":
                kind, old = next(iter(part["pattern"].items()))
                letters = NOTATION.sub(" ", old) if kind == "Regex" else old
                if re.search(r"[^\W_]{2}", letters):
                    found.append((old, part["content"]))
    return found


@law
def words_of_the_vocabulary_are_written(tokenizer: Any) -> Finding:
    """Most words of the vocabulary, as text, are encoded as their token.

    A tokenizer that lost its merges writes each word letter by letter, and decodes it again: a
    model reads letters where it learned words.
    """
    added = {*getattr(tokenizer, "added_tokens_decoder", ()), *tokenizer.all_special_ids}
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    words = [id_ for piece, id_ in vocabulary if id_ not in added and WORD.fullmatch(piece)]
    if _puts_a_space_before(tokenizer):  # as text, a piece without one is another word
        pieces = {id_: piece for piece, id_ in vocabulary}
        words = [id_ for id_ in words if pieces[id_][0] in SPACES]
    if len(words) < FEW:
        return not_applicable("its vocabulary holds no words")
    some = words[:: -(-len(words) // SOME)]
    texts = [(id_, tokenizer.decode([id_])) for id_ in some]
    apart = [t for id_, t in texts if id_ not in tokenizer.encode(t, add_special_tokens=False)]
    if 2 * len(apart) <= len(some):
        return same("words of the vocabulary that are cut", "few", "few")
    return same("words of the vocabulary that are cut", apart[:5], "few")


def _puts_a_space_before(tokenizer: Any) -> bool:
    """Whether a text that begins with a letter is read with a space before it."""
    first = tokenizer.convert_ids_to_tokens(tokenizer.encode("a", add_special_tokens=False)[:1])
    return bool(first) and first[0][0] in SPACES


@law
def streams_are_apart(tokenizer: Any) -> Finding:
    """Two detokenizers of one tokenizer share no state, and one can be reset."""
    first, second = (tokenizer.encode(text, add_special_tokens=False) for text in TEXTS[2:4])
    alone = [streamed(tokenizer, ids) for ids in (first, second)]
    one, other = tokenizer.detokenizer, tokenizer.detokenizer
    said = ["", ""]
    for i in range(max(len(first), len(second))):
        for n, (stream, ids) in enumerate(((one, first), (other, second))):
            if i < len(ids):
                stream.add_token(ids[i])
                said[n] += stream.last_segment
    for n, stream in enumerate((one, other)):
        stream.finalize()
        said[n] += stream.last_segment
    one.reset()
    again = "".join(_segments(one, second))
    texts = [*said, again, one.text]
    return same("texts of two streams and of one again", texts, [*alone, alone[1], alone[1]])


def streamed(tokenizer: Any, ids: list[int]) -> str:
    """The segments of a streaming detokenizer put together."""
    return "".join(_segments(tokenizer.detokenizer, ids))


def _segments(stream: Any, ids: list[int]) -> list[str]:
    segments = []
    for id_ in ids:
        stream.add_token(id_)
        segments.append(stream.last_segment)
    stream.finalize()
    return [*segments, stream.last_segment]


@law
def ends_have_ids(tokenizer: Any) -> Finding:
    """Generation can stop: there is an end of sequence, and every one is a token of its own, no
    piece of ordinary text."""
    ends = sorted(tokenizer.eos_token_ids)
    if not ends:
        return same("ids that end a text", "none", "at least one")
    known = set(tokenizer.get_vocab().values())
    if unknown := [end for end in ends if end not in known]:
        return same("ids that end a text and are no token", unknown, [])
    # What a model writes as a part of ordinary text cannot be an end, too.
    written = {id_ for text in TEXTS for id_ in tokenizer.encode(text, add_special_tokens=False)}
    added = {*getattr(tokenizer, "added_tokens_decoder", ()), *tokenizer.all_special_ids}
    ordinary = [
        f"{end} ({tokenizer.decode([end])!r})"
        for end in ends
        if end not in added and (end in written or _is_ordinary(tokenizer, end))
    ]
    return same("ids that end a text and stand for ordinary text", ordinary, [])


@law
def a_text_is_left_open(tokenizer: Any) -> Finding:
    """A text is encoded without an end of sequence behind it: nothing follows an end.

    Some are trained with one behind every text, and a tokenizer kept from training adds it to
    prompts, too. A model that embeds texts is asked for no answer, and may read all off that end.
    """
    if (Path(tokenizer.name_or_path) / "modules.json").is_file():  # of sentence-transformers
        return not_applicable("an end belongs to each text that a model embeds")
    ids = tokenizer.encode(TEXTS[0])
    if not ids:
        return same("tokens of a text", 0, "some")
    last = ids[-1]
    behind = f"{last} ({tokenizer.decode([last])!r})" if last in tokenizer.eos_token_ids else "none"
    return same("end of sequence that is encoded behind a text", behind, "none")


def _is_ordinary(tokenizer: Any, id_: int) -> bool:
    text = tokenizer.decode([id_])
    return bool(text.strip()) and not MARKER.fullmatch(text.strip())


def byte_level() -> PreTrainedTokenizerFast:
    """A vocabulary of single bytes, spelled as GPT-2 spells them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def byte_fallback() -> PreTrainedTokenizerFast:
    """A vocabulary of letters, as SentencePiece has it: all other characters are bytes."""
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyzHIS"]
    vocabulary = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *letters]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(vocabulary)},
            merges=[], unk_token="<unk>", byte_fallback=True,
        )
    )  # fmt: skip
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def _held(detokenizer: str, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Finding:
    kind = getattr(tokenizer_utils, detokenizer)
    wrapped = tokenizer_utils.TokenizerWrapper(tokenizer, functools.partial(kind, **options))
    finding = streaming_is_decoding(wrapped)
    return finding if not finding.holds else streams_are_apart(wrapped)


@law
def the_naive_detokenizer_streams() -> Finding:
    """The naive detokenizer, which decodes from scratch, streams multi-byte characters whole."""
    return _held("NaiveStreamingDetokenizer", byte_level())


@law
def the_naive_detokenizer_streams_bytes() -> Finding:
    """With byte fallback it streams characters whole, and half a character is spelled out."""
    return _held("NaiveStreamingDetokenizer", byte_fallback())


@law
def the_bpe_detokenizer_streams() -> Finding:
    """The detokenizer of byte-level vocabularies streams multi-byte characters whole."""
    return _held("BPEStreamingDetokenizer", byte_level())


@law
def the_spm_detokenizer_streams() -> Finding:
    """The detokenizer of SentencePiece vocabularies streams multi-byte characters whole."""
    return _held("SPMStreamingDetokenizer", byte_fallback(), trim_space=False)


TEXT_LAWS = (
    streaming_is_decoding,
    decoding_gives_the_words_back,
    words_of_the_vocabulary_are_written,
    streams_are_apart,
    ends_have_ids,
    a_text_is_left_open,
)
