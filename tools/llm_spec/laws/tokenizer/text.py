"""Laws of text: what a tokenizer and its streaming detokenizer make of it.

`TEXT_LAWS` take any tokenizer of mlx-lm (a `TokenizerWrapper`). The laws without arguments hold
mlx-lm's three detokenizers to vocabularies of bytes made here, whose tokens cut every character of
more than one byte in pieces.
"""

from __future__ import annotations

import functools
from typing import Any

from mlx_lm import tokenizer_utils
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llm_spec.laws.finding import Finding, law, same

TEXTS = (
    "Hello, world! It's 3 o'clock.",
    " leads with a space,  has two , and ends with one ",
    "naïve café, Straße, Ελληνικά, русский язык",
    "日本語のテキスト。漢字かな交じり文",
    "🙂👩‍👩‍👧‍👦🇫🇷 and after",
    "line one\nline two\n\n\tindented\r\nlast\n",
    "def f(x):\n    return x ** 2  # ½",
    "a",
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
def streams_are_apart(tokenizer: Any) -> Finding:
    """Two detokenizers of one tokenizer do not share what they hold, and one can start again."""
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
    """Generation can stop: there is an end of sequence, and every one is a token."""
    ends = sorted(tokenizer.eos_token_ids)
    if not ends:
        return same("ids that end a text", "none", "at least one")
    known = set(tokenizer.get_vocab().values())
    return same("ids that end a text and are no token", [e for e in ends if e not in known], [])


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
    """The detokenizer that decodes again and again streams characters of many bytes whole."""
    return _held("NaiveStreamingDetokenizer", byte_level())


@law
def the_naive_detokenizer_streams_bytes() -> Finding:
    """So it does where the vocabulary falls back on bytes, and half a character is spelled out."""
    return _held("NaiveStreamingDetokenizer", byte_fallback())


@law
def the_bpe_detokenizer_streams() -> Finding:
    """The detokenizer of byte-level vocabularies streams characters of many bytes whole."""
    return _held("BPEStreamingDetokenizer", byte_level())


@law
def the_spm_detokenizer_streams() -> Finding:
    """The detokenizer of SentencePiece vocabularies streams characters of many bytes whole."""
    return _held("SPMStreamingDetokenizer", byte_fallback(), trim_space=False)


TEXT_LAWS = (
    streaming_is_decoding,
    streams_are_apart,
    ends_have_ids,
)
