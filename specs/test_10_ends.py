"""Experiment 10: where an answer of mlx_lm.server ends: stop strings, and usage after a stream.

A fault is a wire between client and server that lies.
"""

import pytest

from fixtures.doubles.lying_wire import LyingWire, counted_twice, without
from llm_spec.serving.client import COMPLETIONS

PROMPTS, TOKENS = ("one two three four five six seven", "the cat sat on the mat"), 12


def stops_of(served, ids):
    """Stop strings that the answer of `ids` holds in the tokens to which each is encoded: what they
    are, and the strings."""
    encode, decode = served.tokenizer.encode, served.tokenizer.decode

    def written(first, last):
        """The text of some tokens, where it is encoded to them and stands in no text before, which
        does not end as it begins either: claim 10.58."""
        text, before = decode(ids[first:last]), decode(ids[:first])
        is_so = encode(text, add_special_tokens=False) == ids[first:last] and text.strip()
        is_first = text not in decode(ids[: last - 1])
        starts = any(before.endswith(text[:size]) for size in range(1, len(text)))
        return text if is_so and is_first and not starts else None

    places = [place for place in range(2, len(ids) - 4) if written(place, place + 3)]
    assert places, f"no three tokens of {decode(ids)!r} are what their text is encoded to"
    at = places[0]
    return {
        "across three tokens": [written(at, at + 3)],
        "at the start": [decode(ids[:1])],
        "one begins the other": [written(at, at + 3), decode(ids[at : at + 5])],
        "begins and goes on otherwise": [decode(ids[at : at + 2]) + "\n#\n"],
        "not there": ["\n#\n"],
    }


def ignore_stop_strings(served):
    return {"served": served.through(LyingWire(ask=without("stop")))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.55", falsifier=ignore_stop_strings)
def test_a_stop_string_ends_the_answer_before_it(served, exhibit):
    """Whole and streamed, each with its finish_reason. The model writes the very tokens to which a
    string is encoded: other ones are claim 10.16."""
    rows = []
    prompt = PROMPTS[0]
    asked = served.encode(prompt)
    said = served.library(asked, TOKENS)
    whole = served.tokenizer.decode(said.ids)  # with the blank that may stand before the text
    for what, stop in stops_of(served, said.ids).items():
        found = [whole.index(each) for each in stop if each in whole]
        text = whole[: min(found, default=len(whole))]
        right = text[len(whole) - len(said.text) :]
        body = {"prompt": prompt, "max_tokens": TOKENS, "stop": stop}
        answer = served.client.complete(**body)
        pieces = [c["choices"][0] for c in served.client.pieces(COMPLETIONS, body) if c["choices"]]
        right += f" ({'stop' if found else 'length'})"
        streamed = "".join(piece["text"] for piece in pieces)
        rows += [
            (f"{what}: {stop}", f"{answer.text} ({answer.finish_reason})", right),
            (f"{what}, streamed", f"{streamed} ({pieces[-1]['finish_reason']})", right),
        ]
    served.hold(exhibit, rows, "texts before a stop string")


def count_the_answer_twice(served):
    return {"served": served.through(LyingWire(answer=counted_twice))}


@pytest.mark.protocol
@pytest.mark.claim(id="10.56", falsifier=count_the_answer_twice)
def test_a_stream_ends_in_its_usage_where_that_is_asked_for(served, exhibit):
    """The last chunk of a stream with and without include_usage."""
    rows, unasked = [], []
    for prompt, n in zip(PROMPTS, (3, 7), strict=True):
        body = {"prompt": prompt, "max_tokens": n}
        asked = {**body, "stream_options": {"include_usage": True}}
        usage = served.client.pieces(COMPLETIONS, asked)[-1].get("usage") or {}
        names = ("prompt_tokens", "completion_tokens", "total_tokens")
        ids, out = served.encode(prompt), len(served.library(served.encode(prompt), n).ids)
        rows.append((tuple(map(usage.get, names)), (len(ids), out, len(ids) + out)))
        unasked += [c["usage"] for c in served.client.pieces(COMPLETIONS, body) if c.get("usage")]
    exhibit.table(
        [[str(counted), str(right)] for counted, right in rows],
        columns=["usage (in, out, both)", "tokens of the library"], title="usage of streams",
    )  # fmt: skip
    wrong = [counted for counted, right in rows if counted != right]

    says = exhibit.measured("usage that is wrong", wrong, should_be=[])

    assert not unasked, f"usage that no one asked for: {unasked}"
    assert not wrong, says
