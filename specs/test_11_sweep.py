"""Experiment 11: which model types a sweep holds to transformers, and which it tells of as not run.

mlx-lm loads some types as another one (mistral as llama): a sweep over its modules must find them
all the same, for a formula that suits llama may be wrong for mistral.
"""

import inspect

import pytest

from fixtures.oracle import sweep
from fixtures.oracle.configurations import base
from fixtures.oracle.mends import faults
from fixtures.oracle.paired import need_torch
from fixtures.oracle.verdict import compared, largest
from fixtures.provision.catalogue import Entry
from llm_spec.oracle.pair import BOUND, Pair
from llm_spec.oracle.processes import compare_apart


def of_architecture(module):
    return Entry(f"{module} (tiny)", "seeded random weights", "MIT", architecture=module)


def take_each_type_for_a_module(monkeypatch):
    monkeypatch.setattr(sweep, "module_of", lambda model_type: model_type)


@pytest.mark.claim(id="11.17", falsifier=take_each_type_for_a_module)
def test_a_remapped_type_is_compared_with_the_module_that_loads_it(exhibit):
    """The names are mlx-lm's own table; the module is the one its loader takes for the config."""
    import mlx_lm.utils
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    by_class = {name for name, _ in mlx_lm.utils.MODEL_ARCHITECTURE_REMAPPING}
    names = sorted({*mlx_lm.utils.MODEL_REMAPPING} | by_class)
    classes_of = inspect.signature(mlx_lm.utils.load_model).parameters["get_model_classes"].default
    loads = {
        name: classes_of(config=base(name).settings)[0].__module__.rpartition(".")[2]
        for name in names if name in CONFIG_MAPPING_NAMES
    }  # fmt: skip
    entries = [of_architecture(module) for module in {*loads.values()} | {*loads}]
    found = {each: name.split()[0] for name, each in sweep.swept(entries) if each in names}
    exhibit.table(
        [[name, loads.get(name, "-"), found.get(name, "transformers has no such type")]
         for name in names],
        columns=["model type", "mlx-lm loads it by", "compared under"], title="remapped types",
    )  # fmt: skip
    says = exhibit.measured("modules under which types are compared", found, should_be=loads)

    assert len(loads) >= 3, f"transformers has only {[*loads]} of {names}"
    assert found == loads, says


def leave_out_what_is_lacking(monkeypatch):
    monkeypatch.setattr(sweep, "lacking", lambda entries: [])


@pytest.mark.claim(id="11.18", falsifier=leave_out_what_is_lacking)
def test_an_architecture_that_transformers_lacks_is_not_run_with_the_reason(exhibit):
    """`--architectures llama,plamo2 --oracle transformers`: llama runs, plamo2 says why not."""
    from fixtures.plugins.oracle import cases_of

    cases = cases_of([of_architecture("llama"), of_architecture("plamo2")])
    why = {case.values[1]: [mark.kwargs["reason"] for mark in case.marks] for case in cases}
    exhibit.table(
        [[name, *(reasons or ["runs"])] for name, reasons in why.items()],
        columns=["model type", "not run because"], title="what was asked for",
    )  # fmt: skip
    found = why.get("plamo2", [])
    wanted = [sweep.LACKS.format("plamo2")]
    says = exhibit.measured("why plamo2 is not run", found, should_be=wanted)

    assert why.get("llama") == [], f"llama is not run: {why}"
    assert found == wanted, says


def do_not_read_layer_types(monkeypatch):
    monkeypatch.setattr(faults, "nothing", faults.layer_types_are_not_read)


@pytest.mark.claim(id="11.19", falsifier=do_not_read_layer_types)
def test_a_mistral_with_windows_in_some_layers_computes_the_logits_of_transformers(exhibit):
    """A config.json of type mistral that has layer_types: transformers takes it for a ministral,
    mlx-lm for a llama. One layer sees all, three a window, in turn."""
    need_torch()
    turns = ["full_attention", *["sliding_attention"] * 3]
    pair = Pair("ministral", {**base("mistral").settings, "layer_types": turns})
    outcome = compared("mistral", compare_apart(pair, faults.nothing), exhibit)
    found = largest(outcome, ["whole", "cached", "chunked"])
    says = exhibit.measured("distance from transformers' logits", found, should_be=BOUND)

    assert pair.settings["model_type"] == "mistral", "mlx-lm is given another type than mistral"
    assert found <= BOUND, f"{says} [first at position {outcome.first}]"
