"""Experiment 9: odd directories that people bring, and the messages that they get.

Directories are made by changing a whole one of 0.6 MB, as in test_0_model_directory.py.
"""

import contextlib
import io

import pytest

from fixtures.doubles import damaged, odd, odd_tokenizers, odd_weights
from fixtures.doubles.damaged import ROOM, copies, view_of
from fixtures.doubles.refusals import is_one_sentence
from llm_spec import directory as directories
from llm_spec.cli import command_line, plan_directory
from llm_spec.directory import explanation, generation, naming, packing, shards, trial_load
from llm_spec.directory.probe import TEXT_STAGES

BROKEN = {
    "a module packed at 0 bits": damaged.STATED["a module packed at 0 bits"],
    "10^9 layers": damaged.STATED["10^9 layers"],
    "config nested 100,000 deep": damaged.STATED["config nested 100,000 deep"],
    "config is a pipe": damaged.STATED["config is a pipe"],
    "weights cut off": damaged.STATED["weights cut off"],
    "model_file": damaged.STATED["model_file"],
    "a tensor of another shape": damaged.DECLARED["a tensor of another shape"],
    "an unknown kind of RoPE": damaged.DECLARED["an unknown kind of RoPE"],
    "20,000 kinds of layers": damaged.both(
        damaged.setting(layer_types=["full_attention"] * 20_000), damaged.without(damaged.WEIGHTS)
    ),
    "1,000 heads on 64 numbers": damaged.both(
        damaged.setting(num_attention_heads=1000, head_dim=...), damaged.without(damaged.WEIGHTS)
    ),
}


def read_it_without_the_inspector(monkeypatch):
    monkeypatch.setattr(plan_directory, "planned", lambda directory, *_: {}["model_type"])


@pytest.mark.claim(id="9.122", falsifier=read_it_without_the_inspector)
def test_fit_refuses_a_directory_that_cannot_be_checked(exhibit, tmp_path):
    """`llm-spec fit --model DIR`: the inspector's message, and exit code 2."""
    answers = []
    for case, directory in copies(tmp_path, BROKEN):
        arguments = ["fit", "--memory", "36GB", "--bandwidth", "150GB/s", "--bits", "4"]
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                code = command_line.main([*arguments, "--model", str(directory)])
            except Exception as error:
                code = type(error).__name__
        answers.append([case, code, said.getvalue().strip()])
    exhibit.table(answers, columns=["directory", "exit code", "message"], title="llm-spec fit")
    wrong = [
        case for case, code, text in answers
        if code != 2 or not is_one_sentence(text) or not text.isprintable()
    ]  # fmt: skip

    says = exhibit.measured("directories without exit code 2 and one sentence", wrong, should_be=[])

    assert not wrong, says
    whole, _ = plan_directory.planned(tmp_path / "whole", [4], fused=True, longest=2048)
    assert len(whole) == 2, f"{whole}, but should be a whole directory as stored and at 4 bits"


def told(directory):
    """What is said of a directory: that it is refused, the notes on it, and its problems."""
    view = view_of(directory)
    try:
        found = directories.inspect_directory(directory, view, free=ROOM)
    except directories.BadModel as problem:
        return [str(problem)]
    return [*found.problems.values(), *found.notes]


def try_it_here(monkeypatch):
    """Declare the model in this process: nothing here is hostile, and it takes no seconds."""

    def declared(view, *_, **options):
        messages = []
        trial_load.main(view, TEXT_STAGES, messages.append)
        if fatal := [each["problem"] for each in messages if each.get("fatal")]:
            raise directories.BadModel(fatal[0])
        return {each["about"]: each["problem"] for each in messages if "about" in each}

    monkeypatch.setattr(directories, "run_probe", declared)


def show(exhibit, said):
    exhibit.table(
        [[case, " ".join(texts)] for case, texts in said.items()], columns=["directory", "said"],
        title="what is said",
    )  # fmt: skip


