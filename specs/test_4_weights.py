"""Experiment 4: what is in the file, counted in logical weights and in bytes."""

import math
import shutil

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from llm_spec.model import accounting
from llm_spec.model.declare import declare
from llm_spec.numerics.units import show_bytes, show_size

SHOWN_LAYER = ".layers.0."  # every layer has the same groups, so one is shown in full


def shown(groups):
    return [g for g in groups if ".layers." not in g.name or SHOWN_LAYER in g.name]


def forget_a_weight(monkeypatch):
    groups = accounting.groups
    monkeypatch.setattr(accounting, "groups", lambda model: groups(model)[:-1])


@pytest.mark.claim(id="4.1", falsifier=forget_a_weight)
def test_every_stored_array_is_counted_exactly_once(declared, exhibit):
    """A quantised matrix is one group of three arrays: packed words, scales and biases."""
    groups = accounting.groups(declared.packed)
    exhibit.add("weights", "weight groups", groups=[
        {"name": g.name, "logical_shape": g.logical_shape, "stored_shape": g.stored_shape,
         "dtype": g.dtype, "parameters": g.parameters, "bytes": g.bytes}
        for g in groups
    ])  # fmt: skip
    stored = {id(array): array for _, array in tree_flatten(declared.packed.parameters())}
    held = sum(array.nbytes for array in stored.values())

    counted = sum(g.bytes for g in groups)

    says = exhibit.measured(
        "weight groups", show_size(counted, held), should_be=f"arrays {show_size(held, counted)}"
    )

    assert counted == held > 0, says


def swap_two_names(monkeypatch):
    groups = accounting.groups

    def swapped(model):
        first, *others = groups(model)
        return [*others, first]

    monkeypatch.setattr(accounting, "groups", swapped)


@pytest.mark.claim(id="4.2", falsifier=swap_two_names)
def test_the_weight_groups_have_the_recorded_names_shapes_and_types(declared, exhibit, snapshot):
    """logical shape ← stored shape and dtype; three groups in four are packed words."""
    facts = [
        f"{g.name}: {'×'.join(map(str, g.logical_shape))} ← "
        f"{'×'.join(map(str, g.stored_shape))} {g.dtype}"
        for g in shown(accounting.groups(declared.packed))
    ]
    says = exhibit.measured("weight groups shown", len(facts), should_be="as in the snapshot")

    assert facts == snapshot, says


def drop_a_layer(declared):
    fewer = {**declared.config, "num_hidden_layers": declared.config["num_hidden_layers"] - 1}
    return {"declared": declared.replacing(packed=declare(fewer))}


@pytest.mark.claim(id="4.3", falsifier=drop_a_layer)
def test_layers_heads_and_widths_are_those_of_the_config(declared, exhibit):
    """Read from the shapes of the weights; the config and the catalogue must agree."""
    counted = anatomy(declared)
    config = declared.config
    heads = config["num_attention_heads"]
    configured = {
        "layers": config["num_hidden_layers"],
        "hidden_size": config["hidden_size"],
        "n_heads": heads,
        "n_kv_heads": config.get("num_key_value_heads", heads),
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "intermediate_size": config["intermediate_size"],
        "vocab_rows": config["vocab_size"],
    }
    known = {name: declared.facts[name] for name in configured}
    exhibit.table(
        [[name, counted[name], configured[name], known[name]] for name in configured],
        columns=["", "counted in the weights", "config.json", "catalogue"],
        title="anatomy",
    )
    says = exhibit.measured("anatomy", compact(counted), should_be=compact(known))

    assert counted == configured == known, says


def anatomy(subject):
    """Sizes of a model with Llama's layout, from the logical shapes of its weights alone."""
    shapes = {g.name: g.logical_shape for g in accounting.groups(subject.packed)}
    layers = {name.split(".layers.")[1].split(".")[0] for name in shapes if ".layers." in name}
    inner = {name.partition(".layers.0.")[2]: shape for name, shape in shapes.items()}
    n_heads = subject.config["num_attention_heads"]  # the one size that no shape shows
    head_dim = inner["self_attn.q_proj.weight"][0] // n_heads
    return {
        "layers": len(layers),
        "hidden_size": inner["self_attn.q_proj.weight"][1],
        "n_heads": inner["self_attn.o_proj.weight"][1] // head_dim,
        "n_kv_heads": inner["self_attn.k_proj.weight"][0] // head_dim,
        "head_dim": head_dim,
        "intermediate_size": inner["mlp.gate_proj.weight"][0],
        "vocab_rows": shapes["model.embed_tokens.weight"][0],
    }  # fmt: skip


def compact(sizes):
    return ", ".join(f"{name} {value}" for name, value in sizes.items())


def count_packed_words(monkeypatch):
    monkeypatch.setattr(accounting, "logical_shape", lambda module, key, array: array.shape)


@pytest.mark.claim(id="4.4", falsifier=count_packed_words)
def test_an_8b_model_has_about_eight_billion_parameters(shape, exhibit):
    """Logical weights are what the model's name counts, however the file packs them."""
    parts = accounting.by_part(shape.packed)
    layers = sum(part.parameters for layer in parts.layers for part in layer.values())
    exhibit.bars(
        {
            "embedding": parts.embedding.parameters,
            f"{len(parts.layers)} layers": layers,
            "final norm": parts.norm.parameters,
            "head": parts.head.parameters if parts.head else 0,
        },
        title="parameters by part", axis="parameters",
    )  # fmt: skip
    total = accounting.total_parameters(shape.packed)

    says = exhibit.measured("parameters", total, should_be=shape.facts["parameters"])

    assert total == shape.facts["parameters"] == parts.total.parameters, says


