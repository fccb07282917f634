"""Which claims, panels and pictures belong to which section of the report."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_spec.ledger.kinds import KINDS
from llm_spec.report.entries import Entry
from llm_spec.report.payload import cost
from llm_spec.report.sanitise import clean
from llm_spec.text.untrusted import visible

Exhibit = dict[str, Any]

HOME = {kind.name: kind.section for kind in KINDS.values() if kind.section}
"""Kinds that are drawn as a panel of a section, whichever claim recorded them."""
PICTURES = {kind.name: kind.rank for kind in KINDS.values() if kind.rank is not None}
"""Kinds that are pictures though no panel; of those beside claims, the first are unfolded."""

MOST_SUBJECTS = 8
"""Of how many subjects the evidence for one claim is on the page; the results hold all."""


@dataclass
class Shown:
    """An exhibit on the page: whose it is, and the claims that recorded it."""

    exhibit: Exhibit
    subject: str
    claims: list[str]
    key: str = ""
    """Its name among what the scripts read; empty where no script draws it."""
    price: int = 0
    """About how many bytes it adds to the file."""

    @property
    def kind(self) -> str:
        return str(self.exhibit["kind"])


@dataclass
class Section:
    """One numbered part of the page."""

    id: str
    title: str
    lede: str
    entries: list[Entry] = field(default_factory=list)
    panels: dict[str, list[Shown]] = field(default_factory=dict)
    """By kind; in each, subjects in the order of the results."""
    evidence: dict[str, list[Shown]] = field(default_factory=dict)
    """By claim: what it alone recorded."""

    def panel(self, *kinds: str) -> dict[str, list[Shown]]:
        """Exhibits of these kinds by subject."""
        grouped: dict[str, list[Shown]] = {}
        for kind in kinds:
            for item in self.panels.get(kind, ()):
                grouped.setdefault(item.subject, []).append(item)
        return grouped

    @property
    def plain_panels(self) -> list[str]:
        """Kinds whose panel is a drawing and nothing more, in the order of their table."""
        return [kind for kind in KINDS if kind in self.panels and not KINDS[kind].own_panel]

    @property
    def short(self) -> str:
        """Its name in the row of contents."""
        return {"method": "Method"}.get(self.id, self.title)

    @property
    def pictured(self) -> dict[str, dict[str, list[Shown]]]:
        """By claim, then by subject: the pictures that stand above the section's claims."""
        pictures: dict[str, dict[str, list[Shown]]] = {}
        for claim, items in self.evidence.items():
            for item in items:
                if item.kind in PICTURES:
                    pictures.setdefault(claim, {}).setdefault(item.subject, []).append(item)
        rank = {
            claim: min(PICTURES[item.kind] for items in found.values() for item in items)
            for claim, found in pictures.items()
        }
        first = sorted(pictures, key=lambda claim: rank[claim])[: MOST_PICTURES.get(self.id, 2)]
        return {claim: found for claim, found in pictures.items() if claim in first}

    @property
    def folded(self) -> dict[str, list[Shown]]:
        """By claim: the evidence folded beside it, which is all but the pictures above."""
        above = self.pictured
        return {
            claim: [item for item in items if claim not in above or item.kind not in PICTURES]
            for claim, items in self.evidence.items()
        }


MOST_PICTURES = {"embeddings": 4, "residual": 4, "cache": 4, "laws": 0, "method": 0}
"""Of how many claims a section shows the pictures above its claims, where that is not 2."""
EXPERIMENTS = {
    "0": "method", "1": "generation", "2": "tokens", "3": "embeddings", "4": "weights",
    "5": "attention", "6": "predictions", "7": "speed", "8": "quantisation", "9": "laws",
    "10": "laws", "11": "laws", "12": "laws", "13": "backends",
}  # fmt: skip
FROM = (("1", 20, "cache"), ("7", 20, "assistant"), ("7", 10, "memory"))
"""Experiments that are several things: from this number on, their claims stand elsewhere."""
ELSEWHERE = {"1.40": "generation", "3.4": "residual", "3.5": "residual", "5.14": "residual"}
TEXTS = (
    (
        "tokens",
        "Tokens",
        "A model does not read letters or words but tokens: pieces of text, each with a number. "
        "Each model splits the same text in its own way.",
    ),
    (
        "embeddings",
        "Embeddings",
        "Each token's id selects one row of the embedding table, whatever tokens surround it.",
    ),
    (
        "weights",
        "Weights",
        "How many weights each part of the model has, and how many bytes they take as stored.",
    ),
    (
        "attention",
        "Attention",
        "Each row is a token that attends to earlier ones: the darker a cell, the more it takes "
        "from the token of that column. A map is shown only if it reproduces its layer's output.",
    ),
    (
        "residual",
        "Residual stream",
        "What each layer passes to the next: how far context has moved a token's hidden state, and "
        "which token the model would predict if it stopped there.",
    ),
    (
        "predictions",
        "Probabilities",
        "How likely each token of the vocabulary is to come next. "
        "The sliders apply the sampler's filters in the sampler's order.",
    ),
    (
        "generation",
        "Generation",
        "The same forward pass, again and again: predict, pick, append. "
        "The fainter a token, the lower its probability.",
    ),
    (
        "cache",
        "KV cache",
        "The keys and values of earlier tokens are kept, so each new token costs one decode step.",
    ),
    (
        "speed",
        "Speed",
        "Tokens per second, and the share of what this machine's bandwidth and arithmetic allow.",
    ),
    (
        "memory",
        "Memory",
        "Memory of weights and KV caches, predicted and measured; and what fits in your machine.",
    ),
    (
        "backends",
        "Backends",
        "The same computation on this GPU and on the CPU, and both against float64: random "
        "numbers, packed weights, rotary embeddings, sums.",
    ),
    (
        "quantisation",
        "Quantisation",
        "What fewer bits per weight cost, measured on the same text against the highest precision.",
    ),
    (
        "assistant",
        "Assistant",
        "The plan's jobs done by each candidate, judged by criteria that a program can check.",
    ),
    (
        "laws",
        "Any model",
        "What must hold for every model directory, wherever it comes from.",
    ),
    (
        "method",
        "How this was measured",
        "Versions, device, seeds and tolerances; and whether the checks themselves can fail.",
    ),
)
"""Id, title, and what it is about: in the order of a forward pass, then what a model costs."""


