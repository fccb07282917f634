"""Experiment 0: exhibits reach files complete, and the terminal without control characters."""

import contextlib
import errno
import json
import os
import sys
import unicodedata

import execnet
import numpy as np
import pytest

from llm_spec.ledger import records, results, terminal
from llm_spec.ledger.evidence import Exhibits
from llm_spec.report import destination
from llm_spec.text import untrusted


def keep_numbers_as_they_are(monkeypatch):
    monkeypatch.setattr(records, "plain", lambda value: value)


@pytest.mark.claim(id="0.5", falsifier=keep_numbers_as_they_are)
def test_what_a_spec_records_survives_json_and_the_way_from_a_worker(exhibit):
    """pytest-xdist's channel knows plain types only. NaN and infinity become null, arrays lists,
    and half a surrogate pair a sign."""
    made = []
    recorder = Exhibits(made.append, "-", pytest.skip)
    recorder.bars({"a": float("nan"), "b": float("inf"), "c": 0.5}, title="\ud83d", axis="x")
    recorder.heatmap(np.eye(2, dtype=np.float32), ["a", "b"], ["c", "d"], title="an array")
    recorder.measured("share", np.float32(0.5), should_be=np.int64(1))
    recorder.noise("a repeat", np.float64("nan"))
    recorder.fault(keep_numbers_as_they_are, red=True)
    sent = [records.as_property(record) for record in made]
    arrived = []
    ways = {json: results.to_json, execnet: execnet.dumps}
    for way, dumps in ways.items():
        with contextlib.suppress(ValueError, execnet.DumpError):
            arrived.append(records.records_in(way.loads(dumps(sent))))
    exhibit.text("\n".join(map(str, arrived)), title="came back, from JSON and from a worker")
    numbers = [[it.exhibit["values"] for it in came[:2]] + [came[2].value] for came in arrived]

    says = exhibit.measured("numbers that came back", numbers, should_be=[NUMBERS, NUMBERS])

    assert numbers == [NUMBERS, NUMBERS], says
    assert arrived[0] == arrived[1] == records.records_in(sent), (
        "a record differs after JSON and xdist"
    )


NUMBERS = [[None, None, 0.5], [[1.0, 0.0], [0.0, 1.0]], 0.5]


def write_in_place(monkeypatch):
    def overwrite(path, text):
        with path.open("w") as file:
            file.write(text[:1])
            file.flush()
            os.fsync(file.fileno())

    monkeypatch.setattr(destination, "write_atomically", overwrite)


@pytest.mark.claim(id="0.6", falsifier=write_in_place)
def test_a_report_is_replaced_whole_or_not_at_all(exhibit, tmp_path, monkeypatch):
    """The disk is full while the new report is written: the old file stays, and no other."""
    report = tmp_path / "results.json"
    destination.write({"old": True}, report)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            destination.write({"new": True}, report)
    left = {path.name: path.read_text() for path in tmp_path.iterdir()}
    exhibit.table(list(map(list, left.items())), columns=["file", "content"], title="left on disk")

    says = exhibit.measured("files left", left, should_be={"results.json": '{"old":true}'})
    assert left == {"results.json": '{"old":true}'}, says

    destination.write({"new": True}, report)
    assert json.loads(report.read_text()) == {"new": True}, "the old report was not replaced"


def trust_the_vocabulary(monkeypatch):
    monkeypatch.setattr(untrusted, "_sign", lambda char, *_, **__: char)


@pytest.mark.claim(id="0.7", falsifier=trust_the_vocabulary)
def test_text_from_a_vocabulary_cannot_command_the_terminal(exhibit):
    """Escape sequences, bells and direction marks are shown as signs, and markup as text."""
    hostile = "\x1b[2J\x07[red]x[/red]\u202e\ud83d"
    piece = {"text": hostile, "ids": [1], "pieces": [hostile], "bytes": ["1b"]}
    shown = {
        kind: terminal.render(
            terminal.exhibit({"kind": kind, "title": hostile, **content}), 80, False
        )
        for kind, content in {
            "text": {"text": hostile},
            "tokens": {"tokenizer": hostile, "strings": [piece]},
            "bars": {"labels": [hostile], "values": [1.0], "axis": hostile},
            "table": {"columns": [hostile], "rows": [[hostile]]},
        }.items()
    }
    exhibit.table(list(map(list, shown.items())), columns=["kind", "shown"], title=r"\x1b[2J shown")
    obeyed = [k for k, text in shown.items() if set(text) & set("\x1b\x07\u202e\ud83d")]
    unmarked = [kind for kind, text in shown.items() if "[red]" not in text]

    says = exhibit.measured("kinds that pass control characters on", obeyed, should_be=[])
    assert not obeyed, says
    assert not unmarked, f"kinds that interpret text as markup = {unmarked}, but should be none"


def leave_every_character(monkeypatch):
    monkeypatch.setattr(untrusted, "_sign", lambda char, *_, **__: char)


@pytest.mark.claim(id="0.80", falsifier=leave_every_character)
def test_no_invisible_character_of_untrusted_text_is_passed_on(exhibit):
    """Between letters: all code points of the basic plane, and the tags of plane 14."""
    every = "a".join(map(chr, [*range(0x10000), *range(0xE0000, 0xE0200), sys.maxunicode]))
    shown = {
        "visible": untrusted.visible(every),
        "visible, with lines": untrusted.visible(every, lines=True),
        "one_line": untrusted.one_line(every, limit=len(every)),
        "piece": untrusted.piece(every, limit=len(every)),
        "quoted": untrusted.quoted(every, limit=len(every)),
    }
    allowed = {"visible, with lines": "\n\t"}
    passed_on = {
        name: sum(invisible(char) for char in set(text) - set(allowed.get(name, "")))
        for name, text in shown.items()
    }
    exhibit.table(
        [[name, len(text), passed_on[name]] for name, text in shown.items()],
        columns=["function", "characters shown", "invisible ones passed on"],
        title="code points of the basic plane, tags, and the last one",
    )
    shortest = min(map(len, shown.values()))

    says = exhibit.measured(
        "characters passed on unchanged", passed_on, should_be=dict.fromkeys(shown, 0)
    )

    assert shortest > 0x10000, f"characters shown = {shortest:,}, but should be more"
    assert not any(passed_on.values()), says


def invisible(char):
    """By Python's own word for it: neither printable, nor a blank, nor a joiner."""
    blank = unicodedata.category(char) == "Zs"
    return not char.isprintable() and not blank and char not in "\u200c\u200d"
