"""What a model reads and says: tokens, predictions, generation, lens, neighbours."""

from itertools import cycle, pairwise
from math import exp

from rich.console import Group
from rich.text import Text

from llm_spec.ledger.kinds.kind import Exhibit, Kind, string, strings
from llm_spec.ledger.kinds.plots import draw_bars
from llm_spec.text.untrusted import visible

PIECE_STYLES = ("black on bright_cyan", "black on bright_yellow", "black on bright_green",
                "black on bright_magenta")  # fmt: skip


def _tokens_fault(exhibit: Exhibit) -> str | None:
    string(exhibit["tokenizer"])
    for each in exhibit["strings"]:
        string(each["text"])
        strings(each["pieces"])
        if len(each["pieces"]) != len(each["ids"]):
            return "has not as many pieces as ids"
    return None


def _predictions_fault(exhibit: Exhibit) -> str | None:
    string(exhibit["prompt"])
    strings(exhibit["tokens"])
    logits = exhibit["logits"]
    tail = exhibit.get("tail") or {"logits": [], "counts": []}
    for values in (logits, tail["logits"], tail["counts"]):
        if any(not isinstance(value, int | float) for value in values):
            return "has a token without a logit"
    if len(logits) != len(exhibit["tokens"]) or len(tail["logits"]) != len(tail["counts"]):
        return "has not as many logits as tokens"
    if not logits:
        return "predicts nothing"
    if any(later > earlier for earlier, later in pairwise(logits)):
        return "is not in descending order of logits"
    return None


def _lens_fault(exhibit: Exhibit) -> str | None:
    strings(exhibit["tokens"])
    strings(exhibit["layers"])
    if len(exhibit["top"]) != len(exhibit["layers"]):
        return "has not one row a layer"
    for row in exhibit["top"]:
        if len(row) != len(exhibit["tokens"]):
            return "has not one column a position"
        for cell in row:
            string(cell["token"])
            cell["probability"] + 0
    return None


def _generation_fault(exhibit: Exhibit) -> str | None:
    string(exhibit["prompt"])
    for step in exhibit["steps"]:
        string(step["token"])
        step["probability"] + 0
        for other in step.get("runners_up") or []:
            string(other["token"])
            other["probability"] + 0
    return None


def _neighbours_fault(exhibit: Exhibit) -> str | None:
    for word in exhibit["words"]:
        string(word["word"])
        for neighbour in word["neighbours"]:
            string(neighbour["token"])
            neighbour["similarity"] + 0
    return None


def _draw_tokens(content: Exhibit) -> Group:
    lines = []
    for each in content["strings"]:
        line = Text("  ")
        cuts = zip(each["pieces"], each["ids"], each["bytes"], strict=True)
        for (piece, id_, data), style in zip(cuts, cycle(PIECE_STYLES)):
            whole = visible(piece) if "\ufffd" not in piece else f"‹{data.upper()}›"
            line.append(whole, style=style).append(f" {id_} ", style="dim")
        lines.append(line)
    return Group(Text(f"  tokenizer: {visible(content['tokenizer'])}", style="dim"), *lines)


def _draw_predictions(content: Exhibit) -> Group:
    tail = content["tail"]
    top = max(content["logits"])
    weights = [exp(logit - top) for logit in content["logits"]]
    rest = sum(
        n * exp(logit - top) for logit, n in zip(tail["logits"], tail["counts"], strict=True)
    )
    total = sum(weights) + rest
    shares = {token: weight / total for token, weight in zip(content["tokens"], weights)}
    first = dict(list(shares.items())[:10])
    bars = {"labels": list(first), "values": list(first.values()), "axis": "probability"}
    return Group(Text(f"  {visible(content['prompt'])} …"), draw_bars(bars))


def _draw_generation(content: Exhibit) -> Text:
    line = Text(f"  {visible(content['prompt'])}", style="dim")
    for step, style in zip(content["steps"], cycle(PIECE_STYLES)):
        line.append(visible(step["token"]), style=style)
        line.append(f" {step['probability']:.0%} ", style="dim")
    return line


KINDS = (
    Kind("tokens", _tokens_fault, _draw_tokens, "tokens", own_panel=True, shape="tokens"),
    Kind("neighbours", _neighbours_fault, section="embeddings", own_panel=True),
    Kind("predictions", _predictions_fault, _draw_predictions, "predictions", True, own_panel=True),
    Kind("lens", _lens_fault, section="residual", own_panel=True),
    Kind("generation", _generation_fault, _draw_generation, "generation", True, own_panel=True),
)