def gather(claims: Iterable[Mapping[str, Any]]) -> list[Shown]:
    """All exhibits, cleaned; what several claims recorded alike on one subject, once."""
    found: dict[tuple[str, str], Shown] = {}
    for claim in claims:
        name, subject = visible(claim["id"], 40), visible(claim["subject"], 120)
        for raw in claim["exhibits"]:
            exhibit = clean(raw)
            item = found.setdefault(
                (subject, json.dumps(exhibit, sort_keys=True)), Shown(exhibit, subject, [])
            )
            if name not in item.claims:
                item.claims.append(name)
    for number, item in enumerate(found.values()):
        by_script = item.kind in KINDS and KINDS[item.kind].script
        item.key = f"x{number}" if by_script else ""
        item.price = cost(item.exhibit, by_script or item.kind not in HOME)
    return list(found.values())


def telling(items: Sequence[Shown], ledger: Iterable[Entry]) -> list[Shown]:
    """`items` without the evidence for a claim on ever more subjects: a few of them stay, first
    those on which it is refuted."""
    recorded: dict[str, set[str]] = {}
    for item in items:
        for claim in item.claims:
            recorded.setdefault(claim, set()).add(item.subject)
    kept: dict[str, set[str]] = {}
    for entry in ledger:
        worst_first = [result.subject for _, results in entry.tallies for result in results]
        shown_of = [s for s in worst_first if s in recorded.get(entry.id, ())]
        kept[entry.id] = set(shown_of[:MOST_SUBJECTS])
    return [
        item
        for item in items
        if item.kind in HOME or any(item.subject in kept[claim] for claim in item.claims)
    ]


def main_subject(items: Iterable[Shown]) -> str | None:
    """The subject of which most can be seen; it is shown first and kept longest."""
    return next(iter(_by_interest(items)), None)


def _by_interest(items: Iterable[Shown]) -> list[str]:
    kinds: dict[str, set[str]] = {}
    for item in items:
        kinds.setdefault(item.subject, set()).update({item.kind} & HOME.keys())
    return sorted(kinds, key=lambda subject: -len(kinds[subject]))


def affordable(items: Sequence[Shown], budget: float) -> list[Shown]:
    """Those of `items` that add about `budget` bytes or less: first the main subject's, then the
    panels of all others, then their evidence."""
    rank = {subject: at for at, subject in enumerate(_by_interest(items))}
    kept, spent = set(), 0

    def first_of_all(item: Shown) -> tuple[bool, int]:
        return rank[item.subject] > 0 and item.kind not in HOME, rank[item.subject]

    for item in sorted(items, key=first_of_all):
        if spent + item.price <= budget:
            spent += item.price
            kept.add(id(item))
    return [item for item in items if id(item) in kept]


def arrange(items: Iterable[Shown], ledger: Iterable[Entry]) -> list[Section]:
    """The sections, filled with claims and exhibits."""
    parts = [Section(*text) for text in TEXTS]
    by_id = {part.id: part for part in parts}
    for item in items:
        if item.kind in HOME:
            by_id[HOME[item.kind]].panels.setdefault(item.kind, []).append(item)
            continue
        for claim in item.claims:
            by_id[section_of(claim)].evidence.setdefault(claim, []).append(item)
    for entry in ledger:
        by_id[section_of(entry.id)].entries.append(entry)
    return parts


def section_of(claim_id: str) -> str:
    """The section in which a claim stands; one of an unknown experiment stands with the method."""
    experiment, _, number = claim_id.partition(".")
    if claim_id in ELSEWHERE:
        return ELSEWHERE[claim_id]
    for of, first, section in FROM:
        if experiment == of and number.isdecimal() and int(number) >= first:
            return section
    return EXPERIMENTS.get(experiment, "method")


def script_data(parts: Iterable[Section]) -> dict[str, Exhibit]:
    """Every exhibit that a script draws, by key."""
    items = [i for part in parts for shown in part.panels.values() for i in shown]
    items += [i for part in parts for shown in part.evidence.values() for i in shown]
    return {item.key: item.exhibit for item in items if item.key}
