"""Experiment 9: what mlx-lm packs is packed as config.json says."""

import pytest
from mlx_lm.utils import quantize_model

from fixtures.synthetic.architectures import build_architecture
from llm_spec.directory import packing

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
