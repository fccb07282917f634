"""What a model costs on a machine, and what it does for that."""

from llm_spec.ledger.kinds.kind import Exhibit, Kind, numbers, string


def _roofline_fault(exhibit: Exhibit) -> str | None:
    if exhibit["bandwidth"] <= 0 or exhibit["flops"] <= 0:
        return "has a ceiling of nothing"
    for point in exhibit["points"]:
        string(point["name"])
        if point["intensity"] <= 0 or point["flops"] <= 0:
            return "has a point that did no work"
    return None


def _memory_fault(exhibit: Exhibit) -> str | None:
    for row in exhibit["rows"]:
        string(row["name"])
        numbers([row["predicted"], row["measured"]])
    return None


def _fit_fault(exhibit: Exhibit) -> str | None:
    contexts = exhibit["contexts"]
    for model in exhibit["models"]:
        string(model["name"])
        numbers([model["weights_bytes"], model["read_bytes"], *model["kv_bytes"]])
        if len(model["kv_bytes"]) != len(contexts):
            return "has not one size of the cache a context"
    return None


def _ladder_fault(exhibit: Exhibit) -> str | None:
    for rung in exhibit["rungs"]:
        string(rung["name"])
        if rung["bytes"] <= 0:
            return "has a rung without bytes"
    return None


def _candidates_fault(exhibit: Exhibit) -> str | None:
    for candidate in exhibit["candidates"]:
        string(candidate["name"])
        for criterion in candidate.get("criteria") or []:
            string(criterion["name"])
            if not 0 <= criterion["passed"] <= criterion["tried"]:
                return "passed a criterion more often than it was tried"
        for output in candidate.get("outputs") or []:
            string(output["task"], output["text"])
    return None


KINDS = (
    Kind("fit", _fit_fault, section="memory", script=True, own_panel=True),
    Kind("roofline", _roofline_fault, section="speed", script=True),
    Kind("memory", _memory_fault, section="memory", script=True),
    Kind("ladder", _ladder_fault, section="quantisation", script=True),
    Kind("candidates", _candidates_fault, section="assistant", own_panel=True),
    Kind("assistant", _candidates_fault, section="assistant", own_panel=True),
)