def not_told(exhibit, tmp_path, cases):
    """The cases of which something else is said than should be, and what."""
    said = {
        case: told(directory)
        for case, directory in copies(tmp_path, {case: how for case, (how, _) in cases.items()})
    }
    show(exhibit, said)
    assert told(tmp_path / "whole") == [], "a complete directory is reported, but should not be"
    return {
        case: texts for case, texts in said.items()
        if len(texts) != 1 or cases[case][1] not in texts[0] or not is_one_sentence(texts[0])
    }  # fmt: skip


def believe_the_configuration(monkeypatch):
    monkeypatch.setattr(packing, "held", lambda content, modules: None)


@pytest.mark.claim(id="9.128", falsifier=believe_the_configuration)
def test_packing_that_the_files_do_not_hold_is_told(exhibit, tmp_path, monkeypatch):
    """What config.json states, what the files store, and which of them mlx-lm uses."""
    try_it_here(monkeypatch)
    wrong = not_told(exhibit, tmp_path, odd.PACKED)

    says = exhibit.measured("packing that is not reported", wrong, should_be={})

    assert not wrong, says


def look_at_no_file_beside_the_weights(monkeypatch):
    monkeypatch.setattr(shards, "read_index", lambda found: ({}, None))


@pytest.mark.claim(id="9.129", falsifier=look_at_no_file_beside_the_weights)
def test_what_mlx_lm_ignores_is_told_and_the_model_checked(exhibit, tmp_path, monkeypatch):
    """An index of another build, sampler settings: notes, not faults of the model."""
    try_it_here(monkeypatch)
    wrong = not_told(exhibit, tmp_path, odd.NOTED)

    says = exhibit.measured("files not reported, or refused", wrong, should_be={})

    assert not wrong, says


def look_for_nothing_odd(monkeypatch):
    monkeypatch.setattr(packing, "left_behind", lambda config, tensors: None)


@pytest.mark.claim(id="9.130", falsifier=look_for_nothing_odd)
def test_a_directory_that_one_step_mends_is_refused_with_that_step(exhibit, tmp_path, monkeypatch):
    """Adapters, stray files, leftover keys: the message says what to fuse or to remove."""
    try_it_here(monkeypatch)
    wrong = not_told(exhibit, tmp_path, odd.MENDED)

    says = exhibit.measured("repairs that are not named", wrong, should_be={})

    assert not wrong, says


def name_no_setting(monkeypatch):
    monkeypatch.setattr(explanation, "_can_be_made", lambda config: False)


@pytest.mark.claim(id="9.162", falsifier=name_no_setting)
def test_a_setting_of_which_no_model_can_be_made_is_named(exhibit, tmp_path, monkeypatch):
    """mlx-lm's own error says `substring not found`, or names an attribute of Python's."""
    try_it_here(monkeypatch)
    wrong = not_told(exhibit, tmp_path, odd.NOT_MADE)

    says = exhibit.measured("settings that are not named", wrong, should_be={})

    assert not wrong, says


def look_for_no_library(monkeypatch):
    monkeypatch.setattr(packing, "method_of", lambda content: None)


@pytest.mark.claim(id="9.185", falsifier=look_for_no_library)
def test_weights_that_another_library_packed_are_refused_with_its_name(
    exhibit, tmp_path, monkeypatch
):
    """mlx-lm's own error names the arrays for which its model has no place."""
    try_it_here(monkeypatch)
    wrong = not_told(exhibit, tmp_path, odd_weights.FOREIGN)

    says = exhibit.measured("libraries that are not named", wrong, should_be={})

    assert not wrong, says


def tell_every_setting(monkeypatch):
    monkeypatch.setattr(generation, "_sampling", lambda content: [f"It holds {len(content)} keys."])


