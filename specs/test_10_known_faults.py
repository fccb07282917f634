"""Experiment 10: where mlx_lm.server answers otherwise than the model, as expected failures.

Each states the value that it expects, and is green with a server that is repaired. A fault is a
wire to the repaired server that lies.
"""

import asyncio
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from fixtures.doubles.lying_wire import LyingWire, of_choice, without
from fixtures.models import known_breakage
from fixtures.models.known_breakage import KnownBreakage
from llm_spec.numerics import device
from llm_spec.serving.client import COMPLETIONS, NotAnAnswer
from llm_spec.text.untrusted import one_line

PROMPT, TOKENS = "the cat sat on the mat", 8
LIMIT = 11  # top_logprobs that mlx_lm.server allows at most


def mend(served, mended_server):
    return {"served": served.by(mended_server)}


def name_the_first_of_the_others(served):
    def first(choice):
        entries = choice.get("logprobs", {}).get("content", [])
        content = [{**entry, "id": entry["id"] + 1} for entry in entries]
        return {**choice, "logprobs": {"content": content}}

    return {"served": served.through(LyingWire(answer=of_choice(first)))}


@pytest.mark.xfail(
    device.kind() != "cuda", strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 gives each entry the id and logprob of the first of its top_logprobs, "
    "which are in no order (on CUDA in order: MLX's argpartition sorts there)",
)  # fmt: skip
@pytest.mark.claim(id="10.15", falsifier=name_the_first_of_the_others, mended=mend)
def test_logprobs_are_of_the_emitted_token_whatever_top_logprobs_is(served, exhibit):
    """Of 8 tokens, how many entries name the emitted one, for 1 to 11 top_logprobs."""
    said = served.library(served.encode(PROMPT), TOKENS)
    right = {}
    for n in range(1, LIMIT + 1):
        answer = served.client.complete(PROMPT, max_tokens=TOKENS, logprobs=True, top_logprobs=n)
        right[n] = sum(a == b for a, b in zip(answer.ids, said.ids, strict=True))
        for entry, step in zip(answer.tokens, said.logprobs, strict=True):
            best = sorted(step, reverse=True)[n - 1]
            assert len(entry["top_logprobs"]) == n, (
                f"top_logprobs of an entry are not the {n} requested"
            )
            assert min(step[e["id"]] for e in entry["top_logprobs"]) >= best, (
                "an entry's top_logprobs are not the most likely tokens"
            )
    exhibit.bars({str(n): right[n] for n in right}, "entries of the emitted token", "entries")

    wrong = [n for n in right if right[n] < TOKENS]
    says = exhibit.measured("top_logprobs with entries of other tokens", wrong, should_be=[])
    known_breakage.hold(not wrong, says, known=bool(wrong) and min(wrong) > 1)


def ignore_stop_strings(served):
    return {"served": served.through(LyingWire(ask=without("stop")))}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 cuts a stop string out of the text and goes on where other tokens write "
    "it than those that it is encoded to",
)  # fmt: skip
@pytest.mark.claim(id="10.16", falsifier=ignore_stop_strings, mended=mend)
def test_a_stop_string_ends_the_answer_whatever_tokens_write_it(served, exhibit):
    """A bias repeats one token; the stop string is the end of it and its beginning."""
    pieces = {id_: served.tokenizer.decode([id_]) for id_ in served.encode("Ru the")}
    id_ = max(pieces, key=lambda each: len(pieces[each].strip()))
    piece = pieces[id_].strip()
    ids = [id_] * TOKENS
    whole = served.library(
        served.encode("a"), TOKENS, processors={"logit_bias": {id_: 1000.0}}
    )  # fmt: skip
    stop = whole.text[len(piece) - 1 : len(piece) + 1]
    answer = served.client.complete(
        "a", max_tokens=TOKENS, stop=stop, logit_bias={id_: 1000.0}
    )  # fmt: skip
    got = (answer.text, answer.finish_reason)
    should = (whole.text.partition(stop)[0], "stop")
    exhibit.table(
        [[whole.text, stop, *got]],
        columns=["text without a stop", "stop string", "served", "finish_reason"], title="stop",
    )  # fmt: skip
    says = exhibit.measured("text and finish_reason", got, should_be=should)

    assert len(piece) > 1, f"characters of {piece!r} = 1, but should be more"
    assert whole.ids == ids, "the logit bias does not make the model repeat one token"
    is_known = answer.finish_reason == "length" and stop[0] in answer.text
    known_breakage.hold(got == should, says, known=is_known and answer.counted[1] == TOKENS)


