"""Experiment 0: a model directory may claim anything, and is looked at before it is believed.

Directories are made by damaging a whole one of 0.6 MB: random weights, a tokenizer, a template.
"""

import os
import shutil
import sys
from dataclasses import replace

import mlx.nn as nn
import pytest
from mlx_lm.utils import load_tokenizer

from fixtures.doubles import damaged
from fixtures.doubles.damaged import ROOM, copies, view_of
from fixtures.doubles.refusals import is_one_sentence
from fixtures.doubles.suite_run import start_pytest
from llm_spec import directory as directories
from llm_spec.directory import (
    BadModel,
    config,
    files,
    inspect_directory,
    probe,
    trial_load,
)
from llm_spec.processes import child
from llm_spec.processes.child import Child, Stopped


def refusal(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except BadModel as problem:
        return str(problem)
    return None


def names_a_file(said):
    """Whether a refusal says where to look."""
    kinds = (".json", ".safetensors", ".bin", ".gguf", ".py", "directory", "tokenizer")
    return any(kind in said for kind in kinds)


def badly_told(said):
    """The cases that were let through, or told in another way than one sentence with a file."""
    return {
        case: text for case, text in said.items()
        if not (is_one_sentence(text) and names_a_file(text) and text.isprintable())
    }  # fmt: skip


def believe_every_size(monkeypatch):
    monkeypatch.setattr(config, "_check_size", lambda key, value: None)


@pytest.mark.claim(id="0.20", falsifier=believe_every_size)
def test_a_directory_that_cannot_be_a_model_is_refused_before_it_is_tried(
    exhibit, tmp_path, monkeypatch
):
    """Each damage and its message; nothing is built, so nothing can cost much."""
    monkeypatch.setattr(directories, "run_probe", lambda *_, **options: {})
    said = {
        case: refusal(inspect_directory, directory, view_of(directory), free=ROOM)
        for case, directory in copies(tmp_path, damaged.STATED)
    }
    whole = tmp_path / "whole"
    said["no directory"] = refusal(inspect_directory, tmp_path / "none", view_of(whole))
    said["a file"] = refusal(inspect_directory, whole / "config.json", view_of(whole))
    said["no room"] = refusal(inspect_directory, whole, view_of(whole), free=100_000)
    exhibit.table(list(map(list, said.items())), columns=["directory", "said"], title="refusals")
    wrong = badly_told(said)

    says = exhibit.measured("directories let through or badly told", wrong, should_be={})

    assert not wrong, says
    healthy = refusal(inspect_directory, whole, view_of(whole), free=ROOM)
    assert healthy is None, f"a whole directory is refused: {healthy}"


def load_what_fits(monkeypatch):
    load_weights = nn.Module.load_weights

    def leniently(module, arrays, strict=True):
        return load_weights(module, arrays, strict=False)

    monkeypatch.setattr(nn.Module, "load_weights", leniently)


@pytest.mark.claim(id="0.21", falsifier=load_what_fits)
def test_a_model_that_does_not_fit_its_config_is_refused_when_it_is_declared(exhibit, tmp_path):
    """Names, shapes and dtypes are compared; no weight is read."""
    said = {
        case: refusal(trial_load.declare, directory)
        for case, directory in copies(tmp_path, damaged.DECLARED)
    }
    exhibit.table(list(map(list, said.items())), columns=["directory", "said"], title="refusals")
    wrong = badly_told(said)

    says = exhibit.measured("models let through or badly told", wrong, should_be={})

    assert not wrong, says
    healthy = refusal(trial_load.declare, tmp_path / "whole")
    assert healthy is None, f"a whole model is refused: {healthy}"


def look_no_further(monkeypatch):
    monkeypatch.setattr(trial_load, "check_vocabulary", lambda tokenizer, model, view: None)


@pytest.mark.claim(id="0.22", falsifier=look_no_further)
def test_what_a_model_can_be_checked_without_is_told_and_left_out(exhibit, tmp_path):
    """Tokenizer, vocabulary and chat template: the model itself stays to be checked."""
    cases = {"nothing": lambda directory: None} | {n: d for n, (_, d) in damaged.PARTIAL.items()}
    wanted = {"nothing": None} | {case: about for case, (about, _) in damaged.PARTIAL.items()}
    said = {}
    for case, directory in copies(tmp_path, cases):
        messages = []
        trial_load.main(directory, [], messages.append)
        problems = [(m["about"], m["problem"]) for m in messages if "problem" in m]
        said[case] = problems[0] if len(problems) == 1 else (None, problems or None)
    exhibit.table(
        [[case, about, text] for case, (about, text) in said.items()],
        columns=["directory", "about", "said"],
        title="problems",
    )
    wrong = [case for case, (about, _) in said.items() if about != wanted[case]]
    unclear = badly_told({case: text for case, (about, text) in said.items() if about})

    says = exhibit.measured("problems not found, or found elsewhere", wrong, should_be=[])

    assert not wrong, says
    assert not unclear, f"problems badly told = {unclear}, but should be none"


def grant_every_wish(monkeypatch):
    monkeypatch.setattr(files, "SMALL", (*files.SMALL, "*.py"))
    monkeypatch.setattr(config, "_refuse_code", lambda found, content: None)


CLASSES = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Model", None]}}


@pytest.mark.claim(id="0.23", falsifier=grant_every_wish)
def test_no_code_of_a_model_is_executed(exhibit, tmp_path, monkeypatch):
    """Code is named in every way that mlx-lm and transformers know; a file shows if it ran."""
    monkeypatch.setattr(directories, "run_probe", lambda *_, **options: {})
    cases = {
        case: damage for case, damage in damaged.STATED.items()
        if case == "model_file" or "auto_map" in case
    } | {
        "a class of its own": damaged.both(
            damaged.setting("tokenizer_config.json", tokenizer_class="EvilTokenizer"), damaged.code
        ),
        "asked for elsewhere": damaged.both(
            damaged.setting("tokenizer_config.json", **CLASSES), damaged.holding("it.py", b"")
        ),
    }  # fmt: skip
    rows = []
    for case, directory in copies(tmp_path, cases):
        view = view_of(directory)
        said = refusal(inspect_directory, directory, view, free=ROOM)
        if said is None:
            said = refusal(trial_load.declare, view)
            refusal(trial_load.load_tokenizer, view, {})
        ran = list(tmp_path.rglob(damaged.MARKER))
        code = [path.name for path in view.glob("*.py")]
        rows.append([case, said or "checked without it", code, bool(ran) or "evil" in sys.modules])
    exhibit.table(rows, columns=["asked by", "said", "code in the view", "executed"], title="code")
    executed = [case for case, _, _, ran in rows if ran]
    within_reach = [case for case, _, code, _ in rows if code]

    says = exhibit.measured("executed, or within reach", executed + within_reach, should_be=[])

    assert not executed + within_reach, says


def take_every_path_for_specs(monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:only_specs")


@pytest.mark.claim(id="0.247", falsifier=take_every_path_for_specs)
def test_no_conftest_of_a_model_is_run(exhibit, tmp_path):
    """pytest takes the value of an option that it does not know yet for a path to specs. Each is
    refused here, for there is no model in the directory; its conftest.py leaves a file."""
    ran, code = tmp_path / "ran", tmp_path / "model" / "conftest.py"
    code.parent.mkdir()
    code.write_text(f"open({str(ran)!r}, 'a').close()")
    rows = []
    for option in ("--model", "--reference", "--adapter"):
        run = start_pytest("specs", option, code.parent)
        said = "".join(run.communicate()).strip()
        rows.append([option, run.returncode, said[-200:], ran.exists()])
        ran.unlink(missing_ok=True)
    exhibit.table(rows, columns=["option", "exit code", "said", "code ran"], title="conftest.py")
    executed = [option for option, _, _, was_run in rows if was_run]

    says = exhibit.measured("options whose conftest.py ran", executed, should_be=[])

    assert {code for _, code, *_ in rows} == {4}, f"exit codes and sentences = {rows}"
    assert not executed, says


def see_nothing(monkeypatch):
    monkeypatch.setattr(files.Files, "seen", lambda found: {})


CHANGES = {
    "weights grow": damaged.append,
    "config is touched": lambda directory: os.utime(directory / "config.json"),
    "tokenizer vanishes": damaged.without("tokenizer.json"),
    "everything vanishes": shutil.rmtree,
}


@pytest.mark.claim(id="0.24", falsifier=see_nothing)
def test_a_directory_that_changes_while_it_is_checked_is_noticed(exhibit, tmp_path, monkeypatch):
    """The file is named; the tokenizer still loads, for it was copied."""
    monkeypatch.setattr(directories, "run_probe", lambda *_, **options: {})
    rows = []
    for case, directory in copies(tmp_path, dict.fromkeys(CHANGES, lambda directory: None)):
        inspected = inspect_directory(directory, view_of(directory), free=ROOM)
        before = directories.changed_since(inspected)
        CHANGES[case](directory)
        after = directories.changed_since(inspected)
        tokens = load_tokenizer(inspected.path, {"trust_remote_code": False}).encode("Rust")
        rows.append([case, before, after, len(tokens)])
    exhibit.table(rows, columns=["change", "before", "after", "tokens of Rust"], title="changes")
    missed = [case for case, before, after, _ in rows if before is not None or after is None]

    says = exhibit.measured("changes not noticed", missed, should_be=[])

    assert not missed, says
    assert all(tokens == 1 for *_, tokens in rows), f"tokens of Rust = {rows}, but should be 1 each"


def take_a_crash_for_an_end(monkeypatch):
    def say_so(child, seconds):
        try:
            return receive(child, seconds)
        except Stopped as end:
            if "signal" in str(end):
                return {"done": True}
            raise

    receive = Child.receive
    monkeypatch.setattr(Child, "receive", say_so)


CRASH = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "mlx_lm":
            os.kill(os.getpid(), signal.SIGSEGV)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.slow
@pytest.mark.claim(id="0.25", falsifier=take_a_crash_for_an_end)
def test_what_never_ends_or_takes_everything_or_crashes_is_stopped(exhibit, tmp_path, monkeypatch):
    """In a process of its own, whose time and memory are watched."""
    brief = replace(probe.STAGES["chat template"], seconds=3)
    monkeypatch.setitem(probe.STAGES, "chat template", brief)
    monkeypatch.setattr(child, "MEMORY", 1_200_000_000)
    templates = {
        case: damaged.setting("tokenizer_config.json", chat_template=template)
        for case, template in (
            ("endless", damaged.ENDLESS),
            ("huge", damaged.HUGE),
        )
    }
    said = {}
    for case, directory in copies(tmp_path, templates):
        problems = probe.run_probe(directory)
        said[case] = problems.get("chat template", str(problems))
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        said["crash"] = refusal(probe.run_probe, tmp_path / "whole")
    exhibit.table(list(map(list, said.items())), columns=["case", "said"], title="stopped")
    wrong = {case: text for case, text in said.items() if "was stopped" not in str(text)}

    says = exhibit.measured("not stopped, or not told", wrong, should_be={})

    assert not wrong, says
    assert all(map(is_one_sentence, said.values())), f"{said}, but should be a sentence each"
