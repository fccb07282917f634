"""Experiment 0: models named on the command line, and a hub that fails.

The hub is on this machine and serves a model of 0.6 MB. The client is the real one, its patience
cut short.
"""

import json
import time

import huggingface_hub
import pytest
from huggingface_hub import constants, file_download
from rich.console import Console

from fixtures.doubles import damaged
from fixtures.doubles.damaged import copies
from fixtures.doubles.loopback_hub import LoopbackHub
from fixtures.doubles.refusals import is_one_sentence
from fixtures.doubles.suite_run import plant, start_pytest
from fixtures.provision import hub
from fixtures.provision.catalogue import Hub
from fixtures.provision.download import Unavailable
from fixtures.synthetic.small_directory import write_small_model

REPO = "someone/small"


def be_brief(monkeypatch):
    """Let the hub's client retry at once, and write to disk in small pieces. Whoever forbids it to
    ask the hub (HF_HUB_OFFLINE) means the real one."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 50_000)


def fetch(served, cache, wanted=None):
    """The fetched directory, or what was said instead."""
    wanted = wanted or Hub(REPO)
    try:
        return hub.download_snapshot(
            wanted, wanted.repo, Console(quiet=True), endpoint=served.url, cache_dir=cache
        )
    except Unavailable as error:
        return str(error)


# What the hub does, and which repository is asked for.
FAULTS = {
    "gated": ({"status": 403, "error_code": "GatedRepo"}, Hub(REPO)),
    "gated, files only": ({"files_status": 403, "error_code": "GatedRepo"}, Hub(REPO)),
    "missing": ({}, Hub("someone/else")),
    "no such revision": ({}, Hub(REPO, "v9")),
    "a bad login": ({"status": 401}, Hub(REPO)),
    "404": ({"status": 404}, Hub(REPO)),
    "429": ({"files_status": 429}, Hub(REPO)),
    "500": ({"status": 500}, Hub(REPO)),
    "503, files only": ({"files_status": 503}, Hub(REPO)),
    "connections dropped": ({"drop_after": 1000}, Hub(REPO)),
    "wrong sizes": ({"announced": 10}, Hub(REPO)),
    "silence": ({"stall": 60.0}, Hub(REPO)),
    "10^18 bytes": ({"announced": 10**18}, Hub(REPO)),
}
SAME = {"gated, files only": "gated"}  # told alike, for they are


def say_one_thing_for_all(monkeypatch):
    monkeypatch.setattr(hub, "_reason", lambda *_: "it failed; run again")


@pytest.mark.claim(id="0.27", falsifier=say_one_thing_for_all)
def test_each_fault_of_a_hub_has_a_sentence_of_its_own(exhibit, tmp_path, monkeypatch):
    """Each fault, its message, and whether the next run on a sound hub succeeds."""
    be_brief(monkeypatch)
    model = write_small_model(tmp_path / "small")
    said, then = {}, {}
    with LoopbackHub(model, REPO) as sound:
        for fault, (settings, wanted) in FAULTS.items():
            cache = tmp_path / fault
            with LoopbackHub(model, REPO, **settings) as broken, monkeypatch.context() as patch:
                if broken.stall:
                    patch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
                said[fault] = str(fetch(broken, cache, wanted))
            then[fault] = fetch(sound, cache)
    with LoopbackHub(model, REPO) as gone:
        pass
    said["nobody there"] = str(fetch(gone, tmp_path / "nobody"))
    exhibit.table(list(map(list, said.items())), columns=["fault", "said"], title="refusals")
    wrong = [fault for fault, text in said.items() if not is_one_sentence(text)]
    kinds = {fault: text for fault, text in said.items() if fault not in SAME}
    alike = len(kinds) - len({" ".join(text.split()[5:]) for text in kinds.values()})
    lost = [fault for fault, path in then.items() if isinstance(path, str)]

    says = exhibit.measured("faults with the message of another", alike, should_be=0)
    assert alike == 0, says
    assert not wrong, f"faults without a one-sentence message = {wrong}, but should be none"
    assert not lost, f"faults after which the next run fails = {lost}, but should be none"


def begin_again(monkeypatch):
    monkeypatch.setattr(file_download, "_adjust_range_header", lambda asked, size: "bytes=0-")


@pytest.mark.claim(id="0.28", falsifier=begin_again)
def test_a_download_that_breaks_off_goes_on_where_it_broke(exhibit, tmp_path, monkeypatch):
    """Interrupted three times at byte 100,000, and once for good: complete files are kept."""
    be_brief(monkeypatch)
    model = write_small_model(tmp_path / "small")
    with LoopbackHub(model, REPO, drop_after=100_000, drops=3) as shaky:
        path = fetch(shaky, tmp_path / "shaky")
        starts = [request.start for request in shaky.asked("GET", "model.safetensors")]
    same = (path / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    with LoopbackHub(model, REPO, drop_after=100_000) as broken:
        fetch(broken, tmp_path / "broken")
        broken.drop_after = None
        before = len(broken.requests)
        fetch(broken, tmp_path / "broken")
        again = [
            r.path for r in broken.requests[before:] if r.method == "GET" and ".json" in r.path
        ]
    exhibit.table(
        [[start] for start in starts], columns=["from byte"], title="requests of one file"
    )

    says = exhibit.measured(
        "first byte of each request", starts, should_be=[0, 100_000, 100_000, 100_000]
    )
    assert starts == [0, 100_000, 100_000, 100_000], says
    assert same, "the resumed file differs, but should be the same"
    assert again == [], f"whole files fetched again = {again}, but should be none"


def ask_the_hub_always(monkeypatch):
    snapshot_download = huggingface_hub.snapshot_download

    def asking(*arguments, local_files_only=False, **options):
        return snapshot_download(*arguments, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", asking)


@pytest.mark.claim(id="0.29", falsifier=ask_the_hub_always)
def test_what_is_in_the_hubs_cache_whole_needs_no_hub(exhibit, tmp_path, monkeypatch):
    """Fetched once, then the hub is gone; an incomplete or missing model is reported as such."""
    be_brief(monkeypatch)
    model = write_small_model(tmp_path / "small")
    (model / "modeling.py").write_text("raise RuntimeError")
    with LoopbackHub(model, REPO, former="someone/old") as served:
        first = fetch(served, tmp_path / "cache")
        renamed = fetch(served, tmp_path / "cache", Hub("someone/old"))
        served.status, before = 503, len(served.requests)
        second = fetch(served, tmp_path / "cache")
        asked = len(served.requests) - before
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        nothing = fetch(served, tmp_path / "empty")
        (first / "tokenizer.json").unlink()
        part = fetch(served, tmp_path / "cache")
    rows = [["whole", "found" if second == first else second], ["nothing", nothing], ["part", part]]
    exhibit.table(rows, columns=["in the cache", "said"], title="without a hub")

    says = exhibit.measured("requests for a model in the cache", asked, should_be=0)
    assert asked == 0, says
    assert second == first, f"the second time: {second}, but should be {first}"
    assert (renamed / "config.json").exists(), f"{renamed} has no config.json"
    code = [path.name for path in first.glob("*.py")]
    assert not code, f"code fetched = {code}, but should be none"
    assert "only a part" in part, (
        f"message for an incomplete cache = {part}, but should say 'only a part'"
    )
    assert "HF_HUB_OFFLINE" in nothing, f"message offline with an empty cache = {nothing}"


def let_mistakes_through(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, "import pytest\npytest.UsageError = RuntimeError\n")


def run_of(model, report):
    """Exit code, verdicts by claim and output of a run on `model`; random weights are no matter."""
    run = start_pytest("specs", "-k", "not letter_pairs", "--model", model, "--report", report)
    output = "".join(run.communicate()).strip()
    rows = json.loads(report.read_text())["claims"] if report.exists() else ()
    return run.returncode, {row["id"]: row["verdict"] for row in rows}, output


@pytest.mark.slow
@pytest.mark.claim(id="0.26", falsifier=let_mistakes_through)
def test_any_directory_is_a_model_on_the_command_line(exhibit, tmp_path):
    """`--model DIR`: a good one is checked, a bad one ends with code 4, a partial one is red."""
    cases = {
        "whole": lambda directory: None,
        "weights cut off": damaged.STATED["weights cut off"],
        "no tokenizer": damaged.without("tokenizer.json", "tokenizer_config.json"),
    }
    runs = {
        case: run_of(directory, tmp_path / f"{directory.name}.json")
        for case, directory in copies(tmp_path, cases)
    }
    runs["a name"] = run_of("tiny-llama", tmp_path / "name.json")
    exhibit.table(
        [
            [case, code, list(verdicts.values()).count("verified"), said[-300:]]
            for case, (code, verdicts, said) in runs.items()
        ],
        columns=["model", "exit code", "verified", "said"],
        title="models on the command line",
    )  # fmt: skip
    codes = {case: code for case, (code, _, _) in runs.items()}
    expected = {"whole": 0, "weights cut off": 4, "no tokenizer": 1, "a name": 0}

    says = exhibit.measured("exit codes", codes, should_be=expected)

    assert codes == expected, says
    tokenizers = [runs[case][1].get("9.1") for case in ("whole", "no tokenizer")]
    assert tokenizers == ["verified", "refuted"], f"verdicts of claim 9.1 = {tokenizers}"
    assert is_one_sentence(runs["weights cut off"][2].removeprefix("ERROR: ")), runs[
        "weights cut off"
    ]
    traces = [case for case, (_, _, said) in runs.items() if "Traceback" in said]
    assert not traces, f"tracebacks shown = {traces}, but should be none"


VANISH = """
import shutil
def pytest_collection_finish(session):
    for directory in session.config.option.model:
        shutil.rmtree(directory)