@pytest.mark.claim(id="9.186", falsifier=tell_every_setting)
def test_nothing_is_said_of_settings_that_change_no_answer(exhibit, tmp_path, monkeypatch):
    """mlx-lm answers greedily where it is asked for nothing else."""
    try_it_here(monkeypatch)
    said = {case: told(directory) for case, directory in copies(tmp_path, odd.NOT_TOLD)}
    show(exhibit, said)
    wrong = {case: texts for case, texts in said.items() if texts}

    says = exhibit.measured("settings that are told", wrong, should_be={})

    assert not wrong, says


def look_for_no_prefix(monkeypatch):
    monkeypatch.setattr(naming, "other_prefix", lambda config, unplaced: None)


@pytest.mark.claim(id="9.188", falsifier=look_for_no_prefix)
def test_why_names_of_tensors_do_not_fit_is_told(exhibit, tmp_path, monkeypatch):
    """mlx-lm's own error lists every tensor for which its model has no place, or that it lacks."""
    try_it_here(monkeypatch)
    wrong = not_told(exhibit, tmp_path, odd_weights.MISNAMED)

    says = exhibit.measured("causes that are not told", wrong, should_be={})

    assert not wrong, says


def read_no_file_again(monkeypatch):
    monkeypatch.setattr(trial_load, "OF_A_TOKENIZER", ())


@pytest.mark.claim(id="9.189", falsifier=read_no_file_again)
def test_a_file_of_a_tokenizer_that_is_not_json_is_named(exhibit, tmp_path):
    """A parser's own error says in which line, and not in which file."""
    said = {}
    cut_off = {file: damaged.holding(file, b"{\n") for file in odd.NOT_JSON}
    for file, directory in copies(tmp_path, cut_off):
        messages = []
        trial_load.main(directory, ["chat template"], messages.append)
        said[file] = [each["problem"] for each in messages if "problem" in each]
    show(exhibit, said)
    wrong = {
        file: texts for file, texts in said.items()
        if len(texts) != 1 or not texts[0].startswith(f"{file} is not JSON")
    }  # fmt: skip

    says = exhibit.measured("files that are not named", wrong, should_be={})

    assert not wrong, says


def blame_the_tokenizer(monkeypatch):
    monkeypatch.setattr(trial_load, "_raised_by_the_config", lambda error: False)


@pytest.mark.claim(id="9.131", falsifier=blame_the_tokenizer)
def test_a_fault_of_the_configuration_is_not_blamed_on_the_tokenizer(exhibit, tmp_path):
    """transformers reads config.json to load a tokenizer, and refuses more than mlx-lm does."""
    said = {}
    for case, directory in copies(tmp_path, odd.REFUSED_BY_TRANSFORMERS):
        messages = []
        trial_load.main(directory, ["chat template"], messages.append)
        said[case] = [each["problem"] for each in messages if "problem" in each]
    show(exhibit, said)
    wrong = {
        case: texts for case, texts in said.items()
        if len(texts) != 1 or not texts[0].startswith("config.json")
    }  # fmt: skip

    says = exhibit.measured("faults blamed on another file", wrong, should_be={})

    assert not wrong, says


def look_for_tokenizer_json_alone(monkeypatch):
    monkeypatch.setattr(trial_load, "TOKENIZERS", ("tokenizer.json",))


@pytest.mark.claim(id="9.190", falsifier=look_for_tokenizer_json_alone)
def test_a_tokenizer_in_another_file_than_tokenizer_json_is_taken(exhibit, tmp_path):
    """What transformers reads, mlx-lm takes: GPT-2's two files, Mistral's one."""
    said = {}
    for case, directory in copies(tmp_path, odd_tokenizers.tokenizers()):
        messages = []
        trial_load.main(directory, [], messages.append)
        said[case] = [each["problem"] for each in messages if "problem" in each]
    show(exhibit, said)
    wrong = {case: texts for case, texts in said.items() if texts}

    says = exhibit.measured("files of a tokenizer that are refused", wrong, should_be={})

    assert not wrong, says
