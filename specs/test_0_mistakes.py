"""Experiment 0: what people get wrong is told in a sentence; a run can be narrowed or shared.

Most of these run pytest in a process of its own. Faults are planted there as a plugin that
PYTEST_ADDOPTS names.
"""

import json

import pytest

from fixtures.doubles.refusals import complaint, is_one_sentence
from fixtures.doubles.suite_run import claims_in, plant, small_suite, start_pytest
from fixtures.plugins import collection
from fixtures.provision import catalogue

ENTRY = """[wet]
about = "water"
licence = "none"
seed = 1
[wet.facts]
layers = 2
"""
MISTAKES = {
    "not TOML": ENTRY + "[wet",
    "no table": "wet = 1",
    "a missing key": ENTRY.replace('about = "water"', ""),
    "a misspelt key": ENTRY.replace("seed", "sed"),
    "text for a number": ENTRY.replace("seed = 1", 'seed = "1"'),
    "no source": ENTRY.replace("seed = 1", ""),
    "two sources": ENTRY.replace("seed = 1", 'seed = 1\nshape = "x"'),
    "a misspelt fact": ENTRY.replace("layers", "layrs"),
    "a fact of another type": ENTRY.replace("layers = 2", "layers = true"),
    "facts of nobody": ENTRY.replace("seed = 1", 'seed = 1\nfacts_of = "dry"'),
    "a hash that is none": ENTRY.replace("seed = 1", 'wheel = { sha256 = "x" }'),
    "a hub without a repository": ENTRY.replace("seed = 1", 'hub = { revision = "main" }'),
}


def believe_every_table(monkeypatch):
    monkeypatch.setattr(catalogue, "_checked", lambda cls, table: table)


@pytest.mark.claim(id="0.16", falsifier=believe_every_table)
def test_a_mistake_in_the_catalogue_is_refused_in_one_sentence(exhibit, tmp_path):
    """Each mistake, and what is said; a name that the catalogue lacks is one, too."""
    file = tmp_path / "catalogue.toml"
    said = {}
    for mistake, text in MISTAKES.items():
        file.write_text(text)
        said[mistake] = complaint(lambda: catalogue.load(file))
    file.write_text(ENTRY)
    for name in ("wte", "", "\x1b[31m"):
        said[f"the name {name!r}"] = complaint(lambda: catalogue.entry(name, file))  # noqa: B023
    exhibit.table(list(map(list, said.items())), columns=["mistake", "said"], title="refusals")
    accepted = [mistake for mistake, text in said.items() if not is_one_sentence(text)]

    says = exhibit.measured("mistakes accepted or badly told", accepted, should_be=[])

    assert not accepted, says
    assert list(catalogue.load(file)) == ["wet"], "a right catalogue is refused"


def suite_with_a_typo(directory):
    """A suite without specs, and a ledger with a misspelt field."""
    suite = small_suite(directory, "", ["9.1"])
    ledger = suite / "specs/claims.toml"
    ledger.write_text(ledger.read_text().replace("falsifier =", "falsifer ="))
    return suite


def let_mistakes_through(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, "import pytest\npytest.UsageError = RuntimeError\n")


