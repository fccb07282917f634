"""Experiment 9: what people really bring, and what is said of it.

Directories are made by changing a whole one of 0.6 MB, as in test_0_model_directory.py.
"""

import contextlib
import io

import pytest
from mlx_lm.utils import load_tokenizer

from fixtures.doubles import damaged
from fixtures.doubles.damaged import ROOM, copies, view_of
from fixtures.doubles.refusals import is_one_sentence
from fixtures.models import law_verdict, subjects
from fixtures.models.subjects import Subject
from fixtures.provision.catalogue import Entry
from fixtures.synthetic.small_directory import write_small_model
from llm_spec import directory as directories
from llm_spec.cli import command_line, fit
from llm_spec.directory import ModelDirectory, packing, shards, trial_load
from llm_spec.directory.chat_template import BoundedTemplate
from llm_spec.directory.probe import TEXT_STAGES
from llm_spec.laws import CHAT_LAWS, TEXT_LAWS
from llm_spec.laws.tokenizer import chat


def somebodys(directory):
    """The subject that --model makes of a directory, with what the inspector says of its text."""
    messages = []
    trial_load.main(directory, [], messages.append)
    problems = {each["about"]: each["problem"] for each in messages if "about" in each}
    entry = Entry(name=directory.name, about="-", licence="-", directory=str(directory))
    return Subject(entry, ModelDirectory(directory, directory, {}, problems))


UNUSABLE = {
    "a template that does not compile": (
        damaged.setting("tokenizer_config.json", chat_template="{% for"), CHAT_LAWS
    ),
    "a tokenizer that cannot be loaded": (damaged.holding("tokenizer.json", b"{"), TEXT_LAWS),
}  # fmt: skip


def hold_what_is_left_to_the_laws(monkeypatch):
    """A template that is left out is none, and a tokenizer that is broken is that of another."""

    def without_a_template(subject, law):
        directory = subject.path.parent / "whole"
        damaged.setting("tokenizer_config.json", chat_template=...)(directory)
        return law(somebodys(directory).tokenizer)

    monkeypatch.setattr(law_verdict, "text_finding", without_a_template)


@pytest.mark.claim(id="9.120", falsifier=hold_what_is_left_to_the_laws)
def test_a_law_of_text_is_broken_where_there_is_no_text_to_hold_to_it(exhibit, tmp_path):
    """Each law that needs what is broken, and the reason that it gives."""
    said = {}
    for case, directory in copies(tmp_path, {case: how for case, (how, _) in UNUSABLE.items()}):
        subject = somebodys(directory)
        said |= {
            (case, law.__name__): law_verdict.text_finding(subject, law)
            for law in UNUSABLE[case][1]
        }
    exhibit.table(
        [[case, law, finding.says] for (case, law), finding in said.items()],
        columns=["directory", "law", "said"],
        title="laws of text without a text",
    )
    kept = [f"{law} of {case}" for (case, law), found in said.items() if found.holds is not False]
    reasons = [found.says for found in said.values() if "json" not in found.says]

    says = exhibit.measured("laws kept or not judged", kept, should_be=[])

    assert not kept, says
    assert not reasons, f"laws that name no file = {reasons}, but should be none"


# Ends after 60 million rounds: seconds later than the limit.
LONG = "{% for a in range(9999) %}{% for b in range(6000) %}{% endfor %}{% endfor %}"
FOR_A_REPLY = "{% if messages|length == 2 and messages[0].content == '" + chat.ASKS + "' %}"
BRIEF = 2.0  # s


def fill_in_templates_here(monkeypatch):
    class Here:
        """Fills a template in as mlx-lm would, in this process."""

        def __init__(self, view):
            self.tokenizer = subjects.mlx_lm_utils.load_tokenizer(view)

        def __call__(self, messages, **options):
            return self.tokenizer.apply_chat_template(messages, tokenize=False, **options)

    monkeypatch.setattr(subjects, "BoundedTemplate", Here)


