"""Experiment 9: a port that builds a head and drops it where a file holds none.

Gemma 3 in mlx-lm is one: its configuration does not say whether the head is tied, its file does.
"""

import copy

import pytest
from mlx.utils import tree_flatten

from fixtures.synthetic.architectures import build_architecture
from llm_spec.laws import Case
from llm_spec.laws.model import configuration
from llm_spec.laws.model.configuration import the_configuration_declares_the_weights


def look_at_the_built_model_alone(monkeypatch):
    arrays = configuration._arrays
    monkeypatch.setattr(configuration, "_arrays", lambda config, loading=None: arrays(config))


@pytest.mark.claim(id="9.133", falsifier=look_at_the_built_model_alone)
def test_a_head_that_a_port_drops_while_loading_is_not_missed(exhibit):
    """The head is dropped, as loading drops it; and a norm is dropped, as no loading does."""
    model, config = build_architecture("gemma3_text")
    weights = dict(tree_flatten(model.parameters()))
    head = weights.pop("lm_head.weight", None)
    tied = copy.deepcopy(model)
    tied.sanitize(dict(weights))
    broken = copy.deepcopy(tied)
    del broken.model.norm["weight"]
    rows = []
    for what, each in {"whole": model, "head dropped": tied, "norm dropped": broken}.items():
        finding = the_configuration_declares_the_weights(Case(each, [1, 2, 3], config))
        rows.append([what, finding.measured, finding.holds])
    exhibit.table(rows, columns=["model", "arrays other than declared", "holds"], title="gemma3")
    held = [holds for _, _, holds in rows]

    says = exhibit.measured("9.47 holds", held, should_be=[True, True, False])

    assert head is not None, "head of the port = None, but should be built"
    assert held == [True, True, False], says
    assert "norm.weight" in rows[-1][1], f"{rows[-1][1]!r} does not name the norm"
