"""Experiment 9: what mlx-lm packs is packed as config.json says."""

import json

import pytest
from mlx_lm.utils import load_model, quantize_model, save_config, save_model

from fixtures.synthetic.architectures import build_architecture
from fixtures.synthetic.small_directory import write_architecture
from llm_spec.directory import packing
from llm_spec.quality import conversion

MODES = {"affine": 4, "mxfp4": 4}  # bits
GROUP_SIZE = 32
ROUTER = "model.layers.1.mlp.gate"


def take_the_mode_of_all_for_each(monkeypatch):
    stated_of_one = packing._stated

    def inherited(block, path):
        name, own = stated_of_one(block, path)
        return name, {**own, "mode": block.get("mode", "affine")}

    monkeypatch.setattr(packing, "_stated", inherited)


@pytest.mark.claim(id="9.191", falsifier=take_the_mode_of_all_for_each)
def test_what_mlx_lm_packs_is_taken_as_config_json_states_it(exhibit):
    """mlx-lm packs routers at 8 bits, and states no mode for them: MLX takes it for affine, in
    whichever mode all others are."""
    said, routers = {}, {}
    for mode, bits in MODES.items():
        model, config = build_architecture("qwen3_moe")
        model, config = quantize_model(model, config, GROUP_SIZE, bits, mode=mode)
        packed = {path: module for path, module in model.named_modules() if "scales" in module}
        said[mode] = packing.held(config, packed)
        routers[mode] = packed[ROUTER].mode, packed[ROUTER].bits
    exhibit.table(
        [[mode, *routers[mode], said[mode] or ""] for mode in MODES],
        columns=["mode of all", "mode of a router", "its bits", "said of config.json"],
        title="a model with routers, packed by mlx-lm",
    )
    wrong = {mode: text for mode, text in said.items() if text}

    says = exhibit.measured("packing by mlx-lm that is reported", wrong, should_be={})

    assert not wrong, says
    assert set(routers.values()) == {("affine", 8)}, f"{routers}, but should be affine at 8 bits"


def pack(source, into, mode):
    """The model of `source`, packed by mlx-lm and written to `into`: its configuration."""
    model, config = load_model(source, lazy=True)
    model, config = quantize_model(model, config, GROUP_SIZE, MODES[mode], mode=mode)
    save_model(into, model)
    save_config(config, into / "config.json")
    return config


def leave_out_biases_of_packed_layers(monkeypatch):
    read = conversion.read

    def without(directory, config, named_as=None):
        found = read(directory, config, named_as)
        if "quantization" in config:
            for name in [name for name in found.tensors if name.endswith(".bias")]:
                del found.tensors[name]
        return found

    monkeypatch.setattr(conversion, "read", without)


@pytest.mark.claim(id="9.192", falsifier=leave_out_biases_of_packed_layers)
def test_packed_files_hold_every_tensor_of_their_source(exhibit, tmp_path):
    """A model whose layers have biases, and routers that are packed otherwise than all others."""
    source = write_architecture(tmp_path / "source", "qwen3_next")
    theirs = conversion.read(source, json.loads((source / "config.json").read_text()))
    biases = [name for name in theirs.tensors if name.endswith(".bias")]
    fates = {}
    for mode in MODES:
        into = tmp_path / mode
        fates[mode] = conversion.fates(conversion.read(into, pack(source, into, mode)), theirs)
    exhibit.table(
        [[mode, each.name, each.says] for mode in MODES for each in fates[mode][:3]],
        columns=["mode", "tensor", "what became of it"], title="packed by mlx-lm",
    )  # fmt: skip
    moved = [
        f"{mode}: {each.name} {each.says}"
        for mode in MODES
        for each in fates[mode]
        if each.is_moved
    ]

    says = exhibit.measured("tensors missing, added or at another place", moved[:3], should_be=[])

    assert biases, "the source has no bias to lose"
    assert not moved, says