@pytest.mark.slow
@pytest.mark.claim(id="9.121", falsifier=fill_in_templates_here)
def test_a_template_that_fails_for_one_conversation_is_stopped_and_told(
    exhibit, tmp_path, monkeypatch
):
    """One loops and one commands the terminal, for the conversation of a law: nobody tried it."""
    monkeypatch.setattr(BoundedTemplate.__init__, "__defaults__", (BRIEF,))
    templates = {
        "loops": FOR_A_REPLY + LONG + "{% endif %}",
        "commands": FOR_A_REPLY + "{{ raise_exception('\x1b[2J\x1b]0;x\x07 no') }}{% endif %}",
    }
    whole = "{{ messages[0].content }}"
    said = {}
    changes = {
        case: damaged.setting("tokenizer_config.json", chat_template=template + whole)
        for case, template in templates.items()
    }
    for case, directory in copies(tmp_path, changes):
        said[case] = law_verdict.text_finding(somebodys(directory), chat.a_reply_ends).says
    exhibit.table(list(said.items()), columns=["template", "said"], title="a_reply_ends")
    wrong = {
        case: text for case, text in said.items()
        if "chat template cannot be filled in" not in text or not text.isprintable()
    }  # fmt: skip

    says = exhibit.measured("failures badly told", wrong, should_be={})

    assert not wrong, says
    assert "did not end within 2 s" in said["loops"], f"{said}, but should tell the time"


BROKEN = {
    "a module packed at 0 bits": damaged.STATED["a module packed at 0 bits"],
    "10^9 layers": damaged.STATED["10^9 layers"],
    "config nested 100,000 deep": damaged.STATED["config nested 100,000 deep"],
    "config is a pipe": damaged.STATED["config is a pipe"],
    "weights cut off": damaged.STATED["weights cut off"],
    "model_file": damaged.STATED["model_file"],
    "a tensor of another shape": damaged.DECLARED["a tensor of another shape"],
    "an unknown kind of RoPE": damaged.DECLARED["an unknown kind of RoPE"],
}


def read_it_without_the_inspector(monkeypatch):
    monkeypatch.setattr(directories, "inspect_config", lambda directory: {}["model_type"])


@pytest.mark.claim(id="9.122", falsifier=read_it_without_the_inspector)
def test_fit_refuses_a_directory_that_cannot_be_checked(exhibit, tmp_path):
    """`llm-spec fit --model DIR`: what the inspector says, and exit code 2."""
    answers = []
    for case, directory in copies(tmp_path, BROKEN):
        arguments = ["fit", "--memory", "36GB", "--bandwidth", "150GB/s", "--bits", "4"]
        with contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                code = command_line.main([*arguments, "--model", str(directory)])
            except Exception as error:
                code = type(error).__name__
        answers.append([case, code, said.getvalue().strip()])
    exhibit.table(answers, columns=["directory", "exit code", "said"], title="llm-spec fit")
    wrong = [
        case for case, code, text in answers
        if code != 2 or not is_one_sentence(text) or not text.isprintable()
    ]  # fmt: skip

    says = exhibit.measured("directories answered otherwise", wrong, should_be=[])

    assert not wrong, says
    whole = fit._given(tmp_path / "whole", [4], fused=True)
    assert len(whole) == 2, f"{whole}, but should be a whole directory as stored and at 4 bits"


def turns(role, content, end="", last=""):
    """A template of turns: `role` and `content` are what stands before and for a message."""
    return (
        "{% for message in messages %}" + role + content + end + "{% endfor %}"
        "{% if add_generation_prompt %}" + last + "{% endif %}"
    )


CLOSED = "{% if message.role == 'assistant' %}</think>{% endif %}"
THINKS = "{% if enable_thinking %}<think>{% else %}</think>{% endif %}"
# As families of models have them: the template, and what ends a reply.
FAMILIES = {
    "the next turn ends a reply, as with GLM": (
        turns("<|{{ message.role }}|>", "\n{{ message.content }}", last="<|assistant|>"), "<|user|>"
    ),
    "thoughts of past turns are closed, as with DeepSeek": (
        turns("<|{{ message.role }}|>", CLOSED + "{{ message.content }}", "<|end|>",
              "<|assistant|>" + THINKS),
        "<|end|>",
    ),
    "no header before a reply, as with Mistral": (
        "{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }}"
        "[/INST]{% else %} {{ message.content }}<|end|>{% endif %}{% endfor %}", "<|end|>"
    ),
    "markers that never were tokens, as with Zephyr": (
        turns("<|{{ message.role[:4] }}|>", "\n{{ message.content }}", "<|end|>\n", "<|assi|>"),
        "<|end|>"
    ),
}  # fmt: skip


