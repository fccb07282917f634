"""Candidates side by side in the terminal: a column each, as a card, and their replies."""

from collections.abc import Callable, Sequence

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from llm_spec.numerics.units import show_bytes
from llm_spec.quality.selection import Candidate
from llm_spec.text.untrusted import visible

UNKNOWN = "not stated"


def show(candidates: Sequence[Candidate], tokens: int, replies: bool) -> None:
    """Print a card per model, the best first, and what the controls did; with `replies`, the first
    reply of each model to each job, beside each other."""
    console = Console(highlight=False, markup=False, emoji=False)
    ordered = sorted(candidates, key=lambda each: (each.control, -each.rate))
    models = [each for each in ordered if not each.control]
    console.print(_cards(models, tokens))
    if controls := [each for each in ordered if each.control]:
        names = ", ".join(visible(each.name) for each in controls)
        done = f"{sum(each.passed for each in controls)} of {sum(each.tried for each in controls)}"
        console.print(f"Controls ({names}) did {done} jobs.")
    jobs = list(dict.fromkeys(job for each in models for job, _ in each.replies))
    for job in jobs if replies else ():
        console.print(Text(visible(job), style="bold"))
        width = max(24, console.width // max(1, len(models)) - 1)
        console.print(Columns([_reply(each, job, width) for each in models]))


def _reply(each: Candidate, job: str, width: int) -> Panel:
    said = Text(visible(dict(each.replies).get(job, ""), lines=True))
    return Panel(said, title=Text(visible(each.name)), width=width)


def _cards(candidates: Sequence[Candidate], tokens: int) -> Table:
    rows: dict[str, Callable[[Candidate], str]] = {
        "jobs done": lambda each: f"{each.passed} of {each.tried}",
        "95 % interval": lambda each: f"{each.low:.0%} to {each.high:.0%}",
        "first token": lambda each: _with(each.first_token_s, lambda s: f"{s:.2g} s"),
        "tokens/s": lambda each: _with(each.tokens_per_s, lambda s: f"{s:.1f}"),
        f"{tokens} tokens in": lambda each: _with(each.reply_s, lambda s: f"{s:.1f} s"),
        "weights": lambda each: _with(each.n_bytes, show_bytes),
        "peak memory": lambda each: _with(each.peak_bytes, show_bytes),
        "fits": lambda each: "yes" if each.fits else "no",
        "context": lambda each: f"{each.context:,} tokens" if each.context else UNKNOWN,
        "languages": lambda each: ", ".join(each.languages) or UNKNOWN,
        "licence": lambda each: each.licence or UNKNOWN,
    }
    table = Table("")
    for each in candidates:
        table.add_column(Text(visible(each.name)), overflow="fold")
    for name, cell in rows.items():
        table.add_row(name, *(Text(visible(cell(each))) for each in candidates))
    return table


def _with(value: float | None, show: Callable[[float], str]) -> str:
    return "-" if value is None else show(value)