"""


def notice_no_change(monkeypatch, tmp_path):
    overlook = "import llm_spec.directory as seen\nseen.changed_since = lambda found: None\n"
    plant(monkeypatch, tmp_path, overlook)


@pytest.mark.slow
@pytest.mark.claim(id="0.51", falsifier=notice_no_change)
def test_a_model_that_vanishes_during_a_run_is_told_in_a_sentence(exhibit, tmp_path, monkeypatch):
    """Its files vanish after collection: each spec that needs them says so."""
    model = write_small_model(tmp_path / "small")
    (tmp_path / "vanish.py").write_text(VANISH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = tmp_path / "results.json"
    arguments = ("specs/test_4_weights.py", "-p", "vanish", "--model", model, "--report", report)
    run = start_pytest(*arguments)
    output = "".join(run.communicate())
    rows = json.loads(report.read_text())["claims"]
    reasons = {row["id"]: row["reason"] for row in rows if row["verdict"] == "refuted"}
    exhibit.table(
        list(map(list, reasons.items())), columns=["claim", "said"], title="without files"
    )
    silent = [id_ for id_, reason in reasons.items() if "vanished during the run" not in reason]

    says = exhibit.measured("claims refuted for another reason", silent, should_be=[])

    assert not silent, says
    assert reasons, "no claim is refuted, but should be, for the files are gone"
    assert run.returncode == 1, f"exit code = {run.returncode}, but should be 1"
    assert "Traceback" not in output, "output holds a traceback, but should be a sentence"


@pytest.mark.slow
@pytest.mark.claim(id="0.50", falsifier=let_mistakes_through)
def test_a_hub_id_is_a_model_on_the_command_line(exhibit, tmp_path, monkeypatch):
    """Fetched via HF_ENDPOINT into HF_HOME at --revision; then offline; then an unknown id."""
    model = write_small_model(tmp_path / "small")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for variable in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    report = tmp_path / "results.json"
    common = ("specs/test_9_directory.py", "-k", "not letter_pairs", "--report", report)
    rows = []
    with LoopbackHub(model, REPO) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)

        def run(case, *arguments):
            before = len(served.requests)
            child = start_pytest(*common, *arguments)
            output = "".join(child.communicate()).strip()
            rows.append([case, child.returncode, len(served.requests) - before, output[-300:]])

        run("online", "--model", REPO, "--revision", "v1")
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        run("offline", "--model", REPO, "--revision", "v1")
        monkeypatch.delenv("HF_HUB_OFFLINE")
        run("unknown", "--model", "someone/else")
        run("no revision", "--model", REPO, "--revision", "v9")
    exhibit.table(rows, columns=["run", "exit code", "requests", "said"], title="from a hub")
    codes = [code for _, code, _, _ in rows]

    says = exhibit.measured("exit codes", codes, should_be=[0, 0, 4, 4])
    assert codes == [0, 0, 4, 4], says
    offline = rows[1][2]
    assert offline == 0 < rows[0][2], f"requests offline = {offline}, but should be 0"
    cached = list((tmp_path / "home").rglob("config.json"))
    assert cached, "HF_HOME is empty, but should hold the model"