def list_nothing(served):
    emptied = LyingWire(answer=lambda body: {**body, "data": []})
    return {"served": served.through(emptied)}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 gives status 200 and no body while the hub's cache folder does not exist",
)  # fmt: skip
@pytest.mark.claim(id="10.17", falsifier=list_nothing, mended=mend)
def test_the_served_model_is_listed_where_no_hub_was_ever_used(served, exhibit):
    """GET /v1/models; the hub's cache folder does not exist."""
    try:
        listed = [model["id"] for model in served.client.get("/v1/models").body["data"]]
    except NotAnAnswer as problem:
        listed = str(problem)
    exhibit.text(one_line(str(listed)), "/v1/models")

    says = exhibit.measured("models listed", one_line(str(listed)), should_be="the served one")

    is_listed = listed == [str(served.path.resolve())]
    is_known = listed == "status 200 and no JSON object: nothing."
    known_breakage.hold(is_listed, says, known=is_known)


def penalise_nothing(served):
    return {"served": served.through(LyingWire(ask=without("repetition_penalty")))}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 shows logits processors the tokens after the cached prefix alone when a "
    "request has a seed",
)  # fmt: skip
@pytest.mark.claim(id="10.18", falsifier=penalise_nothing, mended=mend)
def test_penalties_see_a_prompt_that_comes_out_of_the_cache(served, exhibit):
    """One greedy request with a seed and a repetition penalty, sent twice."""
    prompt, n = "a b a b a b", 2 * TOKENS
    body = {"max_tokens": n, "seed": 1, "repetition_penalty": 1.8}
    texts = [served.client.complete(prompt, **body).text for _ in range(2)]
    penalty = {"repetition_penalty": 1.8}
    said = served.library(served.encode(prompt), n, seed=1, processors=penalty).text
    ids = served.encode(prompt)
    without_the_prompt = served.library(
        ids, n, seed=1, processors=penalty, seen_from=len(ids) - 1
    ).text
    exhibit.table(
        [[text, said] for text in texts], columns=["served", "library"], title="sent twice"
    )

    says = exhibit.measured("second answer", texts[1], should_be=said)

    known_breakage.hold(texts[1] == said, says, known=texts[1] == without_the_prompt)


def refuse_nothing(served):
    wire = LyingWire(answer=lambda body: {} if "error" in body else body)
    return {"served": served.through(wire)}


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 closes the connection without an answer on a body that is not UTF-8",
)  # fmt: skip
@pytest.mark.claim(id="10.19", falsifier=refuse_nothing, mended=mend)
def test_a_body_that_is_not_utf_8_is_refused_in_json(served, exhibit):
    """One byte that begins no character."""
    try:
        answer = served.client.post(COMPLETIONS, b"\xff")
        got = f"status {answer.status}, {'an' if answer.body.get('error') else 'no'} error"
    except NotAnAnswer as problem:
        got = str(problem)
    exhibit.text(got, "answer")

    says = exhibit.measured("answer", got, should_be="status 400, an error")

    is_known = got.startswith("no answer to POST")
    known_breakage.hold(got == "status 400, an error", says, known=is_known)


CLIENTS = 64
RETRY = 1.0  # seconds after which TCP asks again for a connection that was dropped (RFC 6298)
FEW = 0.05  # the share of clients that a busy machine may make wait
HEALTH = b"GET /health HTTP/1.0\r\n\r\n"  # nothing is generated: this is about the door


async def come_at_once(host, port):
    """How many of the clients get an answer, how many none within `RETRY`, and how many a reset."""

    async def ask():
        reader, writer = await asyncio.open_connection(host, port)
        with closing(writer.transport):
            writer.write(HEALTH)
            return b" 200 " in await reader.read()

    tries = [asyncio.wait_for(ask(), RETRY) for _ in range(CLIENTS)]
    ends = await asyncio.gather(*tries, return_exceptions=True)
    late = sum(isinstance(end, TimeoutError) for end in ends)
    answered = sum(end is True for end in ends)
    return {"answered": answered, "late": late, "reset": CLIENTS - answered - late}


def let_nobody_in(served, monkeypatch):
    monkeypatch.setattr(f"{__name__}.HEALTH", HEALTH[:-1])  # the request never ends


@pytest.mark.xfail(
    strict=True, raises=KnownBreakage,
    reason="mlx-lm 0.32.2 leaves the queue of its socket at Python's five connections: the others "
    "of a crowd are dropped until they ask again, or reset",
)  # fmt: skip
@pytest.mark.claim(id="10.62", falsifier=let_nobody_in, mended=mend)
def test_64_clients_that_come_at_once_are_let_in_at_once(served, exhibit):
    """GET /health over 64 connections that are opened together."""
    address = urlsplit(served.server.url)
    ends = asyncio.run(come_at_once(address.hostname, address.port))
    exhibit.bars(ends, "64 clients at once", "clients")
    share = 1 - ends["answered"] / CLIENTS

    says = exhibit.measured("share that was late or reset", share, should_be=f"at most {FEW}")

    known_breakage.hold(share <= FEW, says, known=ends["answered"] > 0)
