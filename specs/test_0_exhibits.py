"""Experiment 0: what specs saw comes whole into files, and harmless to the terminal."""

import errno
import json
import os

import pytest

from llm_spec.ledger import evidence, results, terminal
from llm_spec.ledger.evidence import Exhibits
from llm_spec.report import destination


def keep_numbers_as_they_are(monkeypatch):
    monkeypatch.setattr(evidence, "plain", lambda value: value)


@pytest.mark.claim(id="0.5", falsifier=keep_numbers_as_they_are)
def test_every_exhibit_survives_json(exhibit):
    """NaN and infinity become null; arrays become lists; half a surrogate pair stays text."""
    recorded = []
    recorder = Exhibits(lambda name, value: recorded.append(value), "-", pytest.skip)
    recorder.bars({"a": float("nan"), "b": float("inf"), "c": 0.5}, title="\ud83d", axis="x")
    try:
        text = results.to_json(recorded[0])
        came_back = json.loads(text) == recorded[0] and recorded[0]["values"] == [None, None, 0.5]
    except ValueError:
        came_back = False
    exhibit.text(str(came_back), title="came back equal")

    says = exhibit.measured("the exhibit came back from JSON", came_back, should_be=True)

    assert came_back, says


def write_in_place(monkeypatch):
    def overwrite(path, text):
        with path.open("w") as file:
            file.write(text[:1])
            file.flush()
            os.fsync(file.fileno())

    monkeypatch.setattr(destination, "write_atomically", overwrite)


@pytest.mark.claim(id="0.6", falsifier=write_in_place)
def test_a_report_is_replaced_whole_or_not_at_all(exhibit, tmp_path, monkeypatch):
    """The disk fills up while the new report is written: the old one stays, and no litter."""
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
    assert json.loads(report.read_text()) == {"new": True}, "a report was not replaced"


def trust_the_vocabulary(monkeypatch):
    monkeypatch.setattr(terminal, "visible", lambda text: text)


@pytest.mark.claim(id="0.7", falsifier=trust_the_vocabulary)
def test_text_from_a_vocabulary_cannot_command_the_terminal(exhibit):
    """Escape sequences, bells and direction marks are written out, and markup is only text."""
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
    assert not unmarked, f"kinds that take text for markup = {unmarked}, but should be none"
