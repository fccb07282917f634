"""Experiment 9: chat templates of any family and any intent, and tokenizers that cannot be used.

Directories are made by changing a whole one of 0.6 MB, as in test_0_model_directory.py.
"""

import pytest
from mlx_lm.utils import load_tokenizer

from fixtures.doubles import damaged
from fixtures.doubles.damaged import copies
from fixtures.models import law_verdict, subjects
from fixtures.models.subjects import Subject
from fixtures.provision.catalogue import Entry
from fixtures.synthetic.small_directory import write_small_model
from llm_spec.directory import ModelDirectory, trial_load
from llm_spec.directory.chat_template import BoundedTemplate
from llm_spec.laws import CHAT_LAWS, TEXT_LAWS
from llm_spec.laws.tokenizer import chat, support


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
    """Each law that needs the broken part, and the reason that it reports."""
    said = {}
    for case, directory in copies(tmp_path, {case: how for case, (how, _) in UNUSABLE.items()}):
        subject = somebodys(directory)
        said |= {
            (case, law.__name__): law_verdict.text_finding(subject, law)
            for law in UNUSABLE[case][1]
        }
    exhibit.table(
        [[case, law, finding.says] for (case, law), finding in said.items()],
        columns=["directory", "law", "finding"],
        title="laws of text without a text",
    )
    kept = [f"{law} of {case}" for (case, law), found in said.items() if found.holds is not False]
    reasons = [found.says for found in said.values() if "json" not in found.says]

    says = exhibit.measured("laws kept or not judged", kept, should_be=[])

    assert not kept, says
    assert not reasons, f"laws that name no file = {reasons}, but should be none"


# Ends after 240 million rounds, on a fast machine too seconds later than the limit.
LONG = "{% for a in range(9999) %}{% for b in range(24000) %}{% endfor %}{% endfor %}"
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
    """For one law's conversation only, one template loops and one sends control sequences."""
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

    says = exhibit.measured("failures without a clear message", wrong, should_be={})

    assert not wrong, says
    assert "did not end within 2 s" in said["loops"], (
        f"message = {said['loops']}, but should name the time limit"
    )


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


HEADERS = turns("<|im_start|>{{ message.role }}\n", "{{ message.content }}", "<|im_end|>\n",
                "<|im_start|>assistant\n")  # fmt: skip
PARTS = "{% for part in message.content %}{{ part.text }}{% endfor %}"
# Templates before those headers, and what they fail with. Arguments of a call go as text to a
# server, which hands them on parsed: no fault of a template that was written for the text.
FAIL_WITH: dict[str, tuple[str, list[str]]] = {
    "nothing": (HEADERS, []),
    "nothing, and refuses system messages": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system messages') }}"
        "{% endif %}" + HEADERS, []
    ),
    "nothing, and puts a call's arguments behind text": (
        "{% for message in messages if message.tool_calls %}"
        "{{ 'calls: ' + message.tool_calls[0].function.arguments }}{% endfor %}" + HEADERS, []
    ),
    "a system message": (
        "{% if messages[0].role == 'system' %}{{ messages[0].content.text.strip() }}{% endif %}"
        + HEADERS, ["a system message"]
    ),
    "a system message, which it writes empty": (
        HEADERS.replace("{{ message.content }}",
                        "{% if message.role != 'system' %}{{ message.content }}{% endif %}"),
        ["a system message"]
    ),
    "nothing, and ignores a system message": (
        HEADERS.replace("in messages", "in messages if message.role != 'system'"), []
    ),
    "thoughts off": (
        HEADERS + "{% if enable_thinking is defined and not enable_thinking %}{{ none + '' }}"
        "{% endif %}", ["thoughts on and off"]
    ),
    "thoughts on, as DeepSeek's templates are asked for them": (
        HEADERS + "{% if thinking %}{{ none + '' }}{% endif %}", ["thoughts on and off"]
    ),
    "little thought, as gpt-oss's template is asked for it": (
        HEADERS + "{% if reasoning_effort == 'low' %}{{ none + '' }}{% endif %}",
        ["thoughts on and off"]
    ),
    "a second reply": (
        HEADERS.replace("in messages", "in messages[:3] + messages[4:]"), ["two replies"]
    ),
    "a question beside tools": (
        "{% if tools %}{{ tools }}{% else %}" + HEADERS + "{% endif %}",
        ["tools", "a tool call and its result"]
    ),
    "a question beside tools, which it repeats": (
        "{% if tools %}{{ tools }}{{ messages[0].content }}{% endif %}" + HEADERS,
        ["tools", "a tool call and its result"]
    ),
    "the result of a tool": (
        "{% for message in messages if message.role == 'tool' %}{{ message.result.strip() }}"
        "{% endfor %}" + HEADERS, ["a tool call and its result"]
    ),
    "text, for it takes parts alone": (
        HEADERS.replace("{{ message.content }}", PARTS),
        ["a question", "two replies", "a system message", "tools", "a tool call and its result"]
    ),
}  # fmt: skip


def take_what_is_rendered(monkeypatch):
    monkeypatch.setattr(support, "_read", lambda tokenizer, trial: support.Support("-", "yes"))


@pytest.mark.claim(id="9.147", falsifier=take_what_is_rendered)
def test_what_a_template_fails_with_is_told_and_no_more(exhibit, tmp_path):
    """Templates that fail with one thing, and what is said of each."""
    tokenizer = load_tokenizer(write_small_model(tmp_path))
    said = {}
    for case, (template, _) in FAIL_WITH.items():
        tokenizer.chat_template = template
        said[case] = [each for each in support.support(tokenizer) if each.fails]
    exhibit.table(
        [[case, "; ".join(f"{each.title}: {each.says}" for each in found)]
         for case, found in said.items()],
        columns=["fails with", "said"], title="what templates fail with",
    )  # fmt: skip
    wrong = {
        case: titles for case, found in said.items()
        if (titles := [each.title for each in found]) != FAIL_WITH[case][1]
    }  # fmt: skip

    says = exhibit.measured("templates of which something else is told", wrong, should_be={})

    assert not wrong, says
    parts = said["text, for it takes parts alone"][0].says
    assert "parts alone" in parts, f"{parts!r}, but should name the parts"
