"""Experiment 0: what the suite makes of a release that lacks what newer ones have."""

import sys

import pytest
from mlx_lm import sample_utils
from mlx_lm.models import cache

from fixtures.doubles.releases import pretend
from fixtures.doubles.suite_run import claims_in, small_suite, start_pytest
from fixtures.doubles.suite_run import plant as plant_in_a_run
from llm_spec.laws import LAWS, OBJECT_LAWS
from llm_spec.model import release

LAW_OF = {law.__name__: law for law in (*LAWS, *OBJECT_LAWS)}


def ask_for_a_buffer(patch):
    patch.delattr(cache, "TokenBuffer")
    return "token_buffers_remember"


def import_a_pipeline(patch):
    patch.setitem(sys.modules, "mlx_lm.models.pipeline", None)
    return "every_rank_has_its_layers"


def give_a_keyword(patch):
    """The function as older releases have it, without the penalties that came later."""

    def make_logits_processors(
        logit_bias=None, repetition_penalty=None, repetition_context_size=20
    ):
        return whole(logit_bias, repetition_penalty, repetition_context_size)

    whole = sample_utils.make_logits_processors
    older = make_logits_processors
    older.__module__, older.__qualname__ = whole.__module__, whole.__qualname__
    patch.setattr(sample_utils, "make_logits_processors", older)
    return "penalties_push_what_was_seen"


def tell_nothing_apart(monkeypatch):
    monkeypatch.setattr("llm_spec.laws.finding.lacking", lambda error: "")


KEYWORD = "mlx_lm.sample_utils.make_logits_processors(presence_penalty=…)"
# What is taken away, the release that it is taken from, and whether the law then does not apply.
LACKS = [
    (ask_for_a_buffer, "0.30.7", "mlx-lm 0.30.7 has no mlx_lm.models.cache.TokenBuffer"),
    (import_a_pipeline, "0.28.0", "mlx-lm 0.28.0 has no mlx_lm.models.pipeline"),
    (give_a_keyword, "0.30.7", f"mlx-lm 0.30.7 has no {KEYWORD}"),
    (ask_for_a_buffer, str(release.NEWEST["mlx-lm"]), "raised"),
]


@pytest.mark.claim(id="0.135", falsifier=tell_nothing_apart)
def test_what_a_release_lacks_is_not_run_and_named(exhibit):
    """Laws whose part of mlx-lm is taken away: in older releases they do not apply, in the newest
    that is known it is a mistake."""
    found = []
    for take, installed, _ in LACKS:
        with pytest.MonkeyPatch.context() as patch:
            pretend(patch, mlx_lm=installed)
            finding = LAW_OF[take(patch)]()
        found.append(finding.what)
    exhibit.table(
        [[take.__name__, installed, what] for (take, installed, _), what in zip(LACKS, found)],
        columns=["taken away", "from mlx-lm", "finding"], title="what a release lacks",
    )  # fmt: skip
    wanted = [what for _, _, what in LACKS]

    says = exhibit.measured("findings", found, should_be=wanted)

    assert found == wanted, says


BESIDE_OTHERS = """
from pathlib import Path
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_configure():
    import mlx_lm.models
    mlx_lm.models.__path__.append(str(Path(__file__).parent))
"""
ASKS_FOR_MORE = """
from dataclasses import dataclass

@dataclass
class ModelArgs:
    never_heard_of: int

class Model: ...
"""
OVERLOOK_WHAT_RAISES = """
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    from fixtures.synthetic import architectures
    architectures._raises = lambda name: False
"""


def overlook_what_raises(monkeypatch, tmp_path):
    plant_in_a_run(monkeypatch, tmp_path, OVERLOOK_WHAT_RAISES)