def hold_thoughts_against_a_template(monkeypatch):
    monkeypatch.setattr(chat, "_without", lambda text, markers: text.strip())


@pytest.mark.claim(id="9.125", falsifier=hold_thoughts_against_a_template)
def test_templates_of_every_family_keep_the_laws_of_chats(exhibit, tmp_path):
    """Each family, with the tokens that it needs, and what the laws find."""
    whole = write_small_model(tmp_path / "whole")
    said = {}
    for family, (template, end) in FAMILIES.items():
        tokenizer = load_tokenizer(whole)
        markers = ["<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>"]
        tokenizer._tokenizer.add_tokens(markers, special_tokens=True)
        tokenizer.chat_template = template
        tokenizer.eos_token_ids = {tokenizer.convert_tokens_to_ids(end)}
        said |= {(family, law.__name__): law(tokenizer) for law in CHAT_LAWS}
    exhibit.table(
        [[family, law, finding.says] for (family, law), finding in said.items()],
        columns=["family", "law", "found"],
        title="templates of several families",
    )
    broken = [found.says for found in said.values() if found.holds is not True]

    says = exhibit.measured("laws broken by a sound template", broken, should_be=[])

    assert not broken, says


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


def not_told(exhibit, tmp_path, cases):
    """The cases of which something else is said than should be, and what."""
    said = {
        case: told(directory)
        for case, directory in copies(tmp_path, {case: how for case, (how, _) in cases.items()})
    }
    exhibit.table(
        [[case, " ".join(texts)] for case, texts in said.items()], columns=["directory", "said"],
        title="what is said",
    )  # fmt: skip
    assert told(tmp_path / "whole") == [], "something is said of a whole directory"
    return {
        case: texts for case, texts in said.items()
        if len(texts) != 1 or cases[case][1] not in texts[0] or not is_one_sentence(texts[0])
    }  # fmt: skip


def believe_the_configuration(monkeypatch):
    monkeypatch.setattr(packing, "held", lambda content, modules: None)


@pytest.mark.claim(id="9.128", falsifier=believe_the_configuration)
def test_packing_that_the_files_do_not_hold_is_told(exhibit, tmp_path, monkeypatch):
    """What is stated, what is stored, and which of them mlx-lm takes."""
    try_it_here(monkeypatch)
    wrong = not_told(exhibit, tmp_path, damaged.PACKED)

    says = exhibit.measured("packing not told", wrong, should_be={})

    assert not wrong, says


def look_at_no_file_beside_the_weights(monkeypatch):
    monkeypatch.setattr(shards, "read_index", lambda found: ({}, None))


@pytest.mark.claim(id="9.129", falsifier=look_at_no_file_beside_the_weights)
def test_what_mlx_lm_ignores_is_told_and_the_model_checked(exhibit, tmp_path, monkeypatch):
    """An index of another build, settings of a sampler: notes, and no fault of the model."""
    try_it_here(monkeypatch)
    wrong = not_told(exhibit, tmp_path, damaged.NOTED)

    says = exhibit.measured("files not told of, or refused", wrong, should_be={})

    assert not wrong, says


def look_for_nothing_odd(monkeypatch):
    monkeypatch.setattr(packing, "left_behind", lambda config, tensors: None)


@pytest.mark.claim(id="9.130", falsifier=look_for_nothing_odd)
def test_a_directory_that_one_step_mends_is_refused_with_that_step(exhibit, tmp_path, monkeypatch):
    """Adapters, stray files, keys left behind: what to fuse, to take away, to take out."""
    try_it_here(monkeypatch)
    wrong = not_told(exhibit, tmp_path, damaged.MENDED)

    says = exhibit.measured("steps not named", wrong, should_be={})

    assert not wrong, says
