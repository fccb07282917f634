"""What a spec saw, recorded before its verdict.

An exhibit is a dict (see `ledger/kinds`). `Exhibits` builds such dicts and hands each, as a record,
to one callable; who keeps them is not its business. Numbers that are not finite become null on
their way (`records.plain`): a NaN is a finding of the spec, not of the file format.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from llm_spec.ledger.kinds import KINDS
from llm_spec.ledger.records import Fault, Inconclusive, Measured, Mended, Noise, Record, Shown
from llm_spec.numerics.units import show_value

PARTS = "where it parts from another implementation"
"""Title of a table with a row per setting on which a model parts from another implementation of it:
the page opens it from the model's row."""


class Exhibits:
    """Records for one run of one spec.

    Args:
        record: called with each thing recorded.
        subject: the name of the model under test, for messages.
        skip: called with a reason when the evidence allows no verdict; must raise.
    """

    def __init__(
        self,
        record: Callable[[Record], None],
        subject: str,
        skip: Callable[[str], NoReturn],
    ) -> None:
        self._record = record
        self._skip = skip
        self.subject = subject

    def measured(
        self, what: str, value: object, should_be: object, bound: float | None = None
    ) -> str:
        """Record what was measured against what the claim expects; return the failure message.

        `bound` is the most that a number may be: how near it came is told at the end of a run.

        >>> exhibits.measured("largest weight on a later token", 0.43, should_be="0")
        'largest weight on a later token = 0.43, but should be 0 [smollm2-135m]'
        """
        number = show_value(value.removesuffix(".") if isinstance(value, str) else value)
        expected = show_value(should_be)
        self._record(Measured(f"{what} = {number}", expected, _finite(value), _finite(bound)))
        return f"{what} = {number}, but should be {expected} [{self.subject}]"

    def inconclusive(self, reason: str) -> NoReturn:
        """The evidence lies inside the measured noise: neither verified nor refuted."""
        self._record(Inconclusive(reason))
        self._skip(f"inconclusive: {reason}")

    def mended(self, says: str) -> None:
        """A documented fault does not show any more, in a release newer than those known."""
        self._record(Mended(says))

    def noise(self, of: str, value: float) -> None:
        """A noise floor: how far repeats of one thing lie apart here, as a share of it."""
        self._record(Noise(of, _finite(value)))

    def fault(self, spec: Callable[..., object], red: bool) -> None:
        """A fault was planted under `spec`, which did (`red`) or did not notice."""
        self._record(Fault(spec.__name__, red))

    def add(self, kind: str, title: str, **content: object) -> None:
        """Record an exhibit of any kind in `KINDS`."""
        if kind not in KINDS:
            raise ValueError(f"no exhibit is called {kind!r}; there are {', '.join(KINDS)}")
        self._record(Shown({"kind": kind, "title": title, **content}))

    def text(self, text: str, title: str) -> None:
        self.add("text", title, text=text)

    def table(self, rows: Sequence[Sequence[object]], columns: Sequence[str], title: str) -> None:
        """Columns name their unit: `bytes`, `share (%)`."""
        self.add("table", title, columns=columns, rows=rows)

    def bars(self, values: Mapping[str, float], title: str, axis: str) -> None:
        """One bar a label; `axis` names the quantity and its unit."""
        self.add("bars", title, labels=list(values), values=list(values.values()), axis=axis)

    def heatmap(
        self,
        values: Any,
        rows: Sequence[str],
        columns: Sequence[str],
        title: str,
        row_axis: str = "from",
        column_axis: str = "to",
        unit: str = "weight",
    ) -> None:
        """`values`: (rows, columns), an array or nested sequences."""
        self.add(
            "heatmap", title, values=values, rows=rows, columns=columns,
            row_axis=row_axis, column_axis=column_axis, unit=unit,
        )  # fmt: skip

    def curve(
        self,
        x: Sequence[float],
        series: Mapping[str, Sequence[float]],
        title: str,
        x_axis: str,
        y_axis: str,
    ) -> None:
        """Lines over a common x; the axes name quantity and unit."""
        self.add("curve", title, x=x, series=dict(series), x_axis=x_axis, y_axis=y_axis)

    def tokens(self, strings: Sequence[Mapping[str, object]], tokenizer: str, title: str) -> None:
        """Strings cut into pieces: `text`, `ids`, `pieces`, and `bytes` (hex, one per piece)."""
        self.add("tokens", title, tokenizer=tokenizer, strings=strings)


def _finite(value: object) -> float | None:
    """`value` as a number, if it is one and finite: also a scalar of NumPy or MLX."""
    is_scalar = getattr(value, "shape", None) == ()
    scalar = value.item() if is_scalar and hasattr(value, "item") else value
    if isinstance(scalar, bool) or not isinstance(scalar, (int, float)):
        return None
    return scalar if math.isfinite(scalar) else None