@pytest.mark.claim(id="0.136", falsifier=overlook_what_raises)
def test_an_architecture_that_cannot_be_imported_is_refuted_and_no_other_is(exhibit, tmp_path):
    """A run of claim 9.10 on llama, and on two modules beside it: one raises when it is imported,
    for the other's arguments no configuration is known."""
    module = 'class Model: ...\nclass ModelArgs: ...\nraise RuntimeError("no such kernel")\n'
    (tmp_path / "unimportable.py").write_text(module, encoding="utf-8")
    (tmp_path / "unknown.py").write_text(ASKS_FOR_MORE, encoding="utf-8")
    (tmp_path / "beside_others.py").write_text(BESIDE_OTHERS, encoding="utf-8")
    run = start_pytest(
        "-p", "beside_others", "specs/test_9_laws.py",
        "--architectures", "llama,unimportable,unknown",
        "-n", "0", "--claim", "9.10", "--report", tmp_path / "results.json",
        program=f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import pytest; raise SystemExit(pytest.main())",
    )  # fmt: skip
    exhibit.text("".join(run.communicate())[-2000:], title="what the run says")
    rows = [row for row in claims_in(tmp_path / "results.json") if row["id"] == "9.10"]
    verdicts = {
        row["subject"]: row["verdict"] for row in rows if row["subject"].startswith(("l", "u"))
    }
    said = "".join(row["measured"] or "" for row in rows if row["verdict"] == "refuted")
    wanted = {
        "llama (tiny)": "verified", "llama (tiny, retied)": "verified",
        "unimportable (tiny)": "refuted", "unknown (tiny)": "refuted",
    }  # fmt: skip

    says = exhibit.measured("verdicts", verdicts, should_be=wanted)

    assert verdicts == wanted, says
    assert "RuntimeError: no such kernel" in said, f"its reason = {said!r}"
    assert "no rule for unknown's never_heard_of" in said, f"its reason = {said!r}"


ASKS_IN_A_SPEC_AND_IN_A_FIXTURE = """
import pytest
from mlx_lm import sample_utils
from mlx_lm.models import cache
from packaging.version import Version
from llm_spec.model import release

release.installed = lambda package: Version("0.30.7")

@pytest.fixture
def made():
    return cache.NeverHeardOf()

@pytest.mark.claim(id="1.1", falsifier=print)
def test_asks(exhibit):
    cache.NeverHeardOf()

@pytest.mark.claim(id="1.2", falsifier=print)
def test_is_given(exhibit, made):
    assert made

@pytest.mark.claim(id="1.3", falsifier=print)
def test_is_wrong(exhibit):
    {}.never_heard_of
"""
TELL_NOTHING_APART = """
def pytest_configure():
    from llm_spec.model import release
    release.lacking = lambda error: ""
"""


def tell_nothing_apart_in_a_run(monkeypatch, tmp_path):
    plant_in_a_run(monkeypatch, tmp_path, TELL_NOTHING_APART)


@pytest.mark.claim(id="0.137", falsifier=tell_nothing_apart_in_a_run)
def test_a_spec_that_asks_for_what_a_release_lacks_is_not_run(exhibit, tmp_path):
    """A small suite: a spec and a fixture ask mlx-lm for a name that it does not have, and one asks
    another object."""
    suite = small_suite(tmp_path / "suite", ASKS_IN_A_SPEC_AND_IN_A_FIXTURE, ["1.1", "1.2", "1.3"])
    run = start_pytest("specs", "--report", tmp_path / "results.json", root=suite)
    exhibit.text("".join(run.communicate())[-2000:], title="what the run says")
    rows = claims_in(tmp_path / "results.json")
    found = {row["id"]: row["verdict"] for row in rows}
    reasons = [row["reason"] for row in rows if row["verdict"] == "not run"]

    wanted = {"1.1": "not run", "1.2": "not run", "1.3": "refuted"}
    says = exhibit.measured("verdicts", found, should_be=wanted)

    assert found == wanted, says
    assert set(reasons) == {"mlx-lm 0.30.7 has no mlx_lm.models.cache.NeverHeardOf"}, reasons
