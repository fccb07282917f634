#!/usr/bin/env bash
# tokenizers' Metaspace swallows the space at the start of a text that SentencePiece keeps.
#
# sentencepiece 0.2.3, tokenizers 0.23.3. SentencePiece puts its mark before the text whatever comes
# first, so that " the" has two marks, "the" one, and both decode to what they were. Metaspace, with
# which many a tokenizer.json stands for SentencePiece, puts a mark before the text only if none is
# there, and a space has already become one: " the" and "the" are the same tokens, with
# prepend_scheme="always" as with "first". A prompt or a completion that begins with a space reaches the
# model as another text than in a program that uses SentencePiece, and the space cannot be decoded.
# Same vocabulary and merges, seen:
#     'the cat': SentencePiece ▁the ▁cat, Metaspace ▁the ▁cat
#     ' the cat': SentencePiece ▁ ▁the ▁cat, Metaspace ▁the ▁cat
#     decoded: ' the cat', 'the cat'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'sentencepiece==0.2.3' 'tokenizers==0.23.3'
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
from pathlib import Path

from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

lines = ["hello world this is a test", "the cat sat on the mat  twice", "a b c d e f g"]
Path("lines.txt").write_text("\n".join(lines * 50))
SentencePieceTrainer.train(
    input="lines.txt", model_prefix="pieces", model_type="bpe", vocab_size=60, hard_vocab_limit=False,
    normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
)
sentence_piece = SentencePieceProcessor(model_file="pieces.model")
pieces = [sentence_piece.id_to_piece(number) for number in range(sentence_piece.vocab_size())]
vocabulary = {piece: number for number, piece in enumerate(pieces)}
best_first = sorted(pieces, key=lambda piece: -sentence_piece.get_score(vocabulary[piece]))
merges = [
    (piece[:cut], piece[cut:]) for piece in best_first for cut in range(1, len(piece))
    if piece[:cut] in vocabulary and piece[cut:] in vocabulary
]


def by_tokenizers(scheme):
    fast = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    fast.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return fast


for text in ("the cat", " the cat"):
    one, other = sentence_piece.encode(text, out_type=str), by_tokenizers("always").encode(text)
    print(f"{text!r}: SentencePiece {' '.join(one)}, Metaspace {' '.join(other.tokens)}")
    assert (one == other.tokens) == (text == "the cat")
    assert by_tokenizers("first").encode(text).tokens == other.tokens
decoded = sentence_piece.decode(one), by_tokenizers("always").decode(other.ids)
print("decoded: {!r}, {!r}".format(*decoded))
assert decoded == (" the cat", "the cat")
PY
