"""What was seen, on a terminal: a screen per text, in parts, as they come to be known. Everything
is `Text`, never markup, and passes `piece` or `visible`: a vocabulary may hold what a terminal
obeys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, groupby

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from llm_spec.look.maps import KINDS, head_kinds
from llm_spec.look.observation import Candidate, Look, parting
from llm_spec.text.untrusted import piece, visible

PIECES = ("black on bright_cyan", "black on bright_yellow", "black on bright_green",
          "black on bright_magenta")  # fmt: skip
LINES = 12
"""Tokens whose embedding has a line of its own; the page has them all."""


def reading(model: str, look: Look) -> RenderableType:
    """What is known once the model has read the text: all but what it generates then."""
    template = " in its chat template" if look.template else ""
    return Group(
        Text(f"{visible(model)} reads {len(look.tokens)} tokens{template}:", style="bold"),
        _pieces([(token.text, str(token.id)) for token in look.tokens]),
        _heading("Embeddings: norm, and the most similar tokens (cosine)"),
        _embeddings(look),
        _heading("Attention: what each head mostly attends to (every map is on the page, -o)"),
        _heads(look),
        _heading("Logit lens: the next token that each layer would predict"),
        _lens(look),
        _heading("Next token"),
        _bars(look.next),
    )


def _heading(words: str) -> Text:
    return Text(f"\n{words}", style="bold cyan")


def _pieces(cuts: Sequence[tuple[str, str]]) -> Text:
    line = Text("  ")
    for (text, note), style in zip(cuts, cycle(PIECES)):
        line.append(piece(text), style=style).append(f" {note} ", style="dim")
    return line


def _embeddings(look: Look) -> RenderableType:
    table = _grid()
    distinct = list({token.id: token for token in look.tokens}.values())
    for token in distinct[:LINES]:
        near = ", ".join(f"{piece(text)} {cosine:.2f}" for text, cosine in token.neighbours[:4])
        table.add_row(Text(piece(token.text)), Text(f"{token.norm:.2f}"), Text(near, style="dim"))
    if len(distinct) > LINES:
        table.add_row(Text(f"and {len(distinct) - LINES} more"))
    return table


def _heads(look: Look) -> RenderableType:
    if look.seen.note:
        return Text(f"  {visible(look.seen.note)}")
    kinds = head_kinds(look.seen)
    most = max((len(heads) for heads in kinds if heads), default=0)
    lines = [Text("  layer  " + "".join(f"{i:<10}" for i in range(0, len(kinds), 10)), style="dim")]
    for head in range(most):
        signs = "".join(
            KINDS[heads[head]][0] if heads and head < len(heads) else " " for heads in kinds
        )
        lines.append(Text(f"  head {head:<2}{signs}"))
    meaning = ", ".join(f"{sign} {name}" for sign, name in KINDS.values())
    lines.append(Text(f"  {meaning}", style="dim"))
    return Group(*lines)


def _lens(look: Look) -> RenderableType:
    table = _grid()
    for first, last, candidate in _runs([row[-1][0] for row in look.lens]):
        layers = f"layer {first}" if first == last else f"layers {first}–{last}"
        sure = f"{candidate.probability:.0%}"
        table.add_row(Text(layers), Text(sure), Text(piece(candidate.token)))
    return table


def _runs(saying: Sequence[Candidate]) -> Iterator[tuple[int, int, Candidate]]:
    """Layers in a row that say the same: first, last, and what the last of them says. The ones
    that come before the last `LINES` runs are left out: there the lens reads noise."""
    runs = [list(run) for _, run in groupby(enumerate(saying), key=lambda each: each[1].id)]
    for run in runs[-LINES:]:
        yield run[0][0], run[-1][0], run[-1][1]


def _bars(candidates: Sequence[Candidate]) -> RenderableType:
    table = _grid()
    for each in candidates:
        bar = "█" * round(40 * each.probability) or "▏"
        table.add_row(
            Text(piece(each.token)), Text(_percent(each.probability)), Text(bar, style="cyan")
        )
    return table


def generated(look: Look) -> RenderableType:
    """The tokens that the model generated, and where it was least certain."""
    if not look.steps:
        return Text()
    unsure = sorted(look.steps, key=lambda step: step.chosen.probability)[:3]
    ended = ", where it ends by itself" if look.ended else ""
    lines = [
        _heading(f"{len(look.steps)} tokens generated greedily{ended}"),
        _pieces([(s.chosen.token, f"{s.chosen.probability:.0%}") for s in look.steps]),
        Text("  Least certain:", style="dim"),
    ]
    for step in unsure:
        options = [step.chosen, *step.runners_up]
        said = ", ".join(f"{piece(o.token)} {_percent(o.probability)}" for o in options)
        lines.append(Text(f"    {said}"))
    return Group(*lines)


def apart(looks: Sequence[Look]) -> RenderableType:
    """How far apart two texts move the tokens that they share."""
    table = _grid()
    shared = parting(looks)
    if not shared:
        return Text("The two texts share no token.")
    for text, distances in shared[:LINES]:
        last = len(distances) - 1
        told = ", ".join(f"{'embedding' if not at else f'layer {at - 1}'} {distances[at]:.2f}"
                         for at in sorted({0, 1, (last + 1) // 2, last}))  # fmt: skip
        table.add_row(Text(piece(text)), Text(), Text(told))
    heading = "Tokens in both texts: how far context moves them apart (distance / norm)"
    return Group(Text(heading, style="bold cyan"), table)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def _grid() -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, min_width=16)
    table.add_column(justify="right", no_wrap=True, min_width=5)
    table.add_column(overflow="ellipsis", no_wrap=True)
    return table