@pytest.mark.claim(id="0.17", falsifier=let_mistakes_through)
def test_a_wrong_option_ends_the_run_with_one_sentence_and_code_4(exhibit, tmp_path):
    """pytest's exit code for wrong usage; a traceback would be somebody else's problem."""
    runs = {
        "unknown model": start_pytest("specs", "--model", "smolm2-135m"),
        "no model": start_pytest("specs", "--model", ""),
        "model with too long a name": start_pytest("specs", "--model", f"/{'m' * 300}"),
        "no architecture": start_pytest("specs", "--architectures", ""),
        "no adapter": start_pytest("specs", "--adapter", "", "--model", "smollm2-135m"),
        "no server": start_pytest("specs", "--endpoint", "", "--model", "smollm2-135m"),
        "reference without weights": start_pytest("specs", "--reference", "qwen3"),
        "typo in the ledger": start_pytest("specs", root=suite_with_a_typo(tmp_path / "suite")),
        "unknown claim": start_pytest("specs", "--claim", "2.7,2.77"),
        "no number after a comma": start_pytest("specs", "--claim", "2.7,"),
        "unknown architecture": start_pytest("specs", "--architectures", "lama"),
        "report in a missing directory": start_pytest("specs", "--report", tmp_path / "no/r.json"),
        "table in a missing directory": start_pytest("--oracle-table", tmp_path / "no/t.md"),
        "server of a tokenizer": start_pytest("specs", "--model", "qwen3", "--serve"),
    }
    rows = []
    for mistake, run in runs.items():
        said = "".join(run.communicate()).strip()
        rows.append([mistake, run.returncode, said.removeprefix("ERROR: ")])
    exhibit.table(rows, columns=["mistake", "exit code", "said"], title="wrong usage")
    wrong = [
        (mistake, code, said[-200:]) for mistake, code, said in rows
        if code != pytest.ExitCode.USAGE_ERROR or not is_one_sentence(said)
    ]  # fmt: skip

    says = exhibit.measured("mistakes that end otherwise", wrong, should_be=[])

    assert not wrong, says


HOLDS = """
import pytest
@pytest.mark.claim(id="9.1")
def test_that_holds():
    pass
"""


def take_its_warning_for_an_error(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "error::pytest.PytestCacheWarning")
""")  # fmt: skip


@pytest.mark.claim(id="0.233", falsifier=take_its_warning_for_an_error)
def test_a_run_that_cannot_keep_its_cache_still_ends_with_its_verdicts(exhibit, tmp_path):
    """A file lies where pytest keeps its cache. The ledger is the last thing that a run prints."""
    suite = small_suite(tmp_path / "suite", HOLDS, ["9.1"])
    (suite / ".pytest_cache").touch()
    run = start_pytest("specs", root=suite, remembers=True)
    out, err = run.communicate()
    exhibit.text(out[-2000:] + err[-500:], title="what the run says")
    ends = run.returncode, "1 verified" in out, "Traceback" in err
    says = exhibit.measured("exit code, ledger, traceback", ends, should_be=(0, True, False))

    assert "could not create cache path" in out + err, "the run kept its cache"
    assert ends == (0, True, False), says


ASKED = {
    "": set(),
    "slow": {"slow"},
    "not slow": set(),
    "slow or not slow": {"slow"},
    "browser or not (slow or idle)": {"browser"},
    "not (not slow)": {"slow"},
    "slowest and realistic": set(),
    'claim(id="slow")': set(),
    "real and not browser": {"real"},
}


def look_for_the_word(monkeypatch):
    def found(expression):
        return {mark for mark in collection.REASONS if mark in expression}

    monkeypatch.setattr(collection, "asked_for", found)


@pytest.mark.claim(id="0.82", falsifier=look_for_the_word)
def test_what_takes_minutes_runs_only_where_m_asks_for_it(exhibit):
    """Each expression, and the marks of slow specs that it asks for."""
    asked = {text: collection.asked_for(text) & set(collection.REASONS) for text in ASKED}
    rows = [[text, ", ".join(sorted(marks)) or "none"] for text, marks in asked.items()]
    exhibit.table(rows, columns=["-m", "asks for"], title="expressions")

    says = exhibit.measured("marks asked for", asked, should_be=ASKED)

    assert asked == ASKED, says


THREE_CLAIMS = """
import pytest

@pytest.mark.claim(id="9.1")
def test_first(): pass

@pytest.mark.slow
@pytest.mark.claim(id="9.2")
def test_second(): pass

@pytest.mark.claim(id="9.3")
def test_third(): pass
"""


def forget_which_claims(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart(session):
    from fixtures.plugins.stash import ASKED
    session.config.stash[ASKED] = set()
""")  # fmt: skip


