"""Experiment 0: a GGUF file becomes a model directory with the same weights and tokens.

The files are written here, as llama.cpp's converter writes them, from models whose logits and
tokenizers whose ids are known.
"""

import unicodedata

import gguf
import mlx.core as mx
import mlx_lm.utils
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from fixtures.doubles import gguf_files
from fixtures.doubles.gguf_files import write_gguf
from fixtures.doubles.refusals import complaint, is_one_sentence
from fixtures.doubles.suite_run import start_pytest
from fixtures.provision import provision
from fixtures.provision.catalogue import Entry
from fixtures.provision.from_gguf import convert, file, packing
from fixtures.synthetic.architectures import build_architecture
from fixtures.texts.passages import passages
from llm_spec.numerics.distances import distance, worst

# What the file cannot say of a model is as the published ones have it.
MODELS = {
    "llama": ("llama", {"mlp_bias": False, "layer_types": ["full_attention"] * 4}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "gemma3": (
        "gemma3_text",
        {"rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6, "num_hidden_layers": 7},
    ),
}
ODD = ["", " ", "  two", "a\n\n\nb", "naïve 日本語 🔥", "Rust<|im_end|>", "1234\t5", "Ru st"]
STAY_PACKED = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K"}


def tiny(name, **changes):
    module, settings = MODELS[name]
    return build_architecture(module, vocab_size=gguf_files.ROWS, **settings, **changes)


def provisioned(path, cache):
    return provision.directory(Entry(str(path), "a file", "none", gguf=str(path)), cache)


def decodable():
    """Every type that the gguf package decodes, but for plain numbers."""
    found = []
    for kind in Kind:
        try:
            gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
        except NotImplementedError:
            continue
        if kind not in (Kind.F32, Kind.F16):
            found.append(kind)
    return found


def random_blocks(kind, shape, rng):
    """Blocks of random bits that decode to finite numbers: (rows, bytes per row)."""
    size, width = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // size, width), dtype=np.uint8)
    while True:
        with np.errstate(all="ignore"):
            bad = ~np.isfinite(gguf.dequantize(blocks, kind)).all(axis=-1)
        if not bad.any():
            return blocks.reshape(shape[0], -1)
        blocks[bad] = rng.integers(0, 256, (bad.sum(), width), dtype=np.uint8)


def give_every_second_group_its_neighbours_scale(monkeypatch):
    def shifted(tensor):
        found = packing.packed(tensor)
        if found and tensor.kind == Kind.Q4_K:
            scales = np.array(found[1]["scales"])
            scales[:, 1::2] = scales[:, ::2]
            found[1]["scales"] = mx.array(scales)
        return found

    monkeypatch.setattr(convert, "packed", shifted)


@pytest.mark.claim(id="0.83", falsifier=give_every_second_group_its_neighbours_scale)
def test_every_type_of_a_gguf_file_keeps_its_numbers_to_the_last_bit(exhibit, tmp_path):
    """One tensor of random bits per type: how it is stored, and how many numbers changed."""
    model, config = tiny("qwen2", hidden_size=256, intermediate_size=512)
    rng, rows = np.random.default_rng(0), []
    for kind in decodable():
        blocks = random_blocks(kind, (256, 512), rng)
        name = "blk.0.ffn_down.weight"
        path = write_gguf(
            tmp_path / f"{kind.name}.gguf", "qwen2", model, config, gguf_files.byte_level(),
            {name: (blocks, kind)},
        )  # fmt: skip
        home = provisioned(path, tmp_path / "cache")
        stored = mx.load(str(home / "model.safetensors"))
        settings = mlx_lm.utils.load_config(home).get("quantization", {})
        found, how = unpacked(stored, settings, "model.layers.0.mlp.down_proj")
        with np.errstate(all="ignore"):
            expected = gguf.dequantize(blocks, kind)
        assert found.shape == expected.shape, (
            f"shape of {kind.name} = {found.shape}, but should be {expected.shape}"
        )
        rows.append([kind.name, how, int((found != expected).sum()), found.size])
        path.unlink()
    exhibit.table(rows, columns=["type", "stored as", "moved", "of"], title="numbers")
    packed = {kind for kind, how, *_ in rows if "bits" in how}

    moved = {kind: count for kind, _, count, _ in rows if count}

    assert packed >= STAY_PACKED, f"{STAY_PACKED - packed} are unpacked, but need not be"
    assert not moved, exhibit.measured("numbers that moved", moved, should_be={})


def unpacked(stored, settings, module):
    """A weight in float32, and how it is stored."""
    weight = stored[f"{module}.weight"]
    if f"{module}.scales" not in stored:
        return np.array(weight.astype(mx.float32)), str(weight.dtype).removeprefix("mlx.core.")
    parts = [stored[f"{module}.{part}"].astype(mx.float32) for part in ("scales", "biases")]
    chosen = settings.get(module, settings)
    weight = mx.dequantize(weight, *parts, group_size=chosen["group_size"], bits=chosen["bits"])
    return np.array(weight), f"{chosen['bits']} bits, {stored[f'{module}.scales'].dtype} scales"


def keep_the_rows_as_they_are(monkeypatch):
    monkeypatch.setattr(convert, "in_halves", lambda array, head_width: array)


@pytest.mark.claim(id="0.87", falsifier=keep_the_rows_as_they_are)
def test_a_gguf_file_gives_the_logits_and_ids_of_the_model_it_was_written_from(exhibit, tmp_path):
    """Each architecture with a vocabulary: largest change of a logit, and ids that differ."""
    vocabularies = {
        "llama": gguf_files.sentencepiece_vocabulary(prefix=True),
        "qwen2": gguf_files.byte_level(),
        "qwen3": gguf_files.byte_level(),
        "gemma3": gguf_files.sentencepiece_vocabulary(prefix=False),
    }
    texts, rows = [*(text[:500] for text in passages().values()), *ODD], []
    for name, vocabulary in vocabularies.items():
        model, config = tiny(name)
        path = write_gguf(tmp_path / f"{name}.gguf", name, model, config, vocabulary)
        home = provisioned(path, tmp_path / "cache")
        made = mlx_lm.utils.load_model(home)[0]
        ids = mx.array([list(range(3, 40))])
        apart = distance(np.array(made(ids)), np.array(model(ids)))
        tokenizer = mlx_lm.utils.load_tokenizer(home)
        should = [expected_ids(vocabulary, text) for text in texts]
        found = [tokenizer.encode(text) for text in texts]
        other = [t[:20] for t, a, b in zip(texts, found, should, strict=True) if a != b]
        rows.append([name, vocabulary.kind, apart, other])
    exhibit.table(
        rows, columns=["architecture", "tokenizer", "logits apart", "texts with other ids"],
        title="converted models",
    )  # fmt: skip
    wrong = {name: other for name, _, _, other in rows if other}

    apart = worst(by for _, _, by, _ in rows)

    assert not wrong, exhibit.measured("texts with other ids", wrong, should_be={})
    assert apart == 0, exhibit.measured("largest difference of logits", apart, should_be=0)


def expected_ids(vocabulary, text):
    """By SentencePiece itself, or for the three merges of the small vocabulary by replacing."""
    if vocabulary.kind == "llama":
        from sentencepiece import SentencePieceProcessor  # here: as in gguf_files

        prefix = vocabulary.settings["add_space_prefix"]
        proto = gguf_files.trained_sentencepiece(prefix)
        model = SentencePieceProcessor(model_proto=proto.SerializeToString())
        return [1, *model.encode(text)]
    ids, rest = [], unicodedata.normalize("NFC", text).encode()
    known = {b"<|im_end|>": 260, b"Rust": 258, b"Ru": 256, b"st": 257}
    while rest:
        token = next((token for token in known if rest.startswith(token)), rest[:1])
        ids.append(known.get(token, token[0]))
        rest = rest[len(token) :]
    return ids


def take_what_cannot_be_read_for_zeros(monkeypatch):
    read = file._tensor

    def lenient(data, name, dimensions, number, offset):
        try:
            return read(data, name, dimensions, number, offset)
        except file.BadGGUF:
            return file.Tensor(name, Kind.F32, (1, 1), np.zeros((1, 4), np.uint8))

    monkeypatch.setattr(file, "_tensor", lenient)


@pytest.mark.claim(id="0.84", falsifier=take_what_cannot_be_read_for_zeros)
def test_a_gguf_file_that_cannot_be_converted_is_refused(exhibit, tmp_path, monkeypatch):
    """Each failure, its message and what it leaves behind; and how a run of the suite ends."""
    cache, rows = tmp_path / "cache", []
    for bad in gguf_files.misfortunes(tmp_path, *tiny("llama")):
        said = complaint(lambda: provisioned(bad.path, cache))  # noqa: B023
        left = [path.name for path in cache.iterdir() if path.suffix != ".lock"]
        told = is_one_sentence(said) and bad.says in said and "report" not in said
        rows.append([bad.path.stem, said, left, told and not left])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    run = start_pytest("specs", "--model", bad.path)
    announced, _, ends = "".join(run.communicate()).strip().partition("ERROR: ")
    exhibit.table(
        [*rows, ["given by --model", ends, [], is_one_sentence(ends)]],
        columns=["misfortune", "said", "left", "as it should be"], title="refusals",
    )  # fmt: skip
    wrong = [name for name, *_, good in rows if not good]

    says = exhibit.measured("files without a one-sentence refusal", wrong, should_be=[])

    assert not wrong, says
    assert run.returncode == pytest.ExitCode.USAGE_ERROR, (
        f"exit code = {run.returncode}, but should be 4"
    )
    assert is_one_sentence(ends), f"the run says {ends!r}"
    assert is_one_sentence(announced.strip()), f"before that the run says {announced!r}"