def unpack_the_head(shape):
    return {"shape": shape.replacing(packed=nn.Linear(64, 64))}


@pytest.mark.claim(id="4.5", falsifier=unpack_the_head)
def test_summing_sizes_counts_packed_words_not_parameters(shape, exhibit):
    """Eight 4-bit weights share a 32-bit word; scales and biases add 2 numbers per group of 64."""
    arrays = [array for _, array in tree_flatten(shape.packed.parameters())]
    packed = [array for array in arrays if array.dtype == mx.uint32]
    sizes, parameters = sum(a.size for a in arrays), accounting.total_parameters(shape.packed)
    exhibit.table(
        [["sum of .size", sizes], ["logical weights", parameters], ["share", sizes / parameters]],
        columns=["", "count"],
        title="two ways to count",
    )
    share = sum(a.size for a in packed) / parameters

    says = exhibit.measured("packed words per parameter", share, should_be="1/8 to within 0.1 %")

    assert math.isclose(share, 1 / 8, rel_tol=1e-3), says


def list_weights_as_torch_does(monkeypatch):
    monkeypatch.setattr(
        nn.Module, "named_parameters", lambda self: tree_flatten(self.parameters()), raising=False
    )


@pytest.mark.claim(id="4.6", falsifier=list_weights_as_torch_does)
def test_mlx_modules_have_no_named_parameters(subject, exhibit):
    """`tree_flatten(model.parameters())` lists the names and arrays instead."""
    names = [name for name, _ in tree_flatten(subject.packed.parameters())]
    exhibit.text("\n".join(names[:5]), title="the first names of tree_flatten(model.parameters())")
    found = hasattr(subject.packed, "named_parameters")

    says = exhibit.measured("model.named_parameters exists", found, should_be=False)

    assert names, "tree_flatten lists no weights, but should be the way to list them"
    assert not found, says


def tie_what_is_not(declared):
    tied = {**declared.config, "tie_word_embeddings": True}
    return {"declared": declared.replacing(packed=declare(tied))}


@pytest.mark.claim(id="4.7", falsifier=tie_what_is_not)
def test_a_tied_model_has_no_head_of_its_own(declared, exhibit):
    """Tied: the transposed embedding table computes the logits; no weight is named lm_head."""
    head = accounting.by_part(declared.packed).head
    names = [g.name for g in accounting.groups(declared.packed) if "lm_head" in g.name]
    exhibit.table(
        [[name] for name in names] or [["none: the embedding is the head"]],
        columns=["weights named lm_head"],
        title="prediction head",
    )
    tied = head is None and not names

    says = exhibit.measured("embeddings are tied", tied, should_be=declared.facts["tied"])

    assert tied == declared.facts["tied"], says


def widen_one_layer(monkeypatch):
    by_part = accounting.by_part

    def widened(model):
        parts = by_part(model)
        parts.layers[1]["ffn"] += accounting.Part(parameters=1)
        return parts

    monkeypatch.setattr(accounting, "by_part", widened)


@pytest.mark.claim(id="4.8", falsifier=widen_one_layer)
def test_every_layer_has_as_many_parameters_as_the_first(declared, exhibit):
    """All layers have one layout; only their weights differ."""
    layers = accounting.by_part(declared.packed).layers
    counts = [sum(part.parameters for part in layer.values()) for layer in layers]
    first = {kind: part.parameters for kind, part in layers[0].items()}
    exhibit.bars(first, title="parameters of one layer", axis="parameters")

    says = exhibit.measured("layer sizes", sorted(set(counts)), should_be=[counts[0]])

    assert len(counts) > 1, f"{len(counts)} layer leaves nothing to compare"
    assert set(counts) == {counts[0]}, says


def lose_a_tensor(trained, tmp_path):
    for file in trained.path.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, tmp_path)
    for file in trained.path.glob("*.safetensors"):
        weights = mx.load(str(file))
        del weights[next(iter(weights))]
        mx.save_safetensors(str(tmp_path / file.name), weights)
    return {"trained": trained.replacing(path=tmp_path)}


@pytest.mark.claim(id="4.9", falsifier=lose_a_tensor)
def test_bytes_on_disk_are_the_bytes_of_the_arrays(trained, exhibit):
    """Files hold the arrays and a header, so size on disk predicts memory."""
    disk = accounting.bytes_on_disk(trained.path)
    held = accounting.total_bytes(trained.packed)
    files = sum(path.stat().st_size for path in trained.path.glob("model*.safetensors"))
    exhibit.table(
        [["files", show_bytes(files)], ["headers", show_bytes(disk.header_bytes)],
         ["data", show_bytes(disk.data_bytes)], ["arrays in memory", show_bytes(held)]],
        columns=["", "size"],
        title="where the bytes are",
    )  # fmt: skip

    says = exhibit.measured(
        "weight data on disk", show_size(disk.data_bytes, held),
        should_be=f"in memory {show_size(held, disk.data_bytes)}",
    )  # fmt: skip

    assert disk.data_bytes == held == files - disk.header_bytes, says