@pytest.mark.claim(id="0.95", falsifier=forget_which_claims)
def test_claims_that_are_named_run_and_no_others(exhibit, tmp_path):
    """Two of three are named; one of them is slow, and runs all the same."""
    report = tmp_path / "results.json"
    suite = small_suite(tmp_path / "suite", THREE_CLAIMS, ["9.1", "9.2", "9.3"])
    start_pytest("specs", "--claim", "9.2,9.3", "--report", report, root=suite).communicate()
    verdicts = {claim["id"]: claim["verdict"] for claim in claims_in(report)}
    exhibit.table(list(map(list, verdicts.items())), columns=["claim", "verdict"], title="9.2,9.3")

    wanted = {"9.1": "not run", "9.2": "verified", "9.3": "verified"}
    says = exhibit.measured("verdicts", verdicts, should_be=wanted)

    assert verdicts == wanted, says


def load_mlx_at_once(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, "import mlx.core\n")


LIST_AND_TELL = """
import pytest, sys
code = pytest.main()
print(int(code), "mlx.core" in sys.modules)
"""


@pytest.mark.claim(id="0.18", falsifier=load_mlx_at_once)
def test_the_ledger_is_listed_without_loading_mlx(exhibit):
    """`pytest specs/ --claims`: every claim, no model, no device."""
    listed = start_pytest("specs", "--claims", program=LIST_AND_TELL)
    *lines, end = "".join(listed.communicate()).strip().splitlines()
    exhibit.text("\n".join(lines[:6]), title="how the list begins")
    ours = [line for line in lines if line.startswith(" 0.18  ")]

    assert len(ours) == 1, f"lines for this claim = {ours}, but should be one"
    says = exhibit.measured("exit code, and whether MLX was loaded", end, should_be="0 False")
    assert end == "0 False", says


def lose_what_workers_saw(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
import os
if "PYTEST_XDIST_WORKER" in os.environ:
    from llm_spec.ledger.evidence import Exhibits
    Exhibits.measured = lambda self, what, value, should_be: what
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.19", falsifier=lose_what_workers_saw)
def test_two_workers_find_what_one_process_finds(exhibit, tmp_path):
    """`-n 2` and no workers: the same claims, verdicts, figures and exhibits, in the same order."""
    found = {}
    for name, workers in (("one process", ()), ("two workers", ("-n", "2"))):
        report = tmp_path / f"{len(workers)}.json"
        run = start_pytest(
            "specs/test_2_tokenizer.py", "-k", "not bos", "--report", report, *workers
        )
        run.communicate()
        found[name] = {(c["id"], c["subject"]): c for c in json.loads(report.read_text())["claims"]}
    one, two = found.values()
    exhibit.table(
        [[name, len(claims), sum(c["verdict"] == "verified" for c in claims.values())]
         for name, claims in found.items()],
        columns=["run in", "rows", "verified"],
        title="the same specs, run twice",
    )  # fmt: skip
    different = [key for key in one if one[key] != two.get(key)]

    assert sum(c["verdict"] == "verified" for c in one.values()) > 10, (
        "verified claims = 10 or fewer, but should be more to compare runs"
    )
    says = exhibit.measured("rows that differ", different, should_be=[])
    assert not different, says
    assert list(one) == list(two), f"order of rows = {list(two)}, but should be {list(one)}"


SKIPS = """
import pytest

@pytest.mark.claim(id="9.1")
def test_that_is_skipped():
    pytest.skip("the model is not here")
"""


def take_a_skip_for_a_pass(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_configure():
    from fixtures.plugins.reporter import Reporter
    Reporter._found_nothing = lambda self: False
""")  # fmt: skip


@pytest.mark.claim(id="0.243", falsifier=take_a_skip_for_a_pass)
def test_a_run_that_checks_nothing_does_not_pass(exhibit, tmp_path):
    """All that is asked for is skipped, as `-m real` is without the models."""
    run = start_pytest("specs", root=small_suite(tmp_path / "suite", SKIPS, ["9.1"]))
    exhibit.text("".join(run.communicate())[-800:], title="a run that checks nothing")

    says = exhibit.measured("exit code", run.returncode, should_be=5)

    assert run.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, says
